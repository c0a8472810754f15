"""The sockets of one port: listens, accepts, limits, contains, and stops in good order.

What this module promises:

- A port that cannot be opened is a `ListenError` with one clear sentence.
- At most `connection_limit_count` connections at a time, and no more on all ports together than the
  `ConnectionRoom` has; for a further one an idle one is closed, or else it is answered 503. Some of
  those are waited for, to be answered in their own protocol; in a flood the others are refused
  immediately.
- Whatever happens on a connection ends that connection at most, with a line in the log.
- `stop` lets requests in flight finish, and ends everything else.
"""

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
import trio

from troth.core.codes import Code
from troth.core.limits import REFUSALS_AT_ONCE_COUNT
from troth.http.links.passed_connections import PassedConnection
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings
from troth.http.wire.errors import ApiError
from troth.http.wire.in_flight import InFlight
from troth.persistence.shortage import SHORTAGES

from .accepting import PAUSE_S
from .connection_limits import WRITE_TIMEOUT_MS, ASGIApplication, ConnectionLimits
from .connection_room import ConnectionRoom, Idle
from .departures import HandedOver
from .early_answers import BEGINNING_BYTES, early_answer
from .lane import Lane
from .ports import BACKLOG_COUNT, ListenError, port_problem
from .slow_gate import SlowGate
from .slow_side import SlowSide
from .stream_homes import ConnectionHomes, StreamHomes

if TYPE_CHECKING:
    from .hypercorn_connection import HypercornConnection

_REFUSAL_TIMEOUT_S: Final = 1.0
_DISCARDED_BYTES: Final = 65536
_SHORTAGE_INTERVAL_S: Final = 10.0
_log = structlog.get_logger("troth.http.listener")


@dataclass(frozen=True, slots=True)
class ListenerStatistics:
    """Connections now, and totals since the start."""

    connections_count: int
    connections_limit_count: int
    accepted_total_count: int
    refused_total_count: int
    failed_total_count: int


class SocketListener:
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
        room: ConnectionRoom | None = None,
        limit_count: int | None = None,
    ) -> None:
        """Remember what to listen on. `room` is shared by all ports (None: there is enough).

        `limit_count` is how many connections it may have; None: as many as the settings say.
        `flag` sets that on the command line; `url` is what links in error bodies begin with.
        """
        self.name = name
        self._flag = flag
        self.port = address.port
        self._host = address.host
        self._url = url
        self._limit_count = limit_count or settings.connection_limit_count
        self.room = room or ConnectionRoom(
            self._limit_count,
            per_address_limit_count=settings.connections_per_address_limit_count,
            now=trio.current_time,
        )
        self.room.add_source(self._idle)
        self.lane: Lane | None = None
        self.in_flight = InFlight(settings.in_flight_limit_bytes)
        self.gate = SlowGate()
        self.limits = self._limits = ConnectionLimits(
            header_timeout_ms=settings.header_timeout_ms,
            keep_alive_timeout_ms=settings.keep_alive_timeout_ms,
            header_limit_bytes=settings.request_headers_limit_bytes,
            write_timeout_ms=write_timeout_ms,
        )
        self._slow_side = SlowSide(application, self._limits)
        self._listeners: list[trio.SocketListener] = []
        self._sockets: list[socket.socket] = []  # those that the lane accepts from
        self._nursery: trio.Nursery | None = None
        self._connections: set[HypercornConnection] = set()
        self._accepting = trio.CancelScope()
        self._serving = trio.CancelScope()
        self._ended = trio.Event()
        self._refusing_count = 0
        # They have descriptors of the reserve, which is for files.
        self._refusals_limit_count = max(1, min(REFUSALS_AT_ONCE_COUNT, self.room.limit_count // 4))
        self._homes: ConnectionHomes | None = None
        self._number = 0
        self._is_open = False
        self._is_stopping = False
        self._accepted_count = 0
        self._refused_count = 0
        self._failed_count = 0
        self._shortage_noted_at = float("-inf")

    async def open(
        self, handed_over: Sequence[socket.socket] = (), *, are_all: bool = False
    ) -> None:
        """Bind and listen; afterwards `port` is the real one. Raises ListenError.

        Sockets that were `handed_over` listen already, and are served instead of the address. If
        they `are_all`, there may be none: connections are for other processes. Nor is there one if
        the supervisor has shut the port, since all are to stop.
        """
        self._is_open = True
        if handed_over or are_all:
            self._listeners = [
                trio.SocketListener(trio.socket.from_stdlib_socket(one))
                for one in handed_over
                if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            ]
            return
        try:
            self._listeners = await trio.open_tcp_listeners(
                self.port, host=self._host, backlog=BACKLOG_COUNT
            )
        except OSError as error:
            address = ListenAddress(self._host, self.port)
            raise ListenError(port_problem(error, address, self.name, self._flag)) from error
        for surplus in self._listeners[1:] if self.port == 0 else []:
            await surplus.aclose()  # a name with several addresses would get several ports
            self._listeners.remove(surplus)
        self.port = self._listeners[0].socket.getsockname()[1]

    @property
    def url(self) -> str:
        """The address as clients on this machine write it."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return self._url or f"http://{host}:{self.port}"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and serve connections; returns after `stop` or `cut`, when all have ended."""
        assert self._is_open, "open() comes first"
        try:
            with self._serving:
                async with trio.open_nursery() as self._nursery:
                    task_status.started()
                    with self._accepting:
                        if self.lane is None:
                            await self._accept_here()
                        else:
                            await self._accept_on(self.lane)
                    # The port is free from here on; connections go on.
                    await self._close_sockets()
                    if self.lane is not None:
                        await self.lane.wait_empty()
        finally:
            if self.lane is not None:
                self.lane.cut()
            self._ended.set()
            with trio.CancelScope(shield=True):
                await self._close_sockets()

    async def _accept_here(self) -> None:
        """Accept connections in a task for each address, until canceled."""
        async with trio.open_nursery() as accepting:
            for listener in self._listeners:
                accepting.start_soon(self._accept, listener)

    async def _accept_on(self, lane: Lane) -> None:
        """Leave accepting to the lane, until canceled."""
        self._sockets = [
            socket.socket(fileno=listener.socket.detach()) for listener in self._listeners
        ]
        lane.accept_from(self._sockets, self)
        try:
            await trio.sleep_forever()
        finally:
            lane.accept_no_more()

    async def _close_sockets(self) -> None:
        for one in self._sockets:
            one.close()
        for listener in self._listeners:
            await listener.aclose()

    async def stop(self) -> None:
        """Accept no more, end idle connections and streams, and wait for requests in flight.

        The caller limits the time; `cut` ends what is left. May be called more than once.
        """
        if not self._is_stopping:
            self._is_stopping = True
            self._accepting.cancel()
            for connection in list(self._connections):
                connection.stop()
            if self.lane is not None:
                self.lane.stop()
            if self._homes is not None:
                self._homes.stop()
        await self._ended.wait()

    def cut(self) -> None:
        """End every connection immediately; `run` returns. Never blocks."""
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
        on_lane_count = 0 if self.lane is None else self.lane.connections_count
        return len(self._connections) + on_lane_count

    async def _accept(self, listener: trio.SocketListener) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in SHORTAGES:
                    raise
                self.run_short(error)
                await trio.sleep(PAUSE_S)
                continue
            connected = socket.socket(fileno=stream.socket.detach())
            peer = _peer_of(connected)
            if self.admit(connected, peer):
                self.take_over(HandedOver(connected, b"", 0.0), peer)

    # What accepts connections may ask: `accepting.Port`.

    def run_short(self, error: Exception) -> None:
        """Note that a connection could not be accepted; idle ones are closed."""
        self.room.shed()
        now = trio.current_time()
        if now - self._shortage_noted_at >= _SHORTAGE_INTERVAL_S:
            self._shortage_noted_at = now
            _log.error("connections cannot be accepted for now", reason=str(error))

    def admit(self, connected: socket.socket, peer: str | None) -> bool:
        """Return whether there is room for a connection; if not, it is told so."""
        self._accepted_count += 1
        problem = self._problem(peer)
        if problem is None:
            self.room.enter(peer)
            return True
        self._refused_count += 1
        if self._refusing_count < self._refusals_limit_count:
            self._refusing_count += 1
            self._start(self._refuse, connected, problem)
        else:
            self._refuse_at_once(connected, problem)
        return False

    def ended(self, peer: str | None) -> None:
        """Note the end of a connection that was admitted."""
        self.room.leave(peer)

    def take_over(self, handed_over: HandedOver, peer: str | None) -> None:
        """Serve a connection away from the lane, or in another process."""
        if handed_over.home is None:
            self._start(self._serve, handed_over, peer)
        else:
            self._start(self._bring, handed_over, handed_over.home, peer)

    # Workers' streams among several processes

    def bring_streams(self, homes: StreamHomes, number: int) -> None:
        """Bring workers' streams to the homes of their groups. This is their port `number`."""
        self._homes, self._number = homes, number
        if self.lane is not None:
            self.lane.bring_streams(homes)

    def pass_on(self, homes: "ConnectionHomes", number: int, kept: frozenset[str]) -> None:
        """Bring all connections to other processes, but for requests of `kept` endpoints.

        Those are served here. This is their port `number`.
        """
        assert self.lane is not None, "it reads what a connection is for"
        self._homes, self._number = homes, number
        self.lane.pass_on(kept)

    def adopt(self, connected: socket.socket, peer: str | None, received: bytes) -> None:
        """Serve a connection that another process has accepted, with what was read of it."""
        if self._is_stopping:
            connected.close()
            return
        if not self.admit(connected, peer):
            return
        if self.lane is None:
            self.take_over(HandedOver(connected, received, trio.current_time()), peer)
            return
        try:
            self.lane.serve(connected, peer, self, received)
        except Exception:
            self._failed_count += 1
            _log.exception("a connection failed", peer=peer)
            connected.close()
            self.ended(peer)

    async def _bring(self, handed_over: HandedOver, home: int, peer: str | None) -> None:
        assert self._homes is not None, "only then there are other processes"
        received = handed_over.received
        try:
            with handed_over.socket as connected:
                passed = PassedConnection(self._number, connected, received, peer)
                if not await self._homes.bring(home, passed):
                    answer = self._refusal(received[:BEGINNING_BYTES], self._homes.away)
                    with contextlib.suppress(OSError):  # it has gone
                        connected.send(answer, socket.MSG_DONTWAIT)
                        # A home that hangs may have a descriptor of it.
                        connected.shutdown(socket.SHUT_WR)
        except Exception:
            self._failed_count += 1
            _log.exception("a connection failed", peer=peer)
        finally:
            if handed_over.hold is not None:
                handed_over.hold.release()
            self.room.leave(peer)

    def _start(self, act: Callable[..., Awaitable[None]], *arguments: object) -> None:
        assert self._nursery is not None, "connections come only while this runs"
        self._nursery.start_soon(act, *arguments)

    def _problem(self, peer: str | None) -> str | None:
        """Return why a connection cannot be served; None if it can, for which others may go."""
        room = self.room
        if room.is_crowded(peer):
            return f"All {room.per_address_limit_count} connections of one address are in use."
        if self._connections_count >= self._limit_count and not room.shed():
            return f"All {self._limit_count} connections are in use."
        if room.is_full and not room.shed():
            return f"All {room.limit_count} connections are in use."
        return None

    def _idle(self) -> Iterator[Idle]:
        """Yield the connections that wait for a request."""
        if self.lane is not None:
            yield from self.lane.idle()
        for connection in self._connections:
            since = connection.idle_since
            if since is not None:
                yield since, connection.shed

    async def _serve(self, handed_over: HandedOver, peer: str | None) -> None:
        try:
            await self._serve_contained(handed_over)
        finally:
            self.room.leave(peer)

    async def _serve_contained(self, handed_over: HandedOver) -> None:
        """Serve a connection; whatever fails ends that one and no other."""
        try:
            with handed_over.socket:  # its stream has closed it, unless there is none yet
                connection = await self._connection(handed_over)
                self._connections.add(connection)
                if self._is_stopping:
                    connection.stop()
                try:
                    await connection.run()
                finally:
                    self._connections.discard(connection)
        except BaseExceptionGroup as group:
            # What is canceled, when the server ends, may fail too: that must not become the reason
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

    async def _connection(self, handed_over: HandedOver) -> "HypercornConnection":
        try:
            return await self._slow_side.connection(
                _stream_of(handed_over.socket),
                self.url,
                handed_over.received,
                handed_over.since,
                self.in_flight,
                self.gate,
                handed_over.hold,
            )
        except BaseException:
            if handed_over.hold is not None:
                handed_over.hold.release()
            raise

    async def _refuse(self, connected: socket.socket, problem: str) -> None:
        """Answer 503 to a request that is not read, if the client takes the answer."""
        try:
            async with _stream_of(connected) as stream:
                await self._say_refused(stream, problem)
        finally:
            self._refusing_count -= 1

    async def _say_refused(self, stream: trio.SocketStream, problem: str) -> None:
        beginning = b""
        try:
            with trio.move_on_after(_REFUSAL_TIMEOUT_S):
                beginning = bytes(await stream.receive_some(BEGINNING_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # then it hears nothing, as below
        try:
            with trio.move_on_after(_REFUSAL_TIMEOUT_S):
                await stream.send_all(self._refusal(beginning, problem))
                await stream.send_eof()
                await stream.receive_some(_DISCARDED_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._failed_count += 1

    def _refuse_at_once(self, connected: socket.socket, problem: str) -> None:
        """Say 503 without waiting for anything: nothing is kept of a connection in a flood.

        Who has not sent its request yet is not known, and hears it as the REST API says it.
        """
        with connected:
            connected.setblocking(False)
            try:
                received = connected.recv(_DISCARDED_BYTES)  # unread, it would undo the answer
            except BlockingIOError:
                received = b""
            except OSError:
                self._failed_count += 1
                return
            try:
                connected.send(self._refusal(received[:BEGINNING_BYTES], problem))
            except OSError:
                self._failed_count += 1

    def _refusal(self, beginning: bytes, problem: str) -> bytes:
        """Render the whole answer to a request that begins like this and finds no room."""
        return early_answer(beginning, ApiError(Code.OVERLOADED, message=problem), self.url)


def _stream_of(connected: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(connected))


def _peer_of(connected: socket.socket) -> str | None:
    """Return the address that a connection comes from, if it is one of a network."""
    try:
        address = connected.getpeername()
    except OSError:
        return None  # the client has reset the connection already; reading will say so
    return address[0] if isinstance(address, tuple) else None
