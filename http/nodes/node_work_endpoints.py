"""The work of nodes: receiving executions, taking them on, reporting, returning or finishing them.

A node opens a stream and is told on it what to run. It takes each execution on (`assign`), says
every few seconds what it works on (`report`), and posts the result; or gives the execution back.
Whatever it says carries the execution's counter: once the execution was given out again, or has
ended, the answer is 409 and the node stops working on it. What becomes of executions is decided by
the shards; where they go, by `Placement`. An execution of an account that the node does not work
for is 404, as what does not exist.
"""

import base64
import binascii
from typing import Final

import orjson

from troth.core import limits
from troth.core.catalog import Build, execution_promise_id
from troth.core.codes import Code
from troth.core.commands import (
    AssignExecution,
    FinishExecution,
    ReadEntry,
    ReadExecution,
    ReportExecution,
    ReturnExecution,
)
from troth.core.executions import ACCOUNT_TAG
from troth.core.grammar.task_ids import invoke_id
from troth.core.limits import INTEGER_MAX
from troth.core.model import PromiseState, Value
from troth.core.replies import Reply
from troth.http.api.context import Api
from troth.http.api.rows import Call, Parameter, RawBody, Success, answer
from troth.http.api.shards_port import REFUSALS_FROM, answered, ask
from troth.http.api.streams import HEADERS
from troth.http.executions.answers import demands_object
from troth.http.executions.values import (
    Headers,
    base64_of,
    capabilities_of,
    failure_value,
    function_request,
    result_value,
)
from troth.http.functions.values import ID_SCHEMA, is_id
from troth.http.wire.decoding import integer
from troth.http.wire.errors import ApiError, invalid
from troth.http.wire.requests import Response

from .answers import NODE_ORDERS, AssignmentObject, NodeReportObject, TaskAndCounterObject
from .node_bodies import AssignBody, ReportBody
from .node_endpoints import HASH_PATH, node_endpoint, node_of
from .node_stream import NodeStream

_PROBLEM_LIMIT_COUNT: Final = 4_096


async def stream_work(api: Api, call: Call) -> Response:
    """GET /v1/node/{hash}/work."""
    node = node_of(api, call)
    if call.request.method == "HEAD":
        return Response(200, headers=HEADERS)
    connection = api.function_placement.connect(node.id)
    connection.peer, connection.since_ms = call.request.peer, api.now_ms()
    stream = NodeStream(connection, api.settings)
    return Response(200, headers=HEADERS, stream=stream)


async def assign_execution(api: Api, call: Call) -> Response:
    """POST /v1/node/{hash}/assign."""
    body: AssignBody = call.body
    node = node_of(api, call)
    promise_id, counter = execution_promise_id(body.id or ""), body.counter or 0
    placement = api.function_placement
    if placement.find_with(node.id, promise_id, counter) is None:
        raise ApiError(Code.EXECUTION_NOT_HELD)
    reply = await ask(
        api.shards,
        AssignExecution(invoke_id(promise_id), counter, node.id, limits.NODE_LEASE_MS),
        call.request,
    )
    placement.assigned(promise_id, counter)
    assert reply.execution is not None
    plan = reply.execution.plan
    build = await _build(api, call, plan.build_id or "")
    if build is None:
        await finish_without_code(api, call, node.id, promise_id, counter)
        raise ApiError(Code.BUILD_NOT_FOUND)
    return answer(reply.code, assignment(reply, build))


def assignment(reply: Reply, build: Build) -> AssignmentObject:
    """Return what a node is to run, by the reply to its claim."""
    assert reply.promise is not None
    assert reply.execution is not None
    plan = reply.execution.plan
    assert plan.language is not None, "nodes run nothing but code"
    return AssignmentObject(
        function_id=plan.function_id,
        build_id=build.id,
        digest=build.digest,
        language=plan.language.value,
        timeout=plan.capabilities.timeout_s,
        capabilities=demands_object(capabilities_of(reply.promise)),
        account=plan.account_id,
        request=function_request(reply.promise),
    )


async def finish_without_code(
    api: Api, call: Call, node_id: str, promise_id: str, counter: int
) -> None:
    """End an execution whose code was deleted. Raises ApiError."""
    state, value = failure_value(500, "the function's code was deleted before it could run")
    await _finish(api, call, node_id, promise_id, counter, state, value)


async def _build(api: Api, call: Call, build_id: str) -> Build | None:
    reply = await answered(api.shards.ask(ReadEntry(build_id), call.request.held))
    return reply.entry if isinstance(reply.entry, Build) else None


async def report_work(api: Api, call: Call) -> Response:
    """POST /v1/node/{hash}/report."""
    body: ReportBody = call.body
    node = node_of(api, call)
    named = [(one.id or "", one.counter or 0, one.progress) for one in body.running]
    commands = [
        ReportExecution(invoke_id(execution_promise_id(execution_id)), counter, node.id, progress)
        for execution_id, counter, progress in named
    ]
    replies: list[Reply] = await answered(api.shards.ask_each(commands))
    stop = [
        TaskAndCounterObject(execution_id, counter)
        for (execution_id, counter, _), reply in zip(named, replies, strict=True)
        if reply.code >= REFUSALS_FROM
    ]
    return answer(Code.OK, NodeReportObject(stop))


async def return_execution(api: Api, call: Call) -> Response:
    """POST /v1/node/{hash}/return/{id}/{counter}."""
    node = node_of(api, call)
    promise_id, counter = _named(call)
    # Before the shards give it out again, or this node would be given it immediately.
    api.function_placement.returned(node.id, promise_id, counter)
    command = ReturnExecution(invoke_id(promise_id), counter, node.id)
    await _ask_about(api, call, promise_id, command)
    return Response(204)


async def take_result(api: Api, call: Call) -> Response:
    """POST /v1/node/{hash}/result/{id}/{counter}."""
    node = node_of(api, call)
    promise_id, counter = _named(call)
    given = call.request.headers
    status = _status(given.get(b"troth-status"))
    headers = _result_headers(given.get(b"troth-headers", b""))
    problem = _problem(given.get(b"troth-error"))
    state, value = outcome(status, headers, problem, base64_of(call.request.body))
    reply = await _finish(api, call, node.id, promise_id, counter, state, value)
    return Response(reply.code.status)


def outcome(
    status: int, headers: Headers | None, problem: str | None, data: str
) -> tuple[PromiseState, Value]:
    """Return how an execution ends, by what its node says; `data` is a body in base64."""
    if problem is None:
        return result_value(status, headers or (), data)
    # Only of what the function raised is there more to say than the server would.
    known = "" if status == 504 else data
    shown = problem[:_PROBLEM_LIMIT_COUNT] or "the function has failed"
    return failure_value(504 if status == 504 else 500, shown, known, headers or ())


async def _finish(
    api: Api,
    call: Call,
    node_id: str,
    promise_id: str,
    counter: int,
    state: PromiseState,
    value: Value,
) -> Reply:
    """Complete an execution's promise. The node is not told that it ended, since it knows."""
    placement = api.function_placement
    knows = placement.find_with(node_id, promise_id, counter) is not None
    if knows:
        placement.ending(promise_id, counter)
    try:
        command = FinishExecution(invoke_id(promise_id), counter, node_id, state, value)
        return await _ask_about(api, call, promise_id, command)
    except ApiError:
        if knows:
            placement.ending(promise_id, counter, is_ending=False)
        raise


async def _ask_about(
    api: Api, call: Call, promise_id: str, command: FinishExecution | ReturnExecution
) -> Reply:
    """Ask as `ask` does; but to a node of one account, executions of another do not exist.

    Whose execution it is, is looked up only after a refusal: the shards refuse every node that does
    not hold it.
    """
    try:
        return await ask(api.shards, command, call.request)
    except ApiError:
        node = node_of(api, call).entry
        if not node.shared:
            reply = await ask(api.shards, ReadExecution(promise_id), call.request)
            if is_of_another(reply, node.account_id):
                raise ApiError(Code.EXECUTION_NOT_FOUND) from None
        raise


def is_of_another(reply: Reply, account_id: str) -> bool:
    """Return whether an execution is not the account's, or is not there, by the reply to a read."""
    tags = reply.promise.tags if reply.promise is not None else None
    return (tags or {}).get(ACCOUNT_TAG) != account_id


def _named(call: Call) -> tuple[str, int]:
    """Return the promise and counter in the path. Raises ApiError."""
    execution_id = call.path["id"]
    if not is_id(execution_id):
        raise ApiError(Code.EXECUTION_NOT_FOUND)
    return execution_promise_id(execution_id), integer("path counter", call.path["counter"])


def _status(given: bytes | None) -> int:
    if given is None or not given.isdigit() or len(given) != 3:
        raise invalid("header Troth-Status", "must be three digits")
    return int(given)


def _result_headers(given: bytes) -> Headers:
    try:
        pairs = orjson.loads(base64.b64decode(given, validate=True)) if given else []
    except (binascii.Error, orjson.JSONDecodeError):
        pairs = None
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in pairs
    ):
        raise invalid("header Troth-Headers", "must be base64 of a JSON array of pairs of strings")
    return [(name, text) for name, text in pairs]


def _problem(given: bytes | None) -> str | None:
    if given is None:
        return None
    try:
        return base64.b64decode(given, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise invalid("header Troth-Error", "must be base64 of UTF-8 text") from None


_TASK_PATH: Final = (
    *HASH_PATH,
    Parameter("id", "The task.", ID_SCHEMA, required=True, example="6405942c9956fae80d7e0e91"),
    Parameter(
        "counter",
        "The counter from the message.",
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": INTEGER_MAX},
        required=True,
        example=1,
    ),
)
_RESULT_HEADERS: Final = (
    Parameter(
        "Troth-Status",
        "The status of the function's answer.",
        {"type": "string", "pattern": "^[0-9]{3}$"},
        required=True,
        example="200",
    ),
    Parameter(
        "Troth-Headers",
        "The headers of the answer, as base64 of a JSON array of pairs of strings.",
        {"type": "string", "format": "base64-header-pairs"},
        example=base64.b64encode(b'[["Content-Type", "text/plain"]]').decode(),
    ),
    Parameter(
        "Troth-Error",
        "If the function gave no answer: base64 of the reason. The status is then 500 or 504.",
        {"type": "string", "format": "base64-text"},
    ),
)
_HELD: Final = (
    Code.NODE_NOT_FOUND,
    Code.EXECUTION_NOT_FOUND,
    Code.EXECUTION_NOT_HELD,
    Code.EXECUTION_FINISHED,
)


ENDPOINTS = (
    node_endpoint(
        "streamWork",
        "GET",
        "{hash}/work",
        "Receive orders",
        stream_work,
        changes_by_link=True,
        description=(
            "Server-sent events, each an order as JSON: `hello` with `heartbeatMs`, `leaseMs`, "
            "`keepAliveMs` and the server's limits of a request, `bodyLimitBytes` and "
            "`headLimitBytes`; `run` and `cancel` with a `task` of `id` and `counter`; `drain`; "
            "`disable`. A newer stream of the same node ends the older one."
        ),
        successes=(Success(200, "A stream of orders.", NODE_ORDERS, "text/event-stream"),),
    ),
    node_endpoint(
        "assignTask",
        "POST",
        "{hash}/assign",
        "Take on a task",
        assign_execution,
        group="Node work",
        description="Repeating it with the same task and counter gives the same answer.",
        body=AssignBody,
        successes=(
            Success(201, "The node has the task; the answer says what to run.", AssignmentObject),
            Success(200, "The node already had it.", AssignmentObject),
        ),
        refusals=(*_HELD, Code.BUILD_NOT_FOUND, Code.TASK_COUNTER, Code.TASK_CLAIMED),
    ),
    node_endpoint(
        "reportWork",
        "POST",
        "{hash}/report",
        "Report what the node is running",
        report_work,
        group="Node work",
        description=(
            f"Every {limits.NODE_HEARTBEAT_MS // 1000} seconds, also when it is nothing: without a "
            f"word for {limits.NODE_LEASE_MS // 1000} seconds the node has lost its tasks."
        ),
        body=ReportBody,
        successes=(Success(200, "Which tasks to stop.", NodeReportObject),),
    ),
    node_endpoint(
        "returnTask",
        "POST",
        "{hash}/return/{id}/{counter}",
        "Return an unfinished task",
        return_execution,
        group="Node work",
        path_parameters=_TASK_PATH,
        successes=(Success(204, "It goes to another node."),),
        refusals=_HELD,
    ),
    node_endpoint(
        "takeResult",
        "POST",
        "{hash}/result/{id}/{counter}",
        "Send a function's result",
        take_result,
        group="Node work",
        description="The body is that of the function's answer.",
        path_parameters=_TASK_PATH,
        raw_headers=_RESULT_HEADERS,
        raw_body=RawBody("The answer's body.", ("application/octet-stream",), required=False),
        successes=(
            Success(201, "The task is finished."),
            Success(200, "It had already finished, with this result."),
        ),
        refusals=_HELD,
    ),
)
