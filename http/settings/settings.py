"""Every setting of the server: its name, kind, default, range and meaning, written once, here.

The `Settings` class is that list. The command's options, the reading of the TOML file and of the
environment, the checks and the documentation are all derived from it (`sources.py`). A
number's name ends in its unit (`_ms`, `_bytes`, `_count`) and the number has a smallest and a
largest value. Names that say what they count need no unit: `shards`, `schedule_catch_up`. Passwords
and addresses of receivers do not appear in `repr()`.
"""

# ruff: noqa: RUF009 — `_setting` is `dataclasses.field` with our metadata, which ruff cannot know.

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from troth.core import limits
from troth.core.grammar.addresses import Address, PushAddress
from troth.core.retention_rules import RetentionRule

from .kinds import (
    BaseUrl,
    CronExpression,
    DirectoryPath,
    HostNames,
    Listen,
    ListenAddress,
    NodeName,
    Number,
    OneOf,
    Origins,
    SettingKind,
    Switch,
    TagNames,
    Targets,
    TimeZone,
    TraceUrl,
    Users,
    WordOr,
)
from .log_kinds import FilePath, LogUrl, NatsMonitor, NodeAddress
from .retention import RetentionRules

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
_SECOND_MS: Final = 1000
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS


def _setting(default: object, kind: SettingKind, explanation: str) -> Any:
    """Return a field of `Settings`. Values that may be secret stay out of `repr()`."""
    metadata = {"kind": kind, "help": explanation}
    if isinstance(default, Mapping):
        return field(default_factory=lambda: default, metadata=metadata, repr=not kind.secret)
    return field(default=default, metadata=metadata, repr=not kind.secret)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the server was told. Made by `setting_sources.load`, which checks it; never changed."""

    data: Path = _setting(
        Path("troth-data"), DirectoryPath(), "Directory that holds everything the server remembers."
    )
    in_memory: bool = _setting(
        False,
        Switch(),
        "Keep nothing on disk: everything is lost when the server stops. For trials.",
    )
    log: str | None = _setting(
        None,
        LogUrl(),
        "What keeps the log instead of the data directory: a PostgreSQL database, such as "
        "postgresql://troth@db.example/troth, or a stream in NATS JetStream, such as "
        "nats://one,two,three/NAME. The directory is then only a cache: a server that "
        "lost it, or one on another machine, goes on with what is there.",
    )
    nats_monitor: str | None = _setting(
        None,
        NatsMonitor(),
        "Monitors of the NATS servers that keep the log, such as "
        "http://one:8222,http://two:8222,http://three:8222, or a nats:// URL with a user of the "
        "system account. A server starts only if all of them sync what they acknowledge to disk.",
    )
    replicas: int | None = _setting(
        None,
        WordOr({"auto": None}, Number(1, limits.JETSTREAM_COPIES_LIMIT_COUNT)),
        "Number of NATS servers that have a copy of the log, for one that is new: 3 or 5, or 1 if "
        "there is only one server (auto: 3, or as it is).",
    )
    unsafe_fsync: bool = _setting(
        False,
        Switch(),
        "Start although the NATS servers that keep the log may acknowledge what no disk has: a "
        "power cut can then lose acknowledged writes.",
    )
    cluster: str | None = _setting(
        None,
        WordOr({"none": None}, NodeName()),
        "Name of the cluster that `troth cluster create` has made where log says: several groups "
        "of shards, each with a log and a process of its own. Several servers can have the same "
        "one: one of them serves, the others stand by.",
    )
    node: str | None = _setting(
        None,
        WordOr({"none": None}, NodeName()),
        "Name of this server among those with the same log, for people and for what is kept for "
        "it; by default that of the machine and the data directory.",
    )
    mesh_listen: ListenAddress | None = _setting(
        None,
        WordOr({"none": None}, NodeAddress()),
        "Address for the other servers of the cluster, by which they reach this one. All that have "
        "it share the groups, and any of them takes any request; without it one server has all "
        "groups.",
    )
    cluster_secret_file: Path | None = _setting(
        None,
        WordOr({"none": None}, FilePath()),
        "File with the secret by which servers of the cluster know one another: 32 bytes or more, "
        "the same on all, for the server's user alone. Needed with mesh_listen.",
    )
    mesh_tls_cert: Path | None = _setting(
        None,
        WordOr({"none": None}, FilePath()),
        "Certificate of this server for TLS between servers of a cluster (PEM), for the host in "
        "mesh_listen. Without it, what they say to one another can be read on its way.",
    )
    mesh_tls_key: Path | None = _setting(
        None, WordOr({"none": None}, FilePath()), "The key of mesh_tls_cert (PEM, not encrypted)."
    )
    mesh_tls_ca: Path | None = _setting(
        None,
        WordOr({"none": None}, FilePath()),
        "Certificate of the authority that has signed those of all servers of the cluster (PEM).",
    )
    shards: int | None = _setting(
        None,
        WordOr({"auto": None}, Number(1, limits.SHARDS_LIMIT_COUNT)),
        "Number of shards, fixed when the data directory is created (auto: as stored in it, "
        f"{limits.SHARDS_DEFAULT_COUNT} for a new one).",
    )
    segment_bytes: int = _setting(
        limits.SEGMENT_BYTES,
        Number(64 * _KIB, 1024 * _MIB),
        "Size of one file of the write-ahead log.",
    )
    processes: int | None = _setting(
        1,
        WordOr({"auto": None}, Number(1, limits.GROUPS_LIMIT_COUNT)),
        "Number of processes that serve the data directory together, each with a part of it (auto: "
        "one for each core). A directory is made for one number; see convert.",
    )
    convert: bool = _setting(
        False,
        Switch(),
        "If the data directory was made for another number of processes or by an older version, "
        "convert it first, as `troth data convert` does.",
    )

    checkpoint_interval_ms: int = _setting(
        limits.CHECKPOINT_INTERVAL_MS,
        Number(100, _DAY_MS),
        "Longest time between two checkpoints while data changes.",
    )
    checkpoint_log_bytes: int = _setting(
        limits.CHECKPOINT_LOG_BYTES,
        Number(64 * _KIB, 1024 * _MIB),
        "Log growth that triggers a checkpoint immediately; in effect at most a sixteenth of the "
        "memory that this process may have.",
    )
    snapshot_directory: Path | None = _setting(
        None,
        WordOr({"none": None}, DirectoryPath()),
        "Directory for scheduled snapshots (snapshot_schedule); created if missing.",
    )
    snapshot_schedule: str | None = _setting(
        None,
        WordOr({"none": None}, CronExpression()),
        "When to write a full snapshot, from which a server can be restored.",
    )
    snapshot_keep_count: int = _setting(
        limits.SNAPSHOT_KEEP_COUNT,
        Number(1, 100_000),
        "Number of scheduled snapshots to keep; older ones are removed.",
    )
    archive_directory: Path | None = _setting(
        None,
        WordOr({"none": None}, DirectoryPath()),
        "Directory for copies of finished log files, for restoring to any point in time.",
    )
    archive_keep_ms: int = _setting(
        limits.ARCHIVE_KEEP_MS,
        Number(60 * _SECOND_MS, limits.ARCHIVE_KEEP_MS),
        "How long archived log files are kept; effectively unlimited by default.",
    )

    retain: tuple[RetentionRule, ...] = _setting(
        (),
        RetentionRules(),
        "Completed promises to delete permanently, by state, time since completion and tag (none: "
        "keep them forever). Their ids can be used again.",
    )
    retention_interval_ms: int = _setting(
        limits.RETENTION_INTERVAL_MS,
        Number(100, _DAY_MS),
        "How often to look for promises that the retain rules match.",
    )

    listen: ListenAddress = _setting(
        ListenAddress("127.0.0.1", 8001), Listen(), "Address of the API."
    )
    poll_listen: ListenAddress | None = _setting(
        ListenAddress("127.0.0.1", 8002),
        WordOr({"none": None}, Listen()),
        "Address where workers of the REST API open message streams (none: no such address).",
    )
    url: str | None = _setting(
        None,
        WordOr({"auto": None}, BaseUrl()),
        "Base URL of links in messages (auto: http:// and the address of the API).",
    )
    allow_anonymous: bool = _setting(
        False, Switch(), "Let other machines in without credentials. Dangerous on open networks."
    )
    basic_auth: Mapping[str, str] = _setting(
        MappingProxyType({}),
        Users(),
        "Users of the API with their passwords (none: no password is needed). Best set in the "
        "file: other users can read command lines.",
    )
    failed_attempts_limit_count: int = _setting(
        limits.FAILED_ATTEMPTS_LIMIT_COUNT,
        Number(0, 1_000_000),
        "Failed logins per minute from one address before it has to wait (0: no limit).",
    )
    hosts: tuple[str, ...] = _setting(
        (),
        HostNames(),
        "Names of this server in addition to those of listen and url. While no credentials are "
        "needed, requests for names that may not be the server's are refused.",
    )
    ui: bool = _setting(True, Switch(), "Serve the web UI under /ui/.")
    cors_allow_origin: tuple[str, ...] = _setting(
        (), Origins(), "Origins of web pages that may call the API from a browser."
    )

    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", OneOf(("debug", "info", "warning", "error")), "Lowest level of events to log."
    )
    log_format: Literal["console", "json"] = _setting(
        "console", OneOf(("console", "json")), "Text for people, or one JSON object per line."
    )

    log_requests: Literal["off", "refused", "slow", "all"] = _setting(
        "refused",
        OneOf(("off", "refused", "slow", "all")),
        "Requests to log, one line each: those that failed or lacked a right, also those slower "
        "than a second, or all.",
    )

    trace_tags: tuple[str, ...] = _setting(
        (),
        TagNames(),
        "Tags of promises that spans show, where there are traces (OTEL_EXPORTER_OTLP_ENDPOINT).",
    )
    trace_ids: bool = _setting(
        True,
        Switch(),
        "Show the ids of promises and schedules in spans. Switch it off if ids are confidential.",
    )
    trace_url: str | None = _setting(
        None,
        WordOr({"none": None}, TraceUrl()),
        "Address of a trace for the web UI, such as https://traces.example.com/trace/{trace_id}.",
    )

    metrics_per_shard: bool = _setting(
        False,
        Switch(),
        "Show metrics of shards for each shard, with a label `shard`, and not their sums.",
    )
    hot_lane: bool = _setting(
        True,
        Switch(),
        "Serve plain requests on the fast path; without it, all go through Quart and hypercorn.",
    )
    connection_limit_count: int = _setting(
        limits.CONNECTION_LIMIT_COUNT,
        Number(1, 1_000_000),
        "Maximum connections to a port, within the limit of open files. At the limit idle ones are "
        "closed to make room; if none is idle, new ones are refused.",
    )
    connections_per_address_limit_count: int = _setting(
        limits.CONNECTIONS_PER_ADDRESS_LIMIT_COUNT,
        Number(0, 1_000_000),
        "Maximum connections from one address, on all ports together (0: no limit).",
    )
    header_timeout_ms: int = _setting(
        limits.HEADER_TIMEOUT_MS,
        Number(100, _HOUR_MS),
        "Time for a request line and its headers to arrive, from their first byte.",
    )
    body_timeout_ms: int = _setting(
        limits.BODY_TIMEOUT_MS,
        Number(100, _HOUR_MS),
        "Time for the body to arrive, from the end of the headers.",
    )
    keep_alive_timeout_ms: int = _setting(
        limits.KEEP_ALIVE_TIMEOUT_MS,
        Number(100, _DAY_MS),
        "Idle connections are closed after this time; sooner only to make room.",
    )
    request_headers_limit_bytes: int = _setting(
        limits.REQUEST_HEADERS_LIMIT_BYTES,
        Number(1 * _KIB, 1 * _MIB),
        "Maximum size of request line and headers together.",
    )
    body_limit_bytes: int = _setting(
        limits.BODY_LIMIT_BYTES,
        Number(1 * _KIB, limits.BODY_SETTING_LIMIT_BYTES),
        "Maximum size of a request body.",
    )
    in_flight_limit_bytes: int = _setting(
        limits.IN_FLIGHT_LIMIT_BYTES,
        Number(1 * _MIB, 64 * 1024 * _MIB),
        "Maximum bytes of requests, answers and messages in memory, all together; beyond it large "
        "ones wait or are refused. In effect at least twice body_limit_bytes, and at most a "
        "twelfth of the memory that this process may have.",
    )
    build_limit_bytes: int = _setting(
        limits.BUILD_LIMIT_BYTES,
        Number(1 * _KIB, limits.BODY_SETTING_LIMIT_BYTES),
        "Maximum size of a zip file with a function's code; in effect at most body_limit_bytes.",
    )
    id_limit_bytes: int = _setting(
        limits.ID_LIMIT_BYTES,
        Number(64, 64 * _KIB),
        "Maximum length of the id of a promise, schedule or lock, in UTF-8.",
    )
    tags_limit_count: int = _setting(
        limits.TAGS_LIMIT_COUNT,
        Number(1, 10_000),
        "Maximum number of tags of a promise or schedule.",
    )
    tag_limit_bytes: int = _setting(
        limits.TAG_LIMIT_BYTES,
        Number(256, 1 * _MIB),
        "Maximum size of a tag, name and value together, in UTF-8.",
    )
    value_headers_limit_count: int = _setting(
        limits.VALUE_HEADERS_LIMIT_COUNT,
        Number(1, 10_000),
        "Maximum number of headers of a promise's value.",
    )
    value_header_limit_bytes: int = _setting(
        limits.VALUE_HEADER_LIMIT_BYTES,
        Number(256, 1 * _MIB),
        "Maximum size of a header of a promise's value, name and content together, in UTF-8.",
    )
    mailbox_limit_count: int = _setting(
        limits.MAILBOX_LIMIT_COUNT,
        Number(limits.BATCH_LIMIT_COUNT, 1_000_000),
        "Maximum requests waiting for one shard; more are refused with 503.",
    )

    poll_connections_limit_count: int = _setting(
        limits.POLL_CONNECTIONS_LIMIT_COUNT,
        Number(1, 1_000_000),
        "Maximum streams of workers; more are refused.",
    )
    poll_buffer_limit_count: int = _setting(
        limits.POLL_BUFFER_LIMIT_COUNT,
        Number(1, 100_000),
        "Maximum messages waiting for one slow stream.",
    )
    poll_keep_alive_ms: int = _setting(
        limits.POLL_KEEP_ALIVE_MS,
        Number(100, _HOUR_MS),
        "A comment is sent on a stream after this much silence, to notice dead ones.",
    )
    poll_stream_limit_ms: int = _setting(
        limits.POLL_STREAM_LIMIT_MS,
        Number(1000, _HOUR_MS),
        "The server ends a stream on the API port after about this time, and its worker connects "
        "again; some clients stop reading a stream after 300 s.",
    )
    event_streams_limit_count: int = _setting(
        limits.EVENT_STREAMS_LIMIT_COUNT,
        Number(1, 100_000),
        "Maximum streams of GET /events, which the web UI opens; more are refused.",
    )
    push_timeout_ms: int = _setting(
        limits.PUSH_TIMEOUT_MS,
        Number(10, 10 * 60 * _SECOND_MS),
        "Maximum wait for a receiver's answer.",
    )
    push_concurrency_per_target_count: int = _setting(
        limits.PUSH_CONCURRENCY_PER_TARGET_COUNT,
        Number(1, 10_000),
        "Maximum messages being sent to one receiver at a time.",
    )
    push_concurrency_count: int = _setting(
        limits.PUSH_CONCURRENCY_COUNT,
        Number(1, 100_000),
        "Maximum messages being sent to all receivers at a time.",
    )
    push_private_networks: bool = _setting(
        False,
        Switch(),
        "Allow messages to any address of this machine and of private networks, not only to those "
        "in targets. Always allowed on an open server that only this machine can reach.",
    )
    target_queue_limit_count: int = _setting(
        limits.TARGET_QUEUE_LIMIT_COUNT,
        Number(1, 10_000_000),
        "Maximum messages waiting for one receiver; more are tried again later.",
    )
    targets: Mapping[str, Address] = _setting(
        MappingProxyType({}), Targets(), "Names of message receivers, each with its address."
    )

    task_claim_timeout_ms: int = _setting(
        limits.TASK_CLAIM_TIMEOUT_MS,
        Number(100, _DAY_MS),
        "A task that is not claimed within this time is sent again.",
    )
    workflow_retry_ms: int = _setting(
        limits.WORKFLOW_RETRY_MS,
        Number(1_000, _DAY_MS),
        "A workflow task that is not claimed within this time is sent again.",
    )
    task_retry_first_ms: int = _setting(
        limits.TASK_RETRY_FIRST_MS,
        Number(10, _DAY_MS),
        "Wait after the first failed attempt to send a message; it doubles with each one.",
    )
    task_retry_limit_ms: int = _setting(
        limits.TASK_RETRY_LIMIT_MS, Number(10, _DAY_MS), "Maximum wait between two attempts."
    )
    get_claim_ttl_ms: int = _setting(
        limits.GET_CLAIM_TTL_MS,
        Number(100, _DAY_MS),
        "Lease of a task that is claimed through its link.",
    )

    task_wait_limit_ms: int = _setting(
        limits.TASK_WAIT_LIMIT_MS,
        Number(1_000, 365 * _DAY_MS),
        "A function task that has not finished within this time fails (504).",
    )
    function_queue_limit_count: int = _setting(
        limits.FUNCTION_QUEUE_LIMIT_COUNT,
        Number(1, 10_000_000),
        "Maximum function tasks of one account waiting for a node; more are refused (429).",
    )
    function_calls_concurrency_count: int = _setting(
        limits.FUNCTION_CALLS_CONCURRENCY_COUNT,
        Number(2, 100_000),
        "Maximum concurrent calls of HTTP functions; one account may use half of them.",
    )
    function_calls_per_host_count: int = _setting(
        limits.FUNCTION_CALLS_PER_HOST_COUNT,
        Number(1, 10_000),
        "Maximum concurrent calls of HTTP functions to one host.",
    )
    function_private_networks: bool = _setting(
        False,
        Switch(),
        "Allow HTTP functions to call addresses of this machine and of private networks.",
    )

    debug_operations: bool = _setting(
        False,
        Switch(),
        "For tests of clients: serve the kinds debug.… of POST /, and let its requests say what "
        "time it is. One request deletes everything. Only on addresses of this machine.",
    )

    schedule_catch_up: Literal["all", "latest"] | int = _setting(
        limits.SCHEDULE_CATCH_UP_COUNT,
        WordOr({"all": "all", "latest": "latest"}, Number(1, 1_000_000)),
        "Missed runs of a schedule to catch up on after downtime: all, the latest, or a number.",
    )
    time_zone: str | None = _setting(
        None,
        WordOr({"local": None}, TimeZone()),
        "Time zone of schedules that do not name one (local: this machine's).",
    )

    shutdown_timeout_ms: int = _setting(
        limits.SHUTDOWN_TIMEOUT_MS,
        Number(0, _HOUR_MS),
        "Maximum wait for requests in flight when the server stops.",
    )

    sources: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )
    """Where each setting that has not its default came from: the name of the source, by setting."""

    @property
    def exposed(self) -> str | None:
        """The address that admits other machines without a user's password; None if none does."""
        addresses = {"listen": self.listen, "poll_listen": self.poll_listen}
        found = (name for name, one in addresses.items() if one and not one.is_loopback)
        return None if self.basic_auth or self.allow_anonymous else next(found, None)

    @property
    def is_only_for_this_machine(self) -> bool:
        """Return whether no other machine can connect."""
        addresses = (self.listen, self.poll_listen)
        return all(one.is_loopback for one in addresses if one is not None)

    @property
    def base_path(self) -> str:
        """The path under which clients reach the server, with a slash at its end."""
        return ("" if self.url is None else urlsplit(self.url).path.rstrip("/")) + "/"

    @property
    def target_urls(self) -> frozenset[str]:
        """The URLs of all targets that messages are sent to by HTTP."""
        return frozenset(one.url for one in self.targets.values() if isinstance(one, PushAddress))
