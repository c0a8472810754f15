"""Everything around the server: its disks, one clock, a network that loses answers.

All randomness comes from the seed, by one generator for each actor and each fault, so that a change
of one does not change the others' luck. What goes wrong is decided by `faults.py`.
"""

from collections.abc import Callable
from random import Random

import trio

from troth.cli.supervising.supervisor import UNOWNED_INTERVAL_S
from troth.core.commands import (
    AssignExecution,
    Command,
    CreatePromise,
    CreateSchedule,
    DeletePromise,
    FinishExecution,
    ReadPromise,
    ReportExecution,
    ReturnExecution,
)
from troth.core.model import PromiseState
from troth.core.replies import Reply
from troth.core.workflow_commands import EnsurePromise

from .ledger import Ledger, require
from .links import SimulatedWire
from .lives import Lives
from .plan import Plan
from .server import PushFailed, Server, Unreachable
from .surroundings import Surroundings

PUSH_TIMEOUT_S = 10
OF_NODES = (AssignExecution, ReportExecution, ReturnExecution, FinishExecution)


class World(Surroundings):
    """The surroundings of one run, and its server."""

    def __init__(self, plan: Plan, check_recovered: Callable[[Server, Ledger], None]) -> None:
        super().__init__(plan, check_recovered)
        self.requests_count = 0
        self.steps_are_used_up = trio.Event()
        self.clients_have_left = False
        self.snapshots_count = 0
        self.comparisons_count = 0
        self.receivers: dict[str, Callable[[bytes], None]] = {}
        self.nursery: trio.Nursery | None = None
        self._network = self.random("network")
        self.lives = [Lives(self, group) for group in range(plan.groups_count)]
        self.wires = {
            (asker.group, answerer.group): SimulatedWire(self, asker, answerer)
            for asker in self.lives
            for answerer in self.lives
            if asker is not answerer
        }

    def close(self) -> None:
        """Remove what the run leaves outside of this process: nothing."""

    @property
    def goes_on(self) -> bool:
        """Whether the run's steps are not used up yet, and there is a client to use them up."""
        return self.requests_count < self.plan.steps_count and not self.clients_have_left

    # The server's processes

    async def run_server(self) -> None:
        """Keep all processes running, until canceled."""
        async with trio.open_nursery() as nursery:
            for one in self.lives:
                nursery.start_soon(one.run)
            for wire in self.wires.values():
                nursery.start_soon(wire.run)
            if len(self.lives) > 1:
                nursery.start_soon(self._tell_of_no_owner, nursery)

    async def _tell_of_no_owner(self, nursery: trio.Nursery) -> None:
        """Tell processes, as their supervisor does, while none owns the accounts."""
        while True:
            await trio.sleep(UNOWNED_INTERVAL_S)
            owner, at_s = self.first_process.server, trio.current_time()
            is_owned = owner is not None and owner.shared is not None and owner.shared.is_owning
            if owner is None or owner.is_over or not is_owned:
                for one in self.lives:
                    if one.server is not None:
                        nursery.start_soon(self._tell_it, one.server, at_s)

    async def _tell_it(self, server: Server, at_s: float) -> None:
        await trio.sleep(self._network.expovariate(1 / 0.01))
        await server.links.is_awake()
        if not server.is_over and server.shared is not None:
            server.shared.had_no_owner(at_s)

    @property
    def lives_count(self) -> int:
        """How many lives all processes have had."""
        return sum(one.count for one in self.lives)

    @property
    def server(self) -> Server | None:
        """Any process, by luck; None if that one does not serve."""
        return self.any_process().serving

    def any_process(self) -> Lives:
        """One process, by luck if there are several."""
        return self._network.choice(self.lives) if len(self.lives) > 1 else self.lives[0]

    async def home_of(self, poll_group: str) -> Server:
        """Wait for the process that a stream is brought to: any one accepts it, and finds out."""
        accepting = await self.server_is_up()
        home = None if accepting.shared is None else accepting.shared.streams.home_of(poll_group)
        server = accepting if home is None else await self.lives[home].serves()
        for other in (one.server for one in self.lives):
            # One of the same group is the next life: this one may be over while it was waited for.
            if other is None or other.group == server.group or other.is_over:
                continue
            require(
                not other.polls.has_group(poll_group),
                f"streams of {poll_group} are in two processes",
            )
        return server

    @property
    def first_process(self) -> Lives:
        """The process that places executions, drives bulk jobs and owns accounts."""
        return self.lives[0]

    async def server_is_up(self) -> Server:
        """Wait for a process that serves: any one, if there are several."""
        serving = [one.serving for one in self.lives if one.serving is not None]
        if serving:
            return self._network.choice(serving) if len(serving) > 1 else serving[0]
        return await self.any_process().serves()

    async def process_runs(self) -> Server:
        """Wait for a process that runs, whether or not it serves: any one."""
        running = [one.server for one in self.lives if one.server is not None]
        if running:
            return self._network.choice(running) if len(running) > 1 else running[0]
        return await self.any_process().is_up()

    def all_serving(self) -> list[Server]:
        """All processes that serve, also those that have been replaced and do not know it."""
        found = [one.serving for one in self.lives]
        return [server for server in found if server is not None and not server.is_over]

    async def all_are_up(self) -> list[Server]:
        """Wait until all processes serve."""
        while True:
            servers = [await one.serves() for one in self.lives]
            if all(one.serving is not None for one in self.lives):
                return servers

    def check_step(self) -> None:
        """What is checked after every step of the scheduler. Raises BrokenPromise."""
        if self.watch.broken is not None:
            raise self.watch.broken
        for one in self.lives:
            if one.server is not None and not one.server.is_over:
                one.server.check_queues()

    # The network

    async def ask(self, who: str, command: Command, random: Random) -> Reply:
        """Send a request. Raises Unreachable if there is no answer."""
        self.requests_count += 1
        if self.requests_count == self.plan.steps_count:
            self.steps_are_used_up.set()
        faults = self.faults
        await trio.sleep(random.expovariate(1 / 0.002))
        if faults.strikes("request_late"):
            await trio.sleep(faults.random("request_late").uniform(0.1, 3))
        server = self._process_for(command)
        if server is None or faults.strikes("request_lost"):
            await trio.sleep(0.2)
            raise Unreachable
        if faults.strikes("request_doubled"):
            assert self.nursery is not None
            self.nursery.start_soon(self._send_again, who, command)
        return await self._ask(server, who, command, random.expovariate(1 / 0.002))

    def _process_for(self, command: Command) -> Server | None:
        """Who is asked: nodes ask the process that places executions, or are passed on to it."""
        return self.first_process.serving if isinstance(command, OF_NODES) else self.server

    async def _send_again(self, who: str, command: Command) -> None:
        await trio.sleep(self.faults.random("request_doubled").uniform(0, 1))
        try:
            await self._ask(self._process_for(command), f"{who}'s echo", command, 0)
        except Unreachable:
            self.trace.note(who, "the echo is not heard")

    async def _ask(
        self, server: Server | None, who: str, command: Command, answer_delay_s: float
    ) -> Reply:
        ledger = self.ledger
        if server is None:
            raise Unreachable
        subject = getattr(command, "id", getattr(command, "promise_id", ""))
        if isinstance(command, DeletePromise):
            self.watch.unwanted.add(subject)
        known = ledger.finals.get(subject)
        existed = subject in ledger.created
        asked_ms = self.earliest_ms(server, command)
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
            call.answered(reply, self.latest_ms(server, command))
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

    def earliest_ms(self, server: Server, command: Command) -> int:  # noqa: ARG002
        """What is asked of a process now is done at no time below that."""
        return server.clock.now_ms()

    def latest_ms(self, server: Server, command: Command) -> int:  # noqa: ARG002
        """What a process has answered by now was done at no time above that."""
        return server.clock.now_ms()

    async def _check_abandoned(self, server: Server, command: Command) -> None:
        """I3: what was asked is done, although nobody waits for the answer any more."""
        await trio.sleep(1)
        committer = server.shards.committer
        is_settled = committer.durable_position == committer.position
        if (
            isinstance(command, CreatePromise | EnsurePromise)
            and command.fence is None
            and server.shards.is_near(command.id)
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

    async def deliver(self, url: str, body: bytes) -> None:
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
