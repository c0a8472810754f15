"""Making a data directory out of a snapshot, and of log segments that go on from it.

It is built next to its final place, as `DIR.restoring`, and takes its place by one rename when all
of it is written, checked and synced; `troth.json`, without which no server starts on a directory,
is written last. So a directory that looks whole is whole. What an interruption leaves is recognized
by a mark in it, and the next attempt starts again.

The new directory has the secret and the number of shards of the old one (cursors stay valid, ids
stay in their shards) and a data id of its own: from here on its history differs, and its log must
not be mixed up with the archived log of the old one.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from troth.core.limits import SEGMENT_BYTES
from troth.persistence.building import BuildingInTheWay, Mark, marked
from troth.persistence.checkpoints import rows
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.checkpoints.port import Rows, Write
from troth.persistence.checkpoints.store import LmdbStore
from troth.persistence.data_directory import (
    checkpoints_name,
    log_name,
    write_identity,
    write_new_log,
)
from troth.persistence.errors import CheckpointFailed, LogFailed
from troth.persistence.files import RealFiles
from troth.persistence.identity import Identity
from troth.persistence.inspection.log_records import read_record, record_time_ms
from troth.persistence.wal.frames import DATA_ID_BYTES, SEGMENT_HEADER_BYTES
from troth.persistence.wal.log import LogRecord
from troth.persistence.wal.recovery import LogEnd
from troth.persistence.wal.segmented_log import SegmentedLog
from troth.persistence.wal.segments import Segment

from .archive import is_whole_log, later_batches, reached
from .snapshot_file import Batch, SnapshotError, SnapshotHeader, SnapshotReader
from .snapshot_rules import (
    BytesDone,
    LogsChecked,
    check_formats,
    check_rows,
    sync_directory,
)

RESTORING_SUFFIX: Final = ".restoring"
MARK: Final = Mark("being-restored", "a restore")
_COMMIT_BYTES: Final = 16 << 20
_FRAME_BYTES: Final = 1 << 20
_PERMITTED: Final = frozenset({"lost+found"})


@dataclass(frozen=True, slots=True)
class Until:
    """The moment to restore: the last record's sequence, or its time; neither: all there is."""

    sequence: int | None = None
    time_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made. `until_sequence` is the last record that the new directory shows."""

    path: Path
    data_id: str
    rows_count: int
    records_count: int
    until_sequence: int
    time_ms: int | None  # of the last record that has one, among those after the rows
    stopped_early: bool  # because `Until` said so, not because there was nothing more
    limit_ms: int | None = None
    """Where the archive of one of several groups ends, so that no group goes on."""


def restore(
    file: Path,
    data: Path,
    *,
    until: Until,
    archives: Iterable[Path] = (),
    progress: BytesDone | None = None,
    random_bytes: Callable[[int], bytes] = os.urandom,
    segment_bytes: int = SEGMENT_BYTES,
) -> Restored:
    """Make the data directory `data`, which must not exist or be empty.

    Raises SnapshotError; then there is no such directory, or the empty one there was.
    """
    _refuse_unless_empty(data)
    with SnapshotReader(file) as reader:
        check_formats(file, reader.header)
        _check_until(file, reader.header, until, tuple(archives))
        building = data.with_name(data.name + RESTORING_SUFFIX)
        try:
            with marked(building, MARK):
                restoration = _Restoration(
                    reader, building, until, random_bytes, progress, segment_bytes
                )
                restored = restoration.run(tuple(archives))
                os.rename(building, data)
                sync_directory(data.parent)
                (data / MARK.name).unlink()
        except BuildingInTheWay as error:
            raise SnapshotError(str(error)) from error
        except OSError as error:
            raise _failed(data, error.strerror or str(error)) from error
        except (LogFailed, CheckpointFailed) as error:
            raise _failed(data, str(error.__cause__ or error)) from error
        return Restored(
            data,
            restored.data_id.hex(),
            restored.rows_count,
            restored.records_count,
            restored.until_sequence,
            restored.time_ms,
            restored.stopped_early,
            restored.limit_ms,
        )


def _failed(data: Path, problem: str) -> SnapshotError:
    return SnapshotError(
        f"{data} cannot be made: {problem}. There is no new data directory; the snapshot is "
        "unchanged. Free space or check the disk and the permissions, then try again."
    )


def _refuse_unless_empty(data: Path) -> None:
    try:
        if os.path.lexists(data) and (not data.is_dir() or set(os.listdir(data)) - _PERMITTED):
            raise SnapshotError(
                f"{data} is not empty. Nothing was changed. Restore into a directory that does "
                "not exist yet or is empty."
            )
        if os.path.lexists(data) and os.listdir(data):
            raise SnapshotError(
                f"{data} is a file system of its own (it holds lost+found), and a directory is "
                "restored by renaming. Nothing was changed. Restore into a directory inside it."
            )
    except OSError as error:
        raise SnapshotError(f"{data}: cannot be examined ({error.strerror}).") from error


def _check_until(
    file: Path, header: SnapshotHeader, until: Until, archives: tuple[Path, ...]
) -> None:
    if until.sequence is not None and header.groups:
        raise SnapshotError(
            f"{file} has {len(header.groups)} groups of shards, each with a log of its own, so "
            "the number of a record names no moment. Nothing was changed. Give a time."
        )
    if until.sequence is not None and until.sequence < header.rows_until_sequence:
        raise SnapshotError(
            f"{file} shows nothing before record {header.rows_until_sequence}, and "
            f"{until.sequence} was asked for. Nothing was changed. Use an older snapshot."
        )
    if until.time_ms is not None and until.time_ms < header.rows_until_ms:
        raise SnapshotError(
            f"{file} shows nothing before {_utc(header.rows_until_ms)}, and "
            f"{_utc(until.time_ms)} was asked for. Nothing was changed. Use an older snapshot."
        )
    if until.sequence is not None and until.sequence > header.until_sequence and not archives:
        raise SnapshotError(
            f"{file} ends with record {header.until_sequence}, and {until.sequence} was asked "
            "for. Nothing was changed. Name the archived log with --archive to go on from there."
        )


class _GroupRestoration:
    """One group: its rows and its log."""

    def __init__(
        self,
        path: Path,
        header: SnapshotHeader,
        group: int,
        until: Until,
        data_id: bytes,
        segment_bytes: int,
    ) -> None:
        self._path = path
        self._data_id = bytes.fromhex(header.data_id)
        self._group = group
        self._archived_group = group if header.groups else None
        self._part = part = header.parts[group]
        self._until = until
        self.rows_count = 0
        self.records_count = 0
        self.until_sequence = part.rows_position
        self.time_ms: int | None = None
        self.stopped_early = False
        self._limit_ms: int | None = None
        self._writes: list[Write] = []
        self._writes_bytes = 0
        self._frame: list[LogRecord] = []
        self._frame_bytes = 0
        first = sum(header.group_shards[:group])
        self._log = _new_log(path, group, data_id, part.rows_position + 1, segment_bytes)
        try:
            checkpoints_path = path / checkpoints_name(group)
            self._store = LmdbStore(checkpoints_path, rows.TABLES)
        except BaseException:
            self._log.close()
            raise
        shards = range(first, first + part.shards_count)
        checkpoints = Checkpoints(self._store, data_id, shards)
        checkpoints.write([])  # says whose store it is
        checkpoints.reader.close()

    def close(self) -> None:
        """Close the log and the store."""
        self._log.close()
        self._store.close()

    def add_rows(self, table: str, found: list[tuple[bytes, bytes]]) -> None:
        """Take rows of a table."""
        if found:
            self._writes.append(Rows(table, *zip(*found, strict=True)))
            self._writes_bytes += sum(len(key) + len(value) for key, value in found)
        self.rows_count += len(found)
        if self._writes_bytes >= _COMMIT_BYTES:
            self._commit()

    def _commit(self) -> None:
        self._store.commit(self._writes)
        self._writes, self._writes_bytes = [], 0

    def reach_ms(self, archives: tuple[Path, ...], from_ms: int) -> int | None:
        """Return up to when archives have all records of this group, which go on from a time.

        None: what they end with is all there was.
        """
        sequence = self.until_sequence
        for archive in archives:
            batches = later_batches(archive, self._data_id, sequence + 1, self._archived_group)
            for first_sequence, records in batches:
                sequence = first_sequence + len(records) - 1
                from_ms = max(filter(None, map(_time_ms, records)), default=from_ms)
            if is_whole_log(archive):
                return None
            end = reached(archive, self._data_id, self._group)
            if end is not None and end.next_sequence == sequence + 1:
                from_ms = max(from_ms, end.time_ms)
        return from_ms

    def go_on(self, archive: Path, limit_ms: int | None = None) -> None:
        """Take what an archive has after that, up to a time if one is given."""
        self._limit_ms = limit_ms
        for batch in later_batches(
            archive, self._data_id, self.until_sequence + 1, self._archived_group
        ):
            self.add_batch(batch)
            if self.stopped_early:
                return

    def add_batch(self, batch: Batch) -> None:
        """Take a batch unless it is beyond the wanted moment; from there on, take none."""
        first_sequence, records = batch
        last_sequence = first_sequence + len(records) - 1
        if self.stopped_early or last_sequence <= self.until_sequence:
            return
        # Up to there all is needed: some rows show what it says already.
        if first_sequence > self._part.rows_until_sequence and self._is_beyond(batch):
            self.stopped_early = True
            return
        fresh = records[max(0, self.until_sequence + 1 - first_sequence) :]
        self._frame += fresh
        self._frame_bytes += sum(len(record.body) for record in fresh)
        self.records_count += len(fresh)
        self.until_sequence = last_sequence
        for record in fresh:
            time_ms = _time_ms(record)
            self.time_ms = self.time_ms if time_ms is None else time_ms
        if self._frame_bytes >= _FRAME_BYTES:
            self._append()

    def _is_beyond(self, batch: Batch) -> bool:
        first_sequence, records = batch
        until = self._until
        if until.sequence is not None and first_sequence + len(records) - 1 > until.sequence:
            return True
        ends = [end for end in (until.time_ms, self._limit_ms) if end is not None]
        if not ends:
            return False
        times = map(_time_ms, records)
        return any(time_ms is not None and time_ms > min(ends) for time_ms in times)

    def _append(self) -> None:
        if self._frame:
            self._log.append(self._frame, self._log.next_sequence)
            self._frame, self._frame_bytes = [], 0

    def finish_rows(self) -> None:
        """Write the rows that are left."""
        self._commit()

    def finish(self) -> None:
        """Write the records that are left."""
        self._append()
        sync_directory(self._path / log_name(self._group))


def _new_log(
    path: Path, group: int, data_id: bytes, first_sequence: int, segment_bytes: int
) -> SegmentedLog:
    """Return an empty log that begins with the sequence after those that the rows cover."""
    files = RealFiles()
    write_new_log(files, str(path), data_id, first_sequence, group)
    end = LogEnd(
        next_sequence=first_sequence,
        previous_checksum=0,
        epoch=1,
        shard_sequences={},
        segments=[Segment(first_sequence, SEGMENT_HEADER_BYTES)],
        kept_bytes=SEGMENT_HEADER_BYTES,
        torn_bytes=0,
        records_count=0,
        bytes_read=0,
    )
    log_path = str(path / log_name(group))
    return SegmentedLog(files, log_path, data_id, end, segment_bytes=segment_bytes)


class _Restoration:
    """One restore, from an empty, marked directory to a whole one that is not in its place yet."""

    def __init__(
        self,
        reader: SnapshotReader,
        path: Path,
        until: Until,
        random_bytes: Callable[[int], bytes],
        progress: BytesDone | None,
        segment_bytes: int,
    ) -> None:
        self._reader = reader
        self._header = reader.header
        self._path = path
        self._until = until
        self._progress = progress
        self._segment_bytes = segment_bytes
        self._groups: list[_GroupRestoration] = []
        self.limit_ms: int | None = None
        self.data_id = random_bytes(DATA_ID_BYTES)

    def run(self, archives: tuple[Path, ...]) -> "_Restoration":
        with contextlib.ExitStack() as closing:
            for group in range(len(self._header.parts)):
                made = _GroupRestoration(
                    self._path,
                    self._header,
                    group,
                    self._until,
                    self.data_id,
                    self._segment_bytes,
                )
                closing.callback(made.close)
                self._groups.append(made)
            self._copy_snapshot()
            self.limit_ms = self._reached_by_all(archives)
            for one in self._groups:
                for archive in archives:
                    one.go_on(archive, self.limit_ms)
                one.finish()
        self._check_reached()
        self._finish()
        return self

    @property
    def rows_count(self) -> int:
        return sum(one.rows_count for one in self._groups)

    @property
    def records_count(self) -> int:
        return sum(one.records_count for one in self._groups)

    @property
    def until_sequence(self) -> int:
        return max(one.until_sequence for one in self._groups)

    @property
    def time_ms(self) -> int | None:
        return max((one.time_ms for one in self._groups if one.time_ms is not None), default=None)

    @property
    def stopped_early(self) -> bool:
        return any(one.stopped_early for one in self._groups)

    def _copy_snapshot(self) -> None:
        """Copy the snapshot; read and check all of it, also what comes after the wanted moment."""
        logs = LogsChecked(self._reader.path, self._header)
        for part in self._reader.parts():
            group = self._groups[part.group]
            if part.table is not None:
                check_rows(self._reader.path, part.table, part.rows)
                group.add_rows(part.table, part.rows)
            for first_sequence, records in part.batches:
                logs.take(part.group, first_sequence, len(records))
                group.add_batch((first_sequence, records))
            if self._progress is not None:
                self._progress(self._reader.position_bytes)
        for one in self._groups:
            one.finish_rows()
        logs.done()

    def _reached_by_all(self, archives: tuple[Path, ...]) -> int | None:
        """Return up to when archives have the records of all groups; None: all there are.

        What one group has told another would be missing there else, and come again differently.
        """
        if len(self._groups) == 1 or not archives:
            return None
        from_ms = self._header.created_at_ms
        ends = [one.reach_ms(archives, from_ms) for one in self._groups]
        return min((end for end in ends if end is not None), default=None)

    def _check_reached(self) -> None:
        wanted = self._until.sequence
        if wanted is not None and not self.stopped_early and self.until_sequence < wanted:
            raise SnapshotError(
                f"the snapshot and the archived log end with record {self.until_sequence}, and "
                f"{wanted} was asked for. There is no new data directory. Ask for less, or name "
                "the directory with the later part of the log with --archive."
            )

    def _finish(self) -> None:
        """Write the identity, which makes the directory one."""
        identity = Identity(
            self.data_id,
            self._header.group_shards,
            self._header.directory_created_at_ms,
            bytes.fromhex(self._header.secret),
            self._header.placement,
        )
        write_identity(RealFiles(), str(self._path), identity)


def _utc(time_ms: int) -> str:
    try:
        time = datetime.fromtimestamp(time_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms since 1970"
    return time.isoformat(timespec="milliseconds")


def _time_ms(record: LogRecord) -> int | None:
    read = read_record(record.body)
    return None if read is None else record_time_ms(read)
