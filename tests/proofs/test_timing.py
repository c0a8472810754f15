"""The short version of the proof in `timing.py`, with limits that a busy machine keeps."""

from pathlib import Path

import pytest

from .timing import measure, percentile

TIMERS_COUNT = 10_000


@pytest.mark.slow
@pytest.mark.alone
def test_timers_are_on_time_and_waiting_costs_little(tmp_path: Path) -> None:
    timing = measure(tmp_path, timers_count=TIMERS_COUNT, spread_s=3.0, idle_s=3.0)

    print(timing)
    assert timing.still_pending_count == 0, "every promise has timed out, unasked"
    assert timing.fired_count == TIMERS_COUNT
    assert timing.lateness_p50_ms <= 20
    assert timing.lateness_p99_ms <= 200
    assert timing.idle_percent < 5


def test_a_percentile_is_the_smallest_bound_that_holds() -> None:
    lateness = [(1.0, 0), (2.0, 50), (5.0, 99), (float("inf"), 100)]

    assert percentile(lateness, 50) == 2
    assert percentile(lateness, 99) == 5
    assert percentile(lateness, 100) == float("inf")
