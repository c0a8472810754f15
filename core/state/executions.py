"""The executions of one shard, and how records change them.

An execution is there from ExecutionCreated until its promise completes. Whatever completes the
promise, what the execution knew then moves into the headers of the promise's value, so a finished
execution is a promise and nothing else.
"""

from troth.core import records as r
from troth.core.commands import EXECUTION_TIMER
from troth.core.executions import (
    ASSIGNED_KEY,
    DAY_MS,
    LOST_NODES_KEY,
    NODE_KEY,
    STATUS_KEY,
    USAGE_DAYS_COUNT,
    Execution,
    Usage,
)
from troth.core.grammar import task_ids
from troth.core.limits import saturating_add
from troth.core.model import PromiseState, Value, replace

from .shard_state import ShardState

DEFAULT_STATUS = {
    PromiseState.RESOLVED: "200",
    PromiseState.REJECTED: "500",
    PromiseState.REJECTED_CANCELED: "410",
    PromiseState.REJECTED_TIMEDOUT: "504",
}
"""The status of an execution that was completed without one."""


def execution_created(state: ShardState, record: r.ExecutionCreated) -> None:
    """Apply the record: a promise is an execution."""
    put(state, Execution(record.id, record.plan))
    plan = record.plan
    usage = state.usage.get(plan.function_id) or Usage(plan.function_id, plan.account_id)
    today = record.at // DAY_MS
    days = {day: count for day, count in usage.days.items() if day > today - USAGE_DAYS_COUNT}
    days[today] = days.get(today, 0) + 1
    _put_usage(state, replace(usage, created_count=usage.created_count + 1, days=days))


def put(state: ShardState, execution: Execution) -> None:
    """Store an execution, replacing its earlier version."""
    state.executions[execution.promise_id] = execution
    if state.tracks_changes:
        state.changes.executions.add(execution.promise_id)


def _put_usage(state: ShardState, usage: Usage) -> None:
    state.usage[usage.function_id] = usage
    if state.tracks_changes:
        state.changes.usage.add(usage.function_id)


def execution_assigned(state: ShardState, record: r.ExecutionAssigned) -> None:
    """Apply the record: a node works on it."""
    execution = replace(
        state.executions[record.id], node_id=record.node_id, assigned_on=record.at, progress=0
    )
    put(state, execution)
    state.timers.append(((EXECUTION_TIMER, record.id), state.end_of_execution(execution)))


def count_from(state: ShardState, at: int) -> None:
    """Count executions from `at` that were assigned later, by a clock that was ahead."""
    for execution in list(state.executions.values()):
        if execution.assigned_on is not None and execution.assigned_on > at:
            assigned = replace(execution, assigned_on=at)
            put(state, assigned)
            key = (EXECUTION_TIMER, execution.promise_id)
            state.timers.append((key, state.end_of_execution(assigned)))


def execution_reported(state: ShardState, record: r.ExecutionReported) -> None:
    """Apply the record: the node still works on it."""
    if record.progress is not None:
        put(state, replace(state.executions[record.id], progress=record.progress))
    task = state.tasks[task_ids.invoke_id(record.id)]
    state.renew_lease(task, saturating_add(record.at, task.ttl))


def execution_returned(state: ShardState, record: r.ExecutionReturned) -> None:
    """Apply the record: no node works on it; the one that did is not lost."""
    _unassign(state, state.executions[record.id], 0)


def lease_ended(state: ShardState, promise_id: str) -> None:
    """Note that an execution's task is given out again: its node, if it had one, is lost.

    A message that no node took up in time does not count as a loss.
    """
    execution = state.executions[promise_id]
    if execution.assigned_on is not None:
        _unassign(state, execution, 1)


def _unassign(state: ShardState, execution: Execution, lost_count: int) -> None:
    put(
        state,
        replace(
            execution,
            node_id="",
            assigned_on=None,
            progress=0,
            lost_nodes_count=execution.lost_nodes_count + lost_count,
        ),
    )
    state.timers.append(((EXECUTION_TIMER, execution.promise_id), None))


def execution_ended(state: ShardState, record: r.PromiseCompleted | r.CompletionBegun) -> Value:
    """Forget the execution whose promise completes.

    Gives the promise's value: the record's, and in its headers what was known of the execution.
    """
    execution = state.executions.pop(record.id)
    if state.tracks_changes:
        state.changes.executions.add(record.id)
    state.finished.append(record.id)
    usage = state.usage[execution.plan.function_id]
    _put_usage(state, replace(usage, finished_count=usage.finished_count + 1))
    headers = {STATUS_KEY: DEFAULT_STATUS[record.state], **(record.value.headers or {})}
    if execution.assigned_on is not None:
        state.timers.append(((EXECUTION_TIMER, record.id), None))
        headers[NODE_KEY] = execution.node_id
        headers[ASSIGNED_KEY] = str(execution.assigned_on)
    if execution.lost_nodes_count:
        headers[LOST_NODES_KEY] = str(execution.lost_nodes_count)
    return Value(headers, record.value.data)
