"""Looking again at what timers are about, after the clock was set back.

Each timer that was set is looked at, a slice in a step: whatever time changes has one, or its
promise has. Leases, locks and claim times that would last longer than any that begins now end in
their full time from now, by the records of renewals. Schedules' next runs are computed again. What
seemed to be too late to be sent may be in time again, and the other way round.
"""

from collections.abc import Callable

from troth.core import records as r
from troth.core import workflow_records as w
from troth.core.commands import (
    DELAY_TIMER,
    EXECUTION_TIMER,
    LOCK_TIMER,
    PROMISE_TIMER,
    SCHEDULE_TIMER,
    TASK_TIMER,
    UNBLOCK_TIMER,
    WORKFLOW_TIMER,
    RearmTimers,
    TimerKind,
)
from troth.core.deciding import DONE, DecisionContext
from troth.core.grammar import task_ids
from troth.core.limits import UNBLOCK_LIMIT_MS, lease_end, saturating_add
from troth.core.model import CLAIMED, ENQUEUED, INIT, NOTIFY, PENDING, Task, replace
from troth.core.replies import Reply
from troth.core.workflows import ACQUIRED, WAITING

from .schedules import follow_clock


def rearm_timers(context: DecisionContext, command: RearmTimers, now_ms: int) -> Reply:
    """Set these timers again, as far as they are needed, with those that promises have."""
    for kind, identifier in command.timers:
        _REARMED[kind](context, identifier, now_ms)
    return DONE


def _rearm_promise(context: DecisionContext, promise_id: str, now_ms: int) -> None:
    promise = context.state.promises.get(promise_id)
    if promise is None or promise.state is not PENDING:
        return
    context.state.promise_timers.append(promise)
    # What would last as long as the promise has no timer of its own.
    _rearm_task(context, task_ids.invoke_id(promise_id), now_ms)
    _rearm_workflow(context, promise_id, now_ms)


def _rearm_task(context: DecisionContext, task_id: str, now_ms: int) -> None:
    state = context.state
    task = state.tasks.get(task_id)
    if task is None or task.is_final:
        return
    _shorten(context, task, now_ms)
    deadline_ms = state.timer_of(task)
    if deadline_ms is not None:
        state.timers.append(((TASK_TIMER, task_id), deadline_ms))
    if task.state is not INIT or task.sending or task.stalled:
        return
    if task.kind is NOTIFY:
        state.new_notifications.append(task)
    else:
        state.queue(task)


def _shorten(context: DecisionContext, task: Task, now_ms: int) -> None:
    if task.state is CLAIMED:
        end = saturating_add(now_ms, task.ttl)
        if task.expires_at > end:
            assert task.process_id is not None, "a claimed task has a holder"
            context.emit(r.TaskClaimed(task.id, task.process_id, task.ttl, end))
    elif task.state is ENQUEUED:
        end = saturating_add(now_ms, context.options.task_claim_timeout_ms)
        if task.expires_at > end:
            context.emit(r.TaskEnqueued(task.id, end))


def _rearm_lock(context: DecisionContext, resource_id: str, now_ms: int) -> None:
    lock = context.state.locks.get(resource_id)
    if lock is None:
        return
    end = saturating_add(now_ms, lock.ttl)
    if lock.expires_at > end:
        lock = replace(lock, expires_at=end)
        context.emit(r.LockAcquired(lock))
    end = context.state.end_of_lock(lock)
    context.state.timers.append(((LOCK_TIMER, resource_id), end))


def _rearm_workflow(context: DecisionContext, workflow_id: str, now_ms: int) -> None:
    state = context.state
    task = state.workflows.get(workflow_id)
    if task is None:
        return
    if task.state is ACQUIRED:
        if task.expires_at > lease_end(now_ms, task.ttl):
            context.emit(w.WorkflowsRenewed([workflow_id], now_ms))
        state.arm_workflow(workflow_id, state.end_of_workflow_lease(task))
    elif task.state is WAITING and task.unclaimed:
        state.arm_workflow(workflow_id, now_ms + context.options.workflow_retry_ms)
    elif task.state is WAITING:
        task.backs_off = False
        state.touched_workflows[workflow_id] = None


def _rearm_schedule(context: DecisionContext, schedule_id: str, now_ms: int) -> None:
    schedules = context.state.schedules
    schedule = schedules.get(schedule_id)
    if schedule is None or schedule.due_on is None:
        return
    follow_clock(context, schedule, now_ms)
    due_on = schedules[schedule_id].due_on
    context.state.timers.append(((SCHEDULE_TIMER, schedule_id), due_on))


def _rearm_unblocks(context: DecisionContext, promise_id: str, _now_ms: int) -> None:
    addresses = context.state.unblocks.get(promise_id)
    if addresses:
        settled_at = max(addresses.values())
        end = saturating_add(settled_at, UNBLOCK_LIMIT_MS)
        context.state.timers.append(((UNBLOCK_TIMER, promise_id), end))


def _rearm_execution(context: DecisionContext, promise_id: str, now_ms: int) -> None:
    state = context.state
    execution = state.executions.get(promise_id)
    if execution is None or execution.assigned_on is None:
        return
    if execution.assigned_on > now_ms:
        context.emit(r.ExecutionAssigned(promise_id, execution.node_id, now_ms))
        context.emit(r.ExecutionReported(promise_id, now_ms, execution.progress))
    ends_on = state.end_of_execution(state.executions[promise_id])
    state.timers.append(((EXECUTION_TIMER, promise_id), ends_on))


_REARMED: dict[TimerKind, Callable[[DecisionContext, str, int], None]] = {
    PROMISE_TIMER: _rearm_promise,
    TASK_TIMER: _rearm_task,
    DELAY_TIMER: _rearm_task,
    LOCK_TIMER: _rearm_lock,
    SCHEDULE_TIMER: _rearm_schedule,
    EXECUTION_TIMER: _rearm_execution,
    WORKFLOW_TIMER: _rearm_workflow,
    UNBLOCK_TIMER: _rearm_unblocks,
}
