"""The two ways to be sent messages, for tests: a stream from the server, or an HTTP server.

`EventStream` connects as a polling worker does; `PushTarget` is an address that the server pushes
to. Both collect what arrives in a thread, so that a test can wait for the next message, and see
that none comes.
"""

import contextlib
import http.client
import json
import queue
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

MESSAGE_TIMEOUT_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 60.0

Message = dict[str, Any]


class EventStream:
    """A worker's stream of server-sent events. Use as a context manager."""

    def __init__(self, url: str) -> None:
        """Connect to `url` and return when the server says that this worker is connected.

        Raises OSError if the stream ends before that.
        """
        parts = urlsplit(url)
        assert parts.hostname is not None, url
        self._connection = http.client.HTTPConnection(
            parts.hostname, parts.port, timeout=CONNECT_TIMEOUT_S
        )
        self._connection.request("GET", parts.path, headers={"Accept": "text/event-stream"})
        # Kept here, since http.client lets go of the socket once the answer has begun.
        self._socket: socket.socket = self._connection.sock
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.content_type = self._response.headers.get_content_type()
        self._messages: queue.Queue[Message] = queue.Queue()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        if self.status == 200:
            # A comment: from now on messages come here.
            if not (begun := self._response.readline()):
                raise ConnectionResetError("the server has ended the stream before it began")
            assert begun.startswith(b":")
            self._socket.settimeout(None)
            self._thread.start()

    def next(self, timeout_s: float = MESSAGE_TIMEOUT_S) -> Message:
        """Wait for the next message. Raises `queue.Empty` when none comes in time."""
        return self._messages.get(timeout=timeout_s)

    def arrived(self) -> list[Message]:
        """The messages that are here already and were not taken yet."""
        return _all_of(self._messages)

    def wait_until_ended(self) -> None:
        """Wait until the server ends the stream."""
        self._thread.join(MESSAGE_TIMEOUT_S)
        assert not self._thread.is_alive(), "the server has not ended this stream"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The server may have closed it first.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join()
        self._response.close()
        self._connection.close()
        self._socket.close()

    def _collect(self) -> None:
        try:
            while line := self._response.readline():
                if line.startswith(b"data:"):
                    self._messages.put(json.loads(line[5:]))
        except (OSError, http.client.HTTPException):
            # How a stream ends when either side closes it.
            return


class Push(NamedTuple):
    """One pushed message: the headers of its request, names in small letters, and its body."""

    path: str
    headers: dict[str, str]
    message: Message
    received_ms: int


class PushTarget:
    """An HTTP server that takes every message it is sent. Use as a context manager."""

    def __init__(self) -> None:
        """Listen on a free port of this machine."""
        pushes: queue.Queue[Push] = queue.Queue()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                pushes.put(Push(self.path, headers, json.loads(body), now_ms()))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Stay silent."""

        self._pushes = pushes
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where messages may be pushed to, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def next(self, timeout_s: float = MESSAGE_TIMEOUT_S) -> Push:
        """Wait for the next message. Raises `queue.Empty` when none comes in time."""
        return self._pushes.get(timeout=timeout_s)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def now_ms() -> int:
    """The time, in ms since 1970, as the server counts it."""
    return time.time_ns() // 1_000_000


def _all_of(messages: "queue.Queue[Message]") -> list[Message]:
    taken = []
    while True:
        try:
            taken.append(messages.get_nowait())
        except queue.Empty:
            return taken
