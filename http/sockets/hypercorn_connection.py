"""One client's connection: its bytes, its timeouts, and hypercorn's HTTP/1.1 protocol in between.

Hypercorn's own connection class starts HTTP/2 when asked to, waits for slow readers without end,
and can raise out of the server's nursery. This one uses its protocol and its ASGI stream only,
and promises:

- HTTP/1.1 and 1.0 only. An upgrade is ignored and answered in HTTP/1.1; HTTP/2 by prior knowledge
  is refused.
- Malformed HTTP is answered 400 with the JSON error body, as far as the client can still be
  answered.
- A request line and headers that do not arrive in time end the connection (408), so does
  idleness, and so does a client that takes nothing for WRITE_TIMEOUT_MS.
- Requests are understood and answered when the `SlowGate` lets them, some at a time.
- After an answer to an unfinished request, what the client still sends is read for a moment, so
  that it can read the answer before the connection is reset.
- An application never waits for a client that has left, nor the client's reader for an
  application that has answered.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import h11
import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Request as RequestEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState

from troth.core.codes import Code
from troth.core.limits import BODY_SETTING_LIMIT_BYTES, IN_FLIGHT_LIMIT_BYTES
from troth.http.wire.errors import ApiError, FieldProblem
from troth.http.wire.in_flight import Hold, InFlight
from troth.http.wire.status_lines import REASONS

from .asgi import CONNECTION_KEY
from .connection_limits import ASGIApplication, ConnectionLimits
from .early_answers import BEGINNING_BYTES, early_body
from .slow_gate import SlowGate, Ticket

_WRITE_PIECE_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024
# Three times what is read may be in memory of each body, uncounted: with many, less is.
_READ_CROWDED_BYTES = 16 * 1024
_LINGER_MS = 2_000
# Clients that read only when they have sent everything must get there: the largest body that any
# setting allows, several times.
_LINGER_LIMIT_BYTES = 4 * BODY_SETTING_LIMIT_BYTES
_BODY_QUEUE_COUNT = 1
_SOON_COUNT = 3  # turns of the loop, in which what was read already is understood

_log = structlog.get_logger("troth.http.connection")


class _ClientRefused(Exception):
    """Inside this module: the client has been refused and nothing more is to be read."""


@dataclass(eq=False)
class HypercornConnection:
    """A connection being served. Made by the listener; `run` does everything."""

    application: ASGIApplication
    stream: trio.SocketStream
    limits: ConnectionLimits
    context: WorkerContext
    url: str
    config: Config
    received: bytes = b""
    """What was read of the first request already, by the hot lane, since `received_since`."""
    received_since: float = 0.0
    in_flight: InFlight = field(default_factory=lambda: InFlight(IN_FLIGHT_LIMIT_BYTES))
    gate: SlowGate = field(default_factory=SlowGate)
    received_hold: Hold | None = None
    """What counts the bytes of `received`; released when they are judged."""

    def __post_init__(self) -> None:
        """Start idle."""
        self._is_broken = False
        self._is_idle = True
        self.ticket: Ticket | None = None
        self._is_entering = False
        self._head_tail = b""
        self._is_stopping = False
        self._stop_actions: list[Callable[[], None]] = []
        self._send_lock = trio.Lock()
        self._reading = trio.CancelScope()
        self._waiting = trio.CancelScope()
        self._writing: trio.CancelScope | None = None
        self._idle_since = trio.current_time()
        self._header_deadline: float | None = None

    # What the application may ask: application.ClientConnection.

    @property
    def is_broken(self) -> bool:
        """Return whether something that was sent did not go out."""
        return self._is_broken

    def when_stopping(self, action: Callable[[], None]) -> None:
        """Call `action` when the server begins to stop; immediately if it has."""
        if self._is_stopping:
            action()
        else:
            self._stop_actions.append(action)

    def abandon(self) -> None:
        """Send nothing more, and end the connection: there can be no true answer."""
        self._break()

    # What the listener uses.

    async def run(self) -> None:
        """Serve until either side ends the connection. Closes the stream."""
        try:
            if b"\r\n\r\n" in self.received:
                await self._enter_gate_idle()
            async with trio.open_nursery() as nursery:
                state = LifespanState({CONNECTION_KEY: self})
                self._protocol = _Protocol(self, _Tasks(self, nursery), ConnectionState(state))
                with self._reading:
                    await self._read()
                has_whole_request = self._protocol.has_whole_request
                await self._protocol.handle(Closed())
            del self._protocol  # with what it keeps of a body that was not read
            await self._linger(has_whole_request)
        finally:
            self.leave_gate()
            self._release_received()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self.stream)

    def stop(self) -> None:
        """End as soon as the request in flight has been answered; immediately if there is none."""
        self._is_stopping = True
        actions, self._stop_actions = self._stop_actions, []
        for action in actions:
            action()
        if self.idle_since is not None and not self.received:
            self._reading.cancel()

    @property
    def idle_since(self) -> float | None:
        """Since when a request has been waited for; None if one is being answered."""
        return self._idle_since if self._is_idle and not self._is_entering else None

    def shed(self) -> None:
        """Close the connection to make room for another; it is idle."""
        self._reading.cancel()

    # Reading.

    async def _read(self) -> None:
        if self.received:
            received, self.received = self.received, b""
            self._release_received()
            self._header_deadline = self.received_since + self.limits.header_timeout_ms / 1000
            try:
                await self._protocol.handle(RawData(received))
            except _ClientRefused:
                return
            if self._is_stopping and self._is_idle:
                return
        while True:
            try:
                with trio.CancelScope(deadline=self._read_deadline()) as self._waiting:
                    data = await self.stream.receive_some(
                        _READ_CROWDED_BYTES if self.gate.is_crowded else _READ_BYTES
                    )
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._is_broken = True
                return
            if self._waiting.cancelled_caught:
                if not self._is_idle:
                    continue  # the headers were complete by then
                if self._header_deadline is not None:
                    await self._protocol.refuse(ApiError(Code.REQUEST_TIMEOUT))
                return
            if self._is_idle and data.strip(b"\r\n") and self._header_deadline is None:
                timeout_s = self.limits.header_timeout_ms / 1000
                self._header_deadline = trio.current_time() + timeout_s
            if self._is_idle and self.ticket is None and self._ends_head(data):
                await self._enter_gate_idle()
            try:
                await self._protocol.handle(RawData(bytes(data)))
            except _ClientRefused:
                return
            if not data:
                return

    def _read_deadline(self) -> float:
        if not self._is_idle:
            return float("inf")  # the application limits the time of bodies
        if self._header_deadline is not None:
            return self._header_deadline
        return self._idle_since + self.limits.keep_alive_timeout_ms / 1000

    async def _linger(self, has_whole_request: bool) -> None:
        """Close in the order that lets the client read the last answer."""
        if self._is_broken:
            return
        try:
            await self.stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            return
        if has_whole_request:
            return
        read_bytes = 0
        with trio.move_on_after(_LINGER_MS / 1000):
            while read_bytes < _LINGER_LIMIT_BYTES:
                try:
                    data = await self.stream.receive_some(_READ_BYTES)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
                if not data:
                    return
                read_bytes += len(data)

    def _release_received(self) -> None:
        hold, self.received_hold = self.received_hold, None
        if hold is not None:
            hold.release()

    def _ends_head(self, data: bytes | bytearray) -> bool:
        """Return whether a request may be complete with this: until then there is little to do."""
        searched = self._head_tail + data
        self._head_tail = bytes(searched[-2:])
        return b"\n\r\n" in searched or b"\n\n" in searched

    async def _enter_gate_idle(self) -> None:
        """Wait until a request that has just come may be worked on: the client is not idle."""
        self._is_entering = True
        await self.enter_gate()
        self._is_entering = False

    async def enter_gate(self) -> None:
        """Wait until this connection's request may be worked on."""
        if self.ticket is None:
            self.ticket = await self.gate.enter()

    def leave_gate(self) -> None:
        """Give the place in the gate to another connection."""
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            self.gate.leave(ticket)

    # Writing: the protocol's `send`.

    async def send(self, event: Event) -> None:
        """Take an event from hypercorn's protocol."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            self._reading.cancel()
        elif isinstance(event, Updated):
            self._is_idle = event.idle
            self._header_deadline = None
            self._idle_since = trio.current_time()
            self._waiting.deadline = self._read_deadline()
            if event.idle:
                self.leave_gate()
                self._stop_actions.clear()
                if self._is_stopping:
                    self._reading.cancel()

    async def _write(self, data: bytes) -> None:
        async with self._send_lock:
            with self.in_flight.hold(self._give_up) as hold:
                hold.grow_anyway(len(data))
                self.leave_gate()  # what is left is waiting for the client
                await self._write_pieces(data, hold)

    async def _write_pieces(self, data: bytes, hold: Hold) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _WRITE_PIECE_BYTES):
            if self._is_broken:
                return
            try:
                with trio.move_on_after(self.limits.write_timeout_ms / 1000) as writing:
                    self._writing = writing
                    await self.stream.send_all(view[start : start + _WRITE_PIECE_BYTES])
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._break()
            except trio.Cancelled:
                # Perhaps a part was written: nothing sensible can follow it.
                self._break()
                raise
            if writing.cancelled_caught:
                self._break()
            hold.progress(trio.current_time())

    def _give_up(self) -> None:
        """Cut off a client that takes nothing: others need the room."""
        if self._writing is not None:
            self._writing.cancel()

    def _break(self) -> None:
        """End the connection: the client is gone, or as good as gone."""
        self._is_broken = True
        self._reading.cancel()


class _LenientConnection(h11.Connection):
    """As h11's, but for empty lines before a request: they are ignored (RFC 9112, 2.2).

    `beginning` is how the request begins that is being read.
    """

    beginning = b""

    def next_event(self) -> Any:
        """Look for what has come; at the beginning of a request, past empty lines."""
        if self.their_state is h11.IDLE:
            buffer = self._receive_buffer
            while buffer._data[:2] == b"\r\n":
                buffer.maybe_extract_at_most(2)
            self.beginning = bytes(buffer._data[:BEGINNING_BYTES])
            if buffer._data == b"\r":
                return h11.NEED_DATA
        return super().next_event()


class _Protocol(H11Protocol):
    """Hypercorn's HTTP/1.1, without upgrades, and with our error bodies."""

    def __init__(
        self, connection: HypercornConnection, tasks: "_Tasks", state: ConnectionState
    ) -> None:
        socket = connection.stream.socket
        super().__init__(
            connection.application,  # type: ignore[arg-type]  # handed through to _Tasks untouched
            connection.config,
            connection.context,
            tasks,  # type: ignore[arg-type]
            state,
            False,
            _address(socket.getpeername),
            _address(socket.getsockname),
            connection.send,
        )
        self._client = connection
        self._is_refused = False
        self.connection: _LenientConnection = _LenientConnection(
            h11.SERVER, max_incomplete_event_size=connection.config.h11_max_incomplete_size
        )

    @property
    def has_whole_request(self) -> bool:
        """Return whether the client has nothing more to send for its last request."""
        return self.connection.their_state in {h11.IDLE, h11.DONE, h11.CLOSED, h11.MUST_CLOSE}

    async def refuse(self, error: ApiError) -> None:
        """Answer a request that never became one, if an answer can still be sent."""
        if self.connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        self._is_refused = True
        body = early_body(self.connection.beginning, error, self._client.url)
        headers = [
            (b"content-type", b"application/json; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        response = h11.Response(
            status_code=error.code.status,
            headers=list(chain(headers, self.config.response_headers("h11"))),
        )
        await self._send_h11_event(response)
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    async def stream_send(self, event: Any) -> None:
        """Send for an application, which hypercorn calls, unless the client has been refused
        already.

        Otherwise the two answers would mix, and the end of one would cut off the other.
        """
        if self._is_refused:
            await trio.lowlevel.checkpoint()
        else:
            await super().stream_send(event)

    async def _send_h11_event(self, event: Any) -> None:
        """Send any event, which hypercorn calls; give an answer's status line its reason."""
        if isinstance(event, h11.Response | h11.InformationalResponse) and not event.reason:
            event = type(event)(
                status_code=event.status_code,
                headers=event.headers,
                reason=REASONS.get(event.status_code, ""),
            )
        await super()._send_h11_event(event)

    async def _send_error_response(self, status_code: int) -> None:
        """Answer malformed HTTP, for which hypercorn calls this."""
        problem = "is not HTTP/1.1 as this server understands it"
        if status_code == 431:
            limit_bytes = self._client.limits.header_limit_bytes
            problem = f"has a head of more than {limit_bytes} bytes, the limit"
        await self.refuse(ApiError(Code.INVALID, [FieldProblem("request", problem)]))

    async def _check_protocol(self, event: h11.Request) -> None:
        """Do nothing: hypercorn calls this to change to HTTP/2.

        A request with two lengths is refused too: a proxy in front may have believed the other
        one, and taken for the body what would be the next request here (RFC 9112, 6.1 and 11.2).
        """
        problem = None
        if event.http_version not in (b"1.0", b"1.1"):
            problem = "is HTTP/2; this server speaks HTTP/1.1"
        elif {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
            problem = "must not have both Content-Length and Transfer-Encoding"
        if problem is not None:
            await self.refuse(ApiError(Code.INVALID, [FieldProblem("request", problem)]))
            raise _ClientRefused

    async def _create_stream(self, request: h11.Request) -> None:
        """Do as hypercorn's, but without WebSockets: an upgrade is ignored."""
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            RequestEvent(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii"),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        # What its head alone forbids is answered before anything wrong with its body is.
        await trio.lowlevel.checkpoint()


async def receive_soon(channel: trio.MemoryReceiveChannel[Any]) -> Any:
    """Receive what is there, or is about to be; None if nothing is."""
    for _ in range(_SOON_COUNT):
        try:
            return channel.receive_nowait()
        except trio.WouldBlock:
            await trio.lowlevel.checkpoint()
    return None


class _Tasks:
    """Runs applications: hypercorn's TaskGroup, with a queue that cannot block forever."""

    def __init__(self, connection: HypercornConnection, nursery: trio.Nursery) -> None:
        self._connection = connection
        self._nursery = nursery

    async def spawn_app(
        self,
        application: ASGIApplication,
        _config: Config,
        scope: Any,
        send: Callable[[Any], Awaitable[None]],
    ) -> Callable[[Any], Awaitable[None]]:
        """Start an application; returns the function that feeds it events."""
        to_application, from_client = trio.open_memory_channel[Any](_BODY_QUEUE_COUNT)

        is_whole = False

        async def receive() -> Any:
            nonlocal is_whole
            try:
                if is_whole:
                    return await from_client.receive()
                event = await receive_soon(from_client)
                if event is None:
                    self._connection.leave_gate()  # a client may take its time for a body
                    event = await from_client.receive()
                    await self._connection.enter_gate()
            except trio.EndOfChannel:
                return {"type": "http.disconnect"}
            is_whole = not event.get("more_body", False)
            return event

        async def run() -> None:
            try:
                async with from_client:
                    await application(scope, receive, send)
            except Exception:
                _log.exception("the application raised")
            # Hypercorn ends the exchange, with a 500 if there was no answer. Not when this has been
            # canceled: it may have been in the middle of an answer, and that must not hide why.
            await send(None)

        async def put(event: Any) -> None:
            if event["type"] == "http.disconnect":
                to_application.close()
                return
            try:
                await to_application.send(event)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                # The application has answered without reading everything, or the client has left.
                await trio.lowlevel.checkpoint()

        self._nursery.start_soon(run)
        return put


def make_config(limits: ConnectionLimits) -> Config:
    """Return hypercorn's configuration: no access log, no name of the server."""
    config = Config()
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.header_limit_bytes
    config.keep_alive_max_requests = 2**62
    config.accesslog = None
    config.errorlog = None
    return config


def _address(ask: Callable[[], Any]) -> tuple[str, int] | None:
    try:
        address = ask()
    except OSError:
        return None  # the client has reset the connection already; reading will say so
    return (address[0], address[1]) if isinstance(address, tuple) else None
