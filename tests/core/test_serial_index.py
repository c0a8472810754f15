"""The order of creation, against a sorted dict."""

import gc
import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.limits import EVICTION_SLICE_COUNT
from troth.core.tables import serial_index
from troth.core.tables.serial_index import SerialIndex

LIMIT_S = 0.01
"""What a pass may take; a block takes some microseconds."""


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Let few entries fill several blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serial_index, "BLOCK_COUNT", 8)
        patch.setattr(serial_index, "_SMALL_COUNT", 3)
        yield


STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "append", "discard", "many", "some"]), st.integers(1, 40))
)


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
        elif action == "discard":
            victim = (
                number
                if number % 2
                else list(expected)[number % len(expected)]
                if (expected)
                else number
            )
            index.discard(victim)
            expected.pop(victim, None)
        else:  # those of a stretch, or every third of them, and one that is not there
            start = number % (len(expected) + 1)
            victims = [*expected][start : start + number : 1 if action == "many" else 3]
            index.discard_all([*reversed(victims), last + 1])
            for victim in victims:
                del expected[victim]
    assert len(index) == len(expected)

    assert bool(index) == bool(expected)
    assert index.first() == min(expected, default=None)
    everything = list(index.below(last + 1, 10_000))
    assert everything == sorted(expected.items(), reverse=True)
    blocks_count = len(index._bounds)
    assert blocks_count <= 1 + 2 * len(expected) / 3, "small blocks are joined"
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
    """What comes after a place, oldest first, when others have left."""
    index = SerialIndex()
    for serial in sorted(serials):
        index.append(serial, str(serial))
    for serial in gone:
        index.discard(serial)
    left = sorted(set(serials) - gone)

    found = [name for _, name in index.above(start, 100)]
    assert found == [str(serial) for serial in left if serial > start]
    assert list(index.above(start, 3)) == [(int(name), name) for name in found[:3]]
    assert index.next_ids(start, 10) == (int(found[:10][-1]) if found else start, found[:10])
    assert index.has_above(start) is bool(found)
    assert index.ids() == [str(serial) for serial in left]


@pytest.mark.own_core
def test_no_step_grows_with_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the entries leave in any order; it took 20 ms at once for each 100,000 entries."""
    monkeypatch.setattr(serial_index, "BLOCK_COUNT", 512)
    monkeypatch.setattr(serial_index, "_SMALL_COUNT", 128)
    index = SerialIndex()
    serials = list(range(1, 200_001))
    for serial in serials:
        index.append(serial, "p")
    random.Random(7).shuffle(serials)
    single, together = serials[:100_000], serials[100_000:]
    longest_s = 0.0
    gc.disable()
    try:
        for serial in single:
            before_s = time.thread_time()
            index.discard(serial)
            longest_s = max(longest_s, time.thread_time() - before_s)
        for place in range(0, len(together), EVICTION_SLICE_COUNT):
            before_s = time.thread_time()
            index.discard_all(together[place : place + EVICTION_SLICE_COUNT])
            longest_s = max(longest_s, time.thread_time() - before_s)
    finally:
        gc.enable()

    assert not index
    assert longest_s < LIMIT_S
