"""The ASGI application: Quart on the outside as far as ASGI servers see, the dispatcher inside.

What this module promises:

- A request is judged by its head, then its body is read completely, within the limits of size and
  time and as long as there is room for it in memory, before anything is done.
- The messages that a request caused are released after the last byte of its answer was sent, or
  when the client is gone: always, whatever happens.
- A request that has been read is carried out to the end even if its client leaves; only streams
  end then.
- No exception leaves the application. A request that fails before its answer began is answered 500.
- Every request is counted.

Quart routes nothing: werkzeug's routing would decode, merge and redirect paths in which ids may
hold anything. Its one view hands the request to the dispatcher (`dispatch.py`).
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Protocol, Self, cast

import structlog
import trio
from quart import Response as QuartResponse
from quart import request as quart_request
from quart_trio import QuartTrio

from troth.core import limits
from troth.core.codes import Code
from troth.http.api.context import Api
from troth.http.api.dispatch import Dispatcher, request_id, too_long_for_a_stranger
from troth.http.api.rows import Endpoint
from troth.http.api.streams import HEADERS
from troth.http.wire.errors import ApiError
from troth.http.wire.in_flight import Hold, InFlight
from troth.http.wire.requests import ChunkStream, Request, Response, add_repeated
from troth.persistence.memory_reserve import RESERVE, with_reserve

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_EXCHANGE_KEY = "troth.exchange"
CONNECTION_KEY = "troth.connection"
"""Where an ASGI scope's `state` may hold the `ClientConnection`."""

# Of a body that was not read to its end: nothing after it on the connection can be understood.
_CLOSING = ((b"connection", b"close"),)

_REFUSED_BODY_LIMIT_BYTES = 64 * 1024

_log = structlog.get_logger("troth.http.application")


class ClientConnection(Protocol):
    """What an ASGI server may tell about the connection of a request."""

    @property
    def is_broken(self) -> bool:
        """Return whether something that was sent did not go out."""
        ...

    def abandon(self) -> None:
        """Send nothing more, and end the connection."""
        ...

    def when_stopping(self, action: Callable[[], None]) -> None:
        """Call `action` when the server begins to stop; immediately if it has."""
        ...


class Application(QuartTrio):
    """A Quart application that serves the endpoints of one port."""

    def __init__(self, api: Api, endpoints: tuple[Endpoint, ...]) -> None:
        """Make the dispatcher; Quart itself gets no routes and no static folder."""
        super().__init__(__name__, static_folder=None)
        self.api = api
        self.dispatcher = Dispatcher(api, endpoints)
        # Streams go on for hours, and bodies have been read by the time Quart sees them.
        self.config["RESPONSE_TIMEOUT"] = None
        self.config["BODY_TIMEOUT"] = None

    async def dispatch_request(self, *_context: object, **_named: object) -> QuartResponse:
        """Replace Quart's search for a view: ours is always the same.

        The arguments and their types differ between Quart 0.22 and 0.23.
        """
        exchange: _Exchange = cast(Scope, quart_request.scope)[_EXCHANGE_KEY]
        try:
            response = await self.dispatcher.answer(exchange.request)
            return with_reserve(lambda: exchange.quart_response(response))
        except MemoryError:
            exchange.lose()
            return QuartResponse(b"")  # which goes nowhere

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            # No lifespan: the maker of the application starts and stops what it needs.
            raise ValueError(f"only HTTP is served here, not {scope['type']}")
        await _Exchange(self, scope, receive, send).run()

    async def call_quart(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a scope whose body has been read to Quart."""
        await super().__call__(cast(Any, scope), cast(Any, receive), cast(Any, send))


class _ClientGone(Exception):
    """Inside this module: the client left before its request was complete."""


class _Exchange:
    """One request and its answer."""

    def __init__(
        self, application: Application, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._application = application
        self._api = application.api
        self._scope = scope
        self._receive = receive
        self._send = send
        self._status = 0
        self._started_at = time.perf_counter()
        self._connection: ClientConnection | None = scope.get("state", {}).get(CONNECTION_KEY)
        self._stream: ChunkStream | None = None
        self._streaming = trio.Event()
        self._refusal: ApiError | None = None
        self._keeps_body = True
        self._is_stranger = False
        self._waits = False
        self._is_stalled = False
        self._is_begun = False
        self._reading: trio.CancelScope | None = None
        self.request = self._neutral_request()
        self._is_head = self.request.method == "HEAD"

    async def run(self) -> None:
        """Carry the exchange out. Only cancellation leaves this."""
        request = self.request
        held = request.held = self._api.hold()
        try:
            await self._run()
        except _ClientGone:
            _log.debug("a client left before its request was complete", request_id=request.id)
        except Exception as error:
            await self._fail(error)
        finally:
            held.release()
            if self._stream is not None:
                self._stream.close()
            duration_s = time.perf_counter() - self._started_at
            counted_s = None if self._stream else duration_s
            self._api.metrics.count(request.endpoint, self._status, counted_s)
            if counted_s is not None and b"traceparent" in request.headers:
                self._api.metrics.requests.note_trace(
                    request.endpoint, self._status, counted_s, request.headers[b"traceparent"]
                )
            if self._status or request.refusal is not None:  # else its client left before the end
                self._api.request_log.note(request, self._status, duration_s)

    async def _fail(self, error: Exception) -> None:
        """Answer as well as possible after an unexpected error."""
        request = self.request
        if _is_about_memory(error):
            RESERVE.give_away()
            if self._is_begun:
                self.lose()
            elif self._status == 0:
                await self._respond(_no_room())
            return
        _log.error(
            "an exchange failed",
            request_id=request.id,
            endpoint=request.endpoint,
            peer=request.peer,
            exc_info=error,
        )
        if self._status == 0:
            await self._respond(ApiError(Code.INTERNAL))

    def lose(self) -> None:
        """End the connection: there is no memory for an answer to what may have been done."""
        request = self.request
        _log.error(
            "there was no memory for an answer; its connection was closed",
            endpoint=request.endpoint,
            request_id=request.id,
            peer=request.peer,
        )
        if self._connection is not None:
            self._connection.abandon()

    async def _run(self) -> None:
        try:
            in_flight = self._judge_head()
        except ApiError as error:
            await self._respond(error)
            return
        with in_flight.hold(self._stall) as hold:
            try:
                self.request.body = await self._read_body(hold)
            except ApiError as error:
                error.__traceback__ = None  # its frames have what was read of the body
                hold.release()
                await self._respond(error)
                return
            hold.pin()
            self._is_begun = True
            await self._answer()

    async def _answer(self) -> None:
        self._started_at = time.perf_counter()
        # Quart gets one path for all and no headers: it must not judge the real ones.
        scope = {
            **self._scope,
            "path": "/",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            _EXCHANGE_KEY: self,
        }
        await self._application.call_quart(scope, self._receive_disconnect, self._send_answer)

    def _neutral_request(self) -> Request:
        headers: dict[bytes, bytes] = {}
        repeated: dict[bytes, bytes] = {}
        for given, value in self._scope["headers"]:
            name = given.lower()
            if name in headers:
                add_repeated(repeated, name, headers[name], value)
            else:
                headers[name] = value
        client = self._scope.get("client")
        return Request(
            method=self._scope["method"],
            raw_path=self._scope.get("raw_path") or self._scope["path"].encode(),
            query=self._scope["query_string"],
            headers=headers,
            peer=client[0] if client else None,
            id=request_id(headers.get(b"request-id")),
            repeated=repeated or None,
        )

    def _judge_head(self) -> InFlight:
        """Return what the body is counted in; raise ApiError if it need not be read.

        A short body that is not wanted is read even so, but not kept: the connection can be used
        again then.
        """
        headers = self.request.headers
        limit_bytes = self._api.limits.body_limit_bytes
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > limit_bytes):
            raise _too_large(limit_bytes)
        if declared in (b"", b"0") and b"transfer-encoding" not in headers:
            return self._api.in_flight
        dispatcher = self._application.dispatcher
        try:
            endpoint = dispatcher.judge_head(self.request)
        except ApiError as error:
            self._refusal = error
            if not declared.isdigit() or int(declared) > _REFUSED_BODY_LIMIT_BYTES:
                raise _closing(error) from error
            return self._api.strangers_in_flight
        self._keeps_body = endpoint is not None
        if endpoint is None:
            return self._api.in_flight
        self._waits = endpoint.waits
        if endpoint.auth_in_body and dispatcher.is_stranger(self.request):
            self._is_stranger = True
            return self._api.strangers_in_flight
        return self._api.in_flight

    async def _read_body(self, hold: Hold) -> bytes:
        """Read the whole body. Raises ApiError (413, 408, 503) or _ClientGone."""
        limit_bytes = self._api.limits.body_limit_bytes
        parts: list[bytes] = []
        length_bytes = 0
        with trio.move_on_after(self._api.settings.body_timeout_ms / 1000) as self._reading:
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise _ClientGone
                part = message.get("body", b"")
                length_bytes += len(part)
                if length_bytes > limit_bytes:
                    raise _too_large(limit_bytes)
                if self._is_stranger and length_bytes > limits.STRANGER_BODY_LIMIT_BYTES:
                    raise _closing(too_long_for_a_stranger())
                if self._refusal is not None:
                    if self.request.refused is not None and hold.grow(len(part)):
                        parts.append(part)
                elif self._keeps_body:
                    await self._make_room(hold, len(part))
                    parts.append(part)
                if not message.get("more_body", False):
                    break
        if self._reading.cancelled_caught:
            raise _no_room() if self._is_stalled else _too_late()
        if self._refusal is not None:
            self.request.body = b"".join(parts)  # such a refusal repeats what it can read there
            raise self._refusal
        return b"".join(parts)

    async def _make_room(self, hold: Hold, count_bytes: int) -> None:
        """Keep a part of the body. Raises ApiError (503) if there is no room for it.

        What `waits` is not refused for what passes: nothing more is read of it until there is room.
        """
        if hold.grow(count_bytes):
            return
        if self._waits:
            hold.pin()
            assert self._reading is not None, "a body is being read"
            # The client's time stands still while it waits for us.
            left_s = self._reading.deadline - trio.current_time()
            self._reading.deadline = float("inf")
            with trio.move_on_after(limits.ROOM_WAIT_LIMIT_MS / 1000):
                await hold.grown(count_bytes)
                hold.unpin()
                self._reading.deadline = trio.current_time() + left_s
                return
        raise _no_room()

    def _stall(self) -> None:
        """Give up: nothing comes, and others need the room."""
        self._is_stalled = True
        if self._reading is not None:
            self._reading.cancel()

    async def _receive_disconnect(self) -> Message:
        """Return when the client of a stream is gone; this is Quart's `receive`.

        Quart cancels the request then. Other requests are carried out to their end, which is near,
        or else comes when they hear that the client is gone.
        """
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.request.leave()
                await self._streaming.wait()
                return message

    async def _send_answer(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            held = self.request.held
            assert held is not None
            held.release()

    def quart_response(self, response: Response) -> QuartResponse:
        """Turn a neutral answer into Quart's, and begin to stream if it is a stream."""
        body: Any = response.body
        if response.stream is not None:
            self._stream = response.stream
            self._streaming.set()
            if self._connection is not None:
                self._connection.when_stopping(response.stream.stop)
            body = _Chunks(response.stream, self._connection)
        if self._is_head:
            body = b""
        made = QuartResponse(body, status=response.status)
        if self._is_head:
            made.headers["content-length"] = str(len(response.body))
        del made.headers["content-type"]
        is_stream = response.stream is not None or HEADERS[0] in response.headers
        if response.status in (204, 304) or is_stream:
            made.headers.pop("content-length", None)
        for name, value in response.headers:
            made.headers.add(name.decode(), value.decode())
        return made

    async def _respond(self, error: ApiError) -> None:
        """Refuse without Quart."""
        response = self._application.dispatcher.refuse(self.request, error)
        headers = [
            (b"content-length", str(len(response.body)).encode()),
            *response.headers,
        ]
        await self._send_answer(
            {"type": "http.response.start", "status": response.status, "headers": headers}
        )
        body = b"" if self._is_head else response.body
        await self._send_answer({"type": "http.response.body", "body": body, "more_body": False})


class _Chunks(AsyncIterator[bytes]):
    """A stream as Quart wants it. Not a generator, which Quart would leave unclosed."""

    def __init__(self, stream: ChunkStream, connection: ClientConnection | None) -> None:
        self._stream = stream
        self._connection = connection

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        # Asking for the next chunk says that the last one was written: so do not ask if it was not.
        if self._connection is not None and self._connection.is_broken:
            raise StopAsyncIteration
        chunk = await self._stream.next_chunk()
        if chunk is None:
            raise StopAsyncIteration
        return chunk


def _is_about_memory(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_is_about_memory(one) for one in error.exceptions)
    return isinstance(error, MemoryError)


def _no_room() -> ApiError:
    return ApiError(
        Code.OVERLOADED,
        message="Too much is in memory at the moment for a request of this size.",
        headers=_CLOSING,
    )


def _closing(error: ApiError) -> ApiError:
    """Return a refusal after which the connection is closed."""
    headers = [*error.headers, *_CLOSING]
    return ApiError(error.code, error.problems, message=error.message, headers=headers)


def _too_late() -> ApiError:
    return ApiError(Code.REQUEST_TIMEOUT, headers=_CLOSING)


def _too_large(limit_bytes: int) -> ApiError:
    return ApiError(
        Code.BODY_TOO_LARGE,
        message=f"The body is longer than {limit_bytes} bytes, the limit.",
        headers=_CLOSING,
    )
