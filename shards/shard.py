"""The shard actor: a mailbox, a state machine, a timing wheel, and a loop over batches.

One turn of the loop takes what is in the mailbox and what is due, steps the machine once for each,
in order and without waiting for anything, and commits the result (`turns.py`). The next turn
begins while the first batch is still being written. Several shards may share one turn, which the
caller of `Shards.run_turn` runs for them. A command is carried out whether or not its client is
still there (I3).
"""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Final, final

import structlog
import trio

from troth.core.buckets import Buckets
from troth.core.codes import Code
from troth.core.commands import CREATING, PROMISE_TIMER, Command, Expire, GoOn, ResumeTime
from troth.core.json_bytes import own_encoder_of_many
from troth.core.limits import (
    BATCH_LIMIT_COUNT,
    LOG_PENDING_LIMIT_BYTES,
    MAILBOX_LIMIT_COUNT,
    SLICE_COUNT,
    TIMERS_BATCH_LIMIT_COUNT,
    WHEEL_SLICE_COUNT,
)
from troth.core.machine import Machine, Step
from troth.core.model import PENDING, Promise
from troth.core.records import Record
from troth.core.replies import Reply
from troth.core.state.captures import Capture
from troth.core.state.checkpointing import Capturing
from troth.persistence.errors import (
    CheckpointDamaged,
    LogFailed,
    MemoryRanOut,
    PersistenceError,
)
from troth.persistence.memory_reserve import RESERVE

from .clock import Clock
from .committer import Committer
from .errors import Overloaded, ShardsError, StorageFailed
from .held import HeldMessages
from .passes import Pass
from .rearming import Rearming, WheelKey
from .shard_numbers import ShardStatistics
from .together import shared_end_s
from .turns import Asker, Entry, Turn, Turns
from .wheel import DEADLINE_MAX_MS, TimingWheel

# Sleeping follows the monotonic clock and deadlines the wall clock; looking again now and then
# keeps timers right when the wall clock is set while everything sleeps.
SLEEP_LIMIT_MS = 10_000

NEVER_MS: Final = DEADLINE_MAX_MS + 1  # later than any deadline

UNANSWERED = Reply(Code.INTERNAL)

log = structlog.get_logger("troth.shards")


@final
class Shard:
    """One shard of the server."""

    def __init__(
        self,
        machine: Machine,
        clock: Clock,
        committer: Committer,
        turns: Turns,
        current_pass: Pass,
        now: Callable[[], int],
        lateness: Buckets,
        mailbox_limit_count: int = MAILBOX_LIMIT_COUNT,
    ) -> None:
        """Initialize. `now` gives the clock's time, after handling a jump of the clock.

        `lateness` counts how late timers were handled, in seconds; see `LATENESS_BOUNDS_S`.
        """
        self.machine = machine
        self.index = machine.state.index
        self.sequence = 0
        self._encode_each = own_encoder_of_many()
        self._clock = clock
        self._committer = committer
        self._turns = turns
        self._mailbox_limit_count = mailbox_limit_count
        self._pass = current_pass
        self._now = now
        self._mailbox: deque[Entry] = deque()
        self._internal: deque[Entry] = deque()
        self.waiting: deque[Entry] = deque()
        """Commands that wait until another group is done with a task."""
        self._is_wheel_stale = False
        self._rearming: Rearming | None = None
        self._due: deque[tuple[WheelKey, int]] = deque()
        self._due_from_ms = NEVER_MS  # nothing in the wheel is due before
        self._is_frozen = False
        self._overdue_when_armed: set[WheelKey] = set()
        self.lateness = lateness
        self._now_ms = clock.now_ms()
        self.wheel: TimingWheel[WheelKey] = TimingWheel(clock.now_ms())
        self._position = committer.durable_position
        self._sleeper: trio.lowlevel.Task | None = None
        self._sleeps_until_ms: int | None = None
        self._commands_count = 0
        self._refused_count = 0
        self._turns_count = 0
        self._timers_fired_count = 0

    # The mailbox

    def ask(self, command: Command, asker: Asker, place: int, held: HeldMessages | None) -> None:
        """Put a client's command into the mailbox. Raises Overloaded if it is full."""
        self.put(command, asker, place, held)
        self.wake()

    def put(self, command: Command, asker: Asker, place: int, held: HeldMessages | None) -> None:
        """Do as `ask`, but without waking the actor: the caller calls `run_turn` soon."""
        if len(self._mailbox) >= self._mailbox_limit_count or (
            RESERVE.is_short and (RESERVE.is_given_away or isinstance(command, CREATING))
        ):
            self._refused_count += 1
            raise Overloaded
        self._mailbox.append((command, asker, place, held))

    def tell(self, command: Command, held: HeldMessages | None = None) -> None:
        """Take an internal command; as with `put`, `run_turn` is called soon.

        These have no limit of their own: each belongs to state that is bounded elsewhere (a task in
        delivery, a message in an outbox), and refusing one would lose it. They do not wait in the
        mailbox either, however many there are: clients would wait behind them, or be refused.
        """
        self._internal.append((command, None, 0, held))

    def go_on(self) -> None:
        """Take up what has waited for other groups."""
        self._internal.extend(self.waiting)
        self.waiting.clear()
        self.wake()

    def wake(self) -> None:
        """Wake the actor to look for work."""
        if self._sleeper is not None:
            task, self._sleeper = self._sleeper, None
            trio.lowlevel.reschedule(task)

    async def _sleep(self) -> None:
        """Park until something is in the mailbox or the wheel wants attention."""
        self._sleeps_until_ms = wake_ms = self._look_at_wheel()
        if wake_ms is None:
            await self._park()
            return
        delay_ms = wake_ms - self._now()
        if self._is_wheel_stale:
            return
        if delay_ms > 0:
            end_s = shared_end_s(SLEEP_LIMIT_MS / 1000)
            if delay_ms < SLEEP_LIMIT_MS:
                end_s = min(end_s, trio.current_time() + delay_ms / 1000)
            with trio.move_on_at(end_s):
                await self._park()

    async def _park(self) -> None:
        self._sleeper = trio.lowlevel.current_task()

        def leave(_: Any) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    @property
    def position(self) -> int:
        """The position up to which the log must be durable before this state is shown."""
        return self._position

    def rest_on(self, other: "Shard") -> None:
        """Note that what this shard does next rests on the state of another one as it is now."""
        self._position = max(self._position, other.position)

    def freeze_timers(self, are_frozen: bool) -> None:
        """Stop the timers, or start them again; for debug operations."""
        self._is_frozen = are_frozen
        self._look_at_wheel()
        self.wake()

    # The loop

    def start(self) -> None:
        """Begin after a replay: arm the timers, send again what was on its way."""
        self._now_ms = self._clock.now_ms()
        step = self.machine.start(self._now_ms)
        self._overdue_when_armed.update(self.wheel.arm_all_fixed(*step.pending, self._now_ms))
        self._look_at_wheel()
        turn = Turn()
        self._take(step, None, turn)
        if step.again is not None:
            self.tell(step.again)
        self._turns.commit(turn)
        self._position = self._committer.position

    async def run(self) -> None:
        """Run turns until canceled."""
        while True:
            if self.is_quiet and not self._due and not self.is_rearming:
                await self._sleep()
            if self._committer.pending_bytes >= LOG_PENDING_LIMIT_BYTES:
                await self._committer.wait_room(LOG_PENDING_LIMIT_BYTES)
            now_ms = self._now()
            turn = Turn()
            self.run_commands(now_ms, turn)
            self._turns.commit(turn)
            await trio.lowlevel.cancel_shielded_checkpoint()
            await trio.lowlevel.checkpoint_if_cancelled()

    def run_turn(self, now_ms: int, turn: Turn) -> None:
        """Run this shard's part of a turn now, in the caller's task, before its actor comes to it.

        `now_ms` is what the clock says. Nothing in a turn waits, so between two turns of the actor
        this is as good as its own. What is left over, and timers that are due earlier than the
        actor has planned for, wake it.
        """
        if self._committer.pending_bytes < LOG_PENDING_LIMIT_BYTES:
            self.run_commands(now_ms, turn)
        if self._sleeper is None:
            return  # the actor is about to look anyway
        if self._mailbox or self._internal or self._due:
            self.wake()
            return
        planned_ms = self._sleeps_until_ms
        if self._due_from_ms < (NEVER_MS if planned_ms is None else planned_ms):
            # What seemed earlier may have been canceled since.
            wake_ms = self._look_at_wheel()
            if wake_ms is not None and (planned_ms is None or wake_ms < planned_ms):
                self.wake()

    def _fail(self, error: Exception, turn: Turn) -> None:
        """Note that a turn has failed half-way: nothing that rests on it may become durable.

        The state says more than the log will, and other shards may have messages of this turn
        already.
        """
        if isinstance(error, CheckpointDamaged):
            failure: PersistenceError = error
        elif isinstance(error, MemoryError):
            failure = MemoryRanOut("while a command was carried out")
        else:
            failure = LogFailed("a command failed half-way; see the server's log")
        self._committer.fail(failure)
        self._turns.refuse(turn, StorageFailed())

    def run_commands(self, now_ms: int, turn: Turn) -> None:
        """Handle what is in the mailbox, what is internal and what is due, in this order.

        Each up to its batch limit, and while the pass has time for it, but at least a slice. So
        what clients have said in time comes before what would end it. Raises what a step raises
        that has left the state half changed; then the log has failed.
        """
        if self._is_wheel_stale:
            self._rearm(now_ms)
        self._now_ms = now_ms
        self._turns_count += 1
        answers_count, records_count = len(turn.answers), len(turn.records)
        is_frozen, is_rearming = self._is_frozen, self._rearming is not None
        has_due = bool(self._due) or (self._due_from_ms <= now_ms and not is_frozen)
        self.machine.timers_may_be_late = has_due or is_frozen or is_rearming
        try:
            has_changed = bool(self._mailbox) and self._step_all(self._mailbox, now_ms, turn)
            if self._internal:
                self._pass.begin_own()
                has_changed |= self._step_all(self._internal, now_ms, turn)
                self._pass.end_own()
            if not has_changed and not has_due and len(turn.answers) > answers_count:
                self._turns.answer_sooner(turn, answers_count, self._position)
            if has_due:
                self._pass.begin_own()
                self._expire_due(now_ms, turn)
                self._pass.end_own()
            if is_rearming:
                self._pass.begin_own()
                self._rearm_some(now_ms, turn)
                self._pass.end_own()
        except Exception as error:
            self._fail(error, turn)
            raise
        if len(turn.records) > records_count:
            self._position = self._committer.position + len(turn.records)

    def _step_all(self, entries: deque[Entry], now_ms: int, turn: Turn) -> bool:
        """Step the commands of a queue, as many as there is time for; whether one changed things.

        A pass that is over already has time for one. Raises what a step raises that has left the
        state half changed.
        """
        carry_out, answers = self.machine.carry_out, turn.answers
        take, has_changed = entries.popleft, False
        slice_count = len(entries)
        if slice_count > 1:
            slice_count = min(slice_count, SLICE_COUNT) if self._has_time(entries) else 1
        left_count = BATCH_LIMIT_COUNT
        while slice_count:
            left_count -= slice_count
            for number in range(slice_count):
                command, asker, place, held = take()
                try:
                    step = carry_out(command, now_ms)
                except Exception as error:
                    if asker is not None:  # it is told so, if this ends the server
                        answers.append((asker, place, UNANSWERED))
                    step = self._contain(error, command, is_own=entries is self._internal)
                    has_changed |= bool(step.records)
                    self._take_changes(step.records, step.promise_timers, turn)
                    if asker is not None:
                        answers.pop()
                if isinstance(step, Reply):
                    if asker is not None:
                        answers.append((asker, place, step))
                    continue
                again = step.again
                if again is not None:
                    queue = self.waiting if step.waits else self._internal
                    queue.append((again, asker, place, held))
                elif asker is not None:
                    answers.append((asker, place, step.reply))
                if step.has_effects:
                    has_changed = True
                    self._take_effects(step, held, turn)
                if again is not None:  # such steps are long: the time is looked at
                    left_count += slice_count - number - 1
                    break
            slice_count = 0
            if entries and left_count and self._has_time(entries):
                slice_count = min(len(entries), SLICE_COUNT, left_count)
        self._commands_count += BATCH_LIMIT_COUNT - left_count
        if self.machine.records:
            has_changed = True
            self._take_changes(*self.machine.take_rest(), turn)
        return has_changed

    def _has_time(self, entries: deque[Entry]) -> bool:
        """Return whether the pass has time for commands of a queue."""
        current_pass, is_own = self._pass, entries is self._internal
        return current_pass.has_time_for_own() if is_own else current_pass.has_time_for_clients()

    def resume_time(self, now_ms: int, *, was_set_back: bool) -> None:
        """Resume time after a jump of the clock, before anything else happens at the new time.

        After a step back the wheel is built again, beginning with the next turn of this shard.
        """
        turn = Turn()
        step = self.machine.step(ResumeTime(was_set_back), now_ms)
        self._now_ms = now_ms
        self._take(step, None, turn)
        self._turns.commit(turn)
        self._position = max(self._position, self._committer.position)
        if was_set_back:
            self._is_wheel_stale = True
        self.wake()

    def _rearm(self, now_ms: int) -> None:
        """Begin with an empty wheel; what was in the old one is looked at again in slices."""
        self._is_wheel_stale = False
        self._rearming = self._rearming or Rearming()
        self._rearming.add(self.wheel, self._due)
        self.wheel = TimingWheel(now_ms)
        self._due.clear()
        self._overdue_when_armed.clear()
        self._due_from_ms = NEVER_MS

    def _rearm_some(self, now_ms: int, turn: Turn) -> None:
        """Look at some of it, at least a slice, as long as there is time."""
        assert self._rearming is not None, "the clock was set back"
        while (command := self._rearming.next_slice()) is not None:
            step = self._own_step(command, now_ms)
            for promise in step.promise_timers:
                # Set already, if it was deleted and created again in the meantime.
                self.wheel.cancel_fixed(promise.id, promise.timeout)
            self._take(step, None, turn)
            if not self._pass.has_time_for_own():
                return
        self._rearming = None

    def _look_at_wheel(self) -> int | None:
        """Return when the wheel wants attention, or None if never."""
        wake_ms = None if self._is_frozen else self.wheel.next_wake_ms()
        self._due_from_ms = NEVER_MS if wake_ms is None else wake_ms
        return wake_ms

    def _expire_due(self, now_ms: int, turn: Turn) -> None:
        """Step what is due, up to the limit, and note how late that is."""
        handled = []
        due = self._due
        slice_count, wheel_slice_count = SLICE_COUNT, WHEEL_SLICE_COUNT
        if not self._pass.has_time_for_own():
            slice_count, wheel_slice_count = 1, SLICE_COUNT
        for done_count in range(TIMERS_BATCH_LIMIT_COUNT):
            if done_count and not done_count % slice_count and not self._pass.has_time_for_own():
                break
            while not due and self._due_from_ms <= now_ms and not self._is_frozen:
                due.extend(self.wheel.take_due(now_ms, wheel_slice_count))
                self._look_at_wheel()
                if not self._pass.has_time_for_own():
                    break
            if not due:
                break
            key, deadline_ms = due.popleft()
            if key in self._overdue_when_armed:
                self._overdue_when_armed.discard(key)
            else:
                handled.append(deadline_ms)
            command = Expire(PROMISE_TIMER, key) if type(key) is str else Expire(*key)
            step = self._own_step(command, now_ms)
            self._take(step, None, turn)
            if step.again is not None:
                self.tell(step.again)
            self._timers_fired_count += 1
        ended_ms = self._clock.now_ms()
        for deadline_ms in handled:
            self.lateness.add((ended_ms - deadline_ms) / 1000)

    def _own_step(self, command: Command, now_ms: int) -> Step:
        """Step one of the server's own commands."""
        try:
            return self.machine.step(command, now_ms)
        except Exception as error:
            return self._contain(error, command, is_own=True)

    def _contain(self, error: Exception, command: Command, *, is_own: bool) -> Step:
        """Return the step after a harmless defect: it costs one request, not the server.

        A checkpoint that has rotted does: the next request might be given a wrong answer. Where
        there was no memory, a client is told to try again. No client would repeat one of the
        server's own commands, so it is stepped again with the reserve. Raises what that raises.
        """
        if isinstance(error, CheckpointDamaged) or not self.machine.is_clean:
            raise error
        if isinstance(error, MemoryError):
            RESERVE.give_away()
            log.warning("there was no memory for a command", command=type(command).__name__)
            if is_own:
                return self.machine.step(command, self._now_ms)
            return Step(Reply(Code.OVERLOADED))
        log.error(
            "a command failed; nothing was changed",
            command=type(command).__name__,
            exc_info=error,
        )
        return Step(UNANSWERED)

    def _take(self, step: Step, held: HeldMessages | None, turn: Turn) -> None:
        """Sort what a step led to: now, to other shards now, or when durable."""
        self._take_changes(step.records, step.promise_timers, turn)
        if step.has_effects:
            self._take_effects(step, held, turn)

    def _take_changes(
        self, records: Sequence[Record], promise_timers: Sequence[Promise], turn: Turn
    ) -> None:
        """Do the same with what most steps lead to, of one or of several."""
        if records:
            encode_each, first = self._encode_each, self.sequence + 1
            try:
                bodies = encode_each(records)
            except MemoryError:
                # The state says so already: if the log is not told, the server has to end.
                RESERVE.give_away()
                bodies = encode_each(records)
            self.sequence = last = self.sequence + len(bodies)
            turn.records.extend(zip(repeat(self.index), range(first, last + 1), bodies))
        if not promise_timers:
            return
        near_ms = max(self._due_from_ms, self._now_ms + 1)
        arm_fixed = self.wheel.arm_fixed
        for promise in self.wheel.arm_first_fixed(promise_timers, near_ms):
            timeout = promise.timeout
            if promise.state is PENDING:
                arm_fixed(promise.id, timeout)
                if timeout < near_ms:
                    self._note_armed(promise.id, timeout)
            else:
                self.wheel.cancel_fixed(promise.id, timeout)
                self._overdue_when_armed.discard(promise.id)

    def _note_armed(self, key: WheelKey, deadline_ms: int) -> None:
        self._due_from_ms = min(self._due_from_ms, deadline_ms)
        if deadline_ms <= self._now_ms:
            self._overdue_when_armed.add(key)

    def _take_effects(self, step: Step, held: HeldMessages | None, turn: Turn) -> None:
        """Do the same with what only some steps lead to."""
        for key, deadline_ms in step.timers:
            if self._overdue_when_armed:
                self._overdue_when_armed.discard(key)
            if deadline_ms is None:
                self.wheel.cancel(key)
            else:
                self.wheel.arm(key, deadline_ms)
                if deadline_ms < self._due_from_ms or deadline_ms <= self._now_ms:
                    self._note_armed(key, deadline_ms)
        if step.has_rare_effects:
            self._take_rare_effects(step, held, turn)
        if step.withdrawals or step.sends:
            if held is not None:
                held.will_hold = True
            if len(step.sends) <= SLICE_COUNT:
                turn.messages.append((step.withdrawals, step.sends, held))
                return
            turn.messages.append((step.withdrawals, step.sends[:SLICE_COUNT], held))
            for first in range(SLICE_COUNT, len(step.sends), SLICE_COUNT):
                turn.messages.append(((), step.sends[first : first + SLICE_COUNT], held))

    def _take_rare_effects(self, step: Step, held: HeldMessages | None, turn: Turn) -> None:
        """Do the same with what few steps lead to."""
        if step.posts:
            # Other shards of the group get them immediately: their records come later in the same
            # log, so none can be durable without this one's (README.md, "Between shards").
            self._turns.post(step, held, turn, self._internal)
        if step.received is not None:
            source, sequence = step.received
            both = (self.index, source)
            turn.acknowledgments[both] = max(sequence, turn.acknowledgments.get(both, 0))
        if step.finished:
            turn.finished.extend(step.finished)
        if step.has_more:
            self.tell(GoOn())
        for skipped in step.skipped:
            log.warning(
                "missed runs of a schedule are left out",
                schedule=skipped.schedule_id,
                first_ms=skipped.first_ms,
                resumed_at_ms=skipped.resumed_at_ms,
            )

    def refuse_all(self, error: ShardsError) -> None:
        """Answer all commands in the mailbox with an error: the log has failed."""
        for entries in (self._internal, self._mailbox, self.waiting):
            while entries:
                asker = entries.popleft()[1]
                if asker is not None:
                    asker.refuse(error)

    def finish_capture(self, capturing: Capturing) -> Capture:
        """Finish a capture for a checkpoint; what was stepped so far is in it."""
        return capturing.finish(self.sequence, self._committer.position, self._now_ms)

    @property
    def is_full(self) -> bool:
        """Return whether `put` would refuse a command."""
        return len(self._mailbox) >= self._mailbox_limit_count

    @property
    def is_rearming(self) -> bool:
        """Return whether timers are still to be looked at again after a step back of the clock."""
        return self._is_wheel_stale or self._rearming is not None

    @property
    def is_quiet(self) -> bool:
        """Return whether no command waits here."""
        return not self._mailbox and not self._internal

    def mark(self) -> tuple[int, ...]:
        """Return what is different whenever `statistics` may be."""
        state = self.machine.state
        return (
            self._turns_count,
            self.sequence,
            len(self._mailbox) + len(self._internal),
            self._refused_count,
            len(state.promises),
            len(state.tasks),
        )

    def statistics(self) -> ShardStatistics:
        """Return counters for metrics."""
        state = self.machine.state
        return ShardStatistics(
            len(self._mailbox) + len(self._internal),
            self._commands_count,
            self._refused_count,
            self._turns_count,
            len(self.wheel),
            self._timers_fired_count,
            state.promises_count,
            len(state.promises),
            len(state.callbacks),
            state.tasks_count,
            len(state.tasks),
            len(state.schedules),
            len(state.paused_schedules),
            len(state.locks),
            len(state.outbox),
            len(state.entries),
        )
