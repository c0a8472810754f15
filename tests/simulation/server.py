"""One life of a simulated process: everything but the sockets, from its start to its end.

The real shards, delivery, placement, retention, checkpoints, poll connections and log run here; the
disk, the writer thread, the push transport and the clock are simulated. A life ends by a power cut,
a kill, a disk that fails or a clean stop. Whoever talks to it then gets `Unreachable`.

A server has one process, or one for each group of shards; then these are linked (`links.py`).
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from random import Random

import trio

from tests.shards.simulated_storage import SimulatedStorage
from tests.twins.simulated_files import SimulatedCrash, SimulatedFiles
from troth.core.bulk import BulkJob
from troth.core.catalog import Node
from troth.core.commands import Command
from troth.core.deciding import Options
from troth.core.grammar.addresses import PushAddress
from troth.core.machine import Machine
from troth.core.model import PromiseState, TaskKind
from troth.core.replies import ExecuteMessage, Message, Reply, UnblockMessage
from troth.core.retention_rules import RetentionRule
from troth.http.identity.credentials import Credentials
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.errors import CheckpointFailed, LogFailed, PersistenceError
from troth.persistence.wal.segmented_log import SegmentedLog
from troth.shards.bulk.jobs import BulkJobs
from troth.shards.bulk.works import TaskLists
from troth.shards.clock import Clock
from troth.shards.committer import BatchWriter, Committer
from troth.shards.delivery.delivery import Delivery, PushFailed
from troth.shards.delivery.polls import PollConnection, Polls
from troth.shards.errors import ShardsError, Stopping, StorageFailed
from troth.shards.gathered.home_looks import AllLooks
from troth.shards.gathered.surveys import AllSurveys
from troth.shards.mesh.homes import MessageHomes
from troth.shards.mesh.mesh import Mesh
from troth.shards.mesh.place import ProcessPlace
from troth.shards.outgoing import OutgoingRoutes
from troth.shards.placement.endings import Endings
from troth.shards.placement.executions import PlacedExecution
from troth.shards.placement.placement import Calls, Placement
from troth.shards.shards import Shards
from troth.shards.surveys.surveys import Surveys
from troth.shards.surveys.totals import RunningTotals
from troth.shards.upkeep.checkpointer import Checkpointer
from troth.shards.upkeep.folder import Folder
from troth.shards.upkeep.retention import Sweeper
from troth.shards.upkeep.tag_reader import read_tags

from .disk import SimulatedStore, SimulatedWriter
from .invariants import Watch
from .link_sides import LinkSides
from .memory import check_memory, check_queues, check_slots, check_sums
from .node_endpoints import ask_for_node
from .shared_parts import SharedParts
from .watched import WatchedRoutes, watch_committer, watch_machine

SHARD_COUNT = 4
MAILBOX_LIMIT_COUNT = 200
SLICE_COUNT = 1  # completions, heartbeats and captures that are about more go on in slices
MEMORY_CHECK_S = 1
LOOK_S = 0.25
SWEEP_INTERVAL_MS = 5_000
TRIM_TAG = ("keep", "no")
RULES = (RetentionRule((PromiseState.RESOLVED, PromiseState.REJECTED_TIMEDOUT), 20_000, TRIM_TAG),)


class Unreachable(Exception):
    """There was no answer: the request may have taken effect or not."""


Push = Callable[[str, bytes], Awaitable[None]]
"""A push receiver: its address and a message. Raises PushFailed."""


def render(message: Message) -> bytes:
    """The message as workers of the simulation read it."""
    if isinstance(message, ExecuteMessage):
        return json.dumps({"workflow": message.id, "version": message.version}).encode()
    if isinstance(message, UnblockMessage):
        return json.dumps({"unblock": message.promise.id}).encode()
    task = message.task
    content = {"kind": task.kind, "task": task.id, "counter": task.counter}
    if task.kind is TaskKind.NOTIFY:
        content["promise"] = task.root_id
    return json.dumps(content).encode()


class _Transport:
    def __init__(self, push: Push) -> None:
        self._push = push

    async def send(self, address: PushAddress, body: bytes, headers: Mapping[str, str]) -> None:  # noqa: ARG002
        await self._push(address.url, body)


class _Calls(Calls):
    """Hands calls of HTTP functions to whoever plays their hosts."""

    def __init__(self, begin: Callable[[PlacedExecution], None]) -> None:
        self.begin = begin  # type: ignore[method-assign,assignment]

    def stop(self, execution: PlacedExecution) -> None:
        """The host is not told; what it answers is refused."""


ALONE = ProcessPlace(0, (SHARD_COUNT,), "data", "", 1)


async def _tell_nobody(_: BulkJob) -> None:
    """There is no audit log."""


class Server:
    """A server on a disk. Opening recovers; `run` serves until the life ends."""

    is_of_nodes = False

    def __init__(
        self,
        files: SimulatedFiles,
        clock: Clock,
        random: Random,
        push: Push,
        watch: Watch,
        store: SimulatedStore | None = None,
        *,
        nodes: tuple[Node, ...] = (),
        begin_call: Callable[["Server", PlacedExecution], None] = lambda *_: None,
        trims_log: bool = True,
        patience: float = 1.0,
        place: ProcessPlace = ALONE,
    ) -> None:
        """Recover. Raises DataDirectoryError if the disk refuses.

        With a `store` it makes checkpoints there, and trims the log unless told not to.
        """
        self.files = files
        self.group = place.process
        self.mesh: Mesh | None = None
        self.links = LinkSides()
        self.homes: MessageHomes | None = None
        self.shared: SharedParts | None = None
        self.serves = trio.Event()
        """Set when requests are served, or it is over."""
        if place.count > 1:
            self.mesh = Mesh(place, now_s=trio.current_time, wake=self.links.stir)
            self.homes = MessageHomes(place, self.mesh.calls, {})
        self.random = random
        self.has_lost_power = False
        self.is_over = False
        self._is_stopping = False
        self.failure: PersistenceError | None = None
        self._checkpoint_failed = False
        self.writer: SimulatedWriter | None = None
        self._scopes: dict[trio.CancelScope, None] = {}
        self.watch = watch
        self._nodes = nodes
        self._life = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self.storage = self._open_storage(files, store, place)
        self._trims_log = trims_log
        self._patience = patience
        self.polls = Polls(connections_limit_count=100, buffer_limit_count=3)
        self.delivery = Delivery(
            render=render,
            push=_Transport(push),
            polls=self.polls,
            report=self._report if self.homes is None else self.homes.report,
            targets={},
            now_ms=clock.now_ms,
            random=random,
            concurrency_count=8,
            concurrency_per_target_count=2,
        )
        self.endings = Endings(limit_count=100)
        self.placement = Placement(
            report=self._report if self.homes is None else self.homes.report,
            calls=_Calls(lambda execution: begin_call(self, execution)),
            endings=self.endings,
            now_ms=clock.now_ms,
            calls_concurrency_count=4,
            calls_per_host_count=2,
        )
        here = OutgoingRoutes(self.delivery, self.placement)
        self.shards = Shards(
            shard_count=SHARD_COUNT,
            clock=clock,
            outgoing=WatchedRoutes(here if self.homes is None else self.homes, watch),
            cursor_secret=self.storage.secret,
            options=Options(
                retention=RULES,
                completion_slice_count=SLICE_COUNT,
                heartbeat_slice_count=SLICE_COUNT,
            ),
            mailbox_limit_count=MAILBOX_LIMIT_COUNT,
            elsewhere=self.mesh,
        )
        if self.mesh is not None and self.homes is not None:
            self.mesh.attach(self.shards.states, self.shards.shard_of, self.shards.go_on, clock)
            self.homes.attach(here, self.shards.tell, self.shards.shard_of)
            self.shared = SharedParts(
                self.mesh,
                self.homes,
                self.shards,
                self.placement,
                is_of_nodes=self.is_of_nodes,
            )
        self.recovery = self.shards.recover(self.storage)
        self._tell_of_recovery()
        watch_committer(self.shards.committer, watch, self.group)
        for shard in self.shards._shards:
            watch_machine(shard.machine, watch)
        self.sweeper = Sweeper(
            self.shards,
            RULES,
            ("keep=no",),
            interval_ms=int(SWEEP_INTERVAL_MS * patience),
            now_ms=clock.now_ms,
        )
        self._known_sums = RunningTotals(self.shards).known
        looks = None
        if self.mesh is not None and self.homes is not None:
            looks = AllLooks(self.mesh.calls, self.homes, self.delivery, self.polls)
        surveys = Surveys(
            self.shards, self.delivery, self.polls, self.placement, clock.now_ms, looks
        )
        lists: TaskLists = surveys
        if self.mesh is not None:
            lists = AllSurveys(self.mesh.calls, place.group_shards, self.shards, surveys)
        self.bulk = BulkJobs(self.shards, lists, clock.now_ms, _tell_nobody)
        if self.shared is not None:
            self.bulk.largest_serials = self.shared.largest_serials
        self.clock = clock
        if store is not None:
            store.lost_power = self.lose_power

    def _open_storage(
        self, files: SimulatedFiles, store: SimulatedStore | None, place: ProcessPlace
    ) -> SimulatedStorage:
        return SimulatedStorage(
            files,
            SHARD_COUNT,
            self._make_writer,
            segment_bytes=16 * 1024,
            store=store,
            group=place.process,
            groups_count=place.count,
        )

    def _tell_of_recovery(self) -> None:
        log = self.storage.log
        found = list(log.read(log._segments[0].first_sequence))
        self.watch.recovered(log.next_sequence, found, self.group)

    def _writer_maker(self) -> Callable[[Committer], BatchWriter]:
        return self.storage.make_writer

    def _report(self, command: Command) -> None:
        self.shards.tell(command)

    def _make_writer(self, log: SegmentedLog, committer: Committer) -> BatchWriter:
        assert self._nursery is not None
        self.writer = SimulatedWriter(log, committer, self.random, self.lose_power)
        self._nursery.start_soon(self.writer.run)
        return self.writer

    def _make_checkpointer(self, checkpoints: Checkpoints) -> Checkpointer:
        return Checkpointer(
            self.shards._shards,
            self.shards.committer,
            checkpoints,
            self._trim,
            interval_ms=2_000,
            log_bytes=8 * 1024,
            capture_slice_count=SLICE_COUNT,
            use_thread=False,
        )

    def _trim(self, to_sequence: int) -> None:
        if not self._trims_log:
            return
        try:
            self.storage.trim(to_sequence)
        except SimulatedCrash:
            self.lose_power()
        except LogFailed as failure:
            self.shards.committer.fail(failure)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the life ends; returns then, whatever has ended it."""
        try:
            async with trio.open_nursery() as beneath:
                await beneath.start(self.delivery.run)
                await beneath.start(self.placement.run)
                # The shards end first, since they hand messages to delivery to the last.
                with self._life:
                    async with trio.open_nursery() as nursery:
                        self._nursery = nursery
                        if self.mesh is not None and self.homes is not None:
                            await nursery.start(self.homes.run)
                            await nursery.start(self.mesh.errands.run)
                            await nursery.start(self.mesh.calls.run)
                        await nursery.start(self.shards.run, self._writer_maker())
                        if self.storage.checkpoints is not None:
                            nursery.start_soon(
                                self._make_checkpointer(self.storage.checkpoints).run
                            )
                        if self.mesh is not None:
                            nursery.start_soon(self.links.run)
                            nursery.start_soon(self._look_at_links, self.mesh)
                        nursery.start_soon(self.sweeper.run)
                        nursery.start_soon(Folder(self.shards).run)
                        nursery.start_soon(read_tags, self.shards.states())
                        nursery.start_soon(self._check_memory)
                        if self.shared is None:
                            await self._introduce(nursery)
                        task_status.started()
                        if self.shared is not None:
                            await self._introduce_shared(nursery, self.shared)
                beneath.cancel_scope.cancel()
        except* LogFailed as failures:
            if self.shards.committer.failure is None:
                raise failures  # only the committer may say that the log has failed
        except* CheckpointFailed:
            self._checkpoint_failed = True
        except* SimulatedCrash as crashes:
            if not self.has_lost_power:
                raise crashes
        finally:
            self.is_over = True
            self.serves.set()
            self.endings.close()
            self.failure = self.shards.committer.failure  # also one while closing, not raised
            if self.failure is None and self._checkpoint_failed:
                self.failure = LogFailed("a checkpoint failed")
            if self._is_stopping and self.failure is None and not self.has_lost_power:
                self._close()
            for scope in list(self._scopes):
                scope.cancel()

    async def _look_at_links(self, mesh: Mesh) -> None:
        """Look at the time, as the owner of the connections does."""
        while True:
            await trio.sleep(LOOK_S)
            mesh.look()
            self.links.look()
            for link in mesh.links.values():
                link.look()
            self.shards.run_turn()

    async def _introduce(self, nursery: trio.Nursery) -> None:
        for node in self._nodes:
            self.placement.put_node(node)
        self.placement.restore_all(self.shards.assigned_executions())
        await nursery.start(self.bulk.run)
        self.serves.set()

    async def _introduce_shared(self, nursery: trio.Nursery, shared: SharedParts) -> None:
        """Learn what has to be known of other processes before requests are served."""
        try:
            await shared.introduce(nursery, self._nodes)
            if shared.placed is not None:
                await nursery.start(self.bulk.run)
        except (StorageFailed, Stopping):
            return  # the life ends
        self.serves.set()

    async def _check_memory(self) -> None:
        while True:
            await trio.sleep(MEMORY_CHECK_S * self._patience)
            committer = self.shards.committer
            shards = self.shards._shards
            check_sums(self.shards, self._known_sums)
            if self.shards.is_quiet and committer.durable_position == committer.position:
                check_memory(shards, self.placement, self.delivery, self.homes)
                if self.mesh is None:
                    check_slots(shards, self._nodes)

    @property
    def credentials(self) -> Credentials:
        """The credentials of a process of several."""
        assert self.shared is not None, "one process alone is not asked for them"
        return self.shared.credentials

    @property
    def machines(self) -> list[Machine]:
        """The machines of this process's shards."""
        return [shard.machine for shard in self.shards._shards]

    def check_queues(self) -> None:
        """See memory.py; for every step of the scheduler."""
        committer = self.shards.committer
        check_queues(self.shards._shards, committer.pending_bytes, MAILBOX_LIMIT_COUNT)

    def may_answer(self) -> bool:
        """Whether clients may be told what is in memory; HTTP waits for that."""
        return True

    # How a life ends

    @property
    def has_ended_well(self) -> bool:
        """Whether it was stopped in order."""
        return self._is_stopping and self.failure is None and not self.has_lost_power

    def lose_power(self) -> None:
        """The machine goes dark: nothing is written any more, from this very moment."""
        self.has_lost_power = True
        self.kill()

    def kill(self) -> None:
        """`kill -9`: what has been written is there, the rest is not."""
        if self.writer is not None:
            self.writer.is_dead = True
        self.is_over = True
        self._life.cancel()
        for scope in list(self._scopes):
            scope.cancel()

    def begin_stop(self, patience_s: float) -> None:
        """The clean end: finish what was taken, close the connections, then go."""
        assert self._nursery is not None
        self._nursery.start_soon(self._stop, patience_s)

    async def _stop(self, patience_s: float) -> None:
        with trio.move_on_after(patience_s) as scope:
            await self.shards.stop()
        if scope.cancelled_caught:
            self.kill()
            return
        self._is_stopping = True
        self.polls.close()
        self._life.cancel()

    def _close(self) -> None:
        try:
            self.storage.close()
        except LogFailed as failure:
            self.failure = failure
        except SimulatedCrash:
            self.has_lost_power = True

    # What clients use

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        """A connection to this life. Raises Unreachable when the life ends before the block."""
        if self.is_over:
            raise Unreachable
        with trio.CancelScope() as scope:
            self._scopes[scope] = None
            try:
                yield
            except ShardsError as error:
                raise Unreachable from error
            finally:
                del self._scopes[scope]
        if scope.cancelled_caught:
            raise Unreachable

    async def ask(self, command: Command, answer_delay_s: float) -> Reply:
        """A request and its answer, as the HTTP side does it: messages leave after the answer."""
        held = self.shards.hold()
        try:
            async with self.connection():
                reply = await ask_for_node(
                    self.placement, command, lambda one: self.shards.ask(one, held)
                )
                self.watch.answered(reply)
                await trio.sleep(answer_delay_s)
                return reply
        finally:
            held.release()
        raise AssertionError("a connection that ends early raises")

    def connect(self, group: str, identifier: str) -> PollConnection:
        """Open a poll connection."""
        if self.is_over:
            raise Unreachable
        return self.polls.connect(group, identifier)


__all__ = ["SHARD_COUNT", "PushFailed", "Server", "Unreachable", "render"]
