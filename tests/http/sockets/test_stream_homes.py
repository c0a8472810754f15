"""Workers' streams that are accepted by any process, and served by the home of their group."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from troth.core.grammar.addresses import PollAddress
from troth.http.sockets import stream_homes
from troth.http.sockets.departures import HOME
from troth.http.sockets.stream_homes import StreamHomes
from troth.shards.delivery.dialects import Dialect
from troth.shards.delivery.polls import Polls
from troth.shards.mesh.homes import HomeFinder

from .test_link_sockets import LIMIT_S, Served, make

COUNT = 2


@dataclass
class Process:
    """One process: its port, its streams, and what brings them."""

    served: Served
    polls: Polls
    homes: StreamHomes
    scope: trio.CancelScope

    async def take_streams(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Take what others bring, until the scope is canceled."""
        with self.scope:
            await self.homes.run([self.served.listener], task_status=task_status)


@asynccontextmanager
async def processes(directory: Path) -> AsyncIterator[list[Process]]:
    """Run several processes in one loop, over real sockets."""
    async with trio.open_nursery() as nursery:
        found = []
        for k in range(COUNT):
            served = await make(nursery, directory, k, COUNT)
            homes = StreamHomes(served.process.place)
            served.listener.bring_streams(homes, 0)
            process = Process(served, served.lane._api.polls, homes, trio.CancelScope())
            await nursery.start(process.take_streams)
            found.append(process)
        yield found
        for process in found:
            process.served.listener.cut()
        nursery.cancel_scope.cancel()


def group_at(home: int, name: str = "workers") -> str:
    """The name of a group whose home a process is."""
    number = 0
    while HomeFinder(COUNT).of_address(PollAddress(f"{name}{number}", None, "any")) != home:
        number += 1
    return f"{name}{number}"


def asked(group: str, name: str = "one", more: str = "") -> bytes:
    return f"GET /poll/{group}/{name} HTTP/1.1\r\nHost: x\r\nRequest-Id: r\r\n{more}\r\n".encode()


async def head_of(stream: trio.SocketStream) -> str:
    """Read until the stream is open."""
    received = b""
    with trio.fail_after(LIMIT_S):
        while not received.endswith(b": connected\n\n\r\n"):
            part = await stream.receive_some()
            assert part, received
            received += part
    return received.decode()


async def opened(process: Process, request: bytes) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", process.served.listener.port)
    await stream.send_all(request)
    return stream


async def test_a_stream_on_the_wrong_process_goes_to_its_home(tmp_path: Path) -> None:
    async with processes(tmp_path) as (first, second):
        group = group_at(0)
        direct = await opened(first, asked(group, "direct"))
        brought = await opened(second, asked(group, "brought"))
        heads = [await head_of(stream) for stream in (direct, brought)]
        assert without_date(heads[0]) == without_date(heads[1])
        assert {one.id: one.peer for one in first.polls.connections()} == {
            "direct": "127.0.0.1",
            "brought": "127.0.0.1",
        }
        assert second.polls.connections() == []
        assert second.served.lane.statistics().handed_over_by_reason[HOME] == 1
        assert second.served.lane.connections_count == 0
        assert second.served.listener.room.statistics().connections_count == 0
        await brought.aclose()
        with trio.fail_after(LIMIT_S):
            while first.polls.find(group, "brought") is not None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await direct.aclose()


async def test_the_newest_stream_of_an_id_wins_wherever_it_comes(tmp_path: Path) -> None:
    async with processes(tmp_path) as (first, second):
        group = group_at(1)
        older = await opened(first, asked(group))
        await head_of(older)
        newer = await opened(second, asked(group))
        await head_of(newer)
        with trio.fail_after(LIMIT_S):
            assert await older.receive_some() == b"0\r\n\r\n"
        newest = await opened(first, asked(group))
        await head_of(newest)
        with trio.fail_after(LIMIT_S):
            assert await newer.receive_some() == b"0\r\n\r\n"
        assert len(second.polls.connections()) == 1
        for stream in (older, newer, newest):
            await stream.aclose()


async def test_what_was_read_before_and_after_the_request_is_passed_on(tmp_path: Path) -> None:
    """The request comes in pieces, with a body, and others follow: all is served at the home."""
    async with processes(tmp_path) as (first, second):
        group = group_at(0)
        request = asked(group, more="Content-Length: 3\r\n") + b"abc"
        stream = await opened(second, request[:30])
        await trio.sleep(0.05)
        await stream.send_all(request[30:] + b"GET /promises/nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        await head_of(stream)
        first.polls.close()
        received = b""
        with trio.fail_after(LIMIT_S):
            while b"HTTP/1.1 404" not in received:
                received += await stream.receive_some()
        assert received.startswith(b"0\r\n\r\nHTTP/1.1 404")
        await stream.aclose()


async def test_a_home_that_is_away_is_waited_for(tmp_path: Path) -> None:
    async with processes(tmp_path) as (first, second):
        first.scope.cancel()
        await trio.sleep(0.1)
        stream = await opened(second, asked(group_at(0)))
        await trio.sleep(0.3)
        assert first.polls.connections() == []
        async with trio.open_nursery() as nursery:
            first.scope = trio.CancelScope()
            first.homes = StreamHomes(first.served.process.place)
            await nursery.start(first.take_streams)
            await head_of(stream)
            nursery.cancel_scope.cancel()
        await stream.aclose()


async def test_a_home_that_stays_away_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_homes, "STREAM_WAIT_S", 0.2)
    async with processes(tmp_path) as (first, second):
        first.scope.cancel()
        stream = await opened(second, asked(group_at(0)))
        with trio.fail_after(LIMIT_S):
            answer = b"".join([part async for part in stream])
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in answer
        assert b"being started again" in answer
        await stream.aclose()
        assert second.served.listener.room.statistics().connections_count == 0


async def test_a_home_that_hangs_does_not_answer_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP: it finds the connection when it goes on, but who brought it has given it up."""
    monkeypatch.setattr(stream_homes, "STREAM_WAIT_S", 0.2)
    async with processes(tmp_path) as (first, second):
        first.scope.cancel()
        await trio.sleep(0.05)
        path = tmp_path / "streams-0"
        path.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hung:
            hung.bind(str(path))
            hung.listen()
            stream = await opened(second, asked(group_at(0)))
            with trio.fail_after(LIMIT_S):
                answer = b"".join([part async for part in stream])
            assert answer.startswith(b"HTTP/1.1 503 ")
            way, _ = hung.accept()
            with trio.socket.from_stdlib_socket(way) as late:
                way.setblocking(False)
                with pytest.raises(OSError, match="Broken pipe"):
                    await stream_homes._take_one(late, [first.served.listener])
        await stream.aclose()
        assert first.polls.connections() == []


async def test_a_stranger_cannot_bring_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with processes(tmp_path) as (first, second):
        monkeypatch.setattr(stream_homes, "is_same_user", lambda _: False)
        monkeypatch.setattr(stream_homes, "STREAM_WAIT_S", 0.3)
        stream = await opened(second, asked(group_at(0)))
        with trio.fail_after(LIMIT_S):
            answer = b"".join([part async for part in stream])
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert first.polls.connections() == []
        await stream.aclose()


async def test_a_connection_that_fails_at_its_home_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with processes(tmp_path) as (first, second):
        group = group_at(0)

        def fail(*_: object) -> None:
            raise RuntimeError("planted")

        with monkeypatch.context() as planted:
            planted.setattr(first.served.lane, "serve", fail)
            stream = await opened(second, asked(group))
            with trio.fail_after(LIMIT_S):
                assert b"".join([part async for part in stream]) == b""
            await stream.aclose()
        assert first.served.listener.room.statistics().connections_count == 0
        stream = await opened(second, asked(group))
        await head_of(stream)
        await stream.aclose()


async def test_a_home_without_descriptors_takes_a_connection_when_it_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with processes(tmp_path) as (first, second):
        monkeypatch.setattr(stream_homes, "_connection_in", lambda _: None)
        stream = await opened(second, asked(group_at(0)))
        await trio.sleep(0.3)
        assert first.polls.connections() == []
        monkeypatch.undo()
        await head_of(stream)
        await stream.aclose()


async def test_the_dialect_goes_by_the_port_and_what_is_known(tmp_path: Path) -> None:
    async with processes(tmp_path) as (first, second):
        first.polls.decide("one", Dialect.ENVELOPE)
        stream = await opened(second, asked(group_at(0)))
        await head_of(stream)
        assert first.polls.connections()[0].dialect is Dialect.ENVELOPE
        await stream.aclose()


def without_date(head: str) -> list[str]:
    return [line for line in head.split("\r\n") if not line.startswith("date")]
