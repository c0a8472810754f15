"""The sender of HTTP pushes: one POST, within one deadline, to a receiver that may be hostile.

What this module promises, whatever the receiver does:

- `send` ends within `timeout_ms`, names and certificates and redirects included.
- Success is a 2xx status and nothing else. The answer's body means nothing: at most a little of it
  is read, so that the connection can be used again; an endless one is cut off.
- Answer headers beyond about 100 KB end the send (h11's limit). Nothing is decompressed.
- At most 5 redirects, only to the same host and port (or from port 80 to 443 with https): a
  receiver cannot turn the server against others.
- The environment's proxies and .netrc are not looked at; no cookie is kept.
- Names that do not resolve keep threads busy for longer than the deadline; those are this module's
  own (`_RESOLVER_THREADS_COUNT`), so that the log writer's threads are never waited for.
"""

import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final, final

import httpcore
import httpx
import trio

from troth import __version__
from troth.core.addresses import PushAddress
from troth.shards.shipments import PushFailed

__all__ = ["PushFailed", "PushSender"]

_REDIRECTS_LIMIT_COUNT: Final = 5
_BODY_READ_LIMIT_BYTES: Final = 64 * 1024
_BODY_READ_SECONDS: Final = 0.25
_CLOSE_SECONDS: Final = 0.5
_RESOLVER_THREADS_COUNT: Final = 64
_IDLE_CONNECTIONS_COUNT: Final = 256
_IDLE_SECONDS: Final = 15.0

_CHANGED_TO_GET: Final = frozenset({301, 302, 303})
_SENT_AGAIN: Final = frozenset({307, 308})


@final
class PushSender:
    """Sends messages by HTTP; the `PushTransport` of delivery. Make it inside `trio.run`."""

    def __init__(self, *, timeout_ms: int, ssl_context: ssl.SSLContext | None = None) -> None:
        """Open nothing yet. Sets trio's name resolver for this run (see above)."""
        self._timeout_seconds = timeout_ms / 1000
        trio.socket.set_custom_hostname_resolver(_Resolver())
        pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context or httpx.create_ssl_context(trust_env=False),
            max_connections=None,  # delivery limits what is sent at a time
            max_keepalive_connections=_IDLE_CONNECTIONS_COUNT,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=_Backend(),
        )
        self._transport = _PoolTransport(pool)

    async def send(self, address: PushAddress, body: bytes, headers: Mapping[str, str]) -> None:
        """POST the body; return when a 2xx status has come. Raises PushFailed.

        `headers` are added to the address's own and win over them.
        """
        try:
            with trio.fail_after(self._timeout_seconds):
                await self._send(address, body, headers)
        except trio.TooSlowError:
            raise PushFailed(f"no answer within {self._timeout_seconds:g} s") from None
        except _NETWORK_ERRORS as error:
            raise PushFailed(_reason(error)) from error

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._transport.aclose()

    async def _send(self, address: PushAddress, body: bytes, headers: Mapping[str, str]) -> None:
        request = httpx.Request(
            "POST", address.url, headers=_request_headers(address, headers), content=body
        )
        for _ in range(_REDIRECTS_LIMIT_COUNT + 1):
            response = await self._answer(request)
            if response.is_success:
                return
            if response.status_code not in _CHANGED_TO_GET | _SENT_AGAIN:
                raise PushFailed(f"status {response.status_code}")
            request = _redirected(request, response, body)
        raise PushFailed(f"more than {_REDIRECTS_LIMIT_COUNT} redirects")

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        """Send one request and return its answer, read no further than is useful."""
        is_fresh = False

        async def trace(event: str, _: Mapping[str, Any]) -> None:
            nonlocal is_fresh
            is_fresh = is_fresh or event.startswith("connection.connect_tcp")

        request.extensions["trace"] = trace
        try:
            response = await self._transport.handle_async_request(request)
        except (httpcore.RemoteProtocolError, httpcore.ReadError, httpcore.WriteError):
            if is_fresh:
                raise
            # The receiver closed an idle connection at the moment of its use: no failure of its.
            response = await self._transport.handle_async_request(request)
        try:
            await _read_a_little(response)
        finally:
            await response.aclose()
        return response


def _request_headers(address: PushAddress, headers: Mapping[str, str]) -> httpx.Headers:
    result = httpx.Headers({"Accept": "*/*", "User-Agent": f"troth/{__version__}"})
    result.update(dict(address.headers))
    result.update(dict(headers))
    result["Content-Type"] = "application/json"
    result["Accept-Encoding"] = "identity"
    url = httpx.URL(address.url)
    if url.userinfo and "Authorization" not in result:
        authentication = httpx.BasicAuth(url.username, url.password)
        signed = next(authentication.auth_flow(httpx.Request("POST", url)))
        result["Authorization"] = signed.headers["Authorization"]
    return result


def _redirected(request: httpx.Request, response: httpx.Response, body: bytes) -> httpx.Request:
    location = response.headers.get("Location", "")
    try:
        url = request.url.join(location)
    except (httpx.InvalidURL, ValueError):
        raise PushFailed("redirected to an invalid URL") from None
    if not location or not _is_same_place(request.url, url):
        raise PushFailed("redirected to another host or port")
    headers = request.headers.copy()
    for name in ("Host", "Content-Length", "Transfer-Encoding"):
        headers.pop(name, None)
    if response.status_code in _CHANGED_TO_GET:
        headers.pop("Content-Type", None)
        return httpx.Request("GET", url, headers=headers)
    return httpx.Request("POST", url, headers=headers, content=body)


def _is_same_place(old: httpx.URL, new: httpx.URL) -> bool:
    if old.raw_host != new.raw_host:  # `host` refuses names such as xn--n3h, which are in use
        return False
    if old.scheme == new.scheme:
        return old.port == new.port
    is_secured = old.scheme == "http" and new.scheme == "https"
    return is_secured and old.port is None and new.port is None  # None is the default port


async def _read_a_little(response: httpx.Response) -> None:
    """Read the body if it is short, since then the connection can be used again."""
    read_bytes = 0
    with trio.move_on_after(_BODY_READ_SECONDS) as scope:
        try:
            async for chunk in response.aiter_raw():
                read_bytes += len(chunk)
                if read_bytes > _BODY_READ_LIMIT_BYTES:
                    # Not `break`: cancelling ends the generators below this one in order.
                    scope.cancel()
        except _NETWORK_ERRORS:
            return  # the status has come, and that is all that counts


_NETWORK_ERRORS: Final = (
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


def _reason(error: Exception) -> str:
    text = str(error).strip()
    name = type(error).__name__
    return f"{name}: {text}"[:300] if text else name


# --- below httpx: connections whose closing cannot hang ------------------------------------------


@final
class _PoolTransport(httpx.AsyncBaseTransport):
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

    def __init__(self) -> None:
        self._trio = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(
            await self._trio.connect_tcp(host, port, timeout, local_address, socket_options)
        )

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


@final
class _Stream(httpcore.AsyncNetworkStream):
    """A connection whose closing ends in time.

    httpcore closes connections shielded from cancellation, and closing TLS writes to the socket: a
    receiver that does not read could hold the send for ever.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(
        self,
        max_bytes: int,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(
        self,
        buffer: bytes,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        with trio.move_on_after(_CLOSE_SECONDS):
            await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


@final
class _Resolver(trio.abc.HostnameResolver):
    """Resolves names on threads of its own; a lookup that hangs is left behind when cancelled."""

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
        return await trio.to_thread.run_sync(
            lambda: socket.getaddrinfo(host, port, family, type, proto, flags),
            limiter=self._limiter,
            abandon_on_cancel=True,
        )

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        return await trio.to_thread.run_sync(
            lambda: socket.getnameinfo(sockaddr, flags),
            limiter=self._limiter,
            abandon_on_cancel=True,
        )
