"""The door of a node: each connection gets to the process that it is for, and strangers nowhere."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from tests.shards.mesh.world import until
from troth.http.links import node_door
from troth.http.links.node_door import NodeDoor
from troth.http.links.strangers import Strangers
from troth.shards.guard.handshake import encode_call

LIMIT_S = 30


@dataclass
class Process:
    """One process of the node: it answers what it is sent, after its number."""

    group: int
    strangers: Strangers = field(default_factory=lambda: Strangers(trio.current_time, 4))
    served_count: int = 0
    trusts: bool = True

    async def welcome(self, connected: socket.socket, is_trusted: Callable[[], None]) -> None:
        """Serve a connection until it ends."""
        self.served_count += 1
        if self.trusts:
            is_trusted()
        connected.setblocking(False)
        stream = trio.socket.from_stdlib_socket(connected)
        while data := await stream.recv(100):
            await stream.send(b"%d:" % self.group + data)


@asynccontextmanager
async def node(directory: Path, *groups: int) -> AsyncIterator[tuple[int, list[Process]]]:
    """Run the doors of a node's processes; the first one accepts what comes from outside."""
    processes = [Process(group) for group in groups]
    with ExitStack() as stack:
        doors = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in groups]
        async with trio.open_nursery() as nursery:
            for listening, one in zip(doors, processes, strict=True):
                door = NodeDoor([listening], one.group, directory, one.strangers, one.welcome)
                await nursery.start(door.run)
            yield doors[0].getsockname()[1], processes
            nursery.cancel_scope.cancel()


async def said(port: int, data: bytes) -> bytes:
    """Connect, say something, and return the answer; nothing if the connection ends."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(LIMIT_S):
            try:
                await stream.send_all(data)
                return bytes(await stream.receive_some())
            except trio.BrokenResourceError:
                return b""


async def test_each_connection_gets_to_the_process_of_its_group(tmp_path: Path) -> None:
    async with node(tmp_path, 3, 5) as (port, processes):
        assert await said(port, encode_call(3) + b"hello") == b"3:hello"
        assert await said(port, encode_call(5) + b"hello") == b"5:hello"
        assert [process.served_count for process in processes] == [1, 1]
        assert await said(port, encode_call(4) + b"hello") == b"", "no process of it is here"
        with trio.fail_after(LIMIT_S):
            await until(lambda: not any(len(process.strangers) for process in processes))


async def test_what_calls_otherwise_is_cut_off_and_logged_once(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with node(tmp_path, 3) as (port, processes):
            for _ in range(5):
                assert await said(port, b"GET / HTTP/1.1\r\n\r\n") == b""
            assert processes[0].served_count == 0
            assert processes[0].strangers.refused_count == 5
    assert [one["event"] for one in logs] == ["a link was refused"]


async def test_strangers_that_wait_keep_out_no_one(tmp_path: Path) -> None:
    async with node(tmp_path, 3) as (port, (process,)):
        streams = []
        for count in range(1, 11):
            streams.append(await trio.open_tcp_stream("127.0.0.1", port))
            await streams[-1].send_all(encode_call(3)[:5])
            with trio.fail_after(LIMIT_S):
                arrived = min(count, 4)
                await until(lambda: len(process.strangers) == arrived)  # noqa: B023
        with trio.fail_after(LIMIT_S):
            await until(lambda: process.strangers.cut_off_count == 6)
            for stream in streams[:6]:
                assert not await stream.receive_some(), "the oldest were cut off"
        assert await said(port, encode_call(3) + b"hello") == b"3:hello"
        for stream in streams:
            await stream.aclose()


async def test_who_is_let_in_is_no_stranger_any_more(tmp_path: Path) -> None:
    async with node(tmp_path, 3) as (port, (process,)):
        streams = []
        for _ in range(8):
            streams.append(await trio.open_tcp_stream("127.0.0.1", port))
            await streams[-1].send_all(encode_call(3) + b"hello")
            assert await streams[-1].receive_some() == b"3:hello"
        assert (len(process.strangers), process.strangers.cut_off_count) == (0, 0)
        for stream in streams:
            await stream.aclose()


async def test_a_stranger_that_is_slow_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_door, "HANDSHAKE_LIMIT_S", 0.1)
    async with node(tmp_path, 3) as (port, (process,)):
        assert await said(port, encode_call(3)[:-1]) == b""
        assert process.strangers.refused_count == 1
