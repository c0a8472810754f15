"""What the commands about workflow tasks do (envelope.md 5): create, acquire, suspend, fulfill, ...

A task's own promise and its lease are settled first (`workflow_views.py`), so no command finds a
task acquired beyond its lease, or beyond the deadline of its promise.
"""

from collections.abc import Iterable
from typing import Final

from troth.core import workflow_records as w
from troth.core.codes import Code
from troth.core.continuations import ContinueRenewals
from troth.core.deciding import DONE, DecisionContext
from troth.core.grammar.patterns import Pattern
from troth.core.lifecycles import FINAL_STATES, WORKFLOW, WorkflowEvent
from troth.core.limits import lease_end
from troth.core.model import PENDING, replace
from troth.core.replies import Reply, WorkflowPage
from troth.core.state.cold import Query
from troth.core.workflow_commands import (
    AcquireWorkflow,
    ContinueWorkflow,
    CreateWorkflow,
    ExecuteNotSent,
    ExecuteSent,
    FulfillWorkflow,
    HaltWorkflow,
    ReadWorkflow,
    ReleaseWorkflow,
    RenewWorkflows,
    RetryExecute,
    SearchWorkflows,
    SuspendWorkflow,
)
from troth.core.workflows import (
    ACQUIRED,
    FULFILLED,
    WAITING,
    NamedBeat,
    WorkflowLease,
    WorkflowTask,
    WorkflowView,
)

from .workflow_promises import create, settle
from .workflow_views import find, fulfilled, is_full, judge, view

# See PENDING in model.py.
_OK: Final = Code.OK
_CREATE: Final = WorkflowEvent.CREATE
_ACQUIRE: Final = WorkflowEvent.ACQUIRE
_SUSPEND: Final = WorkflowEvent.SUSPEND
_FULFILL: Final = WorkflowEvent.FULFILL


def read_workflow(context: DecisionContext, command: ReadWorkflow, now_ms: int) -> Reply:
    """Read a task."""
    promise, task = find(context, command.id, now_ms)
    if promise is not None and task is not None:
        return Reply(_OK, workflow=view(task, promise))
    if promise is None or promise.task_version is None:
        return Reply(Code.TASK_NOT_FOUND)
    return Reply(_OK, workflow=fulfilled(promise))


# Claims


def create_workflow(context: DecisionContext, command: CreateWorkflow, now_ms: int) -> Reply:
    """Create a promise with an acquired task, or acquire the task that is pending."""
    promise, task = find(context, command.id, now_ms)
    claim_id = _claim_id("create", command.claim_id)
    if promise is None:
        lease = _lease(command, claim_id, now_ms)
        promise = create(context, command, now_ms, lease)
        task = context.state.workflows.get(command.id)
        if task is None:
            return Reply(_OK, promise=promise, workflow=fulfilled(promise))
        task.is_fresh = True
        return Reply(_OK, promise=promise, workflow=view(task, promise))
    if task is None:
        if promise.task_version is None:
            return Reply(Code.NO_WORKFLOW_TASK)
        return Reply(_OK, promise=promise, workflow=fulfilled(promise))
    code = WORKFLOW[task.state, _CREATE].code
    if code is _OK:
        context.emit(w.WorkflowAcquired(command.id, _lease(command, claim_id, now_ms)))
        task.is_fresh = True
    elif not _is_repeated(task, command.pid, claim_id):
        return Reply(code)
    return Reply(_OK, promise=promise, workflow=view(task, promise))


def acquire_workflow(context: DecisionContext, command: AcquireWorkflow, now_ms: int) -> Reply:
    """Take the lease of a pending task."""
    promise, task, code = judge(context, command.id, command.version, _ACQUIRE, now_ms)
    if task is None or promise is None:
        return Reply(code)
    claim_id = _claim_id("acquire", command.claim_id)
    if code is _OK:
        context.emit(w.WorkflowAcquired(command.id, _lease(command, claim_id, now_ms)))
        task.is_fresh = True
    elif task.version != command.version + 1 or not _is_repeated(task, command.pid, claim_id):
        return Reply(code)
    return Reply(_OK, promise=promise, workflow=view(task, promise))


def _lease(
    command: CreateWorkflow | AcquireWorkflow, claim_id: str | None, now_ms: int
) -> WorkflowLease:
    return WorkflowLease(command.pid, command.ttl, lease_end(now_ms, command.ttl), claim_id)


def _claim_id(kind: str, request_id: str | None) -> str | None:
    """Return what recognizes a claim that comes again, or None if nothing does."""
    return None if request_id is None else f"{kind} {request_id}"


def _is_repeated(task: WorkflowTask, pid: str, claim_id: str | None) -> bool:
    """Return whether the claim that a task has is this one, made before the server's last start.

    Then its answer was lost, and the worker asks again (envelope.md 12.3). While the server lives,
    the same text may come from two claims: some clients make it of the time in milliseconds.
    """
    return (
        task.state is ACQUIRED
        and not task.is_fresh
        and claim_id is not None
        and task.claim_id == claim_id
        and task.pid == pid
    )


def renew_workflows(context: DecisionContext, command: RenewWorkflows, now_ms: int) -> Reply:
    """Renew leases; whatever is not held so is passed over."""
    if len(command.tasks) > context.options.heartbeat_slice_count:
        beat = NamedBeat(now_ms, dict(command.tasks))
        context.state.workflow_beats.begin(command.pid, beat)
        slices = ContinueRenewals(command.pid, command.tasks, beat)
        return continue_renewals(context, slices, now_ms)
    return Reply(_OK, count=_renew(context, command.pid, command.tasks, now_ms, now_ms))


def continue_renewals(context: DecisionContext, command: ContinueRenewals, now_ms: int) -> Reply:
    """Renew a slice of the leases, as of the time of the heartbeat."""
    at = min(command.beat.at, now_ms)  # the clock may have been set back
    end_count = command.done_count + context.options.heartbeat_slice_count
    tasks = command.tasks[command.done_count : end_count]
    count = command.renewed_count + _renew(context, command.pid, tasks, at, now_ms)
    if end_count < len(command.tasks):
        context.again = replace(command, done_count=end_count, renewed_count=count)
    else:
        context.state.workflow_beats.end(command.pid, command.beat)
    return Reply(_OK, count=count)


def _renew(
    context: DecisionContext, pid: str, tasks: Iterable[tuple[str, int]], at: int, now_ms: int
) -> int:
    """Renew those that this process holds, as of a time; how many there are."""
    renewed = []
    count = 0
    for workflow_id, version in tasks:
        _, task = find(context, workflow_id, now_ms)
        if (
            task is not None
            and task.state is ACQUIRED
            and task.version == version
            and task.pid == pid
        ):
            count += 1
            if at == now_ms or lease_end(at, task.ttl) > task.expires_at:
                renewed.append(workflow_id)
    if renewed:
        context.emit(w.WorkflowsRenewed(renewed, at))
    return count


# What a holder does


def suspend_workflow(context: DecisionContext, command: SuspendWorkflow, now_ms: int) -> Reply:
    """Suspend a task, unless one of what it awaits has settled already."""
    _, task, code = judge(context, command.id, command.version, _SUSPEND, now_ms)
    if task is None or code is not _OK:
        return Reply(code)
    awaited = []
    one_has_settled = False
    limit_count = context.options.waiting_limit_count
    judged = command.judged or {}
    for promise_id in dict.fromkeys(command.awaited):
        if (known := judged.get(promise_id)) is not None:
            if known is Code.AWAITED_SETTLED:
                one_has_settled = True
            elif known is not _OK:
                return Reply(known)
            awaited.append(promise_id)
            continue
        neighbor = context.neighbor(promise_id)
        promise = (
            context.promise(promise_id, now_ms)
            if neighbor is context
            else neighbor.state.find_promise(promise_id)
        )
        if promise is None:
            return Reply(Code.AWAITED_NOT_FOUND)
        if promise.state is not PENDING or promise.timeout <= now_ms:
            one_has_settled = True
        elif is_full(neighbor, promise_id, command.id, limit_count):
            return Reply(Code.TOO_MANY_WAITING)
        # The promise's own text, not the request's copy: many workflows may be suspended.
        awaited.append(promise.id)
    task.idle_count = 0
    if one_has_settled:
        if task.resumes:
            context.emit(w.WorkflowResumesCleared(command.id))
        return Reply(Code.AWAITED_SETTLED)
    context.emit(w.WorkflowSuspended(command.id, awaited, now_ms))
    return Reply(_OK)


def fulfill_workflow(context: DecisionContext, command: FulfillWorkflow, now_ms: int) -> Reply:
    """Settle the promise of a task that is held."""
    _, task, code = judge(context, command.id, command.version, _FULFILL, now_ms)
    if task is None or code is not _OK:
        return Reply(code)
    return Reply(_OK, promise=settle(context, command.id, command.state, command.value, now_ms))


def release_workflow(context: DecisionContext, command: ReleaseWorkflow, now_ms: int) -> Reply:
    """Give a task back."""
    _, _, code = judge(context, command.id, command.version, WorkflowEvent.RELEASE, now_ms)
    if code is _OK:
        context.emit(w.WorkflowReleased(command.id, now_ms))
    return Reply(code)


# What an operator does


def halt_workflow(context: DecisionContext, command: HaltWorkflow, now_ms: int) -> Reply:
    """Stop a task; a halted one stays as it is."""
    _, task, code = judge(context, command.id, None, WorkflowEvent.HALT, now_ms)
    if task is not None and WORKFLOW[task.state, WorkflowEvent.HALT].state is not None:
        context.emit(w.WorkflowHalted(command.id, now_ms))
    return Reply(code)


def continue_workflow(context: DecisionContext, command: ContinueWorkflow, now_ms: int) -> Reply:
    """Continue a halted task."""
    _, _, code = judge(context, command.id, None, WorkflowEvent.CONTINUE, now_ms)
    if code is _OK:
        context.emit(w.WorkflowContinued(command.id, now_ms))
    return Reply(code)


def search_workflows(context: DecisionContext, command: SearchWorkflows, now_ms: int) -> Reply:
    """Return one page of this shard's tasks, newest first, in memory and not."""
    pattern = Pattern("*", command.id_prefix)
    found: list[WorkflowView] = []
    last = command.before_serial
    index = context.state.promise_index
    for serial, promise_id in index.below(command.before_serial, command.scan_count):
        last = serial
        if not pattern.matches(promise_id):
            continue
        promise, task = find(context, promise_id, now_ms)
        if promise is None or (task is None and promise.task_version is None):
            continue
        one = fulfilled(promise) if task is None else view(task, promise)
        if command.state is None or one.state is command.state:
            found.append(one)
            if len(found) == command.limit_count:
                break
    stop = last if index.has_below(last) else None
    if command.state is None or command.state is FULFILLED:
        return Reply(_OK, workflows=_with_cold(context, command, pattern, found, stop))
    return Reply(_OK, workflows=WorkflowPage(tuple(found), stop))


def _with_cold(
    context: DecisionContext,
    command: SearchWorkflows,
    pattern: Pattern,
    found: list[WorkflowView],
    stop: int | None,
) -> WorkflowPage:
    """Merge what was found in memory down to `stop` with what has left it."""
    state = context.state
    cold = state.cold.search(
        Query(
            pattern,
            FINAL_STATES,
            {},
            command.limit_count,
            command.before_serial,
            command.scan_count,
            has_task=True,
        )
    )
    stops = [one for one in (stop, cold.next_before) if one is not None]
    horizon = max(stops, default=None)
    by_serial = {one.serial: one for one in found}
    for promise in cold.promises:
        if promise.id not in state.promises and promise.id not in state.hidden_promises:
            by_serial.setdefault(promise.serial, fulfilled(promise))
    rows = [
        by_serial[serial]
        for serial in sorted(by_serial, reverse=True)
        if horizon is None or serial >= horizon
    ]
    if len(rows) > command.limit_count:
        del rows[command.limit_count :]
        horizon = rows[-1].serial
    return WorkflowPage(tuple(rows), horizon)


# What delivery and timers do


def execute_sent(context: DecisionContext, command: ExecuteSent, now_ms: int) -> Reply:
    """Note that a worker has the message; if no worker claims the task, it goes out again."""
    _, task = find(context, command.id, now_ms)
    if task is not None and task.sending and task.version == command.version:
        task.sending = False
        task.unclaimed = True
        task.sends_count += 1
        context.state.arm_workflow(task.id, now_ms + context.options.workflow_retry_ms)
    return DONE


def execute_not_sent(context: DecisionContext, command: ExecuteNotSent, _now_ms: int) -> Reply:
    """Note that the send failed; delivery asks for the message when it makes sense.

    Nothing follows from this note, so `Machine.note` may carry it out between steps.
    """
    task = context.state.workflows.get(command.id)
    if task is not None and task.sending and task.version == command.version:
        task.sending = False
        task.stalled = True
    return DONE


def retry_execute(context: DecisionContext, command: RetryExecute, now_ms: int) -> Reply:
    """Release a message to be sent, or one that has reached a worker that is gone."""
    _, task = find(context, command.id, now_ms)
    if task is not None and task.version == command.version and (task.stalled or task.unclaimed):
        task.stalled = task.unclaimed = False
        context.state.touched_workflows[task.id] = None
    return DONE


def expire_workflow(context: DecisionContext, workflow_id: str, now_ms: int) -> None:
    """Handle the task's timer: its lease has ended, or it is time to send it (again).

    After an absence of the server, a lease runs longer, and so does the time to claim a message.
    """
    state = context.state
    _, task = find(context, workflow_id, now_ms)
    if task is None:
        return
    if task.state is ACQUIRED:
        if (end := state.end_of_workflow_lease(task)) > now_ms:
            state.arm_workflow(workflow_id, end)
    elif task.state is WAITING and not task.sending and not task.stalled:
        again_on = state.lease_floor.resumed_on + context.options.workflow_retry_ms
        if task.unclaimed and again_on > now_ms:
            state.arm_workflow(workflow_id, again_on)
            return
        task.backs_off = task.unclaimed = False
        context.state.touched_workflows[workflow_id] = None
