"""When a function task ends by itself, or loses its node.

Two deadlines run while a node works on one: the lease of its task, which the node renews by
reports, and the time the function may take. The promise's own timeout is settled by the machine as
that of any promise, after what came before it.
"""

from typing import TYPE_CHECKING

from . import records as r
from . import task_ids
from .executions import ERROR_KEY, LOST_NODES_LIMIT_COUNT, STATUS_KEY
from .model import PromiseState, TaskState, Value

if TYPE_CHECKING:
    from .machine import Machine

LOST_TEXT = "the nodes that ran the function were lost, one after the other"
TIMEDOUT_TEXT = "the function took longer than it may"


def settle_execution(machine: "Machine", promise_id: str, now_ms: int) -> None:
    """Apply a function task's deadlines up to now, if they come before its promise's timeout."""
    state = machine.state
    execution = state.executions[promise_id]
    ends_on = execution.ends_on
    if ends_on is None:
        return
    until_ms = min(now_ms, state.promises[promise_id].timeout - 1)
    task = state.tasks.get(task_ids.invoke_id(promise_id))
    is_leased = task is not None and task.state is TaskState.CLAIMED
    if task is not None and is_leased and task.expires_at < ends_on:
        lapsed_on = task.expires_at
        if lapsed_on <= until_ms:
            machine.emit(r.TaskReleased(task.id))
            if state.executions[promise_id].lost_nodes_count > LOST_NODES_LIMIT_COUNT:
                _fail(machine, promise_id, 502, LOST_TEXT, lapsed_on, now_ms)
    elif ends_on <= until_ms:
        _fail(machine, promise_id, 504, TIMEDOUT_TEXT, ends_on, now_ms)


def _fail(
    machine: "Machine", promise_id: str, status: int, text: str, ended_on: int, now_ms: int
) -> None:
    value = Value({STATUS_KEY: str(status), ERROR_KEY: text})
    machine.emit(
        r.PromiseCompleted(promise_id, PromiseState.REJECTED, value, None, ended_on, now_ms)
    )
