"""From entities to the JSON of answers and of messages to workers.

Keys come in the order of rest.md 1.1; empty parts are left out as there. Numbers are 64-bit
integers.
"""

from typing import Any
from urllib.parse import quote

import orjson

from troth.core.model import Callback, Lock, Promise, Schedule, Task, TaskKind, Trace, Value
from troth.core.replies import Claimed, TaskMessage

NEVER_MS = -62135596800000
"""How the API writes the time of a schedule that never fires again: the start of the year 1."""

# Everything that may stand in a path. Slashes too: all routes take ids with slashes.
_PATH_SAFE = "/:@!$&'()*+,;=~"

JsonObject = dict[str, Any]


def value_object(value: Value) -> JsonObject:
    """A param or value; `{}` if empty."""
    made: JsonObject = {}
    if value.headers:
        made["headers"] = _sorted(value.headers)
    if value.data:
        made["data"] = value.data
    return made


def promise_object(promise: Promise) -> JsonObject:
    """A promise."""
    made: JsonObject = {
        "id": promise.id,
        "state": promise.state.value,
        "param": value_object(promise.param),
        "value": value_object(promise.value),
        "timeout": promise.timeout,
    }
    if promise.key_for_create is not None:
        made["idempotencyKeyForCreate"] = promise.key_for_create
    if promise.key_for_complete is not None:
        made["idempotencyKeyForComplete"] = promise.key_for_complete
    if promise.tags:
        made["tags"] = _sorted(promise.tags)
    made["createdOn"] = promise.created_on
    if promise.completed_on is not None:
        made["completedOn"] = promise.completed_on
    return made


def task_object(task: Task) -> JsonObject:
    """A task, without what only the server needs."""
    made: JsonObject = {
        "id": task.id,
        "counter": task.counter,
        "timeout": task.timeout,
        "rootPromiseId": task.root_id,
    }
    if task.process_id is not None:
        made["processId"] = task.process_id
    if task.created_on is not None:
        made["createdOn"] = task.created_on
    if task.completed_on is not None:
        made["completedOn"] = task.completed_on
    return made


def callback_object(callback: Callback) -> JsonObject:
    """A callback or subscription."""
    return {
        "id": callback.id,
        "promiseId": callback.promise_id,
        "rootPromiseId": callback.root_id,
        "timeout": callback.timeout,
        "createdOn": callback.created_on,
    }


def schedule_object(schedule: Schedule) -> JsonObject:
    """A schedule."""
    made: JsonObject = {"id": schedule.id}
    if schedule.description:
        made["description"] = schedule.description
    made["cron"] = schedule.cron
    made["tags"] = _sorted(schedule.tags or {})
    made["promiseId"] = schedule.promise_id
    made["promiseTimeout"] = schedule.promise_timeout
    made["promiseParam"] = value_object(schedule.promise_param)
    if schedule.promise_tags:
        made["promiseTags"] = _sorted(schedule.promise_tags)
    if schedule.last_run_time is not None:
        made["lastRunTime"] = schedule.last_run_time
    next_run_time = schedule.next_run_time
    made["nextRunTime"] = NEVER_MS if next_run_time is None else next_run_time
    if schedule.idempotency_key is not None:
        made["idempotencyKey"] = schedule.idempotency_key
    made["createdOn"] = schedule.created_on
    return made


def lock_object(lock: Lock) -> JsonObject:
    """A lock."""
    return {
        "resourceId": lock.resource_id,
        "executionId": lock.execution_id,
        "processId": lock.process_id,
        "ttl": lock.ttl,
        "expiresAt": lock.expires_at,
    }


def claim_object(claimed: Claimed, url: str) -> JsonObject:
    """What a claim hands over: the promises that the task is about, with links (rest.md 5.6)."""

    def about(promise_id: str, promise: Promise | None) -> JsonObject:
        return {
            "data": None if promise is None else promise_object(promise),
            "href": f"{url}/promises/{path_of(promise_id)}",
            "id": promise_id,
        }

    promises: JsonObject = {}
    if claimed.kind is TaskKind.RESUME:
        promises["leaf"] = about(claimed.leaf_id, claimed.leaf)
    promises["root"] = about(claimed.root_id, claimed.root)
    return {"promises": promises, "type": claimed.kind.value}


def callback_answer(callback: Callback | None, promise: Promise | None) -> JsonObject:
    """The answer to a callback or subscription; null if it was not made."""
    return {
        "callback": None if callback is None else callback_object(callback),
        "promise": None if promise is None else promise_object(promise),
    }


def dump(made: JsonObject) -> bytes:
    """Write JSON text: compact, UTF-8."""
    return orjson.dumps(made)


def path_of(text: str) -> str:
    """Percent-encode an id for a path, so that decoding the path once gives it back."""
    return quote(text, safe=_PATH_SAFE)


# --- messages to workers --------------------------------------------------------------------------


def render_message(message: TaskMessage, url: str) -> bytes:
    """The JSON text of a message (rest.md 7.2): an order to claim, or news of a promise.

    `url` is what links begin with, without a slash at the end.
    """
    task = message.task
    made: JsonObject = {}
    head = trace_headers(task.trace)
    if head:
        made["head"] = head
    if task.kind is TaskKind.NOTIFY:
        made["promise"] = None if message.promise is None else promise_object(message.promise)
    else:
        place = f"{path_of(task.id)}/{task.counter}"
        made["href"] = {
            "base": url,
            "claim": f"{url}/tasks/claim/{place}",
            "complete": f"{url}/tasks/complete/{place}",
            "heartbeat": f"{url}/tasks/heartbeat/{place}",
        }
        made["task"] = task_object(task)
    made["type"] = task.kind.value
    return orjson.dumps(made)


def trace_headers(trace: Trace | None) -> dict[str, str]:
    """A trace context as headers; empty without one."""
    if trace is None:
        return {}
    made = {"traceparent": trace.traceparent}
    if trace.tracestate:
        made["tracestate"] = trace.tracestate
    return made


def _sorted(entries: dict[str, str]) -> dict[str, str]:
    return dict(sorted(entries.items())) if len(entries) > 1 else entries
