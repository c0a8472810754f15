"""How many connections there may be, and which go when there are too many."""

import resource

import pytest

from troth.core.limits import DESCRIPTORS_LEAST_COUNT
from troth.http.sockets.connection_room import ConnectionRoom, Idle
from troth.http.sockets.descriptors import (
    TooFewDescriptors,
    raise_limit,
    shares_of,
)


@pytest.mark.parametrize(
    ("limit_count", "incoming_count", "outgoing_count"),
    [(48, 18, 6), (64, 24, 8), (256, 96, 32), (1024, 672, 224), (20_000, 14_904, 4_968)],
)
def test_a_reserve_is_kept_back(limit_count: int, incoming_count: int, outgoing_count: int) -> None:
    """128 descriptors, or half of them, are for nobody but the server."""
    shares = shares_of(limit_count)

    assert (shares.incoming_count, shares.outgoing_count) == (incoming_count, outgoing_count)
    assert shares.streams_count < shares.incoming_count
    reserve_count = limit_count - incoming_count - outgoing_count
    assert reserve_count == min(128, limit_count // 2)


def test_too_few_are_refused() -> None:
    with pytest.raises(TooFewDescriptors, match="only 47 files"):
        shares_of(DESCRIPTORS_LEAST_COUNT - 1)


@pytest.mark.parametrize(
    ("soft", "hard", "result"),
    [
        (256, 4096, 4096),
        (4096, 4096, 4096),
        (1024, resource.RLIM_INFINITY, 1 << 20),
        (1024, 1 << 30, 1 << 20),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1 << 20),
    ],
)
def test_the_limit_is_raised(soft: int, hard: int, result: int) -> None:
    written: list[tuple[int, int]] = []

    assert raise_limit(lambda _: (soft, hard), lambda _, pair: written.append(pair)) == result
    assert written == ([] if soft in (result, resource.RLIM_INFINITY) else [(result, hard)])


def test_a_limit_that_cannot_be_raised_stays() -> None:
    def refuse(_: int, _pair: tuple[int, int]) -> None:
        raise ValueError("not permitted")

    assert raise_limit(lambda _: (256, 4096), refuse) == 256


class Visitors:
    """Connections of a room with a clock that stands still."""

    def __init__(self, room: ConnectionRoom) -> None:
        self.room = room
        self.idle_since: dict[str, float] = {}
        self.closed: list[str] = []
        room.add_source(self.idle)

    def come(self, name: str, idle_since: float) -> None:
        self.room.enter(name)
        self.idle_since[name] = idle_since

    def idle(self) -> list[Idle]:
        def closing(name: str) -> Idle:
            return self.idle_since[name], lambda: self.closed.append(name)

        return [closing(name) for name in self.idle_since if name not in self.closed]


def test_the_longest_idle_go_first() -> None:
    room = ConnectionRoom(3, now=lambda: 10.0)
    visitors = Visitors(room)
    for name, since in (("b", 5.0), ("a", 2.0), ("new", 9.5)):
        assert not room.is_full
        visitors.come(name, since)

    assert room.is_full
    assert room.shed() == 1
    assert visitors.closed == ["a"]
    assert not room.is_full  # it has been told to go, and counts as gone
    visitors.come("c", 10.0)
    assert room.is_full
    room.leave("a")
    assert room.is_full
    assert room.shed() == 1
    assert visitors.closed == ["a", "b"]


def test_one_that_leaves_while_it_is_told_to_go_is_counted_once() -> None:
    room = ConnectionRoom(2, now=lambda: 10.0)
    room.add_source(lambda: [(1.0, lambda: room.leave("a"))])
    room.enter("a")
    room.enter("b")

    assert room.shed() == 1
    assert room.statistics().connections_count == 1
    room.enter("c")
    assert room.is_full


def test_nobody_goes_who_has_just_been_answered() -> None:
    room = ConnectionRoom(1, now=lambda: 10.0)
    visitors = Visitors(room)
    visitors.come("a", 9.5)

    assert room.shed() == 0
    assert room.is_full


def test_an_address_has_its_limit() -> None:
    """An IPv6 network counts as one address; what leaves makes room."""
    room = ConnectionRoom(10, per_address_limit_count=2, now=lambda: 0.0)
    room.enter("2001:db8::1")
    assert not room.is_crowded("2001:db8::2")
    room.enter("2001:db8::2")
    assert room.is_crowded("2001:db8::3")
    assert not room.is_crowded("10.0.0.1")
    room.leave("2001:db8::1")
    assert not room.is_crowded("2001:db8::3")
    assert room.statistics().addresses_count == 1
