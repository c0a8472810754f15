"""What decisions work with: a shard's state, the records they emit, and settling.

Settling applies the transition of a deadline that has passed. Lazy and eager timeouts are one rule:
a command that touches a promise or a task settles it first. An execution has two deadlines more
while a node works on it: the lease of its task, which the node renews by reports, and the time the
function may take. Its promise's own timeout is settled as that of any promise, after what came
before it.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct

from troth.core.grammar import task_ids
from troth.core.grammar.cron import Cron
from troth.core.grammar.cron import parse as parse_cron
from troth.core.grammar.zones import Zone
from troth.core.state.activity import Activity, AttemptOutcome
from troth.core.state.apply import APPLY
from troth.core.state.completions import effects_count
from troth.core.state.shard_state import ShardState
from troth.core.state.watching import Watch

from . import records as r
from .codes import Code
from .commands import Command
from .executions import ERROR_KEY, LOST_NODES_LIMIT_COUNT, STATUS_KEY
from .failures import Failures
from .limits import (
    CALLBACKS_LIMIT_COUNT,
    COMPLETION_SLICE_COUNT,
    HEARTBEAT_SLICE_COUNT,
    MISSED_SLICE_COUNT,
    SCHEDULE_CATCH_UP_COUNT,
    TASK_CLAIM_TIMEOUT_MS,
    WAITING_LIMIT_COUNT,
    WORKFLOW_RETRY_MS,
    saturating_add,
)
from .model import (
    CLAIMED,
    EMPTY_VALUE,
    NOTIFY,
    PENDING,
    Fence,
    Promise,
    PromiseState,
    Task,
    Value,
)
from .replies import Reply
from .retention_rules import Retention, RetentionRule
from .schedule_runs import MissedRuns

LOST_TEXT = "the nodes that ran the function were lost, one after the other"
TIMEDOUT_TEXT = "the function took longer than it may"


class RunsSkipped(Struct, frozen=True):
    """A schedule left out runs that a downtime had missed: those before `resumed_at_ms`."""

    schedule_id: str
    first_ms: int
    resumed_at_ms: int | None


class Options(Struct, frozen=True):
    """What an operator may choose about the machine's behavior.

    `catch_up_count` is how many missed runs of a schedule are made up for (None: all of them).
    `retention` says which completed promises are deleted, and when. `samples_run` is asked, by the
    id of its trace, whether a run of a schedule is traced; None: none is.
    """

    task_claim_timeout_ms: int = TASK_CLAIM_TIMEOUT_MS
    catch_up_count: int | None = SCHEDULE_CATCH_UP_COUNT
    time_zone: str | Zone = "UTC"
    retention: tuple[RetentionRule, ...] = ()
    callbacks_limit_count: int = CALLBACKS_LIMIT_COUNT
    workflow_retry_ms: int = WORKFLOW_RETRY_MS
    waiting_limit_count: int = WAITING_LIMIT_COUNT
    completion_slice_count: int = COMPLETION_SLICE_COUNT
    heartbeat_slice_count: int = HEARTBEAT_SLICE_COUNT
    missed_slice_count: int = MISSED_SLICE_COUNT
    samples_run: Callable[[int], bool] | None = None


def no_fence(fence: Fence, now_ms: int) -> bool:
    """Return the fence check of a machine that stands alone: no task is held anywhere."""
    return False


def always_near(identifier: str) -> bool:
    """Return whether an id lives in this group, where there is only one."""
    return True


DONE = Reply(Code.OK)
"""The reply to internal commands; it is not read."""


class DecisionContext:
    """One shard's state, and what a decision may do with it: ask, settle, emit records.

    `shard_of` maps an id to a shard's index; `next_serial` gives the process-wide serial numbers;
    `holds` tells whether a task, of any shard, is held as a fence says; `is_awaited` whether an
    unfinished task, of any shard, is about a promise. Without it, this shard's tasks are all.
    `neighbor` gives the context of the shard that an id lives in, to look at and not to change;
    without it, all ids live here.
    """

    def __init__(
        self,
        index: int,
        shard_of: Callable[[str], int],
        next_serial: Callable[[], int],
        options: Options | None = None,
        holds: Callable[[Fence, int], bool] = no_fence,
        is_awaited: Callable[[str], bool] | None = None,
        neighbor: "Callable[[str], DecisionContext] | None" = None,
    ) -> None:
        self.state = ShardState(index, shard_of)
        self.next_serial = next_serial
        self.options = options or Options()
        self.holds = holds
        if self.options.retention:
            self.state.retention = Retention(self.options.retention)
        self.is_awaited = is_awaited or self.awaits
        self.neighbor = neighbor or self._itself
        self.is_near = always_near
        """Whether an id lives in this group; what lives in others cannot be looked at."""
        self.catching_up: set[str] = set()
        self.missed_runs: dict[str, MissedRuns] = {}
        # The owner of the timers can say that all due ones have been handled; then a search for
        # completed promises need not look for pending ones that should have timed out.
        self.timers_may_be_late = True
        self.failures = Failures()
        self.activity = Activity()
        """What is counted live; shards of one server share it."""
        self.watch = Watch()
        self.records: list[r.Record] = []
        """What was written down and not taken yet."""
        self.left_count = 0
        """How much of it is of earlier commands."""
        self._skipped: list[RunsSkipped] = []
        self.received: tuple[int, int] | None = None
        self.again: Command | None = None
        self.changes_one_promise = False
        """Whether this step's records concern one promise and nothing that hangs on it."""

    def _itself(self, identifier: str) -> "DecisionContext":
        """Return the neighbor of a machine that stands alone."""
        return self

    def emit(self, record: r.Record) -> None:
        """Make a fact true and write it down."""
        self.records.append(record)
        watch = self.watch
        if not watch.is_on:
            APPLY[type(record)](self.state, record)
            return
        if watch.ids:
            watch.note_before(record, self.state)
        APPLY[type(record)](self.state, record)
        watch.hear(record, self.state)

    def settle(self) -> None:
        """Settle what creates have left, before anything is done that looks at it or changes it."""
        if self.state.fresh:
            self.left_count = 0  # where there is no memory for this, the state is half changed
            self.state.settle()

    @property
    def records_count(self) -> int:
        """The number of facts that this command has written down so far."""
        return len(self.records) - self.left_count

    def note_skipped(self, skipped: RunsSkipped) -> None:
        """Note runs that were left out, for the reader of the step."""
        self._skipped.append(skipped)

    # Settling: deadlines that have passed

    def promise(self, promise_id: str, now_ms: int) -> Promise | None:
        """Return the promise as it is now, timed out if it is time, or None if there is none."""
        state = self.state
        if promise_id in state.executions:
            settle_execution(self, promise_id, now_ms)
        promise = state.promises.kept.get(promise_id)
        if promise is None:
            return state.find_cold_promise(promise_id)  # a completed one, which has left memory
        if isinstance(promise, bytes):
            promise = state.promises.unfolded(promise_id, promise)
        if promise.timeout <= now_ms and promise.state is PENDING:
            timed_out_state = promise.timed_out_state
            state.activity.promise_timed_out(promise, timed_out_state)
            return self.complete(
                r.PromiseCompleted(
                    promise.id,
                    timed_out_state,
                    EMPTY_VALUE,
                    None,
                    promise.timeout,
                    now_ms,
                )
            )
        return promise

    def complete(self, record: r.PromiseCompleted) -> Promise:
        """Complete a promise as the record says; begin to, where too much for a step hangs on it.

        The deadlines of its tasks that come before are applied first.
        """
        state = self.state
        promise = state.promises[record.id]
        if record.state is not PromiseState.RESOLVED:
            self.failures.note_completion(promise, record.state, record.value, record.at)
        if effects_count(state, record.id) <= self.options.completion_slice_count:
            self.settle_tasks(record.id, min(record.at, promise.timeout - 1))
            self.emit(record)
        else:
            self.emit(
                r.CompletionBegun(
                    record.id,
                    record.state,
                    record.value,
                    record.key_for_complete,
                    record.completed_on,
                    record.at,
                )
            )
        return state.promises[record.id]

    def settle_tasks(self, root_id: str, until_ms: int) -> None:
        """Apply the deadlines of a root's tasks up to `until_ms`: its completion comes after them.

        Otherwise it would depend on which timer is looked at first whether a task whose lease ran
        out before its root completed counts as given out again.
        """
        root = self.state.roots.get(root_id)
        if root is not None:
            for task in list(root.tasks):
                self.settle_task(task, until_ms)

    def settle_task(self, task: Task, until_ms: int) -> None:
        """Apply the task's own deadlines up to `until_ms`, the earlier one first."""
        deadline = task.deadline
        if deadline is None or deadline > until_ms:
            return
        deadline = self.state.deadline_of(task)  # later than its own after an absence
        if deadline is None or deadline > until_ms:
            return
        if task.state is CLAIMED and (at := self._beaten_at(task, deadline)) is not None:
            self.renew_task(task, at)
            deadline = self.state.deadline_of(task)
            if deadline is None or deadline > until_ms:
                return
        if deadline < task.timeout:
            self.failures.note_lease(task, until_ms)
            self.release_task(task, AttemptOutcome.EXPIRED, deadline)
        if task.timeout <= until_ms:
            self.emit(r.TaskTimedOut(task.id))

    def release_task(self, task: Task, outcome: AttemptOutcome, at: int) -> None:
        """Give a task out again; an attempt that this ends has that outcome."""
        self.state.activity.end_attempt(task, outcome, at)
        self.emit(r.TaskReleased(task.id))

    def _beaten_at(self, task: Task, deadline: int) -> int | None:
        """Return the time of the last heartbeat under way that the claimed task was held at."""
        return self.state.task_beats.last(task.process_id, task.root_id, deadline, task.ttl)

    def renew_task(self, task: Task, at: int) -> None:
        """Renew the lease of a claimed task as of that time, unless it runs longer already."""
        expires_at = saturating_add(at, task.ttl)
        if expires_at > task.expires_at:
            assert task.process_id is not None, "a claimed task has a holder"
            self.emit(r.TaskClaimed(task.id, task.process_id, task.ttl, expires_at))

    def task(self, task_id: str, now_ms: int) -> Task | None:
        """Return the task as it is now: completed, timed out or released if it is time."""
        state = self.state
        task = state.find_task(task_id)
        if state.completions and (task is None or task.is_final):
            task = self._fire_early(task_id, task)
        if task is None:
            return None
        if task.kind is not NOTIFY:
            self.promise(task.root_id, now_ms)
            if state.completions and task.root_id in state.completions and not task.is_final:
                self.continue_completion(task.root_id, tasks=[task])
        if task.expires_at <= now_ms or task.timeout <= now_ms:  # else nothing can have passed
            self.settle_task(task, now_ms)
        return task

    # Completions under way: a command that touches what is left of one carries that out first

    def _fire_early(self, task_id: str, task: Task | None) -> Task | None:
        """Return the task of a callback whose promise has completed, or what was there before."""
        state = self.state
        for promise_id in state.completions:
            if task_id in state.callbacks.get(promise_id, ()):
                self.continue_completion(promise_id, callbacks=[task_id])
                return state.find_task(task_id)
        return task

    def continue_completion(
        self,
        promise_id: str,
        *,
        tasks: Sequence[Task] = (),
        callbacks: Sequence[str] = (),
        awaiters: Sequence[str] = (),
        listeners: Sequence[str] = (),
    ) -> None:
        """Carry out a completion under way for these; for none, to find it finished.

        Of the tasks' own deadlines those apply first that came before it, as everywhere.
        """
        state = self.state
        if tasks:
            promise = state.find_promise(promise_id)
            assert promise is not None, "a promise stays while its completion is under way"
            until_ms = min(state.completions[promise_id], promise.timeout - 1)
            for task in tasks:
                self.settle_task(task, until_ms)
        self.emit(
            r.CompletionContinued(
                promise_id,
                [task.id for task in tasks if not task.is_final],
                list(callbacks),
                list(awaiters),
                list(listeners),
            )
        )

    def fence_holds(self, fence: Fence, now_ms: int) -> bool:
        """Return whether a task, of any shard, is held as a fence says."""
        return self.holds(fence, now_ms) if fence.judged is None else fence.judged

    def task_is_held(self, fence: Fence, now_ms: int) -> bool:
        """Return whether this shard's task is claimed, with that counter, and its lease runs.

        Changes nothing, so that other shards may ask in the middle of a step of their own.
        """
        return self.end_of_hold(fence, now_ms) is not None

    def end_of_hold(self, fence: Fence, now_ms: int) -> int | None:
        """Return until when it is held if nothing happens to it, in ms; None if it is not held."""
        task = self.state.tasks.get(fence.task_id)
        if task is None or task.state is not CLAIMED or task.counter != fence.counter:
            return None
        if task.root_id in self.state.completions and task.kind is not NOTIFY:
            return None
        root = self.state.promises.get(task.root_id)
        deadline = self.state.deadline_of(task)
        if deadline is None:
            return None
        if deadline <= now_ms and (at := self._beaten_at(task, deadline)) is not None:
            deadline = min(saturating_add(at, task.ttl), task.timeout)
        if task.kind is not NOTIFY and root is not None and root.state is PENDING:
            deadline = min(deadline, root.timeout)
        return deadline if deadline > now_ms else None

    def awaits(self, promise_id: str) -> bool:
        """Return whether an unfinished task here, but an invoke task, is about a promise.

        While a completion is under way its tasks are still to come, of whatever promise.
        """
        return bool(self.state.completions) or self.state.task_notes.awaits(promise_id)

    def cron(self, expression: str) -> Cron:
        """Return the parsed cron expression, in the configured time zone."""
        return parse_cron(expression, self.options.time_zone)


def settle_execution(context: DecisionContext, promise_id: str, now_ms: int) -> None:
    """Apply an execution's deadlines up to now, if they come before its promise's timeout."""
    state = context.state
    execution = state.executions[promise_id]
    ends_on = state.end_of_execution(execution)
    if ends_on is None:
        return
    until_ms = min(now_ms, state.promises[promise_id].timeout - 1)
    task = state.tasks.get(task_ids.invoke_id(promise_id))
    lapsed_on = ends_on
    if task is not None and task.state is CLAIMED:
        lapsed_on = state.lease_floor.end_of_lease(task.expires_at, task.ttl)
    if task is not None and lapsed_on < ends_on:
        if lapsed_on <= until_ms:
            context.failures.note_lease(task, now_ms)
            context.release_task(task, AttemptOutcome.EXPIRED, lapsed_on)
            if state.executions[promise_id].lost_nodes_count > LOST_NODES_LIMIT_COUNT:
                _fail_execution(context, promise_id, 502, LOST_TEXT, lapsed_on, now_ms)
    elif ends_on <= until_ms:
        _fail_execution(context, promise_id, 504, TIMEDOUT_TEXT, ends_on, now_ms)


def _fail_execution(
    context: DecisionContext, promise_id: str, status: int, text: str, ended_on: int, now_ms: int
) -> None:
    value = Value({STATUS_KEY: str(status), ERROR_KEY: text})
    promise = context.state.promises[promise_id]
    context.failures.note_completion(promise, PromiseState.REJECTED, value, now_ms)
    context.emit(
        r.PromiseCompleted(promise_id, PromiseState.REJECTED, value, None, ended_on, now_ms)
    )
