"""Simulated workers of the envelope protocol: they run workflows, and often fail.

A worker claims the task of an execute message and runs the workflow from the top, as replaying SDKs
do: it makes its children under a fence, which are there already the second time, and suspends until
they have ended. In troubled times it may die at any step, hang, or give a task back.

What a workflow is, the promise's id says:

- `flow/…/leaf`: take some time, with heartbeats, then fulfill.
- `flow/…/<n>`: have n children made (leaves, workflows of one child, timers and promises that
  somebody else settles), suspend until all have ended, fulfill.
"""

import json
from contextlib import suppress
from itertools import count
from random import Random

import trio

from troth.core.codes import Code
from troth.core.commands import CompletePromise
from troth.core.model import Promise, PromiseState, Value
from troth.core.workflow_commands import (
    AcquireWorkflow,
    EnsurePromise,
    FulfillWorkflow,
    ReleaseWorkflow,
    SettlePromise,
    SuspendWorkflow,
)
from troth.core.workflows import WorkflowFence
from troth.shards.delivery.polls import ConnectionClosed

from .server import Unreachable
from .workers import FAR_MS, TTL_MS, DiedError
from .world import World

FLOWS = "flows"
LISTENERS = "listeners"
PUSH_URL = "http://flows.test/execute"
PLACES_COUNT = 3
LISTENERS_COUNT = 2
RESOLVED, PENDING = PromiseState.RESOLVED, PromiseState.PENDING


class Runner:
    """One worker process."""

    def __init__(self, world: World, name: str, random: Random) -> None:
        self.name = name
        self._world = world
        self._random = random
        self._claims = count(1)

    def maybe_die(self) -> None:
        """In troubled times any step may be the last."""
        if self._world.faults.strikes("worker_dies"):
            self._world.trace.note(self.name, "dies")
            raise DiedError

    async def poll(self, connection_id: str) -> None:
        """Serve a poll connection until it ends. Raises DiedError."""
        server = await self._world.home_of(FLOWS)
        async with server.connection(), trio.open_nursery() as nursery:
            with server.connect(FLOWS, connection_id) as connection:
                while True:
                    bodies = await connection.receive()
                    await trio.sleep(self._random.expovariate(1 / 0.002))
                    self.maybe_die()
                    if self._world.faults.strikes("worker_hangs"):
                        await trio.sleep(self._random.uniform(5, 30))
                    connection.confirm()
                    for body in bodies:
                        nursery.start_soon(self.handle, body)
                    if self._world.faults.strikes("stream_rotates"):
                        connection.rotate()
                        return

    async def handle(self, body: bytes) -> None:
        """Do what a message asks for. Raises DiedError; gives up when the server is away."""
        message = json.loads(body)
        workflow_id, version = message["workflow"], message["version"]
        claim_id = f"{self.name}-{next(self._claims)}"
        claim = AcquireWorkflow(workflow_id, version, self.name, TTL_MS, claim_id)
        try:
            reply = await self._claim(claim)
            if reply is not None:
                await self.run(workflow_id, version + 1)
        except* Unreachable:
            self._world.trace.note(self.name, f"gives up {workflow_id}/{version + 1}")

    async def _claim(self, claim: AcquireWorkflow) -> Promise | None:
        """Claim; if the answer is lost, once more in the same way. Raises Unreachable."""
        for attempt in range(3):
            try:
                reply = await self._world.ask(self.name, claim, self._random)
            except Unreachable:
                if attempt == 2:
                    raise
                await trio.sleep(self._random.uniform(0.1, 1.5))
                continue
            if reply.code is Code.OK:
                self._world.ledger.flow_claimed(claim.id, claim.version + 1, self.name)
                return reply.promise
            return None
        raise AssertionError("the last attempt returns or raises")

    async def run(self, workflow_id: str, version: int) -> None:
        """Do the work of a claimed task. Raises Unreachable and DiedError."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._heartbeat, workflow_id, version)
            await self._work(workflow_id, version)
            nursery.cancel_scope.cancel()

    async def _heartbeat(self, workflow_id: str, version: int) -> None:
        while True:
            await trio.sleep(TTL_MS / 3000)
            server = self._world.server
            if server is not None and not server.is_over:
                with suppress(Unreachable):
                    async with server.connection():
                        tasks = [(workflow_id, version), ("flow/none", 1)]
                        await server.shards.renew_workflows(self.name, tasks)

    async def _work(self, workflow_id: str, version: int) -> None:
        world, random = self._world, self._random
        self.maybe_die()
        if world.faults.strikes("worker_returns"):
            await world.ask(self.name, ReleaseWorkflow(workflow_id, version), random)
            return
        if workflow_id.endswith("/leaf"):
            await trio.sleep(random.expovariate(1 / 0.3))
            if world.faults.strikes("worker_dawdles"):
                await trio.sleep(3 * TTL_MS / 1000)
        elif not await self._gather(workflow_id, version):
            return
        self.maybe_die()
        value = Value(data=self.name)
        await world.ask(self.name, FulfillWorkflow(workflow_id, version, RESOLVED, value), random)

    async def _gather(self, workflow_id: str, version: int) -> bool:
        """Make the children and wait for them; whether all have ended."""
        world, fence = self._world, WorkflowFence(workflow_id, version)
        children: list[str] = []
        for number in range(int(workflow_id.rpartition("/")[2])):
            child = _child(workflow_id, number, fence, world.clock.now_ms())
            reply = await world.ask(self.name, child, self._random)
            if reply.promise is None:
                return False
            children.append(child.id)
            self.maybe_die()
            if child.id.endswith("/told"):
                await self._tell(child.id, fence)
        while True:
            suspend = SuspendWorkflow(workflow_id, version, tuple(children))
            reply = await world.ask(self.name, suspend, self._random)
            if reply.code is not Code.AWAITED_SETTLED:
                return False  # suspended, or somebody else's
            pending = []
            for child_id in children:
                again = await world.ask(
                    self.name, EnsurePromise(child_id, FAR_MS, fence=fence), self._random
                )
                if again.promise is None:
                    return False
                if again.promise.state is PENDING:
                    pending.append(child_id)
            if not pending:
                return True
            children = pending
            self.maybe_die()

    async def _tell(self, child_id: str, fence: WorkflowFence) -> None:
        """Settle a promise, through either API, if nobody has."""
        value = Value(data=self.name)
        if self._random.random() < 0.5:
            settle = SettlePromise(child_id, RESOLVED, value, fence)
            await self._world.ask(self.name, settle, self._random)
        else:
            complete = CompletePromise(child_id, RESOLVED, value, idempotency_key=self.name)
            await self._world.ask(self.name, complete, self._random)


def _child(parent_id: str, number: int, fence: WorkflowFence, now_ms: int) -> EnsurePromise:
    """The request that makes a child; what it is follows from its number."""
    tags = {"resonate:origin": parent_id.partition("/of/")[0], "resonate:parent": parent_id}
    kind = (number + len(parent_id)) % 4
    if kind == 0:
        child_id = f"{parent_id}/of/{number}/leaf"
        return EnsurePromise(child_id, FAR_MS, tags=tags | _target(number), fence=fence)
    if kind == 1 and parent_id.count("/of/") < 2:
        child_id = f"{parent_id}/of/{number}/1"
        return EnsurePromise(child_id, FAR_MS, tags=tags | _target(number), fence=fence)
    if kind == 2:
        tags["resonate:timer"] = "true"
        child_id = f"{parent_id}/of/{number}/timer"
        return EnsurePromise(child_id, now_ms + 700, tags=tags, fence=fence)
    return EnsurePromise(f"{parent_id}/of/{number}/told", FAR_MS, tags=tags, fence=fence)


def _target(number: int) -> dict[str, str]:
    return {"resonate:target": f"poll://any@{FLOWS}" if number % 3 else PUSH_URL}


async def run_pushed_runners(world: World) -> None:
    """An endpoint that starts a process for each execute message it receives."""
    random = world.random("pushed runners")
    numbers = count(1)
    async with trio.open_nursery() as nursery:

        async def work(runner: Runner, body: bytes) -> None:
            try:
                await runner.handle(body)
            except* DiedError:
                world.trace.note(runner.name, "leaves its work undone")

        def receive(body: bytes) -> None:
            nursery.start_soon(work, Runner(world, f"pushed runner {next(numbers)}", random), body)

        world.receivers[PUSH_URL] = receive
        await trio.sleep_forever()


async def run_listener(world: World, number: int) -> None:
    """A client that waits for promises: it notes what it is told, and always comes back."""
    random = world.random(f"listener {number}")
    while True:
        server = await world.home_of(LISTENERS)
        try:
            async with server.connection():
                with server.connect(LISTENERS, str(number)) as connection:
                    while True:
                        bodies = await connection.receive()
                        await trio.sleep(random.expovariate(1 / 0.002))
                        if world.faults.strikes("subscriber_hangs_up"):
                            break
                        for body in bodies:
                            promise_id = json.loads(body)["unblock"]
                            world.ledger.unblocked.add((promise_id, listener_address(number)))
                            world.trace.note(f"listener{number}", f"hears of {promise_id}")
                        connection.confirm()
        except (Unreachable, ConnectionClosed):
            world.trace.note(f"listener{number}", "lost its connection")
        await trio.sleep(random.uniform(0.1, 2))


def listener_address(number: int) -> str:
    """Where a listener is told."""
    return f"poll://uni@{LISTENERS}/{number}"


async def run_runner(world: World, number: int) -> None:
    """A place that always has a worker process again, under a new name after each death."""
    random = world.random(f"runner {number}")
    births_count = 0
    while True:
        births_count += 1
        runner = Runner(world, f"runner{number}.{births_count}", random)
        try:
            while True:
                try:
                    await runner.poll(f"place{number}")
                except* (Unreachable, ConnectionClosed):
                    world.trace.note(runner.name, "lost its connection")
                await trio.sleep(random.uniform(0.1, 0.5))
        except* DiedError:
            await trio.sleep(random.uniform(0.5, 5))
