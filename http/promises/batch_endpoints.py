"""`POST /promises/batch`: many calls about promises in one request, each answered as if alone.

A batch is no transaction. Calls about one promise are carried out in the order of the batch, calls
about several in any order, and one that is refused keeps no other from being carried out. All that
are carried out together share one wait for the disk; between slices other clients get their turn.

What a batch takes of memory is bounded: when its answers are long together, the rest is refused
(503) and not carried out. A slice has few completions, since these are answered whatever they take.
"""

import functools
from typing import Annotated, Any, Final

import msgspec
import trio
from msgspec import Struct

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.limits import (
    BATCH_ANSWER_LIMIT_BYTES,
    BATCH_COMPLETIONS_COUNT,
    BATCH_ITEMS_LIMIT_COUNT,
    BATCH_SLICE_BYTES,
    BATCH_SLICE_COUNT,
    BODY_VALUES_LIMIT_COUNT,
    LARGE_BODY_BYTES,
    LONG_BODY_BYTES,
)
from troth.core.replies import Reply
from troth.http.api.context import Api
from troth.http.api.in_order import ask_together
from troth.http.api.rows import (
    FENCE,
    TRACE,
    Asking,
    Call,
    Endpoint,
    RawBody,
    Success,
    require_scope,
)
from troth.http.wire.answers import told
from troth.http.wire.bodies import BYTE_ORDER_MARK, BodyDecoder
from troth.http.wire.crowded import values_problem
from troth.http.wire.decoding import NO_HEADERS, CallHeaders
from troth.http.wire.errors import ApiError, ErrorObject, error_body, invalid
from troth.http.wire.fields import RequestLimits, strict_body
from troth.http.wire.requests import Response, json_response

from .answers import PromiseObject
from .promise_endpoints import complete_promise, create_promise, read_promise
from .schemas import BatchItemBody, BatchReadBody

NDJSON_TYPE: Final = "application/x-ndjson"
_ONE_OF: Final = "must have just one of `create`, `complete` and `read`"
_FULL: Final = (
    "Not carried out: the answers to the calls before it are too long for one batch. Send it again."
)


class BatchAnswerObject(Struct, gc=False):
    """The answer to one call, as it would have been answered alone."""

    status: Annotated[int, told("The HTTP status.", 201)]
    body: PromiseObject | ErrorObject


class _Asked(Struct, eq=False):
    """A call that is to be carried out, and its place in the batch."""

    place: int
    call: Call
    asking: Asking
    command: Command


class BatchDecoder:
    """Decodes batches within limits."""

    def __init__(self, limits: RequestLimits) -> None:
        """Compile the decoders: one for batches without a fault, and one for each call."""
        self._one = BodyDecoder(BatchItemBody, limits)
        strict = strict_body(BatchItemBody, limits)
        assert strict is not None, "every field of a call has a strict type"
        self._all: msgspec.json.Decoder[list[BatchItemBody]] = msgspec.json.Decoder(list[strict])  # type: ignore[valid-type]
        self._parts: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(
            list[msgspec.Raw]
        )

    def split(self, content: bytes, *, is_lines: bool) -> list[BatchItemBody | bytes]:
        """Return the calls of a JSON array, or one a line; as bytes those that are not decoded yet.

        Raises ApiError (400) for what is no batch at all, or has too many calls.
        """
        content = content.removeprefix(BYTE_ORDER_MARK)
        is_large = len(content) > LARGE_BODY_BYTES
        if is_large:
            _refuse_crowded(content, is_lines=is_lines)
        if is_lines:
            lines = [line for line in content.split(b"\n") if line.strip()]
            return _refuse_too_many(lines)
        if not is_large and content.isascii():
            try:
                return _refuse_too_many(self._all.decode(content))
            except (msgspec.DecodeError, RecursionError):
                pass  # the closer look finds out what is wrong
        try:
            parts = self._parts.decode(content)
        except (msgspec.DecodeError, RecursionError) as error:
            raise invalid("body", f"is not one JSON array ({error})") from error
        return [bytes(part) for part in _refuse_too_many(parts)]

    def decoded(self, item: BatchItemBody | bytes) -> BatchItemBody:
        """Decode a call, if that was not done. Raises ApiError (400)."""
        return self._one.decode(item) if isinstance(item, bytes) else item


def _refuse_crowded(content: bytes, *, is_lines: bool) -> None:
    """Raise ApiError (400) for a large batch that would take long to take apart."""
    problem = values_problem(content, BODY_VALUES_LIMIT_COUNT)
    if is_lines and content.count(b"\n") > BODY_VALUES_LIMIT_COUNT:
        problem = f"must have at most {BODY_VALUES_LIMIT_COUNT} lines, empty ones included"
    if problem is not None:
        raise invalid("body", problem)


def _refuse_too_many(items: list[Any]) -> list[Any]:
    """Return the calls of a batch. Raises ApiError (400) if there are too many."""
    if len(items) > BATCH_ITEMS_LIMIT_COUNT:
        raise invalid(
            "body", f"must have at most {BATCH_ITEMS_LIMIT_COUNT} calls (got {len(items)})"
        )
    return items


_decoder: Final = functools.cache(BatchDecoder)


async def carry_out_batch(api: Api, call: Call) -> Response:
    """POST /promises/batch. Raises ApiError."""
    kind = call.request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    is_lines = kind == NDJSON_TYPE.encode()
    batch = _Batch(api, call, is_lines=is_lines)
    await batch.carry_out()
    if is_lines:
        body = b"".join([b"%b\n" % answer for answer in batch.answers])
        return Response(200, body, [(b"content-type", NDJSON_TYPE.encode())])
    return json_response(200, b"[%b]" % b",".join(batch.answers))


class _Batch:
    """The calls of one batch and their answers, in its order."""

    def __init__(self, api: Api, call: Call, *, is_lines: bool) -> None:
        """Take a batch apart. Raises ApiError (400) if it is none."""
        self._api = api
        self._call = call
        self._decoder = _decoder(api.limits)
        self._items = self._decoder.split(call.request.body, is_lines=is_lines)
        self.answers: list[bytes] = []
        self._room_bytes = BATCH_ANSWER_LIMIT_BYTES

    async def carry_out(self) -> None:
        """Carry out the calls, slice by slice, and answer them. Raises ApiError if all fail."""
        is_long = len(self._call.request.body) > LONG_BODY_BYTES
        while len(self.answers) < len(self._items):
            if is_long:
                await trio.lowlevel.checkpoint()
            some = self._slice()
            if is_long:
                await trio.lowlevel.checkpoint()
            if self._room_bytes > 0:
                commands = [asked.command for asked in some]
                replies = await ask_together(
                    self._api.shards, commands, self._call.request.held, self._room_bytes
                )
            else:
                replies = [None] * len(some)
                await trio.lowlevel.checkpoint()
            for asked, reply in zip(some, replies, strict=True):
                self._answer(asked, reply)

    def _slice(self) -> list[_Asked]:
        """Take what is carried out together, and answer what is refused without asking."""
        some: list[_Asked] = []
        completions_count = size_bytes = 0
        first = len(self.answers)
        for place, item in enumerate(self._items[first : first + BATCH_SLICE_COUNT], first):
            self.answers.append(b"")
            if isinstance(item, bytes):
                size_bytes += len(item)
            try:
                asked = self._asked(place, self._decoder.decoded(item))
            except ApiError as error:
                self._refuse(place, error)
                continue
            some.append(asked)
            completions_count += asked.asking is complete_promise
            if completions_count == BATCH_COMPLETIONS_COUNT or size_bytes > BATCH_SLICE_BYTES:
                break
        return some

    def _asked(self, place: int, item: BatchItemBody) -> _Asked:
        """Return what a call asks. Raises ApiError."""
        given = [body for body in (item.create, item.complete, item.read) if body is not None]
        if len(given) != 1:
            raise invalid("body", _ONE_OF)
        (body,) = given
        if isinstance(body, BatchReadBody):
            asking, scope = read_promise, Scope.PROMISES_READ
        else:
            asking = create_promise if body is item.create else complete_promise
            scope = Scope.PROMISES_WRITE
        require_scope(self._call, scope)
        path = {} if body is item.create else {"id": body.id or ""}
        headers = NO_HEADERS
        if not isinstance(body, BatchReadBody):
            own = self._call.headers
            headers = CallHeaders(body.idempotency_key, bool(body.strict), own.fence, own.trace)
        call = Call(self._call.request, path, headers, body)
        return _Asked(place, call, asking, asking.question(self._api, call))

    def _answer(self, asked: _Asked, reply: Reply | None) -> None:
        """Note the answer to a call that was carried out; without a reply it was not."""
        if reply is None:
            self._refuse(asked.place, ApiError(Code.OVERLOADED, message=_FULL))
            return
        try:
            status, body = asked.asking.rendered(self._api, asked.call, reply)
        except ApiError as error:
            self._refuse(asked.place, error)
        else:
            self._put(asked.place, status, body)

    def _refuse(self, place: int, error: ApiError) -> None:
        body = error_body(error, self._api.url, self._call.request.id)
        self._put(place, error.code.status, body)

    def _put(self, place: int, status: int, body: bytes) -> None:
        self.answers[place] = answer = b'{"status":%d,"body":%b}' % (status, body)
        self._room_bytes -= len(answer)


ENDPOINTS = (
    Endpoint(
        name="batchPromises",
        group="Promises",
        method="POST",
        path="/promises/batch",
        summary="Create, complete and read many promises",
        description=(
            "Each call is answered as it would be alone, in the same order. It is no transaction. "
            "Calls about one promise are carried out in the order given. When the answers are too "
            "long together (4 MiB), the rest is answered 503 and not carried out. With "
            "`Content-Type: application/x-ndjson` calls and answers are one a line."
        ),
        handler=carry_out_batch,
        scope=Scope.PROMISES_WRITE,
        or_scope=Scope.PROMISES_READ,
        raw_body=RawBody(
            f"An array of at most {BATCH_ITEMS_LIMIT_COUNT} calls.",
            ("application/json",),
            items=BatchItemBody,
        ),
        headers=(*FENCE, *TRACE),
        successes=(Success(200, "The answers.", list[BatchAnswerObject]),),
        answers_much=True,
        examples=(
            'curl $URL/promises/batch -d \'[{"create": {"id": "a", "timeout": 4102444800000}}, '
            '{"read": {"id": "a"}}]\'',
        ),
    ),
)
