"""Streams that are relayed: of connections that cannot be passed to the home of their group.

Only the lane reads requests so that a connection can be passed on whole (`stream_homes.py`). A
worker whose connection is served elsewhere has its request sent to the home by a pair of sockets:
one end is passed there, and this process writes what comes back. A message counts as delivered when
the pair has taken it. If the worker has gone by then, the pair ends, and what was sent and not
claimed goes to others as always.
"""

import socket
from collections.abc import Iterable
from typing import Final, final

import h11
import trio

from troth.core.codes import Code
from troth.http.links.passed_connections import PassedConnection
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Request, Response

from .stream_homes import AWAY, StreamHomes

_READ_BYTES: Final = 64 * 1024
_OF_ONE_CONNECTION: Final = frozenset(
    {
        *(b"connection", b"content-length", b"date", b"expect", b"keep-alive", b"te"),
        *(b"transfer-encoding", b"upgrade"),
    }
)
_ADDED: Final = frozenset({b"request-id", b"resonate-version", b"vary"})
"""Headers that every answer is given here."""


@final
class RelayedStream:
    """A stream that comes from its home. A `requests.ChunkStream`."""

    def __init__(self, answer: "_AnswerOfHome") -> None:
        self._answer = answer
        self._is_stopped = False
        self._wait: trio.CancelScope | None = None

    async def next_chunk(self) -> bytes | None:
        """Wait for what the home sends next; None at the end."""
        if self._is_stopped:
            await trio.lowlevel.checkpoint()
            return None
        with trio.CancelScope() as self._wait:
            return await self._answer.next_part()
        return None

    def stop(self) -> None:
        """End the stream at the next chunk."""
        self._is_stopped = True
        if self._wait is not None:
            self._wait.cancel()

    def close(self) -> None:
        """Leave the home."""
        self._answer.close()


@final
class StreamRelay:
    """Opens streams of one port in other processes, for connections that stay here."""

    def __init__(self, homes: StreamHomes) -> None:
        self._homes = homes

    def home_of(self, group: str) -> int | None:
        """Return the process that has the streams of a group; None if it is this one."""
        return self._homes.home_of(group)

    async def open(self, home: int, port_number: int, request: Request) -> Response:
        """Ask a home to answer a request. Raises ApiError (503) if it is away."""
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:  # there are too few descriptors just now
            raise ApiError(Code.OVERLOADED) from error
        answer = _AnswerOfHome(ours)
        try:
            content = answer.asked(request)
            with theirs:
                passed = PassedConnection(port_number, theirs, content, request.peer)
                if not await self._homes.bring(home, passed):
                    raise ApiError(Code.OVERLOADED, message=AWAY)
            return await answer.response()
        except BaseException:
            answer.close()
            raise


class _AnswerOfHome:
    """The answer to a request that was sent to another process."""

    def __init__(self, ours: socket.socket) -> None:
        ours.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(ours)
        self._parser = h11.Connection(our_role=h11.CLIENT)

    def asked(self, request: Request) -> bytes:
        """Return a request as it was sent, but without its body, which none of these has."""
        query = b"?" + request.query if request.query else b""
        headers = {**request.headers, **(request.repeated or {})}
        event = h11.Request(
            method=request.method,
            target=request.raw_path + query,
            headers=[
                (name, value) for name, value in headers.items() if name not in _OF_ONE_CONNECTION
            ],
        )
        sent = self._parser.send(event)
        return (sent or b"") + (self._parser.send(h11.EndOfMessage()) or b"")

    async def response(self) -> Response:
        """Wait for the head of the answer, and for all of it unless it is a stream."""
        head = await self._next_event()
        if not isinstance(head, h11.Response):
            raise ApiError(Code.OVERLOADED, message=AWAY)
        headers = _passed_on(head.headers)
        if head.status_code == 200:
            return Response(200, headers=headers, stream=RelayedStream(self))
        parts = []
        while (part := await self.next_part()) is not None:
            parts.append(part)
        self.close()
        return Response(head.status_code, b"".join(parts), headers)

    async def next_part(self) -> bytes | None:
        """Wait for the next bytes of the body; None at its end, or when the home has gone."""
        event = await self._next_event()
        return bytes(event.data) if isinstance(event, h11.Data) else None

    async def _next_event(self) -> object:
        while True:
            try:
                event = self._parser.next_event()
                if event is not h11.NEED_DATA:
                    await trio.lowlevel.checkpoint()
                    return event
                self._parser.receive_data(await self._socket.recv(_READ_BYTES))
            except (OSError, h11.RemoteProtocolError):
                return None  # it has gone

    def close(self) -> None:
        """End the way to the home."""
        self._socket.close()


def _passed_on(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [
        (name, value)
        for name, value in headers
        if name not in _OF_ONE_CONNECTION
        and name not in _ADDED
        and not name.startswith(b"access-control-")
    ]
