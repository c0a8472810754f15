"""The data directory: its lock, its identity, and the log in it.

It holds groups of shards, each with a log and checkpoints of its own. An opened directory is one
group of it: a process has one.

Opening follows a fixed order: lock, read and check `troth.json`, read and verify the log, and only
then change something. If anything is refused on the way, the directory is as it was, byte for
byte. README.md sections 2 and 5 are the specification.
"""

import os
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import final

from troth.core.limits import (
    SEGMENT_BYTES,
    SHARDS_DEFAULT_COUNT,
    SHARDS_LIMIT_COUNT,
)
from troth.persistence.wal.frames import DATA_ID_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader
from troth.persistence.wal.log import LogRecord
from troth.persistence.wal.recovery import LogEnd, LogScan
from troth.persistence.wal.segmented_log import SegmentedLog
from troth.persistence.wal.segments import (
    NEXT_NAME,
    TEMPORARY_NAMES,
    list_segments,
    prepare_segment,
    publish_segment,
    segment_path,
    write_header,
)

from .errors import (
    DataDirectoryLocked,
    DataDirectoryLost,
    DataDirectoryUnreadable,
    DataDirectoryUnwritable,
    GroupsMismatch,
    LogDamaged,
    ShardCountMismatch,
)
from .files import FileLock, Files, lock_left
from .identity import IDENTITY_NAME, MOVED_NAME, Identity, decode_identity, encode_identity
from .placement import dealt_shards

SECRET_BYTES = 32
GROUPS_NAME = "groups"
RUN_NAME = "run"
"""The directory of what running processes talk through; it holds nothing that lasts."""
CONVERTING_SUFFIX = ".converting"
"""What is appended to a directory's name while another is made out of it (`conversion/`)."""

_TEMPORARY_IDENTITY_NAME = "troth.json.tmp"
# `lost+found`: a directory that is a file system of its own is empty even so.
_NAMES_BEFORE_IDENTITY = {_TEMPORARY_IDENTITY_NAME, GROUPS_NAME, "lost+found"}


def group_name(group: int) -> str:
    """Return where a group is, below the data directory."""
    return f"{GROUPS_NAME}/{group}"


def log_name(group: int) -> str:
    """Return where a group's log is, below the data directory."""
    return f"{group_name(group)}/log"


def checkpoints_name(group: int) -> str:
    """Return where a group's checkpoints are, below the data directory."""
    return f"{group_name(group)}/checkpoints"


LOG_NAME = log_name(0)
CHECKPOINTS_NAME = checkpoints_name(0)
"""Where those of the first group are, which is the only one unless there are several processes."""


@dataclass(frozen=True, slots=True)
class LogEndDoubt:
    """Why the end of the log may be missing: acknowledged records from `next_sequence` on.

    The log itself is whole as far as it goes. A disk that lost what it had confirmed looks like
    this, or a damaged file; rarely also a server that was killed at just that moment.
    """

    file: str
    next_sequence: int
    reason: str


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What recovery found, and what it cut off as never acknowledged."""

    records_count: int
    segments_count: int
    bytes_read: int
    next_sequence: int
    epoch: int  # of the log as it continues now
    torn_bytes_cut: int = 0
    torn_file: str | None = None
    torn_offset: int | None = None
    doubt: LogEndDoubt | None = None


@final
class DataDirectory:
    """One group of an opened data directory, which is locked for this process until `close`.

    Use: `open`, exhaust `recover()`, then `log` and `report`; `close` at the end.
    """

    def __init__(
        self,
        path: str,
        files: Files,
        lock: FileLock,
        identity: Identity,
        group: int,
        segment_bytes: int,
        executor: Executor | None,
    ) -> None:
        """Initialize; for `open` only."""
        self.path = path
        self.identity = identity
        self.group = group
        self.shards = identity.shards_of(group)
        self._files = files
        self._lock = lock
        self._segment_bytes = segment_bytes
        self._executor = executor
        self._log: SegmentedLog | None = None
        self._log_identity: Hashable = None
        self._report: RecoveryReport | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        files: Files,
        shard_count: int | None = None,
        *,
        created_at_ms: int,
        random_bytes: Callable[[int], bytes] = os.urandom,
        segment_bytes: int = SEGMENT_BYTES,
        executor: Executor | None = None,
    ) -> "DataDirectory":
        """Lock a directory of one group, or make a new one where there is nothing.

        `created_at_ms` and `random_bytes` are used for a new one only. `executor` prepares log
        segments ahead; None gives the log a thread of its own. Raises a `DataDirectoryError`,
        and `ValueError` for a `shard_count` out of range.
        """
        path, lock, identity = open_identity(
            path, files, shard_count, created_at_ms=created_at_ms, random_bytes=random_bytes
        )
        return cls(path, files.within(lock), lock, identity, 0, segment_bytes, executor)

    @classmethod
    def open_group(
        cls,
        lock: FileLock,
        path: str,
        files: Files,
        group: int,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        executor: Executor | None = None,
    ) -> "DataDirectory":
        """Open one group of a directory that the process which started this one has locked.

        `lock` is that lock, and `close` does not release it: others have it too. Raises a
        `DataDirectoryError`.
        """
        files = files.within(lock)
        identity = _read_identity(files, path)
        if identity is None or group >= identity.groups_count:
            raise GroupsMismatch(path, 0 if identity is None else identity.groups_count, group + 1)
        return cls(path, files, lock, identity, group, segment_bytes, executor)

    @property
    def shard_count(self) -> int:
        """The number of shards of all groups, fixed when the directory was made."""
        return self.identity.shard_count

    @property
    def log_path(self) -> str:
        """The path of the group's log."""
        return f"{self.path}/{log_name(self.group)}"

    @property
    def checkpoints_path(self) -> str:
        """The path of the group's checkpoints."""
        return f"{self.path}/{checkpoints_name(self.group)}"

    @property
    def secret(self) -> bytes:
        """32 random bytes made with the directory, for signing."""
        return self.identity.secret

    @property
    def log(self) -> SegmentedLog:
        """The log, ready to be appended to; only after `recover` has been exhausted."""
        assert self._log is not None, "the log is there when recovery has ended"
        return self._log

    @property
    def report(self) -> RecoveryReport:
        """The result of recovery; only after `recover` has been exhausted."""
        assert self._report is not None, "the report is there when recovery has ended"
        return self._report

    def recover(self, from_sequence: int = 1) -> Iterator[tuple[int, LogRecord]]:
        """Yield all records from `from_sequence` on; when exhausted, the log can be appended to.

        Every record is verified before it is yielded, but what comes later may still be refused:
        do not act on a record before the end. Raises `LogDamaged`, `UnknownFormatVersion`,
        `DataDirectoryUnreadable` or, at the end, `DataDirectoryUnwritable`.
        """
        assert self._log is None, "recovery has already ended"
        log_path, shards = self.log_path, self.shards
        try:
            segments = list_segments(self._files, log_path)
        except OSError as error:
            raise LogDamaged(log_path, 0, f"it cannot be listed ({error.strerror})") from error
        if segments and segments[0].first_sequence > from_sequence:
            raise LogDamaged(
                segment_path(log_path, segments[0].first_sequence),
                0,
                f"the log begins here, so the earlier records, from {from_sequence} on, are "
                "missing",
            )
        scan = LogScan(self._files, log_path, self.identity.data_id, segments)
        for first_sequence, records in scan.batches():
            for sequence, record in enumerate(records, first_sequence):
                if record.shard not in shards:
                    raise _of_another_group(log_path, first_sequence, sequence, record, shards)
                if sequence >= from_sequence:
                    yield sequence, record
        end = scan.end()
        if end.next_sequence < from_sequence:
            raise LogDamaged(
                segment_path(log_path, segments[-1].first_sequence),
                end.kept_bytes,
                f"the log ends before sequence {from_sequence - 1}, which the checkpoints have "
                "reached",
            )
        self._start_log(log_path, end, self._doubt(log_path, end))

    def _doubt(self, log_path: str, end: LogEnd) -> LogEndDoubt | None:
        """Return what the other files say against the end that was found; None if nothing."""
        last = end.segments[-1]
        file = segment_path(log_path, last.first_sequence)
        if end.is_begun_for_nothing:
            reason = "it was begun for a batch, but holds none"
            return LogEndDoubt(file, end.next_sequence, reason)
        is_ahead = self._files.exists(f"{log_path}/{NEXT_NAME}")
        if is_ahead and not end.torn_bytes and end.kept_bytes * 2 <= last.size_bytes:
            reason = f"{NEXT_NAME} was prepared when half of it was in use, but less is in use"
            return LogEndDoubt(file, end.next_sequence, reason)
        return None

    def _start_log(self, log_path: str, end: LogEnd, doubt: LogEndDoubt | None) -> None:
        """Cut what is torn and begin a new segment: the first change to the directory."""
        try:
            self._log_identity = self._files.identity(log_path)
            self._log = SegmentedLog(
                self._files,
                log_path,
                self.identity.data_id,
                end,
                segment_bytes=self._segment_bytes,
                executor=self._executor,
                check=self.check,
            )
        except OSError as error:
            raise DataDirectoryUnwritable(log_path, error) from error
        torn_file = segment_path(log_path, end.segments[-1].first_sequence)
        self._report = RecoveryReport(
            records_count=end.records_count,
            segments_count=len(end.segments),
            bytes_read=end.bytes_read,
            next_sequence=end.next_sequence,
            epoch=self._log.statistics().epoch,
            torn_bytes_cut=end.torn_bytes,
            torn_file=torn_file if end.torn_bytes else None,
            torn_offset=end.kept_bytes if end.torn_bytes else None,
            doubt=doubt,
        )

    def check(self) -> None:
        """Raise `DataDirectoryLost` unless directory and log are still what their paths name.

        Any thread. Raises `OSError` if that cannot be found out.
        """
        if not self._lock.is_in_place():
            raise DataDirectoryLost(self.path)
        log_path = self.log_path
        if self._log is None:
            return
        try:
            is_same = self._files.identity(log_path) == self._log_identity
        except (FileNotFoundError, NotADirectoryError):
            is_same = False
        if not is_same:
            raise DataDirectoryLost(log_path)

    def close(self) -> None:
        """Close the log and release the directory; a second call does nothing.

        Raises `LogFailed` if the log's end could not be written; the lock is released even so.
        """
        try:
            if self._log is not None:
                self._log.close()
        finally:
            self._lock.close()


def _of_another_group(
    log_path: str, first_sequence: int, sequence: int, record: LogRecord, shards: range
) -> LogDamaged:
    return LogDamaged(
        log_path,
        0,
        f"record {sequence}, in the batch from {first_sequence} on, is of shard {record.shard}, "
        f"but this group has only the shards {shards.start} to {shards.stop - 1}",
    )


def open_identity(
    path: str | os.PathLike[str],
    files: Files,
    shard_count: int | None = None,
    groups_count: int = 1,
    *,
    created_at_ms: int,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> tuple[str, FileLock, Identity]:
    """Lock a directory, read its identity, or make a new one where there is nothing.

    Return its real path, the lock and the identity. Raises a `DataDirectoryError`, also if it has
    another number of groups, and `ValueError` for numbers out of range.
    """
    if shard_count is not None and not 1 <= shard_count <= SHARDS_LIMIT_COUNT:
        raise ValueError(f"the number of shards is 1 to {SHARDS_LIMIT_COUNT}, not {shard_count}")
    # Links are followed once: what they name later is another directory.
    path = files.resolved(os.fspath(path))
    _refuse_interrupted_conversion(files, path)
    lock = lock_directory(files, path)
    try:
        files = files.within(lock)
        identity = _read_identity(files, path)
        if identity is None:
            identity = Identity(
                random_bytes(DATA_ID_BYTES),
                dealt_shards(shard_count or max(SHARDS_DEFAULT_COUNT, groups_count), groups_count),
                created_at_ms,
                random_bytes(SECRET_BYTES),
            )
            _create(files, path, identity)
        if shard_count not in (None, identity.shard_count):
            raise ShardCountMismatch(path, identity.shard_count, shard_count)
        if groups_count != identity.groups_count:
            raise GroupsMismatch(path, identity.groups_count, groups_count, identity.shard_count)
    except BaseException:
        lock.close()
        raise
    return path, lock, identity


def _refuse_interrupted_conversion(files: Files, path: str) -> None:
    """Raise if a conversion has taken away the old directory, but not yet named the new one."""
    converting_path = path + CONVERTING_SUFFIX
    if not files.exists(path) and files.exists(f"{converting_path}/{IDENTITY_NAME}"):
        raise DataDirectoryUnreadable(
            path,
            f"is missing, but there is {converting_path}, of a conversion that was interrupted",
            f"Run `troth data convert {path}` again, which ends it.",
        )


def lock_directory(files: Files, path: str) -> FileLock:
    """Lock a directory, which is made first if there is none. Raises a `DataDirectoryError`."""
    try:
        if not files.exists(path):
            files.make_directory(path)
            files.sync_directory(os.path.dirname(path) or ".")
    except OSError as error:
        raise DataDirectoryUnwritable(path, error) from error
    try:
        return lock_left(files, path)
    except BlockingIOError as error:
        raise DataDirectoryLocked(path) from error
    except OSError as error:
        raise DataDirectoryUnreadable(
            path,
            f"cannot be opened and locked ({error.strerror})",
            "Give a directory on a local file system that this user may write.",
        ) from error


def _read_identity(files: Files, path: str) -> Identity | None:
    """Return the directory's identity, or None if it is empty or was never finished."""
    identity_path = f"{path}/{IDENTITY_NAME}"
    try:
        if files.exists(identity_path):
            return decode_identity(identity_path, files.read(identity_path))
        if files.exists(f"{path}/{MOVED_NAME}"):
            raise DataDirectoryUnreadable(
                path,
                "was moved to where --log says, with `troth data move`",
                f"Serve that. The way back to what was here then: rename {MOVED_NAME} to "
                f"{IDENTITY_NAME}.",
            )
        _check_nothing_to_lose(files, path)
    except OSError as error:
        raise DataDirectoryUnreadable(
            path, f"cannot be read ({error.strerror})", "Check the disk and the permissions."
        ) from error
    return None


def _check_nothing_to_lose(files: Files, path: str) -> None:
    """Raise unless a directory without `troth.json` is empty but for an interrupted creation."""
    strangers = set(files.list_names(path)) - _NAMES_BEFORE_IDENTITY
    groups_path = f"{path}/{GROUPS_NAME}"
    groups = files.list_names(groups_path) if files.exists(groups_path) else []
    # They are made one after the other.
    for group, name in enumerate(sorted(groups, key=lambda name: (len(name), name))):
        if name == str(group) and files.is_directory(f"{groups_path}/{name}"):
            strangers |= set(_strangers_of_group(files, path, group))
        else:
            strangers.add(f"{GROUPS_NAME}/{name}")
    if strangers:
        raise DataDirectoryUnreadable(
            path,
            f"holds {min(strangers)} but no {IDENTITY_NAME}",
            f"Give an empty directory; or, if this one is Troth's, restore {IDENTITY_NAME} from "
            "a backup.",
        )


def _strangers_of_group(files: Files, path: str, group: int) -> Iterator[str]:
    """Yield what is in a group that an interrupted creation does not leave there."""
    name = group_name(group)
    for below in files.list_names(f"{path}/{name}"):
        if f"{name}/{below}" != log_name(group):
            yield f"{name}/{below}"
    log_path = f"{path}/{log_name(group)}"
    if not files.exists(log_path):
        return
    first = segment_path(log_path, 1)
    for below in files.list_names(log_path):
        file = f"{log_path}/{below}"
        unfinished = file == first and files.size(file) <= SEGMENT_HEADER_BYTES
        if below not in TEMPORARY_NAMES and not unfinished:
            yield f"{log_name(group)}/{below}"


def make_log_directory(files: Files, path: str, group: int = 0) -> None:
    """Make the directory for a group's log, and those above it, where they are missing."""
    for name in (GROUPS_NAME, group_name(group), log_name(group)):
        if not files.exists(f"{path}/{name}"):
            files.make_directory(f"{path}/{name}")
    # So that none of them can be lost while what is in them survives.
    for name in (group_name(group), GROUPS_NAME):
        files.sync_directory(f"{path}/{name}")


def write_new_log(
    files: Files, path: str, data_id: bytes, first_sequence: int = 1, group: int = 0
) -> None:
    """Make a group's log without records, which begins with this sequence.

    Its first epoch is one empty segment. It says that there is a log, so that a directory that has
    lost its log cannot be taken for one that never had any.
    """
    log_path = f"{path}/{log_name(group)}"
    make_log_directory(files, path, group)
    segment = prepare_segment(files, f"{log_path}/{NEXT_NAME}", 0)
    try:
        write_header(segment, SegmentHeader(data_id, 1, first_sequence, 0))
    finally:
        segment.close()
    publish_segment(files, log_path, f"{log_path}/{NEXT_NAME}", first_sequence)


def write_identity(files: Files, path: str, identity: Identity) -> None:
    """Write `troth.json`, the last of a new directory: it stands for all the rest."""
    temporary_path = f"{path}/{_TEMPORARY_IDENTITY_NAME}"
    if files.exists(temporary_path):
        files.remove(temporary_path)
    file = files.create(temporary_path)
    try:
        file.write_at(0, encode_identity(identity))
        file.sync()
    finally:
        file.close()
    files.sync_directory(path)  # so that the log cannot be lost while `troth.json` survives
    files.rename(temporary_path, f"{path}/{IDENTITY_NAME}")
    files.sync_directory(path)


def _create(files: Files, path: str, identity: Identity) -> None:
    """Make a new directory's content."""
    try:
        for group in range(identity.groups_count):
            write_new_log(files, path, identity.data_id, group=group)
        write_identity(files, path, identity)
    except OSError as error:
        raise DataDirectoryUnwritable(path, error) from error
