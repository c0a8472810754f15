"""The node's HTTP client: one server, kept connections. A request costs as little as it can.

An answer that comes in one piece and has a plain head is read here; h11 reads all others, from
their first byte.

`ServerClient.ask` sends a request and returns the answer, whatever its status;
`ServerClient.open_stream` reads server-sent events. A connection that ended while it was idle is
silently replaced, since the server cannot have seen the request. All other retries are up to the
caller.

The server has a fast path for small requests about executions. A connection leaves it for good with
its first request of another kind. So those get connections of their own (`apart`).
"""

import contextlib
import re
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

_NAME: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE: Final = rb"[\t\x20-\x7e]*"
_HEAD: Final = re.compile(
    rb"[A-Z]+ [!-~]+ HTTP/1\.1\r\n(?:" + _NAME + rb":" + _VALUE + rb"\r\n)+\r\n"
)
_ANSWER_HEAD: Final = re.compile(
    rb"HTTP/1\.1 (2(?!04)[0-9]{2}|3(?!04)[0-9]{2}|[45][0-9]{2})(?: " + _VALUE + rb")?"
    rb"((?:\r\n" + _NAME + rb":" + _VALUE + rb")*)"
)
_ABOUT_LENGTH: Final = frozenset({b"content-length", b"transfer-encoding", b"connection"})

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


@dataclass(frozen=True)
class _Asked:
    """A request: its bytes, and the parts that h11 makes the same of."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    content: bytes

    def head(self) -> bytes:
        """Return the bytes before the body. Raises h11.LocalProtocolError for a bad request."""
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        lines += [f"{name}: {text}" for name, text in self.headers]
        head = "\r\n".join((*lines, "", "")).encode("latin-1", "replace")
        if _HEAD.fullmatch(head) is None or head.count(b"\n") != len(lines) + 1:
            self.for_h11()  # it says what is wrong
        return head

    def for_h11(self) -> h11.Request:
        """Return the same for h11."""
        return h11.Request(method=self.method, target=self.target, headers=self.headers)


def plain_answer(received: bytes) -> ServerAnswer | None:
    """Return the answer that these bytes are, if they are just one and its head is plain."""
    head, separator, body = received.partition(b"\r\n\r\n")
    found = _ANSWER_HEAD.fullmatch(head)
    if not separator or found is None:
        return None
    lengths = [
        value.strip(b" \t")
        for name, _, value in (line.partition(b":") for line in found[2].lower().split(b"\r\n"))
        if name in _ABOUT_LENGTH
    ]
    # Any other field that says how long it is is not a number.
    if len(lengths) != 1 or not lengths[0].isdigit() or lengths[0] != b"%d" % len(body):
        return None
    return ServerAnswer(int(found[1]), body)


class _ServerConnection:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._protocol = h11.Connection(h11.CLIENT)
        self.heard_count = 0
        self.exchange: trio.CancelScope | None = None
        """Its deadline moves on with every part that is sent or received, if more are to come."""

    async def send(self, asked: _Asked) -> None:
        view = memoryview(asked.head() + asked.content)
        for start in range(0, len(view), _SEND_BYTES):
            if start:
                self._go_on()
            await self._stream.send_all(view[start : start + _SEND_BYTES])
        if len(view) > _SEND_BYTES:
            self._go_on()

    async def plain_answer(self, asked: _Asked) -> ServerAnswer | None:
        """Return the answer if it is plain; else h11 has what was received, for `response`."""
        part = await self._receive()
        answer = plain_answer(part)
        if answer is None:
            self._go_on()
            self.read_by_h11(asked)
            self._protocol.receive_data(part)
        return answer

    def read_by_h11(self, asked: _Asked) -> None:
        """Tell h11 what was sent, so that it can read the answer."""
        self._protocol.send(asked.for_h11())
        if asked.content:
            self._protocol.send(h11.Data(asked.content))
        self._protocol.send(h11.EndOfMessage())

    async def _receive(self) -> bytes:
        part = bytes(await self._stream.receive_some(_READ_BYTES))
        self.heard_count += len(part)
        return part

    def _go_on(self) -> None:
        if self.exchange is not None:
            self.exchange.deadline = trio.current_time() + ANSWER_TIMEOUT_S

    async def next_event(self) -> Any:
        while True:
            event = self._protocol.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._protocol.receive_data(await self._receive())
            self._go_on()

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
        protocol = self._protocol
        if protocol.our_state is h11.DONE and protocol.their_state is h11.DONE:
            protocol.start_next_cycle()
        elif protocol.our_state is not h11.IDLE:  # it has read no answer
            return False
        self.heard_count = 0
        return True

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
        asked = _Asked(method, self._prefix + path, all_headers, content)
        while True:
            connection = self._idle.pop() if self._idle and not apart else None
            is_kept = connection is not None
            with _failures(), trio.fail_after(ANSWER_TIMEOUT_S) as exchange:
                if connection is None:
                    connection = await self._connect()
                connection.exchange = exchange
                try:
                    return await self._exchange(connection, asked, limit_bytes, may_keep=not apart)
                except (trio.BrokenResourceError, h11.RemoteProtocolError, NotReached):
                    if not is_kept or connection.heard_count:
                        raise
                    # It had ended before it was used again: with another one, then.

    async def _exchange(
        self,
        connection: _ServerConnection,
        asked: _Asked,
        limit_bytes: int,
        *,
        may_keep: bool,
    ) -> ServerAnswer:
        is_kept = False
        try:
            status_or_answer = await self._send(connection, asked)
            if isinstance(status_or_answer, ServerAnswer):
                is_kept = self._may_keep(connection, may_keep=may_keep)
                if len(status_or_answer.body) > limit_bytes:
                    raise _too_large(limit_bytes)
                return status_or_answer
            status = status_or_answer
            parts: list[bytes] = []
            count = 0
            while isinstance(event := await connection.next_event(), h11.Data):
                parts.append(bytes(event.data))
                count += len(event.data)
                if count > limit_bytes:
                    raise _too_large(limit_bytes)
            if not isinstance(event, h11.EndOfMessage):
                raise NotReached("it closed the connection")
            is_kept = self._may_keep(connection, may_keep=may_keep)
        finally:
            if is_kept:
                self._idle.append(connection)
            else:
                await connection.close()
        return ServerAnswer(status, b"".join(parts))

    def _may_keep(self, connection: _ServerConnection, *, may_keep: bool) -> bool:
        return may_keep and connection.is_reusable() and len(self._idle) < _IDLE_LIMIT_COUNT

    async def _send(self, connection: _ServerConnection, asked: _Asked) -> ServerAnswer | int:
        """Send a request; return a plain answer, or the status of one whose body is to come.

        Also if it came before all was sent.
        """
        try:
            await connection.send(asked)
        except trio.BrokenResourceError:
            # A server that refuses a body does not read it to its end.
            connection.read_by_h11(asked)
            with contextlib.suppress(trio.BrokenResourceError, h11.RemoteProtocolError):
                return await connection.response()
            raise
        return await connection.plain_answer(asked) or await connection.response()

    @contextlib.asynccontextmanager
    async def open_stream(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a stream of server-sent events; gives out the data of each.

        Raises ServerRefused if the server does not open it, NotReached when it ends or breaks.
        """
        headers = [*self._headers, ("accept", "text/event-stream")]
        asked = _Asked("GET", self._prefix + path, headers, b"")
        connection: _ServerConnection | None = None
        try:
            with _failures(), trio.fail_after(ANSWER_TIMEOUT_S):
                connection = await self._connect()
                await connection.send(asked)
                connection.read_by_h11(asked)
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


def _too_large(limit_bytes: int) -> AnswerTooLarge:
    return AnswerTooLarge(f"the server's answer is larger than {limit_bytes} bytes")


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
