"""Limits of connections that count for all processes of a server together."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from tests.shards.mesh.world import World, world
from troth.http.sockets.connection_room import ConnectionRoom
from troth.http.sockets.descriptors import part_of
from troth.http.sockets.doors import sharers_of
from troth.http.sockets.shared_room import SharedRoom
from troth.http.supervision.manager_environment import GivenSockets
from troth.persistence.placement import by_id
from troth.shards.delivery.polls import Polls, TooManyConnections

COUNT = 3
LIMIT_COUNT = 4
STREAMS_COUNT = 5


@asynccontextmanager
async def rooms() -> AsyncIterator[tuple[World, list[ConnectionRoom], list[Polls]]]:
    """Three processes, each with room for connections and streams."""
    async with world(COUNT, delay_s=0.01) as server:
        made = [
            ConnectionRoom(100, per_address_limit_count=LIMIT_COUNT, now=trio.current_time)
            for _ in range(COUNT)
        ]
        polls = [
            Polls(connections_limit_count=STREAMS_COUNT, buffer_limit_count=1) for _ in range(COUNT)
        ]
        for process, room, streams in zip(server.processes, made, polls, strict=True):
            SharedRoom(room, streams, process.mesh.calls)
        yield server, made, polls


def address_at(home: int) -> str:
    """Return an address whose home a process is."""
    return next(
        address
        for address in (f"10.0.0.{number}" for number in range(100))
        if by_id(COUNT)(address) == home
    )


def crowded(made: list[ConnectionRoom], address: str) -> list[bool]:
    return [room.is_crowded(address) for room in made]


@pytest.mark.parametrize("home", range(COUNT))
async def test_an_address_has_its_limit_at_all_processes(
    autojump_clock: MockClock, home: int
) -> None:
    async with rooms() as (_, made, _):
        address, other = address_at(home), address_at((home + 1) % COUNT)
        for number in range(LIMIT_COUNT):
            assert crowded(made, address) == [False] * COUNT
            made[number % COUNT].enter(address)
            await trio.sleep(0.1)
        assert crowded(made, address) == [True] * COUNT
        assert crowded(made, other) == [False] * COUNT
        made[1].leave(address)
        await trio.sleep(0.1)
        assert crowded(made, address) == [False] * COUNT


async def test_what_is_lost_with_a_link_is_said_again(autojump_clock: MockClock) -> None:
    """While the home is away, each process counts what it has itself."""
    async with rooms() as (server, made, _):
        address = address_at(2)
        for number in range(LIMIT_COUNT):
            made[number % 2].enter(address)
        await trio.sleep(0.1)
        assert crowded(made, address) == [True] * COUNT
        server.cut_off(2)
        await trio.sleep(0.1)
        assert crowded(made, address) == [False] * COUNT
        server.mend_all()
        await trio.sleep(1)
        assert crowded(made, address) == [True] * COUNT
        server.cut_off(0)
        await trio.sleep(0.1)
        for _ in range(LIMIT_COUNT // 2):
            made[0].leave(address)
        server.mend_all()
        await trio.sleep(1)
        assert crowded(made, address) == [False] * COUNT


async def test_workers_streams_count_together(autojump_clock: MockClock) -> None:
    async with rooms() as (server, _, polls):
        for number in range(STREAMS_COUNT):
            polls[number % 2].connect("g", f"w{number}")
        await trio.sleep(1)
        for one in polls:
            with pytest.raises(TooManyConnections):
                one.connect("other", "w")
        polls[0].connect("g", "w0")  # it takes the place of one
        server.cut_off(1)
        await trio.sleep(1)
        polls[2].connect("other", "w")


def test_a_part_is_rounded_up() -> None:
    assert [part_of(10, count) for count in (1, 3, 20)] == [10, 4, 1]


def test_sockets_of_a_service_manager_are_one_process_s() -> None:
    with socket.socket() as given, socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        assert sharers_of(GivenSockets((given,), (), are_all=True), 3) == 1
        assert sharers_of(GivenSockets((own,), (), are_all=True), 3) == 3
