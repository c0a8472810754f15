"""The stream of messages to a polling worker, as server-sent events (rest.md 7.3).

A message is `data: <json>` and an empty line. A comment is sent immediately, so that the worker
knows that it is connected, and whenever nothing was sent for the keep-alive time, so that either
side notices when the other is gone. A message counts as delivered when the socket has taken it:
that is when the next chunk is asked for.

The hot lane takes chunks when there are any (`requests.ReadyStream`); elsewhere a task waits for
them.

Every stream ends when the token that opened it stops working (`limited`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from troth.http.identity.credentials import Credentials
from troth.http.wire.principals import Principal
from troth.http.wire.requests import ChunkStream, ReadyStream
from troth.shards.delivery.dialects import REST
from troth.shards.delivery.polls import ConnectionClosed, PollConnection

CONNECTED = b": connected\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # tells nginx to pass on every event immediately
]


class EventStream(ABC):
    """Server-sent events for a task that waits for them. A `requests.ChunkStream`."""

    def __init__(self, keep_alive_ms: int) -> None:
        """Begin; a comment is sent after this much silence."""
        self._keep_alive_s = keep_alive_ms / 1000
        self._greeted = False
        self._unconfirmed = False
        self._stopped = False
        self._wait: trio.CancelScope | None = None

    @abstractmethod
    async def _receive(self) -> list[bytes] | None:
        """Wait for messages; None when the connection has ended."""

    @abstractmethod
    def _confirm(self) -> None:
        """Take note that all messages received so far have been written."""

    @abstractmethod
    def close(self) -> None:
        """Leave; what was not confirmed goes elsewhere."""

    async def next_chunk(self) -> bytes | None:
        """Wait for messages or for the keep-alive time; None when the server ends the stream."""
        self._confirm_written()
        if not self._greeted:
            self._greeted = True
            await trio.lowlevel.checkpoint()
            return CONNECTED
        if self._stopped or self._remaining_s() <= 0:
            await trio.lowlevel.checkpoint()
            return None
        messages: list[bytes] | None = []
        try:
            with trio.move_on_after(min(self._keep_alive_s, self._remaining_s())) as self._wait:
                messages = await self._receive()
        finally:
            self._wait = None
        if messages is None or (not messages and self._remaining_s() <= 0):
            return None
        if messages:
            return self._events(messages)
        return None if self._stopped else KEEP_ALIVE

    def stop(self) -> None:
        """End the stream at the next chunk."""
        self._stopped = True
        if self._wait is not None:
            self._wait.cancel()

    def _remaining_s(self) -> float:
        """Return how long the stream goes on before the server ends it."""
        return math.inf

    def _confirm_written(self) -> None:
        """Confirm the last chunk: the next one is asked for, so the socket has taken it."""
        if self._unconfirmed:
            self._unconfirmed = False
            self._confirm()

    def _events(self, messages: list[bytes]) -> bytes:
        self._unconfirmed = True
        return b"data: %b\n\n" % b"\n\ndata: ".join(messages)


class ReadyEventStream(EventStream):
    """The same, also for callers that must not wait. A `requests.ReadyStream`."""

    def __init__(self, keep_alive_ms: int) -> None:
        """Begin; a comment is sent after this much silence."""
        super().__init__(keep_alive_ms)
        self._ready: Callable[[], None] | None = None
        self._silent_until = 0.0

    @abstractmethod
    def _receive_now(self) -> list[bytes] | None:
        """Return the messages that there are; None when the connection has ended."""

    def _is_over(self, now: float) -> bool:  # noqa: ARG002  for streams that end with time
        """Return whether the stream ends now."""
        return self._stopped

    def when_ready(self, action: Callable[[], None]) -> None:
        """See `ReadyStream`."""
        self._ready = action

    def next_now(self, now: float) -> bytes | None:
        """Return the messages that wait, or a comment if it is time; None when the stream ends."""
        if self._unconfirmed:
            self._confirm_written()
        if not self._greeted:
            self._greeted = True
            self._silent_until = now + self._keep_alive_s
            return CONNECTED
        messages = None if self._is_over(now) else self._receive_now()
        if messages is None:
            return None
        if not messages and now < self._silent_until:
            return b""
        self._silent_until = now + self._keep_alive_s
        return self._events(messages) if messages else KEEP_ALIVE

    def is_due(self, now: float) -> bool:
        """Return whether it is time for a comment, or for the end."""
        return now >= self._silent_until

    def stop(self) -> None:
        """End the stream at the next chunk."""
        super().stop()
        if self._ready is not None:
            self._ready()


class PollStream(ReadyEventStream):
    """One worker's stream."""

    def __init__(
        self, connection: PollConnection, keep_alive_ms: int, limit_s: float = math.inf
    ) -> None:
        """Take over the connection; `close` ends it.

        After `limit_s` the server ends the stream, unless its worker speaks the REST API: those
        clients take an end for a failure. What was not written goes out on the next.
        """
        super().__init__(keep_alive_ms)
        self._connection = connection
        self._ends_at = trio.current_time() + limit_s

    async def _receive(self) -> list[bytes] | None:
        try:
            return await self._connection.receive()
        except ConnectionClosed:
            return None

    def _receive_now(self) -> list[bytes] | None:
        try:
            return self._connection.receive_now()
        except ConnectionClosed:
            return None

    def _confirm(self) -> None:
        self._connection.confirm()

    def _remaining_s(self) -> float:
        if self._connection.dialect is REST:
            return math.inf
        return self._remaining_at(trio.current_time())

    def _remaining_at(self, now: float) -> float:
        remaining_s = self._ends_at - now
        if remaining_s <= 0:
            self._connection.rotate()
        return remaining_s

    def _is_over(self, now: float) -> bool:
        return self._stopped or (
            now >= self._ends_at
            and self._connection.dialect is not REST
            and self._remaining_at(now) <= 0
        )

    def when_ready(self, action: Callable[[], None]) -> None:
        """See `ReadyStream`."""
        super().when_ready(action)
        self._connection.when_ready(action)

    def is_due(self, now: float) -> bool:
        """Return whether it is time for a comment, or for the end."""
        return super().is_due(now) or now >= self._ends_at

    def close(self) -> None:
        """Leave the poll group; what was not confirmed goes elsewhere."""
        self._connection.__exit__(None, None, None)


def limited(stream: ChunkStream, credentials: Credentials, principal: Principal) -> ChunkStream:
    """Return a stream that ends when its principal's token is revoked, disabled or has expired."""
    if not principal.may_end:
        return stream
    if isinstance(stream, ReadyStream):
        return _LimitedReadyStream(stream, credentials, principal)
    return _LimitedStream(stream, credentials, principal)


Stream = TypeVar("Stream", bound=ChunkStream)


class _LimitedStream(Generic[Stream]):
    """Another stream, for as long as a token works. A `requests.ChunkStream`."""

    def __init__(self, stream: Stream, credentials: Credentials, principal: Principal) -> None:
        self._stream = stream
        self._credentials = credentials
        self._principal = principal
        self._forget = credentials.watch(principal, stream.stop)

    async def next_chunk(self) -> bytes | None:
        """Wait for the next bytes, but not beyond the token's end."""
        remaining_ms = self._credentials.remaining_ms(self._principal)
        if remaining_ms is None:
            return await self._stream.next_chunk()
        with trio.move_on_after(remaining_ms / 1000):
            return await self._stream.next_chunk()
        return None

    def stop(self) -> None:
        """End the stream at the next chunk."""
        self._stream.stop()

    def close(self) -> None:
        """Give everything up."""
        self._forget()
        self._stream.close()


class _LimitedReadyStream(_LimitedStream[ReadyStream]):
    """The same for callers that must not wait. A `requests.ReadyStream`."""

    def when_ready(self, action: Callable[[], None]) -> None:
        """See `ReadyStream`."""
        self._stream.when_ready(action)

    def next_now(self, now: float) -> bytes | None:
        """Return what there is to send now, unless the token has expired."""
        if self._has_expired():
            self._stream.stop()
        return self._stream.next_now(now)

    def is_due(self, now: float) -> bool:
        """Return whether it is time for a comment, or for the end."""
        return self._stream.is_due(now) or self._has_expired()

    def _has_expired(self) -> bool:
        return self._credentials.remaining_ms(self._principal) == 0
