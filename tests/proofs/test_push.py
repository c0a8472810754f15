"""One slow, one dead and one hostile push target among a hundred good ones delay none of the good.

All targets are ports of this process; the server pushes to them over real sockets. A fourth bad
one never even accepts. What the dead one has missed it gets when it is back.
"""

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.helpers.server import ServerProcess, free_ports

from .support import FAR_MS, Client

GOOD_COUNT: Final = 100
MESSAGES_EACH_COUNT: Final = 5
BAD_MESSAGES_COUNT: Final = 30
SLOW_S: Final = 5.0
LATE_LIMIT_S: Final = 2.0  # on a busy machine; far less than any bad target takes
OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
ARGUMENTS: Final = (
    *("--push-timeout-ms", "8000"),
    *("--task-claim-timeout-ms", "60000"),  # nobody claims here, and nothing is to go out twice
    *("--task-retry-first-ms", "100"),
    *("--task-retry-limit-ms", "1000"),
)

Handler = Callable[[trio.SocketStream], Awaitable[None]]


@dataclass
class Targets:
    """Who was sent what, and when (on trio's clock)."""

    arrived: dict[str, float] = field(default_factory=dict)
    arrivals_count: int = 0
    _arrival: trio.Event = field(default_factory=trio.Event)

    async def wait_for(self, task_ids: set[str], timeout_s: float) -> None:
        """Wait until all these have arrived. Raises `trio.TooSlowError`."""
        with trio.fail_after(timeout_s):
            while not task_ids <= self.arrived.keys():
                await self._arrival.wait()

    async def good(self, stream: trio.SocketStream) -> None:
        """Takes every message at once."""
        async with stream:
            while (task_id := await self._message(stream)) is not None:
                self.arrived.setdefault(task_id, trio.current_time())
                self.arrivals_count += 1
                self._arrival.set()
                self._arrival = trio.Event()
                await stream.send_all(OK)

    async def slow(self, stream: trio.SocketStream) -> None:
        """Takes every message after a long time."""
        async with stream:
            while await self._message(stream) is not None:
                await trio.sleep(SLOW_S)
                await stream.send_all(OK)

    async def hostile(self, stream: trio.SocketStream) -> None:
        """Answers without end, at full speed."""
        async with stream:
            await self._message(stream)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                await stream.send_all(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                await trio.sleep(0.001)

    async def _message(self, stream: trio.SocketStream) -> str | None:
        """Read one push; the id of its task, None if the server has hung up."""
        content = b""
        while b"\r\n\r\n" not in content:
            part = await stream.receive_some()
            if not part:
                return None
            content += part
        head, _, body = content.partition(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        while len(body) < length:
            body += await stream.receive_some()
        task_id: str = json.loads(body)["task"]["id"]
        return task_id


@asynccontextmanager
async def serving(handler: Handler, port: int = 0) -> AsyncIterator[int]:
    """Listen while the block runs; the port. A client that hangs up ends only its connection."""

    async def handle(stream: trio.SocketStream) -> None:
        try:
            await handler(stream)
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()  # the server has given this target up

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, handle, port, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(serve)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def create_all(url: str, good: list[int], bad: list[int]) -> dict[str, float]:
    """Create the promises whose tasks are pushed, the bad targets' first; when each was created."""
    plan = [(f"bad{n}.{port}", port) for port in bad for n in range(BAD_MESSAGES_COUNT)]
    plan += [(f"good{n}.{port}", port) for n in range(MESSAGES_EACH_COUNT) for port in good]
    created = {}
    with Client(url) as client:
        for name, port in plan:
            receiver = f"http://127.0.0.1:{port}/push"
            body = {"id": name, "timeout": FAR_MS, "tags": {"resonate:invoke": receiver}}
            assert client.call("POST", "/promises", body)[0] == 201
            created[f"__invoke:{name}"] = trio.from_thread.run_sync(trio.current_time)
    return created


@pytest.mark.slow
@pytest.mark.alone
async def test_bad_targets_delay_none_of_the_good(tmp_path: Path) -> None:
    targets = Targets()
    async with AsyncExitStack() as stack:
        good = [await stack.enter_async_context(serving(targets.good)) for _ in range(GOOD_COUNT)]
        slow = await stack.enter_async_context(serving(targets.slow))
        hostile = await stack.enter_async_context(serving(targets.hostile))
        dead = free_ports(1)[0]
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        bad = [dead, slow, hostile, deaf.getsockname()[1]]
        server = stack.enter_context(ServerProcess(tmp_path, *ARGUMENTS))

        created = await trio.to_thread.run_sync(create_all, server.url, good, bad)
        for_good = {name for name in created if name.startswith("__invoke:good")}
        await targets.wait_for(for_good, 10)

        late_s = sorted(targets.arrived[name] - created[name] for name in for_good)
        print(f"p50 {late_s[len(late_s) // 2]:.3f} s, last {late_s[-1]:.3f} s")
        assert len(late_s) == GOOD_COUNT * MESSAGES_EACH_COUNT
        assert late_s[-1] < LATE_LIMIT_S
        assert targets.arrivals_count == len(late_s), "each was sent once"

        for_dead = {name for name in created if name.endswith(f".{dead}")}
        await stack.enter_async_context(serving(targets.good, dead))
        await targets.wait_for(for_dead, 20)
        assert await trio.to_thread.run_sync(server.request, "GET", "/ready") == (
            200,
            {"status": "ready"},
        )
