"""The span of a request: begun when it is admitted, ended when it has been answered.

- A caller's `traceparent` counts; without one, what the request is about (`subjects.py`). Any other
  begins a trace of its own, if the sampler chooses it. Probes, scrapes, heartbeats and pages begin
  none.
- What the request makes has the request's span as its parent: `begin` returns the headers with
  that in place of what the client sent. Where the trace is not wanted they stay as they were.
- Nothing of what was sent goes into a span but the id of the promise: no header, query or body.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from msgspec import Struct
from structlog.contextvars import bound_contextvars

from troth.core.codes import Code
from troth.core.grammar.traceparents import SAMPLED
from troth.core.model import Promise
from troth.http.wire.decoding import CallHeaders, header_text
from troth.http.wire.requests import Request

from .contexts import (
    RATIO_MASK,
    SPAN_ID_BITS,
    TRACE_ID_BITS,
    Ids,
    Sampler,
    SpanContext,
    parse,
)
from .spans import Attributes, FinishedSpan, SpanKind, SpanQueue
from .subjects import ROOT, Route, RouteKind, Subjects, kind_of, peek, promise_id_of

_SERVER: Final = SpanKind.SERVER
WAITING_LIMIT_COUNT: Final = 10_000
"""Sampled requests that may be in flight; more are served, but without times of their waiting."""
_FIRST_FAILURE: Final = 500
_PARENT: Final = b"traceparent"
_STATE: Final = b"tracestate"
_UNSAMPLED: Final = re.compile(
    rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]"
)
"""What most callers send that do not record their trace; others are looked at closely."""


class RequestNotes(Protocol):
    """The request log, as far as it is told of answers."""

    @property
    def above_s(self) -> float:
        """Return how many seconds a good answer takes, at most, that need not be noted."""
        ...

    def note(self, request: Request, status: int, duration_s: float) -> None:
        """Note an answered request."""
        ...


class RequestSpan(Struct, eq=False, gc=False):
    """The span of a request under way.

    `route` is its path in the endpoint table; empty if it was refused before that was looked up.
    `stepped_ns` is when it was carried out; 0: unknown.
    """

    context: SpanContext
    parent_id: int | None
    route: str
    promise_id: str | None = None
    operation: str | None = None
    stepped_ns: int = 0


class RequestSpans:
    """The spans of all requests of a server; also its request log, which it hands on to `log`."""

    def __init__(
        self,
        queue: SpanQueue,
        sampler: Sampler,
        ids: Ids,
        *,
        now_ns: Callable[[], int],
        context_of_task: Callable[[str], SpanContext | None],
        finder: Callable[[str], Promise | None],
        log: RequestNotes,
        shows_ids: bool = True,
    ) -> None:
        """Initialize. `finder` returns a promise that is in memory, by its id.

        `context_of_task` says where spans of a task's holder hang, by the key of its message.
        """
        self.above_s: Final = -1.0  # every answer is noted here
        self._queue = queue
        self._sampler = sampler
        self._bound = sampler.bound
        self._ids = ids
        self._bits = ids.bits
        self._follows_parent = sampler.follows_parent
        self._now_ns = now_ns
        self._context_of_task = context_of_task
        self._subjects = Subjects(finder, context_of_task)
        self._kinds: dict[str, RouteKind] = {}
        self._log = log
        self._shows_ids = shows_ids
        self._waiting: dict[str, RequestSpan] = {}

    def begin(
        self,
        request: Request,
        route: Route,
        headers: CallHeaders,
        values: Mapping[str, str],
        body: Any,
    ) -> CallHeaders:
        """Decide about a request that is admitted; return the headers that its handler gets."""
        kind = self._kinds.get(route.name)
        if kind is None:
            kind = self._kinds[route.name] = kind_of(route)
        path = route.path
        if _PARENT in request.headers:
            span = self._of_caller(request, path)
        else:
            parent = self._subjects.parent(kind, headers.fence, values, body, request.body)
            if parent is ROOT:
                span = self._root(path)
            else:
                span = None if parent is None else self._below(parent, path)
        if span is None:
            request.span = False
            return headers
        request.span = span
        if kind is RouteKind.ENVELOPE:
            span.operation, span.promise_id = peek(request.body)
        else:
            span.promise_id = promise_id_of(kind, values, body)
        if span.promise_id is not None and len(self._waiting) < WAITING_LIMIT_COUNT:
            self._waiting[span.promise_id] = span
        if _PARENT not in route.reads_raw:
            return headers
        return CallHeaders(
            headers.idempotency_key, headers.strict, headers.fence, span.context.trace()
        )

    def context_of_task(self, key: str) -> SpanContext | None:
        """Return where the spans of a task's holder hang, by the key of its message."""
        return self._context_of_task(key)

    def stepped(self, promise_id: str) -> RequestSpan | None:
        """Note that the request about a promise, if there is one, is carried out now."""
        span = self._waiting.get(promise_id)
        if span is not None and not span.stepped_ns:
            span.stepped_ns = self._now_ns()
        return span

    def note(self, request: Request, status: int, duration_s: float) -> None:
        """End the span of an answered request, and write its line of the log."""
        span = request.span
        if span is None:
            request.span = span = self._late(request)
        if not span:
            if status >= 400 or duration_s > self._log.above_s:
                self._log.note(request, status, duration_s)
            return
        end_ns = self._now_ns()
        self._end(request, span, status, end_ns, end_ns - round(duration_s * 1e9))
        if status >= 400 or duration_s > self._log.above_s:
            with bound_contextvars(**trace_fields(request)):
                self._log.note(request, status, duration_s)

    def _end(
        self, request: Request, span: RequestSpan, status: int, end_ns: int, start_ns: int
    ) -> None:
        promise_id = span.promise_id
        if promise_id is not None and self._waiting.get(promise_id) is span:
            del self._waiting[promise_id]
        path = request.raw_path if self._shows_ids else None
        # Not the request itself: spans may wait for long, and its body may be large.
        about = (
            span,
            request.method,
            path,
            status,
            request.refusal,
            request.peer,
            start_ns,
            end_ns,
        )
        error = f"HTTP {status}" if status >= _FIRST_FAILURE else None
        self._queue.add(
            FinishedSpan(
                span.context,
                span.parent_id,
                _SERVER,
                start_ns,
                end_ns,
                self._described,
                about,
                error,
            )
        )

    def _described(
        self,
        span: RequestSpan,
        method: str,
        path: bytes | None,
        status: int,
        refusal: Code | None,
        peer: str | None,
        start_ns: int,
        end_ns: int,
    ) -> tuple[str, Attributes]:
        """Return the name and the attributes of a request's span."""
        made: Attributes = {
            "http.request.method": method,
            "http.response.status_code": status,
            "url.scheme": "http",
        }
        route = span.route
        if route:
            made["http.route"] = route
        if path is not None:
            made["url.path"] = header_text(path).partition("?")[0]
        if peer is not None:
            made["client.address"] = peer
        if span.operation is not None:
            made["troth.operation"] = span.operation
        if span.promise_id is not None and self._shows_ids:
            made["troth.promise.id"] = span.promise_id
        if refusal is not None:
            made["troth.code"] = refusal.value
        if status >= _FIRST_FAILURE:
            made["error.type"] = str(status)
        stepped_ns = span.stepped_ns
        if stepped_ns:
            made["troth.wait.queue_ms"] = max(stepped_ns - start_ns, 0) / 1e6
            made["troth.wait.disk_ms"] = max(end_ns - stepped_ns, 0) / 1e6
        return f"{method} {route}" if route else method, made

    def _late(self, request: Request) -> RequestSpan | None:
        """Return the span of a request that was refused before it was admitted, if one is wanted.

        Without a caller's trace there is none: strangers would fill the collector.
        """
        return self._of_caller(request, "") if _PARENT in request.headers else None

    def _of_caller(self, request: Request, route: str) -> RequestSpan | None:
        headers = request.headers
        repeated = request.repeated
        if repeated and _PARENT in repeated:
            return self._root(route)
        given = headers[_PARENT]
        if self._follows_parent and _UNSAMPLED.fullmatch(given):
            return None  # as `Sampler.wants`, without making numbers of it
        state = headers.get(_STATE, b"")
        if repeated:
            state = repeated.get(_STATE, state)
        parent = parse(header_text(given), header_text(state))
        return self._root(route) if parent is None else self._below(parent, route)

    def _below(self, parent: SpanContext, route: str) -> RequestSpan | None:
        if not self._sampler.wants(parent):
            return None
        flags = parent.flags | SAMPLED
        context = SpanContext(parent.trace_id, self._ids.span_id(), flags, parent.tracestate)
        return RequestSpan(context, parent.span_id, route)

    def _root(self, route: str) -> RequestSpan | None:
        trace_id = self._bits(TRACE_ID_BITS)
        if trace_id & RATIO_MASK >= self._bound:
            return None  # as `Sampler.wants_root`, for nearly every request
        context = SpanContext(trace_id or 1, self._bits(SPAN_ID_BITS) or 1)
        return RequestSpan(context, None, route)


def trace_fields(request: Request) -> dict[str, str]:
    """Return what lines of the log say about a request, if it is traced."""
    if not request.span:
        return {}
    context = request.span.context
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
