"""What the task commands do: claim, complete, drop, renew, and delivery's reports (rest.md 5)."""

from typing import Final

from troth.core import records as r
from troth.core.catalog import is_reserved
from troth.core.codes import Code
from troth.core.commands import (
    TASK_TIMER,
    ClaimTask,
    CompleteTask,
    DropTask,
    HeartbeatTasks,
    RetryTask,
    TaskNotSent,
    TaskSent,
)
from troth.core.continuations import ContinueTasksHeartbeat
from troth.core.deciding import DONE, DecisionContext
from troth.core.lifecycles import TASK, TaskEvent
from troth.core.limits import saturating_add
from troth.core.model import (
    CLAIMED,
    INIT,
    NOTIFY,
    Task,
    replace,
)
from troth.core.replies import Claimed, Reply
from troth.core.state.activity import AttemptOutcome
from troth.core.state.beats import Beat

# See PENDING in model.py.
_OK: Final = Code.OK
_CLAIM: Final = TaskEvent.CLAIM
_COMPLETE: Final = TaskEvent.COMPLETE


def judge(
    context: DecisionContext, task_id: str, counter: int, event: TaskEvent, now_ms: int
) -> tuple[Task | None, Code, bool]:
    """Look an event up in the life cycle: the task, the reply's code, whether it changes."""
    task = context.task(task_id, now_ms)
    if task is None:
        return None, Code.TASK_NOT_FOUND, False
    step = TASK[task.state, event]
    if step.state is not None and task.counter != counter:
        return task, Code.TASK_COUNTER, False
    return task, step.code, step.state is not None


def claim_task(context: DecisionContext, command: ClaimTask, now_ms: int) -> Reply:
    """Take a task's lease. The reply names the promises that the task is about."""
    task, code, changes = judge(context, command.id, command.counter, _CLAIM, now_ms)
    if task is None or not changes:
        return Reply(code)
    expires_at = saturating_add(now_ms, command.ttl)
    context.emit(r.TaskClaimed(command.id, command.process_id, command.ttl, expires_at))
    claimed = Claimed(
        task.kind, task.root_id, task.leaf_id, root=context.state.find_promise(task.root_id)
    )
    return Reply(code, claimed=claimed)


def complete_task(context: DecisionContext, command: CompleteTask, now_ms: int) -> Reply:
    """Declare a claimed task done; a final one is answered as it is, whatever the counter."""
    task, code, changes = judge(context, command.id, command.counter, _COMPLETE, now_ms)
    if task is None or code.status >= 400:
        return Reply(code)
    if changes:
        context.emit(r.TaskCompleted(command.id, now_ms))
    return Reply(code, task=task.copy())


def drop_task(context: DecisionContext, command: DropTask, now_ms: int) -> Reply:
    """Give a claimed task back; it goes out again with the next counter."""
    task, code, changes = judge(context, command.id, command.counter, TaskEvent.DROP, now_ms)
    if task is not None and changes:
        context.release_task(task, AttemptOutcome.DROPPED, now_ms)
    return Reply(code)


def heartbeat_tasks(context: DecisionContext, command: HeartbeatTasks, now_ms: int) -> Reply:
    """Renew the leases of a process; those that have run out are not revived.

    Nodes report for each execution, so that no other client can keep a node's tasks by using its
    name.
    """
    if is_reserved(command.process_id):
        return Reply(Code.OK)
    held = context.state.claimed.get(command.process_id)
    if held is None:
        return Reply(_OK)
    if len(held) > context.options.heartbeat_slice_count:
        return _begin_heartbeat(context, command, now_ms)
    for task_id in list(held):
        context.task(task_id, now_ms)
    held = context.state.claimed.get(command.process_id, {})
    if command.id_prefix:
        within = [task for task in held.values() if task.root_id.startswith(command.id_prefix)]
        for task in within:
            expires_at = saturating_add(now_ms, task.ttl)
            context.emit(r.TaskClaimed(task.id, command.process_id, task.ttl, expires_at))
        return Reply(Code.OK, count=len(within))
    if held:
        context.emit(r.TasksRenewed(command.process_id, now_ms))
    return Reply(_OK, count=len(held))


def _begin_heartbeat(context: DecisionContext, command: HeartbeatTasks, now_ms: int) -> Reply:
    ids = tuple(context.state.claimed[command.process_id])
    context.state.task_beats.begin(command.process_id, Beat(now_ms, command.id_prefix))
    slices = ContinueTasksHeartbeat(command.process_id, command.id_prefix, now_ms, ids)
    return continue_heartbeat(context, slices, now_ms)


def continue_heartbeat(
    context: DecisionContext, command: ContinueTasksHeartbeat, now_ms: int
) -> Reply:
    """Renew a slice of the leases, as of the time of the heartbeat."""
    at = min(command.at, now_ms)  # the clock may have been set back
    end_count = command.done_count + context.options.heartbeat_slice_count
    count = command.renewed_count
    for task_id in command.ids[command.done_count : end_count]:
        task = context.task(task_id, now_ms)
        if task is None or task.state is not CLAIMED or task.process_id != command.process_id:
            continue
        if task.root_id.startswith(command.id_prefix):
            context.renew_task(task, at)
            count += 1
    if end_count < len(command.ids):
        context.again = replace(command, done_count=end_count, renewed_count=count)
    else:
        context.state.task_beats.end(command.process_id, Beat(command.at, command.id_prefix))
    return Reply(_OK, count=count)


def task_sent(context: DecisionContext, command: TaskSent, now_ms: int) -> Reply:
    """Note that the message has left: a notification is done, other tasks wait to be claimed."""
    task = context.task(command.id, now_ms)
    if task is None or not task.sending or task.counter != command.counter:
        return DONE
    context.state.settle_send(task)
    task.sends_count += 1
    if task.kind is NOTIFY:
        context.emit(r.TaskDelivered(task.id))
    else:
        expires_at = saturating_add(now_ms, context.options.task_claim_timeout_ms)
        context.emit(r.TaskEnqueued(task.id, expires_at))
    return DONE


def task_not_sent(context: DecisionContext, command: TaskNotSent, now_ms: int) -> Reply:
    """Set the task aside after a failed send, for the others of its root, until RetryTask."""
    task = context.task(command.id, now_ms)
    if task is not None and task.sending and task.counter == command.counter:
        context.state.settle_send(task)
        context.state.touched_roots[task.root_id] = None
        task.stalled = True
    return DONE


def retry_task(context: DecisionContext, command: RetryTask, now_ms: int) -> Reply:
    """Queue a stalled task, to be sent again when its turn comes."""
    task = context.task(command.id, now_ms)
    if task is None or not task.stalled or task.counter != command.counter:
        return DONE
    task.stalled = False
    if task.kind is NOTIFY:
        context.state.new_notifications.append(task)
    else:
        context.state.queue(task)
    return DONE


def expire_task(context: DecisionContext, task_id: str, now_ms: int) -> None:
    """Handle the task's timer: settle the task, which does the rest.

    If its lease runs longer after an absence of the server, it needs another timer.
    """
    task = context.task(task_id, now_ms)
    end = None if task is None else context.state.timer_of(task)
    if end is not None and end > now_ms:
        context.state.timers.append(((TASK_TIMER, task_id), end))


def end_delay(context: DecisionContext, task_id: str, now_ms: int) -> None:
    """End a task's delay (tag `resonate:delay`): it may be sent now."""
    task = context.task(task_id, now_ms)
    if task is not None and task.state is INIT and not task.sending:
        context.state.queue(task)
