"""A server without HTTP whose log is a simulated stream, for as long as a test needs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import trio

from tests.shards.snapshot_world import Nowhere
from tests.shards.stage import FAR_MS
from tests.twins.simulated_keeping import SimulatedKeeping
from tests.twins.simulated_stream import SimulatedClock, SimulatedEngine, SimulatedStream
from troth.core.commands import CompletePromise, CreatePromise, ReadPromise
from troth.core.model import PromiseState
from troth.shards.clock import SystemClock
from troth.shards.mesh.mesh import Mesh
from troth.shards.mesh.place import ProcessPlace
from troth.shards.shards import Shards
from troth.shards.storage import Recovery, StreamStatistics
from troth.shards.streams.stream_group import StreamGroup
from troth.shards.streams.stream_storage import StreamStorage
from troth.shards.streams.stream_upkeep import StreamUpkeep
from troth.shards.streams.times import MACHINE_TIMES, Times
from troth.shards.upkeep.checkpointer import Checkpointer


@dataclass
class Engine:
    """An engine, which outlives its servers."""

    stream: SimulatedEngine = field(default_factory=SimulatedEngine)
    keeping: SimulatedKeeping = field(init=False)
    times: Times = MACHINE_TIMES
    """Those of the nodes that are opened from now on."""

    def __post_init__(self) -> None:
        self.keeping = SimulatedKeeping(self.stream)

    def open(
        self,
        directory: Path,
        node: str = "a",
        shard_count: int | None = 2,
        group: StreamGroup | None = None,
    ) -> StreamStorage:
        """Open the storage of a node."""
        client = SimulatedStream(self.stream, Random(1), SimulatedClock())
        return StreamStorage(
            client,
            self.keeping,
            directory,
            shard_count,
            node=node,
            group=group,
            times=self.times,
        )


@dataclass
class Node:
    """A server that owns the stream."""

    storage: StreamStorage
    shards: Shards
    recovery: Recovery
    checkpointer: Checkpointer
    upkeep: StreamUpkeep

    async def create(self, *names: str) -> None:
        """Create promises and resolve every other one; all is acknowledged when this returns."""
        for number, name in enumerate(names):
            await self.shards.ask(CreatePromise(name, FAR_MS))
            if number % 2:
                await self.shards.ask(CompletePromise(name, PromiseState.RESOLVED))

    async def states(self, *names: str) -> list[PromiseState | None]:
        """Return the states of promises; None for one that is not there."""
        replies = [await self.shards.ask(ReadPromise(name)) for name in names]
        return [reply.promise.state if reply.promise else None for reply in replies]

    async def work(self, *, takes_snapshot: bool = False) -> None:
        """Do the upkeep that is due."""
        await trio.to_thread.run_sync(lambda: self.upkeep.work(takes_snapshot=takes_snapshot))


@asynccontextmanager
async def node(
    engine: Engine,
    directory: Path,
    name: str = "a",
    *,
    snapshot_interval_ms: int = 3_600_000,
    opened: list[StreamStorage] | None = None,
    group: StreamGroup | None = None,
) -> AsyncIterator[Node]:
    """Run a server, or one group of it; at the end it releases the stream.

    Its storage is put into `opened`.
    """
    shard_count = 2 if group is None else None
    storage = await trio.to_thread.run_sync(engine.open, directory, name, shard_count, group)
    mesh = None if group is None else alone(storage, group)
    if opened is not None:
        opened.append(storage)
    try:
        shards = Shards(
            shard_count=storage.shard_count,
            clock=SystemClock(),
            outgoing=Nowhere(),
            cursor_secret=storage.secret,
            placement=storage.placement,
            elsewhere=mesh,
        )
        if mesh is not None:
            mesh.attach(shards.states, shards.shard_of, shards.go_on, shards.clock)
        recovery = await trio.to_thread.run_sync(shards.recover, storage)
        async with trio.open_nursery() as nursery:
            await nursery.start(shards.run, storage.make_writer)
            checkpointer = shards.make_checkpointer(
                storage, interval_ms=3_600_000, log_bytes=1 << 30
            )
            assert checkpointer is not None
            upkeep = StreamUpkeep(storage, snapshot_interval_ms=snapshot_interval_ms)
            yield Node(storage, shards, recovery, checkpointer, upkeep)
            await shards.stop()
            nursery.cancel_scope.cancel()
    finally:
        storage.close()


def alone(storage: StreamStorage, group: StreamGroup) -> Mesh:
    """Return the mesh of one of several processes whose others are away."""
    place = ProcessPlace(
        process=storage.group,
        group_shards=storage.group_shards,
        data_id=storage.data_id.hex(),
        links_directory="/nowhere",
        incarnation=group.incarnation,
    )
    return Mesh(place, now_s=trio.current_time, wake=lambda: None, questions_limit_count=10)


class Standby:
    """A server that stands by until it owns the stream, and runs until `is_over`."""

    node: Node

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.owns = trio.Event()
        self.is_over = trio.Event()
        self._engine = engine
        self._directory = directory
        self._opened: list[StreamStorage] = []

    async def run(self) -> None:
        """Run it."""
        async with node(self._engine, self._directory, "b", opened=self._opened) as self.node:
            self.owns.set()
            await self.is_over.wait()

    async def until_noted(self, number: int) -> None:
        """Wait until it has noted that it does not need the frames up to a number any more."""
        with trio.fail_after(60):
            while True:
                await trio.sleep(0.01)
                if self._engine.keeping.readers.get("b", (0, 0))[0] > number:
                    return

    async def until_said(self) -> None:
        """Wait until it has said that it has read all there is."""
        with trio.fail_after(60):
            while "b" in self._engine.keeping.starting:  # noqa: ASYNC110  in a thread
                await trio.sleep(0.01)

    async def has_read(self, number: int) -> StreamStatistics:
        """Wait until it has read the frames up to a number; return what it says of itself then."""
        with trio.fail_after(60):
            while True:
                await trio.sleep(0.01)
                seen = self._opened[0].stream_statistics()
                if seen.number >= number:
                    return seen
