"""Several groups in one loop, linked by wires that the test delays, breaks and mends.

Each process has real shards, a mesh, and a log that the test writes: at once, or when it says so.
A wire carries the bytes of one link in both directions, in pieces, each after a delay that a seed
draws. A broken wire loses what is under way; each end hears of it after a delay of its own.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import trio

from tests.shards.stage import EPOCH_MS, Asked, ManualWriter, Outgoing, id_in, settle
from troth.core.commands import Command
from troth.core.deciding import Options
from troth.core.replies import Reply
from troth.persistence.wal.log import MemoryLog
from troth.shards import turns
from troth.shards.clock import Clock, TrioClock
from troth.shards.committer import BatchWriter, Committer, DirectWriter
from troth.shards.errors import ShardsError
from troth.shards.held import HeldMessages
from troth.shards.mesh.answering import Answering
from troth.shards.mesh.frames import LinkDamaged, PeerSucceeded
from troth.shards.mesh.link import MeshLink
from troth.shards.mesh.mesh import Mesh
from troth.shards.mesh.place import ProcessPlace
from troth.shards.shards import Shards

LOOK_S = 0.25


async def until(is_true: Callable[[], bool], interval_s: float = 0.01) -> None:
    """Wait until something is true, looking again and again."""
    while not is_true():  # noqa: ASYNC110  nothing tells of it
        await trio.sleep(interval_s)


@dataclass
class Process:
    """One process: its shards, its mesh, what it sends to workers, and its log's writer."""

    place: ProcessPlace
    mesh: Mesh
    shards: Shards
    outgoing: Outgoing
    stirred: trio.Event = field(default_factory=trio.Event)
    manual: ManualWriter | None = None

    @property
    def writer(self) -> ManualWriter:
        """The manual writer."""
        assert self.manual is not None
        return self.manual

    def stir(self) -> None:
        """Wake the wires: there is something to send."""
        self.stirred.set()
        self.stirred = trio.Event()


class Wire:
    """The connection of one link: `asker` asks, `answerer` answers."""

    def __init__(self, asker: Process, answerer: Process, luck: Random, delay_s: float) -> None:
        self.asker = asker
        self.answerer = answerer
        self.link: MeshLink = asker.mesh.links[answerer.place.process]
        self.delay_s = delay_s
        self.is_cut = False
        self.is_silent = False
        self.is_up = False
        self._luck = luck
        self._changed = trio.Event()
        self._scope = trio.CancelScope()

    def cut(self) -> None:
        """Break the wire, until `mend`."""
        self.is_cut = True
        self._note()

    def mend(self) -> None:
        """Let there be a new connection."""
        self.is_cut = False
        self._note()

    def lead_to(self, answerer: Process) -> None:
        """Let the next connection go to another process of the same group."""
        self.answerer = answerer

    def end(self) -> None:
        """Break the wire forever: one of the processes has ended."""
        self._scope.cancel()

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Connect, again and again."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look_while_away)
                await self._connect_always()

    async def _look_while_away(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            if not self.is_up:
                self.link.look()

    async def _connect_always(self) -> None:
        while True:
            while self.is_cut:
                await self._changed.wait()
            answerer = self.answerer
            end = answerer.mesh.answering(answerer.shards)
            self.link.opened()
            self.is_up = True
            to_answerer, at_answerer = trio.open_memory_channel[bytes](1_000_000)
            to_asker, at_asker = trio.open_memory_channel[bytes](1_000_000)
            try:
                async with trio.open_nursery() as nursery:
                    stop = nursery.cancel_scope.cancel
                    nursery.start_soon(self._until_cut, stop)
                    nursery.start_soon(self._send, self.link.take, self.asker, to_answerer)
                    nursery.start_soon(self._send, end.take, answerer, to_asker)
                    deliver = self._at_answerer(answerer, end)
                    nursery.start_soon(self._carry, at_answerer, deliver, stop)
                    nursery.start_soon(self._carry, at_asker, self._at_asker, stop)
                    nursery.start_soon(self._look, end, stop)
            finally:
                self.is_up = False
                end.closed()
                answerer.shards.run_turn()
                self.link.closed()
            await trio.sleep(self._luck.random() * 0.02)

    async def _until_cut(self, stop: Callable[[], None]) -> None:
        while not self.is_cut:
            await self._changed.wait()
        stop()

    async def _look(self, end: Answering, stop: Callable[[], None]) -> None:
        while True:
            await trio.sleep(LOOK_S)
            if not self.link.look() or not end.look():
                stop()

    async def _send(
        self,
        take: Callable[[], bytes],
        process: Process,
        channel: trio.MemorySendChannel[bytes],
    ) -> None:
        while True:
            stirred = process.stirred
            data = take()
            if data:
                channel.send_nowait(data)
            else:
                await stirred.wait()
            await trio.lowlevel.checkpoint()

    async def _carry(
        self,
        channel: trio.MemoryReceiveChannel[bytes],
        deliver: Callable[[bytes], None],
        stop: Callable[[], None],
    ) -> None:
        async for data in channel:
            if self.delay_s:
                await trio.sleep(self._luck.random() * self.delay_s)
            while data:
                count = self._luck.randint(1, len(data)) if self._luck.random() < 0.3 else len(data)
                piece, data = data[:count], data[count:]
                await until(lambda: not self.is_silent, 0.1)
                try:
                    deliver(piece)
                except PeerSucceeded:
                    stop()  # and the wire connects again
                    return
                except LinkDamaged:
                    stop()
                    raise
                await trio.lowlevel.checkpoint()

    def _at_answerer(self, answerer: Process, end: Answering) -> Callable[[bytes], None]:
        def deliver(piece: bytes) -> None:
            end.received(piece)
            answerer.shards.run_turn()
            answerer.stir()

        return deliver

    def _at_asker(self, piece: bytes) -> None:
        self.link.received(piece)
        self.asker.shards.run_turn()
        self.asker.stir()


@dataclass
class World:
    """All processes of one server, and their wires by (asker, answerer)."""

    processes: list[Process]
    wires: dict[tuple[int, int], Wire]
    nursery: trio.Nursery
    shard_count: int

    def id_of(self, group: int, name: str) -> str:
        """Return an id that begins with `name` and lives in a group's first shard."""
        first = self.processes[group].place.shards_of(group)[0]
        return id_in(first, self.shard_count, name)

    def ask(self, process: int, command: Command, held: HeldMessages | None = None) -> Asked:
        """Ask a process in the background."""
        asked = Asked()
        self.nursery.start_soon(self._ask, self.processes[process].shards, asked, command, held)
        return asked

    async def _ask(
        self, shards: Shards, asked: Asked, command: Command, held: HeldMessages | None
    ) -> None:
        try:
            asked.reply = await shards.ask(command, held)
        except ShardsError as error:
            asked.error = error

    async def call(self, process: int, command: Command, limit_s: float = 60) -> Reply:
        """Ask a process and wait for the reply."""
        asked = self.ask(process, command)
        with trio.fail_after(limit_s):
            await until(lambda: asked.is_done)
        assert asked.reply is not None, f"no reply, but {asked.error!r}"
        return asked.reply

    async def until_linked(self) -> None:
        """Wait until all links are up."""
        with trio.fail_after(60):
            await until(lambda: all(wire.link.is_up for wire in self.wires.values()))

    def cut_off(self, process: int) -> None:
        """Cut all wires of a process."""
        for pair, wire in self.wires.items():
            if process in pair:
                wire.cut()

    def mend_all(self) -> None:
        """Let there be all connections again."""
        for wire in self.wires.values():
            wire.mend()


@asynccontextmanager
async def world(
    count: int = 2,
    shards_each: int = 2,
    *,
    seed: int = 0,
    delay_s: float = 0.0,
    manual: bool = False,
    questions_limit_count: int = 1000,
    options: Options | None = None,
    make: "Callable[[int], Process] | None" = None,
) -> AsyncIterator[World]:
    """Run several linked processes on trio's clock, which a test mocks.

    `make` makes each, by its number, instead of `make_process`.
    """
    luck = Random(seed)

    def made(k: int) -> Process:
        return make_process(k, (shards_each,) * count, questions_limit_count, options=options)

    processes = list(map(make or made, range(count)))
    wires = {
        (one.place.process, other.place.process): Wire(one, other, luck, delay_s)
        for one in processes
        for other in processes
        if one is not other
    }
    async with trio.open_nursery() as nursery:
        for process in processes:
            await start(nursery, process, manual=manual)
            nursery.start_soon(look, process)
        for wire in wires.values():
            nursery.start_soon(wire.run)
        found = World(processes, wires, nursery, count * shards_each)
        await found.until_linked()
        await settle()
        yield found
        nursery.cancel_scope.cancel()


def make_process(
    k: int,
    group_shards: tuple[int, ...],
    questions_limit_count: int = 1000,
    *,
    links_directory: str = "",
    wake: Callable[[], None] | None = None,
    options: Options | None = None,
    incarnation: int = 1,
    sends_to: Callable[[Mesh], turns.Outgoing] | None = None,
    clock: Clock | None = None,
    now_s: Callable[[], float] = trio.current_time,
) -> Process:
    """Make one process that does not run yet; `now_s` is the clock of its links."""
    place = ProcessPlace(k, group_shards, "data", links_directory, incarnation)
    process: Process
    mesh = Mesh(
        place,
        now_s=now_s,
        wake=wake or (lambda: process.stir()),
        questions_limit_count=questions_limit_count,
    )
    outgoing = Outgoing()
    shards = Shards(
        shard_count=sum(group_shards),
        clock=TrioClock(EPOCH_MS) if clock is None else clock,
        outgoing=outgoing if sends_to is None else sends_to(mesh),
        cursor_secret=b"secret",
        options=options,
        elsewhere=mesh,
    )
    mesh.attach(shards.states, shards.shard_of, shards.go_on, shards.clock)
    process = Process(place, mesh, shards, outgoing)
    return process


async def look(process: Process) -> None:
    """Look at the time for a process, again and again."""
    while True:
        await trio.sleep(LOOK_S)
        process.mesh.look()
        process.shards.run_turn()


async def start(nursery: trio.Nursery, process: Process, *, manual: bool) -> None:
    """Run a process's shards."""

    def make_writer(committer: Committer) -> BatchWriter:
        if not manual:
            return DirectWriter(MemoryLog(), committer.durable)
        process.manual = ManualWriter(committer)
        return process.manual

    await nursery.start(process.mesh.errands.run)
    await nursery.start(process.mesh.calls.run)
    await nursery.start(process.shards.run, make_writer)
