"""HTTP to hosts that may be hostile: what the sender of pushes and the caller of functions share.

- Closing a connection ends in time, whatever the other side does.
- A connection is closed or in the pool, also if its exchange is canceled while it is being made.
- The environment's proxies and .netrc are not looked at; no cookie is kept, nothing decompressed.
- Answer headers beyond about 100 KB end the exchange (h11's limit), and so do interim answers of
  more than that (`_HEAD_LIMIT_BYTES`).
- Bytes that cost much to understand, such as a body in pieces of one byte each, are read in small
  portions (`_Stream`), so that other work has to wait for milliseconds only; and a body in too
  many pieces is not read to its end (`Pieces`).
- With a guard (`guards.py`), only addresses that it allows are connected to.
- Names that do not resolve keep threads busy for longer than any deadline; those are this module's
  own (`_RESOLVER_THREADS_COUNT`), so that the log writer's threads are never waited for.
"""

import functools
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextvars import ContextVar
from time import perf_counter
from typing import Any, Final, final

import httpcore
import httpx
import trio

from troth.shards.threads import in_thread

from .guards import Guard

_CLOSE_SECONDS: Final = 0.5
_RESOLVER_THREADS_COUNT: Final = 64
_IDLE_CONNECTIONS_COUNT: Final = 256
_POOLS_COUNT: Final = 4  # that share the room, and one share for what is in use
_IDLE_SECONDS: Final = 15.0
_ADDRESS_SECONDS: Final = 3.0  # then the next of a host's addresses is tried
_HEAD_LIMIT_BYTES: Final = 128 * 1024
_PORTION_FIRST_BYTES: Final = 2 * 1024
_PORTION_MIN_BYTES: Final = 512
_PORTION_MAX_BYTES: Final = 64 * 1024
_PORTION_SECONDS: Final = 0.002  # a reading that took longer to parse was too large
_PIECES_FREE_COUNT: Final = 256
_PIECES_PER_SECOND_COUNT: Final = 100  # this many may be small: the sender writes them as they come
_PIECE_BYTES: Final = 256

_head_room: ContextVar["_HeadRoom | None"] = ContextVar("_head_room", default=None)


class AddressRefused(Exception):
    """The guard allows none of a host's addresses."""


@final
class OutgoingRoom:
    """Room for the connections that the server makes: a new one waits when there are too many.

    `limit_count` None: any number.
    """

    def __init__(self, limit_count: int | None = None) -> None:
        """Begin with none. Inside `trio.run`."""
        self._places = None if limit_count is None else trio.Semaphore(limit_count)
        self.idle_limit_count = _IDLE_CONNECTIONS_COUNT
        """The number of idle connections that a pool may keep: others must find room."""
        if limit_count is not None:
            self.idle_limit_count = min(_IDLE_CONNECTIONS_COUNT, limit_count // _POOLS_COUNT)

    async def enter(self) -> Callable[[], None]:
        """Wait for a place; return what leaves it, once, however often it is called."""
        places = self._places
        if places is None:
            await trio.lowlevel.checkpoint()
            return lambda: None
        await places.acquire()
        taken = [places]

        def leave() -> None:
            if taken:
                taken.pop().release()

        return leave


@functools.cache
def usual_trust() -> ssl.SSLContext:
    """Return the context with the usual authorities: reading them takes 15 ms each time."""
    return httpx.create_ssl_context(trust_env=False)


def make_transport(
    ssl_context: ssl.SSLContext | None = None,
    guard: Guard | None = None,
    room: OutgoingRoom | None = None,
) -> "PoolTransport":
    """Make a client, whose connections share `room` with others. Sets trio's name resolver."""
    room = room or OutgoingRoom()
    trio.socket.set_custom_hostname_resolver(_Resolver())
    return PoolTransport(
        httpcore.AsyncConnectionPool(
            ssl_context=ssl_context or usual_trust(),
            max_connections=None,  # the caller limits what is sent at a time
            max_keepalive_connections=room.idle_limit_count,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=_Backend(guard, room),
        )
    )


async def exchange(transport: "PoolTransport", request: httpx.Request) -> httpx.Response:
    """Send a request and return its answer, the body not read; the caller closes it.

    A connection that was idle and that the other side closed at the moment of its use is replaced.
    """
    is_fresh = False

    async def trace(event: str, _: Mapping[str, Any]) -> None:
        nonlocal is_fresh
        is_fresh = is_fresh or event.startswith("connection.connect_tcp")

    request.extensions["trace"] = trace
    before = _head_room.set(_HeadRoom())
    try:
        return await transport.handle_async_request(request)
    except (httpcore.RemoteProtocolError, httpcore.ReadError, httpcore.WriteError):
        if is_fresh:
            raise
        _head_room.set(_HeadRoom())
        return await transport.handle_async_request(request)
    finally:
        _head_room.reset(before)


@final
class _HeadRoom:
    """How much may still be read before the head of an answer has ended."""

    def __init__(self) -> None:
        self._left_bytes = _HEAD_LIMIT_BYTES

    def take(self, count: int) -> None:
        """Use some of it. Raises httpcore.RemoteProtocolError if there was too little."""
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise httpcore.RemoteProtocolError("its interim answers do not end")


@final
class Pieces:
    """Counts the pieces a body comes in: each costs as much as hundreds of bytes do."""

    def __init__(self) -> None:
        self._begin = trio.current_time()
        self._count = 0
        self._length_bytes = 0

    def are_too_many(self, piece: bytes) -> bool:
        """Take note of the next one; whether it is one too many for so few bytes."""
        self._count += 1
        self._length_bytes += len(piece)
        if self._count <= _PIECES_FREE_COUNT:
            return False
        passed_s = trio.current_time() - self._begin
        allowed_count = (
            _PIECES_FREE_COUNT
            + self._length_bytes // _PIECE_BYTES
            + passed_s * _PIECES_PER_SECOND_COUNT
        )
        return self._count > allowed_count


def is_same_place(old: httpx.URL, new: httpx.URL) -> bool:
    """Return whether a redirect stays on its host and port, or only becomes https."""
    if old.raw_host != new.raw_host:  # `host` refuses names such as xn--n3h, which are in use
        return False
    if old.scheme == new.scheme:
        return old.port == new.port
    is_secured = old.scheme == "http" and new.scheme == "https"
    return is_secured and old.port is None and new.port is None  # None is the default port


NETWORK_ERRORS: Final = (
    httpcore.ConnectionNotAvailable,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    httpx.HTTPError,
    httpx.StreamError,
    httpx.InvalidURL,
    OSError,
    trio.BrokenResourceError,
    UnicodeError,
)
"""Everything that can go wrong outside of this server."""


def reason(error: Exception) -> str:
    """Return what went wrong, in a line for people."""
    text = str(error).strip()
    name = type(error).__name__
    return f"{name}: {text}"[:300] if text else name


@final
class PoolTransport(httpx.AsyncBaseTransport):
    """httpx's requests on an httpcore pool: httpx's own transport does not take a backend."""

    def __init__(self, pool: httpcore.AsyncConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=request.headers.raw,
                content=_RequestBody(request.content),
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_AnswerStream(answer), request=request
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


@final
class _RequestBody:
    """A body in one piece.

    Not an asynchronous generator, as httpx's is: httpcore drops those half-way when a receiver
    hangs up, and Python then warns of it.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _OnePiece(self._body)


@final
class _OnePiece(AsyncIterator[bytes]):
    def __init__(self, piece: bytes) -> None:
        self._piece: bytes | None = piece

    async def __anext__(self) -> bytes:
        if not self._piece:
            raise StopAsyncIteration
        piece, self._piece = self._piece, None
        return piece


@final
class _AnswerStream(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._answer.aiter_stream():
            yield chunk

    async def aclose(self) -> None:
        await self._answer.aclose()


@final
class _Backend(httpcore.AsyncNetworkBackend):
    """trio's connections, wrapped."""

    def __init__(self, guard: Guard | None, room: OutgoingRoom) -> None:
        self._trio = httpcore.TrioBackend()
        self._guard = guard
        self._room = room

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        leave = await self._room.enter()
        try:
            if self._guard is not None:
                stream = await self._connect_guarded(self._guard, host, port, socket_options)
            else:
                stream = await self._trio.connect_tcp(
                    host, port, timeout, local_address, socket_options
                )
        except BaseException:
            leave()
            raise
        return await _kept_unless_canceled(_Stream(stream, leave))

    async def _connect_guarded(
        self,
        guard: Guard,
        host: str,
        port: int,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of a host's addresses that may be used and answers."""
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        allowed = [
            text for text in addresses if guard(ipaddress.ip_address(text.split("%")[0]), port)
        ]
        if not allowed:
            raise AddressRefused
        for text in allowed[:-1]:
            try:
                return await self._trio.connect_tcp(
                    text, port, _ADDRESS_SECONDS, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue  # the next address may answer
        return await self._trio.connect_tcp(allowed[-1], port, None, socket_options=socket_options)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


@final
class _Stream(httpcore.AsyncNetworkStream):
    """A connection whose closing ends in time, and that is read as fast as it is understood.

    httpcore closes connections shielded from cancellation, and closing TLS writes to the socket: a
    receiver that does not read could hold the send forever.

    All that one reading has brought is understood without a pause, so the next one brings less if
    that took long: 64 KB may be 10,000 pieces of a body, or 2,000 interim answers.
    """

    def __init__(
        self, stream: httpcore.AsyncNetworkStream, leave: Callable[[], None] = lambda: None
    ) -> None:
        self._stream = stream
        self._leave = leave
        self._portion_bytes = _PORTION_FIRST_BYTES
        self._read_at: float | None = None

    async def read(
        self,
        max_bytes: int,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> bytes:
        if self._read_at is not None:
            is_quick = perf_counter() - self._read_at < _PORTION_SECONDS
            wanted_bytes = self._portion_bytes * 2 if is_quick else self._portion_bytes // 4
            self._portion_bytes = min(max(wanted_bytes, _PORTION_MIN_BYTES), _PORTION_MAX_BYTES)
        content = await self._stream.read(min(max_bytes, self._portion_bytes), timeout)
        room = _head_room.get()
        if room is not None:
            room.take(len(content))
        self._read_at = perf_counter()
        return content

    async def write(
        self,
        buffer: bytes,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> None:
        self._read_at = None  # what comes next is another answer
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        try:
            with trio.move_on_after(_CLOSE_SECONDS):
                await self._stream.aclose()
        finally:
            self._leave()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        try:
            stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            # httpcore does so only if the handshake fails, not if it is canceled.
            await _close_canceled(self)
            raise
        return await _kept_unless_canceled(_Stream(stream, self._leave))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


async def _kept_unless_canceled(stream: _Stream) -> _Stream:
    """Hand on what was just connected, or close it if its exchange was canceled in the meantime.

    httpcore would lose it: before its first use is a checkpoint at which nothing cleans up, so it
    would stay in the pool, open and never used. Until then no other task runs that could cancel.
    """
    try:
        await trio.lowlevel.checkpoint_if_cancelled()
    except trio.Cancelled:
        await _close_canceled(stream)
        raise
    return stream


async def _close_canceled(stream: _Stream) -> None:
    with trio.CancelScope(shield=True):
        await stream.aclose()


@final
class _Resolver(trio.abc.HostnameResolver):
    """Resolves names on threads of its own; a lookup that hangs is left behind when canceled."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(_RESOLVER_THREADS_COUNT)

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002  the base class's signature
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        return await in_thread(
            lambda: socket.getaddrinfo(host, port, family, type, proto, flags),
            limiter=self._limiter,
            abandon_on_cancel=True,
        )

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        return await in_thread(
            lambda: socket.getnameinfo(sockaddr, flags),
            limiter=self._limiter,
            abandon_on_cancel=True,
        )
