"""A server for the tests of the command line: says what it was told to, remembers what it heard.

It is a real HTTP server on a port of this machine, so that the client is tested down to its
sockets, without any of Troth's own server.
"""

import json
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Heard:
    """One request. `path` is decoded, `raw_path` as it came; header names are in lower case."""

    method: str
    path: str
    raw_path: str
    query: list[tuple[str, str]]
    headers: Mapping[str, str]
    body: Any


@dataclass
class FakeApi:
    """Answers requests with `say`'s answers, in order. Used in a `with` block."""

    tls: ssl.SSLContext | None = None
    heard: list[Heard] = field(default_factory=list)
    _answers: list[tuple[int, bytes, Mapping[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                api._handle(self)

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 — names it looks for

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing; the tests look at standard error."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        if self.tls is not None:
            # A client that refuses the certificate must not end the thread that accepts.
            self._server.socket = self.tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._server.server_port}"

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
        self._thread.join()
        self._server.server_close()

    def say(self, status: int, body: object = None, **headers: str) -> None:
        """Answer the next request that has no answer yet; `body` is bytes, JSON, or None."""
        if body is None:
            content = b""
        elif isinstance(body, bytes):
            content = body
        else:
            content = json.dumps(body, separators=(",", ":")).encode()
        self._answers.append((status, content, headers))

    def refuse(self, code: int, message: str, *details: str, **headers: str) -> None:
        """Answer the next request with a refusal as the API's are."""
        error = {
            "code": code,
            "message": message,
            "details": [{"@type": "RequestError", "message": detail} for detail in details],
        }
        self.say(code // 100, {"error": error}, **headers)

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        content = handler.rfile.read(int(handler.headers.get("content-length", "0")))
        self.heard.append(
            Heard(
                method=handler.command,
                path=unquote(parts.path),
                raw_path=parts.path,
                query=parse_qsl(parts.query, keep_blank_values=True),
                headers={name.lower(): text for name, text in handler.headers.items()},
                body=json.loads(content) if content else None,
            )
        )
        status, body, headers = (
            self._answers.pop(0) if self._answers else (500, b"the test said nothing", {})
        )
        handler.send_response(status)
        for name, text in headers.items():
            handler.send_header(name.replace("_", "-"), text)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


def promise(promise_id: str = "order-7", **changes: object) -> dict[str, Any]:
    """A promise as the API shows it; `changes` replace or add keys."""
    return {
        "id": promise_id,
        "state": "PENDING",
        "param": {},
        "value": {},
        "timeout": NOW_MS + 3_600_000,
        "createdOn": NOW_MS - 60_000,
        **changes,
    }


NOW_MS = 1_800_000_000_000
"""What the clock shows in these tests: 2027-01-15 08:00:00 UTC."""
