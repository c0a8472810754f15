"""From bytes to checked values: request headers, query strings and paths.

Every function raises `ApiError` (400) that names the field, what was given and what is allowed.
Decoding stops at the first thing that cannot be read; validation (`fields.problems`) collects.
"""

import binascii
import functools
import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

from troth.core import limits as core_limits
from troth.core.limits import INTEGER_MAX, INTEGER_MIN
from troth.core.model import Fence, Trace

from .errors import invalid

_NUMBER = re.compile(r"[+-]?[0-9]{1,32}", re.ASCII)
_HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{2}")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False", ""})


class CallHeaders(Struct, frozen=True):
    """The request headers that change what an endpoint does."""

    idempotency_key: str | None = None
    strict: bool = False
    fence: Fence | None = None
    trace: Trace | None = None


NO_HEADERS = CallHeaders()


# --- headers --------------------------------------------------------------------------------------


def header_text(value: bytes) -> str:
    """Return the text of a header's value: UTF-8 if it is that, else Latin-1, which any bytes are.

    HTTP says neither; Python's http.client and Node's fetch send `ü` as the byte FC.
    """
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


@functools.cache
def _raw_name(name: str) -> bytes:
    return name.lower().encode()


def text_header(
    headers: Mapping[bytes, bytes], name: str, limit_bytes: int | None = None
) -> str | None:
    """Return a header's value, or None if it is absent. Raises ApiError.

    Without a limit of its own it has that of all headers, which is a setting.
    """
    given = headers.get(_raw_name(name))
    if given is None:
        return None
    text = header_text(given)
    length_bytes = len(given) if text.isascii() else len(text.encode())
    if limit_bytes is not None and length_bytes > limit_bytes:
        raise invalid(
            f"header {name}", f"must have at most {limit_bytes} bytes (got {length_bytes})"
        )
    return text


def strict_header(headers: Mapping[bytes, bytes]) -> bool:
    """Return the header `Strict`, in the words that Go's ParseBool knows. Raises ApiError."""
    if b"strict" not in headers:
        return False
    given = text_header(headers, "Strict") or ""
    if given in _FALSE:
        return False
    if given in _TRUE:
        return True
    raise invalid("header Strict", f"must be true or false (got {given[:64]!r})")


def fence_headers(headers: Mapping[bytes, bytes]) -> Fence | None:
    """Return the headers `Task-Id` and `Task-Counter`; None without a task id. Raises ApiError.

    Without a counter it is 0, which no task has.
    """
    if b"task-id" not in headers and b"task-counter" not in headers:
        return None
    given = text_header(headers, "Task-Counter")
    counter = integer("header Task-Counter", given) if given else 0
    task_id = text_header(headers, "Task-Id")
    return Fence(task_id, counter) if task_id else None


def trace_headers(headers: Mapping[bytes, bytes]) -> Trace | None:
    """Return the headers `traceparent` and `tracestate`; None without the first.

    Raises ApiError.
    """
    if b"traceparent" not in headers and b"tracestate" not in headers:
        return None
    parent = text_header(headers, "traceparent", core_limits.TRACE_LIMIT_BYTES)
    state = text_header(headers, "tracestate", core_limits.TRACE_LIMIT_BYTES)
    return Trace(parent, state or "") if parent else None


def integer(field: str, given: str) -> int:
    """Return a decimal integer with an optional sign, within 64 bits. Raises ApiError."""
    if _NUMBER.fullmatch(given):
        number = int(given)
        if INTEGER_MIN <= number <= INTEGER_MAX:
            return number
    raise invalid(field, f"must be a 64-bit integer (got {given[:64]!r})")


# --- paths and queries ----------------------------------------------------------------------------


def percent_decode(raw: bytes, field: str) -> str:
    """Decode percent-escapes, once. `+` stays `+`. Raises ApiError."""
    if b"%" in raw:
        first, *rest = raw.split(b"%")
        parts = [first]
        for part in rest:
            if _HEXADECIMAL.match(part) is None:
                shown = (b"%" + part[:2]).decode("latin-1")
                raise invalid(field, f"has {shown!r}, which is no percent-escape")
            parts.append(binascii.unhexlify(part[:2]))
            parts.append(part[2:])
        raw = b"".join(parts)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise invalid(field, "is not UTF-8 after percent-decoding") from error


def query_parameters(query: bytes) -> dict[str, str]:
    """Return the parameters of a query string; of repeated ones the first. Raises ApiError."""
    found: dict[str, str] = {}
    for name, given in query_pairs(query):
        found.setdefault(name, given)
    return found


def query_pairs(query: bytes) -> Iterator[tuple[str, str]]:
    """Yield the parameters of a query string in their order. Raises ApiError."""
    for part in query.split(b"&"):
        if not part:
            continue
        name, _, given = part.replace(b"+", b" ").partition(b"=")
        yield percent_decode(name, "query"), percent_decode(given, "query")
