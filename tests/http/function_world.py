"""A server that runs function tasks, without sockets: real shards and placement, scripted nodes.

Its clock is trio's, so that a test with `autojump_clock` lets leases and timeouts pass in no time.
"""

import base64
import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from troth.core.catalog import Build, BuildStatus, Capabilities, Function, FunctionKind, Language
from troth.core.commands import CreateEntry
from troth.http.api.context import Api
from troth.http.executions.calls import FunctionCalls
from troth.http.functions.builder import Builder
from troth.http.functions.values import new_id
from troth.http.outgoing.guards import Guard
from troth.http.settings.settings import Settings
from troth.shards.clock import SteadyClock
from troth.shards.delivery.polls import Polls
from troth.shards.outgoing import OutgoingRoutes
from troth.shards.placement.endings import Endings
from troth.shards.placement.placement import Placement
from troth.shards.shards import Shards
from troth.shards.storage import MemoryStorage
from troth.shards.surveys.queues import Queues
from troth.shards.surveys.surveys import Surveys

from .client import NOW_MS, Answer, Outbox, World, applications, scope
from .tenants import Tenant, tenant

NODE = "1a061cfd-df01-4b02-a067-5122c5941e15"
OTHER_NODE = "2b061cfd-df01-4b02-a067-5122c5941e16"


class TrioClock(SteadyClock):
    """The time that passes for trio, from a fixed day on."""

    def __init__(self) -> None:
        self._started = trio.current_time()

    def now_ms(self) -> int:
        """Now."""
        return NOW_MS + math.floor((trio.current_time() - self._started) * 1000)


@dataclass
class FunctionWorld(World):
    """A running server; `shards` behind it."""

    shards: Shards = field(kw_only=True)

    async def function(
        self, account_id: str, *, paused: bool = False, built: bool = True, **wanted: int | bool
    ) -> str:
        """A Python function with a build; its id."""
        function_id, build_id = new_id(NOW_MS), new_id(NOW_MS)
        if built:
            build = Build(
                build_id, 1, NOW_MS, account_id, function_id, BuildStatus.SUCCESS, "d" * 64, 1
            )
            await self.shards.ask(CreateEntry(build))
        function = Function(
            function_id,
            1,
            NOW_MS,
            account_id,
            "f",
            FunctionKind.CODE,
            language=Language.PYTHON,
            build_id=build_id if built else None,
            paused=paused,
            capabilities=Capabilities(**wanted),  # type: ignore[arg-type]  # names are checked
        )
        await self.shards.ask(CreateEntry(function))
        return function_id


@asynccontextmanager
async def functions_running(
    settings: Settings | None = None, guard: Guard | None = None
) -> AsyncIterator[FunctionWorld]:
    """A server for the time of a `with` block; `guard` judges where functions may be."""
    settings = settings or Settings()
    clock = TrioClock()
    outbox = Outbox()
    storage = MemoryStorage(4)
    polls = Polls(connections_limit_count=10, buffer_limit_count=10)
    endings = Endings(limit_count=100)
    calls = FunctionCalls(
        ask=lambda command: shards.ask(command),
        body_limit_bytes=settings.body_limit_bytes,
        guard=guard,
    )
    placement = Placement(
        report=lambda command: shards.tell(command),
        calls=calls,
        endings=endings,
        now_ms=clock.now_ms,
        calls_concurrency_count=8,
        calls_per_host_count=4,
    )
    calls.attach(placement)
    shards = Shards(
        shard_count=4,
        clock=clock,
        outgoing=OutgoingRoutes(outbox, placement),
        cursor_secret=storage.secret,
    )
    api = Api(
        settings=settings,
        url="http://troth.test",
        shards=shards,
        polls=polls,
        hold=shards.hold,
        now_ms=clock.now_ms,
        placement=placement,
        endings=endings,
        surveys=Surveys(shards, outbox, polls, placement, clock.now_ms),
        queues=Queues(shards, polls, outbox),
    )
    shards.recover(storage)
    async with trio.open_nursery() as nursery:
        await nursery.start(placement.run)
        await nursery.start(calls.run)
        await nursery.start(shards.run, storage.make_writer)
        yield FunctionWorld(
            api,
            *applications(api),
            outbox,
            clock,  # type: ignore[arg-type]  # has what is asked of it
            Builder(api),  # which does not run: nothing is uploaded here
            shards=shards,
        )
        nursery.cancel_scope.cancel()


class ScriptedNode:
    """A node that does what a test says."""

    def __init__(self, tenant: Tenant, node_id: str = NODE) -> None:
        self.tenant = tenant
        self.id = node_id
        self.answer = Answer()
        self._orders: list[dict[str, Any]] = []
        self._arrived = trio.Event()
        self._scope: trio.CancelScope | None = None

    async def register(self, **body: object) -> Answer:
        """Register, with Python unless the body says otherwise."""
        return await self.tenant.send("POST", f"/node/{self.id}", {"languages": ["PY"], **body})

    async def connect(self, nursery: trio.Nursery) -> None:
        """Open the stream and take the first order, `hello`."""
        nursery.start_soon(self._stream)
        assert (await self.order())["type"] == "hello"

    async def _stream(self) -> None:
        world = self.tenant.world

        async def receive() -> Any:
            if asked:
                await trio.sleep_forever()
            asked.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}

        async def take(message: Any) -> None:
            await trio.lowlevel.checkpoint()
            if message["type"] == "http.response.start":
                self.answer.status = message["status"]
            for event in message.get("body", b"").split(b"\n\n"):
                if event.startswith(b"data: "):
                    self._orders.append(json.loads(event[6:]))
                    self._arrived.set()

        asked: list[bool] = []
        path = f"/v1/node/{self.id}/work"
        with trio.CancelScope() as self._scope:
            await world.application(scope("GET", path, self.tenant.headers), receive, take)

    def disconnect(self) -> None:
        """Lose the stream."""
        assert self._scope is not None
        self._scope.cancel()

    async def order(self, within_s: float = 1.0) -> dict[str, Any]:
        """The next order."""
        with trio.fail_after(within_s):
            while not self._orders:
                self._arrived = trio.Event()
                await self._arrived.wait()
        return self._orders.pop(0)

    async def run_order(self, within_s: float = 1.0) -> tuple[str, int]:
        """The next order, which is to run something: the task and its counter."""
        order = await self.order(within_s)
        assert order["type"] == "run"
        return order["task"]["id"], order["task"]["counter"]

    @property
    def orders_count(self) -> int:
        """How many orders have not been looked at."""
        return len(self._orders)

    async def assign(self, task_id: str, counter: int) -> Answer:
        """Take a task on."""
        body = {"id": task_id, "counter": counter}
        return await self.tenant.send("POST", f"/node/{self.id}/assign", body)

    async def take(self, within_s: float = 1.0) -> tuple[str, int]:
        """Take on the next task."""
        task_id, counter = await self.run_order(within_s)
        answer = await self.assign(task_id, counter)
        assert answer.status == 201, answer.body
        return task_id, counter

    async def report(self, *running: tuple[str, int], progress: int | None = None) -> Answer:
        """Say what it works on."""
        rows = [{"id": one, "counter": counter, "progress": progress} for one, counter in running]
        return await self.tenant.send("POST", f"/node/{self.id}/report", {"running": rows})

    async def give_back(self, task_id: str, counter: int) -> Answer:
        """Return a task."""
        return await self.tenant.send("POST", f"/node/{self.id}/return/{task_id}/{counter}")

    async def result(
        self,
        task_id: str,
        counter: int,
        body: bytes = b"",
        *,
        status: int = 200,
        headers: Sequence[tuple[str, str]] = (("Content-Type", "text/plain"),),
        error: str | None = None,
    ) -> Answer:
        """Post a result."""
        given = {
            "Troth-Status": str(status),
            "Troth-Headers": base64.b64encode(json.dumps(list(headers)).encode()).decode(),
        }
        if error is not None:
            given["Troth-Error"] = base64.b64encode(error.encode()).decode()
        return await self.tenant.send(
            "POST", f"/node/{self.id}/result/{task_id}/{counter}", raw=body, headers=given
        )


async def created(sender: Tenant, function_id: str, body: object = None, query: str = "") -> str:
    """Create a task; its id."""
    answer = await sender.send("POST", f"/task/{function_id}{query}", body)
    assert answer.status == 201, answer.body
    assert list(answer.json) == ["id"]
    task_id: str = answer.json["id"]
    return task_id


async def ready_node(world: FunctionWorld, nursery: trio.Nursery, **body: object) -> ScriptedNode:
    """A connected node of the first account."""
    node = ScriptedNode(tenant(world))
    assert (await node.register(**body)).status == 201
    await node.connect(nursery)
    return node
