"""A server's records in a stream of an engine, with a directory as a cache.

The stream holds everything. The directory holds checkpoints, which spare a start from reading the
stream from its beginning, and what belongs to this machine alone. If it is lost, an empty one
takes its place, and the server begins with the newest snapshot that the engine keeps.

`records` reads the stream, waits until its owner is gone, and ends when this server owns it.
"""

import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar, final

import structlog
import trio

from troth import __version__
from troth.core.limits import (
    SHARDS_DEFAULT_COUNT,
    STREAM_PATIENCE_MS,
    STREAM_READ_CHECKPOINT_BYTES,
    STREAM_SILENCE_MS,
    STREAM_SKEW_LIMIT_MS,
    STREAM_UPKEEP_MS,
)
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.checkpoints.rows import TABLES
from troth.persistence.checkpoints.store import LmdbStore
from troth.persistence.data_directory import SECRET_BYTES, LogEndDoubt, lock_directory
from troth.persistence.errors import (
    DataDirectoryLost,
    DataDirectoryUnreadable,
    ShardCountMismatch,
)
from troth.persistence.files import RealFiles
from troth.persistence.identity import (
    IDENTITY_NAME,
    Identity,
    decode_identity,
    encode_identity,
)
from troth.persistence.placement import PlacementRule
from troth.persistence.snapshots.archive import ArchiveStatistics
from troth.persistence.snapshots.last_taken import last_taken_ms, note_taken
from troth.persistence.snapshots.snapshot_file import Batch, SnapshotError
from troth.persistence.snapshots.snapshots import Cut, make_cut
from troth.persistence.streams.chain import ChainMark, StreamDamaged, another_history
from troth.persistence.streams.stream import (
    SnapshotDescription,
    Stream,
    StreamKeeping,
    StreamRefused,
    StreamUnreachable,
)
from troth.persistence.streams.stream_log import StreamLog
from troth.persistence.wal.frames import DATA_ID_BYTES
from troth.persistence.wal.log import LogRecord, LogStatistics
from troth.shards.committer import BatchWriter, Committer, ThreadWriter
from troth.shards.storage import MakeCheckpoint, StreamStatistics

from .stream_snapshots import SnapshotUnusable, read_pieces, restore_snapshot

CACHE_NAME: Final = "stream.json"
CHECKPOINTS_NAME: Final = "checkpoints"
_RETRY_S: Final = 0.5
_FETCHES_COUNT: Final = 3

Answer = TypeVar("Answer")

log = structlog.get_logger("troth.shards.streams")


def boot_ms() -> int:
    """Return a time in ms that never steps, and counts on while the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1_000_000


def _rest(duration_s: float) -> None:
    """Block for a while, in a thread that is not the event loop's, or before there is a loop."""
    threading.Event().wait(duration_s)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Times(NamedTuple):
    """What a storage knows of time: durations, the time of day, and how to let time pass.

    `check_ends` is called in between, and raises if the server is to end. An owner that is silent
    for `silence_ms` is replaced.
    """

    boot_ms: Callable[[], int] = boot_ms
    now_ms: Callable[[], int] = _now_ms
    sleep_s: Callable[[float], None] = _rest
    check_ends: Callable[[], None] = trio.from_thread.check_cancelled
    silence_ms: int = STREAM_SILENCE_MS


MACHINE_TIMES: Final = Times()


class StreamStorage:
    """A stream, and a directory that is locked for this process.

    `node` is the name of this server among those on the stream. Opening makes the stream if there
    is none, and may wait for the engine, or fetch a snapshot from it. Raises a
    `persistence.errors.DataDirectoryError`, whose text tells an operator what to do.
    """

    def __init__(
        self,
        stream: Stream,
        keeping: StreamKeeping,
        directory: Path,
        shard_count: int | None = None,
        *,
        node: str,
        patience_ms: int = STREAM_PATIENCE_MS,
        times: Times = MACHINE_TIMES,
    ) -> None:
        files = RealFiles()
        self._times = times
        path = files.resolved(os.fspath(directory))
        self.directory: Path | None = Path(path)
        self.place = stream.name
        self.keeping = keeping
        self.make_checkpoint: MakeCheckpoint | None = None
        self.node = node
        self.is_fsync_unsafe = False
        """Whether a power cut can lose what the engine acknowledges, as far as it is known."""
        self._path = Path(path)
        self._patience_ms = patience_ms
        self._holds: dict[object, int] = {}
        self._noting = threading.Lock()  # checkpoints and upkeep have threads of their own
        self._lock = lock_directory(files, path)
        try:
            if (self._path / IDENTITY_NAME).exists():
                raise DataDirectoryUnreadable(
                    path,
                    f"holds a server's own log ({IDENTITY_NAME}), which is not in {stream.name}",
                    "Choose another directory with --data.",
                )
            self.identity = _found(stream, shard_count, patience_ms, times)
            self.noted = self._read_cache()
            """From where on the stream has what the checkpoints do not cover, if that is known."""
            self._open_checkpoints()
            self._begin(stream)
            self._log = StreamLog(
                stream,
                node=node,
                incarnation=secrets.randbits(64),
                boot_ms=times.boot_ms,
                now_ms=times.now_ms,
                sleep_s=times.sleep_s,
                mark=self.noted,
                patience_ms=patience_ms,
                silence_ms=times.silence_ms,
            )
        except BaseException:
            if "_checkpoints" in self.__dict__:  # they were opened
                self._checkpoints.close()
            self._lock.close()
            stream.close()
            keeping.close()
            raise

    def _open_checkpoints(self) -> None:
        self._store = LmdbStore(self._path / CHECKPOINTS_NAME, TABLES, check=self._check_lock)
        self._checkpoints = Checkpoints(
            self._store, self.identity.data_id, self.identity.shards_of(0)
        )

    def _begin(self, stream: Stream) -> None:
        """Make sure that the stream has what the checkpoints lack; else begin with a snapshot."""
        if self.noted is not None and self.noted.next_sequence > self._checkpoints.position + 1:
            self.noted = None  # its checkpoints are gone
        number = 0 if self.noted is None else self.noted.number
        patience_ms = self._patience_ms
        _asked(
            lambda: self.keeping.note_reader(self.node, number),
            stream.name,
            patience_ms,
            self._times,
        )
        first_number = _asked(stream.first, stream.name, patience_ms, self._times)
        if self.noted is not None and self.noted.number >= first_number:
            return
        for tries_left in reversed(range(_FETCHES_COUNT)):
            found = _asked(self.keeping.snapshot, stream.name, patience_ms, self._times)
            if found is None:
                break
            try:
                _asked(partial(self._begin_with, found), stream.name, patience_ms, self._times)
            except (SnapshotUnusable, SnapshotError) as error:
                if not tries_left:  # not because another one has just taken its place
                    raise StreamDamaged(stream.name, found.mark.number, str(error)) from error
            else:
                return
        if first_number > 1:
            raise StreamDamaged(stream.name, first_number, "what was before it is not there")
        self.noted = None  # everything is read

    def _begin_with(self, snapshot: SnapshotDescription) -> None:
        """Replace the checkpoints by a snapshot. Raises StreamUnreachable or as it is unusable."""
        started_ms = self._times.boot_ms()
        self.keeping.note_reader(self.node, snapshot.mark.number)  # so that the rest is kept
        file, fresh = self._path / "snapshot.fetched", self._path / f"{CHECKPOINTS_NAME}.new"
        try:
            with file.open("wb") as fetched:
                for piece in read_pieces(self.keeping, snapshot):
                    fetched.write(piece)
            (self._path / CACHE_NAME).unlink(missing_ok=True)
            self._checkpoints.close()
            shutil.rmtree(fresh, ignore_errors=True)
            rows_count = restore_snapshot(file, fresh, self.identity)
            shutil.rmtree(self._path / CHECKPOINTS_NAME, ignore_errors=True)
            os.replace(fresh, self._path / CHECKPOINTS_NAME)
            RealFiles().sync_directory(str(self._path))
        finally:
            file.unlink(missing_ok=True)
        self._open_checkpoints()
        self._write_cache(snapshot.mark)
        log.info(
            "began with a snapshot",
            rows=rows_count,
            bytes=snapshot.size_bytes,
            duration_ms=self._times.boot_ms() - started_ms,
        )

    @property
    def shard_count(self) -> int:
        return self.identity.shard_count

    @property
    def group(self) -> int:
        return 0

    @property
    def group_shards(self) -> tuple[int, ...]:
        return self.identity.group_shards

    @property
    def placement(self) -> PlacementRule:
        return self.identity.placement

    @property
    def secret(self) -> bytes:
        return self.identity.secret

    @property
    def next_sequence(self) -> int:
        return self._log.next_sequence

    @property
    def checkpoints(self) -> Checkpoints:
        return self._checkpoints

    def _check_lock(self) -> None:
        if not self._lock.is_in_place():
            raise DataDirectoryLost(str(self._path))

    def check(self) -> None:
        self._check_lock()
        self._store.check()

    def records(self) -> Iterator[tuple[int, LogRecord]]:
        """Yield all records of the stream, those to come too, until this server owns it.

        In the meantime, make checkpoints: what is left to do at a takeover stays little.
        """
        following = _Following(self._log, self._times.boot_ms)

        def pause() -> None:
            self._times.check_ends()
            following.tell()
            if following.is_due():
                self._catch_up()

        mark = self._log.mark
        if mark is not None:
            self._log.check_mark(str(self._path), pause)
        for sequence, record in self._log.take_over(pause):
            if record.shard >= self.shard_count:
                raise StreamDamaged(
                    self.place, self._log.number, f"record {sequence} is of shard {record.shard}"
                )
            yield sequence, record
        if self.next_sequence <= self._checkpoints.position:
            raise another_history(self.place, self._log.number, str(self._path))

    def _catch_up(self) -> None:
        """Make a checkpoint of all that was read, if that is news, and note how far it is."""
        position = self.next_sequence - 1
        if self.make_checkpoint is not None and position > self._checkpoints.position:
            self.make_checkpoint(position)
        self.trim(self._checkpoints.position + 1)
        if self.noted is not None:
            try:
                self.keeping.note_reader(self.node, self.noted.number)
            except StreamUnreachable as error:  # less is trimmed, until the next time
                log.warning("how far this server has read is not noted", problem=str(error))

    def make_writer(self, committer: Committer) -> BatchWriter:
        committer.may_answer = self._log.may_answer
        self._store.prepare()
        return ThreadWriter(self._log, committer, first_seal_s=0)

    def trim(self, to_sequence: int) -> None:
        """Trim nothing, but note from where on the next start has to read.

        What is trimmed depends on other nodes too: `stream_upkeep.py`.
        """
        self.check()
        with self._noting:
            mark = self._log.mark_before(to_sequence)
            if mark is not None and mark != self.noted:
                self._write_cache(mark)

    def _write_cache(self, mark: ChainMark) -> None:
        fields = {"data_id": self.identity.data_id.hex(), **mark._asdict()}
        _write_durably(self._path / CACHE_NAME, json.dumps(fields).encode())
        self.noted = mark

    @property
    def time_ms(self) -> int:
        """The time of the last owner when it was last heard, in ms since 1970."""
        return self._log.time_ms

    def stream_statistics(self) -> StreamStatistics:
        """Return this server's part in the log; in any thread."""
        stream_log = self._log
        return StreamStatistics(
            is_owner=stream_log.may_answer(),
            is_standing_by=stream_log.is_following,
            epoch=stream_log.epoch,
            number=stream_log.number,
            silence_ms=stream_log.silence_ms,
            skew_ms=stream_log.skew_ms,
            is_fsync_unsafe=self.is_fsync_unsafe,
        )

    # For snapshots: as in `DirectoryStorage`

    def hold_log(self) -> Callable[[], None]:
        """Keep what no checkpoint covers now from being trimmed, until the result is called."""
        hold = object()
        with self._noting:
            self._holds[hold] = 0 if self.noted is None else self.noted.number

        def release() -> None:
            with self._noting:
                self._holds.pop(hold, None)

        return release

    @property
    def held_number(self) -> int | None:
        """The first frame that a snapshot needs which is being read; None if there is none."""
        with self._noting:
            return min(self._holds.values(), default=None)

    def open_cut(self, created_at_ms: int) -> Cut:
        """Make a cut of everything that is durable now. Raises CheckpointDamaged."""
        mark = self.noted  # before the rows, which have all that is before it
        view = self._checkpoints.open_view()
        # After the rows: the log never ends before what they cover.
        until_sequence = self._log.durable_sequence

        def batches(from_sequence: int) -> Iterator[Batch]:
            for sequence, record in self._log.read(from_sequence, mark):
                if sequence > until_sequence:
                    return
                yield sequence, [record]

        try:
            return make_cut(
                self.identity,
                view,
                until_sequence=until_sequence,
                batches=batches,
                rows_until_ms=created_at_ms,
                created_at_ms=created_at_ms,
                troth_version=__version__,
            )
        except BaseException:
            view.close()
            raise

    def last_snapshot_at_ms(self) -> int:
        """Return when the last whole snapshot was written to a file; 0 if unknown."""
        return last_taken_ms(self._path)

    def note_snapshot(self, at_ms: int) -> None:
        """Remember that a whole snapshot was taken. Blocks. Raises OSError."""
        note_taken(self._path, at_ms)

    def archive(self, now_ms: int) -> None:
        """Do nothing: the engine has its own."""

    def archive_statistics(self) -> ArchiveStatistics | None:
        """Return None: there is no archive."""
        return None

    @property
    def epoch(self) -> int:
        """The number of owners that the stream has had, this server included."""
        return self._log.epoch

    def _read_cache(self) -> ChainMark | None:
        """Return where to begin to read; None if that is not known."""
        path = self._path / CACHE_NAME
        try:
            fields = json.loads(path.read_bytes())
            data_id = fields.pop("data_id")
            mark = ChainMark(**fields)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataDirectoryUnreadable(
                str(path),
                f"cannot be read ({error})",
                f"Everything is in {self.place}: start with an empty directory.",
            ) from error
        if data_id != self.identity.data_id.hex():
            raise DataDirectoryUnreadable(
                str(self._path),
                f"belongs to other data than {self.place}",
                "Choose another directory with --data.",
            )
        return mark

    def statistics(self) -> LogStatistics:
        return self._log.statistics()

    def torn(self) -> tuple[int, str | None]:
        return 0, None

    def doubt(self) -> LogEndDoubt | None:
        return None

    def close(self) -> None:
        try:
            self._checkpoints.close()
            self._log.close()
            self.keeping.close()
        finally:
            self._lock.close()


@final
class _Following:
    """What a node does besides reading: it tells of its standing, and says when to catch up."""

    def __init__(self, stream_log: StreamLog, boot_ms: Callable[[], int]) -> None:
        self._log = stream_log
        self._boot_ms = boot_ms
        self._has_told = False
        self._has_warned = False
        self._due_ms = self._boot_ms() + STREAM_UPKEEP_MS
        self._due_bytes = STREAM_READ_CHECKPOINT_BYTES

    def tell(self) -> None:
        """Log what an operator should know, once."""
        owner, skew_ms = self._log.waits_for, self._log.skew_ms
        if owner is not None and not self._has_told:
            self._has_told = True
            log.info("standing by until the owner of the log is gone", owner=owner)
        if abs(skew_ms) > STREAM_SKEW_LIMIT_MS and not self._has_warned:
            self._has_warned = True
            log.warning(
                "the clocks of this server and of the owner of the log differ; after a takeover "
                "timers are late or early by that much",
                skew_ms=skew_ms,
                owner=owner,
            )

    def is_due(self) -> bool:
        """Return whether it is time to catch up; not while this node is about to take over."""
        if not self._log.is_following:
            return False
        now_ms = self._boot_ms()
        if now_ms < self._due_ms and self._log.read_bytes < self._due_bytes:
            return False
        self._due_ms = now_ms + STREAM_UPKEEP_MS
        self._due_bytes = self._log.read_bytes + STREAM_READ_CHECKPOINT_BYTES
        return True


def _found(stream: Stream, shard_count: int | None, patience_ms: int, times: Times) -> Identity:
    """Return who the stream's data is, and make it if it is new; wait for the engine."""
    new = Identity(
        secrets.token_bytes(DATA_ID_BYTES),
        (shard_count or SHARDS_DEFAULT_COUNT,),
        times.now_ms(),
        secrets.token_bytes(SECRET_BYTES),
    )
    stored = _asked(lambda: stream.found(encode_identity(new)), stream.name, patience_ms, times)
    identity = decode_identity(stream.name, stored)
    if shard_count is not None and shard_count != identity.shard_count:
        raise ShardCountMismatch(stream.name, identity.shard_count, shard_count)
    return identity


def _asked(question: Callable[[], Answer], name: str, patience_ms: int, times: Times) -> Answer:
    """Ask the engine, again and again for a while. Raises StreamRefused."""
    gives_up_ms = times.boot_ms() + patience_ms
    while True:
        try:
            return question()
        except StreamUnreachable as error:
            if times.boot_ms() >= gives_up_ms:
                raise StreamRefused(f"{name} cannot be reached: {error}.") from error
        times.sleep_s(_RETRY_S)


def _write_durably(path: Path, content: bytes) -> None:
    """Replace a file's content, so that a crash leaves the old one or the new one."""
    fresh = path.with_name(f"{path.name}.tmp")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    RealFiles().sync_directory(str(path.parent))
