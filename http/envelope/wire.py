"""What requests and answers of the envelope protocol are wrapped in (envelope.md 2).

A request is `{"kind": …, "head": {"corrId": …, "version": …}, "data": {…}}`, an answer has the same
`kind` and `corrId`, a `status` and its `data`: an object, or a text that says what is wrong. Every
answer to `POST /` is one of these, whatever went wrong and wherever.
"""

from contextlib import suppress
from typing import Final

import msgspec
import orjson
from msgspec import Raw, Struct, field

from troth.core.codes import MESSAGES, Code
from troth.core.json_errors import UNREADABLE_JSON
from troth.core.limits import (
    BODY_VALUES_LIMIT_COUNT,
    HEARTBEAT_VALUES_LIMIT_COUNT,
    LARGE_BODY_BYTES,
)
from troth.http.wire.bodies import BYTE_ORDER_MARK
from troth.http.wire.crowded import crowd_problem, values_problem
from troth.http.wire.errors import RETRY_AFTER_SECONDS, ApiError
from troth.http.wire.requests import Request, Response, json_response

VERSION: Final = "2026-04-01"
"""The one version of the protocol that there is."""

UNKNOWN_KIND: Final = "unknown"
UNKNOWN_CORRELATION: Final = "0"
_OBJECT: Final = ord("{")
_ECHO_LIMIT_BYTES: Final = 1024
"""What is longer is not repeated in an answer."""


HEARTBEAT: Final = "task.heartbeat"
_ABOUT_MANY: Final = {
    HEARTBEAT: HEARTBEAT_VALUES_LIMIT_COUNT,
    "task.suspend": BODY_VALUES_LIMIT_COUNT,
}
"""Operations on many things, and how many values may be in a body of theirs."""


class RequestHead(Struct):
    """The head of a request. `auth` is a token, `debug_time_ms` the time to take for now."""

    corr_id: str | None = field(default=None, name="corrId")
    version: str | None = None
    auth: str | None = None
    debug_time_ms: int | None = field(default=None, name="resonate:debug_time")


class RequestEnvelope(Struct):
    """A request as it came; `data` is not looked into yet."""

    kind: str | None = None
    head: RequestHead | None = None
    data: Raw = Raw(b"null")

    @property
    def corr_id(self) -> str:
        """The id that the answer repeats."""
        return (self.head.corr_id if self.head is not None else None) or ""


_decode: Final = msgspec.json.Decoder(RequestEnvelope).decode


def refused(problem: str, code: Code = Code.INVALID) -> ApiError:
    """Return the refusal of a request; `problem` is what its answer says."""
    return ApiError(code, message=problem)


def read(body: bytes) -> RequestEnvelope:
    """Read a request's envelope. Raises ApiError (400)."""
    try:
        envelope = _decode(body.removeprefix(BYTE_ORDER_MARK))
    except UNREADABLE_JSON as error:
        raise refused(f"the body is not a request envelope: {error}") from error
    if not envelope.kind:
        raise refused("kind: must name an operation")
    if len(body) > LARGE_BODY_BYTES:
        _refuse_crowded(envelope.kind, body)
    if memoryview(envelope.data)[0] != _OBJECT:
        raise refused("data: must be an object")
    if envelope.head is None or envelope.head.corr_id is None:
        raise refused("head.corrId: must be a text, which the answer repeats")
    version = envelope.head.version
    if version != VERSION:
        shown = "nothing" if version is None else repr(version[:64])
        raise refused(f"head.version: must be {VERSION!r} (got {shown})")
    return envelope


def _refuse_crowded(kind: str, body: bytes) -> None:
    """Raise ApiError (400) for a large body that would take long to read."""
    limit_count = _ABOUT_MANY.get(kind)
    problem = crowd_problem(body) if limit_count is None else values_problem(body, limit_count)
    if problem is not None:
        raise refused(f"the body {problem}")


_ANSWER: Final = b'{"kind":%%b,"head":{"corrId":%%b,"status":%%d,"version":"%b"},"data":%%b}' % (
    VERSION.encode()
)


def envelope_text(kind: str, corr_id: str, status: int, data: bytes) -> bytes:
    """Return the JSON text of an answer; `data` is JSON text."""
    return _ANSWER % (orjson.dumps(kind), orjson.dumps(corr_id), status, data)


def refusal_text(error: ApiError) -> str:
    """Return what the answer to a refused request says."""
    if error.message:
        return error.message
    if error.problems:
        return "; ".join(f"{problem.field}: {problem.problem}" for problem in error.problems)
    return MESSAGES[error.code]


def refusal_body(error: ApiError, content: bytes = b"") -> bytes:
    """Render the answer to a refused request, whose body was read only up to here."""
    kind, corr_id = _best_effort(content)
    return envelope_text(kind, corr_id, error.code.status, orjson.dumps(refusal_text(error)))


def refusal_response(request: Request, error: ApiError) -> Response:
    """Make the answer to a refused request, with its kind and corrId where they can be read."""
    headers = list(error.headers)
    if error.code.status == 503:
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_SECONDS))
    return json_response(error.code.status, refusal_body(error, request.body), headers)


class _Said(Struct):
    kind: Raw = Raw(b"null")
    head: Raw = Raw(b"null")


class _SaidHead(Struct):
    corr_id: Raw = field(default=Raw(b"null"), name="corrId")


_decode_said: Final = msgspec.json.Decoder(_Said).decode
_decode_said_head: Final = msgspec.json.Decoder(_SaidHead).decode


def _best_effort(body: bytes) -> tuple[str, str]:
    """Return kind and corrId of what may not be an envelope at all.

    Only these are looked at: the rest may be large, and is not worth the time.
    """
    kind, corr_id = Raw(b"null"), Raw(b"null")
    with suppress(*UNREADABLE_JSON):
        said = _decode_said(body.removeprefix(BYTE_ORDER_MARK))
        kind = said.kind
        corr_id = _decode_said_head(said.head).corr_id
    return _echoed(kind, UNKNOWN_KIND), _echoed(corr_id, UNKNOWN_CORRELATION)


def _echoed(given: Raw, otherwise: str) -> str:
    """Return a text that is repeated in the answer; JSON writes a character in up to six bytes."""
    if memoryview(given).nbytes > 6 * _ECHO_LIMIT_BYTES + 2:
        return otherwise
    try:
        text = msgspec.json.decode(given, type=str)
    except UNREADABLE_JSON:
        return otherwise
    return text if len(text) <= _ECHO_LIMIT_BYTES else otherwise
