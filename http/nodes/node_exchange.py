"""The exchange: a node's results and what it takes on, all of a moment in one request.

The answer has one entry for each result and each execution that was asked for, with the status that
the single request would have had. If the node has room, it also gives it the executions that its
results make room for: their leases are granted in the same batch of the log that has the results,
so that the node needs no order and no request for them. An answer that is lost costs these
executions the length of a lease: then they go out again.

An exchange is about small things. A large result comes alone (`takeResult`), and a large request of
a function is fetched alone (`assignTask`): its entry in the answer has no `assignment`.
"""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from troth.core import limits
from troth.core.catalog import Build, execution_promise_id
from troth.core.codes import Code
from troth.core.commands import (
    AssignExecution,
    Command,
    FinishExecution,
    ReadEntry,
    ReadExecution,
)
from troth.core.grammar.task_ids import invoke_id
from troth.core.replies import Reply
from troth.http.api.context import Api
from troth.http.api.rows import Call, RawBody, Success, answer
from troth.http.api.shards_port import REFUSALS_FROM, answered
from troth.http.executions.values import base64_of
from troth.http.functions.values import ID_SCHEMA
from troth.http.wire.answers import told
from troth.http.wire.bodies import is_utf8
from troth.http.wire.crowded import values_problem
from troth.http.wire.errors import ApiError, ErrorBodyObject, error_object, invalid
from troth.http.wire.requests import Response
from troth.http.wire.schema_parts import Schema
from troth.shards.placement.executions import NodePlace, PlacedExecution

from .answers import AssignmentObject
from .node_endpoints import node_endpoint, node_of
from .node_stream import EXCHANGE_VERSION
from .node_work_endpoints import assignment, finish_without_code, is_of_another, outcome

ASSIGNMENTS_LIMIT_BYTES: Final = 256 * 1024
"""Of the functions' requests in one answer, in base64; those beyond are fetched one by one."""


_Id = Annotated[str, Meta(pattern=rf"^(?:{ID_SCHEMA['pattern'].strip('^$')})\Z")]
_Counter = Annotated[int, Meta(ge=1, le=limits.INTEGER_MAX)]
_Many: Final = Meta(max_length=limits.NODE_EXCHANGE_LIMIT_COUNT)


class _TakenOn(Struct, gc=False):
    id: _Id
    counter: _Counter


class _Outcome(Struct):
    """A function's result: as `takeResult` has it, but its body in base64 and the rest plain."""

    id: _Id
    counter: _Counter
    status: Annotated[int, Meta(ge=0, le=999)]
    headers: list[tuple[str, str]] = []
    error: str | None = None
    body: bytes | None = None


class _Exchanged(Struct):
    results: Annotated[list[_Outcome], _Many] = []
    assign: Annotated[list[_TakenOn], _Many] = []
    room: bool = False


_FENCE: Final[Schema] = {
    "id": ID_SCHEMA,
    "counter": {"type": "integer", "minimum": 1, "maximum": limits.INTEGER_MAX},
}
_RESULT: Final[Schema] = {
    **_FENCE,
    "status": {"type": "integer", "minimum": 0, "maximum": 999},
    "headers": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2},
    },
    "error": {"type": "string", "nullable": True},
    "body": {"type": "string", "format": "byte", "nullable": True},
}


def _array(properties: Schema, required: tuple[str, ...]) -> Schema:
    items = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "array", "maxItems": limits.NODE_EXCHANGE_LIMIT_COUNT, "items": items}


SCHEMA: Final[Schema] = {
    "type": "object",
    "properties": {
        "results": _array(_RESULT, ("id", "counter", "status")),
        "assign": _array(_FENCE, ("id", "counter")),
        "room": {"type": "boolean"},
    },
}
"""What `_Exchanged` is, for the description."""

_decoder: Final = msgspec.json.Decoder(_Exchanged)


def _decoded(content: bytes) -> _Exchanged:
    """Return what a request says. Raises ApiError (400)."""
    if len(content) > limits.LARGE_BODY_BYTES:
        problem = values_problem(content, limits.BODY_VALUES_LIMIT_COUNT)
        if problem is not None:
            raise invalid("body", problem)
    if not is_utf8(content):
        raise invalid("body", "must be UTF-8")
    try:
        return _decoder.decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid("body", str(error)) from error


class ResultAnswerObject(Struct, gc=False):
    """What became of a result."""

    status: Annotated[int, told("The HTTP status that it alone would have been answered.", 201)]
    error: Annotated[ErrorBodyObject | UnsetType, told("Why it was not taken.")] = UNSET


class AssignedObject(Struct, gc=False):
    """What became of an execution that the node takes on."""

    id: Annotated[str, told("The task.", "6405942c9956fae80d7e0e91")]
    counter: Annotated[int, told("How often it was given out; the fence.", 1)]
    status: Annotated[int, told("The HTTP status that `assign` would have answered.", 201)]
    assignment: Annotated[
        AssignmentObject | UnsetType,
        told("What to run; absent if it is too large for this answer: then `assign` tells."),
    ] = UNSET
    error: Annotated[ErrorBodyObject | UnsetType, told("Why it was not assigned.")] = UNSET


class ExchangeObject(Struct, gc=False):
    """The answers to an exchange."""

    results: Annotated[list[ResultAnswerObject], told("One for each result, in order.")]
    assigned: Annotated[
        list[AssignedObject],
        told("One for each task that was asked for, in order, and then those given along."),
    ]


async def exchange_work(api: Api, call: Call) -> Response:
    """POST /v1/node/{hash}/exchange."""
    node = node_of(api, call)
    exchange = _NodeExchange(api, call, node, _decoded(call.request.body))
    return answer(Code.OK, await exchange.carry_out())


class _NodeExchange:
    """One exchange: what it asks the shards, and what the answer says."""

    def __init__(self, api: Api, call: Call, node: NodePlace, exchanged: _Exchanged) -> None:
        """Take it apart."""
        self._api = api
        self._call = call
        self._node = node
        self._placement = api.function_placement
        self._asked = exchanged.assign
        self._has_room = exchanged.room
        self._finishing = [_finish(node.id, result) for result in exchanged.results]
        self._room_bytes = ASSIGNMENTS_LIMIT_BYTES

    async def carry_out(self) -> ExchangeObject:
        """Carry it out and return the answer. Raises ApiError."""
        placement, node_id = self._placement, self._node.id
        ending = [
            (result.promise_id, result.command.counter)
            for result in self._finishing
            if placement.find_with(node_id, result.promise_id, result.command.counter) is not None
        ]
        for promise_id, counter in ending:
            # From here on its slot is free: what waits for it is handed to the node's stream.
            placement.ending(promise_id, counter)
        asked = [self._placed(one) for one in self._asked]
        along = (
            placement.take_along(node_id, limits.NODE_SLOTS_LIMIT_COUNT) if self._has_room else []
        )
        known = [one for one in asked if one is not None] + along
        is_over = False
        try:
            finished, assigned, builds = await self._ask(known)
            is_over = True
        finally:
            if not is_over:
                for promise_id, counter in ending:
                    placement.ending(promise_id, counter, is_ending=False)
                placement.not_assigned(along)
        for result, reply in zip(self._finishing, finished, strict=True):
            if reply.code >= REFUSALS_FROM and (
                (result.promise_id, result.command.counter) in ending
            ):
                placement.ending(result.promise_id, result.command.counter, is_ending=False)
        replies = {id(one): reply for one, reply in zip(known, assigned, strict=True)}
        for one, reply in zip(known, assigned, strict=True):
            if reply.code < REFUSALS_FROM:
                placement.assigned(one.promise_id, one.counter)
        taken = [one for one in along if replies[id(one)].code < REFUSALS_FROM]
        placement.not_assigned([one for one in along if replies[id(one)].code >= REFUSALS_FROM])
        return ExchangeObject(
            [
                await self._result_answer(result, reply)
                for result, reply in zip(self._finishing, finished, strict=True)
            ],
            [
                await self._assigned(given.id, given.counter, one, replies, builds)
                for given, one in zip(self._asked, asked, strict=True)
            ]
            + [await self._assigned(one.id, one.counter, one, replies, builds) for one in taken],
        )

    def _placed(self, given: _TakenOn) -> PlacedExecution | None:
        promise_id = execution_promise_id(given.id)
        return self._placement.find_with(self._node.id, promise_id, given.counter)

    async def _ask(
        self, known: Sequence[PlacedExecution]
    ) -> tuple[list[Reply], list[Reply], dict[str, Build | None]]:
        """Ask the shards for everything together. Raises ApiError."""
        build_ids = [*dict.fromkeys(one.build_id or "" for one in known)]
        commands: list[Command] = [result.command for result in self._finishing]
        commands += [
            AssignExecution(one.task_id, one.counter, self._node.id, limits.NODE_LEASE_MS)
            for one in known
        ]
        commands += [ReadEntry(build_id) for build_id in build_ids]
        replies: list[Reply] = await answered(self._api.shards.ask_each(commands))
        finished_count = len(self._finishing)
        assigned_count = finished_count + len(known)
        builds = {
            build_id: reply.entry if isinstance(reply.entry, Build) else None
            for build_id, reply in zip(build_ids, replies[assigned_count:], strict=True)
        }
        return replies[:finished_count], replies[finished_count:assigned_count], builds

    async def _result_answer(self, result: "_FinishAsked", reply: Reply) -> ResultAnswerObject:
        code = reply.code
        if code < REFUSALS_FROM:
            return ResultAnswerObject(code.status)
        entry = self._node.entry
        if not entry.shared:
            # To a node of one account, executions of another do not exist.
            read = await answered(self._api.shards.ask(ReadExecution(result.promise_id)))
            if is_of_another(read, entry.account_id):
                code = Code.EXECUTION_NOT_FOUND
        return ResultAnswerObject(code.status, self._error(code))

    async def _assigned(
        self,
        execution_id: str,
        counter: int,
        placed: PlacedExecution | None,
        replies: dict[int, Reply],
        builds: dict[str, Build | None],
    ) -> AssignedObject:
        code = Code.EXECUTION_NOT_HELD
        if placed is not None:
            reply = replies[id(placed)]
            code = reply.code
            if code < REFUSALS_FROM:
                build = builds[placed.build_id or ""]
                if build is not None:
                    made = self._fitting(assignment(reply, build))
                    return AssignedObject(execution_id, counter, code.status, made)
                await finish_without_code(
                    self._api, self._call, self._node.id, placed.promise_id, counter
                )
                code = Code.BUILD_NOT_FOUND
        return AssignedObject(execution_id, counter, code.status, error=self._error(code))

    def _fitting(self, made: AssignmentObject) -> AssignmentObject | UnsetType:
        """Return what to run, or nothing if there is no room for it in the answer."""
        size_bytes = len(made.request.body)
        if size_bytes > self._room_bytes:
            return UNSET
        self._room_bytes -= size_bytes
        return made

    def _error(self, code: Code) -> ErrorBodyObject:
        return error_object(ApiError(code), self._api.url, "").error


class _FinishAsked(Struct):
    promise_id: str
    command: FinishExecution


def _finish(node_id: str, result: _Outcome) -> _FinishAsked:
    promise_id, counter = execution_promise_id(result.id), result.counter
    data = base64_of(result.body or b"")
    state, value = outcome(result.status, result.headers, result.error, data)
    command = FinishExecution(invoke_id(promise_id), counter, node_id, state, value)
    return _FinishAsked(promise_id, command)


ENDPOINTS = (
    node_endpoint(
        "exchangeWork",
        "POST",
        "{hash}/exchange",
        "Send results and take on tasks, several in one request",
        exchange_work,
        group="Node work",
        description=(
            "Each result and each task is answered as `result` and `assign` would. With `room`, "
            "the answer also has tasks that the node is given, as its slots allow. A server whose "
            f"`hello` has `exchange` {EXCHANGE_VERSION} has it."
        ),
        raw_body=RawBody(
            "JSON with any of `results` (of `id`, `counter`, `status`, `headers`, `error`, and "
            "`body` in base64), `assign` (of `id` and `counter`), and `room`.",
            ("application/json",),
            schema=SCHEMA,
        ),
        successes=(Success(200, "The answers.", ExchangeObject),),
    ),
)
