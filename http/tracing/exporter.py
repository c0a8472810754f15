"""The exporter's thread: makes spans of OpenTelemetry of what the event loop hands over.

The SDK does the rest: its `BatchSpanProcessor` collects them and its OTLP exporter sends them, as
`encoding.py` writes them, in a thread of its own, and tries again what the collector says may be
tried again. A collector that is slow, dead or answers garbage costs spans, which are counted, and
no request anything. This module is imported only when there are to be traces: it needs the extra
`otel`.
"""

import os
import sys
from collections.abc import Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Final

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.trace import SpanContext as OtelContext
from opentelemetry.trace import SpanKind as OtelKind

from troth import __version__

from . import encoding
from .contexts import SpanContext
from .spans import SPANS_LIMIT_COUNT, FinishedSpan, SpanQueue

SCHEDULE_DELAY_MS: Final = 1_000
"""How long a span waits for others; with the SDK's 5 s more would be lost with a killed server."""
BATCH_LIMIT_COUNT: Final = 128
"""Spans that are encoded in one go: small, since the event loop waits for the interpreter then."""
SWITCH_INTERVAL_S: Final = 0.001
"""How long a thread may keep the interpreter while the event loop waits for it."""
_KINDS: Final = tuple(OtelKind)  # by number, as `SpanKind`
_UNSET: Final = Status(StatusCode.UNSET)
_log = structlog.get_logger("troth.http.tracing")


class CountingExporter(SpanExporter):
    """An exporter that says how many spans have arrived, and how many have not."""

    def __init__(self, exporter: SpanExporter, queue: SpanQueue) -> None:
        self._exporter = exporter
        self._queue = queue

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans. Raises nothing: what fails is counted."""
        try:
            result = self._exporter.export(spans)
        except Exception:
            _log.exception("spans could not be sent", count=len(spans))
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._queue.sent_count += len(spans)
        else:
            self._queue.failed_count += len(spans)
        return result

    def shutdown(self) -> None:
        """Give up what is being tried again."""
        self._exporter.shutdown()


class Exporter:
    """The thread, and the SDK's parts behind it; it begins with its first spans."""

    def __init__(
        self,
        queue: SpanQueue,
        service_name: str | None,
        exporter: SpanExporter | None = None,
    ) -> None:
        """Initialize. Without a `service_name` the environment has one."""
        self._queue = queue
        named = {SERVICE_VERSION: __version__}
        if service_name is not None:
            named[SERVICE_NAME] = service_name
        self._resource = Resource.create(named)
        self._scope = InstrumentationScope("troth", __version__)
        encoding.use()
        self._exporter = CountingExporter(exporter or OTLPSpanExporter(), queue)
        self._handed: SimpleQueue[list[FinishedSpan] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="troth-traces", daemon=True)
        self._is_started = False

    def give(self, spans: list[FinishedSpan]) -> None:
        """Hand over finished spans. Never blocks."""
        if not self._is_started:
            self._is_started = True
            sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
            self._thread.start()
        self._handed.put(spans)

    def close(self, timeout_s: float) -> None:
        """Send what is left, for at most that time; to be called in a thread."""
        if not self._is_started:
            return
        self._handed.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._exporter.shutdown()

    def _run(self) -> None:
        delay_ms = os.environ.get("OTEL_BSP_SCHEDULE_DELAY", "")
        batch_count = os.environ.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "")
        processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=SPANS_LIMIT_COUNT,  # never full: `SpanQueue` lets in no more
            schedule_delay_millis=_positive(delay_ms, SCHEDULE_DELAY_MS),
            max_export_batch_size=min(_positive(batch_count, BATCH_LIMIT_COUNT), SPANS_LIMIT_COUNT),
        )
        while (spans := self._handed.get()) is not None:
            for span in spans:
                try:
                    processor.on_end(self._made(span))
                except Exception:
                    self._queue.failed_count += 1
                    _log.exception("a span could not be made")
        processor.shutdown()  # type: ignore[no-untyped-call]

    def _made(self, span: FinishedSpan) -> ReadableSpan:
        name, attributes = span.describe(*span.about)
        context = span.context
        parent = None
        if span.parent_id is not None:
            parent = _context(context.with_span(span.parent_id), is_remote=True)
        return ReadableSpan(
            name,
            _context(context),
            parent,
            self._resource,
            attributes,
            links=() if span.link is None else (Link(_context(span.link, is_remote=True)),),
            kind=_KINDS[span.kind],
            status=_UNSET if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


def _context(context: SpanContext, *, is_remote: bool = False) -> OtelContext:
    state = TraceState.from_header([context.tracestate]) if context.tracestate else None
    return OtelContext(
        context.trace_id, context.span_id, is_remote, TraceFlags(context.flags), state
    )


def _positive(text: str, otherwise: int) -> int:
    """Return a positive number that a variable has; what is none counts as absent."""
    return int(text) if text.isascii() and text.isdigit() and int(text) else otherwise
