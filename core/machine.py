"""The state machine of one shard: commands go in, replies and effects come out.

`Machine.step(command, now_ms)` is the only way in. It is deterministic: no clock, no I/O, no
randomness (invariant I4). What a command does is decided by the function that is registered for its
type (`promises.py`, `tasks.py`, `schedules.py`, `locks.py`), which emits records; `apply.py`
applies them. Lazy and eager timeouts are one rule: whoever touches a promise, task or lock first
settles it, that is, applies the transition of a deadline that has passed.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from . import records as r
from .apply import APPLY
from .codes import Code
from .commands import (
    DELAY_TIMER,
    LOCK_TIMER,
    TASK_TIMER,
    Acknowledge,
    Command,
    Expire,
    Receive,
    TimerKind,
)
from .cron import Cron
from .cron import parse as parse_cron
from .execution_deadlines import settle_execution
from .limits import CALLBACKS_LIMIT_COUNT, SCHEDULE_CATCH_UP_COUNT, TASK_CLAIM_TIMEOUT_MS
from .model import (
    CLAIMED,
    EMPTY_VALUE,
    INIT,
    NOTIFY,
    PENDING,
    Fence,
    Promise,
    Task,
)
from .replies import Reply, TaskMessage
from .retention_rules import Retention, RetentionRule
from .state import ShardState, TimerKey
from .zones import Zone


class RunsSkipped(Struct, frozen=True):
    """A schedule left out runs that a downtime had missed: those before `resumed_at_ms`."""

    schedule_id: str
    first_ms: int
    resumed_at_ms: int | None


class Step(Struct, gc=False):
    """What one command led to.

    The records must be durable before the reply, the sends and the withdrawals leave the shard.
    `promise_timers` are promises that began to be pending, whose timers are to be set to their
    timeouts, or ceased to be, whose timers are to be cancelled. `timers` are all others: (key,
    deadline in ms or None to cancel), the last entry of a key counts. `posts` are commands for
    other shards; `received` names the (source, sequence) to acknowledge when durable; `finished`
    names the function tasks that were.

    Most commands lead to the first three at most; `has_effects` tells whether there is more.
    """

    reply: Reply
    records: list[r.Record]
    promise_timers: list[Promise]
    has_effects: bool = False
    timers: Sequence[tuple[TimerKey, int | None]] = ()
    sends: Sequence[TaskMessage] = ()
    withdrawals: Sequence[str] = ()
    posts: Sequence[tuple[int, Receive]] = ()
    received: tuple[int, int] | None = None
    skipped: Sequence[RunsSkipped] = ()
    finished: Sequence[str] = ()


class Options(Struct, frozen=True):
    """What an operator may choose about the machine's behaviour.

    `catch_up_count` is how many missed runs of a schedule are made up for (None: all of them).
    `retention` says which completed promises are deleted, and when.
    """

    task_claim_timeout_ms: int = TASK_CLAIM_TIMEOUT_MS
    catch_up_count: int | None = SCHEDULE_CATCH_UP_COUNT
    time_zone: str | Zone = "UTC"
    retention: tuple[RetentionRule, ...] = ()
    callbacks_limit_count: int = CALLBACKS_LIMIT_COUNT


def no_fence(fence: Fence, now_ms: int) -> bool:
    """The fence check of a machine that stands alone: no task is held anywhere."""
    return False


DONE = Reply(Code.OK)
"""The reply to internal commands, which nobody reads."""

Decision = Callable[["Machine", Any, int], Reply]
DECISIONS: dict[type[Command], Decision] = {}
EXPIRIES: dict[TimerKind, Callable[["Machine", str, int], None]] = {}


def decides(command: type[Command]) -> Callable[[Decision], Decision]:
    """Register the function that decides what a command does."""

    def register(decision: Decision) -> Decision:
        assert command not in DECISIONS, "one decision a command"
        DECISIONS[command] = decision
        return decision

    return register


class Machine:
    """One shard's state machine.

    `shard_of` maps an id to a shard's index; `next_serial` gives the process-wide serial numbers;
    `holds` tells whether a task, of any shard, is held as a fence says; `is_awaited` whether an
    unfinished task, of any shard, is about a promise. Without it, this shard's tasks are all.
    """

    def __init__(
        self,
        index: int,
        shard_of: Callable[[str], int],
        next_serial: Callable[[], int],
        options: Options | None = None,
        holds: Callable[[Fence, int], bool] = no_fence,
        is_awaited: Callable[[str], bool] | None = None,
    ) -> None:
        self.state = ShardState(index, shard_of)
        self.next_serial = next_serial
        self.options = options or Options()
        self.holds = holds
        if self.options.retention:
            self.state.retention = Retention(self.options.retention)
        self.is_awaited = is_awaited or self.awaits
        self.catching_up: set[str] = set()
        # Whoever owns the timers may say that all that are due have been handled; then a search for
        # completed promises need not look for pending ones that should have timed out.
        self.timers_may_be_late = True
        self._records: list[r.Record] = []
        self._skipped: list[RunsSkipped] = []
        self.received: tuple[int, int] | None = None

    def step(self, command: Command, now_ms: int) -> Step:
        """Carry out one command at the time `now_ms`, which must not go backwards."""
        reply = DECISIONS[type(command)](self, command, now_ms)
        return self._finish(reply, now_ms)

    def start(self, now_ms: int) -> Step:
        """After the replay: look at everything that waits to be sent or was on its way.

        The step's timers are all that the shard needs; its posts are the outbox, sent again.
        """
        state = self.state
        state.promise_timers.extend(
            promise for promise in state.promises.values() if promise.state is PENDING
        )
        state.timers.extend(self._deadlines())
        state.touched_roots.update(dict.fromkeys(state.roots))
        state.new_notifications.extend(
            task for task in state.notifications.values() if task.state is INIT
        )
        for target, messages in state.outbox.items():
            state.messages.extend((target, number, text) for number, text in messages.items())
        return self._finish(DONE, now_ms)

    def _finish(self, reply: Reply, now_ms: int) -> Step:
        state = self.state
        records, self._records = self._records, []
        promise_timers, state.promise_timers = state.promise_timers, []
        if not (
            state.timers
            or state.touched_roots
            or state.new_notifications
            or state.withdrawals
            or state.messages
            or state.finished
            or self.received
            or self._skipped
        ):
            return Step(reply, records, promise_timers)
        sends: list[TaskMessage] = []
        self._dispatch(sends, now_ms)
        posts = [
            (target, Receive(state.index, number, message))
            for target, number, message in state.messages
        ]
        step = Step(
            reply,
            records,
            promise_timers,
            True,
            state.timers,
            sends,
            state.withdrawals,
            posts,
            self.received,
            self._skipped,
        )
        state.timers = []
        if state.withdrawals:
            state.withdrawals = []
        if posts:
            state.messages = []
        if state.finished:
            step.finished, state.finished = state.finished, []
        if self._skipped:
            self._skipped = []
        self.received = None
        return step

    def emit(self, record: r.Record) -> None:
        """Make a fact true and write it down."""
        self._records.append(record)
        APPLY[type(record)](self.state, record)

    @property
    def is_clean(self) -> bool:
        """Whether no record was emitted since the last step: a failed step changed nothing."""
        return not self._records

    def note_skipped(self, skipped: RunsSkipped) -> None:
        """Let the step's reader know of runs that were left out."""
        self._skipped.append(skipped)

    # Settling: deadlines that have passed

    def promise(self, promise_id: str, now_ms: int) -> Promise | None:
        """The promise as it is now, timed out if it is time; None if there is none."""
        state = self.state
        if promise_id in state.executions:
            settle_execution(self, promise_id, now_ms)
        promise = state.promises.get(promise_id)
        if promise is None:
            return state.find_cold_promise(promise_id)  # a completed one, which has left memory
        if promise.timeout <= now_ms and promise.state is PENDING:
            self.settle_tasks(promise_id, promise.timeout - 1)
            self.emit(
                r.PromiseCompleted(
                    promise.id,
                    promise.timed_out_state,
                    EMPTY_VALUE,
                    None,
                    promise.timeout,
                    now_ms,
                )
            )
            return state.promises[promise_id]
        return promise

    def settle_tasks(self, root_id: str, until_ms: int) -> None:
        """Apply the deadlines of a root's tasks up to `until_ms`: its completion comes after them.

        Otherwise it would depend on which timer is looked at first whether a task whose lease ran
        out before its root completed counts as given out anew.
        """
        root = self.state.roots.get(root_id)
        if root is not None:
            for task in list(root.tasks.values()):
                self._settle_task(task, until_ms)

    def _settle_task(self, task: Task, until_ms: int) -> None:
        """Apply the task's own deadlines up to `until_ms`, the earlier one first."""
        deadline = task.deadline
        if deadline is None or deadline > until_ms:
            return
        if deadline < task.timeout:
            self.emit(r.TaskReleased(task.id))
        if task.timeout <= until_ms:
            self.emit(r.TaskTimedOut(task.id))

    def task(self, task_id: str, now_ms: int) -> Task | None:
        """The task as it is now: completed, timed out or released if it is time."""
        task = self.state.find_task(task_id)
        if task is None:
            return None
        if task.kind is not NOTIFY:
            self.promise(task.root_id, now_ms)
        self._settle_task(task, now_ms)
        return task

    def task_is_held(self, fence: Fence, now_ms: int) -> bool:
        """Whether this shard's task is claimed, with that counter, and its lease runs.

        Changes nothing, so that other shards may ask in the middle of a step of their own.
        """
        task = self.state.tasks.get(fence.task_id)
        if task is None or task.state is not CLAIMED or task.counter != fence.counter:
            return False
        root = self.state.promises.get(task.root_id)
        root_is_due = (
            task.kind is not NOTIFY
            and root is not None
            and root.state is PENDING
            and root.timeout <= now_ms
        )
        deadline = task.deadline
        return not root_is_due and deadline is not None and deadline > now_ms

    def awaits(self, promise_id: str) -> bool:
        """Whether an unfinished task of this shard is about a promise; False without retention."""
        notes = self.state.retention
        return notes is not None and notes.is_awaited(promise_id)

    # Dispatch: which messages go out

    def _dispatch(self, sends: list[TaskMessage], now_ms: int) -> None:
        state = self.state
        if state.touched_roots:
            for root_id in state.touched_roots:
                self._offer(root_id, sends, now_ms)
            state.touched_roots.clear()
        for task in state.new_notifications:
            if task.state is INIT and not task.sending and task.timeout > now_ms:
                task.sending = True
                task.stalled = False
                sends.append(TaskMessage(task.copy(), state.find_promise(task.root_id)))
        state.new_notifications.clear()

    def _offer(self, root_id: str, sends: list[TaskMessage], now_ms: int) -> None:
        """Send the oldest task of a root that may go, if none is in flight (rest.md 5.3)."""
        root = self.state.roots.get(root_id)
        if root is None or root.active_count or root.sending is not None:
            return
        while root.queue:
            _, task_id = heapq.heappop(root.queue)
            task = root.tasks.get(task_id)
            if task is None:
                continue
            task.queued = False
            if task.state is not INIT or task.stalled or task.timeout <= now_ms:
                continue
            if task.not_before is not None and task.not_before > now_ms:
                self.state.timers.append(((DELAY_TIMER, task.id), task.not_before))
                continue
            task.sending = True
            root.sending = task.id
            sends.append(TaskMessage(task.copy()))
            return

    def _deadlines(self) -> Iterator[tuple[TimerKey, int | None]]:
        """Every deadline but those of promises, for a timing wheel that starts empty."""
        state = self.state
        for task in state.tasks.values():
            deadline = state.timer_of(task)
            if deadline is not None:
                yield (TASK_TIMER, task.id), deadline
        for lock in state.locks.values():
            yield (LOCK_TIMER, lock.resource_id), lock.expires_at
        for schedule in state.schedules.values():
            if schedule.next_run_time is not None:
                yield (TimerKind.SCHEDULE, schedule.id), schedule.next_run_time
        for execution in state.executions.values():
            if execution.ends_on is not None:
                yield (TimerKind.EXECUTION, execution.promise_id), execution.ends_on

    def cron(self, expression: str) -> Cron:
        """The parsed cron expression, in the configured time zone."""
        return parse_cron(expression, self.options.time_zone)


@decides(Expire)
def expire(machine: Machine, command: Expire, now_ms: int) -> Reply:
    """A timer has fired."""
    EXPIRIES[command.kind](machine, command.id, now_ms)
    return DONE


@decides(Receive)
def receive(machine: Machine, command: Receive, now_ms: int) -> Reply:
    """Apply another shard's message, unless it was applied before."""
    applied = machine.state.inbox.get(command.source, 0)
    assert command.sequence <= applied + 1, "messages of a shard come in order, none left out"
    if command.sequence > applied:
        serial = 0
        if isinstance(command.message, r.PromiseMessage):
            machine.promise(command.message.id, now_ms)
            serial = machine.next_serial()
        machine.emit(
            r.MessageReceived(command.source, command.sequence, command.message, serial, now_ms)
        )
    # Last, so that a message whose step failed is not acknowledged by the next step.
    machine.received = (command.source, command.sequence)
    return DONE


@decides(Acknowledge)
def acknowledge(machine: Machine, command: Acknowledge, now_ms: int) -> Reply:
    """Forget what the target shard has durably applied."""
    waiting = machine.state.outbox.get(command.target)
    if waiting and next(iter(waiting)) <= command.sequence:
        machine.emit(r.MessagesAcknowledged(command.target, command.sequence))
    return DONE


# The other commands' decisions register themselves when their modules are imported.
from . import (  # noqa: E402
    archives,  # noqa: F401
    entries,  # noqa: F401
    execution_decisions,  # noqa: F401
    locks,  # noqa: F401
    promises,  # noqa: F401
    retention,  # noqa: F401
    schedules,  # noqa: F401
    tasks,  # noqa: F401
)
