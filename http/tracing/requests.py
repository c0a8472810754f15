"""The span of a request: begun when it is admitted, ended when it has been answered.

- A caller's `traceparent` counts. Without one, a request about a task or on behalf of one
  (`Task-Id`, the envelope protocol's `task.…`) belongs to the task's trace; one that changes a
  promise to the promise's; a new promise to that of its parent, which its tags or its id name. Any
  other begins a trace of its own, if the sampler chooses it. Probes, scrapes, heartbeats and pages
  begin none.
- What the request makes has the request's span as its parent: `begin` returns the headers with
  that in place of what the client sent. Where the trace is not wanted they stay as they were.
- Nothing of what was sent goes into a span but the id of the promise: no header, query or body.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct
from structlog.contextvars import bound_contextvars

from troth.core.codes import Code
from troth.core.grammar import task_ids
from troth.core.model import TAG_ORIGIN, TAG_PARENT, TAG_ROOT, Promise
from troth.core.workflows import execute_key
from troth.http.wire.decoding import CallHeaders, header_text
from troth.http.wire.requests import Request

from .contexts import Ids, Sampler, SpanContext, parse, sampled_context
from .spans import Attributes, FinishedSpan, SpanKind, SpanQueue

WAITING_LIMIT_COUNT: Final = 10_000
"""Sampled requests that may be in flight; more are served, but without times of their waiting."""
_FIRST_FAILURE: Final = 500
_PARENT: Final = b"traceparent"
_STATE: Final = b"tracestate"
_QUIET_GROUPS: Final = frozenset({"Workers", "Server", "Sessions", "Questions"})
_PEEK_BYTES: Final = 256
_TASK: Final = b'"task.'
_LINEAGE_LIMIT_BYTES: Final = 4 << 10
"""A longer envelope is not looked into for its tags."""
_CREATION: Final = "task.create"
"""The only operation on a task that begins one."""


class Route(Protocol):
    """The part of a row of the endpoint table that counts here."""

    @property
    def group(self) -> str:
        """The group of the row."""
        ...

    @property
    def path(self) -> str:
        """The path, with names for its parameters."""
        ...

    @property
    def public(self) -> bool:
        """Return whether it needs no credentials."""
        ...

    @property
    def auth_in_body(self) -> bool:
        """Return whether its body is an envelope."""
        ...

    @property
    def reads_raw(self) -> frozenset[bytes]:
        """The headers that it reads."""
        ...


class RequestNotes(Protocol):
    """The request log, as far as it is told of answers."""

    @property
    def above_s(self) -> float:
        """Return how many seconds a good answer takes, at most, that need not be noted."""
        ...

    def note(self, request: Request, status: int, duration_s: float) -> None:
        """Note an answered request."""
        ...


class RequestSpan(Struct, eq=False):
    """The span of a request under way. `stepped_ns` is when it was carried out; 0: unknown."""

    context: SpanContext
    parent_id: int | None
    route: str
    promise_id: str | None = None
    operation: str | None = None
    stepped_ns: int = 0


class _Subject(Struct, frozen=True):
    id: Any = None
    awaiter: Any = None
    awaited: Any = None
    tags: Any = None


class _Peek(Struct, frozen=True):
    kind: str = ""
    data: _Subject = _Subject()


_peek: Final = msgspec.json.Decoder(_Peek).decode


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
        self._ids = ids
        self._now_ns = now_ns
        self._context_of_task = context_of_task
        self._finder = finder
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
        if _PARENT in request.headers:
            context = self._of_caller(request)
        elif (task := _task_of(request, route, headers, values, body)) is not None:
            context = self._below(self._context_of_task(task))
        elif (parent := self._parent(request, route, values, body)) is not None:
            context = self._below(sampled_context(parent.trace))
        elif route.group in _QUIET_GROUPS or (route.public and not route.auth_in_body):
            context = None
        else:
            context = self._root()
        if context is None:
            request.span = False
            return headers
        span = RequestSpan(*context, f"{request.method} {route.path}")
        request.span = span
        if route.auth_in_body:
            span.operation, span.promise_id = _envelope(request.body)
        else:
            span.promise_id = _promise_id(route, values, body)
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
        waits = (span.stepped_ns, start_ns, end_ns)
        about = (span, request.method, path, status, request.refusal, request.peer, waits)
        self._queue.add(
            FinishedSpan(
                span.context,
                span.parent_id,
                SpanKind.SERVER,
                start_ns,
                end_ns,
                self._described,
                about,
                error=f"HTTP {status}" if status >= _FIRST_FAILURE else None,
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
        waits: tuple[int, int, int],
    ) -> tuple[str, Attributes]:
        """Return the name and the attributes of a request's span."""
        made: Attributes = {
            "http.request.method": method,
            "http.response.status_code": status,
            "url.scheme": "http",
        }
        _, _, route = span.route.partition(" ")
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
        stepped_ns, start_ns, end_ns = waits
        if stepped_ns:
            made["troth.wait.queue_ms"] = max(stepped_ns - start_ns, 0) / 1e6
            made["troth.wait.disk_ms"] = max(end_ns - stepped_ns, 0) / 1e6
        return span.route, made

    def _late(self, request: Request) -> RequestSpan | None:
        """Return the span of a request that was refused before it was admitted, if one is wanted.

        Without a caller's trace there is none: strangers would fill the collector.
        """
        context = self._of_caller(request) if _PARENT in request.headers else None
        return None if context is None else RequestSpan(*context, request.method)

    def _parent(
        self, request: Request, route: Route, values: Mapping[str, str], body: Any
    ) -> Promise | None:
        """Return the promise that a request changes, or else the parent of the one that it makes.

        Only what tags and the id's beginning name directly counts: this is asked for each request.
        """
        if route.auth_in_body:
            if len(request.body) > _LINEAGE_LIMIT_BYTES:
                return None
            tags, own_id = _lineage(request.body)
        elif route.group == "Promises" and request.method != "GET":
            tags = getattr(getattr(body, "promise", None) or body, "tags", None)
            own_id = _promise_id(route, values, body)
        else:
            return None
        if not isinstance(own_id, str):
            return None
        found = self._finder(own_id)
        if found is None and isinstance(tags, dict):
            named = tags.get(TAG_PARENT) or tags.get(TAG_ROOT) or tags.get(TAG_ORIGIN)
            if isinstance(named, str):
                found = self._finder(named)
        if found is None:
            end = max(own_id.rfind("."), own_id.rfind(":"))
            if end > 0:
                found = self._finder(own_id[:end])
        return found

    def _of_caller(self, request: Request) -> tuple[SpanContext, int | None] | None:
        headers = request.headers
        repeated = request.repeated or {}
        parent = None
        if _PARENT not in repeated:
            state = repeated.get(_STATE, headers.get(_STATE, b""))
            parent = parse(header_text(headers[_PARENT]), header_text(state))
        return self._root() if parent is None else self._below(parent)

    def _below(self, parent: SpanContext | None) -> tuple[SpanContext, int | None] | None:
        if parent is None or not self._sampler.wants(parent):
            return None
        span_id = self._ids.span_id()
        return parent._replace(span_id=span_id, flags=parent.flags | 1), parent.span_id

    def _root(self) -> tuple[SpanContext, int | None] | None:
        trace_id = self._ids.trace_id()
        if not self._sampler.wants_root(trace_id):
            return None
        return SpanContext(trace_id, self._ids.span_id()), None


def trace_fields(request: Request) -> dict[str, str]:
    """Return what lines of the log say about a request, if it is traced."""
    if not request.span:
        return {}
    context = request.span.context
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _envelope(body: bytes) -> tuple[str | None, str | None]:
    """Return the kind of an envelope's operation, and the id that it is about, if it says so."""
    try:
        peeked = _peek(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None  # its handler says what is wrong
    named = peeked.data.id
    return peeked.kind or None, named if isinstance(named, str) else None


def _lineage(body: bytes) -> tuple[Any, Any]:
    """Return the tags and the id of what an envelope's operation makes."""
    try:
        data = _peek(body).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None
    return data.tags, data.id or data.awaiter or data.awaited


def _task_of(
    request: Request, route: Route, headers: CallHeaders, values: Mapping[str, str], body: Any
) -> str | None:
    """Return the key (`key_of`) of the task that a request is about or made on behalf of.

    Empty for requests about tasks that name none; None for those about something else.
    """
    if headers.fence is not None:
        return headers.fence.task_id
    if route.group == "Tasks":
        return values.get("id") or getattr(body, "id", None) or ""
    if route.auth_in_body and _TASK in request.body[:_PEEK_BYTES]:
        kind, task_id = _envelope(request.body)
        return None if kind == _CREATION else execute_key(task_id or "")
    return None


def _promise_id(route: Route, values: Mapping[str, str], body: Any) -> str | None:
    """Return the promise that a request is about, if there is one."""
    body = getattr(body, "promise", None) or body
    found = (
        getattr(body, "root_promise_id", None)  # of a callback, which is for that one's work
        or values.get("id")
        or getattr(body, "promise_id", None)
        or getattr(body, "id", None)
    )
    if not isinstance(found, str):
        return None
    if route.group == "Promises":
        return found
    return task_ids.home(found) if route.group == "Tasks" else None
