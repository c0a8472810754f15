"""Reading a log without locking it: record by record, or verifying all of it.

Nothing here writes, and nothing takes the directory's lock: a server may be running on the
directory, or may be started at any time. What that server appends while a file is being read can
look like damage (an early part of the file is read before a batch is written, a later part after
the next one). Since each batch is durable before the next is begun, a second reading does not see
the same place like that again: so damage counts only when it is found twice in the same place.

README.md sections 3 and 5 are what is verified here; `LogScan` judges, this module asks it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from troth.core.records import Record
from troth.persistence.data_directory import log_name
from troth.persistence.errors import (
    DataDirectoryError,
    DataDirectoryUnreadable,
    GroupsMismatch,
    LogDamaged,
)
from troth.persistence.files import Files
from troth.persistence.identity import IDENTITY_NAME, Identity, decode_identity
from troth.persistence.wal.frames import (
    FRAME_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
)
from troth.persistence.wal.log import LogRecord
from troth.persistence.wal.recovery import LogEnd, LogScan
from troth.persistence.wal.segments import Segment, list_segments, segment_path

from .log_records import read_record, record_ids, record_time_ms
from .log_salvage import salvage

DAMAGES_LISTED_LIMIT_COUNT: Final = 100
"""A report names this many damages; it only counts the others."""


class Batch(NamedTuple):
    """A verified batch and where it is."""

    file: str
    offset: int
    first_sequence: int
    records: list[LogRecord]

    @property
    def end(self) -> int:
        """The offset behind the batch."""
        bodies_bytes = sum(len(record.body) for record in self.records)
        headers_bytes = FRAME_HEADER_BYTES + RECORD_HEADER_BYTES * len(self.records)
        return self.offset + headers_bytes + bodies_bytes

    def located(self) -> Iterator[tuple[int, int, LogRecord]]:
        """Yield the records with their sequences and offsets."""
        offset = self.offset + FRAME_HEADER_BYTES
        for sequence, record in enumerate(self.records, self.first_sequence):
            yield sequence, offset, record
            offset += RECORD_HEADER_BYTES + len(record.body)


class LogReader:
    """Reads the log of a group of a data directory, in use or not. It holds nothing open."""

    def __init__(
        self, files: Files, path: str | os.PathLike[str], group: int | None = None
    ) -> None:
        """Read who the directory is. None: it must have only one group.

        Raises `DataDirectoryUnreadable`, `UnknownFormatVersion` or `GroupsMismatch`.
        """
        self.files = files
        self.path = os.fspath(path).rstrip("/") or "/"
        self.identity = _read_identity(files, self.path)
        self.group = group or 0
        if group is None and self.identity.groups_count > 1:
            raise GroupsMismatch(self.path, self.identity.groups_count, 1)
        self.shards = self.identity.shards_of(self.group)
        self.log_path = f"{self.path}/{log_name(self.group)}"
        self.segments: list[Segment] = []  # as last listed
        self.end: LogEnd | None = None  # when `batches` has been exhausted

    def batches(
        self, from_sequence: int = 1, needed_sequence: int | None = None
    ) -> Iterator[Batch]:
        """Yield all batches in order, from the segment that holds `from_sequence` on.

        A log that begins only after `needed_sequence` is damaged. Raises `LogDamaged`,
        `UnknownFormatVersion` or `DataDirectoryUnreadable` for what it found twice.
        """
        next_sequence: int | None = None
        seen_before = ""
        while True:
            try:
                self.list_segments()
                if needed_sequence is not None and next_sequence is None:
                    self._check_begins_at(needed_sequence)
                for batch in self._scanned(from_sequence, next_sequence):
                    next_sequence = batch.first_sequence + len(batch.records)
                    yield batch
            except DataDirectoryError as error:
                if str(error) == seen_before:
                    raise
                seen_before = str(error)
            else:
                return

    def _scanned(self, from_sequence: int, next_sequence: int | None) -> Iterator[Batch]:
        """Yield the batches from `next_sequence` on; None if nothing was read so far.

        Where reading goes on, the record before is read again: what comes has to continue it.
        """
        segments = list(self.segments)
        first_needed = from_sequence if next_sequence is None else next_sequence - 1
        while len(segments) > 1 and segments[1].first_sequence <= first_needed:
            del segments[0]
        if next_sequence is not None and segments and segments[0].first_sequence > next_sequence:
            raise DataDirectoryUnreadable(
                self.log_path,
                f"the records from {next_sequence} on were removed while they were being read",
                "Run the command again.",
            )
        begins = {segment.first_sequence for segment in segments}
        scan = LogScan(self.files, self.log_path, self.identity.data_id, segments)
        file, offset = "", 0
        for first_sequence, records in scan.batches():
            if first_sequence in begins:
                file, offset = segment_path(self.log_path, first_sequence), SEGMENT_HEADER_BYTES
            batch = Batch(file, offset, first_sequence, records)
            offset = batch.end
            if next_sequence is None or first_sequence >= next_sequence:
                yield batch
        self.end = scan.end()

    def list_segments(self) -> list[Segment]:
        """Look again which segments there are. Raises `LogDamaged` if that is impossible."""
        try:
            self.segments = list_segments(self.files, self.log_path)
            return self.segments
        except OSError as error:
            problem = f"it cannot be listed ({error.strerror})"
            raise LogDamaged(self.log_path, 0, problem) from error

    def _check_begins_at(self, needed_sequence: int) -> None:
        first = self.segments[0].first_sequence if self.segments else needed_sequence
        if first > needed_sequence:
            raise LogDamaged(
                segment_path(self.log_path, first),
                0,
                f"the log begins here, so the records {needed_sequence} to {first - 1} are missing",
            )


def list_groups(files: Files, path: str | os.PathLike[str]) -> range:
    """Return the groups of a data directory.

    Raises `DataDirectoryUnreadable` or `UnknownFormatVersion`.
    """
    return range(_read_identity(files, os.fspath(path).rstrip("/") or "/").groups_count)


def _read_identity(files: Files, path: str) -> Identity:
    identity_path = f"{path}/{IDENTITY_NAME}"
    try:
        if files.exists(identity_path):
            return decode_identity(identity_path, files.read(identity_path))
        problem = "is not a directory"
        if files.is_directory(path):
            problem = f"holds no {IDENTITY_NAME}, so it is not a data directory of Troth"
        elif not files.exists(path):
            problem = "does not exist"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    raise DataDirectoryUnreadable(
        path, problem, "Give the directory that `troth serve` was given with --data."
    )


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records are wanted; None and an empty set leave nothing out."""

    ids: frozenset[str] = frozenset()
    shard: int | None = None
    since_ms: int | None = None  # this time and later
    until_ms: int | None = None  # before this time
    from_sequence: int = 1
    to_sequence: int | None = None  # including this one


class Entry(NamedTuple):
    """One record of the log with everything known about it; `record` is None if unreadable."""

    sequence: int
    file: str
    offset: int
    log_record: LogRecord
    record: Record | None
    time_ms: int | None  # of its own
    group: int = 0


def dump(
    files: Files, path: str | os.PathLike[str], selection: Selection, group: int | None = None
) -> Iterator[Entry]:
    """Yield the selected records in the log's order; with None there must be one group.

    A record without a time of its own is taken for as old as the record before it in the log, and
    before any time for as old as can be. A record that cannot be decoded is never left out for its
    ids. Raises what `LogReader` raises; what was yielded before is intact.
    """
    reader = LogReader(files, path, group)
    # The time of a record may come from one before it, so then all are read.
    timed = selection.since_ms is not None or selection.until_ms is not None
    start = 1 if timed else selection.from_sequence
    time_ms: int | None = None
    for batch in reader.batches(start):
        for sequence, offset, log_record in batch.located():
            if selection.to_sequence is not None and sequence > selection.to_sequence:
                return
            record = read_record(log_record.body)
            own_time_ms = None if record is None else record_time_ms(record)
            time_ms = time_ms if own_time_ms is None else own_time_ms
            if _is_selected(selection, sequence, log_record.shard, record, time_ms):
                yield Entry(
                    *(sequence, batch.file, offset, log_record, record, own_time_ms, reader.group)
                )


def _is_selected(
    selection: Selection, sequence: int, shard: int, record: Record | None, time_ms: int | None
) -> bool:
    if sequence < selection.from_sequence or selection.shard not in (None, shard):
        return False
    if selection.since_ms is not None and (time_ms is None or time_ms < selection.since_ms):
        return False
    if selection.until_ms is not None and time_ms is not None and time_ms >= selection.until_ms:
        return False
    return not selection.ids or record is None or bool(selection.ids & record_ids(record))


@dataclass(frozen=True, slots=True)
class Damage:
    """One place where the log is wrong."""

    file: str
    offset: int
    problem: str


@dataclass(slots=True)
class LogReport:
    """What verifying has found. The numbers are of the part before the first damage of the log."""

    path: str
    group: int = 0
    segments_count: int = 0
    size_bytes: int = 0  # of all segments
    batches_count: int = 0
    records_count: int = 0
    first_sequence: int | None = None  # None if there is no record
    next_sequence: int = 1  # the first one that is not there, or not sound
    epoch: int | None = None  # None in a damaged log
    last_time_ms: int | None = None  # of the last record that has a time
    torn: Damage | None = None  # an unfinished batch at the end: no damage
    torn_bytes: int = 0
    damages: list[Damage] = field(default_factory=list)
    damages_count: int = 0
    break_in_log: LogDamaged | None = None  # what a start of the server would be refused for
    unreadable_count: int = 0  # records before the break that no server of this version can use
    later_records_count: int = 0  # behind the break, readable
    last_sequence: int = 0  # of all that are readable; 0 if none is

    @property
    def is_sound(self) -> bool:
        """Return whether a server can start on the log and everything in it is usable."""
        return self.damages_count == 0

    def add(self, damage: Damage) -> None:
        """Count a damage, and list it unless there are very many."""
        self.damages_count += 1
        if len(self.damages) < DAMAGES_LISTED_LIMIT_COUNT:
            self.damages.append(damage)


def verify(
    files: Files,
    path: str | os.PathLike[str],
    from_sequence: int = 1,
    *,
    only_needed: bool = False,
    group: int | None = None,
) -> LogReport:
    """Read everything and report; damage is in the report, not raised.

    The log has to hold what follows the checkpoints: the records from `from_sequence` on. With
    `only_needed` the segments before that are not looked at. Raises `DataDirectoryUnreadable` and
    `UnknownFormatVersion`: then nothing can be said about the whole.
    """
    reader = LogReader(files, path, group)
    report = LogReport(reader.path, next_sequence=from_sequence, group=reader.group)
    try:
        for batch in reader.batches(from_sequence if only_needed else 1, from_sequence):
            _count_batch(report, batch, reader.shards)
        _take_end(report, reader, from_sequence)
    except LogDamaged as damage:
        report.break_in_log = damage
        if reader.segments and not report.records_count:
            report.next_sequence = min(from_sequence, reader.segments[0].first_sequence)
        report.add(Damage(damage.file, damage.offset, damage.problem))
        _look_behind(report, reader, damage)
    report.segments_count = len(reader.segments)
    report.size_bytes = sum(segment.size_bytes for segment in reader.segments)
    return report


def _take_end(report: LogReport, reader: LogReader, from_sequence: int) -> None:
    """Take the end of an undamaged log into the report. Raises `LogDamaged` if it is too early."""
    assert reader.end is not None
    end = reader.end
    report.epoch, report.next_sequence = end.epoch, end.next_sequence
    if end.next_sequence < from_sequence:
        raise LogDamaged(
            reader.log_path,
            0,
            f"it ends before record {from_sequence - 1}, which the checkpoints have reached",
        )
    if end.torn_bytes:
        file = segment_path(reader.log_path, end.segments[-1].first_sequence)
        report.torn = Damage(file, end.kept_bytes, f"{end.torn_bytes} bytes are unfinished")
        report.torn_bytes = end.torn_bytes


def _count_batch(report: LogReport, batch: Batch, shards: range) -> None:
    """Take a verified batch into the report, and check that its records can be used."""
    if report.first_sequence is None:
        report.first_sequence = batch.first_sequence
    report.batches_count += 1
    report.records_count += len(batch.records)
    report.next_sequence = batch.first_sequence + len(batch.records)
    report.last_sequence = report.next_sequence - 1
    for sequence, offset, (shard, _, body) in batch.located():
        record = read_record(body)
        problem = ""
        if record is None:
            problem = "is of a type unknown to this version of Troth"
        elif shard not in shards:
            ours = f"{shards.start} to {shards.stop - 1}"
            problem = f"is of shard {shard}, but there are only the shards {ours}"
        else:
            time_ms = record_time_ms(record)
            report.last_time_ms = report.last_time_ms if time_ms is None else time_ms
        if problem:
            report.unreadable_count += 1
            report.add(Damage(batch.file, offset, f"record {sequence} {problem}"))


def later_segments(reader: LogReader, damage: LogDamaged) -> list[tuple[str, int]]:
    """Return the segments from a damage on, each with the offset from which it cannot be kept."""
    paths = [segment_path(reader.log_path, segment.first_sequence) for segment in reader.segments]
    if damage.file not in paths:
        return []
    index = paths.index(damage.file)
    return [(damage.file, damage.offset), *((path, 0) for path in paths[index + 1 :])]


def read_segment(files: Files, file: str) -> bytes:
    """Return a segment's bytes. Raises `DataDirectoryUnreadable`."""
    try:
        return files.read(file)
    except OSError as error:
        raise DataDirectoryUnreadable(
            file, f"cannot be read ({error.strerror})", "Check the disk and its permissions."
        ) from error


def _look_behind(report: LogReport, reader: LogReader, damage: LogDamaged) -> None:
    """Count what is readable behind the break, and note the other places that are not."""
    for file, offset in later_segments(reader, damage):
        data = read_segment(reader.files, file)
        for piece in salvage(file, data, offset, reader.identity.data_id):
            if not piece.is_gap:
                report.later_records_count += len(piece.records)
                last = piece.first_sequence + len(piece.records) - 1
                report.last_sequence = max(report.last_sequence, last)
            elif (file, piece.offset) != (damage.file, damage.offset):
                report.add(Damage(file, piece.offset, piece.problem))
