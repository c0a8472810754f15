"""Labels that come from clients: the first have a series of their own, the others share one."""

from troth.shards.surveys.first_comers import OTHER, FirstComers


def test_the_first_values_keep_their_series_and_later_ones_share_one() -> None:
    comers = FirstComers(2)
    assert comers.fold({"a": 1, "b": 2, "c": 3, "d": 4}) == {"a": 1, "b": 2, OTHER: 7}
    # What is gone is 0, and leaves no place to others.
    assert comers.fold({"c": 5, "b": 1}) == {"a": 0, "b": 1, OTHER: 5}
    assert [comers.label(value) for value in ("a", "b", "c")] == ["a", "b", OTHER]


def test_the_shared_series_is_there_before_it_is_needed() -> None:
    assert FirstComers(2).fold({}) == {OTHER: 0}
