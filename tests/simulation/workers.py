"""Simulated worker processes: they take tasks from poll connections or pushes, and often fail.

A worker claims a task, works on it with heartbeats, and completes it. In troubled times it may die
at any step, hang with its connection open, or confirm a message and forget it. A dead worker's work
is taken up by others when its lease runs out; the process comes back under a new id.

What the work is, the promise's id says:

- `job/…`: take some time, then resolve the promise with the worker's name.
- `parent/…/<n>`: have n children made, wait for each by a callback, resolve when all are done.
- `waits/…`: keep the task for a while, and leave the promise to its client.
"""

import json
from contextlib import suppress
from random import Random

import trio

from troth.core.codes import Code
from troth.core.commands import (
    ClaimTask,
    CompletePromise,
    CompleteTask,
    CreateCallback,
    CreatePromise,
    ReadPromise,
)
from troth.core.model import Fence, Promise, PromiseState, Value
from troth.core.replies import Claimed
from troth.shards.delivery.polls import ConnectionClosed

from .ledger import require
from .server import Unreachable
from .surroundings import EPOCH_MS
from .world import World

GROUP = "workers"
FAR_MS = EPOCH_MS + 10**11
TTL_MS = 4_000
CONNECTIONS_COUNT = 3
WAITS_LIMIT_S = 40
PUSH_URL = "http://worker.test/tasks"


class DiedError(Exception):
    """This process is gone; what it did not finish stays undone."""


class Process:
    """One worker process, from its birth to its death."""

    def __init__(self, world: World, name: str, random: Random) -> None:
        self.name = name
        self._world = world
        self._random = random

    def maybe_die(self) -> None:
        """In troubled times any step may be the last."""
        if self._world.faults.strikes("worker_dies"):
            self._world.trace.note(self.name, "dies")
            raise DiedError

    async def poll(self, connection_id: str) -> None:
        """Serve a poll connection until it ends. Raises DiedError."""
        server = await self._world.home_of(GROUP)
        async with server.connection():
            with server.connect(GROUP, connection_id) as connection:
                while True:
                    bodies = await connection.receive()
                    await trio.sleep(self._random.expovariate(1 / 0.002))
                    self.maybe_die()
                    if self._world.faults.strikes("worker_hangs"):
                        self._world.trace.note(self.name, "hangs")
                        await trio.sleep(self._random.uniform(5, 30))
                    connection.confirm()
                    for body in bodies:
                        await self.handle(body)

    async def handle(self, body: bytes) -> None:
        """Do what a message asks for. Raises DiedError; gives up when the server is away."""
        message = json.loads(body)
        task_id, counter = message["task"], message["counter"]
        self._world.trace.note(self.name, f"gets {task_id}/{counter}")
        try:
            claim = ClaimTask(task_id, counter, self.name, TTL_MS)
            reply = await self._world.ask(self.name, claim, self._random)
            if reply.code is not Code.CREATED:
                return
            assert reply.claimed is not None
            self._world.ledger.claimed(task_id, counter, self.name)
            is_resume = task_id.startswith("__resume:")
            require(reply.claimed.leaf is not None or not is_resume, f"{task_id} has lost its leaf")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heartbeat)
                await self._work(reply.claimed, Fence(task_id, counter))
                nursery.cancel_scope.cancel()
            self.maybe_die()
            done = CompleteTask(task_id, counter)
            reply = await self._world.ask(self.name, done, self._random)
            if reply.code is Code.CREATED:
                self._world.ledger.completed_tasks.add((task_id, counter))
        except* Unreachable:
            self._world.trace.note(self.name, f"gives up {task_id}/{counter}")

    async def _heartbeat(self) -> None:
        while True:
            await trio.sleep(TTL_MS / 3000)
            server = self._world.server
            if server is not None and not server.is_over:
                with suppress(Unreachable):
                    async with server.connection():
                        await server.shards.heartbeat_tasks(self.name)

    async def _work(self, claimed: Claimed, fence: Fence) -> None:
        root = claimed.root
        assert root is not None, "an acknowledged promise is never lost"
        self.maybe_die()
        if root.id.startswith("waits/"):
            await trio.sleep(self._random.uniform(0, WAITS_LIMIT_S))
            return
        if root.state is not PromiseState.PENDING:
            return
        if root.id.startswith("parent/"):
            if not await self._gather(root, fence):
                return
        else:
            await trio.sleep(self._random.expovariate(1 / 0.3))
            if self._world.faults.strikes("worker_dawdles"):
                await trio.sleep(3 * TTL_MS / 1000)
        self.maybe_die()
        value = Value(data=self.name)
        await self._world.ask(
            self.name,
            CompletePromise(
                root.id,
                PromiseState.RESOLVED,
                value,
                idempotency_key=self.name,
                fence=fence if self._random.random() < 0.5 else None,
            ),
            self._random,
        )

    async def _gather(self, parent: Promise, fence: Fence) -> bool:
        """Have the children made and wait for them; whether all are done."""
        all_done = True
        for number in range(int(parent.id.rpartition("/")[2])):
            child_id = f"job/of/{parent.id}/{number}"
            tags = {"resonate:invoke": f"poll://any@{GROUP}"}
            create = CreatePromise(child_id, FAR_MS, tags=tags, idempotency_key="child")
            reply = await self._world.ask(self.name, create, self._random)
            self.maybe_die()
            child = reply.promise
            if child is None or child.state is PromiseState.PENDING:
                receiver = f"poll://any@{GROUP}"
                wait = CreateCallback(child_id, parent.id, FAR_MS, receiver, fence=fence)
                reply = await self._world.ask(self.name, wait, self._random)
                if reply.code is Code.CREATED and reply.callback is not None:
                    ledger = self._world.ledger
                    ledger.callbacks[reply.callback.id] = (child_id, parent.id)
                child = reply.promise
            if child is None or child.state is PromiseState.PENDING:
                all_done = False
        return all_done

    async def read(self, promise_id: str) -> Promise | None:
        """Look at a promise."""
        reply = await self._world.ask(self.name, ReadPromise(promise_id), self._random)
        return reply.promise


async def run_polling_worker(world: World, number: int) -> None:
    """A place that always has a worker process again, under a new name after each death."""
    random = world.random(f"worker {number}")
    births_count = 0
    while True:
        births_count += 1
        process = Process(world, f"worker{number}.{births_count}", random)
        try:
            while True:
                try:
                    await process.poll(f"place{number}")
                except (Unreachable, ConnectionClosed):
                    await trio.sleep(random.uniform(0.1, 0.5))
        except* DiedError:
            # The place stays empty for a while; then the next process comes.
            await trio.sleep(random.uniform(0.5, 5))


async def run_push_workers(world: World) -> None:
    """An endpoint that starts a process for each message it receives."""
    random = world.random("push workers")
    async with trio.open_nursery() as nursery:
        births_count = 0

        async def work(process: Process, body: bytes) -> None:
            try:
                await process.handle(body)
            except* DiedError:
                world.trace.note(process.name, "leaves its work undone")

        def receive(body: bytes) -> None:
            nonlocal births_count
            births_count += 1
            nursery.start_soon(work, Process(world, f"pushed.{births_count}", random), body)

        world.receivers[PUSH_URL] = receive
        await trio.sleep_forever()
