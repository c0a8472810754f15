"""Connections to other hosts: every one is closed in the end, whenever its exchange is canceled."""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpcore
import httpx
import pytest
import trio
import trio.testing

from tests.http.function_world import functions_running
from tests.http.tenants import tenant
from troth.core.catalog import Capabilities, Function, FunctionKind
from troth.core.commands import CreateEntry
from troth.core.grammar.addresses import PushAddress
from troth.http.functions.values import new_id
from troth.http.outgoing.connections import PoolTransport, exchange, make_transport, usual_trust
from troth.http.outgoing.guards import Guard
from troth.http.outgoing.push import PushSender

CLOSE_TIMEOUT_S = 5.0
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CONNECT = httpcore.TrioBackend.connect_tcp


class Host:
    """A host that keeps connections open for as long as the other side does."""

    def __init__(self) -> None:
        self.port = 0
        self.seen_count = 0
        self._open_count = 0
        self._changed = trio.Event()

    async def serve(self, is_silent: bool, stream: trio.SocketStream) -> None:
        """Answer requests, which have no bodies here; or only read them."""
        self._count(+1)
        try:
            while await stream.receive_some():
                if not is_silent:
                    await stream.send_all(ANSWER)
        except trio.BrokenResourceError:
            pass  # the other side went away while it was answered
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self.seen_count += max(change, 0)
        self._open_count += change
        self._changed.set()
        self._changed = trio.Event()

    async def wait_until_open(self, count: int) -> None:
        """Wait until so many connections are open."""
        with trio.fail_after(CLOSE_TIMEOUT_S):
            while self._open_count != count:
                await self._changed.wait()


@asynccontextmanager
async def hosting(*, is_silent: bool = False) -> AsyncIterator[Host]:
    """A host for the time of a `with` block."""
    host = Host()
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, partial(host.serve, is_silent), 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        host.port = listeners[0].socket.getsockname()[1]
        yield host
        nursery.cancel_scope.cancel()


class CancelBeforeStep(trio.abc.Instrument):
    """Cancels what one task does, just before it goes on for the so-manieth time.

    What it waited for has happened then: no timing is needed to meet such a moment.
    """

    def __init__(self, steps_count: int, scope: trio.CancelScope) -> None:
        self._left_count = steps_count
        self._scope = scope
        self._task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """See trio."""
        if task is self._task:
            self._left_count -= 1
            if self._left_count == 0:
                self._scope.cancel()


async def is_canceled_at(step: int, work: Callable[[], Awaitable[object]]) -> bool:
    """Whether something was not done before its task went on for the so-manieth time."""
    with trio.CancelScope() as scope:
        instrument = CancelBeforeStep(step, scope)
        trio.lowlevel.add_instrument(instrument)
        try:
            await work()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught


async def one_exchange(transport: PoolTransport, port: int) -> None:
    response = await exchange(transport, httpx.Request("GET", f"http://127.0.0.1:{port}/"))
    try:
        assert await response.aread() == b"ok"
    finally:
        await response.aclose()


async def connect_late(self: httpcore.TrioBackend, *arguments: Any, **more: Any) -> Any:
    """Connect although canceled, as trio does if that has taken more than a quarter of a second."""
    with trio.CancelScope(shield=True):
        return await CONNECT(self, *arguments, **more)


@pytest.mark.slow
@pytest.mark.parametrize("guard", [None, lambda *_: True], ids=["unguarded", "guarded"])
@pytest.mark.parametrize("connect", [CONNECT, connect_late], ids=["soon", "late"])
async def test_an_exchange_may_be_canceled_at_any_moment(
    guard: Guard | None, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpcore.TrioBackend, "connect_tcp", connect)
    async with hosting() as host:
        step, is_canceled = 0, True
        while is_canceled:
            step += 1
            transport = make_transport(guard=guard)
            is_canceled = await is_canceled_at(step, partial(one_exchange, transport, host.port))
            if is_canceled:
                # Nobody has closed the pool: what it has kept open is lost.
                await trio.testing.wait_all_tasks_blocked()
                await host.wait_until_open(0)
            await transport.aclose()
            await host.wait_until_open(0)
        assert step > 5
        assert host.seen_count > 3  # it was canceled before, while and after connecting
    gc.collect()  # a connection that nobody closed warns now


async def test_the_authorities_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    usual_trust.cache_clear()
    reads: list[bool] = []
    read = httpx.create_ssl_context

    def noted(**options: Any) -> Any:
        reads.append(True)
        return read(**options)

    monkeypatch.setattr(httpx, "create_ssl_context", noted)
    for _ in range(3):
        await make_transport().aclose()

    assert len(reads) == 1


async def test_an_idle_connection_stays_usable_whenever_an_exchange_on_it_is_canceled() -> None:
    async with hosting() as host:
        transport = make_transport()
        step, is_canceled = 0, True
        while is_canceled:
            step += 1
            await one_exchange(transport, host.port)
            is_canceled = await is_canceled_at(step, partial(one_exchange, transport, host.port))
        await one_exchange(transport, host.port)
        await host.wait_until_open(1)
        await transport.aclose()
        await host.wait_until_open(0)
    gc.collect()


async def test_a_handshake_may_be_canceled() -> None:
    async with hosting(is_silent=True) as host, trio.open_nursery() as nursery:
        transport = make_transport()
        request = httpx.Request("GET", f"https://127.0.0.1:{host.port}/")
        nursery.start_soon(exchange, transport, request)
        await host.wait_until_open(1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    gc.collect()


async def test_calls_of_functions_close_their_connections_when_they_end() -> None:
    async with hosting() as host:
        async with functions_running() as world:
            customer = tenant(world)
            function = Function(
                new_id(0),
                1,
                0,
                customer.account_id,
                "f",
                FunctionKind.HTTP,
                url=f"http://127.0.0.1:{host.port}/",
                capabilities=Capabilities(timeout_s=10),
            )
            await world.shards.ask(CreateEntry(function))
            task_id = (await customer.send("POST", f"/task/{function.id}")).json["id"]
            result = await customer.send("GET", f"/task/{task_id}/result?wait=30")
            assert (result.status, result.body) == (200, b"ok")
            await host.wait_until_open(1)  # to be used again
        await host.wait_until_open(0)
    gc.collect()


async def test_pushes_close_their_connections_when_they_end() -> None:
    async with hosting() as host:
        async with PushSender(timeout_ms=10_000, is_free=lambda: True) as sender:
            await sender.send(PushAddress(f"http://127.0.0.1:{host.port}/", ()), b"", {})
            await host.wait_until_open(1)
        await host.wait_until_open(0)
    gc.collect()
