"""The rows of the endpoint table, and what all handlers share.

A row says everything about an endpoint: its path, what it takes, what it answers, its handler.
Routing, decoding, validation, OpenAPI, the documentation page and metrics read the rows; nothing
about an endpoint is written anywhere else. The rows themselves are in `*_endpoints.py`, together in
`table.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from troth.core.catalog import RESERVED_PREFIX, Scope
from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.replies import Reply
from troth.http.wire.answers import Shape
from troth.http.wire.decoding import NO_HEADERS, CallHeaders
from troth.http.wire.errors import ApiError
from troth.http.wire.json_text import dump
from troth.http.wire.principals import ACCOUNT_SCOPES, OPEN_SCOPES
from troth.http.wire.requests import Request, Response, json_response
from troth.http.wire.schema_parts import Schema
from troth.persistence.memory_reserve import RESERVE, with_reserve

from .context import Api
from .permissions import ONE_ID, ONE_ID_UNLESS_FENCED, refuse_unless_permitted
from .session_cookies import SessionUse
from .shards_port import REFUSALS_FROM, ask


class Header(StrEnum):
    """Request headers that endpoints may read."""

    IDEMPOTENCY_KEY = "Idempotency-Key"
    STRICT = "Strict"
    TASK_ID = "Task-Id"
    TASK_COUNTER = "Task-Counter"
    TRACEPARENT = "traceparent"
    TRACESTATE = "tracestate"


FENCE = (Header.TASK_ID, Header.TASK_COUNTER)
TRACE = (Header.TRACEPARENT, Header.TRACESTATE)


class Call(Struct, eq=False):
    """A request that has passed all general checks, with everything decoded."""

    request: Request
    path: Mapping[str, str]
    headers: CallHeaders = NO_HEADERS
    body: Any = None


_STATUSES: Final = {code: code.status for code in Code if code < REFUSALS_FROM}
"""Of good answers. To look into a member of an enum costs more."""

Handler = Callable[[Api, Call], Awaitable[Response]]


class Renewals(Struct, frozen=True):
    """What all shards are asked together that hold one of these (id, version): renew its lease."""

    pid: str
    tasks: tuple[tuple[str, int], ...]


class HalvedHandler(ABC):
    """A handler in two halves that wait for nothing.

    It is a handler like all others; but a caller that the shards can call back, such as the hot
    lane, uses the halves and needs neither coroutine nor task.
    """

    __slots__ = ()

    @abstractmethod
    def question(self, api: Api, call: Call) -> Command | Renewals | None:
        """Return what is asked, or None if it takes a coroutine. Raises ApiError."""

    @abstractmethod
    def rendered(self, api: Api, call: Call, reply: Reply) -> tuple[int, bytes]:
        """Return status and JSON text of the answer (`b""`: no body). Raises ApiError."""

    @abstractmethod
    async def __call__(self, api: Api, call: Call) -> Response:
        """Do all of it. Raises ApiError."""


@dataclass(frozen=True, slots=True)
class Asking(HalvedHandler):
    """A handler that asks one shard one thing; see HalvedHandler.

    `command` makes the command (raises ApiError), `shown` the JSON text for a good reply, or `b""`
    for an answer without a body. `acted` is told that there was one, before it is answered.
    """

    command: Callable[[Api, Call], Command]
    shown: Callable[[Api, Reply], bytes]
    acted: Callable[[Api, Call], None] | None = None

    def question(self, api: Api, call: Call) -> Command:
        """Return the command that the request asks for, if its sender may. Raises ApiError."""
        make = self.command  # called as a method, an attribute costs more
        command = make(api, call)
        kind, principal = type(command), call.request.principal
        if (
            (kind in ONE_ID or (kind in ONE_ID_UNLESS_FENCED and command.fence is None))  # type: ignore[attr-defined]
            and not principal.id_prefix
            and not command.id.startswith(RESERVED_PREFIX)  # type: ignore[attr-defined]
        ):  # as below, written out for the commonest
            return command
        refuse_unless_permitted(principal, command)
        return command

    def rendered(self, api: Api, call: Call, reply: Reply) -> tuple[int, bytes]:
        """Return status and body for a good reply. Raises ApiError for every refusal."""
        code = reply.code
        if code not in _STATUSES:
            raise ApiError(code)
        if self.acted is not None:
            self.acted(api, call)
        shown = self.shown
        return _STATUSES[code], shown(api, reply)

    async def __call__(self, api: Api, call: Call) -> Response:
        """Ask and wait. Raises ApiError for every refusal."""
        try:
            command = self.command(api, call)
        except MemoryError:
            RESERVE.give_away()
            raise ApiError(Code.OVERLOADED) from None  # nothing was carried out
        reply = await ask(api.shards, command, call.request)
        if self.acted is not None:
            self.acted(api, call)
        body = with_reserve(lambda: self.shown(api, reply))
        return json_response(reply.code.status, body) if body else Response(reply.code.status)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in path, query or header, for documentation; `schema` says what is accepted."""

    name: str
    description: str
    schema: Schema
    required: bool = False
    deep: bool = False
    example: object = None


@dataclass(frozen=True, slots=True)
class Success:
    """A possible good answer. `shape` says what is in it; None means no body."""

    status: int
    description: str
    shape: Shape | None = None
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class RawBody:
    """A request body that the handler reads itself, and which types of content it takes.

    What JSON may be in it is said by `body`, if only that; by `items`, of what there may be an
    array; or by a `schema`.
    """

    description: str
    media_types: tuple[str, ...]
    required: bool = True
    body: type[Struct] | None = None
    items: type[Struct] | None = None
    schema: Schema | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A row of the table.

    `name` is the operation's id, unique. `refusals` are the codes particular to this endpoint;
    those that every endpoint has are added from its other properties. `examples` are commands of a
    shell, for the documentation page. `scope` is what a token must allow (see `authentication.py`),
    or else `or_scope`; with `any_scope` whatever credentials there are suffice, and only `public`
    endpoints, which need no credentials, have neither. `sheltered`
    ones work only while the server is ready. `any_host` ones answer whatever `Host` says (see
    `hosts.py`). A GET that `changes_by_link` changes something, so no page of another site may open
    it. Of those that `answers_much`, only as many are carried out at a time as fit in memory. With
    `auth_in_body` the body may say who sends it, so a short one is read from any client. What is
    sent is either JSON, decoded into `body`, or a `raw_body`, or nothing. `raw_headers` too the
    handler reads itself. `refused` renders refusals where they have a form of their own. One that
    `waits` does so while the shards are overloaded, one that `awaits_start` while the server
    starts. A handler `in_halves` is one that the hot lane may use so.

    Derived: one that `has_head` takes HEAD too; of a stream, that gives the headers and opens
    nothing, which its handler sees to. `is_open` endpoints need no credentials while the server has
    neither users nor accounts; `session_use` says whether a browser's session counts;
    `needs_account` ones are about what belongs to an account, so they
    need a token.
    """

    name: str
    group: str
    method: str
    path: str
    summary: str
    handler: Handler
    description: str = ""
    body: type[Struct] | None = None
    raw_body: RawBody | None = None
    headers: tuple[Header, ...] = ()
    raw_headers: tuple[Parameter, ...] = ()
    path_parameters: tuple[Parameter, ...] = ()
    query: tuple[Parameter, ...] = ()
    successes: tuple[Success, ...] = ()
    refusals: tuple[Code, ...] = ()
    examples: tuple[str, ...] = ()
    scope: Scope | None = None
    or_scope: Scope | None = None
    any_scope: bool = False
    public: bool = False
    sheltered: bool = True
    any_host: bool = False
    answers_much: bool = False
    auth_in_body: bool = False
    changes_by_link: bool = False
    deprecated: bool = False
    refused: Callable[[Request, ApiError], Response] | None = None
    waits: bool = False
    awaits_start: bool = False
    in_halves: HalvedHandler | None = field(init=False)
    has_head: bool = field(init=False)
    session_use: SessionUse = field(init=False)
    is_open: bool = field(init=False)
    needs_account: bool = field(init=False)
    reads_raw: frozenset[bytes] = field(init=False)

    def __post_init__(self) -> None:
        """Derive what is looked at for each request; headers as they are and as requests have them.

        A row without a scope that is not public would be open to all, so there is none.
        """
        has_scope = self.any_scope or self.scope is not None
        assert self.public != has_scope, f"{self.name}: either public or with a scope"
        is_stream = any(one.media_type == "text/event-stream" for one in self.successes)
        has_head = self.method == "GET" and (is_stream or not self.changes_by_link)
        halves = self.handler if isinstance(self.handler, HalvedHandler) else None
        object.__setattr__(self, "in_halves", halves)
        object.__setattr__(self, "has_head", has_head)
        object.__setattr__(self, "session_use", self._use_of_sessions(is_stream=is_stream))
        object.__setattr__(self, "is_open", self.scope in OPEN_SCOPES)
        object.__setattr__(self, "needs_account", self.scope in ACCOUNT_SCOPES)
        raw = frozenset(header.value.lower().encode() for header in self.headers)
        object.__setattr__(self, "reads_raw", raw)

    def _use_of_sessions(self, *, is_stream: bool) -> SessionUse:
        if self.changes_by_link:
            return SessionUse.REFUSED
        if self.public:
            return SessionUse.IGNORED
        return SessionUse.COUNTS_FOR_STREAM if is_stream else SessionUse.COUNTS


ID_PARAMETER = Parameter(
    "id",
    "The id, percent-encoded; it may contain slashes.",
    {"type": "string", "minLength": 1},
    required=True,
    example="order/42",
)


def require_account(call: Call) -> str:
    """Return the id of the account that a request is for.

    Only for endpoints whose scope is one of `ACCOUNT_SCOPES`: no caller without an account gets
    there.
    """
    account_id = call.request.principal.account_id
    assert account_id, "authenticate refuses callers without an account"
    return account_id


def require_scope(call: Call, scope: Scope) -> None:
    """Raise ApiError (403) unless the sender has this scope too, besides those of the row."""
    if scope not in call.request.principal.scopes:
        message = f"The request's credentials lack the scope `{scope.value}`, which this needs."
        raise ApiError(Code.FORBIDDEN_SCOPE, message=message)


def answer(code: Code, made: Struct | list[Any]) -> Response:
    """Return a JSON answer with the code's status."""
    return json_response(code.status, dump(made))


def nothing(_api: Api, _reply: Reply) -> bytes:
    """Return the answer to what has been done and leaves nothing to show."""
    return b""
