"""Verdicts: right where brute force can tell, and modest where the runs are too few."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troth.bench.comparison import compare, mann_whitney, ratio_interval
from troth.bench.results import Report, RunRecord, ScenarioRecord


def run_record(throughput: float, p99: float = 5.0) -> RunRecord:
    latency = {"p50": 1.0, "p90": 2.0, "p99": p99, "p99.9": 9.0, "mean": 1.5, "max": 20.0}
    return RunRecord(
        *(throughput, latency, [(50.0, 1.0), (99.0, p99)], {"create": latency}, {}, 0),
        timeline=[(0.0, throughput, p99, False), (0.25, throughput, p99, True)],
        checkpoints_s=[0.3],
        server_share=0.9,
        server_memory_bytes=10**8,
        generator_share=0.4,
        generator_limits=False,
        echo_throughput=50_000.0,
    )


def report(throughputs: list[float], rate: float | None = None) -> Report:
    runs = [run_record(one) for one in throughputs]
    return Report({"at": "now"}, [ScenarioRecord("create", 64, rate, {}, runs)])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=8, unique=True), st.data())
def test_the_probability_is_that_of_all_arrangements(
    values: list[int], data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, len(values) - 1))
    first, second = values[:size], values[size:]

    def wins(chosen: tuple[int, ...]) -> int:
        others = [value for value in values if value not in chosen]
        return sum(a > b for a in chosen for b in others)

    middle = len(first) * len(second) / 2
    distance = abs(wins(tuple(first)) - middle)
    arrangements = list(itertools.combinations(values, size))
    as_clear = sum(abs(wins(one) - middle) >= distance for one in arrangements)

    assert mann_whitney(first, second) == pytest.approx(min(1.0, as_clear / len(arrangements)))


def test_equal_values_show_nothing_and_many_can_be_judged() -> None:
    assert mann_whitney([1.0] * 5, [1.0] * 5) == 1.0
    assert mann_whitney([], [1.0]) == 1.0
    assert mann_whitney(list(range(30)), list(range(100, 130))) < 1e-9


def test_the_same_source_is_rarely_called_different() -> None:
    source = random.Random(7)
    false_alarms = sum(
        mann_whitney([source.gauss(0, 1) for _ in range(6)], [source.gauss(0, 1) for _ in range(6)])
        <= 0.05
        for _ in range(400)
    )

    assert false_alarms <= 32


def test_the_interval_holds_the_ratio() -> None:
    low, high = ratio_interval([100, 101, 99, 100, 102], [150, 149, 151, 152, 150])

    assert 1.4 < low <= 1.5 <= high < 1.6
    assert ratio_interval([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == ratio_interval(
        [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]
    )


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        ([100, 101, 102, 103, 104], [80, 81, 82, 83, 84], "worse"),
        ([80, 81, 82, 83, 84], [100, 101, 102, 103, 104], "better"),
        ([100, 104, 102, 101, 103], [103.5, 100.5, 101.5, 99, 105], "no significant difference"),
        ([100, 101, 102], [50, 51, 52], "too few runs to tell"),
    ],
)
def test_verdicts(before: list[float], now: list[float], text: str) -> None:
    verdicts = {one.quantity: one for one in compare(report(before), report(now))}

    assert verdicts["operations/s"].text == text
    assert verdicts["share of echo"].text == text
    assert verdicts["p99 ms"].text in {"no significant difference", "too few runs to tell"}


def test_with_a_rate_only_latencies_are_compared() -> None:
    verdicts = compare(report([100.0] * 5, rate=100.0), report([100.0] * 5, rate=100.0))

    assert [one.quantity for one in verdicts] == ["p50 ms", "p99 ms"]


def test_only_what_has_the_same_options_is_compared() -> None:
    assert compare(report([100.0], rate=100.0), report([100.0])) == []
