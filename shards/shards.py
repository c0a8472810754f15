"""All shards of a server, as one object: what the HTTP layer talks to.

`ask` sends a command to the shard of its id. Searches and heartbeats concern many shards: they are
sent to those that can hold something, and the answers are merged (`gathering.py`).
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, final

import trio

from troth.core.buckets import Buckets
from troth.core.commands import Command
from troth.core.deciding import Options
from troth.core.failures import Failures
from troth.core.grammar import task_ids
from troth.core.limits import MAILBOX_LIMIT_COUNT
from troth.core.machine import Machine
from troth.core.model import RESUME, Fence, Promise, replace
from troth.core.replies import Reply
from troth.core.state.activity import Activity
from troth.core.state.counts import Counts
from troth.core.state.shard_state import ShardState, TimerKey
from troth.core.state.watching import Watch
from troth.core.workflow_commands import ExecuteNotSent
from troth.persistence.errors import CheckpointDamaged
from troth.persistence.placement import DEFAULT_RULE, PlacementRule
from troth.persistence.serials import Serials, check_time
from troth.persistence.wal.log import LogRecord
from troth.shards.upkeep.checkpointer import Checkpointer

from . import replay
from .clock import LATENESS_BOUNDS_S, Clock
from .committer import BatchWriter, Committer
from .errors import Overloaded, Stopping, StorageFailed
from .gathering import Gathering
from .hashing import Homes
from .held import HeldMessages
from .known_sums import known_counts
from .passes import Pass
from .rearming import WheelKey
from .released import ReleasedMessages
from .shard import Shard
from .shard_numbers import ShardsStatistics
from .storage import Recovery, Storage
from .turns import Asker, Elsewhere, Outgoing, Seat, Turn, Turns
from .waiting import Waiter

SHARDS_PER_LOOK_COUNT: Final = 4
"""After how many shards a turn looks at the time: a look costs as much as a tenth of a command."""


@final
class Shards(Gathering):
    """The shards of one server, or of one group of it.

    `next_sequence` is the log sequence that the next record gets. `cursor_secret` signs search
    cursors. `shard_count` counts those of all groups; without `elsewhere` there is one.
    """

    def __init__(
        self,
        *,
        shard_count: int,
        clock: Clock,
        outgoing: Outgoing,
        cursor_secret: bytes,
        next_sequence: int = 1,
        options: Options | None = None,
        mailbox_limit_count: int = MAILBOX_LIMIT_COUNT,
        failures: Failures | None = None,
        placement: PlacementRule = DEFAULT_RULE,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.clock = clock
        self.failures = Failures() if failures is None else failures
        self.activity = Activity()
        self.lateness = Buckets(LATENESS_BOUNDS_S)
        self.watch = Watch()
        self.cursor_secret = cursor_secret
        self.committer = Committer(next_sequence, self._durable)
        self._pass = Pass()
        self._elsewhere = elsewhere
        self._turns = Turns(self.committer, outgoing, self._post, self._pass, elsewhere)
        self._jumps_seen_count = clock.jumps_count
        self._set_backs_seen_count = clock.set_backs_count
        self._serials = Serials(0 if elsewhere is None else elsewhere.group)
        self._stopping = False
        self._writer: BatchWriter | None = None
        # The shards that the next turn is about, and the task that sees to it that there is one.
        self._submitted: dict[int, Seat] = {}
        self._runner: trio.lowlevel.Task | None = None
        self._in_turn = False
        self._count = shard_count
        homes = Homes(placement, shard_count)
        self._home_of = homes.of_command
        self.shard_of, self.shard_of_name = homes.of_promise, homes.of_name
        self._released = ReleasedMessages(outgoing, self.state_of, self._pass, self._wake_runner)
        self.hold = partial(HeldMessages, self._released.send)
        """Make what one request's messages to workers wait in."""
        make_machine = Machine if elsewhere is None else elsewhere.make_machine
        self._shards = [
            Shard(
                make_machine(
                    index,
                    self.shard_of,
                    self._serials.next,
                    options,
                    partial(self._holds, index),
                    self._is_awaited,
                    partial(self._neighbor, index),
                ),
                clock,
                self.committer,
                self._turns,
                self._pass,
                self._now,
                self.lateness,
                mailbox_limit_count,
            )
            for index in (range(shard_count) if elsewhere is None else elsewhere.own)
        ]
        # What is asked for each index, and this group's shards by index.
        self._at: Sequence[Seat] = self._shards
        self._own: Sequence[Shard] | dict[int, Shard] = self._shards
        if elsewhere is not None:
            self._at = elsewhere.seats(self._shards)
            self._own = {shard.index: shard for shard in self._shards}
            for shard in self._shards:
                shard.machine.is_near = self.is_near
        for shard in self._shards:
            shard.machine.failures = self.failures
            shard.machine.activity = self.activity
            shard.machine.watch = self.watch
        self._counts = known_counts(self._shards)

    # Starting and stopping

    def recover(self, storage: Storage, pause: Callable[[], None] = lambda: None) -> Recovery:
        """Bring the state up from what is stored, before `run`; may run in a thread of its own.

        `pause` is called now and then, and may raise to end it. Raises a
        `persistence.errors.DataDirectoryError`; then these shards are not to be used.
        """
        started = time.monotonic()
        check_time(self.clock.now_ms())
        checkpoints = storage.checkpoints
        if checkpoints is not None:
            self._keep_up_with(replay.load(self._shards, checkpoints, pause))
            replay.allow_checkpoints(storage, self._shards, checkpoints)
        count = self.replay(storage.records(), pause, partial(replay.is_standing_by, storage))
        self.committer.begin(storage.next_sequence)
        duration_ms = int((time.monotonic() - started) * 1000)
        return Recovery(count, duration_ms, *storage.torn(), storage.doubt())

    def replay(
        self,
        recovered: Iterable[tuple[int, LogRecord]],
        pause: Callable[[], None] = lambda: None,
        is_standing_by: Callable[[], bool] = lambda: False,
    ) -> int:
        """Bring the state up from records; how many there were. Raises UnknownRecord."""
        count, time_ms = replay.replay(self._shards, recovered, pause, is_standing_by)
        self._keep_up_with(time_ms)
        largest = max(shard.machine.state.largest_serial for shard in self._shards)
        self._serials.continue_after(largest)
        return count

    def _keep_up_with(self, time_ms: int) -> None:
        """Go by no time below one that another group may have been told of."""
        if self._elsewhere is not None:
            self.clock.keep_up_with(time_ms)

    def make_checkpointer(
        self, storage: Storage, *, interval_ms: int, log_bytes: int
    ) -> Checkpointer | None:
        """Return what makes the checkpoints, or None if the storage keeps none."""
        if storage.checkpoints is None:
            return None
        return Checkpointer(
            self._shards,
            self.committer,
            storage.checkpoints,
            storage.trim,
            interval_ms=interval_ms,
            log_bytes=log_bytes,
            current_pass=self._pass,
        )

    async def run(
        self,
        make_writer: Callable[[Committer], BatchWriter],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until canceled; then write what is appended. Raises LogFailed if the log fails."""
        writer = self._writer = make_writer(self.committer)
        self._pass.start(self.committer.flush_each_pass(writer))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                nursery.start_soon(self._run_turns)
                nursery.start_soon(self.committer.run, writer)
                for shard in self._shards:
                    shard.start()
                    nursery.start_soon(shard.run)
                task_status.started()
        finally:
            self._pass.stop()
            self._turns.let_go_all()
            self.committer.flush(writer)
            with trio.CancelScope(shield=True):
                await writer.close()

    async def _run_turns(self) -> None:
        """Run a turn for commands posted outside one."""

        def leave(_: object) -> trio.lowlevel.Abort:
            self._runner = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            if self._submitted or self._turns.has_more or self._released.has_more:
                await trio.lowlevel.checkpoint()
            else:
                self._runner = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(leave)
            self._turns.let_go_more()
            self._released.send_more()
            self.run_turn()

    def _wake_runner(self) -> None:
        if self._runner is not None and not self._in_turn:
            task, self._runner = self._runner, None
            trio.lowlevel.reschedule(task)

    def clock_jumped(self) -> None:
        """Do what a jump of the clock asks for, and look at all timers again."""
        self._now()

    def may_lease(self) -> bool:
        """Return whether leases may run that an absence would shorten."""
        return any(shard.wheel.movable_count for shard in self._shards)

    def _now(self) -> int:
        """Return the time; what a jump asks of the shards is done before anything at a new time.

        All of them, since each may ask another whether a lease runs.
        """
        now_ms = self.clock.now_ms()
        while self.clock.jumps_count != self._jumps_seen_count:
            was_set_back = self.clock.set_backs_count != self._set_backs_seen_count
            self._jumps_seen_count = self.clock.jumps_count
            self._set_backs_seen_count = self.clock.set_backs_count
            for shard in self._shards:
                shard.resume_time(now_ms, was_set_back=was_set_back)
            now_ms = self.clock.now_ms()
        self._serials.set_time(now_ms)
        return now_ms

    async def _watch(self) -> None:
        await self.committer.failed.wait()
        failure = self.committer.failure
        assert failure is not None, "the event is set together with the failure"
        self._turns.refuse_all(StorageFailed())
        for shard in self._shards:
            shard.refuse_all(StorageFailed())
        raise failure

    async def stop(self) -> None:
        """Refuse new commands, and wait until those that were taken are durable and answered."""
        self._stopping = True
        while not self.is_quiet:
            if self.committer.failure is not None:
                return
            await self.committer.wait_durable()
            await trio.lowlevel.checkpoint()

    @property
    def is_quiet(self) -> bool:
        """Return whether no command and no reply is outstanding."""
        return (
            self._turns.is_empty
            and not self._released.has_more
            and all(shard.is_quiet and not shard.waiting for shard in self._shards)
        )

    @property
    def largest_serial(self) -> int:
        """Return a serial that none of what exists is above, and all that is to come is."""
        return self._serials.last

    def counts(self) -> Counts:
        """Return how many promises and tasks are in each state now; it may not be durable yet."""
        return Counts.of_numbers(self._counts.look())

    # For surveys, which look without asking, and for debug operations

    def each(self) -> Sequence[Shard]:
        """Return all shards, to be looked at."""
        return self._shards

    def states(self) -> list[ShardState]:
        """Return all shards' states, to be looked at in this moment; it may not be durable yet."""
        return [shard.machine.state for shard in self._shards]

    def deadlines(self, index: int, until_ms: int) -> list[list[Mapping[WheelKey, int]]]:
        """Return all timers of a shard that fire up to a time and a few more; see `TimingWheel`."""
        return self._own[index].wheel.slots(until_ms)

    def deadline_of(self, key: TimerKey) -> int | None:
        """Return when the timer of a task or lock fires, in ms; None if it is not set."""
        return self._own[self.shard_of(task_ids.home(key[1]))].wheel.deadline_of(key)

    async def wait_shown(self) -> None:
        """Wait until all that can be seen now is durable. Raises Stopping or StorageFailed."""
        self._refuse_unless_open()
        await self.committer.wait_durable()
        if self.committer.failure is not None:
            raise StorageFailed

    def freeze_timers(self, are_frozen: bool) -> None:
        """Stop the timers, or start them again."""
        for shard in self._shards:
            shard.freeze_timers(are_frozen)

    def tell_shard(self, index: int, command: Command, held: HeldMessages | None = None) -> None:
        """Put an internal command into a shard's mailbox."""
        self._post(index, command, held)

    # Talking to shards

    def state_of(self, identifier: str) -> ShardState:
        """Return the state of the shard of a promise of this group, to be looked at."""
        return self._own[self.shard_of(identifier)].machine.state

    def tell(self, command: Command) -> None:
        """Hand over a report of delivery. One that only changes a note needs no turn."""
        index = self._home_of[type(command)](command)
        if isinstance(command, ExecuteNotSent) and self.is_own(index):
            self._own[index].machine.note(command)
        else:
            self._post(index, command, None)

    def _post(self, index: int, command: Command, held: HeldMessages | None) -> None:
        """Put an internal command into a shard's mailbox, for this turn or a coming one."""
        shard = self._at[index]
        shard.tell(command, held)
        self._submitted[index] = shard
        self._wake_runner()

    async def ask(self, command: Command, held: HeldMessages | None = None) -> Reply:
        """Carry out one command; return its reply when that is durable.

        Messages to workers that the command causes wait in `held`, if it is given. Raises
        Overloaded (nothing was done), Stopping (nothing was done) or StorageFailed (unknown whether
        it was done). Canceling abandons the reply, not the command.
        """
        index = self._home_of[type(command)](command)
        (reply,) = await self._ask_all([(index, command)], held)
        return self.with_leaf(reply)

    def submit(self, command: Command, held: HeldMessages | None, asker: Asker) -> None:
        """Do as `ask`, but call `asker` with the reply when it is durable: no task waits.

        Nothing happens before `run_turn` is called, which the caller does before it waits again.
        The reply is to be completed by `with_leaf`. Raises Overloaded, Stopping or StorageFailed;
        then the asker is not called.
        """
        if self._stopping or self.committer.failure is not None:
            self._refuse_unless_open()
        index = self._home_of[type(command)](command)
        shard = self._at[index]
        shard.put(command, asker, 0, held)
        self._submitted[index] = shard

    def go_on(self) -> None:
        """Take up commands that have waited until other groups were done with tasks."""
        for shard in self._shards:
            if shard.waiting:
                shard.go_on()
                self._submitted[shard.index] = shard

    def submit_to(
        self, index: int, command: Command, held: HeldMessages | None, asker: Asker
    ) -> None:
        """Do as `submit`, in the shard with this index."""
        if self._stopping or self.committer.failure is not None:
            self._refuse_unless_open()
        shard = self._at[index]
        shard.put(command, asker, 0, held)
        self._submitted[index] = shard

    def submit_all(
        self, commands: Sequence[Command], places: range, held: HeldMessages | None, asker: Asker
    ) -> int:
        """Do as `submit` for the commands at these places, until one has no room.

        The asker is told their places. Return how many were taken. Raises Stopping, StorageFailed.
        """
        self._refuse_unless_open()
        home_of, seats, submitted = self._home_of, self._at, self._submitted
        for place in places:
            command = commands[place]
            index = home_of[type(command)](command)
            shard = seats[index]
            try:
                shard.put(command, asker, place, held)
            except Overloaded:
                return place - places.start
            submitted[index] = shard
        return len(places)

    def run_in_order(
        self, commands: Sequence[Command], places: range, held: HeldMessages | None, asker: Asker
    ) -> int:
        """Do as `submit_all`, but carry out each command before the next, as parts of one turn.

        It is not the last turn; see `run_turn`.
        """
        self._refuse_unless_open()
        home_of, seats, committer = self._home_of, self._at, self.committer
        now_ms = self._now()
        turn = Turn()
        committer.is_flushed_by_caller = self._in_turn = True
        try:
            for place in places:
                command = commands[place]
                index = home_of[type(command)](command)
                shard = seats[index]
                try:
                    shard.put(command, asker, place, held)
                except Overloaded:
                    return place - places.start
                self._submitted[index] = shard
                shard.run_turn(now_ms, turn)
        finally:
            self._turns.commit(turn)
            committer.is_flushed_by_caller = self._in_turn = False
            self.run_turn(is_last=False)  # what is left of it, and what it has put elsewhere
        return len(places)

    def run_turn(self, *, is_last: bool = True) -> None:
        """Carry out everything submitted, now, as one batch for the log, and start to write it.

        Replies that need not wait for the log come before this returns. A turn that is not the last
        one only adds to the batch; its caller calls `flush` before it waits for anything.
        """
        if not self._submitted or self.committer.failure is not None:
            return
        committer = self.committer
        now_ms = self._now()
        turn = Turn()
        committer.is_flushed_by_caller = self._in_turn = True
        try:
            while self._submitted:
                waiting, self._submitted = self._submitted, {}
                left = self._run_some(list(waiting.values()), now_ms, turn)
                if left:
                    # One turn of the next pass goes on with all of them, first come first served.
                    self._submitted = {shard.index: shard for shard in left} | self._submitted
                    break
        finally:
            self._turns.commit(turn)
            committer.is_flushed_by_caller = self._in_turn = False
            if is_last:
                self.flush()
        if self._submitted:
            self._wake_runner()

    def _run_some(self, waiting: list[Seat], now_ms: int, turn: Turn) -> list[Seat]:
        """Run the parts of the shards that wait; return those that the pass had no time for.

        At least a few of them have had their part then.
        """
        for number, shard in enumerate(waiting):
            if number and not number % SHARDS_PER_LOOK_COUNT and self._pass.is_over:
                return waiting[number:]
            shard.run_turn(now_ms, turn)
        return []

    def flush(self) -> None:
        """Start to write what turns have added to the batch, unless nothing waits for it."""
        assert self._writer is not None, "commands are submitted only to running shards"
        self.committer.flush_wanted(self._writer)

    def with_leaf(self, reply: Reply) -> Reply:
        """Add the leaf promise to the reply to a claim. Raises StorageFailed."""
        claimed = reply.claimed
        if claimed is not None and claimed.kind is RESUME and claimed.leaf is None:
            # The task exists because the leaf has completed. A completed promise never changes, and
            # the record of it is before those of the task: so it can be looked at without asking,
            # which could fail although the claim has succeeded.
            if not self.is_own(self.shard_of(claimed.leaf_id)):
                return reply  # it was looked for before, in its own group: there is none
            leaf = self._completed(claimed.leaf_id)
            reply = replace(reply, claimed=replace(claimed, leaf=leaf))
        return reply

    def _completed(self, promise_id: str) -> Promise | None:
        """Look at a completed promise from outside of its shard. Raises StorageFailed."""
        try:
            return self.state_of(promise_id).find_promise(promise_id)
        except CheckpointDamaged as error:
            self.committer.fail(error)
            raise StorageFailed from error

    @property
    def count(self) -> int:
        """The number of shards."""
        return self._count

    async def ask_shard(self, index: int, command: Command) -> Reply:
        """Do as `ask`, in the shard with this index."""
        (reply,) = await self._ask_all([(index, command)])
        return reply

    async def _ask_all(
        self, questions: list[tuple[int, Command]], held: HeldMessages | None = None
    ) -> list[Reply]:
        self._refuse_unless_open()
        waiter = Waiter(len(questions))
        self._wake_runner()  # for all that is asked in this pass, not one actor for each
        try:
            for place, (index, command) in enumerate(questions):
                self._at[index].put(command, waiter, place, held)
                self._submitted[index] = self._at[index]
        except Overloaded:
            waiter.abandon()  # some shards may have been asked already
            raise
        return await waiter.wait()

    async def ask_each(self, commands: Sequence[Command]) -> list[Reply]:
        """Do as `ask` for several commands; return their replies in the same order."""
        if not commands:
            await trio.lowlevel.checkpoint()
            return []
        return await self._ask_all(
            [(self._home_of[type(command)](command), command) for command in commands]
        )

    def _refuse_unless_open(self) -> None:
        if self.committer.failure is not None:
            raise StorageFailed
        if self._stopping:
            raise Stopping

    # For the shards

    def is_near(self, identifier: str) -> bool:
        """Return whether a promise lives in this group."""
        return self.is_own(self.shard_of(identifier))

    def is_own(self, index: int) -> bool:
        """Return whether a shard is in this group."""
        return self._elsewhere is None or not self._elsewhere.has(index)

    def _holds(self, asking: int, fence: Fence, now_ms: int) -> bool:
        """Ask the task's shard, in the middle of another's step.

        Both run in one thread and no step waits, so the answer is true at this very moment. What it
        rests on is earlier in the log than what the asking shard is about to write; if that is
        nothing, the reply waits all the same.
        """
        owner = self._own[self.shard_of(task_ids.home(fence.task_id))]
        self._own[asking].rest_on(owner)
        return owner.machine.task_is_held(fence, now_ms)

    def _neighbor(self, asking: int, identifier: str) -> Machine:
        """Return the machine of the shard that an id lives in, to be looked at as `_holds` does.

        Of another group's promises only what an errand has asked for is known.
        """
        if self._elsewhere is not None and not self.is_near(identifier):
            return self._elsewhere.far
        owner = self._own[self.shard_of(identifier)]
        self._own[asking].rest_on(owner)
        return owner.machine

    def _is_awaited(self, promise_id: str) -> bool:
        """Return whether an unfinished task of any shard is about a promise; asked as `_holds` is.

        A shard that then deletes the promise writes that later into the same log than whatever
        the others' answers rest on.
        """
        if self._elsewhere is not None and not self._elsewhere.is_free(promise_id):
            return True  # as far as is known
        return any(shard.machine.awaits(promise_id) for shard in self._shards)

    def _durable(self, position: int) -> None:
        self._turns.durable(position)
        if self._turns.has_more:
            self._wake_runner()

    def statistics(self) -> ShardsStatistics:
        """Return counters of the committer and of every shard."""
        of_shards = tuple(shard.statistics() for shard in self._shards)
        return ShardsStatistics(self.committer.statistics(), of_shards)
