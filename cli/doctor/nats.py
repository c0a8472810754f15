"""What `troth doctor` says of the NATS servers that keep the log, if they do."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from troth.core.limits import STREAM_SKEW_LIMIT_MS
from troth.http.settings.settings import Settings
from troth.persistence.streams.jetstream_cluster import JetStreamCluster
from troth.persistence.streams.jetstream_connection import (
    STREAM_NOT_FOUND,
    JetStreamConnection,
    JetStreamRefusal,
)
from troth.persistence.streams.jetstream_layout import JetStreamLayout
from troth.persistence.streams.jetstream_notes import Notes, written_ms
from troth.persistence.streams.jetstream_servers import look_at_servers
from troth.persistence.streams.jetstream_url import read_jetstream_url
from troth.persistence.streams.stream import StreamRefused, StreamUnreachable

from .findings import Finding, failure, note, ok, warning
from .log_engines import differing_clock, examine_age, examine_answers

_PRESENT_MS: Final = 5 * 60_000  # a server that noted within that time how far it has read


def examine_nats(settings: Settings, url: str) -> Iterator[Finding]:
    """Say whether the servers can be used and how fast, who has a copy, and what it has."""
    try:
        connection = JetStreamConnection(read_jetstream_url(url))
    except StreamRefused as error:
        yield failure("NATS", str(error), "the server would not start")
        return
    try:
        advice = "each write waits for that, and for disks: have it closer"
        yield examine_answers("NATS", connection.name, lambda: connection.api("INFO"), advice)
        yield from _examine_servers(settings)
        yield from _examine_streams(connection, read_jetstream_url(url).name, _groups_count(url))
    except StreamRefused as error:
        yield failure("NATS", str(error), "the server would not start")
    except JetStreamRefusal as error:
        yield failure("NATS", f"JetStream refuses: {error}", "check the rights of the user")
    except StreamUnreachable as error:
        found = f"{connection.name} cannot be reached: {error}"
        yield failure("NATS", found, "check the addresses, the network and the servers")
    finally:
        connection.close()


def _examine_servers(settings: Settings) -> Iterator[Finding]:
    """Say which versions the servers have, and whether they sync."""
    subject, accepted = "servers of NATS", "a power cut can lose acknowledged writes"
    if settings.nats_monitor is None:
        found = "it is not known whether they sync to disk what they acknowledge"
        if settings.unsafe_fsync:
            yield warning(subject, found, f"{accepted}: set nats_monitor")
        else:
            yield failure(subject, found, "the server would not start: set nats_monitor")
        return
    shown = look_at_servers(settings.nats_monitor)
    if shown.too_old:
        found = f"too old: {', '.join(shown.too_old)}"
        yield failure(subject, found, "the server would not start: upgrade them")
    if shown.silent:
        found = f"no answer from {', '.join(shown.silent)}"
        yield warning(subject, found, "start what is down; check nats_monitor")
    if shown.unsafe:
        found = f"{', '.join(shown.unsafe)} acknowledge what no disk has"
        advice = f"{accepted}: set sync_interval: always in the jetstream block"
        yield (warning if settings.unsafe_fsync else failure)(subject, found, advice)
    if not (shown.too_old or shown.silent or shown.unsafe):
        yield ok(subject, f"{', '.join(shown.names)} sync to disk what they acknowledge")


def _groups_count(url: str) -> int:
    """Return how many groups there are; 1 without a cluster."""
    book = JetStreamCluster(url)
    try:
        found = book.description()
    finally:
        book.close()
    return 1 if found is None else found.identity.groups_count


def _examine_streams(
    connection: JetStreamConnection, name: str, groups_count: int
) -> Iterator[Finding]:
    """Say who has a copy of the log, or of those of a cluster, and what they hold."""
    layouts = [JetStreamLayout(name, group) for group in range(groups_count)]
    try:
        shown = [
            connection.api(f"STREAM.INFO.{stream}")
            for one in layouts
            for stream in (one.frames, one.pieces, f"KV_{one.bucket}")
        ]
    except JetStreamRefusal as error:
        if error.number != STREAM_NOT_FOUND:
            raise
        if groups_count > 1:
            yield failure("log", "streams of the cluster are gone", "restore them from a backup")
        else:
            yield note("log", "there is none yet: the server makes it when it starts")
        return
    yield _examine_copies([one.get("cluster") or {} for one in shown])
    now_ms = written_ms(shown[0]["ts"])
    if abs(now_ms - time.time() * 1000) > STREAM_SKEW_LIMIT_MS:
        yield differing_clock("clock of NATS", now_ms / 1000 - time.time())
    size = f"{sum(one['state']['bytes'] for one in shown) / 1e6:.0f} MB of log and snapshots"
    if groups_count > 1:
        size += f" of {groups_count} groups"
    yield _examine_notes([Notes(connection, one.bucket) for one in layouts], size, now_ms)


def _examine_copies(clusters: Sequence[Mapping[str, Any]]) -> Finding:
    """Say which servers have a copy of a stream, of any of them."""
    copies = [copy for cluster in clusters for copy in cluster.get("replicas") or ()]
    if not all(cluster.get("replicas") for cluster in clusters):
        return warning(
            "copies of the log", "there is one only", "what is acknowledged is on one machine"
        )
    late = _names(one for one in copies if not one.get("current") or one.get("offline"))
    leaders = {str(cluster.get("leader")) for cluster in clusters}
    names = ", ".join(sorted({*leaders, *_names(copies)}))
    if late:
        return warning(
            "copies of the log",
            f"{names}; not current: {', '.join(late)}",
            "one more that is lost may stop everything: look at nats stream info",
        )
    return ok("copies of the log", f"{names}, all current")


def _names(copies: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted({str(one["name"]) for one in copies})


def _examine_notes(groups: Sequence[Notes], size: str, now_ms: int) -> Finding:
    """Say who uses the log, and how old its snapshot is, or the oldest of all groups."""
    nodes = {
        str(orjson.loads(one.body)["node"])
        for notes in groups
        for one in notes.read_all("reader.").values()
        if one.written_ms > now_ms - _PRESENT_MS
    }
    ages_s = [
        (now_ms - snapshot.written_ms) / 1000
        for notes in groups
        if (snapshot := notes.read("snapshot")) is not None
    ]
    found = f"{size}; in use by {', '.join(sorted(nodes)) or 'none'}"
    return examine_age(found, max(ages_s, default=None))
