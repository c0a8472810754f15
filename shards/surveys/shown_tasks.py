"""Tasks of all kinds as one kind of row: of both APIs, and those of functions."""

from typing import Final

import orjson

from troth.core.catalog import is_reserved
from troth.core.model import (
    CLAIMED,
    ENQUEUED,
    INIT,
    TAG_TARGET,
    Json,
    Promise,
    Task,
)
from troth.core.state.shard_state import ShardState
from troth.core.workflows import ACQUIRED, FULFILLED, WAITING, WorkflowTask

from .rows import TaskFamily, TaskRow

STALLED: Final = "stalled"
EXECUTE: Final = "execute"
"""The kind of all tasks of the envelope protocol."""


def receiver_text(receiver: Json) -> str:
    """Return a receiver as one text: names and URLs as they are, anything else as JSON."""
    return receiver if isinstance(receiver, str) else orjson.dumps(receiver).decode()


def state_of(task: Task) -> str:
    """Return a task's state; one whose message could not be sent is stalled."""
    return STALLED if task.stalled and task.state is INIT else task.state.value


def family_of(task: Task) -> TaskFamily:
    """Return whether a task is a function's."""
    return TaskFamily.FUNCTION if is_reserved(task.root_id) else TaskFamily.REST


def of_task(state: ShardState, task: Task) -> TaskRow:
    """Return the row of a REST task, or of the task behind a function task."""
    is_leased = task.state in (CLAIMED, ENQUEUED)
    return TaskRow(
        task.id,
        family_of(task),
        task.kind.value,
        state_of(task),
        task.root_id,
        receiver_text(task.receiver),
        task.counter,
        task.created_on,
        task.timeout,
        leaf_id=None if task.leaf_id == task.root_id else task.leaf_id,
        process_id=task.process_id,
        until=state.deadline_of(task) if is_leased else None,
        not_before=task.not_before if task.state is INIT else None,
        sends_count=task.sends_count,
        completed_on=task.completed_on,
        promise=state.promises.get(task.root_id),
    )


def of_workflow(state: ShardState, task: WorkflowTask, promise: Promise) -> TaskRow:
    """Return the row of an unfinished task of the envelope protocol."""
    is_acquired = task.state is ACQUIRED
    return TaskRow(
        task.id,
        TaskFamily.ENVELOPE,
        EXECUTE,
        STALLED if task.stalled and task.state is WAITING else task.state.value,
        task.id,
        (promise.tags or {}).get(TAG_TARGET, ""),
        task.version,
        promise.created_on,
        promise.timeout,
        process_id=task.pid,
        until=state.end_of_workflow_lease(task) if is_acquired else None,
        not_before=task.not_before if task.state is WAITING else None,
        sends_count=task.sends_count,
        resumes=task.resumes,
        promise=promise,
    )


def of_fulfilled(promise: Promise) -> TaskRow:
    """Return the row of a task of the envelope protocol whose promise has completed."""
    assert promise.task_version is not None, "it had a task"
    return TaskRow(
        promise.id,
        TaskFamily.ENVELOPE,
        EXECUTE,
        FULFILLED.value,
        promise.id,
        (promise.tags or {}).get(TAG_TARGET, ""),
        promise.task_version,
        promise.created_on,
        promise.timeout,
        completed_on=promise.completed_on,
        promise=promise,
    )
