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

from troth.core.catalog import RESERVED_PREFIX, Scope
from troth.core.codes import Code
from troth.core.commands import Command, CompletePromise, ReadPromise
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
from troth.http.api.permissions import refuse_unless_permitted
from troth.http.api.rows import FENCE, TRACE, Call, Endpoint, RawBody, Success, require_scope
from troth.http.api.shards_port import REFUSALS_FROM
from troth.http.wire.answers import told
from troth.http.wire.bodies import BYTE_ORDER_MARK, BodyDecoder, is_utf8
from troth.http.wire.crowded import values_problem
from troth.http.wire.decoding import CallHeaders
from troth.http.wire.errors import ApiError, ErrorObject, error_object, invalid
from troth.http.wire.fields import RequestLimits, strict_body
from troth.http.wire.json_text import dump
from troth.http.wire.requests import Response, json_response

from .answers import PromiseObject, promise_object
from .promise_endpoints import completion, creation
from .schemas import BatchCompleteBody, BatchCreateBody, BatchItemBody

NDJSON_TYPE: Final = "application/x-ndjson"
_ONE_OF: Final = "must have just one of `create`, `complete` and `read`"
_FULL: Final = (
    "Not carried out: the answers to the calls before it are too long for one batch. Send it again."
)


class BatchAnswerObject(Struct, gc=False):
    """The answer to one call, as it would have been answered alone."""

    status: Annotated[int, told("The HTTP status.", 201)]
    body: PromiseObject | ErrorObject


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
        if len(content) > LARGE_BODY_BYTES:
            _refuse_crowded(content, is_lines=is_lines)
        if is_lines:
            lines = [line for line in content.split(b"\n") if line.strip()]
            return _refuse_too_many(lines)
        # A long one is decoded in slices.
        if len(content) <= LONG_BODY_BYTES and is_utf8(content):
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
    body = await _Batch(api, call, is_lines=is_lines).carry_out()
    if is_lines:
        return Response(200, body, [(b"content-type", NDJSON_TYPE.encode())])
    return json_response(200, body)


class _Batch:
    """The calls of one batch, and the text of their answers, in its order."""

    def __init__(self, api: Api, call: Call, *, is_lines: bool) -> None:
        """Take a batch apart. Raises ApiError (400) if it is none."""
        self._api = api
        self._call = call
        self._decoder = _decoder(api.limits)
        self._is_lines = is_lines
        self._items = self._decoder.split(call.request.body, is_lines=is_lines)
        self._own_headers = CallHeaders(fence=call.headers.fence, trace=call.headers.trace)
        principal = call.request.principal
        self._creates_freely = (
            Scope.PROMISES_WRITE in principal.scopes
            and not principal.id_prefix
            and call.headers.fence is None
        )
        """Whether all ids may be created but those that are reserved."""
        self._has_completions = False
        """Whether the slice that is under way has some."""
        self._done_count = 0
        self._answers: list[BatchAnswerObject | None] = []
        """Those of the slice that is under way; None until there is one."""
        self._texts: list[bytes] = []
        self._room_bytes = BATCH_ANSWER_LIMIT_BYTES

    async def carry_out(self) -> bytes:
        """Carry out the calls, slice by slice, and return the body of the answer.

        Raises ApiError if all fail.
        """
        takes_long = len(self._call.request.body) > LONG_BODY_BYTES
        while self._done_count < len(self._items):
            if takes_long:
                await trio.lowlevel.checkpoint()
            places, commands = self._slice()
            if takes_long:
                await trio.lowlevel.checkpoint()
            if self._room_bytes > 0:
                answers = await ask_together(
                    self._api.shards,
                    commands,
                    self._call.request.held,
                    self._room_bytes,
                    counts_made=self._has_completions,
                )
                self._answer(places, answers.replies)
                size_bytes = answers.size + len(self._call.request.body)
                self._write(is_long=size_bytes > LARGE_BODY_BYTES)
            else:
                self._answer(places, [None] * len(places))
                self._write(is_long=False)
                await trio.lowlevel.checkpoint()
        if self._is_lines:
            return b"".join(self._texts)
        return b"[%b]" % b",".join(self._texts)

    def _slice(self) -> tuple[list[int], list[Command]]:
        """Return what is asked together, and the places in the slice of those that ask it.

        What is refused without asking is answered.
        """
        items = self._items[self._done_count : self._done_count + BATCH_SLICE_COUNT]
        places: list[int] = []
        commands: list[Command] = []
        answers = self._answers = [None] * len(items)
        completions_count = size_bytes = 0
        decoded = self._decoder.decoded
        for place, item in enumerate(items):
            if size_bytes > BATCH_SLICE_BYTES:
                del answers[place:]
                break
            try:
                if isinstance(item, bytes):
                    size_bytes += len(item)
                    item = decoded(item)
                command = self._command(item)
            except ApiError as error:
                answers[place] = self._refusal(error)
                continue
            places.append(place)
            commands.append(command)
            if type(command) is CompletePromise:
                completions_count += 1
                if completions_count == BATCH_COMPLETIONS_COUNT:
                    del answers[place + 1 :]
                    break
        self._done_count += len(answers)
        self._has_completions = completions_count > 0
        return places, commands

    def _command(self, item: BatchItemBody) -> Command:
        """Return what a call asks, if its sender may. Raises ApiError."""
        command: Command
        create, complete, read = item.create, item.complete, item.read
        if complete is None and read is None and create is not None and self._creates_freely:
            # What nearly all batches have, without a call more than it takes.
            command = creation(create, self._headers(create))
            if not command.id.startswith(RESERVED_PREFIX):
                return command
        if (create is None) + (complete is None) + (read is None) != 2:
            raise invalid("body", _ONE_OF)
        if create is not None:
            require_scope(self._call, Scope.PROMISES_WRITE)
            command = creation(create, self._headers(create))
        elif complete is not None:
            require_scope(self._call, Scope.PROMISES_WRITE)
            command = completion(complete.id or "", complete, self._headers(complete))
        else:
            assert read is not None, "it is just one of these"
            require_scope(self._call, Scope.PROMISES_READ)
            command = ReadPromise(read.id or "")
        refuse_unless_permitted(self._call.request.principal, command)
        return command

    def _headers(self, body: BatchCreateBody | BatchCompleteBody) -> CallHeaders:
        """Return what a call alone would say in its headers."""
        own = self._own_headers
        if body.idempotency_key is None and not body.strict:
            return own
        return CallHeaders(body.idempotency_key, bool(body.strict), own.fence, own.trace)

    def _answer(self, places: list[int], replies: list[Reply | None]) -> None:
        """Note the answers to calls that were carried out; those without a reply were not."""
        answers = self._answers
        for place, reply in zip(places, replies, strict=True):
            if reply is None:
                answers[place] = self._refusal(ApiError(Code.OVERLOADED, message=_FULL))
            elif reply.code >= REFUSALS_FROM:
                answers[place] = self._refusal(ApiError(reply.code))
            else:
                assert reply.promise is not None, "all these calls show a promise"
                shown = promise_object(reply.promise)
                answers[place] = BatchAnswerObject(reply.code.status, shown)

    def _refusal(self, error: ApiError) -> BatchAnswerObject:
        refused = error_object(error, self._api.url, self._call.request.id)
        return BatchAnswerObject(error.code.status, refused)

    def _write(self, *, is_long: bool) -> None:
        """Write the answers of a slice: together, unless that would make one long text twice."""
        answers = [answer for answer in self._answers if answer is not None]
        if self._is_lines:
            texts = [dump(answer) + b"\n" for answer in answers]
        elif is_long:
            texts = [dump(answer) for answer in answers]
        else:
            texts = [dump(answers)[1:-1]]
        self._room_bytes -= sum([len(text) for text in texts])
        self._texts += texts


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
