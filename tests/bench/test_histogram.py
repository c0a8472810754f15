"""Histograms say what a sorted list of all values would say, to within their precision."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.bench.histogram import Histogram

VALUES = st.lists(st.integers(0, 10**12), min_size=1, max_size=200)


def histogram_of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(VALUES, st.sampled_from([0.0, 1.0, 50.0, 90.0, 99.0, 99.9, 100.0]))
def test_a_percentile_is_that_of_the_sorted_values(values: list[int], percent: float) -> None:
    rank = max(1, int(-(-len(values) * percent // 100)))
    exact = sorted(values)[rank - 1]

    found = histogram_of(values).percentile(percent)

    assert exact <= found <= exact * (1 + 1 / 64)


@given(VALUES)
def test_every_value_lies_in_exactly_one_bucket(values: list[int]) -> None:
    buckets = list(histogram_of(values).buckets())

    assert sum(count for _, _, count in buckets) == len(values)
    for low, high, count in buckets:
        assert count == sum(low <= value <= high for value in values)
    for (_, high, _), (low, _, _) in itertools.pairwise(buckets):
        assert high < low


@given(VALUES, VALUES)
def test_adding_is_recording_everything_in_one(first: list[int], second: list[int]) -> None:
    joined = histogram_of(first)
    joined.add(histogram_of(second))

    assert joined.to_json() == histogram_of(first + second).to_json()
    assert (joined.count, joined.mean) == (
        len(first + second),
        sum(first + second) / len(first + second),
    )


@given(VALUES)
def test_it_survives_json(values: list[int]) -> None:
    stored = json.loads(json.dumps(histogram_of(values).to_json()))

    assert Histogram.from_json(stored).to_json() == histogram_of(values).to_json()


def test_what_is_no_histogram_is_refused() -> None:
    with pytest.raises(ValueError, match="not a histogram"):
        Histogram.from_json({"counts": [], "total": 0, "maximum": 0})


def test_an_empty_one_and_a_clock_set_back() -> None:
    empty = Histogram()
    assert (empty.percentile(99), empty.mean, empty.count) == (0, 0.0, 0)

    empty.record(-5)
    assert (empty.percentile(99), empty.count) == (0, 1)
