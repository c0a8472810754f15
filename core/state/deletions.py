"""What deleting promises does to a shard's state.

An entity is deleted immediately and as a whole: the promise, its invoke task, its notifications,
and the tasks that resumed it. It can have no callbacks, since it is completed. What a checkpoint
has of it stays there until the next one; until then the state hides it
(`ShardState.hidden_promises`).

An id that was deleted is free: a new promise may have it, with new tasks under the old tasks' ids.
A worker that slept through all this may still hold an old task's id and counter. So that these fit
nothing, every task id that is new to the shard starts to count above the largest counter that was
ever deleted from it (`ShardState.task_counter_floor`). Likewise the versions of workflow tasks
(`workflow_floor`).
"""

from troth.core import records as r

from .eviction import forget_promises
from .shard_state import ShardState
from .workflows import forget_unblocks


def promises_deleted(state: ShardState, record: r.PromisesDeleted) -> None:
    """Apply the record: forget the promises and their tasks, wherever they are."""
    changes = state.changes if state.tracks_changes else None
    for promise_id in record.ids:
        promise = state.find_promise(promise_id)
        assert promise is not None, "what is deleted is there"
        state.counts.promise_deleted(promise)
        if changes is not None:
            changes.deleted_promises.setdefault(promise_id, promise.serial)
        if promise_id in state.promises:
            forget_promises(state, (promise_id,), (promise.serial,))
        if state.unblocks:
            forget_unblocks(state, promise_id)
    for task_id in record.task_ids:
        task = state.find_task(task_id)
        assert task is not None, "what is deleted is there"
        assert task.is_final, "a promise with unfinished tasks stays"
        state.counts.tasks_like(task.root_id)[task.state] -= 1
        if changes is not None:
            changes.deleted_tasks.setdefault(task_id, task.sequence)
        if task_id in state.tasks:
            state.forget_task(task)
    state.promises_count -= len(record.ids)
    state.tasks_count -= len(record.task_ids)
    state.task_counter_floor = max(state.task_counter_floor, record.task_counter)
    state.workflow_floor = max(state.workflow_floor, record.workflow_version)
    if changes is not None:
        changes.promises.extend(record.ids)
        changes.tasks.update(record.task_ids)
        state.hidden_promises.update(record.ids)
        state.hidden_tasks.update(record.task_ids)
