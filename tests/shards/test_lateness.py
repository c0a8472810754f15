"""The histogram of timers' lateness: what is counted, and what is nobody's lateness."""

import trio
from trio.testing import MockClock

from troth.core.commands import CreatePromise
from troth.shards.lateness import BOUNDS_MS, Lateness

from .stage import EPOCH_MS, stage


def test_bounds_belong_to_their_bucket_and_rows_add_up() -> None:
    lateness = Lateness()
    for lateness_ms in (0, 1, 2, 20, 21, 10_001):
        lateness.add(lateness_ms)

    rows = dict(lateness.cumulative())

    assert rows["le_1_ms"] == 2
    assert rows["le_2_ms"] == 3
    assert rows["le_20_ms"] == 4
    assert rows["le_50_ms"] == 5
    assert rows["le_10000_ms"] == 5
    assert rows["all"] == 6
    assert lateness.max_ms == 10_001
    assert len(rows) == len(BOUNDS_MS) + 1


async def test_timers_in_time_are_counted_and_those_armed_too_late_are_not(
    autojump_clock: MockClock,
) -> None:
    async with stage(direct=True) as s:
        await s.shards.ask(CreatePromise("past", EPOCH_MS - 60_000))
        await s.shards.ask(CreatePromise("soon", EPOCH_MS + 570))
        await trio.sleep(1)

        statistics = s.shards.statistics().shards[0]
        assert statistics.timers_fired_count == 2
        assert dict(statistics.timer_lateness_total)["le_1_ms"] == 1
        assert dict(statistics.timer_lateness_total)["all"] == 1
