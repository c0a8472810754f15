"""What `troth doctor` says of the NATS servers that keep the log, if they do."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from troth.core.limits import STREAM_SKEW_LIMIT_MS
from troth.http.settings.settings import Settings
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
        yield from _examine_streams(connection, read_jetstream_url(url).name)
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


def _examine_streams(connection: JetStreamConnection, name: str) -> Iterator[Finding]:
    """Say who has a copy of the log, and what it holds."""
    layout = JetStreamLayout(name, 0)
    try:
        shown = [
            connection.api(f"STREAM.INFO.{stream}")
            for stream in (layout.frames, layout.pieces, f"KV_{layout.bucket}")
        ]
    except JetStreamRefusal as error:
        if error.number != STREAM_NOT_FOUND:
            raise
        yield note("log", "there is none yet: the server makes it when it starts")
        return
    frames = shown[0]
    yield _examine_copies(frames.get("cluster") or {})
    now_ms = written_ms(frames["ts"])
    if abs(now_ms - time.time() * 1000) > STREAM_SKEW_LIMIT_MS:
        yield differing_clock("clock of NATS", now_ms / 1000 - time.time())
    size_bytes = sum(one["state"]["bytes"] for one in shown)
    yield _examine_notes(Notes(connection, layout.bucket), size_bytes, now_ms)


def _examine_copies(cluster: Mapping[str, Any]) -> Finding:
    copies = cluster.get("replicas") or []
    if not copies:
        return warning(
            "copies of the log", "there is one only", "what is acknowledged is on one machine"
        )
    late = [str(one["name"]) for one in copies if not one.get("current") or one.get("offline")]
    names = ", ".join([str(cluster.get("leader")), *(str(one["name"]) for one in copies)])
    if late:
        return warning(
            "copies of the log",
            f"{names}; not current: {', '.join(late)}",
            "one more that is lost may stop everything: look at nats stream info",
        )
    return ok("copies of the log", f"{names}, all current")


def _examine_notes(notes: Notes, size_bytes: int, now_ms: int) -> Finding:
    readers = notes.read_all("reader.").values()
    nodes = sorted(
        str(orjson.loads(one.body)["node"])
        for one in readers
        if one.written_ms > now_ms - _PRESENT_MS
    )
    snapshot = notes.read("snapshot")
    found = (
        f"{size_bytes / 1e6:.0f} MB of log and snapshots; in use by {', '.join(nodes) or 'none'}"
    )
    age_s = None if snapshot is None else (now_ms - snapshot.written_ms) / 1000
    return examine_age(found, age_s)
