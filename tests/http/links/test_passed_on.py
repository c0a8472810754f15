"""Clients' connections that a node which serves no group passes on to one that does."""

import socket
from pathlib import Path

import pytest
import trio

from tests.http.sockets.test_link_sockets import LIMIT_S
from tests.shards.mesh.world import until
from troth.http.links import stream_carrier
from troth.http.links.far_streams import (
    WINDOW_BYTES,
    ArrivingStream,
    LeavingStream,
    encode_data,
    encode_opening,
)
from troth.http.links.passed_connections import PassedConnection
from troth.http.links.stream_carrier import KEPT_LIMIT_BYTES
from troth.shards.mesh.frames import LinkDamaged

from .test_far_streams import Carried, Home, carried, receive

REQUEST = b"POST / HTTP/1.1\r\nHost: north\r\n\r\n"


class Client:
    """Who brings connections: it hears of those that were lost."""

    def __init__(self) -> None:
        self.heard: list[tuple[bytes, bool]] = []

    async def lost(self, passed: PassedConnection, *, is_whole: bool) -> None:
        """Tell the client something."""
        await trio.lowlevel.checkpoint()
        self.heard.append((passed.received, is_whole))
        passed.socket.send(b"lost")


async def connect(found: Carried, client: Client, received: bytes = REQUEST) -> trio.SocketStream:
    """Connect a client to north, which passes it on to south."""
    ours, accepted = socket.socketpair()
    owner = found.carrier.elsewhere(1)
    assert owner is not None
    with accepted, trio.fail_after(LIMIT_S):
        assert await found.carrier.bring(
            owner, 1, PassedConnection(0, accepted, received, None), client
        )
    ours.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(ours))


async def test_a_long_request_arrives_whole_however_slowly_it_is_read(tmp_path: Path) -> None:
    long = REQUEST + b"x" * 3_000_000
    async with (
        carried(tmp_path) as found,
        await connect(found, Client(), long[:200_000]) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.send_all, long[200_000:])
        (stream,) = found.home.streams
        ((_, _, beginning),) = found.home.brought
        await trio.sleep(0.5)
        assert beginning + await receive(stream, len(long) - len(beginning)) == long
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        assert await receive(client, 19) == b"HTTP/1.1 200 OK\r\n\r\n"


async def test_a_client_is_told_only_if_its_owner_is_lost_before_it_answers(
    tmp_path: Path,
) -> None:
    told = Client()
    async with (
        carried(tmp_path) as found,
        await connect(found, told) as client,
        await connect(found, told) as answered,
        await connect(found, told) as long,
    ):
        first, second, third = found.home.streams
        await first.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        assert await receive(client, 19)
        await client.send_all(REQUEST + b"more")
        assert await receive(first, len(REQUEST) + 4) == REQUEST + b"more"
        await first.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await receive(client, 25)
        await first.aclose()
        assert await receive(client, 10) == b"lost"
        assert told.heard == [(REQUEST + b"more", True)]

        await second.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        await second.aclose()
        assert await receive(answered, 100) == b"HTTP/1.1 200 OK\r\n\r\n"
        assert len(told.heard) == 1, "it has its answer"

        await long.send_all(b"x" * KEPT_LIMIT_BYTES)
        await receive(third, KEPT_LIMIT_BYTES)
        await third.aclose()
        assert await receive(long, 10) == b"lost"
        assert not told.heard[1][1]


async def test_a_client_that_leaves_is_no_client_that_lost_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_carrier, "HALF_CLOSED_LIMIT_S", 0.3)
    told = Client()
    async with carried(tmp_path) as found:
        await (await connect(found, told)).aclose()
        with trio.fail_after(LIMIT_S):
            await until(lambda: len(found.carrier) == 0)
    assert told.heard == []


async def test_a_client_that_ends_its_own_side_has_its_answer(tmp_path: Path) -> None:
    async with carried(tmp_path) as found, await connect(found, Client()) as client:
        await client.send_all(b"more")
        await client.send_eof()
        assert await receive(found.home.streams[0], 4) == b"more"
        await trio.sleep(0.5)
        await found.home.streams[0].send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        assert await receive(client, 100) == b"HTTP/1.1 200 OK\r\n\r\n"
        with trio.fail_after(LIMIT_S):
            await until(lambda: len(found.carrier) == 0)


async def test_a_client_keeps_an_owner_that_goes_on_without_its_group(tmp_path: Path) -> None:
    """It answers what it has, and ends by itself."""
    async with carried(tmp_path) as found, await connect(found, Client()) as client:
        found.all_of.served[0].process.mesh.owners.heard_of(1, 2)
        await found.home.streams[0].send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        assert await receive(client, 19)


async def test_answers_are_waited_for_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_carrier, "_QUIET_S", 1.0)
    async with (
        carried(tmp_path) as found,
        await connect(found, Client()) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(found.carrier.finish)
        await trio.sleep(0.5)
        await found.home.streams[0].send_all(b"HTTP/1.1 200 OK\r\n")
        await trio.sleep(0.1)
        await found.home.streams[0].send_all(b"\r\n")
        assert await receive(client, 100) == b"HTTP/1.1 200 OK\r\n\r\n"


async def test_a_home_hears_no_more_of_a_client_than_it_has_room_for(
    nursery: trio.Nursery,
) -> None:
    home = Home()
    opening = encode_opening(0, None, REQUEST, is_paced=True)
    leaving = LeavingStream(opening, lambda: 0.0, is_paced=True)
    leaving.say(b"x" * WINDOW_BYTES)
    assert leaving.room_bytes == 0
    arriving = ArrivingStream(home.adopt, nursery.start_soon, now_s=lambda: 0.0, wake=lambda: None)
    arriving.received(leaving.take())
    with trio.fail_after(LIMIT_S):
        await receive(home.streams[0], WINDOW_BYTES)
        while leaving.room_bytes < WINDOW_BYTES // 2:
            leaving.received(arriving.take())
            await trio.lowlevel.checkpoint()
    with pytest.raises(LinkDamaged, match="more than its home reads"):
        arriving.received(encode_data(b"x" * WINDOW_BYTES) + encode_data(b"x"))
    with pytest.raises(LinkDamaged):
        LeavingStream(b"", lambda: 0.0).received(b"\x06\x00\x00\x00\x04\x00\x00\x00\x01")
    await home.streams[0].aclose()
    nursery.cancel_scope.cancel()
