"""The stream of messages to a polling worker, as server-sent events (rest.md 7.3).

A message is `data: <json>` and an empty line. A comment is sent at once, so that the worker knows
that it is connected, and whenever nothing was sent for the keep-alive time, so that either side
notices when the other is gone. A message counts as delivered when the socket has taken it: that
is when the next chunk is asked for.

Whatever a stream is of, it ends with the token that it was opened with (`limited`).
"""

import trio

from troth.shards.polls import ConnectionClosed, PollConnection

from .credentials import Directory
from .principals import Principal, PrincipalKind
from .requests import ChunkStream

CONNECTED = b": connected\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # tells nginx to pass on every event at once
]


class PollStream:
    """One worker's stream. A `requests.ChunkStream`."""

    def __init__(self, connection: PollConnection, keep_alive_ms: int) -> None:
        """Take over the connection; `close` ends it."""
        self._connection = connection
        self._keep_alive_s = keep_alive_ms / 1000
        self._greeted = False
        self._unconfirmed = False
        self._stopped = False
        self._wait: trio.CancelScope | None = None

    async def next_chunk(self) -> bytes | None:
        """Wait for messages or for the keep-alive time; None when the server ends the stream."""
        if self._unconfirmed:
            self._unconfirmed = False
            self._connection.confirm()
        if not self._greeted:
            self._greeted = True
            await trio.lowlevel.checkpoint()
            return CONNECTED
        if self._stopped:
            await trio.lowlevel.checkpoint()
            return None
        messages: list[bytes] = []
        try:
            with trio.move_on_after(self._keep_alive_s) as self._wait:
                messages = await self._connection.receive()
        except ConnectionClosed:
            return None
        finally:
            self._wait = None
        if messages:
            self._unconfirmed = True
            return b"".join(b"data: " + message + b"\n\n" for message in messages)
        return None if self._stopped else KEEP_ALIVE

    def stop(self) -> None:
        """End the stream at the next chunk."""
        self._stopped = True
        if self._wait is not None:
            self._wait.cancel()

    def close(self) -> None:
        """Leave the poll group; what was not confirmed goes elsewhere."""
        self._connection.__exit__(None, None, None)


def limited(stream: ChunkStream, directory: Directory, principal: Principal) -> ChunkStream:
    """A stream that ends when its principal's token is revoked, disabled or has expired."""
    if principal.kind is not PrincipalKind.TOKEN:
        return stream
    return _LimitedStream(stream, directory, principal)


class _LimitedStream:
    """Another stream, for as long as a token works. A `requests.ChunkStream`."""

    def __init__(self, stream: ChunkStream, directory: Directory, principal: Principal) -> None:
        self._stream = stream
        self._directory = directory
        self._principal = principal
        self._forget = directory.watch(principal, stream.stop)

    async def next_chunk(self) -> bytes | None:
        """Wait for the next bytes, but not beyond the token's end."""
        remaining_ms = self._directory.remaining_ms(self._principal)
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
