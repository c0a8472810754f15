"""The sockets of one port: listens, accepts, limits, contains, and stops in good order.

What this module promises:

- A port that cannot be had is a `ListenError` with one clear sentence.
- At most `connection_limit_count` connections at a time; a further one is answered 503 and closed.
- Whatever happens on a connection ends that connection at most, with a line in the log.
- `stop` lets requests in flight finish, and ends everything else.
"""

import errno
from dataclasses import dataclass
from typing import Final

import structlog
import trio
from hypercorn.trio.worker_context import WorkerContext

from troth.core.codes import Code
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings
from troth.http.wire.errors import ApiError, error_body

from .hypercorn_connection import (
    WRITE_TIMEOUT_MS,
    ASGIApplication,
    Connection,
    ConnectionLimits,
    make_config,
)
from .lane import Lane

_BACKLOG_COUNT: Final = 1024
_ACCEPT_PAUSE_S: Final = 0.1
_REFUSAL_TIMEOUT_S: Final = 1.0
# Not the connection's fault and not the listener's: out of file descriptors or memory for a while.
_TRANSIENT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_log = structlog.get_logger("troth.http.listener")


class ListenError(Exception):
    """An address cannot be listened on. `str()` is one line for whoever started the server."""


@dataclass(frozen=True, slots=True)
class ListenerStatistics:
    """Connections now, and totals since the start."""

    connections_count: int
    connections_limit_count: int
    accepted_total_count: int
    refused_total_count: int
    failed_total_count: int


class Listener:
    """One port and its connections. Use: `open`, then `run` in a nursery, then `stop`."""

    def __init__(
        self,
        application: ASGIApplication,
        address: ListenAddress,
        settings: Settings,
        *,
        name: str = "API",
        flag: str = "--listen",
        url: str | None = None,
        write_timeout_ms: int = WRITE_TIMEOUT_MS,
    ) -> None:
        """Remember what to listen on.

        `flag` sets that on the command line; `url` is what links in error bodies begin with.
        """
        self.name = name
        self._flag = flag
        self.port = address.port
        self._application = application
        self._host = address.host
        self._url = url
        self._limit_count = settings.connection_limit_count
        self.lane: Lane | None = None
        self.limits = self._limits = ConnectionLimits(
            header_timeout_ms=settings.header_timeout_ms,
            keep_alive_timeout_ms=settings.keep_alive_timeout_ms,
            header_limit_bytes=settings.request_headers_limit_bytes,
            write_timeout_ms=write_timeout_ms,
        )
        self._config = make_config(self._limits)
        self._context = WorkerContext(None)
        self._listeners: list[trio.SocketListener] = []
        self._connections: set[Connection] = set()
        self._accepting = trio.CancelScope()
        self._serving = trio.CancelScope()
        self._ended = trio.Event()
        self._on_lane_count = 0
        self._is_stopping = False
        self._accepted_count = 0
        self._refused_count = 0
        self._failed_count = 0

    async def open(self) -> None:
        """Bind and listen; afterwards `port` is the real one. Raises ListenError."""
        try:
            self._listeners = await trio.open_tcp_listeners(
                self.port, host=self._host, backlog=_BACKLOG_COUNT
            )
        except OSError as error:
            raise ListenError(self._reason(error)) from error
        for surplus in self._listeners[1:] if self.port == 0 else []:
            await surplus.aclose()  # a name with several addresses would get several ports
            self._listeners.remove(surplus)
        self.port = self._listeners[0].socket.getsockname()[1]

    def _reason(self, error: OSError) -> str:
        place = f"{self._host} port {self.port}"
        if error.errno == errno.EADDRINUSE:
            return (
                f"Cannot serve the {self.name}: {place} is in use by another process. "
                f"Stop that one or choose another port with {self._flag}."
            )
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"Cannot serve the {self.name}: this user may not listen on {place}."
        return f"Cannot serve the {self.name} on {place}: {error.strerror or error}."

    @property
    def url(self) -> str:
        """The address as clients on this machine write it."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return self._url or f"http://{host}:{self.port}"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and serve connections; returns after `stop` or `cut`, when all have ended."""
        assert self._listeners, "open() comes first"
        try:
            with self._serving:
                async with trio.open_nursery() as nursery:
                    task_status.started()
                    with self._accepting:
                        async with trio.open_nursery() as accepting:
                            for listener in self._listeners:
                                accepting.start_soon(self._accept, listener, nursery)
                    # The port is free from here on; connections go on.
                    await self._close_sockets()
        finally:
            self._ended.set()
            with trio.CancelScope(shield=True):
                await self._close_sockets()

    async def _close_sockets(self) -> None:
        for listener in self._listeners:
            await listener.aclose()

    async def stop(self) -> None:
        """Accept no more, end idle connections and streams, and wait for requests in flight.

        Whoever calls limits the time; `cut` ends what is left. May be called more than once.
        """
        if not self._is_stopping:
            self._is_stopping = True
            self._accepting.cancel()
            for connection in list(self._connections):
                connection.stop()
            if self.lane is not None:
                self.lane.stop()
        await self._ended.wait()

    def cut(self) -> None:
        """End every connection at once; `run` returns. Never blocks."""
        self._serving.cancel()

    def statistics(self) -> ListenerStatistics:
        """Return counts of this moment and totals since the start."""
        return ListenerStatistics(
            connections_count=self._connections_count,
            connections_limit_count=self._limit_count,
            accepted_total_count=self._accepted_count,
            refused_total_count=self._refused_count,
            failed_total_count=self._failed_count,
        )

    @property
    def _connections_count(self) -> int:
        return len(self._connections) + self._on_lane_count

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _TRANSIENT:
                    raise
                _log.error("cannot accept connections for now", reason=str(error))
                await trio.sleep(_ACCEPT_PAUSE_S)
                continue
            self._accepted_count += 1
            if self._connections_count >= self._limit_count:
                self._refused_count += 1
                nursery.start_soon(self._refuse, stream)
            else:
                nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            received, since = b"", 0.0
            if self.lane is not None:
                self._on_lane_count += 1
                try:
                    handed_over = await self.lane.serve(stream)
                finally:
                    self._on_lane_count -= 1
                if handed_over is None:
                    return
                stream = handed_over.stream
                received, since = handed_over.received, handed_over.since
            connection = Connection(
                self._application,
                stream,
                self._limits,
                self._context,
                self.url,
                self._config,
                received,
                since,
            )
            self._connections.add(connection)
            if self._is_stopping:
                connection.stop()
            try:
                await connection.run()
            finally:
                self._connections.discard(connection)
        except BaseExceptionGroup as group:
            # What is cancelled, when the server ends, may fail too: that must not become the reason
            # which the operator is told.
            defects, rest = group.split(Exception)
            if defects is not None:
                self._failed_count += 1
                _log.error("a connection failed", exc_info=defects)
            if rest is not None:
                raise rest from None
        except Exception:
            self._failed_count += 1
            _log.exception("a connection failed")

    async def _refuse(self, stream: trio.SocketStream) -> None:
        """Say 503 without reading anything; whoever does not take it does not get it."""
        message = f"All {self._limit_count} connections are in use."
        body = error_body(ApiError(Code.OVERLOADED, message=message), self.url, "")
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
        )
        async with stream:
            try:
                with trio.move_on_after(_REFUSAL_TIMEOUT_S):
                    await stream.send_all(head.encode() + body)
                    await stream.send_eof()
                    await stream.receive_some(65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._failed_count += 1
