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
    Number,
    OneOf,
    Origins,
    SettingKind,
    Switch,
    Targets,
    TimeZone,
    Users,
    WordOr,
)
from .retention import RetentionRules

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
_SECOND_MS: Final = 1000
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS


def _setting(default: object, kind: SettingKind, explanation: str) -> Any:
    """A field of `Settings`. Values that may be secret stay out of `repr()`."""
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
        False, Switch(), "Keep nothing on disk: all is lost when the server stops. For trying out."
    )
    shards: int | None = _setting(
        None,
        WordOr({"auto": None}, Number(1, limits.SHARDS_LIMIT_COUNT)),
        "Number of shards; fixed when the data directory is made (auto: what it says, "
        f"{limits.SHARDS_DEFAULT_COUNT} if new).",
    )
    segment_bytes: int = _setting(
        limits.SEGMENT_BYTES,
        Number(64 * _KIB, 1024 * _MIB),
        "Size of one file of the write-ahead log.",
    )

    checkpoint_interval_ms: int = _setting(
        limits.CHECKPOINT_INTERVAL_MS,
        Number(100, _DAY_MS),
        "Longest time between two checkpoints while anything changes.",
    )
    checkpoint_log_bytes: int = _setting(
        limits.CHECKPOINT_LOG_BYTES,
        Number(64 * _KIB, 1024 * _MIB),
        "Growth of the log after which a checkpoint is made at once.",
    )
    snapshot_directory: Path | None = _setting(
        None,
        WordOr({"none": None}, DirectoryPath()),
        "Directory for the snapshots that snapshot_schedule asks for; made if missing.",
    )
    snapshot_schedule: str | None = _setting(
        None,
        WordOr({"none": None}, CronExpression()),
        "When to write a snapshot of everything, from which a server can be restored.",
    )
    snapshot_keep_count: int = _setting(
        limits.SNAPSHOT_KEEP_COUNT,
        Number(1, 100_000),
        "Scheduled snapshots to keep; older ones are removed.",
    )
    archive_directory: Path | None = _setting(
        None,
        WordOr({"none": None}, DirectoryPath()),
        "Directory for copies of the log's finished files, for restoring to any moment.",
    )
    archive_keep_ms: int = _setting(
        limits.ARCHIVE_KEEP_MS,
        Number(60 * _SECOND_MS, limits.ARCHIVE_KEEP_MS),
        "How long archived files of the log are kept; as good as for ever unless set.",
    )

    retain: tuple[RetentionRule, ...] = _setting(
        (),
        RetentionRules(),
        "Completed promises to delete for good, by state, time since completion and tag (none: "
        "they are kept for ever). Their ids are free again.",
    )
    retention_interval_ms: int = _setting(
        limits.RETENTION_INTERVAL_MS,
        Number(100, _DAY_MS),
        "How often promises that the rules of retain reach are looked for.",
    )

    listen: ListenAddress = _setting(
        ListenAddress("127.0.0.1", 8001), Listen(), "Where the API is served."
    )
    poll_listen: ListenAddress | None = _setting(
        ListenAddress("127.0.0.1", 8002),
        WordOr({"none": None}, Listen()),
        "Where workers connect to be sent their tasks as a stream (none: not at all).",
    )
    url: str | None = _setting(
        None,
        WordOr({"auto": None}, BaseUrl()),
        "What links in messages begin with (auto: http:// and the address the API is served at).",
    )
    allow_anonymous: bool = _setting(
        False, Switch(), "Let other machines in without authentication. Dangerous on open networks."
    )
    basic_auth: Mapping[str, str] = _setting(
        MappingProxyType({}),
        Users(),
        "Users who may use the API, with passwords (none: everybody). Best kept in the file: "
        "command lines can be read by others.",
    )
    failed_attempts_limit_count: int = _setting(
        limits.FAILED_ATTEMPTS_LIMIT_COUNT,
        Number(0, 1_000_000),
        "Wrong credentials from one address in a minute before it has to wait (0: any number).",
    )
    hosts: tuple[str, ...] = _setting(
        (),
        HostNames(),
        "Names of this server beside those of listen and url. While nobody needs credentials, "
        "requests for names that could be strangers' are refused.",
    )
    cors_allow_origin: tuple[str, ...] = _setting(
        (), Origins(), "Origins whose web pages may call the API from a browser."
    )

    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", OneOf(("debug", "info", "warning", "error")), "Least important events to log."
    )
    log_format: Literal["console", "json"] = _setting(
        "console", OneOf(("console", "json")), "For people, or one JSON object a line."
    )

    log_requests: Literal["off", "refused", "slow", "all"] = _setting(
        "refused",
        OneOf(("off", "refused", "slow", "all")),
        "Requests to log, a line each: those that failed or were refused a right, also those that "
        "took longer than a second, or all.",
    )

    hot_lane: bool = _setting(
        True,
        Switch(),
        "Serve plain requests by the short way; without it, all go through Quart and hypercorn.",
    )
    connection_limit_count: int = _setting(
        limits.CONNECTION_LIMIT_COUNT,
        Number(1, 1_000_000),
        "Connections to a port at a time, as far as the limit of open files allows; when there are "
        "as many, idle ones make room for new ones, or else these are refused.",
    )
    connections_per_address_limit_count: int = _setting(
        limits.CONNECTIONS_PER_ADDRESS_LIMIT_COUNT,
        Number(0, 1_000_000),
        "Connections of one address at a time, on all ports together (0: any number).",
    )
    header_timeout_ms: int = _setting(
        limits.HEADER_TIMEOUT_MS,
        Number(100, _HOUR_MS),
        "A request line and its headers must have arrived within this from their first byte.",
    )
    body_timeout_ms: int = _setting(
        limits.BODY_TIMEOUT_MS,
        Number(100, _HOUR_MS),
        "The body must have arrived within this from the end of the headers.",
    )
    keep_alive_timeout_ms: int = _setting(
        limits.KEEP_ALIVE_TIMEOUT_MS,
        Number(100, _DAY_MS),
        "A connection without a request for this long is closed; sooner only to make room.",
    )
    request_headers_limit_bytes: int = _setting(
        limits.REQUEST_HEADERS_LIMIT_BYTES,
        Number(1 * _KIB, 1 * _MIB),
        "Largest request line and headers together.",
    )
    body_limit_bytes: int = _setting(
        limits.BODY_LIMIT_BYTES,
        Number(1 * _KIB, limits.BODY_SETTING_LIMIT_BYTES),
        "Largest body of a request.",
    )
    in_flight_limit_bytes: int = _setting(
        limits.IN_FLIGHT_LIMIT_BYTES,
        Number(1 * _MIB, 64 * 1024 * _MIB),
        "Bytes of requests, answers and messages in memory at a time, all together; beyond it "
        "large ones wait or are refused. At least twice body_limit_bytes, in effect.",
    )
    build_limit_bytes: int = _setting(
        limits.BUILD_LIMIT_BYTES,
        Number(1 * _KIB, limits.BODY_SETTING_LIMIT_BYTES),
        "Largest zip archive with a function's code; not more than body_limit_bytes, in effect.",
    )
    id_limit_bytes: int = _setting(
        limits.ID_LIMIT_BYTES,
        Number(64, 64 * _KIB),
        "Longest id of a promise, schedule or lock, in UTF-8.",
    )
    tags_limit_count: int = _setting(
        limits.TAGS_LIMIT_COUNT, Number(1, 10_000), "Most tags of one promise or schedule."
    )
    tag_limit_bytes: int = _setting(
        limits.TAG_LIMIT_BYTES,
        Number(256, 1 * _MIB),
        "Largest tag, name and value together, in UTF-8.",
    )
    value_headers_limit_count: int = _setting(
        limits.VALUE_HEADERS_LIMIT_COUNT, Number(1, 10_000), "Most headers of one promise's value."
    )
    value_header_limit_bytes: int = _setting(
        limits.VALUE_HEADER_LIMIT_BYTES,
        Number(256, 1 * _MIB),
        "Largest header of a promise's value, name and content together, in UTF-8.",
    )
    mailbox_limit_count: int = _setting(
        limits.MAILBOX_LIMIT_COUNT,
        Number(limits.BATCH_LIMIT_COUNT, 1_000_000),
        "Requests that may wait for one shard; further ones are answered with 503.",
    )

    poll_connections_limit_count: int = _setting(
        limits.POLL_CONNECTIONS_LIMIT_COUNT,
        Number(1, 1_000_000),
        "Workers' streams at a time; further ones are closed.",
    )
    poll_buffer_limit_count: int = _setting(
        limits.POLL_BUFFER_LIMIT_COUNT,
        Number(1, 100_000),
        "Messages that may wait for one slow stream.",
    )
    poll_keep_alive_ms: int = _setting(
        limits.POLL_KEEP_ALIVE_MS,
        Number(100, _HOUR_MS),
        "A stream without a message for this long is sent a comment: a dead one is noticed.",
    )
    poll_stream_limit_ms: int = _setting(
        limits.POLL_STREAM_LIMIT_MS,
        Number(1000, _HOUR_MS),
        "A stream on the API port is ended after about this long, for its worker to connect again; "
        "some clients hear nothing any more after 300 s.",
    )
    push_timeout_ms: int = _setting(
        limits.PUSH_TIMEOUT_MS,
        Number(10, 10 * 60 * _SECOND_MS),
        "Longest wait for a receiver's answer.",
    )
    push_concurrency_per_target_count: int = _setting(
        limits.PUSH_CONCURRENCY_PER_TARGET_COUNT,
        Number(1, 10_000),
        "Messages being sent to one receiver at a time.",
    )
    push_concurrency_count: int = _setting(
        limits.PUSH_CONCURRENCY_COUNT,
        Number(1, 100_000),
        "Messages being sent to all receivers at a time.",
    )
    push_private_networks: bool = _setting(
        False,
        Switch(),
        "Let messages be sent to any address of this machine and of private networks, not only to "
        "those in targets. An open server that only this machine can reach does so anyway.",
    )
    target_queue_limit_count: int = _setting(
        limits.TARGET_QUEUE_LIMIT_COUNT,
        Number(1, 10_000_000),
        "Messages that may wait for one receiver; further ones are tried again later.",
    )
    targets: Mapping[str, Address] = _setting(
        MappingProxyType({}), Targets(), "Names for receivers of messages, each with its address."
    )

    task_claim_timeout_ms: int = _setting(
        limits.TASK_CLAIM_TIMEOUT_MS,
        Number(100, _DAY_MS),
        "A message sent but not claimed within this goes out again.",
    )
    task_retry_first_ms: int = _setting(
        limits.TASK_RETRY_FIRST_MS,
        Number(10, _DAY_MS),
        "Wait after the first failed sending; then it doubles.",
    )
    task_retry_limit_ms: int = _setting(
        limits.TASK_RETRY_LIMIT_MS, Number(10, _DAY_MS), "Longest wait between two sendings."
    )
    get_claim_ttl_ms: int = _setting(
        limits.GET_CLAIM_TTL_MS,
        Number(100, _DAY_MS),
        "How long a task claimed by opening its link stays claimed without a heartbeat.",
    )

    task_wait_limit_ms: int = _setting(
        limits.TASK_WAIT_LIMIT_MS,
        Number(1_000, 365 * _DAY_MS),
        "A function task that has not ended within this from its creation is given up (504).",
    )
    function_queue_limit_count: int = _setting(
        limits.FUNCTION_QUEUE_LIMIT_COUNT,
        Number(1, 10_000_000),
        "Function tasks of one account that may wait for a node; further ones are refused (429).",
    )
    function_calls_concurrency_count: int = _setting(
        limits.FUNCTION_CALLS_CONCURRENCY_COUNT,
        Number(2, 100_000),
        "Calls of HTTP functions at a time; one account has at most half of them.",
    )
    function_calls_per_host_count: int = _setting(
        limits.FUNCTION_CALLS_PER_HOST_COUNT,
        Number(1, 10_000),
        "Calls of HTTP functions to one host at a time.",
    )
    function_private_networks: bool = _setting(
        False,
        Switch(),
        "Let HTTP functions call addresses of this machine and of private networks.",
    )

    schedule_catch_up: Literal["all", "latest"] | int = _setting(
        limits.SCHEDULE_CATCH_UP_COUNT,
        WordOr({"all": "all", "latest": "latest"}, Number(1, 1_000_000)),
        "Missed firings of a schedule to make up for after a stop: all, the latest or so many.",
    )
    time_zone: str | None = _setting(
        None,
        WordOr({"local": None}, TimeZone()),
        "Time zone of schedules that name none (local: this machine's).",
    )

    shutdown_timeout_ms: int = _setting(
        limits.SHUTDOWN_TIMEOUT_MS,
        Number(0, _HOUR_MS),
        "Longest wait for requests in flight when the server is told to stop.",
    )

    sources: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )
    """Where each setting that has not its default came from: the name of the source, by setting."""

    @property
    def exposed(self) -> str | None:
        """Which address lets other machines in without a user's password; None: neither does."""
        addresses = {"listen": self.listen, "poll_listen": self.poll_listen}
        found = (name for name, one in addresses.items() if one and not one.is_loopback)
        return None if self.basic_auth or self.allow_anonymous else next(found, None)

    @property
    def is_only_for_this_machine(self) -> bool:
        """Whether no other machine can connect."""
        addresses = (self.listen, self.poll_listen)
        return all(one.is_loopback for one in addresses if one is not None)

    @property
    def target_urls(self) -> frozenset[str]:
        """The URLs of all targets that messages are sent to by HTTP."""
        return frozenset(one.url for one in self.targets.values() if isinstance(one, PushAddress))
