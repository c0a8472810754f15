"""What completing a promise does to a shard's state: all in one step, or in slices.

Almost always one record says and does it all: the promise's tasks are done, its callbacks become
tasks or messages, its awaiters are woken, its listeners become messages. Where so much hangs on a
promise that a step would take too long, CompletionBegun completes only the promise, and notes that
the completion is under way (`ShardState.completions`, which a checkpoint keeps). What hangs on the
promise stays where it is, and that is what is left to do: each CompletionContinued names some of it
and has its effect, as of the time when the promise completed. The last one takes the note away.

So a replay up to any record gives a state from which the completion goes on, nothing of it is done
twice, and nothing is lost.
"""

from collections.abc import Iterable
from typing import Final

from troth.core import records as r
from troth.core.catalog import RESERVED_PREFIX
from troth.core.model import (
    COMPLETED,
    PENDING,
    REJECTED_TIMEDOUT,
    RESUME,
    Callback,
    PromiseState,
    Task,
    replace,
)
from troth.core.workflows import WorkflowTask

from . import executions, workflows
from .activity import AttemptOutcome, note_trace
from .shard_state import ShardState

# See PENDING in model.py.
_COMPLETED: Final = AttemptOutcome.COMPLETED
_EXPIRED: Final = AttemptOutcome.EXPIRED


def effects_count(state: ShardState, promise_id: str) -> int:
    """Return how many tasks and waiters of this shard the promise's completion is about."""
    count = 0
    root = state.roots.get(promise_id)
    if root is not None:
        count = root.count
    callbacks = state.callbacks.get(promise_id)
    if callbacks is not None:
        count += len(callbacks)
    if state.awaits.count:
        count += state.awaits.count_of(promise_id)
    if state.listeners.count:
        count += state.listeners.count_of(promise_id)
    return count


def callback_created(state: ShardState, record: r.CallbackCreated) -> None:
    """Apply the record: something waits for the promise."""
    add_callback(state, record.callback)
    if state.tracks_changes:
        state.changes.callbacks[record.callback.id] = record.callback.promise_id


def add_callback(state: ShardState, callback: Callback) -> None:
    """Take up a callback that is new here."""
    state.callbacks.setdefault(callback.promise_id, {})[callback.id] = callback
    state.callbacks_count += 1
    if callback.kind is RESUME:
        state.resuming.add(callback.root_id, callback.promise_id)


def promise_completed(state: ShardState, record: r.PromiseCompleted) -> None:
    """Apply the record: its tasks are done, its callbacks become tasks or messages."""
    workflow = _complete(state, record)
    root = state.roots.get(record.id)
    if root is not None:
        _end_tasks(state, list(root.tasks), record.state, record.at)
    callbacks = state.callbacks.get(record.id)
    if callbacks is not None:
        _fire(state, record.id, sorted(callbacks), record.at)
    if workflow is not None:
        workflows.end_workflow(state, workflow, _outcome(record.state), record.at)
    if state.awaits.count:
        workflows.wake_awaiters(state, record.id, state.awaits.take(record.id), record.at)
    if state.listeners.count:
        workflows.unblock_listeners(state, record.id, state.listeners.take(record.id), record.at)


def completion_begun(state: ShardState, record: r.CompletionBegun) -> None:
    """Apply the record: the promise is completed; what hangs on it waits for the next records."""
    workflow = _complete(state, record)
    state.completions[record.id] = record.at
    state.begun_completions.append(record.id)
    if workflow is not None:
        workflows.end_workflow(state, workflow, _outcome(record.state), record.at)


def completion_continued(state: ShardState, record: r.CompletionContinued) -> None:
    """Apply the record: what it names has had its effect. When nothing is left, that is all."""
    at = state.completions[record.id]
    if record.tasks:
        promise = state.find_promise(record.id)
        assert promise is not None, "a promise stays while its completion is under way"
        tasks = [state.tasks[task_id] for task_id in record.tasks]
        _end_tasks(state, tasks, promise.state, at)
    if record.callbacks:
        _fire(state, record.id, record.callbacks, at)
    for awaiter in record.awaiters:
        state.awaits.discard(record.id, awaiter)
    workflows.wake_awaiters(state, record.id, record.awaiters, at)
    for address in record.listeners:
        state.listeners.discard(record.id, address)
    workflows.unblock_listeners(state, record.id, record.listeners, at)
    if not effects_count(state, record.id):
        del state.completions[record.id]


def _complete(
    state: ShardState, record: r.PromiseCompleted | r.CompletionBegun
) -> WorkflowTask | None:
    """Complete the promise itself, and its execution; return its workflow task, if it has one."""
    promise = state.promises[record.id]
    assert promise.state is PENDING, "a promise completes once"
    value = record.value
    if record.id in state.executions:
        value = executions.execution_ended(state, record)
    workflow = state.workflows.get(record.id)
    completed = replace(
        promise,
        state=record.state,
        value=value,
        key_for_complete=record.key_for_complete,
        completed_on=record.completed_on,
        task_version=None if workflow is None else workflow.version,
    )
    state.promises[record.id] = completed
    state.completed[record.id] = completed.tags
    if record.id.startswith(RESERVED_PREFIX):
        state.counts.promise_completed(record.id, record.state)
    else:
        counts = state.counts.promises
        counts[PENDING] -= 1
        counts[record.state] += 1
        durations = state.activity.durations[record.state]
        duration_ms = record.completed_on - promise.created_on
        if duration_ms < 0:  # it may be created with a timeout that has passed
            duration_ms = 0
        durations.add(duration_ms)
        if promise.trace is not None:
            note_trace(durations, duration_ms, promise.trace)
    if state.retention is not None and not state.tracks_changes:
        state.retention.stays(completed)
    if state.tracks_changes:
        changes = state.changes
        if completed.serial <= changes.after_serial:
            changes.promises.append(record.id)
        state.unpacked.append(completed)
    state.promise_timers.append(completed)
    return workflow


def _outcome(state: PromiseState) -> AttemptOutcome:
    """Return how the attempts end at a promise that completes so."""
    return _EXPIRED if state is REJECTED_TIMEDOUT else _COMPLETED


def _end_tasks(state: ShardState, tasks: Iterable[Task], ended: PromiseState, at: int) -> None:
    """End the tasks of a promise that has completed so."""
    outcome = _outcome(ended)
    for task in tasks:
        task.completed_on = at
        state.activity.end_attempt(task, outcome, at)
        state.move(task, COMPLETED)


def _fire(state: ShardState, promise_id: str, ids: Iterable[str], at: int) -> None:
    callbacks = state.callbacks[promise_id]
    for identifier in ids:
        if state.tracks_changes:
            state.changes.callbacks[identifier] = promise_id
        callback = callbacks.pop(identifier)
        state.callbacks_count -= 1
        if callback.kind is RESUME:
            state.resuming.discard(callback.root_id, promise_id)
        state.fire(callback, at)
    if not callbacks:
        del state.callbacks[promise_id]
