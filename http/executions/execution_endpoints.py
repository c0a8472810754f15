"""Executions: `/v1/task`, as GreenCloud's documentation has it (greencloud.md 5).

A function task is one execution of a function, kept as a durable promise. A repeated creation with
the same `Idempotency-Key` is answered 200 with the id of the first: the id is made from account,
function and key, so no table of keys is needed. Objects of another account are answered as missing.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import trio

from troth.core import limits
from troth.core.catalog import EXECUTION_PREFIX, Function, FunctionKind, Scope, execution_promise_id
from troth.core.codes import Code
from troth.core.commands import CancelExecution, CreateExecution, ReadExecution
from troth.core.executions import (
    ACCOUNT_TAG,
    ASSIGNED_KEY,
    FUNCTION_TAG,
    NODE_KEY,
    Execution,
    ExecutionPlan,
)
from troth.core.limits import saturating_add
from troth.core.model import Promise
from troth.core.replies import Reply
from troth.http.api.authentication import while_let_in
from troth.http.api.context import Api
from troth.http.api.rows import TRACE, Call, Endpoint, Header, Parameter, RawBody, Success, answer
from troth.http.api.rows import require_account as account_of
from troth.http.api.shards_port import answered, ask
from troth.http.functions.answers import NewIdObject
from troth.http.functions.entries import read_own
from troth.http.functions.values import ID_SCHEMA, is_id, new_id, unix_seconds
from troth.http.wire.bodies import BYTE_ORDER_MARK
from troth.http.wire.decoding import query_parameters
from troth.http.wire.errors import ApiError, FieldProblem, invalid
from troth.http.wire.json_text import dump
from troth.http.wire.requests import Request, Response, json_response

from .answers import RESULT, FunctionTaskObject, FunctionTaskRowObject, demands_object
from .values import capabilities_of, request_value, result_response, status_of

_ABSENT: Final = frozenset({Code.EXECUTION_NOT_FOUND})
_RETRY_AFTER: Final = (b"retry-after", b"1")
_PAGE_DEFAULT_COUNT: Final = 100
_JSON_TYPE: Final = re.compile(rb"\s*application/(?:[!#$&^_.+\w-]+\+)?json\s*(?:;.*)?", re.I)
_ANY_JSON: Final = msgspec.json.Decoder(msgspec.Raw)
# A number as JSON writes it, which is how clients that know our schema do.
_SECONDS: Final = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,20})?(?:[eE]-?[0-9]{1,3})?")
# A text, or a comma before a closing bracket. A text that does not end is taken to the end of the
# body, and nothing is given back (`*+`): else each quote in it would be tried as its beginning.
_TRAILING_COMMA: Final = re.compile(rb'("(?:[^"\\]|\\.)*+"?)|,(?=[ \t\r\n]*[\]}])', re.DOTALL)


async def create_execution(api: Api, call: Call) -> Response:
    """POST /v1/task/{id}."""
    account_id = account_of(call)
    function = await read_own(api, Function, call.path["id"], account_id, Code.FUNCTION_NOT_FOUND)
    request = call.request
    request.body = _checked_body(request.headers.get(b"content-type", b""), request.body)
    key = call.headers.idempotency_key
    now_ms = api.now_ms()
    execution_id = new_id(now_ms) if key is None else _id_of(account_id, function.id, key)
    refusal = _refusal(api, function)
    if refusal is not None:
        if key is None or (await _read(api, call, execution_id)) is None:
            raise refusal
        return answer(Code.OK, NewIdObject(execution_id))
    reply = await ask(
        api.shards,
        CreateExecution(
            execution_promise_id(execution_id),
            saturating_add(now_ms, api.settings.task_wait_limit_ms),
            _plan(function),
            request_value(request, function.capabilities),
            key,
            call.headers.trace,
        ),
        call.request,
    )
    return answer(reply.code, NewIdObject(execution_id))


def _checked_body(content_type: bytes, body: bytes) -> bytes:
    """Read the body for the function. Raises ApiError (400) if it is called JSON but is not.

    A comma after the last entry is taken out, since the documentation's own example has one.
    """
    if not body or not _JSON_TYPE.fullmatch(content_type):
        return body
    body = body.removeprefix(BYTE_ORDER_MARK)
    problem = _json_problem(body)
    if problem is not None:
        tidied = _TRAILING_COMMA.sub(lambda found: found[1] or b"", body)
        if tidied == body or _json_problem(tidied) is not None:
            raise invalid("body", f"is not JSON, as Content-Type says ({problem})")
        return tidied
    return body


def _json_problem(body: bytes) -> str | None:
    try:
        _ANY_JSON.decode(body)
        if not body.isascii():
            body.decode()  # the decoder does not look into texts that it skips
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return str(error)
    except RecursionError:
        return "it is nested too deeply"
    return None


def _refusal(api: Api, function: Function) -> ApiError | None:
    """Return why no new execution of a function may be created now, or None if one may."""
    if function.paused:
        return ApiError(Code.FUNCTION_PAUSED)
    if function.kind is FunctionKind.CODE and function.build_id is None:
        return ApiError(Code.NO_BUILD)
    waiting_count = api.function_placement.waiting_count(function.account_id)
    if waiting_count >= api.settings.function_queue_limit_count:
        return ApiError(Code.TOO_MANY_EXECUTIONS, headers=[_RETRY_AFTER])
    return None


def _id_of(account_id: str, function_id: str, key: str) -> str:
    named = "\0".join((account_id, function_id, key))
    return hashlib.sha256(named.encode()).hexdigest()[:24]


def _plan(function: Function) -> ExecutionPlan:
    is_code = function.kind is FunctionKind.CODE
    return ExecutionPlan(
        function.account_id,
        function.id,
        function.kind,
        function.capabilities,
        language=function.language if is_code else None,
        build_id=function.build_id if is_code else None,
        url=None if is_code else function.url,
    )


async def _read(api: Api, call: Call, execution_id: str) -> Reply | None:
    """Return an execution of the asking account, or None if there is none."""
    if not is_id(execution_id):
        return None
    command = ReadExecution(execution_promise_id(execution_id))
    reply = await ask(api.shards, command, tolerated=_ABSENT)
    tags = reply.promise.tags if reply.promise is not None else None
    if tags is None or tags.get(ACCOUNT_TAG) != account_of(call):
        return None
    return reply


async def _read_own(api: Api, call: Call) -> tuple[Promise, Execution | None]:
    """Return the execution in the path. Raises ApiError (404)."""
    reply = await _read(api, call, call.path["id"])
    if reply is None or reply.promise is None:
        raise ApiError(Code.EXECUTION_NOT_FOUND)
    return reply.promise, reply.execution


async def read_execution(api: Api, call: Call) -> Response:
    """GET /v1/task/{id}."""
    promise, execution = await _read_own(api, call)
    capabilities = capabilities_of(promise)
    kept = promise.value.headers or {}
    assigned = kept.get(ASSIGNED_KEY)
    assigned_on = None if assigned is None else int(assigned)
    node_id = kept.get(NODE_KEY, "")
    if execution is not None:
        assigned_on, node_id = execution.assigned_on, execution.node_id
    made = FunctionTaskObject(
        function_id=(promise.tags or {}).get(FUNCTION_TAG, ""),
        issued=unix_seconds(promise.created_on),
        assigned=unix_seconds(assigned_on),
        finished=unix_seconds(promise.completed_on),
        progress=_progress(execution),
        node=node_id,
        timeout=capabilities.timeout_s,
        capabilities=demands_object(capabilities),
    )
    return answer(Code.OK, made)


def _progress(execution: Execution | None) -> int:
    return 100 if execution is None else execution.progress


async def list_executions(api: Api, call: Call) -> Response:
    """GET /v1/task/list."""
    function_id, skipped_count, limit_count = _page(query_parameters(call.request.query))
    account_id = account_of(call)
    rows: list[FunctionTaskRowObject] = []
    before_serial = None
    wanted_count = skipped_count + limit_count
    while wanted_count:
        found, before_serial = await answered(
            api.shards.search_executions(
                account_id, function_id, min(wanted_count, limits.PAGE_LIMIT_COUNT), before_serial
            )
        )
        wanted_count -= len(found)
        rows += [_row(*one) for one in found[skipped_count:]]
        skipped_count = max(0, skipped_count - len(found))
        if before_serial is None:
            break
    return json_response(200, dump(rows))


def _row(promise: Promise, execution: Execution | None) -> FunctionTaskRowObject:
    return FunctionTaskRowObject(
        promise.id.removeprefix(EXECUTION_PREFIX),
        unix_seconds(promise.created_on),
        _progress(execution),
        0 if execution is not None else status_of(promise),
    )


def _page(given: dict[str, str]) -> tuple[str | None, int, int]:
    """Return the function, how many to pass over and how many to show. Raises ApiError (400)."""
    problems: list[FieldProblem] = []

    def count(name: str, default: int, maximum: int) -> int:
        text = given.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= maximum):
            problems.append(
                FieldProblem(
                    f"query {name}", f"must be between 1 and {maximum} (got {text[:64]!r})"
                )
            )
            return default
        return int(text)

    limit_count = count("limit", _PAGE_DEFAULT_COUNT, limits.EXECUTION_PAGE_LIMIT_COUNT)
    page = count("page", 1, limits.EXECUTION_PAGES_LIMIT_COUNT // limit_count)
    if problems:
        raise ApiError(Code.INVALID, problems)
    return given.get("functionId") or None, (page - 1) * limit_count, limit_count


async def read_result(api: Api, call: Call) -> Response:
    """GET /v1/task/{id}/result."""
    wait_s = _wait_s(query_parameters(call.request.query).get("wait"))
    execution_id = call.path["id"]
    with api.endings.expect(execution_promise_id(execution_id)) as expectation:
        _, execution = found = await _read_own(api, call)
        if execution is not None and wait_s:
            with while_let_in(api.credentials, call.request.principal), _while_there(call.request):
                await expectation.wait(wait_s)
            _, execution = found = await _read_own(api, call)
    if execution is not None:
        raise ApiError(Code.RESULT_NOT_READY, headers=[_RETRY_AFTER])
    return result_response(found[0])


@contextlib.contextmanager
def _while_there(request: Request) -> Iterator[None]:
    """Carry a block out for as long as the client is there: those who left wait for nothing."""
    with trio.CancelScope() as scope:
        request.on_left = scope.cancel
        if request.is_left:
            scope.cancel()
        try:
            yield
        finally:
            request.on_left = None


def _wait_s(given: str | None) -> float:
    if not given:
        return 0.0
    if _SECONDS.fullmatch(given):
        seconds = float(given)
        if seconds <= limits.RESULT_WAIT_LIMIT_S:
            return seconds
    allowed = f"0 to {limits.RESULT_WAIT_LIMIT_S} seconds, with or without a fraction"
    raise invalid("query wait", f"must be {allowed} (got {given[:64]!r})")


async def cancel_execution(api: Api, call: Call) -> Response:
    """DELETE /v1/task/{id}."""
    promise, _ = await _read_own(api, call)
    await ask(api.shards, CancelExecution(promise.id), call.request)
    return Response(204)


def _identifier(description: str, example: str) -> tuple[Parameter, ...]:
    return (Parameter("id", description, ID_SCHEMA, required=True, example=example),)


_EXECUTION = _identifier("The task's id.", "6405942c9956fae80d7e0e91")
_ANY_COUNT: dict[str, Any] = {"type": "integer", "minimum": 1}

ENDPOINTS = (
    Endpoint(
        name="createFunctionTask",
        group="Function tasks",
        method="POST",
        path="/v1/task/{id}",
        summary="Call a function",
        description=(
            "Creates a task, one execution of the function in the path. Query string and "
            "body are passed to the function unchanged. So are headers, except credentials, "
            "cookies and headers about the connection. A request repeated with the same "
            "`Idempotency-Key` is answered 200 with the id of the first task; the rest of "
            "the repetition is ignored."
        ),
        handler=create_execution,
        raw_body=RawBody(
            "Any JSON, nothing, or anything else with another Content-Type.",
            ("application/json", "*/*"),
            required=False,
        ),
        headers=(Header.IDEMPOTENCY_KEY, *TRACE),
        path_parameters=_identifier("The function's id.", "6404b3da46551827c611ffe5"),
        successes=(
            Success(201, "The task was created.", NewIdObject),
            Success(200, "It was already created with this key.", NewIdObject),
        ),
        refusals=(
            Code.FUNCTION_NOT_FOUND,
            Code.FUNCTION_PAUSED,
            Code.NO_BUILD,
            Code.TOO_MANY_EXECUTIONS,
        ),
        scope=Scope.TASKS_WRITE,
    ),
    Endpoint(
        name="readFunctionTask",
        group="Function tasks",
        method="GET",
        path="/v1/task/{id}",
        summary="Read a function task",
        handler=read_execution,
        path_parameters=_EXECUTION,
        successes=(Success(200, "The task.", FunctionTaskObject),),
        refusals=(Code.EXECUTION_NOT_FOUND,),
        scope=Scope.TASKS_READ,
    ),
    Endpoint(
        name="listFunctionTasks",
        group="Function tasks",
        method="GET",
        path="/v1/task/list",
        summary="List function tasks, newest first",
        handler=list_executions,
        query=(
            Parameter("functionId", "Only tasks of this function.", {"type": "string"}),
            Parameter(
                "page",
                "Which page; the first is 1. Only the newest "
                f"{limits.EXECUTION_PAGES_LIMIT_COUNT:,} tasks can be listed, so `page` times "
                "`limit` must not be more.",
                {**_ANY_COUNT, "maximum": limits.EXECUTION_PAGES_LIMIT_COUNT},
                example=1,
            ),
            Parameter(
                "limit",
                f"How many tasks a page has; {_PAGE_DEFAULT_COUNT} unless given.",
                {**_ANY_COUNT, "maximum": limits.EXECUTION_PAGE_LIMIT_COUNT},
                example=20,
            ),
        ),
        successes=(Success(200, "The tasks.", list[FunctionTaskRowObject]),),
        scope=Scope.TASKS_READ,
    ),
    Endpoint(
        name="readFunctionTaskResult",
        group="Function tasks",
        method="GET",
        path="/v1/task/{id}/result",
        summary="Read the function's result",
        description=(
            "The function's own status, headers and body. Headers that would affect the "
            "server or the connection are left out. If the function gave no answer, the "
            "status says why, with a JSON body: 504 it took too long, 502 its nodes were "
            "lost or its URL could not be called, 500 it failed, 410 the task was canceled."
        ),
        handler=read_result,
        path_parameters=_EXECUTION,
        query=(
            Parameter(
                "wait",
                "Wait up to this many seconds for the end of the task.",
                {"type": "number", "minimum": 0, "maximum": limits.RESULT_WAIT_LIMIT_S},
                example=30,
            ),
        ),
        successes=(
            Success(200, "Any status from 200 to 599, as the function gave it.", RESULT, "*/*"),
        ),
        refusals=(
            Code.EXECUTION_NOT_FOUND,
            Code.RESULT_NOT_READY,
            Code.EXECUTION_CANCELED,
            Code.FUNCTION_FAILED,
            Code.FUNCTION_UNUSABLE,
            Code.NODES_LOST,
            Code.EXECUTION_TIMEDOUT,
        ),
        scope=Scope.TASKS_READ,
    ),
    Endpoint(
        name="cancelFunctionTask",
        group="Function tasks",
        method="DELETE",
        path="/v1/task/{id}",
        summary="Cancel a function task",
        description="The node that runs it is told immediately. Safe to repeat.",
        handler=cancel_execution,
        path_parameters=_EXECUTION,
        successes=(Success(204, "The task is canceled."),),
        refusals=(Code.EXECUTION_NOT_FOUND, Code.EXECUTION_FINISHED),
        scope=Scope.TASKS_WRITE,
    ),
)
