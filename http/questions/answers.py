"""What the questions answer: the types, and how they are made of what surveys find."""

from typing import Annotated, Final

from msgspec import UNSET, Struct, UnsetType

from troth.core.model import Promise, PromiseState
from troth.http.promises.answers import LockObject, lock_object
from troth.http.tracing.contexts import context_of
from troth.http.wire.answers import time_ms, told
from troth.http.wire.function_names import function_name
from troth.shards.surveys.rows import (
    Cause,
    Due,
    LockRow,
    Reason,
    SeenWaiter,
    Sending,
    TaskFamily,
    TaskRow,
    Tree,
    TreeCall,
    Why,
)

from .sentences import hint, sentence

_Cursor = Annotated[str | None, told("For the next page; null if there is none.", None)]


TASK_PARAM_LIMIT_COUNT: Final = 8 << 10
"""A longer param is not looked into for a list of tasks: a page of them must not take long."""


def _or_unset(number: int | None) -> int | UnsetType:
    return UNSET if number is None else number


class SeenTaskObject(Struct, gc=False, rename="camel"):
    """A task of either API, or of a function, as an operator sees it."""

    id: Annotated[str, told("The id; of an envelope task, its promise's.", "__invoke:order/42")]
    kind: Annotated[TaskFamily, told("Whose task it is.", "rest")]
    type: Annotated[str, told("invoke, resume, notify or execute.", "invoke")]
    state: Annotated[
        str,
        told(
            "init, enqueued, claimed, completed, timedout or stalled (its message could not be "
            "sent); of an envelope task pending, acquired, suspended, halted, fulfilled, stalled.",
            "stalled",
        ),
    ]
    promise_id: Annotated[str, told("The promise whose work it is.", "order/42")]
    leaf_promise_id: Annotated[str | UnsetType, told("For resume: the promise that completed.")]
    function: Annotated[
        str | UnsetType, told("The promise's function, if it is known.", "charge_card")
    ]
    receiver: Annotated[str, told("Where its message goes.", "poll://any@gpu")]
    counter: Annotated[int, told("The counter, or the version of an envelope task.", 1)]
    process_id: Annotated[str | UnsetType, told("Who claimed it.", "worker-1")]
    created_on: Annotated[int | UnsetType, time_ms("When it was created")]
    completed_on: Annotated[int | UnsetType, time_ms("When it ended")]
    timeout: Annotated[int, time_ms("When it is given up")]
    until: Annotated[
        int | UnsetType, time_ms("When the lease, or the time to claim it, ends unless renewed")
    ]
    not_before: Annotated[int | UnsetType, time_ms("When it may be sent at the earliest")]
    sent_count: Annotated[
        int, told("How often its message reached a worker since the server started.", 0)
    ]
    failed_count: Annotated[int, told("How often in a row its message could not be sent.", 3)]
    last_error: Annotated[str | UnsetType, told("Why not, the last time.", "connection refused")]
    next_try: Annotated[int | UnsetType, time_ms("When that is tried again")]
    resumes: Annotated[
        int | UnsetType, told("Awaited promises that settled since the last claim.", 1)
    ]


class SeenTaskPageObject(Struct, gc=False):
    """A page of tasks."""

    cursor: _Cursor
    tasks: list[SeenTaskObject]


class LockPageObject(Struct, gc=False):
    """A page of locks."""

    cursor: _Cursor
    locks: list[LockObject]


class DueObject(Struct, gc=False, rename="camel"):
    """Something that happens at a certain time."""

    at: Annotated[int, time_ms("When")]
    what: Annotated[
        str,
        told(
            "timeout (of a promise), sleep (a timer ends), lease, claim (a message that was "
            "not claimed goes out again), delay, retry, task-timeout, lock, schedule, function or "
            "message.",
            "timeout",
        ),
    ]
    id: Annotated[str, told("Of what: a promise, task, lock or schedule.", "order/42")]
    promise_id: Annotated[str | UnsetType, told("The promise it is about.", "order/42")]


class TimersPageObject(Struct, gc=False):
    """What comes due next."""

    cursor: _Cursor
    timers: list[DueObject]


class WaiterObject(Struct, gc=False, rename="camel"):
    """Who waits for a promise."""

    kind: Annotated[str, told("callback, subscription, await or listener.", "callback")]
    id: Annotated[str, told("Its id, or the listener's address.", "__resume:order/41:order/42")]
    promise_id: Annotated[str | UnsetType, told("The promise that goes on then.", "order/41")]
    receiver: Annotated[str | UnsetType, told("Where it will be told.", "poll://any@default")]
    timeout: Annotated[int | UnsetType, time_ms("When delivery is given up")]
    created_on: Annotated[int | UnsetType, time_ms("When it was registered")]


class WaitersObject(Struct, gc=False):
    """All that wait for a promise."""

    id: Annotated[str, told("The promise.", "order/42")]
    waiting: list[WaiterObject]


class CallObject(Struct, gc=False, rename="camel"):
    """A promise in a tree of calls, without its payloads."""

    id: Annotated[str, told("The id.", "order/42.1")]
    parent: Annotated[str | None, told("The promise above it; null for the root.", "order/42")]
    depth: Annotated[int, told("Its level below the root.", 1)]
    state: Annotated[PromiseState, told("All but PENDING are final.", "PENDING")]
    function: Annotated[str | UnsetType, told("The function's name, if it is known.", "charge")]
    created_on: Annotated[int, time_ms("When it was created")]
    completed_on: Annotated[int | UnsetType, time_ms("When it completed")]
    timeout: Annotated[int, time_ms("When it times out")]
    tags: Annotated[dict[str, str] | UnsetType, told("Tags.", {"team": "orders"})]
    tasks: Annotated[list[SeenTaskObject] | UnsetType, told("Its unfinished tasks.", [])]
    hint: Annotated[
        str | UnsetType,
        told("What is wrong, if nothing will happen automatically.", "no worker listens to `gpu`"),
    ]


class TraceObject(Struct, gc=False):
    """The trace of the request that created a promise."""

    id: Annotated[str, told("Its id.", "0af7651916cd43dd8448eb211c80319c")]
    url: Annotated[
        str | UnsetType,
        told(
            "Its address (`trace_url`).",
            "https://traces.example.com/1",
        ),
    ] = UNSET


class TreeObject(Struct, gc=False):
    """A tree of calls, parents first, children in order of creation."""

    id: Annotated[str, told("The root.", "order/42")]
    cut: Annotated[bool, told("Whether there may be more than is shown.", False)]
    calls: list[CallObject]
    trace: TraceObject | UnsetType = UNSET


class LinkObject(Struct, gc=False):
    """A step from a promise to what it waits for."""

    id: Annotated[str, told("The promise it leads to.", "order/42.1")]
    how: Annotated[str, told("awaits, or part of (the work of its parent).", "awaits")]


class CauseObject(Struct, gc=False, rename="camel"):
    """What keeps the promise at the end of the path from completing."""

    promise_id: Annotated[str, told("The promise at the end of the path.", "order/42.1")]
    reason: Annotated[Reason, told("Why it is pending.", "no-listener")]
    since: Annotated[int | UnsetType, time_ms("Since when")]
    task: SeenTaskObject | UnsetType
    group: Annotated[str | UnsetType, told("The group that its message is for.", "gpu")]
    listeners: Annotated[
        int | UnsetType, told("How many workers listen there, or can run the function.", 0)
    ]
    connected_groups: Annotated[
        list[str] | UnsetType, told("Groups that workers listen to.", ["default"])
    ]
    holder_connected: Annotated[
        bool | UnsetType, told("Whether the holder of the lease has a stream open.", False)
    ]
    heard_on: Annotated[int | UnsetType, time_ms("When the holder last renewed its lease")]
    detail: Annotated[str | UnsetType, told("More, in words.", "connection refused")]


class WhyObject(Struct, gc=False, rename="camel"):
    """Why a promise has not completed."""

    id: Annotated[str, told("The promise.", "order/42")]
    state: Annotated[PromiseState, told("Its state.", "PENDING")]
    sentence: Annotated[
        str,
        told(
            "All of it in one sentence.",
            "No worker listens to the group `gpu`, which the task of order/42 is for.",
        ),
    ]
    path: Annotated[list[LinkObject], told("From the promise down to the cause.", [])]
    cause: CauseObject
    awaits: Annotated[list[str], told("The promises it waits for, at most 20 of them.", [])]
    awaits_count: Annotated[int, told("How many promises it waits for.", 0)]
    next: DueObject | None


def _function_of(row: TaskRow) -> str | UnsetType:
    """Return the function of a task's promise; the param of a function task is the server's own."""
    if row.promise is None or row.family is TaskFamily.FUNCTION:
        return UNSET
    return function_name(row.promise, TASK_PARAM_LIMIT_COUNT) or UNSET


def seen_task(row: TaskRow) -> SeenTaskObject:
    """Return a task."""
    sending: Sending = row.sending
    return SeenTaskObject(
        row.id,
        row.family,
        row.kind,
        row.state,
        row.promise_id,
        UNSET if row.leaf_id is None else row.leaf_id,
        _function_of(row),
        row.receiver,
        row.counter,
        row.process_id or UNSET,
        _or_unset(row.created_on),
        _or_unset(row.completed_on),
        row.timeout,
        _or_unset(row.until),
        _or_unset(row.not_before),
        row.sends_count,
        sending.failed_count,
        sending.error or UNSET,
        _or_unset(sending.next_try_on),
        row.resumes or UNSET,
    )


def due_object(due: Due) -> DueObject:
    """Return a deadline."""
    return DueObject(due.at, due.what, due.id, due.promise_id or UNSET)


def waiter_object(waiter: SeenWaiter) -> WaiterObject:
    """Return what waits for a promise."""
    return WaiterObject(
        waiter.kind,
        waiter.id,
        waiter.promise_id or UNSET,
        waiter.receiver or UNSET,
        _or_unset(waiter.timeout),
        _or_unset(waiter.created_on),
    )


def locked(row: LockRow) -> LockObject:
    """Return a lock, with the end of its lease as it is after an absence of the server."""
    made = lock_object(row.lock)
    made.expires_at = row.ends_on
    return made


def tree_object(promise_id: str, tree: Tree, trace_url: str | None = None) -> TreeObject:
    """Return a tree of calls. `trace_url` is where its trace is, with a place for the id."""
    made = TreeObject(promise_id, tree.is_cut, [_call(call) for call in tree.calls])
    root = tree.calls[0].promise if tree.calls else None
    context = None if root is None else context_of(root.trace)
    if context is not None:
        trace_id = f"{context.trace_id:032x}"
        made.trace = TraceObject(trace_id)
        # Where it is not sampled there is nothing to look at.
        if trace_url is not None and context.is_sampled:
            made.trace.url = trace_url.replace("{trace_id}", trace_id)
    return made


def _call(call: TreeCall) -> CallObject:
    promise: Promise = call.promise
    tasks = [seen_task(row) for row in call.tasks]
    wrong = None if call.cause is None else hint(call.cause)
    return CallObject(
        promise.id,
        call.parent_id,
        call.depth,
        promise.state,
        function_name(promise) or UNSET,
        promise.created_on,
        _or_unset(promise.completed_on),
        promise.timeout,
        promise.tags or UNSET,
        tasks or UNSET,
        wrong or UNSET,
    )


def why_object(promise_id: str, why: Why, now_ms: int) -> WhyObject:
    """Return why a promise has not completed; `promise_id` is how the caller names it."""
    return WhyObject(
        promise_id,
        why.promise.state,
        sentence(promise_id, why, now_ms),
        [LinkObject(link.id, link.how) for link in why.links],
        cause_object(why.cause),
        list(why.awaited),
        why.awaited_count,
        None if why.next is None else due_object(why.next),
    )


def cause_object(cause: Cause) -> CauseObject:
    """Return a cause."""
    has_listeners = cause.group is not None or cause.reason in (Reason.NO_NODE, Reason.NODES_BUSY)
    return CauseObject(
        cause.promise_id,
        cause.reason,
        _or_unset(cause.since),
        UNSET if cause.task is None else seen_task(cause.task),
        UNSET if cause.group is None else cause.group,
        cause.listeners_count if has_listeners else UNSET,
        list(cause.connected_groups) if cause.reason is Reason.NO_LISTENER else UNSET,
        UNSET if cause.is_connected is None else cause.is_connected,
        _or_unset(cause.heard_on),
        cause.detail or UNSET,
    )
