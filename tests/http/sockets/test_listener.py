"""Sockets: what HTTP clients, odd clients and hostile clients get, and how a listener stops."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.http.client import World, running
from troth.core.limits import REFUSALS_AT_ONCE_COUNT
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings
from troth.http.sockets.asgi import CONNECTION_KEY
from troth.http.sockets.listener import SocketListener
from troth.http.sockets.ports import ListenError

ANY_PORT = ListenAddress("127.0.0.1", 0)
PING = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"


@asynccontextmanager
async def listening(
    settings: Settings | None = None, application: Any = None
) -> AsyncIterator[tuple[SocketListener, World]]:
    """A listener on a free port, in front of a running server."""
    settings = settings or Settings()
    async with running(settings) as world, trio.open_nursery() as nursery:
        listener = SocketListener(application or world.application, ANY_PORT, settings)
        await listener.open()
        await nursery.start(listener.run)
        yield listener, world
        listener.cut()


async def _connect(listener: SocketListener) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", listener.port)


async def _read_all(stream: trio.SocketStream) -> bytes:
    received = b""
    with trio.fail_after(60):
        try:
            while data := await stream.receive_some(65536):
                received += data
        except trio.BrokenResourceError:
            received += b"<reset>"
    return received


async def _read_until(stream: trio.SocketStream, end: bytes) -> bytes:
    received = b""
    with trio.fail_after(60):
        while not received.endswith(end):
            data = await stream.receive_some(65536)
            assert data, received
            received += data
    return received


async def _exchange(listener: SocketListener, data: bytes, *, half: bool = True) -> bytes:
    """Send, say that this was all, and read until the server closes."""
    async with await _connect(listener) as stream:
        await stream.send_all(data)
        if half:
            await stream.send_eof()
        return await _read_all(stream)


async def test_a_client_that_has_sent_everything_is_still_answered() -> None:
    async with listening() as (listener, _):
        answer = await _exchange(listener, PING)

        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b'{"status":"ok"}')


async def test_requests_one_after_the_other_and_all_at_once() -> None:
    async with listening() as (listener, _):
        async with await _connect(listener) as stream:
            for _number in range(2):
                await stream.send_all(PING)
                await _read_until(stream, b'{"status":"ok"}')
        answers = await _exchange(listener, PING * 3)

        assert answers.count(b"HTTP/1.1 200 ") == 3


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /ping HTTP/9\r\n\r\n",
        b"GET /ping HTTP/1.1\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b"POST /promises HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST /promises HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"GET " + b"/x" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20_000,
        b"POST /promises HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab",
        b"POST /promises HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_malformed_http_is_400_with_a_body(data: bytes) -> None:
    async with listening() as (listener, _):
        answer = await _exchange(listener, data)

        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert b'{"error":{"code":40000,' in answer
        assert (await _exchange(listener, PING)).startswith(b"HTTP/1.1 200 ")
        assert listener.statistics().failed_total_count == 0


@pytest.mark.parametrize(
    "upgrade",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ],
)
async def test_an_upgrade_is_answered_in_plain_http(upgrade: bytes) -> None:
    async with listening() as (listener, _):
        request = b"GET /ping HTTP/1.1\r\nHost: a\r\n" + upgrade + b"\r\n"

        assert (await _exchange(listener, request)).startswith(b"HTTP/1.1 200 ")


async def test_connect_and_old_http_and_head() -> None:
    async with listening() as (listener, _):
        for request, start in (
            (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 404 "),
            (b"GET /ping HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 "),
            (b"GET http://b/ping HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 "),
            (b"GET /ping HTTP/1.1\r\nHost: \xff[[@:x\r\n\r\n", b"HTTP/1.1 200 "),
        ):
            assert (await _exchange(listener, request)).startswith(start)
        head = await _exchange(listener, b"HEAD /ping HTTP/1.1\r\nHost: a\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\ncontent-length: 15\r\n" in head
        assert head.endswith(b"\r\n\r\n")


async def test_empty_lines_between_requests_mean_nothing() -> None:
    async with listening() as (listener, _):
        answers = await _exchange(listener, b"\r\n\r\n" + PING + b"\r\n" + PING + b"\r\n\r\n")
        assert answers.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert answers.count(b"HTTP/1.1 ") == 2
        async with await _connect(listener) as stream:
            for piece in (b"\r", b"\n\r", b"\n" + PING):
                await stream.send_all(piece)
                await trio.testing.wait_all_tasks_blocked(0.01)
            await _read_until(stream, b'{"status":"ok"}')
            # Nor is what follows an answer the beginning of a request that must come in time.
            await stream.send_all(b"\r\n")
            await trio.testing.wait_all_tasks_blocked(0.01)
            (connection,) = listener._connections
            assert connection._header_deadline is None
        for wrong in (b"\n" + PING, b"\r" + PING, b"\r\n\rX" + PING):
            assert (await _exchange(listener, wrong)).startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize(
    "lengths", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n"]
)
@pytest.mark.parametrize("encoding", [b"gzip", b"identity\r\nContent-Encoding: br", b"x"])
async def test_an_encoded_body_is_415(lengths: bytes, encoding: bytes) -> None:
    async with listening() as (listener, _):
        start = b"POST /promises HTTP/1.1\r\nHost: a\r\nContent-Encoding: "
        answer = await _exchange(listener, start + encoding + b"\r\n" + lengths)
        assert answer.startswith(b"HTTP/1.1 415 Unsupported Media Type\r\n")
        assert b'{"error":{"code":41500,' in answer
        # Nothing is encoded where there is nothing.
        nothing = b"GET /ping HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\n\r\n"
        assert (await _exchange(listener, nothing)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_can_read_the_413_although_it_has_more_to_send(chunked: bool) -> None:
    async with listening(Settings(body_limit_bytes=1024)) as (listener, _):
        if chunked:
            head = b"Transfer-Encoding: chunked\r\n\r\n"
            body = (b"10000\r\n" + b"x" * 0x10000 + b"\r\n") * 16
        else:
            head = b"Content-Length: 1048576\r\n\r\n"
            body = b"x" * 1_000_000
        request = b"POST /promises HTTP/1.1\r\nHost: a\r\n" + head + body
        answer = await _exchange(listener, request, half=False)

        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.lower().count(b"\r\nconnection: close\r\n") == 1
        assert answer.endswith(b"}")


async def test_expect_continue_is_honoured() -> None:
    async with listening() as (listener, _), await _connect(listener) as stream:
        head = b"POST /promises HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n"
        await stream.send_all(head + b"Expect: 100-continue\r\n\r\n")
        assert (await _read_until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b'{"id":"a"}')
        assert (await _read_until(stream, b"}")).startswith(b"HTTP/1.1 201 ")


async def test_a_slow_head_is_408_and_idleness_ends_quietly() -> None:
    settings = Settings(header_timeout_ms=100, keep_alive_timeout_ms=150)
    async with listening(settings) as (listener, _):
        async with await _connect(listener) as slow:
            await slow.send_all(b"GET /ping HTTP/1.1\r\n")
            answer = await _read_all(slow)
        async with await _connect(listener) as idle:
            nothing = await _read_all(idle)
        async with await _connect(listener) as kept:
            await kept.send_all(PING)
            answered = await _read_all(kept)

        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":40800' in answer
        assert nothing == b""
        assert answered.count(b"HTTP/1.1") == 1


async def test_a_connection_too_many_is_503() -> None:
    async with listening(Settings(connection_limit_count=1)) as (listener, _):
        async with await _connect(listener) as first:
            await first.send_all(PING)
            await _read_until(first, b"}")
            refused = await _exchange(listener, b"")

        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1\r\n" in refused
        assert listener.statistics().refused_total_count == 1


async def test_a_flood_of_connections_that_say_nothing_is_answered_too() -> None:
    flood_count = 3 * REFUSALS_AT_ONCE_COUNT
    async with (
        listening(Settings(connection_limit_count=1)) as (listener, _),
        await _connect(listener) as first,
    ):
        await first.send_all(PING)
        await _read_until(first, b"}")
        flood = [await _connect(listener) for _ in range(flood_count)]
        for stream in flood:
            refused = await _read_all(stream)
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1\r\n" in refused
            assert b'"code":50301' in refused
            await stream.aclose()

        assert listener.statistics().refused_total_count == flood_count


async def test_an_application_that_fails_ends_only_its_own_request(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a defect")

    async with listening(application=failing) as (listener, _):
        for _number in range(2):
            assert (await _exchange(listener, PING, half=False)).startswith(b"HTTP/1.1 500 ")
        assert "a defect" in capsys.readouterr().out


async def test_a_reader_that_stops_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    finished = trio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not scope["state"][CONNECTION_KEY].is_broken:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        finished.set()

    settings = Settings()
    listener = SocketListener(endless, ANY_PORT, settings, write_timeout_ms=100)
    async with trio.open_nursery() as nursery:
        await listener.open()
        await nursery.start(listener.run)
        async with await _connect(listener) as stream:
            await stream.send_all(PING)
            with trio.fail_after(60):
                await finished.wait()
        listener.cut()


async def test_a_worker_that_leaves_frees_its_place() -> None:
    async with listening() as (listener, world):
        stream = await _connect(listener)
        await stream.send_all(b"GET /poll/g/w HTTP/1.1\r\nHost: a\r\n\r\n")
        await _read_until(stream, b": connected\n\n\r\n")
        assert world.api.polls.statistics().connections_count == 1
        await stream.aclose()
        with trio.fail_after(60):
            while world.api.polls.statistics().connections_count:
                await trio.testing.wait_all_tasks_blocked(0.001)


async def test_stopping_ends_streams_and_idle_connections_and_frees_the_port() -> None:
    async with listening() as (listener, _):
        idle = await _connect(listener)
        await idle.send_all(PING)
        await _read_until(idle, b"}")
        worker = await _connect(listener)
        await worker.send_all(b"GET /poll/g/w HTTP/1.1\r\nHost: a\r\n\r\n")
        await _read_until(worker, b": connected\n\n\r\n")
        with trio.fail_after(60):
            await listener.stop()

        assert await _read_all(idle) == b""
        assert await _read_all(worker) == b"0\r\n\r\n"  # the regular end of a chunked body
        with pytest.raises(OSError, match=r"."):
            await _connect(listener)
        await idle.aclose()
        await worker.aclose()


async def test_stopping_waits_for_the_request_in_flight() -> None:
    arrived, go_on = trio.Event(), trio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        arrived.set()
        await go_on.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with listening(application=slow) as (listener, _), trio.open_nursery() as nursery:
        stream = await _connect(listener)
        await stream.send_all(PING)
        await arrived.wait()
        nursery.start_soon(listener.stop)
        await trio.testing.wait_all_tasks_blocked()
        assert listener.statistics().connections_count == 1
        go_on.set()

        assert (await _read_all(stream)).startswith(b"HTTP/1.1 204 ")
        await stream.aclose()


async def test_a_port_in_use_is_one_clear_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with running() as world:
            listener = SocketListener(
                world.application, ListenAddress("127.0.0.1", port), world.api.settings
            )
            with pytest.raises(ListenError, match=f"127.0.0.1 port {port} is in use"):
                await listener.open()
            nowhere = SocketListener(
                world.application, ListenAddress("192.0.2.1", 80), world.api.settings
            )
            with pytest.raises(ListenError, match=r"192\.0\.2\.1"):
                await nowhere.open()
