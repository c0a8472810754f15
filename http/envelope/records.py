"""Records as clients of the envelope protocol see them (envelope.md 3). Nothing is ever null."""

from collections.abc import Mapping
from typing import Any, Final

from troth.core.model import EMPTY_VALUE, PENDING, Promise, PromiseState, Schedule, Value
from troth.core.workflows import WorkflowState, WorkflowView

# An enum's `value` takes 0.2 us to look up, and that of a promise is in capitals.
_PROMISE_STATES: Final = {state: state.value.lower() for state in PromiseState}
_TASK_STATES: Final = {state: state.value for state in WorkflowState}
_NO_TAGS: Final[Mapping[str, str]] = {}


def value_object(value: Value) -> dict[str, Any]:
    """Return a param or value as JSON shows it."""
    shown: dict[str, Any] = {}
    if value is EMPTY_VALUE:
        return shown
    if value.headers is not None:
        shown["headers"] = value.headers
    if value.data is not None:
        shown["data"] = value.data
    return shown


def promise_object(promise: Promise) -> dict[str, Any]:
    """Return a promise as JSON shows it."""
    shown = {
        "id": promise.id,
        "state": _PROMISE_STATES[promise.state],
        "param": value_object(promise.param),
        "value": value_object(promise.value),
        "tags": promise.tags or _NO_TAGS,
        "timeoutAt": promise.timeout,
        "createdAt": promise.created_on,
    }
    if promise.state is not PENDING:
        shown["settledAt"] = promise.completed_on
    return shown


def task_object(task: WorkflowView) -> dict[str, Any]:
    """Return a workflow task as JSON shows it."""
    shown: dict[str, Any] = {
        "id": task.id,
        "state": _TASK_STATES[task.state],
        "version": task.version,
        "resumes": task.resumes,
    }
    if task.ttl is not None:
        shown["ttl"] = task.ttl
    if task.pid is not None:
        shown["pid"] = task.pid
    return shown


def schedule_object(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as JSON shows it."""
    shown: dict[str, Any] = {
        "id": schedule.id,
        "cron": schedule.cron,
        "promiseId": schedule.promise_id,
        "promiseTimeout": schedule.promise_timeout,
        "promiseParam": value_object(schedule.promise_param),
        "promiseTags": schedule.promise_tags or {},
        "createdAt": schedule.created_on,
    }
    if schedule.next_run_time is not None:
        shown["nextRunAt"] = schedule.next_run_time
    if schedule.last_run_time is not None:
        shown["lastRunAt"] = schedule.last_run_time
    return shown
