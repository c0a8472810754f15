"""Where the shards' records are kept: a data directory, or nothing at all (`--in-memory`).

Opening takes the directory's lock and reads who it belongs to; `recover` replays its log into the
shards and may take long, so it may run in a thread of its own; then `make_writer` gives the
committer what it writes with. Nothing in the directory changes before recovery has ended well.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from troth import __version__
from troth.core.limits import ARCHIVE_KEEP_MS, SEGMENT_BYTES, SHARDS_DEFAULT_COUNT
from troth.persistence.apart.process import WriterProcess, is_possible
from troth.persistence.apart.store_writer import StoreWriter
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.checkpoints.port import View
from troth.persistence.checkpoints.rows import TABLES
from troth.persistence.checkpoints.store import LmdbStore
from troth.persistence.data_directory import (
    DataDirectory,
    LogEndDoubt,
)
from troth.persistence.errors import DataDirectoryLost
from troth.persistence.files import LockedDirectory, RealFiles
from troth.persistence.placement import DEFAULT_RULE, PlacementRule
from troth.persistence.snapshots.archive import Archive, ArchiveStatistics
from troth.persistence.snapshots.last_taken import last_taken_ms, note_taken
from troth.persistence.snapshots.snapshots import Cut, cut_open_directory
from troth.persistence.wal.log import LogRecord, LogStatistics, MemoryLog
from troth.persistence.wal.segments import Segment, list_segments

from .committer import BatchWriter, Committer, DirectWriter, ThreadWriter


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was read back at the start. `torn_bytes_count` is what a crash left half-written."""

    records_count: int
    duration_ms: int
    torn_bytes_count: int
    torn_file: str | None
    doubt: LogEndDoubt | None


class Storage(Protocol):
    """What a server keeps its records in."""

    @property
    def place(self) -> str:
        """The location of the data, for people."""
        ...  # pragma: no cover

    @property
    def directory(self) -> Path | None:
        """The directory that is locked for this process, if there is one."""
        ...  # pragma: no cover

    def check(self) -> None:
        """Raise DataDirectoryLost unless everything is where it was; OSError if that is unknown."""
        ...  # pragma: no cover

    @property
    def shard_count(self) -> int:
        """The number of shards of all groups, fixed forever."""
        ...  # pragma: no cover

    @property
    def group(self) -> int:
        """The group of shards that this is the storage of."""
        ...  # pragma: no cover

    @property
    def group_shards(self) -> tuple[int, ...]:
        """The number of shards of each group; those of a group follow one another."""
        ...  # pragma: no cover

    @property
    def placement(self) -> PlacementRule:
        """The rule by which ids have their shards, fixed with their number."""
        ...  # pragma: no cover

    @property
    def secret(self) -> bytes:
        """Random bytes that stay the same as long as the data."""
        ...  # pragma: no cover

    @property
    def next_sequence(self) -> int:
        """The sequence of the next record; only after all of `records` was read."""
        ...  # pragma: no cover

    @property
    def checkpoints(self) -> Checkpoints | None:
        """The checkpoints, if this storage keeps any."""
        ...  # pragma: no cover

    def trim(self, to_sequence: int) -> None:
        """Trim the log: forget records below a sequence."""
        ...  # pragma: no cover

    def records(self) -> Iterator[tuple[int, LogRecord]]:
        """Yield all records that a checkpoint may not cover, in order.

        The log can still be refused at the end.
        """
        ...  # pragma: no cover

    def make_writer(self, committer: Committer) -> BatchWriter:
        """Begin to write."""
        ...  # pragma: no cover

    def statistics(self) -> LogStatistics:
        """Return counters of the log."""
        ...  # pragma: no cover

    def torn(self) -> tuple[int, str | None]:
        """Return how many bytes of a torn batch were cut off at the start, and in which file."""
        ...  # pragma: no cover

    def doubt(self) -> LogEndDoubt | None:
        """Return why the end of the log may be missing, or None if nothing says so."""
        ...  # pragma: no cover

    def close(self) -> None:
        """Close the log and release the directory."""
        ...  # pragma: no cover


MakeCheckpoint = Callable[[int], None]
"""Makes a checkpoint of all records up to a sequence, which have been applied, and no later one."""


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """A server's part in a log that is a stream.

    `number` is that of the last frame that it knows, `silence_ms` how long ago it was heard or, by
    its owner, sent. `skew_ms` is how far the owner's clock was ahead when it was last heard.
    `is_fsync_unsafe` says that a power cut can lose what is acknowledged.
    """

    is_owner: bool
    is_standing_by: bool
    epoch: int
    number: int
    silence_ms: int
    skew_ms: int
    is_fsync_unsafe: bool = False


@dataclass(frozen=True, slots=True)
class UpkeepStatistics:
    """What upkeep has done since the start. `snapshot_at_ms` is 0 if there is no snapshot."""

    snapshots_count: int = 0
    failures_count: int = 0
    trimmed_frames_count: int = 0
    snapshot_at_ms: int = 0
    snapshot_bytes: int = 0


@runtime_checkable
class FollowedStorage(Protocol):
    """A storage whose records may go on to come for days, with checkpoints in the meantime."""

    make_checkpoint: MakeCheckpoint | None

    @property
    def time_ms(self) -> int:
        """The time that the last one who wrote the records has told clients, in ms since 1970."""
        ...  # pragma: no cover

    def tell_time(self, told_ms: Callable[[], int]) -> None:
        """Take what says, in any thread, when the next one who writes records begins at least."""
        ...  # pragma: no cover

    def stream_statistics(self) -> StreamStatistics:
        """Return this server's part in the log; in any thread."""
        ...  # pragma: no cover


@runtime_checkable
class OwnedStorage(Protocol):
    """A storage that one of several nodes owns."""

    node: str
    """The name of this node."""
    keeps_ownership: bool
    """Whether `close` leaves it owned, for a process that knows that this one has ended."""

    @property
    def waits_for(self) -> str | None:
        """The name of the owner that this node stands by for, if it does; in any thread."""
        ...  # pragma: no cover

    @property
    def is_owned(self) -> bool:
        """Return whether this node has become the owner, and its records were read."""
        ...  # pragma: no cover

    @property
    def epoch(self) -> int:
        """The number of owners that there have been, this one included."""
        ...  # pragma: no cover

    def agree(self, features: int) -> None:
        """Begin to write what came with `features` too; in any thread."""
        ...  # pragma: no cover


class MemoryStorage:
    """Nothing is kept: everything is gone when the server stops."""

    def __init__(self, shard_count: int | None = None) -> None:
        self.place = "memory only; nothing is kept"
        self.directory: Path | None = None
        self.shard_count = shard_count or SHARDS_DEFAULT_COUNT
        self.group = 0
        self.group_shards = (self.shard_count,)
        self.placement = DEFAULT_RULE
        self.secret = secrets.token_bytes(32)
        self._log = MemoryLog()
        self.checkpoints: Checkpoints | None = None

    def check(self) -> None:
        """Do nothing: nothing is anywhere."""

    def trim(self, to_sequence: int) -> None:
        self._log.trim(to_sequence)

    @property
    def next_sequence(self) -> int:
        return self._log.next_sequence

    def records(self) -> Iterator[tuple[int, LogRecord]]:
        return iter(())

    def make_writer(self, committer: Committer) -> BatchWriter:
        return DirectWriter(self._log, committer.durable)

    def statistics(self) -> LogStatistics:
        return self._log.statistics()

    def torn(self) -> tuple[int, str | None]:
        return 0, None

    def doubt(self) -> LogEndDoubt | None:
        return None

    def close(self) -> None:
        self._log.close()


@dataclass(frozen=True, slots=True)
class GroupPlace:
    """One group of a data directory that the process which started this one has locked.

    `path` is the directory's real one, and `lock` a descriptor of it that carries the lock.
    """

    path: str
    group: int
    lock: int


class DirectoryStorage:
    """A data directory, locked for this process; or one group of a directory, which is `place`.

    Opening raises a `persistence.errors.DataDirectoryError`, whose text tells an operator what to
    do.
    """

    def __init__(
        self,
        path: Path,
        shard_count: int | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        *,
        archive_directory: Path | None = None,
        archive_keep_ms: int = ARCHIVE_KEEP_MS,
        place: GroupPlace | None = None,
    ) -> None:
        if place is None:
            self._directory = DataDirectory.open(
                path,
                RealFiles(),
                shard_count,
                created_at_ms=time.time_ns() // 1_000_000,
                segment_bytes=segment_bytes,
            )
        else:
            self._directory = DataDirectory.open_group(
                LockedDirectory.inherited(place.path, place.lock),
                place.path,
                RealFiles(),
                place.group,
                segment_bytes=segment_bytes,
            )
        self.place = self._directory.path
        self.directory: Path | None = Path(self.place)
        try:
            path = Path(self._directory.checkpoints_path)
            self._writer = WriterProcess(path)
        except BaseException:
            self._directory.close()
            raise
        try:
            self._store = store = LmdbStore(path, TABLES, check=self._directory.check)
            self._checkpoints = Checkpoints(
                store,
                self._directory.identity.data_id,
                self._directory.shards,
                StoreWriter(self._writer, store) if is_possible() else None,
            )
        except BaseException:
            self._writer.close()
            self._directory.close()
            raise
        self._log_path = self._directory.log_path
        self._archive: Archive | None = None
        if archive_directory is not None:
            has_groups = self._directory.identity.groups_count > 1
            self._archive = Archive(
                archive_directory,
                self._directory.identity.data_id,
                archive_keep_ms,
                self._directory.group if has_groups else None,
            )
        self._is_recovered = False
        self._holds: dict[object, int] = {}
        self._holds_lock = threading.Lock()  # trimming happens in another thread

    @property
    def shard_count(self) -> int:
        return self._directory.shard_count

    @property
    def group(self) -> int:
        return self._directory.group

    @property
    def group_shards(self) -> tuple[int, ...]:
        return self._directory.identity.group_shards

    @property
    def data_id(self) -> bytes:
        """The bytes that tell this data from any other."""
        return self._directory.identity.data_id

    @property
    def placement(self) -> PlacementRule:
        return self._directory.identity.placement

    @property
    def secret(self) -> bytes:
        return self._directory.secret

    @property
    def next_sequence(self) -> int:
        return self._directory.log.next_sequence

    @property
    def checkpoints(self) -> Checkpoints | None:
        return self._checkpoints

    def check(self) -> None:
        self._directory.check()
        self._store.check()

    def trim(self, to_sequence: int) -> None:
        """Trim only what is archived, if there is an archive, and what no snapshot is reading."""
        self.check()
        log = self._directory.log
        if self._archive is not None:
            finished = log.finished_segments()
            self._archive.store(self._log_path, finished)
            missing = [segment for segment in finished if not self._archive.has(segment)]
            if missing:
                to_sequence = min(to_sequence, missing[0].first_sequence)
        with self._holds_lock:
            to_sequence = min([to_sequence, *self._holds.values()])
        # From here on, a process that opens the log finds a checkpoint that reaches this far.
        log.trim(to_sequence)

    def hold_log(self) -> Callable[[], None]:
        """Keep what no checkpoint covers now from being trimmed, until the result is called."""
        hold = object()
        with self._holds_lock:
            self._holds[hold] = self._checkpoints.position + 1

        def release() -> None:
            with self._holds_lock:
                self._holds.pop(hold, None)

        return release

    def open_rows(self) -> View:
        """Open the rows of a cut before its moment in the log has come. Raises CheckpointFailed."""
        return self._checkpoints.open_view()

    def open_cut(self, created_at_ms: int, opened: tuple[View, int] | None = None) -> Cut:
        """Make a cut of everything that is durable now. Raises CheckpointDamaged.

        `opened` are rows, and the last record of the cut, if that was before.
        """
        return cut_open_directory(
            self._directory,
            self._checkpoints,
            created_at_ms=created_at_ms,
            troth_version=__version__,
            opened=opened,
        )

    def last_snapshot_at_ms(self) -> int:
        """Return when the last whole snapshot was taken, by any command; 0 if unknown."""
        return last_taken_ms(Path(self.place))

    def note_snapshot(self, at_ms: int) -> None:
        """Remember that a whole snapshot was taken. Blocks. Raises OSError."""
        note_taken(Path(self.place), at_ms)

    def archive(self, now_ms: int) -> None:
        """Copy finished segments, and remove copies that are too old. Blocks. Raises OSError."""
        if self._archive is not None:
            self.check()
            error = self._archive.store(self._log_path, self._directory.log.finished_segments())
            if error is not None:
                raise error
            self._archive.remove_old(now_ms)

    def archive_statistics(self) -> ArchiveStatistics | None:
        """Return counters of the archive, or None if there is none."""
        return None if self._archive is None else self._archive.statistics()

    def records(self) -> Iterator[tuple[int, LogRecord]]:
        yield from self._directory.recover(self._checkpoints.position + 1)
        self._is_recovered = True

    def make_writer(self, committer: Committer) -> BatchWriter:
        self._store.prepare()
        return ThreadWriter(self._directory.log, committer)

    def take_syncs(self) -> list[float]:
        """Return how long each sync of the log since the last call took, in seconds."""
        return self._directory.log.take_syncs()

    def statistics(self) -> LogStatistics:
        return self._directory.log.statistics()

    def torn(self) -> tuple[int, str | None]:
        report = self._directory.report
        return report.torn_bytes_cut, report.torn_file

    def doubt(self) -> LogEndDoubt | None:
        return self._directory.report.doubt

    def close(self) -> None:
        is_in_place = self._is_in_place()
        next_sequence = self._directory.log.next_sequence if self._is_recovered else 0
        self._checkpoints.close()
        self._writer.close()
        self._directory.close()
        if self._archive is not None and self._is_recovered and is_in_place:
            # A log that was closed is never appended to: its last segment is finished too.
            error = self._archive.store(self._log_path, self._closed_segments())
            if error is None and len(self.group_shards) > 1:
                with suppress(OSError):  # then it ends with its last record
                    self._archive.note_reached(next_sequence, time.time_ns() // 1_000_000)

    def _is_in_place(self) -> bool:
        try:
            self.check()
        except (DataDirectoryLost, OSError):
            return False
        return True

    def _closed_segments(self) -> list[Segment]:
        return list_segments(RealFiles(), self._log_path)
