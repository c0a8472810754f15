"""A histogram of a few numbers."""

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
