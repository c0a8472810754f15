"""The order of creation, against a sorted dict."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.state.serial_index import SerialIndex

STEPS = st.lists(st.tuples(st.sampled_from(["append", "append", "discard"]), st.integers(1, 40)))


@given(STEPS, st.integers(0, 300), st.integers(0, 20))
def test_the_index_is_a_sorted_dict(
    steps: list[tuple[str, int]], below: int, scan_count: int
) -> None:
    index, expected, last = SerialIndex(), dict[int, str](), 0
    for action, number in steps:
        if action == "append":
            last += number
            index.append(last, str(last))
            expected[last] = str(last)
        else:
            victim = (
                number
                if number % 2
                else list(expected)[number % len(expected)]
                if (expected)
                else number
            )
            index.discard(victim)
            expected.pop(victim, None)
    assert len(index) == len(expected)

    everything = list(index.below(last + 1, 10_000))
    assert [entry for entry in everything if entry[1] is not None] == sorted(
        expected.items(), reverse=True
    )
    assert len(everything) <= 2 * max(len(expected), 1), "holes are compacted away"
    part = list(index.below(below, scan_count))
    assert part == [entry for entry in everything if entry[0] < below][:scan_count]
    assert index.has_below(below) == any(serial < below for serial, _ in everything)


def test_serials_only_grow() -> None:
    index = SerialIndex()
    index.append(2, "a")

    with pytest.raises(AssertionError, match="only grow"):
        index.append(2, "b")


@given(st.lists(st.integers(0, 60), unique=True), st.sets(st.integers(0, 60)), st.integers(-1, 61))
def test_above_is_the_reverse_of_below(serials: list[int], gone: set[int], start: int) -> None:
    """What comes after a place, oldest first, with holes and after compaction."""
    index = SerialIndex()
    for serial in sorted(serials):
        index.append(serial, str(serial))
    for serial in gone:
        index.discard(serial)
    left = sorted(set(serials) - gone)

    found = [name for _, name in index.above(start, 100) if name is not None]
    assert found == [str(serial) for serial in left if serial > start]
    assert len(list(index.above(start, 3))) <= 3
    assert index.has_above(start) or not found
    assert [name for name in index.ids() if name is not None] == [str(serial) for serial in left]
