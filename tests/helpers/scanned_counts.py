"""Counting promises and tasks by state the slow way: by looking at every one."""

from collections.abc import Iterable, Iterator

from troth.core.catalog import EXECUTION_PREFIX, is_reserved
from troth.core.model import Promise, Task
from troth.core.state.counts import Counts
from troth.core.state.shard_state import ShardState
from troth.core.workflows import FULFILLED, WorkflowTask
from troth.persistence.checkpoints import rows
from troth.persistence.checkpoints.port import View


def counted(
    promises: Iterable[Promise], tasks: Iterable[Task], workflows: Iterable[WorkflowTask]
) -> Counts:
    """The counts of these."""
    counts = Counts.zero()
    for promise in promises:
        if not is_reserved(promise.id):
            counts.promises[promise.state] += 1
        elif promise.id.startswith(EXECUTION_PREFIX):
            counts.functions[promise.state] += 1
        counts.workflows[FULFILLED] += promise.task_version is not None
    for task in tasks:
        table = counts.function_leases if is_reserved(task.root_id) else counts.tasks
        table[task.state] += 1
    for workflow in workflows:
        counts.workflows[workflow.state] += 1
    return counts


def shard_rows(view: View, shard: int, table: str) -> Iterator[tuple[bytes, bytes]]:
    """A shard's rows in a table of the store; completed promises by their ids."""
    prefix = rows.shard_key(shard)
    is_by_id = table == rows.PROMISES
    for key, value in view.scan(
        rows.PROMISE_IDS if is_by_id else table, prefix, rows.after(prefix)
    ):
        if not is_by_id:
            yield key, value
            continue
        row = view.get(table, value)
        assert row is not None, "an id has its row"
        yield value, row


def scan(state: ShardState, view: View | None) -> Counts:
    """The counts of all that a shard holds, in memory and in its checkpoint."""
    promises: dict[str, Promise] = {}
    tasks: dict[str, Task] = {}
    if view is not None:
        decoder = rows.RowDecoder()
        for key, value in shard_rows(view, state.index, rows.PROMISES):
            promise = decoder.promise(rows.PROMISES, key, value)
            if promise.id not in state.hidden_promises:
                promises[promise.id] = promise
        for key, value in shard_rows(view, state.index, rows.TASKS):
            task = decoder.task(rows.TASKS, key, value)
            if task.id not in state.hidden_tasks:
                tasks[task.id] = task
    promises |= state.promises
    tasks |= state.tasks
    return counted(promises.values(), tasks.values(), state.workflows.values())
