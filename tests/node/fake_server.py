"""The server's side of the node protocol, for tests of a node without the rest of a server.

It runs in a thread of its own and does what it is told: offers a task, sends a message over the
work stream, answers with an error, goes away and comes back. `FakeServer.run` is a whole task.
"""

import base64
import contextlib
import hashlib
import io
import itertools
import json
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from types import TracebackType
from typing import Any, Final, Self

TOKEN: Final = "troth_the-token-of-the-tests"
# Only a test that fails waits so long.
WAIT_S: Final = 120.0
ACCOUNT: Final = "a" * 24


@dataclass(frozen=True)
class Code:
    """A function's code, as an archive."""

    archive: bytes
    language: str = "PY"

    @property
    def digest(self) -> str:
        """Its SHA-256."""
        return hashlib.sha256(self.archive).hexdigest()

    @property
    def build_id(self) -> str:
        """An id that is its own."""
        return self.digest[:24]


def python(text: str, **more: str) -> Code:
    """The code of a handler.py, and of further modules."""
    return Code(_zip({"handler.py": text, **{f"{name}.py": more[name] for name in more}}))


def javascript(text: str, name: str = "handler.js") -> Code:
    """The code of a handler.js."""
    return Code(_zip({name: text}), "JS")


def _zip(files: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return packed.getvalue()


@dataclass
class Offered:
    """A task that was offered to the node, and what became of it."""

    id: str
    counter: int
    code: Code
    request: Mapping[str, Any]
    timeout_s: int
    capabilities: Mapping[str, Any]
    account: str
    progress: list[int] = field(default_factory=list)
    assigned: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    returned: threading.Event = field(default_factory=threading.Event)
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    body: bytes = b""

    def wait(self) -> Self:
        """Wait for the result."""
        assert self.finished.wait(WAIT_S), f"no result of {self.id}"
        return self

    @property
    def key(self) -> dict[str, Any]:
        """What names it in messages."""
        return {"id": self.id, "counter": self.counter}

    def json(self) -> Any:
        """The body, as JSON."""
        return json.loads(self.body)


class FakeServer:
    """Used in a `with` block. `refuse` maps the end of a path to a status to answer with."""

    def __init__(self) -> None:
        self.refuse: dict[str, int] = {}
        self.refused: list[str] = []
        self.registrations: list[Mapping[str, Any]] = []
        self.tasks: dict[str, Offered] = {}
        self.stop: list[Mapping[str, Any]] = []
        self.heartbeat_ms = 250
        self.lease_ms = 10_000
        self.result_limit_bytes = 64 << 20
        self.result_headers_limit_bytes = 64 << 10
        self.exchange_version = 1
        self.given: list[Offered] = []
        """What goes along with the answer to the next exchange that has room."""
        self.said: dict[str, int] = {}
        """What `hello` says beside the lease."""
        self.fetched_count = 0
        self.asked: list[tuple[int, str]] = []
        """Of every request but the stream's: a number of its connection, and the path."""
        self.connected = threading.Event()
        self._archives: dict[str, bytes] = {}
        self._messages: Queue[Mapping[str, Any] | None] = Queue()
        self._ids = itertools.count(1)
        self._port = 0
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self.go_away()

    def start(self) -> None:
        """Listen, on the same port each time."""
        fake = self

        class Handler(_Handler):
            server_side = fake

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def go_away(self) -> None:
        """Stop listening and end all connections."""
        assert self._server is not None
        self._server.shutdown()
        self._thread.join()
        self.connected.clear()
        self._messages.put(None)
        self._server.server_close()
        self._server.end_connections()
        self._server = None
        self._messages = Queue()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message over the work stream."""
        self._messages.put(message)

    def offer(
        self,
        code: Code,
        body: bytes = b"",
        *,
        query: str = "",
        method: str = "POST",
        headers: tuple[tuple[str, str], ...] = (),
        timeout_s: int = 60,
        account: str = ACCOUNT,
        along: bool = False,
        **capabilities: Any,
    ) -> Offered:
        """Offer a task to the node, by the stream or `along` with the answer to an exchange."""
        request = {
            "method": method,
            "query": query,
            "headers": headers,
            "body": base64.b64encode(body).decode(),
            "host": "troth.example",
        }
        task_id = f"{next(self._ids):024x}"
        task = Offered(task_id, 1, code, request, timeout_s, capabilities, account)
        self.tasks[task_id] = task
        self._archives[code.build_id] = code.archive
        if along:
            self.given.append(task)
        else:
            self.send({"type": "run", "task": task.key})
        return task

    def run(self, code: Code, body: bytes = b"", **options: Any) -> Offered:
        """Offer a task and wait for its result."""
        return self.offer(code, body, **options).wait()

    # What the node asks

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes]:
        """Status and body for a request, all but the stream's."""
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, b'{"error":{"code":40100,"message":"unauthorized"}}'
        for end, status in self.refuse.items():
            if path.endswith(end) or f"/{end}/" in path:
                self.refused.append(end)
                return status, b'{"error":{"code":%d00,"message":"told to refuse"}}' % status
        _, version, kind, *rest = path.split("/")
        assert version == "v1"
        if kind == "build":
            self.fetched_count += 1
            return 200, self._archives[rest[0]]
        match (method, rest[1:]):
            case ("POST", []):
                self.registrations.append(json.loads(body))
                return 201, b""
            case ("POST", ["assign"]):
                return self._assign(json.loads(body)["id"])
            case ("POST", ["exchange"]) if self.exchange_version:
                return 200, json.dumps(self._exchange(json.loads(body))).encode()
            case ("POST", ["report"]):
                return self._report(json.loads(body))
            case ("POST", ["return", task_id, _]):
                self.tasks[task_id].returned.set()
                return 204, b""
            case ("POST", ["result", task_id, _]):
                return self._result(self.tasks[task_id], headers, body)
        return 404, b""

    def _exchange(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        results = []
        for one in asked["results"]:
            headers = {
                "troth-status": str(one["status"]),
                "troth-headers": base64.b64encode(json.dumps(one["headers"]).encode()).decode(),
            }
            if one["error"] is not None:
                headers["troth-error"] = base64.b64encode(one["error"].encode()).decode()
            content = base64.b64decode(one["body"])
            told = self._refusal("result") or self._result(self.tasks[one["id"]], headers, content)
            results.append(_entry(*told))
        assigned = []
        for one in asked["assign"]:
            status, content = self._refusal("assign") or self._assign(one["id"])
            entry = _entry(status, content)
            if status == 201:
                entry["assignment"] = json.loads(content)
            assigned.append({**one, **entry})
        if asked["room"]:
            given, self.given = self.given, []
            for task in given:
                content = self._assign(task.id)[1]
                assigned.append({**task.key, "status": 201, "assignment": json.loads(content)})
        return {"results": results, "assigned": assigned}

    def _refusal(self, end: str) -> tuple[int, bytes] | None:
        if end not in self.refuse:
            return None
        self.refused.append(end)
        status = self.refuse[end]
        return status, b'{"error":{"code":%d00,"message":"told to refuse"}}' % status

    def _assign(self, task_id: str) -> tuple[int, bytes]:
        task = self.tasks[task_id]
        task.assigned.set()
        content = {
            "functionId": "f" * 24,
            "buildId": task.code.build_id,
            "digest": task.code.digest,
            "language": task.code.language,
            "timeout": task.timeout_s,
            "capabilities": {
                "cpuCount": 0,
                "memSize": 0,
                "networkLatency": 0,
                "privileged": False,
                **task.capabilities,
            },
            "account": task.account,
            "request": task.request,
        }
        return 201, json.dumps(content).encode()

    def _report(self, report: Mapping[str, Any]) -> tuple[int, bytes]:
        for running in report["running"]:
            if running["progress"] is not None:
                self.tasks[running["id"]].progress.append(running["progress"])
        return 200, json.dumps({"stop": self.stop}).encode()

    def _result(self, task: Offered, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        if len(body) > self.result_limit_bytes:
            return 413, b'{"error":{"code":41300,"message":"told to take less"}}'
        if len(headers["troth-headers"]) > self.result_headers_limit_bytes:
            return 431, b'{"error":{"code":43100,"message":"told to take less"}}'
        task.status = int(headers["troth-status"])
        task.headers = dict(json.loads(base64.b64decode(headers["troth-headers"])))
        if "troth-error" in headers:
            task.error = base64.b64decode(headers["troth-error"]).decode()
        task.body = body
        task.finished.set()
        return 201, b""

    def messages(self) -> Iterator[bytes]:
        """What the work stream carries."""
        # The newest stream takes everything; one before it may not have noticed its end.
        self._messages.put(None)
        messages = self._messages = Queue()
        hello = {"type": "hello", "heartbeatMs": self.heartbeat_ms, "leaseMs": self.lease_ms}
        if self.exchange_version:
            hello["exchange"] = self.exchange_version
        hello |= self.said
        yield b": here\n\n" + _event(hello)
        self.connected.set()
        while True:
            try:
                message = messages.get(timeout=1.0)
            except Empty:
                yield b": still here\n\n"
                continue
            if message is None:
                return
            yield _event(message)


def _entry(status: int, content: bytes) -> dict[str, Any]:
    """What an exchange says of one of its parts."""
    return {"status": status} if status < 400 else {"status": status, **json.loads(content)}


def _event(message: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(message).encode() + b"\n\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *arguments: Any) -> None:
        self._connections: set[Any] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def end_connections(self) -> None:
        """End all connections that are open."""
        for connection in [*self._connections]:
            with contextlib.suppress(OSError):
                # Ended already.
                connection.shutdown(2)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about connections that broke."""


class _Handler(BaseHTTPRequestHandler):
    server_side: FakeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def handle_any(self) -> None:
        """Answer one request."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): text for name, text in self.headers.items()}
        if self.command == "GET" and self.path.endswith("/work") and not self._is_refused(headers):
            self._stream()
            return
        self.server_side.asked.append((self.client_address[1], self.path))
        status, content = self.server_side.answer(self.command, self.path, headers, body)
        self.send_response_only(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 — names it looks for

    def _is_refused(self, headers: Mapping[str, str]) -> bool:
        return "work" in self.server_side.refuse or headers["authorization"] != f"Bearer {TOKEN}"

    def _stream(self) -> None:
        self.send_response_only(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for event in self.server_side.messages():
            self.wfile.write(event)
            self.wfile.flush()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def wait_until(condition: Any, timeout_s: float = WAIT_S) -> None:
    """Wait for something another process does."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
