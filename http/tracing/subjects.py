"""What a request without a caller's trace is about, and so to which trace it belongs.

A request about a task or on behalf of one (`Task-Id`, the envelope protocol's `task.…`) belongs to
the task's trace; one that changes a promise to the promise's; a new promise to that of its parent,
which its tags or its id name. Client libraries say that much without knowing of traces. This is
asked for each request, so only names that stand in it are looked up.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from troth.core.grammar import task_ids
from troth.core.model import TAG_ORIGIN, TAG_PARENT, TAG_ROOT, Fence, Promise
from troth.core.workflows import execute_key

from .contexts import SpanContext, sampled_context

ROOT: Final = SpanContext(0, 0, 0)
"""Says that a request begins a trace of its own, if the sampler chooses it."""

_QUIET_GROUPS: Final = frozenset({"Workers", "Server", "Sessions", "Questions"})
_LIMIT_BYTES: Final = 4 << 10
"""A longer envelope is not looked into."""
_PEEK_BYTES: Final = 256
_TASK: Final = b'"task.'
_CREATION: Final = "task.create"
"""The only operation on a task that begins one."""


class RouteKind(Enum):
    """What the requests of a row of the endpoint table are about."""

    QUIET = "quiet"
    """Nothing that is worth a trace."""
    CREATION = "creation"
    CREATION_WITH_TASK = "creation with task"
    CHANGE = "change"
    """Of a promise that there is."""
    TASK = "task"
    ENVELOPE = "envelope"
    OTHER = "other"


_OTHER: Final = RouteKind.OTHER
_CREATIONS: Final = {
    "/promises": RouteKind.CREATION,
    "/promises/task": RouteKind.CREATION_WITH_TASK,
}


class Route(Protocol):
    """The part of a row of the endpoint table that counts here."""

    @property
    def name(self) -> str:
        """Return its name."""
        ...

    @property
    def group(self) -> str:
        """Return its group."""
        ...

    @property
    def method(self) -> str:
        """Return its method."""
        ...

    @property
    def path(self) -> str:
        """Return its path, with names for its parameters."""
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
        """Return the headers that it reads."""
        ...


def kind_of(route: Route) -> RouteKind:
    """Return what the requests of a row are about."""
    if route.auth_in_body:
        return RouteKind.ENVELOPE
    if route.group in _QUIET_GROUPS or route.public:
        return RouteKind.QUIET
    if route.group == "Tasks":
        return RouteKind.TASK
    if route.group == "Promises" and route.method != "GET":
        is_new = route.method == "POST"
        return _CREATIONS.get(route.path, RouteKind.CHANGE) if is_new else RouteKind.CHANGE
    return RouteKind.OTHER


class _Data(Struct, frozen=True):
    id: Any = None
    awaiter: Any = None
    awaited: Any = None
    tags: Any = None


class _Envelope(Struct, frozen=True):
    kind: str = ""
    data: _Data = _Data()


_peek: Final = msgspec.json.Decoder(_Envelope).decode
_NOTHING: Final = _Envelope()


def peek(body: bytes) -> tuple[str | None, str | None]:
    """Return the kind of an envelope's operation, and the id that it is about, if it says so."""
    seen = _envelope(body)
    return seen.kind or None, _id_of(seen.data)


def _envelope(body: bytes) -> _Envelope:
    try:
        return _peek(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _NOTHING  # its handler says what is wrong


def _id_of(data: _Data) -> str | None:
    named = data.id or data.awaiter or data.awaited
    return named if isinstance(named, str) else None


def promise_id_of(kind: RouteKind, values: Mapping[str, str], body: Any) -> str | None:
    """Return the promise that a request of the REST API is about, if there is one."""
    if kind is RouteKind.CREATION or kind is RouteKind.CREATION_WITH_TASK:
        named = (body if kind is RouteKind.CREATION else body.promise).id
        return named if isinstance(named, str) else None
    if kind is RouteKind.TASK:
        task_id = values.get("id") or getattr(body, "id", None)
        return task_ids.home(task_id) if isinstance(task_id, str) else None
    if kind is not RouteKind.CHANGE:
        return None
    # A callback is for the work of its root.
    found = getattr(body, "root_promise_id", None) or values.get("id")
    found = found or getattr(body, "promise_id", None)
    return found if isinstance(found, str) else None


class Subjects:
    """The traces of what there is. `finder` returns a promise that is in memory, by its id."""

    def __init__(
        self,
        finder: Callable[[str], Promise | None],
        context_of_task: Callable[[str], SpanContext | None],
    ) -> None:
        """Initialize. `context_of_task` says where spans of a task's holder hang, by its key."""
        self._finder = finder
        self._context_of_task = context_of_task

    def parent(
        self,
        kind: RouteKind,
        fence: Fence | None,
        values: Mapping[str, str],
        body: Any,
        raw: bytes,
    ) -> SpanContext | None:
        """Return the span that a request hangs below; None if it is not to be traced, or `ROOT`.

        `body` is the decoded one, `raw` as it came.
        """
        if fence is not None:
            return self._context_of_task(fence.task_id)
        if kind is _OTHER:
            return ROOT
        if kind is RouteKind.CREATION:
            return self._of_new(body.id or "", body.tags)
        if kind is RouteKind.CREATION_WITH_TASK:
            return self._of_new(body.promise.id or "", body.promise.tags)
        if kind is RouteKind.CHANGE:
            return self._of(promise_id_of(kind, values, body) or "")
        if kind is RouteKind.TASK:
            return self._context_of_task(values.get("id") or getattr(body, "id", None) or "")
        if kind is RouteKind.ENVELOPE:
            return self._of_envelope(raw)
        return None

    def _of_envelope(self, raw: bytes) -> SpanContext | None:
        if len(raw) > _LIMIT_BYTES and _TASK not in raw[:_PEEK_BYTES]:
            return ROOT
        seen = _envelope(raw)
        own_id = _id_of(seen.data) or ""
        if seen.kind.startswith("task.") and seen.kind != _CREATION:
            return self._context_of_task(execute_key(own_id))
        if seen.kind == "promise.create":
            return self._of_new(own_id, seen.data.tags)
        return self._of(own_id)

    def _of(self, promise_id: str) -> SpanContext | None:
        found = self._finder(promise_id)
        return ROOT if found is None else sampled_context(found.trace)

    def _of_new(self, own_id: str, tags: Any) -> SpanContext | None:
        """Return what a new promise hangs below: its parent, else what its id begins with."""
        if tags and isinstance(tags, dict):
            named = tags.get(TAG_PARENT) or tags.get(TAG_ROOT) or tags.get(TAG_ORIGIN)
            if isinstance(named, str) and named != own_id:
                found = self._finder(named)
                if found is not None:
                    return sampled_context(found.trace)
        if "." not in own_id and ":" not in own_id:
            return ROOT
        end = max(own_id.rfind("."), own_id.rfind(":"))
        return self._of(own_id[:end]) if end > 0 else ROOT
