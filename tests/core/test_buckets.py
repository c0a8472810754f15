"""A histogram of a few numbers."""

from hypothesis import given
from hypothesis import strategies as st

from troth.core.buckets import Buckets


def test_a_bound_belongs_to_its_bucket_and_rows_add_up() -> None:
    histogram = Buckets((1, 2, 20))
    for value in (0, 1, 2, 20, 21):
        histogram.add(value)
    assert histogram.cumulative() == [2, 3, 4, 5]
    assert (histogram.count, histogram.sum) == (5, 44)


def test_merged_ones_count_both() -> None:
    some, others = Buckets((1, 2)), Buckets((1, 2))
    some.add(1)
    others.add(3)
    some.merge(others)
    assert (some.cumulative(), some.sum, others.count) == ([1, 1, 2], 4, 1)


@given(st.lists(st.lists(st.integers(0, 25))))
def test_values_that_are_added_together_count_as_each_by_itself(together: list[list[int]]) -> None:
    some, others = Buckets((1, 2, 20)), Buckets((1, 2, 20))
    for values in together:
        some.add_all([float(value) for value in values])
        for value in values:
            others.add(value)
    assert (some.counts, some.sum) == (others.counts, others.sum)
