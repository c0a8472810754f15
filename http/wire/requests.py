"""Requests and responses as neutral values, the same for every way in.

Handlers see nothing else: no Quart, no ASGI, no sockets. A response has either a body or a stream.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct, field

from troth.core.codes import Code
from troth.shards.held import HeldMessages

from .principals import ANONYMOUS, Principal

JSON_TYPE = b"application/json; charset=utf-8"


class Request(Struct, eq=False):
    """One HTTP request, its body read completely.

    `raw_path` and `query` are as they came, without the `?` between them. `headers` has lower-case
    names; of repeated headers it holds the first, which is what the server judges, and `repeated`
    all values, joined by commas; None if no header is repeated. A caller that has asked
    `Dispatcher.is_plain_head` says so by `is_plain`. The dispatcher sets `endpoint`, for
    metrics, `principal`, who has sent the request, and `refusal`, why it was refused, if it was;
    where requests are traced, `span` is that of the request, or False if it has none. A handler
    that waits for long puts what ends its wait into `on_left`; `is_left` says that the client is
    gone.
    """

    method: str
    raw_path: bytes
    query: bytes
    headers: Mapping[bytes, bytes]
    body: bytes = b""
    held: HeldMessages | None = None
    peer: str | None = None
    id: str = ""
    repeated: Mapping[bytes, bytes] | None = None
    is_plain: bool | None = None
    endpoint: str = "unmatched"
    refused: Callable[["Request", Any], "Response"] | None = None
    principal: Principal = ANONYMOUS
    refusal: Code | None = None
    span: Any = None
    is_left: bool = False
    on_left: Callable[[], None] | None = None

    def leave(self) -> None:
        """Note that the client is gone: code that waits for it need not wait longer."""
        self.is_left = True
        if self.on_left is not None:
            self.on_left()


def add_repeated(repeated: dict[bytes, bytes], name: bytes, first: bytes, value: bytes) -> None:
    """Note one more value of a header that was there before."""
    repeated[name] = b"%b, %b" % (repeated.get(name, first), value)


class ChunkStream(Protocol):
    """A response body that goes on until it is ended."""

    async def next_chunk(self) -> bytes | None:
        """Wait for the next bytes to send; None at the end. The previous chunk was written."""
        ...

    def stop(self) -> None:
        """Make the present or next `next_chunk` return None. Never blocks."""
        ...

    def close(self) -> None:
        """Give everything up. Called exactly once, whatever happened."""
        ...


@runtime_checkable
class ReadyStream(ChunkStream, Protocol):
    """A stream for callers that must not wait: it calls back when there may be something."""

    def when_ready(self, action: Callable[[], None]) -> None:
        """Register `action`, called whenever `next_now` may have news, but not immediately."""
        ...

    def next_now(self, now: float) -> bytes | None:
        """Do as `next_chunk`, but without waiting: empty if there is nothing at this time."""
        ...

    def is_due(self, now: float) -> bool:
        """Return whether `next_now` has news now, even if no callback was called."""
        ...


class Response(Struct, eq=False):
    """An answer. `headers` need not include Content-Length; the list given is copied."""

    status: int
    body: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    stream: ChunkStream | None = None

    def __post_init__(self) -> None:
        """Copy the headers: more are added on the way out, and some handlers give a constant."""
        self.headers = list(self.headers)


def json_response(
    status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> Response:
    """Make an answer whose body is JSON text."""
    return Response(status, body, [(b"content-type", JSON_TYPE), *(headers or ())])
