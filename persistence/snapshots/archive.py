"""Finished segments of the log, copied to another directory before the log may forget them.

`ARCHIVE/<data id>/` holds them under their own names, byte for byte, so that everything that reads
a log reads an archive too. A copy has its name only when it is whole and synced; one that is there
is never changed. A copy that differs from the segment of its name comes from a part of history that
`troth log repair` gave up: it is set aside, not overwritten.

Of several groups each has an archive, and they end at different moments. So that no group goes on
to what another one has not archived, a restore ends where the first of them does. One whose log was
closed says in `reached` up to when it had no further record.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import msgspec
from msgspec import Struct

from troth.core.json_bytes import encoder
from troth.persistence.data_directory import log_name
from troth.persistence.errors import DataDirectoryError
from troth.persistence.files import DIRECTORY_MODE, RealFiles
from troth.persistence.identity import IDENTITY_NAME
from troth.persistence.wal.frames import SEGMENT_HEADER_BYTES
from troth.persistence.wal.log import LogRecord
from troth.persistence.wal.recovery import LogScan
from troth.persistence.wal.segments import Segment, list_segments, segment_path

from .snapshot_file import SnapshotError

REACHED_NAME: Final = "reached"
_PARTIAL_SUFFIX: Final = ".partial"
_SUPERSEDED_SUFFIX: Final = ".superseded"


@dataclass(frozen=True, slots=True)
class ArchiveStatistics:
    """What an archive has done since the start. `failing` says that the last attempt failed."""

    archived_total_count: int
    archived_bytes: int
    removed_total_count: int
    failures_total_count: int
    failing: bool
    last_sequence: int


class Reached(Struct, frozen=True):
    """Up to `time_ms` a log has had no record from `next_sequence` on."""

    next_sequence: int
    time_ms: int


_encode: Final = encoder()


@final
class Archive:
    """The archive of one log. `keep_ms` is how long copies are kept.

    `group` is the group whose log it is, of several; None: there is one.

    All methods block; they may be called from several threads.
    """

    def __init__(
        self, directory: Path, data_id: bytes, keep_ms: int, group: int | None = None
    ) -> None:
        self._directories = [directory, directory / data_id.hex()]
        if group is not None:
            self._directories.append(self._directories[-1] / str(group))
        self.path = self._directories[-1]
        self._keep_ms = keep_ms
        self._lock = threading.Lock()
        self._known: dict[int, int] = {}  # first sequence to size, of what is known to be there
        self._archived_count = 0
        self._archived_bytes = 0
        self._removed_count = 0
        self._failures_count = 0
        self._failing = False
        self._last_sequence = 0

    def store(self, log_path: str, segments: Sequence[Segment]) -> OSError | None:
        """Copy those finished segments that are not there yet, oldest first.

        An error is returned, not raised: the server goes on, and its log keeps what is not copied.
        """
        with self._lock:
            try:
                for segment in segments:
                    if segment.size_bytes > SEGMENT_HEADER_BYTES:
                        self._store(log_path, segment)
            except OSError as error:
                self._failures_count += 1
                self._failing = True
                return error
            self._failing = False
            return None

    def _store(self, log_path: str, segment: Segment) -> None:
        if self._known.get(segment.first_sequence) == segment.size_bytes:
            return
        source = Path(segment_path(log_path, segment.first_sequence))
        target = self.path / source.name
        content = source.read_bytes()[: segment.size_bytes]
        self._make_directory()
        existing = target.read_bytes() if target.exists() else None
        # A crash may have kept the zeros at a segment's end from being cut.
        if existing is None or existing.rstrip(b"\0") != content.rstrip(b"\0"):
            if existing is not None:
                self._set_aside(target)
            self._copy(content, target)
            self._archived_count += 1
            self._archived_bytes += len(content)
        self._known[segment.first_sequence] = segment.size_bytes
        self._last_sequence = max(self._last_sequence, segment.first_sequence)

    def _make_directory(self) -> None:
        for path in self._directories:
            if not path.is_dir():
                path.mkdir(DIRECTORY_MODE, exist_ok=True)  # other groups make them too
                _sync_directory(path.parent)

    def _set_aside(self, target: Path) -> None:
        number = 1
        while (aside := target.with_name(f"{target.name}{_SUPERSEDED_SUFFIX}-{number}")).exists():
            number += 1
        target.rename(aside)
        _sync_directory(self.path)

    def _copy(self, content: bytes, target: Path) -> None:
        partial = target.with_name(target.name + _PARTIAL_SUFFIX)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            partial.unlink()
            raise
        partial.rename(target)
        _sync_directory(self.path)

    def note_reached(self, next_sequence: int, time_ms: int) -> None:
        """Note that up to a moment the log has nothing from a record on. Raises OSError."""
        if self.path.is_dir():
            content = _encode(Reached(next_sequence, time_ms))
            self._copy(content, self.path / REACHED_NAME)

    def has(self, segment: Segment) -> bool:
        """Return whether a finished segment needs no copying any more."""
        is_empty = segment.size_bytes <= SEGMENT_HEADER_BYTES
        return is_empty or self._known.get(segment.first_sequence) == segment.size_bytes

    def remove_old(self, now_ms: int) -> None:
        """Remove copies that were made longer than `keep_ms` ago, oldest first. Raises OSError."""
        if not self.path.is_dir():
            return
        with self._lock:
            for segment in list_segments(RealFiles(), str(self.path)):
                path = Path(segment_path(str(self.path), segment.first_sequence))
                if path.stat().st_mtime_ns // 1_000_000 >= now_ms - self._keep_ms:
                    return
                path.unlink()
                _sync_directory(self.path)
                self._removed_count += 1

    def statistics(self) -> ArchiveStatistics:
        """Return counters for metrics."""
        return ArchiveStatistics(
            archived_total_count=self._archived_count,
            archived_bytes=self._archived_bytes,
            removed_total_count=self._removed_count,
            failures_total_count=self._failures_count,
            failing=self._failing,
            last_sequence=self._last_sequence,
        )


def _sync_directory(path: Path) -> None:
    RealFiles().sync_directory(str(path))


def later_batches(
    path: Path, data_id: bytes, next_sequence: int, group: int | None = None
) -> Iterator[tuple[int, list[LogRecord]]]:
    """Yield the batches from a sequence on, out of an archive or a data directory's own log.

    `group` is the one whose log it is, of several. Yields nothing if it ends before that. Raises
    SnapshotError for a gap or damage.
    """
    log_path = _log_path(path, data_id, group)
    files = RealFiles()
    try:
        segments = list_segments(files, log_path)
    except OSError as error:
        raise SnapshotError(f"{log_path}: cannot be listed ({error.strerror}).") from error
    while len(segments) > 1 and segments[1].first_sequence <= next_sequence:
        del segments[0]
    if not segments:
        return
    if segments[0].first_sequence > next_sequence:
        raise SnapshotError(
            f"{log_path} begins with record {segments[0].first_sequence}, so the records from "
            f"{next_sequence} on, which must come next, are missing there. Nothing was changed. "
            "Use a newer snapshot, or name another --archive before this one."
        )
    scan = LogScan(files, log_path, data_id, segments)
    try:
        for first_sequence, records in scan.batches():
            if first_sequence + len(records) > next_sequence:
                yield first_sequence, records
    except DataDirectoryError as error:
        raise SnapshotError(f"{path} cannot be used to go on from a snapshot: {error}") from error


def reached(path: Path, data_id: bytes, group: int) -> Reached | None:
    """Return what the archive of a group of several says of its end; None if nothing."""
    try:
        content = Path(_log_path(path, data_id, group), REACHED_NAME).read_bytes()
        return msgspec.json.decode(content, type=Reached)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def is_whole_log(path: Path) -> bool:
    """Return whether this is a data directory, whose log has all that was acknowledged."""
    return (path / IDENTITY_NAME).exists()


def _log_path(path: Path, data_id: bytes, group: int | None) -> str:
    if is_whole_log(path):
        return str(path / log_name(group or 0))
    own = path / data_id.hex()
    if group is not None:
        own /= str(group)
    if own.is_dir():
        return str(own)
    raise SnapshotError(
        f"{path} holds no log of the data in this snapshot (data id {data_id.hex()}). "
        "Nothing was changed. Give the directory that `archive_directory` named, or the data "
        "directory itself."
    )
