"""The protocol between a node and the processes it starts; the other end is `runner.py`.

A frame is a letter, four bytes of length, and content. Nothing that arrives is trusted: it can be
anything, of any length, and end anywhere. Anything malformed raises `ChannelBroken`.
"""

import base64
import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from troth.core.json_errors import UNREADABLE_JSON

from .limits import DEFAULT_RESULT_LIMITS, ResultLimits

HEAD_BYTES: Final = 5
_LENGTH_BYTES: Final = 4
_HEADERS_LIMIT_COUNT: Final = 64

CONFIG: Final = b"C"
REQUEST: Final = b"Q"
READY: Final = b"Y"
IMPORT_FAILED: Final = b"F"
NOT_SET_UP: Final = b"N"
ENDED: Final = b"X"
PROGRESS: Final = b"P"
RESULT: Final = b"R"
ERROR: Final = b"E"

_KINDS: Final = frozenset((READY, IMPORT_FAILED, NOT_SET_UP, ENDED, PROGRESS, RESULT, ERROR))

# The server leaves out what does not look so; here it is an error, which names it.
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_CONTENT: Final = re.compile(r"[\t\x20-\x7e]{0,8192}")
_PLAIN_ENCODINGS: Final = frozenset(("", "identity"))
# They are about one connection, and the server has its own.
_CONNECTION_HEADERS: Final = frozenset(
    ("connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)


class ChannelBroken(Exception):
    """The bytes on a channel violate this protocol; the text says how."""


class ResultTooLarge(Exception):
    """A result is larger than the server takes."""


@dataclass(frozen=True)
class FunctionResponse:
    """The outcome of an execution. `error` is set if the function gave no response of its own."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    error: str | None = None


def failure(status: int, kind: str, message: str) -> FunctionResponse:
    """Return the response of an execution that has none; `kind` is a name for programs."""
    body = msgspec.json.encode({"error": {"type": kind, "message": message}})
    return FunctionResponse(
        status, (("content-type", "application/json"),), body, f"{kind}: {message}"
    )


class _Meta(msgspec.Struct):
    status: int
    headers: list[tuple[str, str]]


class _Error(msgspec.Struct):
    type: str
    message: str


class FrameReader:
    """Makes frames of bytes as they arrive, and no more bytes than a frame may have."""

    def __init__(self, limits: ResultLimits = DEFAULT_RESULT_LIMITS) -> None:
        self._limit_bytes = _LENGTH_BYTES + limits.headers_bytes + limits.body_bytes
        self._buffer = bytearray()

    def feed(self, part: bytes) -> None:
        """Add what has arrived."""
        self._buffer += part

    def next(self) -> tuple[bytes, bytes] | None:
        """Return the next whole frame: kind and content. Raises ChannelBroken, ResultTooLarge."""
        if len(self._buffer) < HEAD_BYTES:
            return None
        kind = bytes(self._buffer[:1])
        if kind not in _KINDS:
            raise ChannelBroken("the function's code wrote to its result channel")
        length = int.from_bytes(self._buffer[1:HEAD_BYTES], "big")
        if length > self._limit_bytes:
            raise ResultTooLarge
        if len(self._buffer) < HEAD_BYTES + length:
            return None
        content = bytes(memoryview(self._buffer)[HEAD_BYTES : HEAD_BYTES + length])
        del self._buffer[: HEAD_BYTES + length]
        return kind, content


def frame(kind: bytes, content: bytes) -> bytes:
    """Return one frame, to be sent."""
    return kind + len(content).to_bytes(_LENGTH_BYTES, "big") + content


def request_frame(execution_id: str, request: dict[str, Any]) -> bytes:
    """Make a frame of an execution's request, as `assign` gives it.

    Raises KeyError or ValueError for another form.
    """
    meta = {name: request[name] for name in ("method", "query", "host", "headers")}
    described = msgspec.json.encode({**meta, "id": execution_id})
    length = len(described).to_bytes(_LENGTH_BYTES, "big")
    return frame(REQUEST, length + described + base64.b64decode(request["body"] or ""))


def progress(content: bytes) -> int:
    """Return a percentage. Raises ChannelBroken."""
    if not (content.isdigit() and len(content) <= 3 and int(content) <= 100):
        raise ChannelBroken("the function's process reported an invalid progress")
    return int(content)


def error_of(content: bytes) -> tuple[str, str]:
    """Return the type and message of an error. Raises ChannelBroken."""
    try:
        error = msgspec.json.decode(content, type=_Error)
    except UNREADABLE_JSON as wrong:
        raise ChannelBroken("the function's process reported a malformed error") from wrong
    return error.type, error.message


def response(content: bytes, limits: ResultLimits = DEFAULT_RESULT_LIMITS) -> FunctionResponse:
    """Return a function's own response. Raises ChannelBroken, ResultTooLarge."""
    length = int.from_bytes(content[:_LENGTH_BYTES], "big")
    described = content[_LENGTH_BYTES : _LENGTH_BYTES + length]
    body = content[_LENGTH_BYTES + length :]
    try:
        meta = msgspec.json.decode(described, type=_Meta)
    except UNREADABLE_JSON as error:
        raise ChannelBroken("the function's process gave a malformed result") from error
    if len(body) > limits.body_bytes:
        raise ResultTooLarge
    if not 200 <= meta.status <= 599:
        return failure(500, "BadResponse", f"the function gave the status {meta.status}")
    if len(described) > limits.headers_bytes or len(meta.headers) > _HEADERS_LIMIT_COUNT:
        message = (
            f"the function gave {len(meta.headers)} headers of {len(described)} bytes; allowed are "
            f"{_HEADERS_LIMIT_COUNT} headers of {limits.headers_bytes} bytes together"
        )
        return failure(500, "BadResponse", message)
    for name, text in meta.headers:
        if _NAME.fullmatch(name) is None or _CONTENT.fullmatch(text) is None:
            message = (
                f"the function gave a header that cannot be sent: {name[:100]!r}; allowed are "
                "printable ASCII characters, at most 8192"
            )
            return failure(500, "BadResponse", message)
        if name.lower() == "content-encoding" and text.strip().lower() not in _PLAIN_ENCODINGS:
            # Callers are not told of an encoding, so they could not read the body.
            message = f"the function gave a body in the encoding {text[:100]!r}; return it plain"
            return failure(500, "BadResponse", message)
    headers = tuple(
        (name.lower(), text)
        for name, text in meta.headers
        if name.lower() not in _CONNECTION_HEADERS
    )
    return FunctionResponse(meta.status, headers, body)
