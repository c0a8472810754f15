"""One life of a simulated node: a server whose log is a stream, from standing by to its end.

It is made in a `LockStep`, since it is made when it owns the stream: until then it stands by.
"""

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, Final, cast

import trio

from tests.simulation.checks import check_replay
from tests.simulation.ledger import require
from tests.simulation.node_entries import NODES
from tests.simulation.server import SHARD_COUNT, Server, Unreachable
from tests.simulation.world import OF_NODES
from tests.twins.simulated_files import SimulatedFiles
from troth.core.commands import Command
from troth.core.replies import Reply
from troth.persistence.errors import LogFailed
from troth.persistence.wal.log import NewRecord
from troth.shards.clock import SystemClock
from troth.shards.committer import BatchWriter, Committer
from troth.shards.streams.stream_storage import StreamStorage
from troth.shards.streams.stream_upkeep import StreamUpkeep
from troth.shards.streams.times import Times

from .engine import EngineClient, KeepingClient
from .lock_step import LockStep, NodeEnded, wait_s
from .node import Node
from .watch_of_nodes import NodeWatch

COMPARISONS_SHARE: Final = 0.05
"""How often the state of a node that stands by is compared, when it has read all there is."""

SNAPSHOTS_SHARE: Final = 0.3


class NodeWriter:
    """The real writer's twin: joins what waits, and keeps the lease while nothing does."""

    def __init__(self, log: Any, committer: Committer, life: LockStep, random: Random) -> None:
        self.slowness = 1.0
        self.is_dead = False
        self.is_to_lose_power_within_a_batch = False
        self._log = log
        self._committer = committer
        self._life = life
        self._random = random
        self._waiting: list[Sequence[NewRecord]] = []
        self._work = trio.Event()
        self._scope = trio.CancelScope()
        self._is_closing = False
        self._has_ended = trio.Event()

    def submit(self, batch: Sequence[NewRecord]) -> None:
        self._waiting.append(batch)
        self._work.set()

    def die(self) -> None:
        """End now, also in the middle of something."""
        self.is_dead = True
        self._scope.cancel()

    async def run(self) -> None:
        """Write until closed or dead."""
        try:
            with self._scope:
                self._scope.shield = True
                await self._write()
        finally:
            self._has_ended.set()

    async def _write(self) -> None:
        committer, log = self._committer, self._log
        seal_s = 0.0
        try:
            while not self._is_closing or self._waiting:
                with trio.move_on_after(seal_s):
                    await self._work.wait()
                self._work = trio.Event()
                if not self._waiting:
                    if self._is_closing:
                        return
                    seal_s = await self._life.run(log.seal)
                    committer.durable(log.next_sequence - 1)
                    continue
                await trio.sleep(self._random.expovariate(1 / 0.0005))
                joined = [record for batch in self._waiting for record in batch]
                self._waiting.clear()
                position = await self._life.run(partial(log.append, joined, log.next_sequence))
                seal_s = 0.010
                committer.durable(position)
        except LogFailed as failure:
            committer.fail(failure)
        except NodeEnded:
            return

    async def close(self) -> None:
        """Write what was submitted, unless the process is gone."""
        self._is_closing = True
        self._work.set()
        await trio.lowlevel.checkpoint()
        if not self.is_dead:
            await self._has_ended.wait()


class NodeServer(Server):
    """A server on a stream. Making one stands by until it owns the stream."""

    is_of_nodes = True

    def __init__(self, node: Node, life: LockStep, random: Random) -> None:
        """Stand by, and take over. Raises DataDirectoryError, LogFailed or NodeEnded."""
        world = node.world
        self.node = node
        self.life = life
        self.opened: StreamStorage | None = None
        self.is_leaving = False
        """Whether it was told to release the stream."""
        self.epoch = 0
        self.is_ended = trio.Event()
        self._compared_count = 0
        super().__init__(
            SimulatedFiles(),
            SystemClock(node.wall_ms, node.boot_ms),
            random,
            world.deliver,
            cast("Any", NodeWatch(world.watch, node.name, node.engine, node.group)),
            None,
            nodes=NODES,
            begin_call=lambda server, execution: world.begin_call(server, execution),
            patience=world.plan.patience,
            place=node.place,
        )
        clock = cast("SystemClock", self.clock)
        clock.continue_after(self.stream_storage.time_ms)
        self.stream_storage.tell_time(lambda: clock.told_ms)
        self.epoch = self.stream_storage.epoch
        self.upkeep = StreamUpkeep(self.stream_storage, pause=partial(wait_s, 0.001))

    def _open_storage(self, *_: object) -> Any:
        node = self.node
        engine = node.engine
        self.client = node.client = EngineClient(engine, node.node_name, node.is_cut)
        self.opened = node.opened = StreamStorage(
            self.client,
            KeepingClient(engine, node.is_cut),
            node.home,
            SHARD_COUNT,
            node=node.node_name,
            times=Times(node.boot_ms, node.wall_ms, wait_s, self._compare, node.world.silence_ms),
            **self._of_group(),
        )
        return self.opened

    def _of_group(self) -> dict[str, Any]:
        """What its storage has to know if there are several groups."""
        return {}

    @property
    def stream_storage(self) -> StreamStorage:
        """The storage as what it is."""
        assert self.opened is not None
        return self.opened

    def _compare(self) -> None:
        """Compare the state with the owner's at the same sequence, now and then."""
        storage, watch = self.opened, self.watch
        if storage is None or not storage._log.is_following or self.client.has_rotted:
            return
        count = storage.next_sequence - 1
        if count != watch.durable_counts[self.group] or count == self._compared_count:
            return
        if self.random.random() < COMPARISONS_SHARE:
            self._compared_count = count
            self.node.world.comparisons_count += 1
            check_replay(self, [shard.machine.state for shard in self.shards._shards])

    def _tell_of_recovery(self) -> None:
        self.watch.recovered(self.storage.next_sequence, [])

    def _make_stream_writer(self, committer: Committer) -> BatchWriter:
        assert self._nursery is not None
        storage = self.stream_storage
        committer.may_answer = storage._log.may_answer  # as `StreamStorage.make_writer`
        storage._store.prepare()
        writer = NodeWriter(storage._log, committer, self.life, self.random)
        self.writer = cast("Any", writer)
        self._nursery.start_soon(writer.run)
        return writer

    def _writer_maker(self) -> Callable[[Committer], BatchWriter]:
        return self._make_stream_writer

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the life ends."""
        try:
            await super().run(task_status=task_status)
        finally:
            self.is_ended.set()

    def may_answer(self) -> bool:
        """Whether its lease runs."""
        return self.stream_storage._log.may_answer()

    async def keep(self) -> None:
        """Keep the stream short, as its owner."""
        while True:
            await trio.sleep(self.random.uniform(2, 20))
            takes = self.random.random() < SNAPSHOTS_SHARE
            await self.node.world.try_upkeep(self, partial(self.upkeep.work, takes_snapshot=takes))

    def kill(self) -> None:
        """`kill -9`."""
        if self.writer is not None:
            cast("NodeWriter", self.writer).die()
        self.life.has_ended = True
        super().kill()

    def _close(self) -> None:
        """Leave it to the node, which lets time pass for it."""

    async def ask(self, command: Command, answer_delay_s: float) -> Reply:
        """Answer, unless the node is halted; see `Server.ask`."""
        world, group = self.node.world, self._group_asked(command)
        floor = world.answered_epochs[group]
        await self.node.until_awake()
        reply = await super().ask(command, answer_delay_s)
        await self.node.until_awake()
        is_from_memory = isinstance(command, OF_NODES) and reply.code.status >= 300
        if is_from_memory and not self.may_answer():
            raise Unreachable  # as HTTP, which waits for the lease or refuses
        epoch = self._epoch_answered(command, group)
        if epoch is not None:
            name = type(command).__name__
            require(epoch >= floor, f"epoch {epoch} answered {name} after {floor} had")
            world.answered_epochs[group] = max(world.answered_epochs[group], epoch)
        return reply

    def _group_asked(self, command: Command) -> int:  # noqa: ARG002
        """The group that a command is for."""
        return self.group

    def _epoch_answered(self, command: Command, group: int) -> int | None:  # noqa: ARG002
        """The epoch of the owner that has answered a command; None if that is not known."""
        return self.epoch
