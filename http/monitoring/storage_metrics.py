"""Metrics of what is on disk: the log, checkpoints, snapshots, the archive, retention."""

from dataclasses import dataclass
from typing import Final

from troth.http.metrics.families import Family, Group, counter, gauge, histogram
from troth.persistence.wal.log import LogStatistics
from troth.shards.committer import CommitterStatistics
from troth.shards.upkeep.checkpointer import CheckpointerStatistics
from troth.shards.upkeep.retention import RetentionStatistics
from troth.shards.upkeep.snapshotter import SnapshotterStatistics


@dataclass(frozen=True, slots=True)
class LogReading:
    """The log, and what waits for it. `free_bytes` and `size_bytes` are the disk's."""

    log: LogStatistics
    committer: CommitterStatistics
    free_bytes: int
    size_bytes: int


LOG: Final[Group[LogReading]] = Group(
    "The log",
    (
        histogram(
            "troth_log_sync_duration_seconds",
            "Time of one fdatasync of the log, which every write waits for. A p99 above 50 ms "
            "means a slow or shared disk.",
            lambda reading: reading.log.syncs_s,
        ),
        histogram(
            "troth_log_batch_records",
            "Records written to the log together. Large batches mean load, or a slow disk.",
            lambda reading: reading.log.batches_records,
        ),
        counter(
            "troth_log_appends_total",
            "Batches appended to the log.",
            lambda reading: reading.log.appends_count,
        ),
        counter(
            "troth_log_records_total",
            "Records appended to the log.",
            lambda reading: reading.log.records_count,
        ),
        counter(
            "troth_log_appended_bytes_total",
            "Bytes appended to the log.",
            lambda reading: reading.log.bytes_appended,
        ),
        counter(
            "troth_log_syncs_total", "Syncs of the log.", lambda reading: reading.log.syncs_count
        ),
        gauge(
            "troth_log_size_bytes",
            "Size of the log on disk. Checkpoints trim it: one that only grows means that they "
            "fail; see troth_checkpoint_last_timestamp_seconds.",
            lambda reading: reading.log.size_bytes,
        ),
        gauge(
            "troth_log_segments", "Files of the log.", lambda reading: reading.log.segments_count
        ),
        gauge(
            "troth_log_pending_bytes",
            "Bytes that wait to be written to the log. Mailboxes fill up while this is large.",
            lambda reading: reading.committer.pending_bytes,
        ),
        gauge(
            "troth_log_failed",
            "1 if the log could not be written: the server acknowledges nothing and stops. Look "
            "at its last log line, and at the disk.",
            lambda reading: reading.log.failed or reading.committer.failed,
        ),
        gauge(
            "troth_data_free_bytes",
            "Free space on the disk of the data directory. The server stops when it is used up.",
            lambda reading: reading.free_bytes,
        ),
        gauge(
            "troth_data_size_bytes",
            "Size of the disk of the data directory; 0 if nothing is kept on disk.",
            lambda reading: reading.size_bytes,
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class CheckpointReading:
    """Checkpoints, and the log sequence that comes next."""

    statistics: CheckpointerStatistics
    next_sequence: int


CHECKPOINTS: Final[Group[CheckpointReading]] = Group(
    "Checkpoints",
    (
        histogram(
            "troth_checkpoint_duration_seconds",
            "Time of a whole checkpoint, most of it in a thread.",
            lambda reading: reading.statistics.durations_s,
        ),
        gauge(
            "troth_checkpoint_last_timestamp_seconds",
            "When the last checkpoint of this process ended. A start reads back the log since it.",
            lambda reading: reading.statistics.last_on_ms / 1000,
        ),
        gauge(
            "troth_log_records_since_checkpoint",
            "Records that are only in the log. A start reads them back.",
            lambda reading: max(0, reading.next_sequence - reading.statistics.store.position - 1),
        ),
        counter(
            "troth_checkpoint_evicted_total",
            "Completed promises and finished tasks that left memory after a checkpoint.",
            lambda reading: reading.statistics.evicted_count,
        ),
        counter(
            "troth_checkpoint_writer_checkpoints_total",
            "Checkpoints that a process of its own has written: those of 1,000 rows and more.",
            lambda reading: reading.statistics.store.writer.checkpoints_count,
        ),
        counter(
            "troth_checkpoint_writer_busy_seconds_total",
            "How long that process was at work on them.",
            lambda reading: reading.statistics.store.writer.busy_s,
        ),
        counter(
            "troth_checkpoint_writer_cpu_seconds_total",
            "Processor time of that process.",
            lambda reading: reading.statistics.store.writer.processor_s,
        ),
        gauge(
            "troth_checkpoint_writer_memory_bytes",
            "The most memory that the process which wrote the last of them has had.",
            lambda reading: reading.statistics.store.writer.memory_bytes,
        ),
        counter(
            "troth_checkpoint_writer_starved_total",
            "How often it had no processor time, and one that asks for more began again.",
            lambda reading: reading.statistics.store.writer.starved_count,
        ),
        gauge(
            "troth_store_rows",
            "Rows in the store of checkpoints.",
            lambda reading: reading.statistics.store.rows_count,
        ),
        gauge(
            "troth_store_size_bytes",
            "Size of the store of checkpoints.",
            lambda reading: reading.statistics.store.size_bytes,
        ),
        counter(
            "troth_store_verified_rows_total",
            "Rows whose checksum was looked at since the start.",
            lambda reading: reading.statistics.store.verified_count,
        ),
        gauge(
            "troth_store_filter_complete",
            "1 if the filter of stored ids is complete; until then creates look on the disk.",
            lambda reading: reading.statistics.store.filter_is_complete,
        ),
        gauge(
            "troth_store_filter_ids",
            "Ids in the filter of stored ids.",
            lambda reading: reading.statistics.store.filter_ids_count,
        ),
        gauge(
            "troth_store_filter_bytes",
            "Memory of the filter of stored ids.",
            lambda reading: reading.statistics.store.filter_bytes,
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class SnapshotReading:
    """Snapshots, and whether an operator has scheduled them."""

    statistics: SnapshotterStatistics
    is_scheduled: bool


def _archive(
    name: str, text: str, field: str, *, only_grows: bool = False
) -> Family[SnapshotReading]:
    """Describe a number of the archive; it is 0 where there is none."""

    def read(reading: SnapshotReading) -> float:
        archive = reading.statistics.archive
        return 0.0 if archive is None else float(getattr(archive, field))

    return (counter if only_grows else gauge)(name, text, read)


SNAPSHOTS: Final[Group[SnapshotReading]] = Group(
    "Snapshots and archive",
    (
        gauge(
            "troth_snapshot_last_timestamp_seconds",
            "When the newest snapshot was taken, by whatever means. Alert on its age.",
            lambda reading: reading.statistics.last_at_ms / 1000,
        ),
        gauge(
            "troth_snapshot_scheduled",
            "1 if snapshot_schedule is set.",
            lambda reading: reading.is_scheduled,
        ),
        gauge(
            "troth_snapshot_last_bytes",
            "Size of the newest snapshot.",
            lambda reading: reading.statistics.last_bytes,
        ),
        gauge(
            "troth_snapshots_open",
            "Snapshots that are being taken.",
            lambda reading: reading.statistics.open_count,
        ),
        counter(
            "troth_snapshots_taken_total",
            "Snapshots taken.",
            lambda reading: reading.statistics.taken_total_count,
        ),
        counter(
            "troth_snapshots_removed_total",
            "Old snapshots removed, as snapshot_keep_count says.",
            lambda reading: reading.statistics.removed_total_count,
        ),
        counter(
            "troth_snapshot_failures_total",
            "Snapshots that failed. The server's log says why.",
            lambda reading: reading.statistics.failures_total_count,
        ),
        _archive(
            "troth_archive_segments_total",
            "Files of the log copied to the archive.",
            "archived_total_count",
            only_grows=True,
        ),
        _archive(
            "troth_archive_failures_total",
            "Copies to the archive that failed. The server's log says why.",
            "failures_total_count",
            only_grows=True,
        ),
        _archive(
            "troth_archive_failing",
            "1 while copies to the archive fail. The log keeps what is not copied, and grows.",
            "failing",
        ),
        _archive("troth_archive_bytes", "Size of the archive.", "archived_bytes"),
    ),
)

RETENTION: Final[Group[RetentionStatistics]] = Group(
    "Retention",
    (
        counter(
            "troth_retention_deleted_total",
            "Promises deleted by each rule of retention.",
            lambda statistics: dict(statistics.deleted_total_count),
            "rule",
        ),
        counter(
            "troth_retention_sweeps_total",
            "Sweeps that looked for what rules delete.",
            lambda statistics: statistics.sweeps_total_count,
        ),
        gauge(
            "troth_retention_waiting",
            "Promises whose time has come but which something unfinished still needs.",
            lambda statistics: statistics.waiting_count,
        ),
        gauge(
            "troth_retention_last_sweep_timestamp_seconds",
            "When the last sweep ended.",
            lambda statistics: statistics.last_sweep_on_ms / 1000,
        ),
        gauge(
            "troth_retention_last_sweep_duration_seconds",
            "How long the last sweep took.",
            lambda statistics: statistics.last_sweep_duration_ms / 1000,
        ),
    ),
)
