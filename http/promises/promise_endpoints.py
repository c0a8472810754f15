"""Promises: create, read, complete, and be told when one completes (rest.md 2, 3, 4)."""

from dataclasses import replace

from msgspec import Struct

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.commands import (
    Command,
    CompletePromise,
    CreateCallback,
    CreatePromise,
    CreateSubscription,
    DeletePromise,
    ReadPromise,
)
from troth.core.grammar import addresses
from troth.core.leases import granted_ttl
from troth.core.model import EMPTY_VALUE, ClaimRequest, PromiseState, Value
from troth.core.replies import Reply
from troth.http.api.context import Api
from troth.http.api.rows import (
    FENCE,
    ID_PARAMETER,
    TRACE,
    Asking,
    Call,
    Endpoint,
    Header,
    Success,
    nothing,
)
from troth.http.wire.decoding import CallHeaders
from troth.http.wire.json_text import dump
from troth.shards.delivery.dialects import REST

from .answers import (
    CallbackAnswerObject,
    PromiseAndTaskObject,
    PromiseObject,
    callback_answer,
    promise_object,
    task_object,
)
from .schemas import (
    CallbackBody,
    CallbackOfPromiseBody,
    CompletePromiseBody,
    CreatePromiseAndTaskBody,
    CreatePromiseBody,
    SubscriptionBody,
    SubscriptionOfPromiseBody,
)
from .values import receiver, string_map, value


def _promise(api: Api, reply: Reply) -> bytes:
    assert reply.promise is not None
    dump_answer = api.dump  # called as a method, an attribute costs more
    return dump_answer(promise_object(reply.promise))


def _create(_api: Api, call: Call) -> Command:
    return creation(call.body, call.headers)


def _create_with_task(_api: Api, call: Call) -> Command:
    body: CreatePromiseAndTaskBody = call.body
    assert body.promise is not None
    assert body.task is not None
    claim = ClaimRequest(body.task.process_id or "", granted_ttl(body.task.ttl or 0))
    return creation(body.promise, call.headers, claim)


def _promise_and_task(_api: Api, reply: Reply) -> bytes:
    assert reply.promise is not None
    task = None if reply.task is None else task_object(reply.task)
    return dump(PromiseAndTaskObject(promise_object(reply.promise), task))


def creation(
    body: CreatePromiseBody, headers: CallHeaders, claim: ClaimRequest | None = None
) -> CreatePromise:
    """Return the command that creates a promise."""
    param, tags = body.param, body.tags
    if param is None:
        made = EMPTY_VALUE
    elif param.data and not param.headers:
        made = Value(None, param.data)
    else:
        made = value(param)
    return CreatePromise(
        body.id or "",
        body.timeout or 0,
        made,
        string_map(tags) if tags else None,
        headers.idempotency_key,
        headers.strict,
        headers.trace,
        headers.fence,
        claim,
    )


def _note_worker(api: Api, call: Call) -> None:
    """Note that the stream of who gets a task through this API speaks it (envelope.md 11.7)."""
    body: CreatePromiseAndTaskBody = call.body
    assert body.task is not None
    api.polls.decide(body.task.process_id or "", REST)


def _note_receiver(api: Api, call: Call) -> None:
    """Note that the stream that is told of a promise's end speaks this API."""
    body: CallbackOfPromiseBody | SubscriptionOfPromiseBody = call.body
    address = addresses.resolve(receiver(body.recv), {})
    if isinstance(address, addresses.PollAddress) and address.id is not None:
        api.polls.decide(address.id, REST, address.group)


def _read(_api: Api, call: Call) -> Command:
    return ReadPromise(call.path["id"])


def _complete(_api: Api, call: Call) -> Command:
    return completion(call.path["id"], call.body, call.headers)


def completion(promise_id: str, body: CompletePromiseBody, headers: CallHeaders) -> CompletePromise:
    """Return the command that completes a promise."""
    return CompletePromise(
        promise_id,
        PromiseState((body.state or "").upper()),
        value(body.value),
        headers.idempotency_key,
        headers.strict,
        headers.fence,
    )


def _delete(_api: Api, call: Call) -> Command:
    return DeletePromise(call.path["id"])


def _awaited_id(call: Call) -> str:
    """Return the promise that is waited for: in the path or, of the older forms, in the body."""
    if call.path:
        return call.path["id"]
    body: CallbackBody | SubscriptionBody = call.body
    return body.promise_id or ""


def _call_back(_api: Api, call: Call) -> Command:
    body: CallbackOfPromiseBody = call.body
    return CreateCallback(
        promise_id=_awaited_id(call),
        root_id=body.root_promise_id or "",
        timeout=body.timeout or 0,
        receiver=receiver(body.recv),
        trace=call.headers.trace,
        fence=call.headers.fence,
    )


def _subscribe(_api: Api, call: Call) -> Command:
    body: SubscriptionOfPromiseBody = call.body
    return CreateSubscription(
        promise_id=_awaited_id(call),
        name=body.id or "",
        timeout=body.timeout or 0,
        receiver=receiver(body.recv),
        trace=call.headers.trace,
    )


def _noted(_api: Api, reply: Reply) -> bytes:
    assert reply.promise is not None
    return dump(callback_answer(reply.callback, reply.promise))


create_promise = Asking(_create, _promise)
create_promise_and_task = Asking(_create_with_task, _promise_and_task, _note_worker)
read_promise = Asking(_read, _promise)
complete_promise = Asking(_complete, _promise)
delete_promise = Asking(_delete, nothing)
create_callback = Asking(_call_back, _noted, _note_receiver)
create_subscription = Asking(_subscribe, _noted, _note_receiver)


_COMPLETED = (
    Code.PROMISE_RESOLVED,
    Code.PROMISE_REJECTED,
    Code.PROMISE_CANCELED,
    Code.PROMISE_TIMEDOUT,
)
_CALLBACK_ANSWERS = (
    Success(201, "The promise is pending; the callback is registered.", CallbackAnswerObject),
    Success(
        200,
        "`callback` is null: it is already registered, or the promise has completed (see "
        "its state).",
        CallbackAnswerObject,
    ),
)

_CALLBACK = Endpoint(
    name="createCallbackOfPromise",
    group="Promises",
    method="POST",
    path="/promises/callback/{id...}",
    summary="Resume a promise's work when another promise completes",
    description="When the promise in the path completes, a task resumes `rootPromiseId`.",
    handler=create_callback,
    scope=Scope.PROMISES_WRITE,
    body=CallbackOfPromiseBody,
    headers=(*FENCE, *TRACE),
    path_parameters=(ID_PARAMETER,),
    successes=_CALLBACK_ANSWERS,
    refusals=(
        Code.SAME_ROOT,
        Code.PROMISE_NOT_FOUND,
        Code.TASK_FENCED,
        Code.TOO_MANY_CALLBACKS,
    ),
)
_SUBSCRIPTION = Endpoint(
    name="createSubscriptionOfPromise",
    group="Promises",
    method="POST",
    path="/promises/subscribe/{id...}",
    summary="Be notified when a promise completes",
    handler=create_subscription,
    scope=Scope.PROMISES_WRITE,
    body=SubscriptionOfPromiseBody,
    headers=TRACE,
    path_parameters=(ID_PARAMETER,),
    successes=_CALLBACK_ANSWERS,
    refusals=(Code.PROMISE_NOT_FOUND, Code.TOO_MANY_CALLBACKS),
)


def _older_form(row: Endpoint, name: str, path: str, body: type[Struct]) -> Endpoint:
    """Return the row of the same with the promise's id in the body."""
    return replace(
        row,
        name=name,
        path=path,
        summary=f"{row.summary} (older form)",
        description="",
        body=body,
        path_parameters=(),
        deprecated=True,
    )


ENDPOINTS = (
    Endpoint(
        name="createPromise",
        group="Promises",
        method="POST",
        path="/promises",
        summary="Create a promise",
        description=(
            "Creates a pending promise. If its tags name a receiver (`resonate:invoke`), a "
            "task is created "
            "and sent there. With an `Idempotency-Key`, repeating the request is harmless: the "
            "existing promise is returned with 200."
        ),
        handler=create_promise,
        scope=Scope.PROMISES_WRITE,
        body=CreatePromiseBody,
        headers=(Header.IDEMPOTENCY_KEY, Header.STRICT, *FENCE, *TRACE),
        successes=(
            Success(201, "The promise was created.", PromiseObject),
            Success(200, "It already existed, with the same key.", PromiseObject),
        ),
        refusals=(Code.PROMISE_EXISTS, Code.TASK_FENCED),
    ),
    Endpoint(
        name="createPromiseAndTask",
        group="Promises",
        method="POST",
        path="/promises/task",
        summary="Create a promise and claim its task",
        description=(
            "Like creating a promise whose tags name a receiver, but the caller claims the "
            "task immediately. No message is sent unless the lease runs out."
        ),
        handler=create_promise_and_task,
        scope=Scope.PROMISES_WRITE,
        body=CreatePromiseAndTaskBody,
        headers=(Header.IDEMPOTENCY_KEY, Header.STRICT, *FENCE, *TRACE),
        successes=(
            Success(201, "Promise and task were created.", PromiseAndTaskObject),
            Success(200, "The promise already existed; `task` is null.", PromiseAndTaskObject),
        ),
        refusals=(Code.RECEIVER_NOT_FOUND, Code.PROMISE_EXISTS, Code.TASK_FENCED),
    ),
    Endpoint(
        name="readPromise",
        group="Promises",
        method="GET",
        path="/promises/{id...}",
        summary="Read a promise",
        handler=read_promise,
        scope=Scope.PROMISES_READ,
        path_parameters=(ID_PARAMETER,),
        successes=(Success(200, "The promise.", PromiseObject),),
        refusals=(Code.PROMISE_NOT_FOUND,),
    ),
    Endpoint(
        name="completePromise",
        group="Promises",
        method="PATCH",
        path="/promises/{id...}",
        summary="Complete a promise",
        description=(
            "Resolves, rejects or cancels a pending promise, ends its tasks, and sends a "
            "message to every receiver that waits for it. A promise completes once; a "
            "repeated request with the same `Idempotency-Key` is answered 200."
        ),
        handler=complete_promise,
        scope=Scope.PROMISES_WRITE,
        body=CompletePromiseBody,
        headers=(Header.IDEMPOTENCY_KEY, Header.STRICT, *FENCE),
        path_parameters=(ID_PARAMETER,),
        successes=(
            Success(201, "The promise completed with this request.", PromiseObject),
            Success(200, "It had already completed in the requested way.", PromiseObject),
        ),
        refusals=(*_COMPLETED, Code.PROMISE_NOT_FOUND, Code.TASK_FENCED),
    ),
    Endpoint(
        name="deletePromise",
        group="Promises",
        method="DELETE",
        path="/promises/{id...}",
        summary="Delete a completed promise for good",
        description=(
            "The promise goes with its finished tasks, and its id is free: a request that creates "
            "it, also one that is repeated late with the same `Idempotency-Key`, makes a new one. "
            "Old task ids and counters do not fit tasks of the new one. A promise that a workflow "
            "has made stays while that runs, since it would make it again."
        ),
        handler=delete_promise,
        scope=Scope.PROMISES_WRITE,
        path_parameters=(ID_PARAMETER,),
        successes=(Success(204, "The promise is deleted."),),
        refusals=(
            Code.PROMISE_NOT_FOUND,
            Code.PROMISE_PENDING,
            Code.PROMISE_IN_USE,
            Code.ORIGIN_PENDING,
        ),
    ),
    _CALLBACK,
    _SUBSCRIPTION,
    _older_form(_CALLBACK, "createCallback", "/callbacks", CallbackBody),
    _older_form(_SUBSCRIPTION, "createSubscription", "/subscriptions", SubscriptionBody),
)
