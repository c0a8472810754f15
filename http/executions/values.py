"""Requests to functions and their results, as stored in promises and as sent.

A request is kept as the promise's param, a result as its value (keys: `core/executions.py`). What
this module promises of headers:

- A function never sees the caller's credentials or cookies, nor what concerns only the connection.
- A function is given every value of a repeated header, joined by commas, as text beyond ASCII too.
- A result cannot break out of its header lines. It may say what it is and how long that holds, and
  whatever begins with `x-`, but not speak for the server (Date, Server, CORS, cookies of its
  origin), disturb the connection, or command a proxy in front: those take orders from headers
  (X-Accel-Redirect, X-Sendfile), and unpack what calls itself compressed. A page that it may be is
  shown in a sandbox.
- Their number and size have limits; what is beyond is left out.
"""

import base64
import re
from binascii import b2a_base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Final

import msgspec
import orjson
from msgspec import Struct

from troth.core.catalog import Capabilities
from troth.core.codes import Code
from troth.core.executions import (
    ERROR_KEY,
    HEADERS_KEY,
    LOST_NODES_KEY,
    LOST_NODES_LIMIT_COUNT,
    METHOD_KEY,
    STATUS_KEY,
)
from troth.core.json_bytes import encoder
from troth.core.model import Promise, PromiseState, Value
from troth.http.wire.answers import told
from troth.http.wire.decoding import header_text
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Request, Response

Headers = Sequence[tuple[str, str]]

STATUS_MIN: Final = 200
STATUS_MAX: Final = 599
_HEADERS_LIMIT_COUNT: Final = 64
_encode = encoder()
_HEADERS_LIMIT_BYTES: Final = 16 * 1024

_CONNECTION_HEADERS: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_FOR_FUNCTIONS: Final = _CONNECTION_HEADERS | {
    "accept-encoding",
    "authorization",
    "cookie",
    "cookie2",
    "idempotency-key",
    "request-id",
}
_FOR_CALLERS: Final = frozenset(
    {
        "cache-control",
        "content-disposition",
        "content-language",
        "content-type",
        "etag",
        "last-modified",
        "link",
        "location",
        "retry-after",
        "vary",
    }
)
_COMMANDS_START: Final = (
    "x-accel-",
    "x-lighttpd-",
    "x-litespeed-",
    "x-reproxy-",
    "x-sendfile",
)
"""What proxies take for orders: nginx, lighttpd, LiteSpeed, perlbal, others in the same way."""
_SANDBOX: Final = [
    (b"content-security-policy", b"sandbox"),
    (b"x-content-type-options", b"nosniff"),
]
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]{0,8192}")
_ANY_VALUE: Final = re.compile(r"[\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]{0,8192}")
_WITHOUT_BODY: Final = frozenset({204, 205, 304})

_QUERY_KEY: Final = "query"
_REQUEST_HEADERS_KEY: Final = "headers"
_HOST_KEY: Final = "host"
_CAPABILITIES_KEY: Final = "capabilities"


# --- requests -------------------------------------------------------------------------------------


class FunctionRequest(Struct, frozen=True):
    """What the function is called with."""

    method: Annotated[str, told("The method.", "POST")]
    query: Annotated[str, told("The query string, as it came.", "myParam1=100")]
    headers: Annotated[
        list[tuple[str, str]],
        told("Names, in lower case, and values.", [["content-type", "application/json"]]),
    ]
    body: Annotated[str, told("The body, in base64.", "e30=")]
    host: Annotated[str, told("The host that was called.", "127.0.0.1:8001")]


def request_value(request: Request, capabilities: Capabilities) -> Value:
    """Keep a request for a function, and the capabilities that hold for it."""
    given = request.headers if request.repeated is None else {**request.headers, **request.repeated}
    texts = ((name.decode("latin-1"), header_text(text)) for name, text in given.items())
    headers = _safe(texts, _is_for_functions, _ANY_VALUE)
    return Value(
        {
            METHOD_KEY: request.method,
            _QUERY_KEY: request.query.decode("latin-1"),
            _REQUEST_HEADERS_KEY: orjson.dumps(headers).decode(),
            _HOST_KEY: request.headers.get(b"host", b"").decode("latin-1"),
            _CAPABILITIES_KEY: _encode(capabilities).decode(),
        },
        base64.b64encode(request.body).decode() or None,
    )


def function_request(promise: Promise) -> FunctionRequest:
    """Return the request that an execution was created with."""
    kept = promise.param.headers or {}
    return FunctionRequest(
        kept[METHOD_KEY],
        kept[_QUERY_KEY],
        [(name, text) for name, text in orjson.loads(kept[_REQUEST_HEADERS_KEY])],
        promise.param.data or "",
        kept[_HOST_KEY],
    )


def capabilities_of(promise: Promise) -> Capabilities:
    """Return the function's capabilities when the execution was created."""
    kept = promise.param.headers or {}
    return msgspec.json.decode(kept[_CAPABILITIES_KEY], type=Capabilities)


# --- results --------------------------------------------------------------------------------------


def result_value(status: int, headers: Headers, data: str | None) -> tuple[PromiseState, Value]:
    """Return how a function's own answer completes its promise; `data` is its body, in base64.

    An impossible status is a failure.
    """
    if not STATUS_MIN <= status <= STATUS_MAX:
        return failure_value(502, f"the function answered with the status {status}")
    kept = {
        STATUS_KEY: str(status),
        HEADERS_KEY: orjson.dumps(_safe(headers, _is_for_callers, _VALUE)).decode(),
    }
    return PromiseState.RESOLVED, Value(kept, data or None)


def base64_of(body: bytes) -> str:
    """Return a body as it is kept."""
    return b2a_base64(body, newline=False).decode()


def failure_value(
    status: int, problem: str, data: str | None = None, headers: Headers = ()
) -> tuple[PromiseState, Value]:
    """Return how a promise completes whose function gave no answer.

    `data` is what is known of an error that the function raised, as JSON in base64.
    """
    kept = {STATUS_KEY: str(status), ERROR_KEY: problem}
    if data:
        kept[HEADERS_KEY] = orjson.dumps(_safe(headers, _is_for_callers, _VALUE)).decode()
    return PromiseState.REJECTED, Value(kept, data or None)


def status_of(promise: Promise) -> int:
    """Return the HTTP status of a finished execution's result."""
    return int((promise.value.headers or {}).get(STATUS_KEY, "0"))


def result_response(promise: Promise) -> Response:
    """Return a finished execution's result. Raises ApiError if the function gave none."""
    kept = promise.value.headers or {}
    status = status_of(promise)
    if not promise.value.data and (ERROR_KEY in kept or HEADERS_KEY not in kept):
        raise _failure(status, kept)
    headers = [
        (name.encode(), text.encode())
        # Judged again: a checkpoint from another server may hold anything.
        for name, text in _safe(orjson.loads(kept.get(HEADERS_KEY, "[]")), _is_for_callers, _VALUE)
    ]
    body = b"" if status in _WITHOUT_BODY else base64.b64decode(promise.value.data or "")
    return Response(status, body, headers + _SANDBOX)


_FAILURES: Final = {
    410: Code.EXECUTION_CANCELED,
    500: Code.FUNCTION_FAILED,
    502: Code.FUNCTION_UNUSABLE,
    504: Code.EXECUTION_TIMEDOUT,
}


def _failure(status: int, kept: Mapping[str, str]) -> ApiError:
    code = _FAILURES.get(status, Code.FUNCTION_FAILED)
    if status == 502 and int(kept.get(LOST_NODES_KEY, "0")) > LOST_NODES_LIMIT_COUNT:
        code = Code.NODES_LOST
    problem = kept.get(ERROR_KEY)
    if problem is None:
        return ApiError(code)
    return ApiError(code, message=f"{problem[:1].upper()}{problem[1:]}.")


# --- headers --------------------------------------------------------------------------------------


def _is_for_functions(name: str) -> bool:
    is_kept = name in _NOT_FOR_FUNCTIONS or name.startswith(("access-control-", "proxy-", "sec-"))
    return not is_kept


def _is_for_callers(name: str) -> bool:
    if name in _FOR_CALLERS:
        return True
    is_ours = name == "x-content-type-options"
    return name.startswith("x-") and not is_ours and not name.startswith(_COMMANDS_START)


def _safe(
    headers: Iterable[tuple[str, str]], may_pass: Callable[[str], bool], values: re.Pattern[str]
) -> list[tuple[str, str]]:
    """Return the headers that may be handed on, with names in lower case."""
    kept: list[tuple[str, str]] = []
    left_bytes = _HEADERS_LIMIT_BYTES
    for given, text in headers:
        name = given.lower()
        if not may_pass(name) or not _NAME.fullmatch(name) or not values.fullmatch(text):
            continue
        left_bytes -= len(name) + len(text)
        if left_bytes < 0 or len(kept) == _HEADERS_LIMIT_COUNT:
            break
        kept.append((name, text.strip(" \t")))
    return kept
