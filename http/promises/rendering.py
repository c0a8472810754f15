"""From entities to the JSON of answers and of messages to workers.

Keys come in the order of rest.md 1.1; empty parts are left out as there. Numbers are 64-bit
integers.
"""

import re
from typing import Any
from urllib.parse import quote

from msgspec import UNSET, Raw, Struct, UnsetType

from troth.core.json_bytes import encoder
from troth.core.model import (
    Callback,
    Lock,
    Promise,
    PromiseState,
    Schedule,
    Task,
    TaskKind,
    Trace,
    Value,
)
from troth.core.replies import Claimed, TaskMessage
from troth.http.wire.json_text import JsonObject, dump

NEVER_MS = -62135596800000
"""How the API writes the time of a schedule that never fires again: the start of the year 1."""

# Sorts the keys of dicts; the fields of structs stay in their order.
_encode_sorted = encoder("deterministic")

# Everything that may stand in a path. Slashes too: all routes take ids with slashes.
_PATH_SAFE = "/:@!$&'()*+,;=~"
_PLAIN = re.compile(r"[A-Za-z0-9_.\-/:@!$&'()*+,;=~]*")


class _ValueObject(Struct, gc=False):
    """A param or value, as JSON shows it; what is UNSET is left out."""

    headers: dict[str, str] | UnsetType
    data: str | UnsetType


class _PromiseObject(Struct, gc=False, rename="camel"):
    """A promise, as JSON shows it: written like a dict, at less cost."""

    id: str
    state: PromiseState
    param: _ValueObject
    value: _ValueObject
    timeout: int
    idempotency_key_for_create: str | UnsetType
    idempotency_key_for_complete: str | UnsetType
    tags: dict[str, str] | UnsetType
    created_on: int
    completed_on: int | UnsetType


_EMPTY = _ValueObject(UNSET, UNSET)


def _value(value: Value) -> _ValueObject:
    headers, data = value.headers, value.data
    return _ValueObject(headers or UNSET, data or UNSET) if headers or data else _EMPTY


def value_object(value: Value) -> Raw:
    """A param or value; `{}` if empty."""
    return Raw(_encode_sorted(_value(value)))


def promise_json(promise: Promise) -> bytes:
    """A promise, as JSON text."""
    key_for_create, key_for_complete = promise.key_for_create, promise.key_for_complete
    completed_on = promise.completed_on
    return _encode_sorted(
        _PromiseObject(
            promise.id,
            promise.state,
            _value(promise.param),
            _value(promise.value),
            promise.timeout,
            UNSET if key_for_create is None else key_for_create,
            UNSET if key_for_complete is None else key_for_complete,
            promise.tags or UNSET,
            promise.created_on,
            UNSET if completed_on is None else completed_on,
        )
    )


def promise_object(promise: Promise) -> Raw:
    """A promise, to be part of a larger object."""
    return Raw(promise_json(promise))


def task_object(task: Task) -> JsonObject:
    """A task, without what only the server needs."""
    made: dict[str, Any] = {
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
    made: dict[str, Any] = {"id": schedule.id}
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

    promises: dict[str, Any] = {}
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


def path_of(text: str) -> str:
    """Percent-encode an id for a path, so that decoding the path once gives it back."""
    if _PLAIN.fullmatch(text):
        return text
    return quote(text, safe=_PATH_SAFE)


# --- messages to workers --------------------------------------------------------------------------


def render_message(message: TaskMessage, url: str) -> bytes:
    """The JSON text of a message (rest.md 7.2): an order to claim, or news of a promise.

    `url` is what links begin with, without a slash at the end.
    """
    task = message.task
    made: dict[str, Any] = {}
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
    return dump(made)


def trace_headers(trace: Trace | None) -> dict[str, str]:
    """A trace context as headers; empty without one."""
    if trace is None:
        return {}
    made = {"traceparent": trace.traceparent}
    if trace.tracestate:
        made["tracestate"] = trace.tracestate
    return made


def _sorted(entries: dict[str, str]) -> dict[str, str]:
    return dict(sorted(entries.items()))
