"""Several groups in one loop with real delivery: streams of workers, and faked push receivers.

A process may be killed and started again: its streams and links end at once, and it has forgotten
everything. What its group had is gone too, so a test keeps its promises in other groups.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import trio

from tests.shards.delivery_world import FakePush
from tests.shards.stage import settle
from tests.shards.workflow_world import render
from troth.core.commands import Command
from troth.core.replies import Reply
from troth.core.workflow_commands import AcquireWorkflow
from troth.shards.delivery.delivery import Delivery
from troth.shards.delivery.polls import ConnectionClosed, PollConnection, Polls
from troth.shards.mesh.dialect_notes import DialectNotes
from troth.shards.mesh.homes import MessageHomes
from troth.shards.mesh.mesh import Mesh

from . import world as w


@dataclass
class Worker:
    """A stream, and what has come by it, with times."""

    connection: PollConnection
    texts: list[str] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)

    async def run(self) -> None:
        """Read until the stream ends."""
        try:
            while True:
                for body in await self.connection.receive():
                    self.texts.append(body.decode())
                    self.times_s.append(trio.current_time())
                self.connection.confirm()
        except ConnectionClosed:
            pass  # the server has ended it


@dataclass
class Home:
    """One process with its delivery."""

    process: w.Process
    homes: MessageHomes
    polls: Polls
    delivery: Delivery
    push: FakePush
    reports: list[Command] = field(default_factory=list)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class HomeWorld:
    """All processes of one server; see `homes`."""

    def __init__(self, count: int, nursery: trio.Nursery, seed: int, delay_s: float) -> None:
        self.nursery = nursery
        self.luck = Random(seed)
        self.delay_s = delay_s
        self.count = count
        self.alive: list[Home] = []
        self.incarnation = 0
        self.server = w.World([], {}, nursery, count * 2)

    async def start(self, k: int, *, manual: bool = False) -> None:
        """Start a process, the first time or again, with links to all that live."""
        self.incarnation += 1
        home = self._make(k)
        self.alive[k : k + 1] = [home]
        self.server.processes[k : k + 1] = [home.process]
        await self.nursery.start(self._run, home, manual)
        others = [one for one in self.server.processes if one is not home.process]
        for other in others:
            for asker, answerer in ((home.process, other), (other, home.process)):
                pair = asker.place.process, answerer.place.process
                wire = w.Wire(asker, answerer, self.luck, self.delay_s)
                self.server.wires[pair] = wire
                self.nursery.start_soon(wire.run)

    async def _run(self, home: Home, manual: bool, *, task_status: trio.TaskStatus[None]) -> None:
        with home.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(home.delivery.run)
                await nursery.start(home.homes.run)
                await w.start(nursery, home.process, manual=manual)
                nursery.start_soon(w.look, home.process)
                task_status.started()

    def _make(self, k: int) -> Home:
        polls = Polls(connections_limit_count=100, buffer_limit_count=10)
        push = FakePush()
        found: list[Home] = []
        reports: list[Command] = []

        def sends_to(mesh: Mesh) -> MessageHomes:
            homes = MessageHomes(mesh.place, mesh.calls, {})
            delivery = Delivery(
                render=render,
                push=push,
                polls=polls,
                report=homes.report,
                targets={},
                now_ms=lambda: round(trio.current_time() * 1000),
                random=Random(7),
            )
            found.append(Home(None, homes, polls, delivery, push, reports))  # type: ignore[arg-type]
            return homes

        process = w.make_process(
            k, (2,) * self.count, incarnation=self.incarnation, sends_to=sends_to
        )
        home = found[0]
        home.process = process

        def tell(command: Command) -> None:
            reports.append(command)
            process.shards.tell(command)

        DialectNotes(process.mesh.calls, polls, process.stir)
        home.homes.attach(home.delivery, tell, process.shards.shard_of)
        return home

    async def kill(self, k: int) -> None:
        """End a process at once: what it has is lost, and the others see their links end."""
        for pair in [pair for pair in self.server.wires if k in pair]:
            self.server.wires.pop(pair).end()
        self.alive[k].scope.cancel()
        await settle()

    def group_at(self, home: int, name: str = "workers") -> str:
        """Return the name of a poll group whose home a process is."""
        number = 0
        while self.alive[0].homes.finder.of_group(f"{name}-{number}") != home:
            number += 1
        return f"{name}-{number}"

    def target_at(self, home: int) -> str:
        """Return the URL of a push receiver whose home a process is."""
        number = 0
        while self.alive[0].homes.finder.of_group(f"http://target-{number}:80") != home:
            number += 1
        return f"http://target-{number}/"

    def connect(self, home: int, group: str, name: str = "one") -> Worker:
        """Open a worker's stream at a process."""
        worker = Worker(self.alive[home].polls.connect(group, name))
        self.nursery.start_soon(worker.run)
        return worker

    async def acquire(self, process: int, task_id: str, version: int = 0) -> Reply:
        """Claim a workflow task."""
        return await self.server.call(
            process, AcquireWorkflow(task_id, version, "one", 3_600_000, None)
        )


@asynccontextmanager
async def homes(
    count: int = 2, *, seed: int = 0, delay_s: float = 0.005, manual: bool = False
) -> AsyncIterator[HomeWorld]:
    """Run several linked processes with delivery on trio's clock, which a test mocks."""
    async with trio.open_nursery() as nursery:
        found = HomeWorld(count, nursery, seed, delay_s)
        for k in range(count):
            await found.start(k, manual=manual)
        await found.server.until_linked()
        await settle()
        yield found
        nursery.cancel_scope.cancel()
