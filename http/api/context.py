"""The objects that handlers work with: shards, polls, settings, and the server's readiness."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Final, Protocol

import trio

from troth.core.catalog import Build, Function
from troth.core.codes import Code
from troth.core.json_bytes import own_encoder
from troth.core.limits import RESULT_WAITS_LIMIT_COUNT, STRANGERS_IN_FLIGHT_LIMIT_BYTES
from troth.http.identity.attempts import Attempts
from troth.http.identity.audit import AuditLog
from troth.http.identity.credentials import Credentials
from troth.http.metrics.metrics import Metrics
from troth.http.settings.settings import Settings
from troth.http.tracing.requests import RequestNotes, RequestSpans
from troth.http.wire.errors import ApiError
from troth.http.wire.fields import RequestLimits
from troth.http.wire.in_flight import InFlight
from troth.http.wire.principals import Principal
from troth.http.wire.requests import ReadyStream, Request, Response
from troth.http.wire.static_files import StaticFile
from troth.persistence.streams.cluster import WholeCluster
from troth.shards.bulk.jobs import BulkJobs, BulkProgress
from troth.shards.clock import SystemClock
from troth.shards.delivery.polls import Polls
from troth.shards.gathered.debugging import DebugOperations
from troth.shards.gathered.retention import AllSweepers
from troth.shards.gathered.surveys import AllSurveys
from troth.shards.gathered.watches import OtherWatchers
from troth.shards.gathered.whole import OneProcess, WholeServer
from troth.shards.held import HeldMessages
from troth.shards.mesh.placed_executions import builds_in_use
from troth.shards.placement.endings import Endings
from troth.shards.placement.placement import Placement
from troth.shards.surveys.queues import WholeQueues
from troth.shards.surveys.series import SeriesBook
from troth.shards.surveys.surveys import Surveys
from troth.shards.upkeep.retention import Sweeper
from troth.shards.upkeep.snapshotter import Snapshotter

from .request_log import RequestLog
from .session_cookies import SessionCookie, cookie_of
from .shards_port import ShardsPort

VERSION_HEADER_VALUE = b"0.8.2"
"""What some SDKs look for in `Resonate-Version` (decisions.md 1)."""


class BuildQueue(Protocol):
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


class Scrape(Protocol):
    """What `/metrics` shows; `metrics.Metrics.render` is that of one process."""

    async def __call__(self, *, names_accounts: bool, is_open: bool = False) -> bytes:
        """Return the text of all metrics."""
        ...


class EventFeed(Protocol):
    """The part of `feed.Feed` that the API needs."""

    @property
    def streams_count(self) -> int:
        """The number of open streams."""
        ...

    def open(
        self, principal: Principal, topics: frozenset[str], watched: Sequence[str]
    ) -> ReadyStream:
        """Open a stream for one who may hear all of that. Raises ApiError (503): too many."""
        ...


class StreamOpener(Protocol):
    """The part of `relayed_streams.StreamRelay` that the API needs."""

    def home_of(self, group: str) -> int | None:
        """Return the process that has the streams of a group; None if it is this one."""
        ...

    async def open(self, home: int, port_number: int, request: Request) -> Response:
        """Ask another process to answer a request for a stream. Raises ApiError (503)."""
        ...


_ANSWERABLE_STEP_S: Final = 0.05
_CUT_OFF: Final = "What keeps the log does not answer. Send the request again shortly."


class Readiness(Enum):
    """Whether requests are served, and how they are refused if not."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Ui:
    """The web UI: its page, and its other files by their path below `/ui/`."""

    index: StaticFile
    assets: Mapping[str, StaticFile]


@dataclass(frozen=True, slots=True)
class Pages:
    """The documents the server shows, made once from the endpoint table; see `pages.py`.

    `ui` is None if the web UI is switched off.
    """

    openapi: StaticFile
    start: StaticFile
    documentation: StaticFile
    errors: StaticFile
    metrics: StaticFile
    style: StaticFile
    script: StaticFile
    ui: Ui | None = None


@dataclass
class Api:
    """Everything a handler may use. One per process.

    `url` is what links begin with, without a slash at the end. `hold` makes the messages held
    back for one request. `now_ms` is the shards' clock; `clock_step_ms` tells how far it
    was last set while the server ran (0: it was not). `others_are_ready` says so of the server's
    other processes, if there are any. `snapshotter` is None if nothing is kept on disk; `sweeper`,
    `bulk`, `builder` and `placement` until the server is ready; `debug` unless debug operations are
    on; `tracing` unless requests are traced. A server that `is_cut_off` has been ready, and starts
    again when the engine of its log answers (`processes/lease_watch.py`).
    """

    settings: Settings
    url: str
    shards: ShardsPort
    polls: Polls
    hold: Callable[[], HeldMessages]
    now_ms: Callable[[], int] = field(default_factory=lambda: SystemClock().now_ms)
    clock_step_ms: Callable[[], int] = lambda: 0
    others_are_ready: Callable[[], bool] = lambda: True
    # Each request asks for it, which costs less where the class has no attribute of that name.
    readiness: Readiness = field(default_factory=lambda: Readiness.READY)
    is_cut_off: bool = False
    may_answer: Callable[[], bool] | None = None
    """Whether clients may be told now what the state shows; None if always."""
    is_draining: bool = False
    """Whether this process stops, but its shards and other processes still serve."""
    snapshotter: Snapshotter | None = None
    sweeper: Sweeper | AllSweepers | None = None
    bulk: BulkJobs | None = None
    builder: BuildQueue | None = None
    debug: DebugOperations | None = None
    placement: Placement | None = None
    surveys: Surveys | AllSurveys | None = None
    queues: WholeQueues | None = None
    feed: EventFeed | None = None
    stream_relay: StreamOpener | None = None
    builds_in_use: Callable[[], Awaitable[Mapping[str, Collection[str]]]] = field(default=None)  # type: ignore[assignment]  # made of the shards
    tracing: RequestSpans | None = None
    series: SeriesBook = field(default_factory=SeriesBook)
    endings: Endings = field(default_factory=lambda: Endings(limit_count=RESULT_WAITS_LIMIT_COUNT))
    pages: Pages | None = None
    started_on_ms: int = field(init=False)
    strangers_in_flight: InFlight = field(init=False)
    in_flight: InFlight = field(default=None)  # type: ignore[assignment]  # made of the settings
    session_cookie: SessionCookie = field(init=False)
    credentials: Credentials = field(init=False)
    audit: AuditLog = field(init=False)
    request_log: RequestNotes = field(init=False)
    whole: WholeServer = field(init=False)
    bulk_progress: Callable[[], Awaitable[list[BulkProgress]]] | None = None
    other_watchers: OtherWatchers | None = None
    cluster: Callable[[], Awaitable[WholeCluster]] | None = None
    """What is kept of the cluster that this server belongs to, if it does."""
    metrics: Metrics = field(init=False)
    scrape: Scrape = field(init=False)
    limits: RequestLimits = field(init=False)
    dump: Callable[[object], bytes] = field(init=False)
    """Write an answer as `json_text.dump` does, in the thread of this server's loop."""

    def __post_init__(self) -> None:
        """Derive from the settings who are users, and the limits of requests."""
        self.url = self.url.rstrip("/")
        self.session_cookie = cookie_of(self.url, self.settings.base_path)
        self.started_on_ms = self.series.began_ms = self.now_ms()
        self.strangers_in_flight = InFlight(STRANGERS_IN_FLIGHT_LIMIT_BYTES)
        if self.builds_in_use is None:
            self.builds_in_use = partial(builds_in_use, self.shards)
        if self.in_flight is None:
            self.in_flight = InFlight(self.settings.in_flight_limit_bytes)
        attempts = Attempts(
            self.settings.failed_attempts_limit_count, self.now_ms, self.shards.failures
        )
        self.credentials = Credentials(self.settings.basic_auth, attempts, self.now_ms)
        self.audit = AuditLog(self.now_ms)
        self.request_log = RequestLog(self.settings.log_requests)
        self.whole = OneProcess(self.shards, self.series)
        self.metrics = Metrics()
        self.scrape = self.metrics.render
        self.dump = own_encoder("deterministic")
        self.limits = limits_of(self.settings)

    @property
    def documents(self) -> Pages:
        """The documents, which an application brings along."""
        assert self.pages is not None, "handlers run only in an application"
        return self.pages

    @property
    def function_placement(self) -> Placement:
        """The placement of executions. Only while the server is ready."""
        assert self.placement is not None, "handlers run only when there is one"
        return self.placement

    async def until_answerable(self) -> None:
        """Wait until what was read may be told to a client: until the log's lease is renewed.

        Raises ApiError (503) if the server is cut off from its log for long, or stops.
        """
        while self.may_answer is not None and not self.may_answer():
            self.refuse_unless_ready()
            await trio.sleep(_ANSWERABLE_STEP_S)

    def refuse_unless_ready(self, *, may_be_stopping: bool = False) -> None:
        """Raise ApiError (503) while the server starts or stops.

        What `may_be_stopping` is carried out to the last: a stop answers all that it has read.
        """
        if self.readiness is Readiness.STARTING:
            raise ApiError(Code.STARTING, message=_CUT_OFF if self.is_cut_off else None)
        if self.readiness is Readiness.STOPPING and not may_be_stopping:
            raise ApiError(Code.SHUTTING_DOWN)


def limits_of(settings: Settings) -> RequestLimits:
    """Return the limits of requests that an operator has set."""
    return RequestLimits(
        id_limit_bytes=settings.id_limit_bytes,
        tags_limit_count=settings.tags_limit_count,
        tag_limit_bytes=settings.tag_limit_bytes,
        value_headers_limit_count=settings.value_headers_limit_count,
        value_header_limit_bytes=settings.value_header_limit_bytes,
        body_limit_bytes=settings.body_limit_bytes,
    )
