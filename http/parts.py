"""The parts of a server, wired together: what each is given, and which it calls.

Nothing runs here and nothing waits: `serve.py` starts the parts and ends them.
"""

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from troth.core import limits
from troth.core.commands import Command
from troth.core.deciding import Options
from troth.core.failures import Failures
from troth.core.grammar.cron import parse as parse_cron
from troth.core.model import Promise
from troth.core.replies import Message, TaskMessage
from troth.http.api.context import Api, Readiness
from troth.http.api.dispatch import Dispatcher
from troth.http.api.rows import Endpoint
from troth.http.bulk.endpoints import note_end
from troth.http.documents.table import API_ENDPOINTS, POLL_ENDPOINTS
from troth.http.envelope import messages
from troth.http.executions.calls import FunctionCalls
from troth.http.functions.builder import Builder
from troth.http.identity.audit import AuditLog
from troth.http.identity.spreading import CredentialsOwner
from troth.http.metrics.loop_lag import LoopLag
from troth.http.monitoring.process_metrics import BUILDS, CLOCK, FUNCTION_CALLS, PLACEMENT
from troth.http.monitoring.sources import add_sources
from troth.http.monitoring.storage_metrics import (
    CHECKPOINTS,
    RETENTION,
    SNAPSHOTS,
    CheckpointReading,
    SnapshotReading,
)
from troth.http.monitoring.stream_metrics import STREAM, StreamReading
from troth.http.monitoring.trace_metrics import TRACES
from troth.http.monitoring.traffic_metrics import DELIVERY, FEED, GATE, LANES, PORTS
from troth.http.outgoing.connections import OutgoingRoom
from troth.http.outgoing.guards import OwnPorts
from troth.http.outgoing.push import PushSender
from troth.http.overview.counting import Counting, Sources
from troth.http.processes.cluster_member import (
    ClusterMember,
    make_cluster_member,
    make_cluster_view,
)
from troth.http.processes.forwarding import ForwardedRequests, forwarded
from troth.http.processes.mesh_member import MeshMember
from troth.http.processes.registration import register
from troth.http.processes.shared_credentials import share_credentials
from troth.http.processes.sharing_member import SharingMember
from troth.http.processes.waiting_room import WaitingRoom
from troth.http.promises.large_messages import LargeMessages
from troth.http.promises.rendering import render_message
from troth.http.settings.local_zone import local_zone
from troth.http.settings.retention import rule_texts
from troth.http.settings.settings import Settings
from troth.http.sockets.descriptors import DescriptorShares, part_of
from troth.http.sockets.doors import Door
from troth.http.sockets.lane import Lane
from troth.http.sockets.memory_plan import plan_memory
from troth.http.sockets.shared_room import SharedRoom
from troth.http.sockets.slow_gate import SlowGate
from troth.http.supervision.seat import OWNER
from troth.http.tracing.spans import NO_SPANS
from troth.http.tracing.tracing import make_tracing
from troth.http.web.feed import Feed
from troth.http.wire.in_flight import InFlight
from troth.persistence import process_memory
from troth.persistence.memory_reserve import RESERVE
from troth.shards.bulk.jobs import BulkJobs
from troth.shards.clock import Clock, SystemClock
from troth.shards.debugging import DebugClock, DebugOutgoing, DebugPart
from troth.shards.delivery.delivery import Delivery
from troth.shards.delivery.polls import Polls
from troth.shards.gathered.cuts import GatheredCuts, GroupStorage
from troth.shards.gathered.debugging import AllParts, DebugOperations, OnePart
from troth.shards.gathered.home_looks import AllLooks
from troth.shards.gathered.kept_copies import KeptCopies
from troth.shards.gathered.receivers import AllQueues
from troth.shards.gathered.retention import AllSweepers
from troth.shards.gathered.surveys import AllSurveys
from troth.shards.gathered.whole import serials_by_shard
from troth.shards.mesh.calls import ProcessCalls
from troth.shards.mesh.homes import EXECUTIONS_HOME
from troth.shards.mesh.placed_executions import (
    PlacedExecutions,
    all_builds_in_use,
    answer_about_executions,
)
from troth.shards.outgoing import OutgoingRoutes
from troth.shards.placement.endings import Endings
from troth.shards.placement.placement import Placement
from troth.shards.shards import Shards
from troth.shards.storage import (
    DirectoryStorage,
    FollowedStorage,
    OwnedStorage,
    Storage,
    UpkeepStatistics,
)
from troth.shards.surveys.queues import Queues, WholeQueues
from troth.shards.surveys.surveys import Surveys
from troth.shards.turns import Outgoing
from troth.shards.upkeep.checkpointer import Checkpointer
from troth.shards.upkeep.retention import Sweeper
from troth.shards.upkeep.snapshotter import EngineUpkeep, SnapshotStorage, Snapshotter


def _options(settings: Settings, samples_run: Callable[[int], bool] | None = None) -> Options:
    counts: dict[object, int | None] = {"all": None, "latest": 1}
    chosen = settings.schedule_catch_up
    return Options(
        task_claim_timeout_ms=settings.task_claim_timeout_ms,
        workflow_retry_ms=settings.workflow_retry_ms,
        catch_up_count=counts[chosen] if isinstance(chosen, str) else chosen,
        time_zone=settings.time_zone if settings.time_zone is not None else local_zone(),
        retention=settings.retain,
        samples_run=samples_run,
    )


def tables_of(calls: ProcessCalls, settings: Settings) -> tuple[tuple[Endpoint, ...], ...]:
    """Return the endpoints of both ports in one of several processes."""
    is_debugged = settings.debug_operations
    return forwarded(API_ENDPOINTS, calls, is_debugged=is_debugged), POLL_ENDPOINTS


class Parts:
    """The parts of one server. `url` is what links begin with.

    `doors` are open, the first is the API's. `shares` says how many connections of each kind there
    may be. `member` is this process among several, if there are several; `tables` are the endpoints
    of the ports.
    """

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        doors: list[Door],
        shares: DescriptorShares,
        member: MeshMember | None = None,
    ) -> None:
        self.settings = settings
        self.member = member
        self.tables: tuple[tuple[Endpoint, ...], ...] = (API_ENDPOINTS, POLL_ENDPOINTS)
        if member is not None:
            self.tables = tables_of(member.mesh.calls, settings)
        self.storage = storage
        self.shares = shares
        self._ports = list(zip(("api", "poll"), doors, strict=False))
        listeners = [door.listener for door in doors]
        # Without a setting, the address with the port that the listener really got.
        self.url = (settings.url or listeners[0].url).rstrip("/")
        self.clock = SystemClock()
        self.polls = Polls(
            connections_limit_count=min(
                settings.poll_connections_limit_count, shares.streams_count
            ),
            buffer_limit_count=settings.poll_buffer_limit_count,
        )
        self.gate = SlowGate()
        memory = process_memory.memory_limits()
        self.processes_count = 1 if member is None else member.place.count
        self.memory = plan_memory(settings, memory, self.processes_count)
        self.in_flight = InFlight(
            self.memory.in_flight_bytes,
            headroom_bytes=memory.headroom_bytes,
            margin_bytes=self.memory.margin_bytes,
            trim=process_memory.trim_heap,
            look=RESERVE.look,
        )
        self._large_messages = LargeMessages(self._render)
        outgoing_room = OutgoingRoom(shares.outgoing_count)
        own_ports = OwnPorts(frozenset(listener.port for listener in listeners))
        self.push = PushSender(
            timeout_ms=settings.push_timeout_ms,
            named_urls=settings.target_urls,
            is_free=self._may_push_anywhere,
            own_ports=own_ports,
            room=outgoing_room,
        )
        failures = Failures(group=None if member is None else member.place.process)
        self.tracing = tracing = make_tracing(
            now_ns=time.time_ns, tags=settings.trace_tags, shows_ids=settings.trace_ids
        )
        self.delivery = Delivery(
            render=self._large_messages.render,
            hold=self._hold_message,
            push=self.push,
            polls=self.polls,
            report=self._report if member is None else member.homes.report,
            targets=settings.targets,
            now_ms=self.clock.now_ms,
            random=random.Random(),  # noqa: S311  jitter of back-off, not a secret
            retry_first_ms=settings.task_retry_first_ms,
            retry_limit_ms=settings.task_retry_limit_ms,
            concurrency_per_target_count=settings.push_concurrency_per_target_count,
            concurrency_count=max(
                settings.push_concurrency_per_target_count,
                part_of(settings.push_concurrency_count, self.processes_count),
            ),
            target_queue_limit_count=settings.target_queue_limit_count,
            failures=failures,
        )
        self.endings = Endings(limit_count=limits.RESULT_WAITS_LIMIT_COUNT)
        self.function_calls = FunctionCalls(
            ask=lambda command: self.shards.ask(command),
            body_limit_bytes=settings.body_limit_bytes,
            guard=own_ports.may_be_called
            if settings.function_private_networks
            else own_ports.public_only,
            room=outgoing_room,
            in_flight=self.in_flight,
        )
        self.placement = Placement(
            report=(lambda command: self.shards.tell(command))
            if member is None
            else member.homes.report,
            calls=self.function_calls,
            endings=self.endings,
            now_ms=self.clock.now_ms,
            calls_concurrency_count=settings.function_calls_concurrency_count,
            calls_per_host_count=settings.function_calls_per_host_count,
        )
        self.function_calls.attach(self.placement)
        clock: Clock = self.clock
        outgoing: Outgoing = OutgoingRoutes(self.delivery, self.placement)
        routes = outgoing
        if member is not None:
            outgoing = member.homes
        samples_run = None
        if tracing is not None:
            outgoing = tracing.outgoing(
                outgoing, settings.targets, lambda promise_id: self._find(promise_id)
            )
            samples_run = tracing.plan.sampler.wants_root
        if settings.debug_operations:
            clock = debug_clock = DebugClock(clock)
            outgoing = debug_outgoing = DebugOutgoing(outgoing, clock, settings.workflow_retry_ms)
        self.shards = Shards(
            shard_count=storage.shard_count,
            clock=clock,
            outgoing=outgoing,
            cursor_secret=storage.secret,
            options=_options(settings, samples_run),
            mailbox_limit_count=settings.mailbox_limit_count,
            failures=failures,
            placement=storage.placement,
            elsewhere=None if member is None else member.mesh,
        )
        if member is not None:
            member.attach(self.shards, routes, self.polls, self._report)
        own_queues = Queues(self.shards, self.polls, self.delivery)
        queues: WholeQueues = own_queues
        looks: AllLooks | None = None
        if member is not None:
            calls = member.mesh.calls
            queues = AllQueues(calls, self.shards, self.polls, own_queues)
            looks = AllLooks(calls, member.homes, self.delivery, self.polls)
        self.surveys = Surveys(
            self.shards, self.delivery, self.polls, self.placement, self.clock.now_ms, looks
        )
        self.api = Api(
            settings=settings,
            url=self.url,
            shards=self.shards,
            polls=self.polls,
            hold=self.shards.hold,
            now_ms=self.clock.now_ms,
            clock_step_ms=lambda: self.clock.last_step_ms,
            others_are_ready=member.are_ready if member is not None else lambda: True,
            readiness=Readiness.STARTING,
            placement=self.placement,
            surveys=self.surveys,
            queues=queues,
            endings=self.endings,
            in_flight=self.in_flight,
        )

        self.placed: PlacedExecutions | None = None
        if member is not None:
            self._place_for_all(member)
        self.shared = None if member is None else share_credentials(member, self.api)
        self.surveys_of_all: AllSurveys | None = None
        if member is not None:
            register(member.mesh.calls, self.api)
            SharedRoom(listeners[0].room, self.polls, member.mesh.calls)
            self.api.surveys = self.surveys_of_all = AllSurveys(
                member.mesh.calls, member.place.group_shards, self.shards, self.surveys
            )
        self.cuts: GatheredCuts | None = None
        self.kept_copies: KeptCopies | None = None
        if member is not None:
            self.kept_copies = KeptCopies(member.mesh.calls)
            assert isinstance(storage, GroupStorage), "several share what is kept"
            self.cuts = GatheredCuts(
                member.mesh.calls,
                member.mesh.barrier,
                storage,
                lambda: self.shards.committer.durable_position,
            )
            if member.place.process == OWNER:
                calls = member.mesh.calls
                ForwardedRequests(calls, self.api, lambda: Dispatcher(self.api, self.tables[0]))
        if settings.debug_operations:
            part = DebugPart(self.shards, debug_clock, debug_outgoing)
            parts = OnePart(part) if member is None else AllParts(member.mesh.calls, part, OWNER)
            self.api.debug = DebugOperations(self.shards, parts)
        if tracing is not None:
            spans = tracing.listen(self.shards.watch, failures, self.api.request_log)
            self.api.tracing = self.api.request_log = spans
        if storage.directory is not None:
            self.api.audit = AuditLog(self.clock.now_ms, storage.directory, check=storage.check)
        self.loop_lag = LoopLag(lambda: self.shards.committer.position)
        metrics = self.api.metrics
        add_sources(self.api, self.shards, storage, self.loop_lag)
        metrics.add(CLOCK, self.clock.statistics)
        metrics.add(DELIVERY, self.delivery.statistics)
        metrics.add(PLACEMENT, self.placement.statistics)
        metrics.add(FUNCTION_CALLS, self.function_calls.statistics)
        metrics.add(GATE, self.gate.statistics)
        metrics.add(TRACES, tracing.queue.statistics if tracing is not None else lambda: NO_SPANS)
        metrics.add(PORTS, lambda: {name: door.listener.statistics() for name, door in self._ports})
        self.cluster: ClusterMember | SharingMember | None = None
        if member is not None and settings.cluster is not None:
            self.cluster = make_cluster_member(settings, member, storage, self.url)
            self.api.cluster = make_cluster_view(settings)
        self._upkeep_statistics: Callable[[], UpkeepStatistics] = UpkeepStatistics  # none yet
        if isinstance(storage, FollowedStorage):
            look = storage.stream_statistics
            metrics.add(STREAM, lambda: StreamReading(look(), self._upkeep_statistics()))
        # Until the catalog has been read, it is unknown whether there are accounts.
        self.api.credentials.unload()

    def _place_for_all(self, member: MeshMember) -> None:
        """Place the executions of all groups, if this process does that."""
        calls = member.mesh.calls
        answer_about_executions(calls, self.shards)
        self.api.builds_in_use = partial(all_builds_in_use, calls)
        if member.place.process == EXECUTIONS_HOME:
            self.placed = PlacedExecutions(
                calls, self.placement, self.shards.shard_of, member.place.groups
            )
            member.homes.when_lost = self.placed.lost

    def _report(self, command: Command) -> None:
        """Hand the shards a report of delivery."""
        if self.tracing is not None:
            self.tracing.heard(command)
        self.shards.tell(command)

    def _find(self, promise_id: str) -> Promise | None:
        """Return a promise that is in memory; it may not be durable yet."""
        shards = self.shards
        if not shards.is_near(promise_id):
            return None  # another process has it
        return shards.state_of(promise_id).promises.get(promise_id)

    async def durable(self) -> bool:
        """Wait until all that has happened is durable; return whether it is."""
        committer = self.shards.committer
        await committer.wait_durable()
        return committer.failure is None

    def _may_push_anywhere(self) -> bool:
        """Return whether clients may name receivers on this machine and in its networks."""
        settings = self.settings
        is_open = settings.is_only_for_this_machine and self.api.credentials.is_open
        return settings.push_private_networks or is_open

    def _render(self, message: Message) -> bytes:
        if isinstance(message, TaskMessage):
            return render_message(message, self.url)
        return messages.render_message(message, self.url)

    @asynccontextmanager
    async def _hold_message(
        self, size_characters: int, give_up: Callable[[], None]
    ) -> AsyncIterator[None]:
        """Wait until there is room for a message of about this size, and hold it for a block."""
        with self.in_flight.hold(give_up) as hold:
            await self.in_flight.grown(hold, size_characters)
            yield

    @asynccontextmanager
    async def keeping_a_reserve(self) -> AsyncIterator[None]:
        """Keep the reserve of memory that the plan says, if memory is limited."""
        limits = process_memory.memory_limits()
        RESERVE.open(self.memory.reserve_bytes, limits.headroom_bytes)
        try:
            yield
        finally:
            RESERVE.close()

    def make_lanes(self) -> list[Lane]:
        """Make a lane for each port, unless there are to be none; they have to run."""
        if not self.settings.hot_lane:
            return []
        lanes = {}
        for (name, door), endpoints in zip(self._ports, self.tables, strict=False):
            lanes[name] = door.listener.lane = Lane(self.api, endpoints, door.listener.limits)
        for lane in lanes.values():
            lane.neighbors = [other for other in lanes.values() if other is not lane]
        self.api.metrics.add(
            LANES, lambda: {name: lane.statistics() for name, lane in lanes.items()}
        )
        return list(lanes.values())

    def make_waiting_room(self, ready: trio.Event) -> WaitingRoom:
        """Make what answers clients as long as no process of this node serves."""
        assert self.member is not None, "this is one process of several"
        seated, passing = self.member.seated, self.member.make_passing_on(self.url)
        return WaitingRoom(seated, self.api, self.shares, self.tables, ready, passing)

    def own_group(self) -> None:
        """Learn that this process owns its group of a cluster, before it says anything."""
        storage, member = self.storage, self.member
        assert isinstance(storage, OwnedStorage), "a cluster is in an engine"
        if member is None or self.settings.mesh_listen is None:
            return
        member.owned(storage.epoch)
        if isinstance(self.shared, CredentialsOwner):
            self.shared.epoch = storage.epoch

    def make_checkpointer(self) -> Checkpointer | None:
        """Make what writes checkpoints, once the shards run; None if nothing is kept on disk."""
        settings = self.settings
        checkpointer = self.shards.make_checkpointer(
            self.storage,
            interval_ms=settings.checkpoint_interval_ms,
            log_bytes=self.memory.checkpoint_log_bytes,
        )
        if checkpointer is not None:
            self.api.metrics.add(
                CHECKPOINTS,
                lambda: CheckpointReading(
                    checkpointer.statistics(), self.storage.statistics().next_sequence
                ),
            )
        return checkpointer

    def make_snapshotter(
        self, checkpointer: Checkpointer, engine: EngineUpkeep | None
    ) -> Snapshotter | None:
        """Make what takes snapshots; None if nothing is kept on disk."""
        storage = self.storage
        if not isinstance(storage, SnapshotStorage):
            return None
        settings = self.settings
        schedule = settings.snapshot_schedule
        if self.member is not None and self.member.place.process:
            schedule = None  # the first process takes them
        snapshotter = Snapshotter(
            storage,
            checkpointer.checkpoint,
            self.clock,
            directory=settings.snapshot_directory,
            schedule=None
            if schedule is None
            else parse_cron(schedule, _options(settings).time_zone),
            keep_count=settings.snapshot_keep_count,
            of_all=self.cuts,
            engine=engine,
            copies_of_all=self.kept_copies,
        )
        self.api.snapshotter = snapshotter
        self.api.metrics.add(
            SNAPSHOTS,
            lambda: SnapshotReading(snapshotter.statistics(), is_scheduled=schedule is not None),
        )
        return snapshotter

    def continue_clock(self) -> None:
        """Go on from the time that another machine has told clients, if it had the log before."""
        if isinstance(self.storage, FollowedStorage):
            self.clock.continue_after(self.storage.time_ms)
            self.storage.tell_time(lambda: self.clock.told_ms)

    def make_stream_upkeep(self) -> EngineUpkeep | None:
        """Make what keeps the log in an engine short; None if it is not in one."""
        if self.settings.log is None:
            return None
        from troth.shards.streams import stream_storage, stream_upkeep

        assert isinstance(self.storage, stream_storage.StreamStorage)
        upkeep = stream_upkeep.StreamUpkeep(self.storage)
        self._upkeep_statistics = upkeep.statistics
        return upkeep

    def make_counting(self) -> Counting:
        """Make what counts over time."""
        storage = self.storage
        sources = Sources(
            sent_count=lambda: self.delivery.sent_count,
            log=storage.statistics,
            syncs_s=storage.take_syncs if isinstance(storage, DirectoryStorage) else tuple,
        )
        return Counting(self.api, sources, self.api.series)

    def make_feed(self) -> Feed:
        """Make what tells of changes."""
        limit_count = self.settings.event_streams_limit_count
        feed = Feed(self.api, part_of(limit_count, self.processes_count))
        self.api.feed = feed
        self.api.metrics.add(FEED, feed.statistics)
        return feed

    def make_sweeper(self) -> Sweeper:
        """Make what deletes completed promises by the rules of retention."""
        rules = self.settings.retain
        sweeper = Sweeper(
            self.shards,
            rules,
            rule_texts(rules),
            interval_ms=self.settings.retention_interval_ms,
            now_ms=self.clock.now_ms,
        )
        if isinstance(self.api.sweeper, AllSweepers):
            self.api.sweeper.own = sweeper
        else:
            self.api.sweeper = sweeper
        self.api.metrics.add(RETENTION, sweeper.statistics)
        return sweeper

    def make_bulk_jobs(self) -> BulkJobs:
        """Make what carries bulk jobs out."""
        of_all = self.surveys_of_all
        jobs = BulkJobs(
            self.shards,
            of_all or self.surveys,
            self.clock.now_ms,
            lambda job: note_end(self.api.audit, job),
        )
        if self.member is not None:
            jobs.largest_serials = partial(
                serials_by_shard, self.api.whole, self.member.place.groups
            )
        self.api.bulk = jobs
        return jobs

    def make_builder(self) -> Builder:
        """Make what checks uploads."""
        builder = Builder(self.api)
        self.api.builder = builder
        self.api.metrics.add(BUILDS, builder.statistics)
        return builder
