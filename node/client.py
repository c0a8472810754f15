"""The node's HTTP client: one server, kept connections, h11. A request costs as little as it can.

`ServerClient.ask` sends a request and returns the answer, whatever its status;
`ServerClient.open_stream` reads server-sent events. A connection that ended while it was idle is
silently replaced, since the server cannot have seen the request. All other retries are up to the
caller.

The server has a fast path for small requests about executions. A connection leaves it for good with
its first request of another kind. So those get connections of their own (`apart`).
"""

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import h11
import msgspec
import trio

from troth import __version__
from troth.core.json_errors import UNREADABLE_JSON

from .errors import AnswerTooLarge, NodeError, NotReached, ServerRefused

CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 10.0
"""Without a byte sent or received for this long, a request has failed."""
STREAM_SILENCE_LIMIT_S: Final = 60.0
"""A stream that says nothing for this long, not even a comment, is broken; unless the server says
that its comments are rarer."""
_COMMENTS_MISSED_COUNT: Final = 3
ANSWER_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Of an answer; the largest has the body of an execution's request."""
_READ_BYTES: Final = 64 * 1024
_SEND_BYTES: Final = 256 * 1024
_IDLE_LIMIT_COUNT: Final = 32
_EVENT_LIMIT_BYTES: Final = 64 * 1024
_TOGETHER_LIMIT_BYTES: Final = 128 * 1024
"""A body above this is sent apart: large ones do not go the server's short way."""
_SHOWN_TEXT_COUNT: Final = 300

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ServerAnswer:
    """What the server said."""

    status: int
    body: bytes

    @property
    def is_success(self) -> bool:
        """Return whether the status is 2xx."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Return the body as JSON. Raises NotReached for anything else: not a Troth server."""
        try:
            return msgspec.json.decode(self.body)
        except UNREADABLE_JSON as error:
            raise NotReached("it answered in a form that is not the API's") from error

    def refusal(self) -> ServerRefused:
        """Return the error for an answer without success, with the server's explanation."""
        text = self.body[:_SHOWN_TEXT_COUNT].decode(errors="replace").strip()
        with contextlib.suppress(*UNREADABLE_JSON, AttributeError, TypeError):
            # Anything that is not the API's form is shown as it is.
            error = msgspec.json.decode(self.body).get("error")
            text = f"{error.get('code', '')} {error['message']}".strip()
        return ServerRefused(self.status, text)


class _ServerConnection:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._protocol = h11.Connection(h11.CLIENT)
        self.heard_count = 0
        self.exchange: trio.CancelScope | None = None
        """Its deadline moves on with every part that is sent or received."""

    async def send(self, request: h11.Request, body: bytes) -> None:
        content = self._protocol.send(request) or b""
        if body:
            content += self._protocol.send(h11.Data(body)) or b""
        content += self._protocol.send(h11.EndOfMessage()) or b""
        view = memoryview(content)
        for start in range(0, len(view), _SEND_BYTES):
            await self._stream.send_all(view[start : start + _SEND_BYTES])
            self._go_on()

    def _go_on(self) -> None:
        if self.exchange is not None:
            self.exchange.deadline = trio.current_time() + ANSWER_TIMEOUT_S

    async def next_event(self) -> Any:
        while True:
            event = self._protocol.next_event()
            if event is not h11.NEED_DATA:
                return event
            part = await self._stream.receive_some(_READ_BYTES)
            self.heard_count += len(part)
            self._go_on()
            self._protocol.receive_data(bytes(part))

    async def response(self) -> int:
        """Return the status of the answer; interim ones are passed over."""
        while True:
            event = await self.next_event()
            if isinstance(event, h11.Response):
                return event.status_code
            if not isinstance(event, h11.InformationalResponse):
                raise NotReached("it closed the connection")

    def is_reusable(self) -> bool:
        """Return whether another request can be sent; readies the connection for it."""
        if self._protocol.our_state is h11.DONE and self._protocol.their_state is h11.DONE:
            self._protocol.start_next_cycle()
            self.heard_count = 0
            return True
        return False

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)


class ServerClient:
    """Talks to one server with one token. `close` it at the end."""

    def __init__(self, server: str, token: str, ca_file: str | None = None) -> None:
        """Initialize. `server` is a URL or `HOST:PORT`; `ca_file` (PEM) has the trusted
        authorities.

        Without `ca_file`, those of SSL_CERT_FILE or of the system are trusted. Raises NodeError for
        invalid values.
        """
        url = server if "://" in server else f"http://{server}"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise NodeError(f"--server: it is not a URL ({error})") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise NodeError("--server: it must begin with http:// or https:// and name a host")
        if not token.isascii() or not token.isprintable() or not token:
            raise NodeError("--token: a token has only letters, digits, - and _")
        self._host = parts.hostname
        is_secure = parts.scheme == "https"
        self._port = port or (443 if is_secure else 80)
        self._trusted: ssl.SSLContext | None = None
        if is_secure:
            try:
                self._trusted = ssl.create_default_context(cafile=ca_file)
            except OSError as error:
                raise NodeError(f"--ca-file {ca_file}: {error.strerror or error}") from error
        self._prefix = parts.path.rstrip("/")
        shown_host = f"[{self._host}]" if ":" in self._host else self._host
        self.shown_url = f"{parts.scheme}://{shown_host}:{self._port}{self._prefix}"
        self._headers = [
            ("host", f"{shown_host}:{self._port}"),
            ("authorization", f"Bearer {token}"),
            ("user-agent", f"troth-node/{__version__}"),
        ]
        self._idle: list[_ServerConnection] = []
        self._silence_limit_s = STREAM_SILENCE_LIMIT_S

    def expect_comments(self, interval_s: float) -> None:
        """Learn how often the server requested itmething on a stream that has nothing to say."""
        self._silence_limit_s = max(STREAM_SILENCE_LIMIT_S, _COMMENTS_MISSED_COUNT * interval_s)

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Headers = (),
        limit_bytes: int = ANSWER_LIMIT_BYTES,
        apart: bool = False,
    ) -> ServerAnswer:
        """Send one request; `body` is bytes, or anything for JSON, or None.

        `apart` is for what is not about tasks. Raises NotReached, AnswerTooLarge.
        """
        content = b"" if body is None else body if isinstance(body, bytes) else _json(body)
        apart = apart or len(content) > _TOGETHER_LIMIT_BYTES
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        all_headers = [*self._headers, ("content-length", str(len(content))), *headers]
        if body is not None:
            all_headers.append(("content-type", kind))
        request = h11.Request(method=method, target=self._prefix + path, headers=all_headers)
        while True:
            connection = self._idle.pop() if self._idle and not apart else None
            is_kept = connection is not None
            with _failures(), trio.fail_after(ANSWER_TIMEOUT_S) as exchange:
                if connection is None:
                    connection = await self._connect()
                connection.exchange = exchange
                try:
                    return await self._exchange(
                        connection, request, content, limit_bytes, may_keep=not apart
                    )
                except (trio.BrokenResourceError, h11.RemoteProtocolError, NotReached):
                    if not is_kept or connection.heard_count:
                        raise
                    # It had ended before it was used again: with another one, then.

    async def _exchange(
        self,
        connection: _ServerConnection,
        request: h11.Request,
        content: bytes,
        limit_bytes: int,
        *,
        may_keep: bool,
    ) -> ServerAnswer:
        is_kept = False
        try:
            status = await self._send(connection, request, content)
            parts: list[bytes] = []
            count = 0
            while isinstance(event := await connection.next_event(), h11.Data):
                parts.append(bytes(event.data))
                count += len(event.data)
                if count > limit_bytes:
                    raise AnswerTooLarge(f"the server's answer is larger than {limit_bytes} bytes")
            if not isinstance(event, h11.EndOfMessage):
                raise NotReached("it closed the connection")
            is_kept = may_keep and connection.is_reusable() and len(self._idle) < _IDLE_LIMIT_COUNT
        finally:
            if is_kept:
                self._idle.append(connection)
            else:
                await connection.close()
        return ServerAnswer(status, b"".join(parts))

    async def _send(
        self, connection: _ServerConnection, request: h11.Request, content: bytes
    ) -> int:
        """Send a request and return the answer's status, also if it came before all was sent."""
        try:
            await connection.send(request, content)
        except trio.BrokenResourceError:
            # A server that refuses a body does not read it to its end.
            with contextlib.suppress(trio.BrokenResourceError, h11.RemoteProtocolError):
                return await connection.response()
            raise
        return await connection.response()

    @contextlib.asynccontextmanager
    async def open_stream(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a stream of server-sent events; gives out the data of each.

        Raises ServerRefused if the server does not open it, NotReached when it ends or breaks.
        """
        headers = [*self._headers, ("accept", "text/event-stream")]
        request = h11.Request(method="GET", target=self._prefix + path, headers=headers)
        connection: _ServerConnection | None = None
        try:
            with _failures(), trio.fail_after(ANSWER_TIMEOUT_S):
                connection = await self._connect()
                await connection.send(request, b"")
                status = await connection.response()
                if status != 200:
                    body = b""
                    while isinstance(event := await connection.next_event(), h11.Data):
                        body += bytes(event.data)
                    raise ServerAnswer(status, body).refusal()
            yield _events(connection, self._silence_limit_s)
        finally:
            if connection is not None:
                await connection.close()

    async def _connect(self) -> _ServerConnection:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            stream: trio.abc.Stream = await trio.open_tcp_stream(self._host, self._port)
            if self._trusted is not None:
                stream = trio.SSLStream(stream, self._trusted, server_hostname=self._host)
            return _ServerConnection(stream)

    async def close(self) -> None:
        """Close all connections."""
        while self._idle:
            await self._idle.pop().close()


async def _events(connection: _ServerConnection, silence_limit_s: float) -> AsyncIterator[bytes]:
    buffer = b""
    while True:
        with _failures(), trio.fail_after(silence_limit_s):
            event = await connection.next_event()
        if not isinstance(event, h11.Data):
            raise NotReached("it ended the stream")
        buffer += bytes(event.data)
        *lines, buffer = buffer.split(b"\n")
        if len(buffer) > _EVENT_LIMIT_BYTES:
            raise NotReached("it sent a message that is too long")
        for line in lines:
            # Comments keep the connection alive; each message is one line of data.
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _json(body: object) -> bytes:
    return msgspec.json.encode(body)


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Make one error of all that mean: the server did not answer, or not in HTTP."""
    try:
        yield
    except trio.TooSlowError as error:
        raise NotReached("it did not answer in time") from error
    except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
        raise NotReached(str(error) or type(error).__name__) from error
