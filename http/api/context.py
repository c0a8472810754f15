"""What handlers work with: the shards, the polls, the settings, and whether the server is ready."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from troth.core.catalog import Build, Function
from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.executions import Execution, Usage
from troth.core.limits import RESULT_WAITS_LIMIT_COUNT
from troth.core.model import Promise, PromiseState, Schedule
from troth.core.replies import Reply
from troth.http.identity.attempts import Attempts
from troth.http.identity.audit import AuditLog
from troth.http.identity.credentials import Directory
from troth.http.settings.settings import Settings
from troth.http.wire.errors import ApiError
from troth.http.wire.fields import RequestLimits
from troth.http.wire.in_flight import InFlight
from troth.persistence import process_memory
from troth.shards.clock import SystemClock
from troth.shards.delivery.polls import Polls
from troth.shards.errors import ShardsError
from troth.shards.gathering import EntryKind
from troth.shards.held import HeldMessages
from troth.shards.placement.endings import Endings
from troth.shards.placement.placement import Placement
from troth.shards.upkeep.retention import Sweeper
from troth.shards.upkeep.snapshotter import Snapshotter

from .metrics import Metrics

VERSION_HEADER_VALUE = b"0.8.2"
"""What some SDKs look for in `Resonate-Version` (decisions.md 1)."""


class Shards(Protocol):
    """The part of `troth.shards.shards.Shards` that the API needs."""

    @property
    def cursor_secret(self) -> bytes:
        """The key that cursors are signed with."""
        ...

    async def ask(self, command: Command, held: HeldMessages | None = None) -> Reply:
        """Carry out a command. Raises ShardsError."""
        ...

    async def search_promises(
        self,
        pattern: str,
        states: tuple[PromiseState, ...],
        tags: Mapping[str, str],
        limit_count: int,
        before_serial: int | None,
        id_prefix: str = "",
    ) -> tuple[list[Promise], int | None]:
        """Find promises, newest first, and say where the next page starts."""
        ...

    async def search_schedules(
        self,
        pattern: str,
        tags: Mapping[str, str],
        limit_count: int,
        before_serial: int | None,
        id_prefix: str = "",
    ) -> tuple[list[Schedule], int | None]:
        """Find schedules, newest first, and say where the next page starts."""
        ...

    async def list_entries(self, kind: type[EntryKind], account_id: str | None) -> list[EntryKind]:
        """Collect the catalog's entries of a type, of one account or all (None), oldest first."""
        ...

    async def ask_each(self, commands: Sequence[Command]) -> list[Reply]:
        """Carry out commands at the same time. Raises ShardsError."""
        ...

    async def search_executions(
        self,
        account_id: str,
        function_id: str | None,
        limit_count: int,
        before_serial: int | None,
    ) -> tuple[list[tuple[Promise, Execution | None]], int | None]:
        """Find an account's executions, newest first, and say where the next page starts."""
        ...

    def unfinished_executions(self) -> Iterable[Execution]:
        """Look at all executions that are not finished."""
        ...

    async def usage(self, account_id: str | None) -> dict[str, Usage]:
        """Collect how often the functions of an account, or of all (None), were run."""
        ...

    async def delete_packages(self, promise_ids: Iterable[str]) -> int:
        """Delete packages of builds for good, and count those that were there."""
        ...

    async def heartbeat_tasks(self, process_id: str, id_prefix: str = "") -> int:
        """Renew the tasks of a process and count them."""
        ...

    async def heartbeat_locks(self, process_id: str, id_prefix: str = "") -> int:
        """Renew the locks of a process and count them."""
        ...

    def statistics(self) -> object:
        """Return numbers about the shards, as frozen data."""
        ...


class Builder(Protocol):
    """The part of `builder.Builder` that the API needs."""

    async def take(self, build: Build, package: bytes) -> None:
        """Store a new build, PENDING, with its package, and have it checked. Raises ApiError."""
        ...

    async def function_deleted(self, function: Function) -> None:
        """Remove what a deleted function leaves behind, now or, if that fails, later."""
        ...

    def waiting_count(self, account_id: str) -> int:
        """Count the builds of an account that wait to be checked."""
        ...


class Readiness(Enum):
    """Whether requests are served, and how they are refused if not."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Pages:
    """The documents the server shows, made once from the endpoint table; see `pages.py`."""

    openapi: bytes = b"{}"
    start: bytes = b""
    documentation: bytes = b""
    errors: bytes = b""


@dataclass
class Api:
    """Everything a handler may use. One per process.

    `url` is what links begin with, without a slash at the end. `hold` makes the messages held
    back for one request. `now_ms` is the shards' clock. `statistics` has a further source of
    numbers for `/metrics`, by name. `snapshotter` is None if nothing is kept on disk, `sweeper`,
    `builder` and `placement` until the server is ready.
    """

    settings: Settings
    url: str
    shards: Shards
    polls: Polls
    hold: Callable[[], HeldMessages]
    now_ms: Callable[[], int] = field(default_factory=lambda: SystemClock().now_ms)
    statistics: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    readiness: Readiness = Readiness.READY
    snapshotter: Snapshotter | None = None
    sweeper: Sweeper | None = None
    builder: Builder | None = None
    placement: Placement | None = None
    endings: Endings = field(default_factory=lambda: Endings(limit_count=RESULT_WAITS_LIMIT_COUNT))
    pages: Pages = field(default_factory=Pages)
    in_flight: InFlight = field(init=False)
    directory: Directory = field(init=False)
    audit: AuditLog = field(init=False)
    metrics: Metrics = field(init=False)
    limits: RequestLimits = field(init=False)

    def __post_init__(self) -> None:
        """Derive from the settings who are users, and the limits of requests."""
        self.url = self.url.rstrip("/")
        self.in_flight = InFlight(
            max(self.settings.in_flight_limit_bytes, 2 * self.settings.body_limit_bytes),
            headroom_bytes=process_memory.headroom_bytes,
            trim=process_memory.trim_heap,
        )
        attempts = Attempts(self.settings.failed_attempts_limit_count, self.now_ms)
        self.directory = Directory(self.settings.basic_auth, attempts, self.now_ms)
        self.audit = AuditLog(self.now_ms)
        self.metrics = Metrics(
            {
                "shards": self.shards.statistics,
                "polls": self.polls.statistics,
                "in_flight": self.in_flight.statistics,
                "failed_attempts": attempts.statistics,
                **self.statistics,
            }
        )
        self.limits = RequestLimits(
            id_limit_bytes=self.settings.id_limit_bytes,
            tags_limit_count=self.settings.tags_limit_count,
            tag_limit_bytes=self.settings.tag_limit_bytes,
            value_headers_limit_count=self.settings.value_headers_limit_count,
            value_header_limit_bytes=self.settings.value_header_limit_bytes,
            body_limit_bytes=self.settings.body_limit_bytes,
        )

    @property
    def function_placement(self) -> Placement:
        """Where executions go. Only while the server is ready."""
        assert self.placement is not None, "handlers run only when there is one"
        return self.placement

    def refuse_unless_ready(self) -> None:
        """Raise ApiError (503) while the server starts or stops."""
        if self.readiness is Readiness.STARTING:
            raise ApiError(Code.STARTING)
        if self.readiness is Readiness.STOPPING:
            raise ApiError(Code.SHUTTING_DOWN)


def shards_error(error: ShardsError) -> ApiError:
    """The answer (503) to a failure inside the shards."""
    # By name, so that a kind added later is still answered.
    codes = {
        "Overloaded": Code.OVERLOADED,
        "Stopping": Code.SHUTTING_DOWN,
        "StorageFailed": Code.STORE_FAILED,
    }
    return ApiError(codes.get(type(error).__name__, Code.SHUTTING_DOWN))
