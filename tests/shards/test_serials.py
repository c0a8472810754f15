"""Serials: in order, unique over groups, and within 63 bits until 2094."""

from itertools import pairwise

import pytest
import trio

from tests.shards.stage import Outgoing, make_shards
from troth.core.limits import INTEGER_MAX, SERIAL_TIME_BEGINS_MS, SERIAL_TIME_ENDS_MS
from troth.persistence.errors import ClockTooLate
from troth.persistence.serials import Serials
from troth.shards.clock import TrioClock
from troth.shards.storage import MemoryStorage


def parts(serial: int) -> tuple[int, int, int]:
    """Return time in ms, counter and group of a serial."""
    return (serial >> 22) + SERIAL_TIME_BEGINS_MS, serial >> 10 & 0xFFF, serial & 0x3FF


def test_a_serial_says_when_it_was_given_and_by_whom() -> None:
    serials = Serials(5)
    serials.set_time(SERIAL_TIME_BEGINS_MS + 1000)
    given = [serials.next() for _ in range(3)]
    assert [parts(one) for one in given] == [
        (SERIAL_TIME_BEGINS_MS + 1000, number, 5) for number in (1, 2, 3)
    ]


def test_they_only_grow() -> None:
    """Also when more than 4,096 come in a millisecond, and when the clock is set back."""
    serials = Serials(3)
    given = []
    for now_ms in (2000, 2000, 2001, 500, 0, -5, 2002):
        serials.set_time(SERIAL_TIME_BEGINS_MS + now_ms)
        given += [serials.next() for _ in range(5_000)]
    assert all(before < after for before, after in pairwise(given))
    assert {one & 0x3FF for one in given} == {3}


@pytest.mark.parametrize("largest", [1, 2**57 + 7, (2**50 << 10) + 1023])
def test_they_continue_above_what_was_found(largest: int) -> None:
    for group in (0, 1023):
        serials = Serials(group)
        serials.continue_after(largest)
        assert serials.last >= largest
        first = serials.next()
        assert first > largest
        assert first & 0x3FF == group


def test_the_last_ones_have_room() -> None:
    serials = Serials(1023)
    serials.set_time(SERIAL_TIME_ENDS_MS - 1)
    assert serials.next() <= INTEGER_MAX
    before = serials.last
    serials.set_time(SERIAL_TIME_ENDS_MS)  # a clock that is set beyond while the server runs
    assert serials.last == before


async def test_a_turn_gives_serials_of_its_time(mock_clock: trio.testing.MockClock) -> None:
    shards = make_shards(1, Outgoing(), clock=TrioClock(SERIAL_TIME_BEGINS_MS + 1))
    shards.clock_jumped()
    assert parts(shards.largest_serial)[0] == SERIAL_TIME_BEGINS_MS + 1
    mock_clock.jump(5)
    shards.clock_jumped()
    assert parts(shards.largest_serial) == (SERIAL_TIME_BEGINS_MS + 5001, 0, 0)


async def test_a_clock_beyond_2094_is_refused(mock_clock: object) -> None:
    shards = make_shards(1, Outgoing(), clock=TrioClock(SERIAL_TIME_ENDS_MS))
    with pytest.raises(ClockTooLate, match="Set the clock") as caught:
        shards.recover(MemoryStorage(1))
    assert len(str(caught.value).splitlines()) == 1
