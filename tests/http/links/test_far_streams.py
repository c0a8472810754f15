"""Workers' streams whose home is on another node: what either side says arrives, and ends do."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.http.sockets.test_link_sockets import LIMIT_S
from tests.shards.mesh.world import until
from troth.http.links import stream_carrier
from troth.http.links.far_streams import (
    PING,
    TAKEN,
    UNREAD_LIMIT_BYTES,
    ArrivingStream,
    LeavingStream,
    encode_data,
    encode_opening,
)
from troth.http.links.passed_connections import PassedConnection
from troth.http.links.stream_carrier import StreamCarrier
from troth.http.sockets.stream_homes import StreamHomes
from troth.shards.mesh.frames import LinkDamaged
from troth.shards.mesh.owners import Owner

from .nodes import Cluster, cluster

REQUEST = b"GET /poll/workers/one HTTP/1.1\r\nHost: north\r\n\r\n"


class Home:
    """The ports of a home: it keeps the connections that are brought to it."""

    def __init__(self) -> None:
        self.brought: list[tuple[int, str | None, bytes]] = []
        self.streams: list[trio.SocketStream] = []

    def adopt(
        self, port_number: int, connected: socket.socket, peer: str | None, received: bytes
    ) -> None:
        """Take a connection over, at the only port."""
        if port_number != 0:
            raise LookupError(port_number)
        connected.setblocking(False)
        self.brought.append((port_number, peer, received))
        self.streams.append(trio.SocketStream(trio.socket.from_stdlib_socket(connected)))


class Carried:
    """A cluster of two nodes: workers connect to north, and the home of their group is south."""

    def __init__(self, all_of: Cluster, carrier: StreamCarrier, homes: StreamHomes) -> None:
        self.all_of = all_of
        self.carrier = carrier
        self.homes = homes
        self.home = Home()

    async def connect(self, port_number: int = 0) -> trio.SocketStream:
        """Connect a worker, and bring its stream to the home of its group."""
        worker, accepted = socket.socketpair()
        with accepted, trio.fail_after(LIMIT_S):
            assert await self.homes.bring(
                1, PassedConnection(port_number, accepted, REQUEST, "192.0.2.7")
            )
        worker.setblocking(False)
        return trio.SocketStream(trio.socket.from_stdlib_socket(worker))


@asynccontextmanager
async def carried(directory: Path) -> AsyncIterator[Carried]:
    """Run both nodes."""
    async with cluster(directory) as all_of, trio.open_nursery() as nursery:
        north = await all_of.start("north", 0)
        south = await all_of.start("south", 1)
        all_of.tell_all(0)
        all_of.tell_all(1)
        assert north.links._nodes is not None
        carrier = StreamCarrier(north.links._nodes)
        homes = StreamHomes(north.process.place)
        homes.carrier = carrier
        await nursery.start(carrier.run)
        found = Carried(all_of, carrier, homes)
        south.links.adopt_stream = found.home.adopt
        yield found
        for stream in found.home.streams:
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def receive(stream: trio.SocketStream, count: int) -> bytes:
    """Return that many bytes of what comes, or all of it."""
    data = b""
    with trio.fail_after(LIMIT_S):
        while len(data) < count and (more := await stream.receive_some(count - len(data))):
            data += more
    return data


async def test_a_stream_is_carried_to_its_home_and_back(tmp_path: Path) -> None:
    async with carried(tmp_path) as found:
        async with await found.connect() as worker:
            assert found.home.brought == [(0, "192.0.2.7", REQUEST)]
            (stream,) = found.home.streams
            await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
            assert await receive(worker, 19) == b"HTTP/1.1 200 OK\r\n\r\n"
            await worker.send_all(b"more")
            assert await receive(stream, 4) == b"more"
            assert len(found.carrier) == 1
        assert await receive(stream, 1) == b"", "the worker has gone"
        with trio.fail_after(LIMIT_S):
            await until(lambda: len(found.carrier) == 0)


async def test_the_end_of_the_home_is_the_end_for_the_worker(tmp_path: Path) -> None:
    async with carried(tmp_path) as found, await found.connect() as worker:
        await found.home.streams[0].send_all(b"x" * 100_000)
        await found.home.streams[0].aclose()
        assert len(await receive(worker, 1_000_000)) == 100_000


@pytest.mark.slow
async def test_workers_that_read_slowly_or_hear_nothing_are_not_cut_off(tmp_path: Path) -> None:
    """The home notices that one is slow: it can write no more."""
    async with (
        carried(tmp_path) as found,
        await found.connect() as slow,
        await found.connect() as idle,
    ):
        sent_bytes = 0
        with trio.move_on_after(3):  # longer than either side may be silent
            while True:
                await found.home.streams[0].send_all(b"x" * 50_000)
                sent_bytes += 50_000
        assert sent_bytes < 20_000_000
        assert len(await receive(slow, sent_bytes)) == sent_bytes
        await found.home.streams[1].send_all(b"a message")
        assert await receive(idle, 9) == b"a message"


async def test_a_stream_ends_when_its_group_moves(tmp_path: Path) -> None:
    async with carried(tmp_path) as found, await found.connect() as worker:
        found.all_of.served[0].process.mesh.owners.heard_of(1, 2)
        assert await receive(worker, 1) == b""


async def test_a_home_that_is_away_or_has_no_such_port_gets_no_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_carrier, "HANDSHAKE_LIMIT_S", 0.3)
    async with carried(tmp_path) as found:
        worker, accepted = socket.socketpair()
        with worker, accepted:
            owner = found.carrier.elsewhere(1)
            assert owner is not None
            assert found.carrier.elsewhere(0) is None, "it is here"
            bring = found.carrier.bring
            assert not await bring(owner, 1, PassedConnection(7, accepted, REQUEST, None))
            found.all_of.served[1].links.adopt_stream = None
            assert not await bring(owner, 1, PassedConnection(0, accepted, REQUEST, None))
            gone = Owner("south", owner.host, 1, 1)
            assert not await bring(gone, 1, PassedConnection(0, accepted, REQUEST, None))
            full = StreamCarrier(found.carrier._nodes, limit_count=0)
            assert not await full.bring(owner, 1, PassedConnection(0, accepted, REQUEST, None))
            assert len(found.carrier) == 0
            accepted.setblocking(False)
            with pytest.raises(BlockingIOError):
                worker.recv(1, socket.MSG_DONTWAIT)  # it was told nothing, and not ended


async def test_what_has_no_place_in_a_stream_ends_it(nursery: trio.Nursery) -> None:
    home = Home()

    def arriving() -> ArrivingStream:
        return ArrivingStream(home.adopt, nursery.start_soon, now_s=lambda: 0.0, wake=lambda: None)

    leaving = LeavingStream(encode_opening(0, None, REQUEST), lambda: 0.0)
    for wrong in (encode_data(b"early"), TAKEN, b"\x09\x00\x00\x00\x00", b"\x03\xff\xff\xff\xff"):
        with pytest.raises(LinkDamaged):
            arriving().received(wrong)
    for wrong in (encode_data(b"early"), TAKEN + TAKEN, encode_opening(0, None, b"")):
        with pytest.raises(LinkDamaged):
            LeavingStream(b"", lambda: 0.0).received(wrong)
    for cut_off in (b"\x01\x00\x00\x00\x01\x00", b"\x01\x00\x00\x00\x05\x00\x00\x00\x01\xff"):
        with pytest.raises(LinkDamaged, match="cannot be read"):
            arriving().received(cut_off)
    one = arriving()
    assert not one.received(leaving.take())
    with pytest.raises(LinkDamaged, match="more than its home reads"):
        one.received(encode_data(b"x" * UNREAD_LIMIT_BYTES) + encode_data(b"x"))
    assert not one.received(PING)
    for stream in home.streams:
        await stream.aclose()
    nursery.cancel_scope.cancel()


async def test_no_more_is_read_of_a_home_than_leaves(nursery: trio.Nursery) -> None:
    home = Home()
    end = ArrivingStream(home.adopt, nursery.start_soon, now_s=lambda: 0.0, wake=lambda: None)
    end.received(encode_opening(0, None, REQUEST))
    with trio.move_on_after(0.3) as scope:
        await home.streams[0].send_all(b"x" * 3_000_000)
    assert scope.cancelled_caught
    assert len(TAKEN) < len(end.take()) <= len(TAKEN) + len(encode_data(b"x" * 64 * 1024))
    await home.streams[0].aclose()
    nursery.cancel_scope.cancel()
