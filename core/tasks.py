"""What the task commands do: claim, complete, drop, renew, and delivery's reports (rest.md 5)."""

from typing import Final

from . import records as r
from .catalog import is_reserved
from .codes import Code
from .commands import (
    DELAY_TIMER,
    TASK_TIMER,
    ClaimTask,
    CompleteTask,
    DropTask,
    HeartbeatTasks,
    RetryTask,
    TaskNotSent,
    TaskSent,
)
from .lifecycles import TASK, TaskEvent
from .limits import saturating_add
from .machine import DONE, EXPIRIES, Machine, decides
from .model import (
    INIT,
    NOTIFY,
    Task,
)
from .replies import Claimed, Reply

# See PENDING in model.py.
_OK: Final = Code.OK
_CLAIM: Final = TaskEvent.CLAIM
_COMPLETE: Final = TaskEvent.COMPLETE


def judge(
    machine: Machine, task_id: str, counter: int, event: TaskEvent, now_ms: int
) -> tuple[Task | None, Code, bool]:
    """Look an event up in the life cycle: the task, the reply's code, whether it changes."""
    task = machine.task(task_id, now_ms)
    if task is None:
        return None, Code.TASK_NOT_FOUND, False
    step = TASK[task.state, event]
    if step.state is not None and task.counter != counter:
        return task, Code.TASK_COUNTER, False
    return task, step.code, step.state is not None


@decides(ClaimTask)
def claim_task(machine: Machine, command: ClaimTask, now_ms: int) -> Reply:
    """Take a task's lease. The reply names the promises that the task is about."""
    task, code, changes = judge(machine, command.id, command.counter, _CLAIM, now_ms)
    if task is None or not changes:
        return Reply(code)
    expires_at = saturating_add(now_ms, command.ttl)
    machine.emit(r.TaskClaimed(command.id, command.process_id, command.ttl, expires_at))
    claimed = Claimed(
        task.kind, task.root_id, task.leaf_id, root=machine.state.find_promise(task.root_id)
    )
    return Reply(code, claimed=claimed)


@decides(CompleteTask)
def complete_task(machine: Machine, command: CompleteTask, now_ms: int) -> Reply:
    """Declare a claimed task done; a final one is answered as it is, whatever the counter."""
    task, code, changes = judge(machine, command.id, command.counter, _COMPLETE, now_ms)
    if task is None or code.status >= 400:
        return Reply(code)
    if changes:
        machine.emit(r.TaskCompleted(command.id, now_ms))
    return Reply(code, task=task.copy())


@decides(DropTask)
def drop_task(machine: Machine, command: DropTask, now_ms: int) -> Reply:
    """Give a claimed task back; it goes out again with the next counter."""
    _, code, changes = judge(machine, command.id, command.counter, TaskEvent.DROP, now_ms)
    if changes:
        machine.emit(r.TaskReleased(command.id))
    return Reply(code)


@decides(HeartbeatTasks)
def heartbeat_tasks(machine: Machine, command: HeartbeatTasks, now_ms: int) -> Reply:
    """Renew the leases of a process; those that have run out are not revived.

    Nodes report for each function task: nobody may keep a node's tasks by using its name.
    """
    if is_reserved(command.process_id):
        return Reply(Code.OK)
    held = machine.state.claimed.get(command.process_id)
    if held is None:
        return Reply(_OK)
    for task_id in list(held):
        machine.task(task_id, now_ms)
    held = machine.state.claimed.get(command.process_id, {})
    if command.id_prefix:
        within = [task for task in held.values() if task.root_id.startswith(command.id_prefix)]
        for task in within:
            expires_at = saturating_add(now_ms, task.ttl)
            machine.emit(r.TaskClaimed(task.id, command.process_id, task.ttl, expires_at))
        return Reply(Code.OK, count=len(within))
    if held:
        machine.emit(r.TasksRenewed(command.process_id, now_ms))
    return Reply(_OK, count=len(held))


@decides(TaskSent)
def task_sent(machine: Machine, command: TaskSent, now_ms: int) -> Reply:
    """The message has left: a notification is done, other tasks wait to be claimed."""
    task = machine.task(command.id, now_ms)
    if task is None or not task.sending or task.counter != command.counter:
        return DONE
    machine.state.settle_send(task)
    if task.kind is NOTIFY:
        machine.emit(r.TaskDelivered(task.id))
    else:
        expires_at = saturating_add(now_ms, machine.options.task_claim_timeout_ms)
        machine.emit(r.TaskEnqueued(task.id, expires_at))
    return DONE


@decides(TaskNotSent)
def task_not_sent(machine: Machine, command: TaskNotSent, now_ms: int) -> Reply:
    """The send failed: the task steps aside for the others of its root until RetryTask."""
    task = machine.task(command.id, now_ms)
    if task is not None and task.sending and task.counter == command.counter:
        machine.state.settle_send(task)
        task.stalled = True
    return DONE


@decides(RetryTask)
def retry_task(machine: Machine, command: RetryTask, now_ms: int) -> Reply:
    """A stalled task may be sent again when its turn comes."""
    task = machine.task(command.id, now_ms)
    if task is None or not task.stalled or task.counter != command.counter:
        return DONE
    task.stalled = False
    if task.kind is NOTIFY:
        machine.state.new_notifications.append(task)
    else:
        machine.state.queue(task)
    return DONE


def expire_task(machine: Machine, task_id: str, now_ms: int) -> None:
    """The task's timer fired: settling it does the rest."""
    machine.task(task_id, now_ms)


def end_delay(machine: Machine, task_id: str, now_ms: int) -> None:
    """A delayed task may be sent now (tag `resonate:delay`)."""
    task = machine.task(task_id, now_ms)
    if task is not None and task.state is INIT and not task.sending:
        machine.state.queue(task)


EXPIRIES[TASK_TIMER] = expire_task
EXPIRIES[DELAY_TIMER] = end_delay
