"""Everything around the server: one disk, one clock, a network that loses answers, and its lives.

All randomness comes from the seed, by one generator for each actor and each fault, so that a change
of one does not change the others' luck. What goes wrong is decided by `faults.py`.
"""

from collections.abc import Callable
from random import Random

import trio

from tests.twins.simulated_files import SimulatedCrash, SimulatedFiles
from troth.core.commands import (
    Command,
    CreatePromise,
    CreateSchedule,
    DeletePromise,
    ReadPromise,
)
from troth.core.model import PromiseState
from troth.core.replies import Reply
from troth.core.workflow_commands import EnsurePromise
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.errors import DataDirectoryUnwritable
from troth.shards.clock import SteadyClock
from troth.shards.placement.executions import PlacedExecution

from .damage import let_checkpoint_rot, let_log_rot
from .disk import SimulatedStore
from .faults import Faults
from .history import History
from .invariants import Watch
from .lease_models import Absence
from .ledger import Ledger, require
from .node_entries import NODES
from .plan import Plan
from .server import RULES, SHARD_COUNT, PushFailed, Server, Unreachable
from .steps import Steps
from .trace import Trace

EPOCH_MS = 1_700_000_000_000
PUSH_TIMEOUT_S = 10


class JumpingClock(SteadyClock):
    """The wall clock: runs with simulated time, is set forward, or stands still (set back)."""

    def __init__(self) -> None:
        self._offset_ms = EPOCH_MS
        self._last_ms = EPOCH_MS

    def now_ms(self) -> int:
        now_ms = self._offset_ms + int(trio.current_time() * 1000 + 1e-3)
        self._last_ms = max(self._last_ms, now_ms)
        return self._last_ms

    def jump(self, by_ms: int) -> None:
        """Set the clock. Set back, the server's time stands still until it has caught up."""
        self._offset_ms += by_ms


class World:
    """The surroundings of one run."""

    def __init__(self, plan: Plan, check_recovered: Callable[[Server, Ledger], None]) -> None:
        self.plan = plan
        self.trace = Trace()
        self.ledger = Ledger()
        self.history = History()
        self.clock = JumpingClock()
        self.files = SimulatedFiles()
        self.faults = Faults(
            plan.seed, plan.without, plan.chances, lambda name: self.trace.note("fault", name)
        )
        self.watch = Watch(SHARD_COUNT, RULES)
        self.steps = Steps()
        self.store = SimulatedStore() if plan.makes_checkpoints else None
        self.server: Server | None = None
        self.requests_count = 0
        self.clients_have_left = False
        self.lives_count = 0
        self.crashes_count = 0
        self.disk_failures_count = 0
        self.target_dead_until = 0.0
        self.disk_full_until = 0.0
        self.receivers: dict[str, Callable[[bytes], None]] = {}
        self.begin_call: Callable[[Server, PlacedExecution], None] = lambda *_: None
        self.nursery: trio.Nursery | None = None
        self._check_recovered = check_recovered
        self._random = self.random("world")
        self._network = self.random("network")
        self._up = trio.Event()
        self._checkpoint_position: Callable[[], int] = lambda: 0

    def random(self, name: str) -> Random:
        """A generator for one actor."""
        return Random(f"{self.plan.seed}/{name}")

    @property
    def is_calm(self) -> bool:
        """Whether nothing goes wrong any more."""
        return self.faults.is_over

    @property
    def goes_on(self) -> bool:
        """Whether the run's steps are not used up yet, and there is a client to use them up."""
        return self.requests_count < self.plan.steps_count and not self.clients_have_left

    # The server's lives

    async def run_server(self) -> None:
        """Keep starting the server, for ever; each end is followed by a restart."""
        ended_ms = self.clock.now_ms()
        while True:
            server = await self._open()
            self.lives_count += 1
            self.trace.note("server", f"starts with {server.recovery.records_count} records")
            self._check_recovered(server, self.ledger)
            async with trio.open_nursery() as nursery:
                resumed_ms = self.clock.now_ms()
                await nursery.start(server.run)
                self.history.absences.append(Absence(ended_ms, resumed_ms, self.clock.now_ms()))
                self.server = server
                self._up.set()
            ended_ms = self.clock.now_ms()
            self.server = None
            self._up = trio.Event()
            self.steps.disarm()
            self._after(server)
            await trio.sleep(self._random.uniform(0.1, 3))

    async def _open(self) -> Server:
        """Start a life; recovery may be cut short by another power cut or a failing disk."""
        while True:
            if trio.current_time() >= self.disk_full_until:
                self.files.capacity_bytes = None
            self._let_rot()
            if self.faults.strikes("start_fails"):
                self.files.fail("sync", skip_count=self.faults.random("start_fails").randrange(4))
            if self.faults.strikes("power_cut_while_starting"):
                self._cut_power_in(self.faults.random("power_cut_while_starting").randint(1, 6))
            try:
                return self.open_server()
            except DataDirectoryUnwritable as error:
                self.trace.note("server", f"refuses to start: {type(error).__name__}")
                require(not self.is_calm, f"does not start: {error}")
            except SimulatedCrash:
                self.trace.note("server", "power lost while starting")
            self._crash()
            await trio.sleep(1)

    def _let_rot(self) -> None:
        random = self.faults.random("log_rots")
        if self.lives_count and self.faults.strikes("log_rots"):
            position = self._checkpoint_position()
            if not let_log_rot(self.files, position, random, self._open_in_vain):
                self.faults.missed("log_rots")
            self.files.end_process()
        if self.store is not None and self.faults.strikes("checkpoint_rots"):
            if not let_checkpoint_rot(self.store, random, self._open_in_vain):
                self.faults.missed("checkpoint_rots")
            self.files.end_process()

    def _open_in_vain(self) -> None:
        """Open what cannot be opened; what the watch knows is left alone."""
        self.open_server(Watch(SHARD_COUNT))

    def open_server(self, watch: Watch | None = None) -> Server:
        """Open the disk as it is now. Raises DataDirectoryError or SimulatedCrash."""
        server = Server(
            self.files,
            self.clock,
            self._random,
            self._deliver,
            self.watch if watch is None else watch,
            self.store,
            nodes=NODES,
            begin_call=lambda server, execution: self.begin_call(server, execution),
            trims_log=self.plan.trims_log,
            patience=self.plan.patience,
        )
        if self.store is not None:
            store, data_id = self.store, server.storage.data_id
            self._checkpoint_position = lambda: Checkpoints(store, data_id, SHARD_COUNT).position
        return server

    def _after(self, server: Server) -> None:
        if server.failure is not None:
            self.disk_failures_count += 1
            self.trace.note("server", f"stopped: {server.failure}")
        reboots = self.plan.reboots_after_disk_failure or self._random.random() < 0.5
        if server.has_lost_power or (server.failure is not None and reboots):
            self._crash()
            self.trace.note("disk", f"after the power cut: {self.files.used_bytes()} bytes")
        else:
            self.files.end_process()
            self.files.crash_before_operation = None
        self.crashes_count += not server.has_ended_well

    def _crash(self) -> None:
        """The machine loses power: what was not synced is lost, torn, or there."""
        chance = 1.0
        if self.faults.strikes("unsynced_lost"):
            chance = 0.0
        elif self.faults.strikes("unsynced_torn"):
            chance = self.faults.random("unsynced_torn").uniform(0.1, 0.9)
        self.files = self.files.crash(self._random, chance)

    def _cut_power_in(self, operations_count: int) -> None:
        self.files.crash_before_operation = self.files.operations_count + operations_count

    def check_step(self) -> None:
        """What is checked after every step of the scheduler. Raises BrokenPromise."""
        if self.server is not None and not self.server.is_over:
            self.server.check_queues()

    # The network

    async def ask(self, who: str, command: Command, random: Random) -> Reply:
        """Send a request. Raises Unreachable if there is no answer."""
        self.requests_count += 1
        faults = self.faults
        await trio.sleep(random.expovariate(1 / 0.002))
        if faults.strikes("request_late"):
            await trio.sleep(faults.random("request_late").uniform(0.1, 3))
        if self.server is None or faults.strikes("request_lost"):
            await trio.sleep(0.2)
            raise Unreachable
        if faults.strikes("request_doubled"):
            assert self.nursery is not None
            self.nursery.start_soon(self._send_again, who, command)
        return await self._ask(who, command, random.expovariate(1 / 0.002))

    async def _send_again(self, who: str, command: Command) -> None:
        await trio.sleep(self.faults.random("request_doubled").uniform(0, 1))
        try:
            await self._ask(f"{who}'s echo", command, 0)
        except Unreachable:
            self.trace.note(who, "the echo is not heard")

    async def _ask(self, who: str, command: Command, answer_delay_s: float) -> Reply:
        server, ledger = self.server, self.ledger
        if server is None:
            raise Unreachable
        subject = getattr(command, "id", getattr(command, "promise_id", ""))
        if isinstance(command, DeletePromise):
            self.watch.unwanted.add(subject)
        known = ledger.finals.get(subject)
        existed = subject in ledger.created
        asked_ms = self.clock.now_ms()
        patience_s = float("inf")
        if self.faults.strikes("client_vanishes"):
            # Half of them are gone before the shard has even looked into its mailbox.
            patience_s = self.faults.random("client_vanishes").choice((0, 0.001))
        with self.history.call(command, asked_ms) as call:
            with trio.move_on_after(patience_s) as scope:
                reply = await server.ask(command, answer_delay_s)
            if scope.cancelled_caught:
                self.trace.note(who, f"{describe(command)}: hangs up")
                await self._check_abandoned(server, command)
                raise Unreachable
            if self.faults.strikes("answer_lost"):
                self.trace.note(who, f"{describe(command)}: the answer is lost")
                raise Unreachable
            self.trace.note(who, f"{describe(command)}: {reply.code.name}")
            call.answered(reply, self.clock.now_ms())
        promise = reply.promise
        require(
            promise is None
            or not isinstance(command, ReadPromise)
            or promise.state is not PromiseState.PENDING
            or asked_ms < promise.timeout,
            f"{subject} is shown as pending after its timeout",
        )
        if subject in self.watch.deleted:
            # There may have been several of this name; the models of histories judge them all.
            ledger.answered(command, Reply(reply.code), None, existed=False)
        else:
            ledger.answered(command, reply, known, existed)
        return reply

    async def _check_abandoned(self, server: Server, command: Command) -> None:
        """I3: what was asked is done, although nobody waits for the answer any more."""
        await trio.sleep(1)
        committer = server.shards.committer
        is_settled = committer.durable_position == committer.position
        if (
            isinstance(command, CreatePromise | EnsurePromise)
            and command.fence is None
            and not server.is_over
            and server.shards.is_quiet
            and is_settled
        ):
            require(
                self.watch.is_durable(command.id),
                f"{command.id} was asked for by who went, and lost",
            )

    async def insist(self, who: str, command: Command, random: Random) -> Reply:
        """Send a request again and again until there is an answer. It must be repeatable."""
        while True:
            try:
                return await self.ask(who, command, random)
            except Unreachable:
                await trio.sleep(random.uniform(0.1, 1))

    async def server_is_up(self) -> Server:
        """Wait for a running server."""
        while self.server is None:
            await self._up.wait()
        return self.server

    async def _deliver(self, url: str, body: bytes) -> None:
        """A push on its way: it may be late, refused, or arrive and look refused."""
        faults = self.faults
        await trio.sleep(self._network.expovariate(1 / 0.01))
        if faults.strikes("push_refused") or trio.current_time() < self.target_dead_until:
            raise PushFailed("connection refused")
        if faults.strikes("push_hangs"):
            await trio.sleep(PUSH_TIMEOUT_S)
            raise PushFailed("no answer")
        if faults.strikes("push_lost"):
            return
        if faults.strikes("push_late"):
            await trio.sleep(3)
        receive = self.receivers[url]
        receive(body)
        if faults.strikes("push_doubled"):
            receive(body)
        if faults.strikes("push_answer_lost"):
            raise PushFailed("the answer was lost")


def describe(command: Command) -> str:
    """A command for the trace."""
    name = type(command).__name__
    if isinstance(command, CreatePromise | CreateSchedule):
        return f"{name} {command.id}"
    fields = (
        *("id", "promise_id", "resource_id", "counter", "process_id", "execution_id"),
        *("awaited", "version", "pid"),
    )
    return " ".join([name, *(str(getattr(command, field, "")) for field in fields)]).rstrip()
