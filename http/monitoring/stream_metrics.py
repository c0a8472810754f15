"""Metrics of a log in an engine that several servers share; other servers do not have them."""

from dataclasses import dataclass
from typing import Final

from troth.http.metrics.families import Group, counter, gauge
from troth.shards.storage import StreamStatistics, UpkeepStatistics


@dataclass(frozen=True, slots=True)
class StreamReading:
    """This server's part in the log, and the upkeep that its owner does."""

    stream: StreamStatistics
    upkeep: UpkeepStatistics


STREAM: Final[Group[StreamReading]] = Group(
    "The log in a database or in NATS",
    (
        gauge(
            "troth_stream_owner",
            "1 if this server owns the log and may answer. Of all servers with the same log, one "
            "does; none for some seconds when it has died.",
            lambda reading: reading.stream.is_owner,
        ),
        gauge(
            "troth_stream_standing_by",
            "1 if this server reads along until the owner of the log is gone.",
            lambda reading: reading.stream.is_standing_by,
        ),
        gauge(
            "troth_stream_epoch",
            "How many owners the log has had. It grows with each start and each takeover.",
            lambda reading: reading.stream.epoch,
        ),
        gauge(
            "troth_stream_frame",
            "Number of the last frame of the log that this server knows. The difference between "
            "the owner's and that of a server that stands by is how far the latter is behind.",
            lambda reading: reading.stream.number,
        ),
        gauge(
            "troth_stream_silence_seconds",
            "Time since the owner was last heard, or, at the owner, since its last append. Beyond "
            "2 s the owner answers nothing, beyond 3 s it is replaced.",
            lambda reading: reading.stream.silence_ms / 1000,
        ),
        gauge(
            "troth_stream_clock_skew_seconds",
            "How far the owner's clock was ahead of this server's when it was last heard.",
            lambda reading: reading.stream.skew_ms / 1000,
        ),
        gauge(
            "troth_stream_unsafe_fsync",
            "1 if a power cut can lose acknowledged writes, because servers of the log do not sync "
            "each one to disk, or because it is not known whether they do.",
            lambda reading: reading.stream.is_fsync_unsafe,
        ),
        gauge(
            "troth_stream_snapshot_timestamp_seconds",
            "When the newest snapshot next to the log was taken; 0 if there is none, or this "
            "server does not own the log.",
            lambda reading: reading.upkeep.snapshot_at_ms / 1000,
        ),
        gauge(
            "troth_stream_snapshot_bytes",
            "Size of that snapshot.",
            lambda reading: reading.upkeep.snapshot_bytes,
        ),
        counter(
            "troth_stream_snapshots_total",
            "Snapshots that this server has written next to the log.",
            lambda reading: reading.upkeep.snapshots_count,
        ),
        counter(
            "troth_stream_trimmed_frames_total",
            "Frames of the log that this server has removed because no server needs them.",
            lambda reading: reading.upkeep.trimmed_frames_count,
        ),
        counter(
            "troth_stream_upkeep_failures_total",
            "Failed attempts to take a snapshot or to trim the log, which grows in the meantime.",
            lambda reading: reading.upkeep.failures_count,
        ),
    ),
)
