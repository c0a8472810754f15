"""The data directory: its lock, its identity, and the log in it.

It holds groups of shards, each with a log and checkpoints of its own; this version runs one.

Opening follows a fixed order: lock, read and check `troth.json`, read and verify the log, and only
then change something. If anything is refused on the way, the directory is as it was, byte for
byte. README.md sections 2 and 5 are the specification.
"""

import json
import os
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, final

import google_crc32c

from troth.core.limits import SEGMENT_BYTES, SHARDS_DEFAULT_COUNT, SHARDS_LIMIT_COUNT
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
    OldFormatVersion,
    ShardCountMismatch,
    UnknownFormatVersion,
)
from .files import FileLock, Files
from .placement import DEFAULT_RULE, PlacementRule

FORMAT_VERSION = 2
SECRET_BYTES = 32
IDENTITY_NAME = "troth.json"
GROUPS_NAME = "groups"
GROUP_NAME = f"{GROUPS_NAME}/0"
CHECKPOINTS_NAME = f"{GROUP_NAME}/checkpoints"
LOG_NAME = f"{GROUP_NAME}/log"
"""Where the only group of this version is, below the data directory."""
CONVERTING_SUFFIX = ".converting"
"""What is appended to a directory's name while another is made out of it (`conversion/`)."""

_TEMPORARY_IDENTITY_NAME = "troth.json.tmp"
# `lost+found`: a directory that is a file system of its own is empty even so.
_NAMES_BEFORE_IDENTITY = {_TEMPORARY_IDENTITY_NAME, GROUPS_NAME, "lost+found"}


@dataclass(frozen=True, slots=True)
class Identity:
    """What `troth.json` says; fixed when the directory is made.

    `shard_count` is the number of shards of all groups; those of a group follow one another.
    """

    data_id: bytes
    shard_count: int
    created_at_ms: int
    secret: bytes
    placement: PlacementRule = DEFAULT_RULE


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


def encode_identity(identity: Identity) -> bytes:
    """Return the content of `troth.json`."""
    fields: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "data_id": identity.data_id.hex(),
        "groups": 1,
        "group_shards": [identity.shard_count],
        "placement": str(identity.placement),
        "created_at_ms": identity.created_at_ms,
        "secret": identity.secret.hex(),
    }
    return (json.dumps({**fields, "checksum": _checksum(fields)}, indent=2) + "\n").encode()


def decode_identity(path: str, content: bytes) -> Identity:
    """Return what `troth.json` says.

    Raises `DataDirectoryUnreadable`, `UnknownFormatVersion`, `OldFormatVersion` or
    `GroupsMismatch`.
    """
    version, identity = decode_any_identity(path, content)
    if version < FORMAT_VERSION:
        raise OldFormatVersion(os.path.dirname(path) or ".", version, FORMAT_VERSION)
    return identity


def decode_any_identity(path: str, content: bytes) -> tuple[int, Identity]:
    """Return the format's version, which may be an older one, and the identity.

    For what reads old directories to make new ones; raises as `decode_identity`.
    """
    try:
        fields = json.loads(content)
        version = fields["format_version"]
        if type(version) is int and version > FORMAT_VERSION:
            raise UnknownFormatVersion(path, version, FORMAT_VERSION)
        if fields.pop("checksum") != _checksum(fields) or version not in (1, FORMAT_VERSION):
            raise ValueError("its checksum does not match its content")
        if version == 1:
            shard_count, placement = fields["shard_count"], PlacementRule.ID
        else:
            (shard_count, *others), placement = fields["group_shards"], fields["placement"]
            if others:
                raise GroupsMismatch(os.path.dirname(path) or ".", fields["groups"])
        return version, Identity(
            bytes.fromhex(fields["data_id"]),
            shard_count,
            fields["created_at_ms"],
            bytes.fromhex(fields["secret"]),
            PlacementRule(placement),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataDirectoryUnreadable(
            path,
            f"is damaged or was edited ({type(error).__name__}: {error})",
            f"Restore {IDENTITY_NAME} from a backup of this directory.",
        ) from error


def _checksum(fields: dict[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return f"{google_crc32c.value(canonical):08x}"


@final
class DataDirectory:
    """An opened data directory, locked for this process until `close`.

    Use: `open`, exhaust `recover()`, then `log` and `report`; `close` at the end.
    """

    def __init__(
        self,
        path: str,
        files: Files,
        lock: FileLock,
        identity: Identity,
        segment_bytes: int,
        executor: Executor | None,
    ) -> None:
        """Initialize; for `open` only."""
        self.path = path
        self.identity = identity
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
        """Lock a directory and read its identity, or make a new one where there is nothing.

        `created_at_ms` and `random_bytes` are used for a new one only. `executor` prepares log
        segments ahead; None gives the log a thread of its own. Raises a `DataDirectoryError`,
        and `ValueError` for a `shard_count` out of range.
        """
        if shard_count is not None and not 1 <= shard_count <= SHARDS_LIMIT_COUNT:
            raise ValueError(
                f"the number of shards is 1 to {SHARDS_LIMIT_COUNT}, not {shard_count}"
            )
        # Links are followed once: what they name later is another directory.
        path = files.resolved(os.fspath(path))
        _refuse_interrupted_conversion(files, path)
        lock = _make_and_lock(files, path)
        try:
            files = files.within(lock)
            identity = _read_identity(files, path)
            if identity is None:
                identity = Identity(
                    random_bytes(DATA_ID_BYTES),
                    shard_count or SHARDS_DEFAULT_COUNT,
                    created_at_ms,
                    random_bytes(SECRET_BYTES),
                )
                _create(files, path, identity)
            if shard_count not in (None, identity.shard_count):
                raise ShardCountMismatch(path, identity.shard_count, shard_count)
        except BaseException:
            lock.close()
            raise
        return cls(path, files, lock, identity, segment_bytes, executor)

    @property
    def shard_count(self) -> int:
        """The number of shards, fixed when the directory was made."""
        return self.identity.shard_count

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
        log_path = f"{self.path}/{LOG_NAME}"
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
        log_path = f"{self.path}/{LOG_NAME}"
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


def _refuse_interrupted_conversion(files: Files, path: str) -> None:
    """Raise if a conversion has taken away the old directory, but not yet named the new one."""
    converting_path = path + CONVERTING_SUFFIX
    if not files.exists(path) and files.exists(f"{converting_path}/{IDENTITY_NAME}"):
        raise DataDirectoryUnreadable(
            path,
            f"is missing, but there is {converting_path}, of a conversion that was interrupted",
            f"Run `troth data convert {path}` again, which ends it.",
        )


def _make_and_lock(files: Files, path: str) -> FileLock:
    """Lock the directory, which is made first if there is none."""
    try:
        if not files.exists(path):
            files.make_directory(path)
            files.sync_directory(os.path.dirname(path) or ".")
    except OSError as error:
        raise DataDirectoryUnwritable(path, error) from error
    try:
        return files.lock(path)
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
        _check_nothing_to_lose(files, path)
    except OSError as error:
        raise DataDirectoryUnreadable(
            path, f"cannot be read ({error.strerror})", "Check the disk and the permissions."
        ) from error
    return None


def _check_nothing_to_lose(files: Files, path: str) -> None:
    """Raise unless a directory without `troth.json` is empty but for an interrupted creation."""
    strangers = set(files.list_names(path)) - _NAMES_BEFORE_IDENTITY
    group_path, log_path = f"{path}/{GROUP_NAME}", f"{path}/{LOG_NAME}"
    for above, own in ((f"{path}/{GROUPS_NAME}", group_path), (group_path, log_path)):
        names = files.list_names(above) if files.exists(above) else []
        strangers |= {f"{above}/{name}".removeprefix(f"{path}/") for name in names} - {
            own.removeprefix(f"{path}/")
        }
    if files.exists(log_path):
        first = segment_path(log_path, 1)
        for name in files.list_names(log_path):
            file = f"{log_path}/{name}"
            unfinished = file == first and files.size(file) <= SEGMENT_HEADER_BYTES
            if name not in TEMPORARY_NAMES and not unfinished:
                strangers.add(f"{LOG_NAME}/{name}")
    if strangers:
        raise DataDirectoryUnreadable(
            path,
            f"holds {min(strangers)} but no {IDENTITY_NAME}",
            f"Give an empty directory; or, if this one is Troth's, restore {IDENTITY_NAME} from "
            "a backup.",
        )


def make_log_directory(files: Files, path: str) -> None:
    """Make the directory for the log, and those above it, where they are missing."""
    for name in (GROUPS_NAME, GROUP_NAME, LOG_NAME):
        if not files.exists(f"{path}/{name}"):
            files.make_directory(f"{path}/{name}")
    # So that none of them can be lost while what is in them survives.
    for name in (GROUP_NAME, GROUPS_NAME):
        files.sync_directory(f"{path}/{name}")


def write_new_log(files: Files, path: str, data_id: bytes, first_sequence: int = 1) -> None:
    """Make a log without records, which begins with this sequence.

    Its first epoch is one empty segment. It says that there is a log, so that a directory that has
    lost its log cannot be taken for one that never had any.
    """
    log_path = f"{path}/{LOG_NAME}"
    make_log_directory(files, path)
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
        write_new_log(files, path, identity.data_id)
        write_identity(files, path, identity)
    except OSError as error:
        raise DataDirectoryUnwritable(path, error) from error
