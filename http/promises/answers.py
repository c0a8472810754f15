"""What the promise API answers: the types, and how they are made of entities.

Keys come in the order of rest.md 1.1; empty parts are left out as there. Numbers are 64-bit
integers.
"""

import re
from collections.abc import Callable
from typing import Annotated, Final
from urllib.parse import quote

from msgspec import UNSET, Struct, UnsetType

from troth.core.model import (
    EMPTY_VALUE,
    PENDING,
    RESUME,
    Callback,
    Lock,
    Promise,
    PromiseState,
    Schedule,
    Task,
    TaskKind,
    Value,
)
from troth.core.replies import Claimed
from troth.http.wire.answers import time_ms, told

NEVER_MS: Final = -62135596800000
"""How the API writes the time of a schedule that never fires again: the start of the year 1."""

# Everything that may stand in a path. Slashes too: all routes take ids with slashes.
_PATH_SAFE: Final = "/:@!$&'()*+,;=~"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.\-/:@!$&'()*+,;=~]*")

_ID: Final = "order/42"
_Cursor = Annotated[str | None, told("For the next page; null if there is none.", None)]


class ValueObject(Struct, gc=False):
    """A promise's param or value; empty parts are absent."""

    headers: Annotated[
        dict[str, str] | UnsetType,
        told("Names and values of the client's choice.", {"kind": "greeting"}),
    ]
    data: Annotated[str | UnsetType, told("Bytes in standard base64.", "aGVsbG8=")]
    size: Annotated[
        int | UnsetType, told("Characters of all of `data`, in lists that leave some out.", 8)
    ] = UNSET


class PromiseObject(Struct, gc=False, rename="camel"):
    """A promise."""

    id: Annotated[str, told("The id.", _ID)]
    state: Annotated[PromiseState, told("All but PENDING are final.", "PENDING")]
    param: ValueObject
    value: ValueObject
    timeout: Annotated[int, time_ms("When it times out")]
    idempotency_key_for_create: Annotated[
        str | UnsetType, told("The key it was created with.", "create-42")
    ]
    idempotency_key_for_complete: Annotated[
        str | UnsetType, told("The key it was completed with.", "complete-42")
    ]
    tags: Annotated[
        dict[str, str] | UnsetType, told("Tags; absent if there are none.", {"team": "orders"})
    ]
    created_on: Annotated[int, time_ms("When it was created")]
    completed_on: Annotated[
        int | UnsetType, time_ms("When it completed; absent while it is pending")
    ]


class TaskObject(Struct, gc=False, rename="camel"):
    """A task."""

    id: Annotated[str, told("The id.", "__invoke:order/42")]
    counter: Annotated[int, told("How often the task was given out; the fence.", 1)]
    timeout: Annotated[int, time_ms("When the server gives it up")]
    root_promise_id: Annotated[str, told("The promise whose work it is.", _ID)]
    process_id: Annotated[str | UnsetType, told("The process that claimed it last.", "worker-1")]
    created_on: Annotated[int | UnsetType, time_ms("When it was created")]
    completed_on: Annotated[int | UnsetType, time_ms("When it ended")]


class PromiseAndTaskObject(Struct, gc=False):
    """A promise and its task."""

    promise: PromiseObject
    task: TaskObject | None


class CallbackObject(Struct, gc=False, rename="camel"):
    """A callback or subscription."""

    id: Annotated[str, told("The id of the task that will be made.", "__resume:order/41:order/42")]
    promise_id: Annotated[str, told("The promise that it waits for.", _ID)]
    root_promise_id: Annotated[str, told("The promise whose work continues then.", "order/41")]
    timeout: Annotated[int, time_ms("When delivery is given up")]
    created_on: Annotated[int, time_ms("When it was created")]


class CallbackAnswerObject(Struct, gc=False):
    """The callback, if it was made now, and the promise it waits for."""

    callback: CallbackObject | None
    promise: PromiseObject


class ScheduleObject(Struct, gc=False, rename="camel"):
    """A schedule."""

    id: Annotated[str, told("The id.", "nightly")]
    description: Annotated[str | UnsetType, told("For people.", "Close the books")]
    cron: Annotated[str, told("When it fires.", "0 3 * * *")]
    tags: Annotated[dict[str, str], told("Tags.", {"team": "orders"})]
    promise_id: Annotated[str, told("The template of the promises' ids.", "nightly.{{.timestamp}}")]
    promise_timeout: Annotated[
        int, told("Milliseconds from firing to the promise's timeout.", 3_600_000)
    ]
    promise_param: ValueObject
    promise_tags: Annotated[
        dict[str, str] | UnsetType, told("The promises' tags.", {"team": "orders"})
    ]
    last_run_time: Annotated[int | UnsetType, time_ms("When it fired last")]
    next_run_time: Annotated[int, time_ms(f"When it fires next ({NEVER_MS}: never)")]
    idempotency_key: Annotated[
        str | UnsetType, told("The key it was created with.", "create-nightly")
    ]
    created_on: Annotated[int, time_ms("When it was created")]
    paused_on: Annotated[int | UnsetType, time_ms("Since when it is paused; else absent")] = UNSET


class LockObject(Struct, gc=False, rename="camel"):
    """A lock."""

    resource_id: Annotated[str, told("The locked resource.", "printer")]
    execution_id: Annotated[str, told("The holder.", "run-7")]
    process_id: Annotated[str, told("The process that renews it.", "worker-1")]
    ttl: Annotated[int, told("The time from each renewal to its end, in milliseconds.", 60_000)]
    expires_at: Annotated[int, time_ms("When it ends unless renewed")]


class ClaimedPromiseObject(Struct, gc=False):
    """A promise that a claimed task is about; `data` is null if there is no such promise."""

    data: PromiseObject | None
    href: Annotated[str, told("The URL of the promise.", "http://127.0.0.1:8001/promises/order/42")]
    id: Annotated[str, told("Its id.", _ID)]


class ClaimedPromisesObject(Struct, gc=False):
    """The promise to work on and, for `resume`, the one that has completed."""

    leaf: ClaimedPromiseObject | UnsetType
    root: ClaimedPromiseObject


class ClaimObject(Struct, gc=False):
    """What a claim hands over."""

    promises: ClaimedPromisesObject
    type: Annotated[TaskKind, told("The kind of work.", "invoke")]
    head: Annotated[
        dict[str, str] | UnsetType,
        told(
            "Its trace as W3C headers, on a server with traces.",
            {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
        ),
    ] = UNSET


class LookedObject(Struct, gc=False):
    """How far a search has come that may end its pages early."""

    through: Annotated[
        int, told("About how many of them were looked at, on earlier pages too.", 24_000)
    ]
    of: Annotated[int, told("Promises that the server has.", 275_000)]
    until: Annotated[
        int | None, time_ms("When the last promise of the page was created; null if it has none")
    ]


class PromisePageObject(Struct, gc=False):
    """A page of promises."""

    cursor: _Cursor
    promises: Annotated[list[PromiseObject], told("Newest first.")]
    looked: LookedObject | UnsetType = UNSET


class SchedulePageObject(Struct, gc=False):
    """A page of schedules."""

    cursor: _Cursor
    schedules: Annotated[list[ScheduleObject], told("Newest first.")]


class TasksAffectedObject(Struct, gc=False, rename="camel"):
    """A count."""

    tasks_affected: Annotated[int, told("The number of tasks renewed.", 1)]


class LocksAffectedObject(Struct, gc=False, rename="camel"):
    """A count."""

    locks_affected: Annotated[int, told("The number of locks renewed.", 1)]


_EMPTY: Final = ValueObject(UNSET, UNSET)


def value_object(value: Value) -> ValueObject:
    """Return a param or value."""
    headers, data = value.headers, value.data
    return ValueObject(headers or UNSET, data or UNSET) if headers or data else _EMPTY


PREVIEW_CHARACTERS_COUNT: Final = 256
"""How much of data is shown as a preview: whole groups of base64."""


def preview_object(value: Value, shown_count: int) -> ValueObject:
    """Return a param or value with so many characters of its data, and how many there are."""
    data = value.data
    if not data:
        return value_object(value)
    shown = data[:shown_count]
    return ValueObject(value.headers or UNSET, shown or UNSET, len(data))


def promise_object(
    promise: Promise, shown: Callable[[Value], ValueObject] | None = None
) -> PromiseObject:
    """Return a promise, its param and value as `shown` makes them, or else whole."""
    param, state, key_for_create = promise.param, promise.state, promise.key_for_create
    if state is PENDING and shown is None and key_for_create is None and promise.tags is None:
        # As below, but without what most have not.
        data = param.data
        return PromiseObject(
            promise.id,
            state,
            ValueObject(UNSET, data) if data and param.headers is None else value_object(param),
            _EMPTY,
            promise.timeout,
            UNSET,
            UNSET,
            UNSET,
            promise.created_on,
            UNSET,
        )
    if shown is not None:
        shown_param = shown(param)
    elif param is EMPTY_VALUE:
        shown_param = _EMPTY
    else:  # as `value_object`
        headers, data = param.headers, param.data
        shown_param = ValueObject(headers or UNSET, data or UNSET) if headers or data else _EMPTY
    if state is PENDING:  # as below, but with what it cannot have yet
        return PromiseObject(
            promise.id,
            state,
            shown_param,
            _EMPTY,
            promise.timeout,
            UNSET if key_for_create is None else key_for_create,
            UNSET,
            promise.tags or UNSET,
            promise.created_on,
            UNSET,
        )
    value, key_for_complete, completed_on = (
        promise.value,
        promise.key_for_complete,
        promise.completed_on,
    )
    return PromiseObject(
        promise.id,
        state,
        shown_param,
        _EMPTY if value is EMPTY_VALUE else (shown or value_object)(value),
        promise.timeout,
        UNSET if key_for_create is None else key_for_create,
        UNSET if key_for_complete is None else key_for_complete,
        promise.tags or UNSET,
        promise.created_on,
        UNSET if completed_on is None else completed_on,
    )


def task_object(task: Task) -> TaskObject:
    """Return a task, without what only the server needs."""
    return TaskObject(
        task.id,
        task.counter,
        task.timeout,
        task.root_id,
        UNSET if task.process_id is None else task.process_id,
        UNSET if task.created_on is None else task.created_on,
        UNSET if task.completed_on is None else task.completed_on,
    )


def callback_object(callback: Callback) -> CallbackObject:
    """Return a callback or subscription, by the id of the task it will make."""
    return CallbackObject(
        callback.id, callback.promise_id, callback.root_id, callback.timeout, callback.created_on
    )


def callback_answer(callback: Callback | None, promise: Promise) -> CallbackAnswerObject:
    """Return the answer to a callback or subscription; None if it was not made."""
    made = None if callback is None else callback_object(callback)
    return CallbackAnswerObject(made, promise_object(promise))


def schedule_object(schedule: Schedule) -> ScheduleObject:
    """Return a schedule."""
    next_run_time = schedule.due_on
    return ScheduleObject(
        schedule.id,
        schedule.description or UNSET,
        schedule.cron,
        schedule.tags or {},
        schedule.promise_id,
        schedule.promise_timeout,
        value_object(schedule.promise_param),
        schedule.promise_tags or UNSET,
        UNSET if schedule.last_run_time is None else schedule.last_run_time,
        NEVER_MS if next_run_time is None else next_run_time,
        UNSET if schedule.idempotency_key is None else schedule.idempotency_key,
        schedule.created_on,
        UNSET if schedule.paused_on is None else schedule.paused_on,
    )


def lock_object(lock: Lock) -> LockObject:
    """Return a lock."""
    return LockObject(
        lock.resource_id, lock.execution_id, lock.process_id, lock.ttl, lock.expires_at
    )


def claim_object(
    claimed: Claimed, url: str, head: dict[str, str] | UnsetType = UNSET
) -> ClaimObject:
    """Return what a claim hands over: the promises it is about, with links (rest.md 5.6)."""
    leaf: ClaimedPromiseObject | UnsetType = UNSET
    if claimed.kind is RESUME:
        leaf = _claimed_promise(claimed.leaf_id, claimed.leaf, url)
    root = _claimed_promise(claimed.root_id, claimed.root, url)
    return ClaimObject(ClaimedPromisesObject(leaf, root), claimed.kind, head)


def _claimed_promise(promise_id: str, promise: Promise | None, url: str) -> ClaimedPromiseObject:
    return ClaimedPromiseObject(
        None if promise is None else promise_object(promise),
        f"{url}/promises/{path_of(promise_id)}",
        promise_id,
    )


def path_of(text: str) -> str:
    """Percent-encode an id for a path, so that decoding the path once gives it back."""
    if _PLAIN.fullmatch(text):
        return text
    return quote(text, safe=_PATH_SAFE)
