"""Looking at workflow tasks: as they are now, in the light of an event, under a fence.

Which event leads where is the table WORKFLOW in `lifecycles.py`. What another shard is asked in the
middle of a step is only looked at, with passed deadlines taken into account.
"""

from typing import Final

from troth.core import workflow_records as w
from troth.core.codes import Code
from troth.core.deciding import DecisionContext
from troth.core.failures import FailureKind
from troth.core.lifecycles import WORKFLOW, WorkflowEvent
from troth.core.limits import lease_end
from troth.core.model import Promise
from troth.core.workflows import (
    ACQUIRED,
    FULFILLED,
    WorkflowFence,
    WorkflowTask,
    WorkflowView,
)

# See PENDING in model.py.
_OK: Final = Code.OK
_FENCE: Final = WorkflowEvent.FENCE


def find(
    context: DecisionContext, workflow_id: str, now_ms: int
) -> tuple[Promise | None, WorkflowTask | None]:
    """Return a promise as it is now, and its task if it is pending and has one.

    A lease that has ended is released.
    """
    promise = context.promise(workflow_id, now_ms)
    state = context.state
    task = state.workflows.get(workflow_id)
    if state.completions and task is not None:
        for awaited in list(task.awaited or ()):
            if awaited in state.completions and state.awaits.has(awaited, workflow_id):
                context.continue_completion(awaited, awaiters=[workflow_id])
    if (
        task is not None
        and task.state is ACQUIRED
        and task.expires_at <= now_ms
        and _lease_has_ended(context, task, now_ms)
    ):
        reason, holder = "the lease ran out", task.pid or ""
        context.failures.note(FailureKind.LEASE, now_ms, workflow_id, reason, holder)
        context.emit(w.WorkflowReleased(workflow_id, now_ms, has_expired=True))
    return promise, task


def _lease_has_ended(context: DecisionContext, task: WorkflowTask, now_ms: int) -> bool:
    """Return whether a lease has ended; one that a heartbeat under way has renewed has not.

    That is written down first.
    """
    end = context.state.end_of_workflow_lease(task)
    at = context.state.workflow_beats.last(task, end) if end <= now_ms else None
    if at is not None and lease_end(at, task.ttl) > task.expires_at:
        context.emit(w.WorkflowsRenewed([task.id], at))
        end = context.state.end_of_workflow_lease(task)
    return end <= now_ms


def judge(
    context: DecisionContext,
    workflow_id: str,
    version: int | None,
    event: WorkflowEvent,
    now_ms: int,
) -> tuple[Promise | None, WorkflowTask | None, Code]:
    """Look an event up in the life cycle. The task is there if the code is OK.

    A version of None fits any.
    """
    promise, task = find(context, workflow_id, now_ms)
    if task is None:
        if promise is None or promise.task_version is None:
            return promise, None, Code.TASK_NOT_FOUND
        return promise, None, WORKFLOW[FULFILLED, event].code
    code = WORKFLOW[task.state, event].code
    if code is _OK and version is not None and task.version != version:
        code = Code.WORKFLOW_VERSION
    return promise, task, code


def judge_fence(context: DecisionContext, fence: WorkflowFence, now_ms: int) -> Code:
    """Return whether a task, of any shard, is held as a fence says: OK, or why not."""
    if fence.judged is not None:
        return fence.judged
    return guard(context.neighbor(fence.id), fence, now_ms)


def guard(context: DecisionContext, fence: WorkflowFence, now_ms: int) -> Code:
    """Return whether a task of this shard is held as a fence says: OK, or why not.

    Changes no state, so that other shards may ask in the middle of a step of their own; that the
    holder goes on with its work is noted.
    """
    return guard_until(context, fence, now_ms)[0]


def guard_until(context: DecisionContext, fence: WorkflowFence, now_ms: int) -> tuple[Code, int]:
    """Do as `guard`; with OK, return also until when it is held if nothing happens, in ms."""
    task = context.state.workflows.get(fence.id)
    if task is None:
        promise = context.state.find_promise(fence.id)
        if promise is None or promise.task_version is None:
            return Code.TASK_NOT_FOUND, now_ms
        return Code.WORKFLOW_STATE, now_ms
    timeout = context.state.promises[fence.id].timeout
    if timeout <= now_ms:
        return Code.WORKFLOW_STATE, now_ms
    code = WORKFLOW[task.state, _FENCE].code
    end = context.state.end_of_workflow_lease(task)
    if end <= now_ms and (at := context.state.workflow_beats.last(task, end)) is not None:
        end = lease_end(at, task.ttl)
    if code is not _OK or end <= now_ms:
        return Code.WORKFLOW_STATE, now_ms
    if task.version != fence.version:
        return Code.WORKFLOW_VERSION, now_ms
    task.idle_count = 0
    return _OK, min(end, timeout)


def view(task: WorkflowTask, promise: Promise) -> WorkflowView:
    """Return a task as clients see it."""
    if task.state is ACQUIRED:
        return WorkflowView(
            task.id,
            ACQUIRED,
            task.version,
            task.resumes,
            task.ttl,
            task.pid,
            promise.serial,
        )
    return WorkflowView(task.id, task.state, task.version, task.resumes, serial=promise.serial)


def fulfilled(promise: Promise) -> WorkflowView:
    """Return the task of a settled promise as clients see it."""
    assert promise.task_version is not None, "it had a task"
    return WorkflowView(promise.id, FULFILLED, promise.task_version, serial=promise.serial)


def is_full(context: DecisionContext, awaited: str, awaiter: str, limit_count: int) -> bool:
    """Return whether no more can wait for a promise of this shard, and the awaiter does not yet."""
    awaits = context.state.awaits
    return awaits.count_of(awaited) >= limit_count and not awaits.has(awaited, awaiter)
