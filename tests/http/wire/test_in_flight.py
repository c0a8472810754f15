"""The budget of bytes that requests and answers may take in memory."""

import math

import pytest
import trio
import trio.testing

from troth.http.wire.in_flight import SMALL_BYTES, STALLED_S, Hold, InFlight

MIB = 1 << 20


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_what_is_small_is_not_counted() -> None:
    in_flight = InFlight(MIB, now=Clock())
    holds = [in_flight.hold() for _ in range(1000)]

    assert all(hold.grow(SMALL_BYTES) for hold in holds)
    assert in_flight.statistics().held_bytes == 0
    assert holds[0].grow(1)
    assert in_flight.statistics().held_bytes == SMALL_BYTES + 1  # from then on all of it
    holds[0].release()
    assert in_flight.statistics().held_bytes == 0


def test_beyond_the_limit_there_is_no_room() -> None:
    in_flight = InFlight(MIB, now=Clock())
    first, second = in_flight.hold(), in_flight.hold()

    assert first.grow(MIB - 100)
    assert not in_flight.is_full
    assert not second.grow(SMALL_BYTES + 100)
    assert second.size_bytes == 0
    second.grow_anyway(SMALL_BYTES + 100)
    assert in_flight.is_full
    first.release()
    first.release()
    assert not in_flight.is_full
    statistics = in_flight.statistics()
    assert (statistics.holds_count, statistics.refused_total_count) == (1, 1)


def test_who_is_stalled_goes_largest_first() -> None:
    clock = Clock()
    in_flight = InFlight(MIB, now=clock)
    evicted: list[str] = []
    holds: dict[str, Hold] = {}

    def come(name: str, size_bytes: int) -> None:
        def evict() -> None:
            evicted.append(name)
            holds[name].release()

        holds[name] = in_flight.hold(evict)
        assert holds[name].grow(size_bytes)

    come("small", 100_000)
    come("large", 400_000)
    come("busy", 200_000)
    come("pinned", 300_000)
    holds["pinned"].pin()
    clock.now_s += STALLED_S
    holds["busy"].progress(clock.now_s)
    asking = in_flight.hold()

    assert asking.grow(300_000)
    assert evicted == ["large"]
    assert not in_flight.hold().grow(700_000)  # not even all that are stalled would be enough
    assert evicted == ["large", "small"]
    holds["pinned"].unpin()
    in_flight.evict_stalled(1)
    assert evicted == ["large", "small", "pinned"]


async def test_who_waits_is_told(autojump_clock: trio.testing.MockClock) -> None:
    in_flight = InFlight(MIB)
    first, second = in_flight.hold(), in_flight.hold()
    first.grow_anyway(MIB)
    told: list[str] = []
    in_flight.when_room(lambda: told.append("room"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_flight.grown, second, MIB // 2)
        await trio.sleep(1)
        assert not told
        assert second.size_bytes == 0
        first.release()
    assert told == ["room"]
    assert second.size_bytes == MIB // 2
    in_flight.when_room(lambda: told.append("at once"))
    assert told == ["room", "at once"]


async def test_the_watch_evicts_for_those_who_wait_and_gives_memory_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    trimmed: list[float] = []
    in_flight = InFlight(MIB, trim=lambda: trimmed.append(1))
    stuck = in_flight.hold(lambda: stuck.release())
    stuck.grow_anyway(2 * MIB)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_flight.watch)
        await trio.sleep(5 * STALLED_S)
        assert stuck.size_bytes == 2 * MIB  # nobody needs the room
        with trio.fail_after(2 * STALLED_S):
            await in_flight.grown(in_flight.hold(), MIB // 2)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert stuck.size_bytes == 0


async def test_a_watch_that_nobody_needs_sleeps() -> None:
    """A server that only waits wakes up for nothing."""
    in_flight = InFlight(MIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_flight.watch)
        await trio.testing.wait_all_tasks_blocked()
        sleeps_s = trio.lowlevel.current_statistics().seconds_to_next_deadline
        nursery.cancel_scope.cancel()
    assert sleeps_s == math.inf


@pytest.mark.parametrize(("headroom_bytes", "has_room"), [(None, True), (4 * MIB, False)])
def test_a_limited_address_space_is_not_used_up(headroom_bytes: int | None, has_room: bool) -> None:
    """A body becomes several times its size on its way; what does not fit is refused early."""
    in_flight = InFlight(64 * MIB, now=Clock(), headroom_bytes=lambda: headroom_bytes)
    hold = in_flight.hold()
    assert hold.grow(MIB // 2)

    assert hold.grow(MIB // 2) == has_room


def test_memory_is_left_for_all_that_is_held_already() -> None:
    """Each body alone would fit; what they become on their way would not."""
    in_flight = InFlight(64 * MIB, now=Clock(), headroom_bytes=lambda: 10 * MIB)
    holds = [in_flight.hold() for _ in range(3)]

    assert [hold.grow(MIB * 3 // 4) for hold in holds] == [True, True, False]
    holds[0].release()
    assert holds[2].grow(MIB * 3 // 4)


def test_the_margin_is_for_others() -> None:
    in_flight = InFlight(64 * MIB, now=Clock(), headroom_bytes=lambda: 10 * MIB, margin_bytes=MIB)
    hold = in_flight.hold()

    assert not hold.grow(MIB * 3 // 2 + 1)
    assert hold.grow(MIB * 3 // 2)
