"""A collector for tests: takes spans by OTLP over HTTP, in protobuf, and keeps what they say.

It answers what a test has chosen: 200, another status, garbage, or nothing for a long time. `drawn`
shows one trace as text, a line a span, indented below its parent.
"""

import contextlib
import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

WAIT_LIMIT_S: Final = 60.0
STEP_S: Final = 0.05


@dataclass(frozen=True)
class SeenSpan:
    """A span as it arrived. Ids are in hexadecimal; `parent_id` is empty for a root."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    is_error: bool
    tracestate: str
    links: tuple[str, ...]
    attributes: dict[str, Any] = field(hash=False)
    resource: dict[str, Any] = field(hash=False)

    @property
    def duration_ms(self) -> float:
        """Return how long it took."""
        return (self.end_ns - self.start_ns) / 1e6


class Collector:
    """What has arrived. `answer` says how a request is answered, given its number."""

    def __init__(self) -> None:
        self.spans: list[SeenSpan] = []
        self.requests_count = 0
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[int], tuple[int, bytes, float]] = lambda _: (200, b"", 0.0)
        """Returns status, body and how many seconds to wait before, for each request."""
        self.port = 0
        self._lock = threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a server sends its spans here, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def take(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes, float]:
        """Take one request; return its answer."""
        with self._lock:
            self.requests_count += 1
            self.headers.append(headers)
            chosen = self.answer(self.requests_count)
            if headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            self.bodies.append(body)
            if chosen[0] == 200:
                self.spans.extend(_decoded(body))
            return chosen

    def wait(self, what: Callable[[list[SeenSpan]], bool]) -> list[SeenSpan]:
        """Wait until it is so, and return all spans. Raises AssertionError after a long time."""
        limit = time.monotonic() + WAIT_LIMIT_S
        while True:
            with self._lock:
                spans = list(self.spans)
            if what(spans):
                return spans
            assert time.monotonic() < limit, "\n".join(sorted(f"{one}" for one in spans))
            time.sleep(STEP_S)

    def wait_for(self, *names: str) -> list[SeenSpan]:
        """Wait until there is a span of each of these names, as often as it is named."""

        def are_there(spans: list[SeenSpan]) -> bool:
            seen = [span.name for span in spans]
            return all(seen.count(name) >= names.count(name) for name in names)

        return self.wait(are_there)


def _decoded(body: bytes) -> Iterator[SeenSpan]:
    asked = ExportTraceServiceRequest.FromString(body)
    for of_resource in asked.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield SeenSpan(
                    span.name,
                    type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code == 2,
                    span.trace_state,
                    tuple(link.span_id.hex() for link in span.links),
                    _attributes(span.attributes),
                    resource,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # servers are killed here
                super().handle()

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", "0"))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, body, wait_s = collector.take(headers, self.rfile.read(length))
            over.wait(wait_s)
            try:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                if status == 429:
                    self.send_header("retry-after", "0")
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                self.close_connection = True  # the server has waited long enough

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    over = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def orphans(spans: list[SeenSpan], known: frozenset[str] = frozenset()) -> list[SeenSpan]:
    """Return the spans whose parents have not arrived. `known` are those of clients."""
    there = {span.span_id for span in spans} | known
    return [span for span in spans if span.parent_id and span.parent_id not in there]


def drawn(spans: list[SeenSpan], trace_id: str) -> str:
    """Return one trace as text: a line a span, below its parent, with what it says."""
    of_trace = sorted(
        (span for span in spans if span.trace_id == trace_id), key=lambda one: one.start_ns
    )
    first_ns = of_trace[0].start_ns if of_trace else 0
    there = {span.span_id for span in of_trace}
    lines: list[str] = []

    def draw(span: SeenSpan, depth: int) -> None:
        said = span.attributes
        about = [
            str(said[name])
            for name in ("troth.promise.id", "troth.promise.state", "troth.outcome", "troth.result")
            if name in said
        ]
        who = said.get("troth.process.id")
        about += [f"by {who}"] if who else []
        start_ms = (span.start_ns - first_ns) / 1e6
        mark = " !" if span.is_error else ""
        lines.append(
            f"{start_ms:8.0f} ms  {'  ' * depth}{span.name}  [{span.kind.lower()}, "
            f"{span.duration_ms:.1f} ms] {', '.join(about)}{mark}"
        )
        for child in of_trace:
            if child.parent_id == span.span_id:
                draw(child, depth + 1)

    for span in of_trace:
        if not span.parent_id:
            draw(span, 0)
        elif span.parent_id not in there:
            lines.append(f"{'':>12}(orphan)")
            draw(span, 1)
    return "\n".join(lines)
