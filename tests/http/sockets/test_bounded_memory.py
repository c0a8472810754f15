"""What connections may take in memory and of the one thread, seen from their ends."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.http.client import World, running
from troth.http.documents.table import API_ENDPOINTS
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings
from troth.http.sockets import slow_gate
from troth.http.sockets.connection_room import SHED_IDLE_S
from troth.http.sockets.lane import Lane
from troth.http.sockets.listener import SocketListener
from troth.http.wire.in_flight import STALLED_S

MIB = 1 << 20
FAR_MS = 4_102_444_800_000
CLOSED = Settings(basic_auth={"ann": "secret"})
KNOWN = "Authorization: Basic YW5uOnNlY3JldA==\r\n"


@asynccontextmanager
async def listening(
    settings: Settings, *, lane: bool, application: Any = None
) -> AsyncIterator[tuple[SocketListener, World]]:
    """A listener on a free port, in front of a running server."""
    async with running(settings) as world, trio.open_nursery() as nursery:
        listener = SocketListener(
            application or world.application, ListenAddress("127.0.0.1", 0), settings
        )
        listener.in_flight = world.api.in_flight
        nursery.start_soon(world.api.in_flight.watch)
        if lane:
            listener.lane = Lane(world.api, API_ENDPOINTS, listener.limits)
            await nursery.start(listener.lane.run)
        await listener.open()
        await nursery.start(listener.run)
        yield listener, world
        listener.cut()
        nursery.cancel_scope.cancel()


async def connect(listener: SocketListener) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", listener.port)


async def answer_of(stream: trio.SocketStream) -> bytes:
    """An answer with a short body, as far as it has come in one piece."""
    with trio.fail_after(20):
        received = b""
        while b"\r\n\r\n" not in received or not received.endswith(b"}"):
            data = await stream.receive_some(65536)
            assert data, received
            received += data
        return received


def post(length_bytes: int, fields: str = "") -> bytes:
    return (
        f"POST /promises HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}"
        f"Content-Length: {length_bytes}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("lane", [True, False])
async def test_strangers_are_refused_before_their_body_is_read(lane: bool) -> None:
    async with listening(CLOSED, lane=lane) as (listener, world):
        async with await connect(listener) as stream:
            await stream.send_all(post(4 * MIB) + b"x" * 20_000)
            answer = await answer_of(stream)

        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close\r\n" in answer.lower()
        assert world.api.in_flight.statistics().held_bytes == 0


@pytest.mark.parametrize("lane", [True, False])
async def test_a_refused_client_may_ask_again_on_its_connection(lane: bool) -> None:
    """As long as what it has sent in vain is short; it is counted as one failed attempt."""
    body = json.dumps({"id": "p", "timeout": FAR_MS, "param": {"data": "eHh4" * 10_000}}).encode()
    async with listening(CLOSED, lane=lane) as (listener, world):
        async with await connect(listener) as stream:
            wrong = KNOWN.replace("YW5u", "YW5v")
            await stream.send_all(post(len(body), wrong) + body)
            assert (await answer_of(stream)).startswith(b"HTTP/1.1 401 ")
            await stream.send_all(post(len(body), KNOWN) + body)
            assert (await answer_of(stream)).startswith(b"HTTP/1.1 201 ")
        counted = world.api.credentials.attempts.statistics().counted_total_count
        assert counted == 1


@pytest.mark.parametrize("lane", [True, False])
async def test_bodies_beyond_the_budget_are_refused(lane: bool) -> None:
    """Those that make no progress go first; what they held is free again."""
    settings = Settings(body_limit_bytes=MIB, in_flight_limit_bytes=2 * MIB)
    whole = json.dumps({"id": "p", "timeout": FAR_MS, "param": {"data": "eHh4" * 200_000}}).encode()
    async with listening(settings, lane=lane) as (listener, world):
        streams = [await connect(listener) for _ in range(6)]
        for stream in streams:
            await stream.send_all(post(MIB) + b" " * 700_000)
        for _ in range(400):  # the others make progress until all of theirs has been read
            statistics = world.api.in_flight.statistics()
            held_bytes = statistics.held_bytes
            if statistics.refused_total_count == 4 and held_bytes >= 2 * 700_000:
                break
            await trio.sleep(0.05)
        await trio.sleep(STALLED_S + 0.1)
        status = b""
        with trio.fail_after(20):
            while status != b"201":  # on a busy machine they go a little later
                async with await connect(listener) as stream:
                    await stream.send_all(post(len(whole)) + whole)
                    status = (await stream.receive_some(13)).split()[1]
        answers = [await answer_of(stream) for stream in streams[2:]]
        for stream in streams:
            await stream.aclose()

    assert held_bytes <= 2 * MIB
    assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answers)
    assert all(b"retry-after: " in answer.lower() for answer in answers)


@pytest.mark.slow
async def test_answers_that_nobody_takes_are_bounded() -> None:
    """Large answers wait for room, small ones do not; who takes nothing is cut off."""
    settings = Settings(body_limit_bytes=MIB, in_flight_limit_bytes=4 * MIB)
    large = {"id": "large", "timeout": FAR_MS, "param": {"data": "eHh4" * 240_000}}
    read = b"GET /promises/large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    async with listening(settings, lane=True) as (listener, world):
        assert (await world.send("POST", "/promises", large)).status == 201
        idle = []
        for _ in range(30):
            stream = await connect(listener)
            stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
            await stream.send_all(read * 8)  # what the system buffers is not ours
            idle.append(stream)
        most_bytes = 0
        async with await connect(listener) as stream:
            for number in range(30):
                body = json.dumps({"id": f"p{number}", "timeout": FAR_MS}).encode()
                await stream.send_all(post(len(body)) + body)
                assert (await answer_of(stream)).startswith(b"HTTP/1.1 201 ")
                most_bytes = max(most_bytes, world.api.in_flight.statistics().held_bytes)
                await trio.sleep(0.01)
        async with await connect(listener) as stream:  # its turn comes when the stalled are gone
            await stream.send_all(read)
            with trio.fail_after(30):
                received = b""
                while len(received) < 960_000:
                    data = await stream.receive_some(65536)
                    assert data
                    received += data
        evicted_count = world.api.in_flight.statistics().evicted_total_count
        for stream in idle:
            await trio.aclose_forcefully(stream)

    assert received.startswith(b"HTTP/1.1 200 ")
    assert 0 < most_bytes <= 4 * MIB + 2 * 960_000
    assert evicted_count > 0


async def test_few_requests_are_in_work_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_gate, "PATIENCE_S", 60.0)
    in_work, most = 0, 0

    async def application(_scope: Any, receive: Any, send: Any) -> None:
        nonlocal in_work, most
        in_work += 1
        most = max(most, in_work)
        await receive()
        await trio.sleep(0.1)
        in_work -= 1
        length = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": b"{}"})

    async with listening(Settings(), lane=False, application=application) as (listener, _):
        streams = [await connect(listener) for _ in range(40)]
        for stream in streams:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        for stream in streams:
            assert (await answer_of(stream)).startswith(b"HTTP/1.1 200 ")
            await stream.aclose()

    assert most == slow_gate.TICKETS_COUNT


async def test_a_client_that_sends_its_body_slowly_does_not_keep_the_gate_shut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slow_gate, "PATIENCE_S", 60.0)
    async with listening(Settings(), lane=False) as (listener, _):
        slow = [await connect(listener) for _ in range(3 * slow_gate.TICKETS_COUNT)]
        for stream in slow:
            await stream.send_all(post(100) + b"{")
        for stream in slow[:3]:
            await stream.send_all(b"GET /promises HTTP/1.1\r\nHo")
        async with await connect(listener) as stream:
            await stream.send_all(b"GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await answer_of(stream)).startswith(b"HTTP/1.1 200 ")
        for stream in slow:
            await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("path", ["/ping", "/health", "/ready"])
async def test_probes_stay_on_the_lane(path: str) -> None:
    async with listening(Settings(), lane=True) as (listener, _):
        async with await connect(listener) as stream:
            for _ in range(3):
                await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                assert (await answer_of(stream)).startswith(b"HTTP/1.1 200 ")
        assert listener.lane is not None
        assert listener.lane.statistics().requests_total_count == 3
        assert listener.lane.statistics().handed_over_total_count == 0


def envelope(length_bytes: int, fields: str = "") -> bytes:
    return (
        f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}Content-Length: {length_bytes}\r\n\r\n"
    ).encode()


SEARCH = b'{"kind":"promise.search","head":{"corrId":"1","version":"2026-04-01"},"data":{}}'


@pytest.mark.parametrize("lane", [True, False])
async def test_a_strangers_envelope_is_read_if_it_is_short(lane: bool) -> None:
    """It may say in itself who sends it."""
    async with listening(CLOSED, lane=lane) as (listener, world):
        async with await connect(listener) as stream:
            body = SEARCH + b" " * 60_000
            await stream.send_all(envelope(len(body)) + body)
            assert b'"corrId":"1"' in await answer_of(stream)
        async with await connect(listener) as stream:
            await stream.send_all(envelope(100_000) + SEARCH + b" " * 20_000)
            answer = await answer_of(stream)
        assert answer.startswith(b"HTTP/1.1 401 ")
        async with await connect(listener) as stream:
            wrong = KNOWN.replace("YW5u", "YW5v")
            await stream.send_all(envelope(100_000, wrong) + SEARCH + b" " * 20_000)
            assert (await answer_of(stream)).startswith(b"HTTP/1.1 401 ")
        assert world.api.in_flight.statistics().holds_count == 0


@pytest.mark.parametrize("lane", [True, False])
async def test_a_strangers_envelope_in_chunks_is_read_as_far_as_one_may_be(lane: bool) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    first = b"%x\r\n%b\r\n" % (len(SEARCH), SEARCH)
    async with listening(CLOSED, lane=lane) as (listener, world):
        async with await connect(listener) as stream:
            await stream.send_all(head + first + b"4000\r\n" + b" " * 0x4000 + b"\r\n0\r\n\r\n")
            assert b'"corrId":"1"' in await answer_of(stream)
        async with await connect(listener) as stream:
            await stream.send_all(head + first + b"20000\r\n" + b" " * 0x11000)
            answer = await answer_of(stream)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close\r\n" in answer.lower()
        assert world.api.in_flight.statistics().holds_count == 0


@pytest.mark.parametrize("lane", [True, False])
async def test_an_envelope_waits_for_room(lane: bool) -> None:
    """Others are refused meanwhile: a passing refusal would cost a workflow."""
    body = SEARCH + b" " * 300_000
    async with listening(Settings(), lane=lane) as (listener, world):
        full = world.api.in_flight.hold()
        full.grow_anyway(world.api.in_flight.limit_bytes)
        async with await connect(listener) as other, await connect(listener) as stream:
            await other.send_all(post(300_000) + b"x" * 300_000)
            assert (await answer_of(other)).startswith(b"HTTP/1.1 503 ")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, envelope(len(body)) + body)
                with trio.move_on_after(1) as waiting:
                    await stream.receive_some(1)
                assert waiting.cancelled_caught
                full.release()
            with trio.fail_after(20):
                assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200 ")


PING = b"GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def pinged(stream: trio.SocketStream) -> bytes:
    """The status line of an answer."""
    await stream.send_all(PING)
    return (await answer_of(stream)).partition(b"\r\n")[0]


@pytest.mark.slow
async def test_who_is_idle_makes_room_on_a_full_port() -> None:
    settings = Settings(connection_limit_count=2)
    async with listening(settings, lane=True) as (listener, _):
        async with await connect(listener) as oldest, await connect(listener) as other:
            assert await pinged(oldest) == await pinged(other) == b"HTTP/1.1 200 OK"
            async with await connect(listener) as early:  # nobody has been idle for long
                assert (await answer_of(early)).startswith(b"HTTP/1.1 503 ")
            await trio.sleep(SHED_IDLE_S + 0.1)
            assert await pinged(other) == b"HTTP/1.1 200 OK"
            async with await connect(listener) as newest:
                assert await pinged(newest) == b"HTTP/1.1 200 OK"
            with trio.fail_after(20):
                assert await oldest.receive_some(1) == b""
            assert await pinged(other) == b"HTTP/1.1 200 OK"
        assert listener.room.statistics().shed_total_count == 1


async def test_an_address_with_too_many_connections_is_refused() -> None:
    settings = Settings(connections_per_address_limit_count=2)
    async with listening(settings, lane=True) as (listener, _), await connect(listener) as first:
        async with await connect(listener) as second:
            assert await pinged(first) == await pinged(second) == b"HTTP/1.1 200 OK"
            async with await connect(listener) as third:
                answer = await answer_of(third)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"All 2 connections of one address are in use." in answer
        for _ in range(1000):
            if listener.room.statistics().connections_count == 1:
                break
            await trio.sleep(0.01)
        async with await connect(listener) as later:
            assert await pinged(later) == b"HTTP/1.1 200 OK"


async def test_a_short_body_that_comes_apart_stays_on_the_lane() -> None:
    """Many clients send it after its head, and some say only there who they are."""
    async with listening(CLOSED, lane=True) as (listener, _):
        async with await connect(listener) as stream:
            for _ in range(2):
                await stream.send_all(envelope(len(SEARCH)))
                await trio.testing.wait_all_tasks_blocked(0.01)
                await stream.send_all(SEARCH)
                assert b'"corrId":"1"' in await answer_of(stream)
        assert listener.lane is not None
        assert listener.lane.statistics().handed_over_total_count == 0
