"""`POST /`: every operation of the envelope protocol, through one row of the endpoint table.

Order of checks (envelope.md 2): the envelope, the credentials, the kind, its fields; then the state
machine. Every answer is an envelope. While the shards are overloaded a request waits, up to
`WAIT_LIMIT_S`: clients of this protocol take a passing refusal for a failed workflow.
"""

import hmac
from typing import Any, Final

import orjson
import trio
from msgspec import Struct

from troth.core.catalog import Scope
from troth.core.codes import MESSAGES, Code
from troth.core.commands import Command
from troth.core.limits import LARGE_BODY_BYTES, LONG_BODY_BYTES, RENEWALS_SLICE_COUNT
from troth.core.replies import Reply
from troth.http.api.authentication import authenticate, refuse_stranger
from troth.http.api.context import Api
from troth.http.api.permissions import refuse_unless_permitted, refuse_unless_within
from troth.http.api.rows import (
    TRACE,
    Call,
    Endpoint,
    HalvedHandler,
    RawBody,
    Renewals,
    Success,
)
from troth.http.api.session_cookies import SessionUse
from troth.http.api.shards_port import REFUSALS_FROM
from troth.http.wire.asked_again import AGAIN_HEADER
from troth.http.wire.errors import ApiError
from troth.http.wire.principals import OPEN_SCOPES
from troth.http.wire.requests import Request, Response, json_response
from troth.shards.errors import Overloaded, ShardsError

from .beats import renew_many
from .debug import DEBUG_PROCEDURES, at_its_time, is_one_of_a_row, says_its_time
from .documentation import curl_commands, kinds_text
from .fields import decoded
from .operations import FENCE_REFUSALS, QUESTIONS, OperationCall, Question
from .searches import PROCEDURES
from .wire import HEARTBEAT, RequestEnvelope, envelope_text, read, refusal_response, refused

WAIT_LIMIT_S: Final = 30.0
"""How long a request waits for room before it is refused."""
WAIT_STEP_S: Final = 0.02
_NOTHING_WAS_DONE: Final = frozenset({Code.OVERLOADED, Code.OUT_OF_REACH})


class _Guard(Struct, frozen=True):
    """The guard of an operation. One that `is_open` needs no credentials on an open server."""

    scope: Scope | None
    is_open: bool
    or_scope: Scope | None = None
    any_scope: bool = False
    session_use: SessionUse = SessionUse.IGNORED


def _guard(scope: Scope, *, opens: bool = False) -> _Guard:
    return _Guard(scope, opens or scope in OPEN_SCOPES)


_GUARDS: Final = {
    **{kind: _guard(question.scope) for kind, question in QUESTIONS.items()},
    **{kind: _guard(procedure.scope) for kind, procedure in PROCEDURES.items()},
    **{kind: _guard(procedure.scope, opens=True) for kind, procedure in DEBUG_PROCEDURES.items()},
}
_UNKNOWN_GUARD: Final = _guard(Scope.PROMISES_READ)


class EnvelopeHandler(HalvedHandler):
    """The handler of `POST /`; see HalvedHandler."""

    def question(self, api: Api, call: Call) -> Command | Renewals | None:
        """Return what is asked, or None if it takes a coroutine. Raises ApiError."""
        return self._judged(api, call, self._admitted(api, call.request))

    def _judged(self, api: Api, call: Call, envelope: RequestEnvelope) -> Command | Renewals | None:
        kind = envelope.kind or ""
        if len(call.request.body) > LARGE_BODY_BYTES and kind == HEARTBEAT:
            call.body = envelope
            return None  # it is read in several passes
        question = QUESTIONS.get(kind)
        if question is not None:
            command = self._command(api, call, question, envelope)
            # At a time that is set, requests are carried out one after the other.
            if api.debug is not None and is_one_of_a_row(api, envelope):
                return None
            if isinstance(command, Renewals) and len(command.tasks) > RENEWALS_SLICE_COUNT:
                return None  # it takes several passes
            return command
        if kind in DEBUG_PROCEDURES:
            if api.debug is None:
                raise refused("debug operations are off", Code.FORBIDDEN_SCOPE)
        elif kind not in PROCEDURES:
            raise refused(f"kind: there is no operation {kind[:64]!r}")
        call.body = envelope
        return None

    def rendered(self, api: Api, call: Call, reply: Reply) -> tuple[int, bytes]:
        """Return status and JSON text of the answer to a question."""
        asked: OperationCall = call.body
        operation, code = asked.operation, reply.code
        kind = asked.envelope.kind or ""
        is_action = operation is _FENCE and code not in FENCE_REFUSALS
        if code >= REFUSALS_FROM and not is_action:
            data = orjson.dumps(MESSAGES[code])
            return code.status, envelope_text(kind, asked.corr_id, code.status, data)
        if operation.acted is not None:
            operation.acted(api, asked.data)
        status = 300 if code is _AWAITED_SETTLED else 200
        return status, envelope_text(kind, asked.corr_id, status, operation.shown(asked, reply))

    async def __call__(self, api: Api, call: Call) -> Response:
        """Do all of it, waiting for room where there is none. Raises ApiError.

        A call that was judged already, by `question`, is not judged again. Each look at a long body
        may take 8 ms; others get their turn in between.
        """
        is_long = len(call.request.body) > LONG_BODY_BYTES
        try:
            if call.body is None:
                envelope = self._admitted(api, call.request)
                if is_long:
                    await trio.lowlevel.checkpoint()
                self._judged(api, call, envelope)
            return await self._answered(api, call)
        except ApiError:
            if is_long:  # the refusal looks at it once more
                await trio.lowlevel.checkpoint()
            raise

    async def _answered(self, api: Api, call: Call) -> Response:
        """Carry out what was judged, waiting for room. Raises ApiError."""
        with trio.move_on_after(WAIT_LIMIT_S):
            while True:
                try:
                    async with at_its_time(api, _envelope_of(call)):
                        status, text = await self._carried_out(api, call)
                    return json_response(status, text)
                except Overloaded:
                    # Nothing was done; there is room again before long.
                    await trio.sleep(WAIT_STEP_S)
                except ApiError as error:
                    if error.code not in _NOTHING_WAS_DONE:
                        raise
                    await trio.sleep(WAIT_STEP_S)
                except ShardsError as error:
                    raise ApiError(error.code) from error
        raise ApiError(Code.OVERLOADED)

    async def _carried_out(self, api: Api, call: Call) -> tuple[int, bytes]:
        """Do what was judged; status and text of the answer. Raises ApiError, ShardsError."""
        if not isinstance(call.body, OperationCall):
            return 200, await _proceed(api, call)
        command = call.body.command
        assert command is not None, "it was made when the call was judged"
        return self.rendered(api, call, await _asked(api, command, call))

    def _admitted(self, api: Api, request: Request) -> RequestEnvelope:
        """Return a request's envelope, if its sender may ask for what it asks. Raises ApiError."""
        header = request.headers.get(b"authorization")
        try:
            envelope = read(request.body)
        except ApiError:
            # As where a head is judged before its body is there: what it says of its sender counts.
            if header is not None:
                refuse_stranger(api, request)
            raise
        assert envelope.head is not None, "`read` refuses what has none"
        if header is not None and api.credentials.is_loaded and not api.credentials.is_open:
            _refuse_basic(header)
        guard = _GUARDS.get(envelope.kind or "", _UNKNOWN_GUARD)
        auth = envelope.head.auth
        authorization = None
        if auth:
            authorization = b"Bearer " + auth.encode()
            if header is not None and not _is_same(header, authorization):
                raise ApiError(
                    Code.UNAUTHORIZED, message="head.auth and Authorization are not the same"
                )
        request.principal = authenticate(api, request, guard, authorization)
        return envelope

    def _command(
        self, api: Api, call: Call, question: Question, envelope: RequestEnvelope
    ) -> Command | Renewals:
        data = decoded(question.decoder, envelope.data)
        asked = OperationCall(question, envelope, data, api.limits, call.headers.trace)
        asked.is_again = AGAIN_HEADER in call.request.headers
        call.body = asked
        asked.command = command = question.command(asked)
        principal = call.request.principal
        if not isinstance(command, Renewals):
            refuse_unless_permitted(principal, command)
        elif principal.id_prefix:
            refuse_unless_within(principal, (task_id for task_id, _ in command.tasks))
        return command


_FENCE: Final = QUESTIONS["task.fence"]
_RENEWED: Final = Reply(Code.OK)
_AWAITED_SETTLED: Final = Code.AWAITED_SETTLED  # see PENDING in model.py


async def _proceed(api: Api, call: Call) -> bytes:
    """Do what takes a coroutine, for an envelope that was admitted. Raises ApiError."""
    envelope: RequestEnvelope = call.body
    kind = envelope.kind or ""
    if kind == HEARTBEAT:
        text = await renew_many(api, call.request.principal, envelope.data)
        return envelope_text(kind, envelope.corr_id, 200, text)
    procedure = PROCEDURES.get(kind) or DEBUG_PROCEDURES[kind]
    data = decoded(procedure.decoder, envelope.data)
    text = await procedure.act(api, call.request.principal, data)
    return envelope_text(kind, envelope.corr_id, 200, text)


async def _asked(api: Api, command: Command | Renewals, call: Call) -> Reply:
    """Ask and wait. Raises ShardsError."""
    if isinstance(command, Renewals):
        await api.shards.renew_workflows(command.pid, command.tasks)
        return _RENEWED
    # At a time that a request says its messages leave, too, not when it is answered.
    held = None if says_its_time(api, _envelope_of(call)) else call.request.held
    return await api.shards.ask(command, held)


def _envelope_of(call: Call) -> RequestEnvelope:
    """Return the envelope of a call that was judged."""
    body: OperationCall | RequestEnvelope = call.body
    return body.envelope if isinstance(body, OperationCall) else body


def _refuse_basic(header: bytes) -> None:
    """Raise ApiError (401) for what only the REST API takes (envelope.md 9)."""
    if header[:6].lower() == b"basic ":
        raise ApiError(
            Code.UNAUTHORIZED,
            message="Basic credentials are for the REST API; this needs a token, in "
            "`Authorization: Bearer` or in `head.auth`",
            headers=[(b"www-authenticate", b"Bearer")],
        )


def _is_same(header: bytes, authorization: bytes) -> bool:
    """Return whether a header holds the token of `head.auth`, with or without `Bearer`."""
    scheme, _, token = header.partition(b" ")
    given = token.strip(b" ") if scheme.lower() == b"bearer" else header
    return hmac.compare_digest(given, authorization.removeprefix(b"Bearer "))


ENDPOINTS = (
    Endpoint(
        name="envelope",
        group="Envelope protocol",
        method="POST",
        path="/",
        summary="Perform one operation of the envelope protocol",
        description=(
            "The protocol of current Resonate SDKs: promises, tasks and schedules through "
            'one address. The body is `{"kind": …, "head": {"corrId": …, "version": '
            '"2026-04-01"}, "data": {…}}`. The answer has the same kind and corrId, '
            "`head.status`, which is also the HTTP status, and `data`: an object, or a text "
            "that describes the error.\n\n" + kinds_text()
        ),
        examples=curl_commands(),
        handler=EnvelopeHandler(),
        public=True,
        raw_body=RawBody("A request envelope; its Content-Type is ignored.", ("*/*",)),
        headers=TRACE,
        successes=(Success(200, "The requested data.", dict[str, Any]),),
        refused=refusal_response,
        waits=True,
        awaits_start=True,
        auth_in_body=True,
    ),
)
