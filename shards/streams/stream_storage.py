"""A server's records in a stream of an engine, with a directory as a cache.

The stream holds everything. The directory holds checkpoints, which spare a start from reading the
stream from its beginning, and what belongs to this machine alone. If it is lost, an empty one
takes its place, and the server begins with the newest snapshot that the engine keeps.

`records` reads the stream, waits until its owner is gone, and ends when this server owns it.
"""

import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from troth import __version__
from troth.core.limits import (
    SHARDS_DEFAULT_COUNT,
    STREAM_LOOK_EXPECTED_MS,
    STREAM_PATIENCE_MS,
)
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.checkpoints.port import View
from troth.persistence.checkpoints.rows import TABLES
from troth.persistence.checkpoints.store import LmdbStore
from troth.persistence.data_directory import (
    SECRET_BYTES,
    LogEndDoubt,
    group_name,
    lock_directory,
)
from troth.persistence.errors import (
    CheckpointsOvertaken,
    DataDirectoryLost,
    DataDirectoryUnreadable,
    DataDirectoryUnwritable,
    ShardCountMismatch,
)
from troth.persistence.files import DIRECTORY_MODE, LockedDirectory, RealFiles
from troth.persistence.identity import (
    IDENTITY_NAME,
    MOVED_NAME,
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
from troth.persistence.streams.features import FEATURES
from troth.persistence.streams.stream import (
    SnapshotDescription,
    Stream,
    StreamKeeping,
    StreamRefused,
    StreamUnreachable,
)
from troth.persistence.streams.stream_frames import decode_stream_frame
from troth.persistence.streams.stream_log import LOOK_INTERVAL_S, StreamLog
from troth.persistence.wal.frames import DATA_ID_BYTES
from troth.persistence.wal.log import LogRecord, LogStatistics
from troth.shards.committer import BatchWriter, Committer, ThreadWriter
from troth.shards.storage import MakeCheckpoint, StreamStatistics

from .following import Following
from .noted_mark import CACHE_NAME, read_mark, write_mark
from .stream_group import StreamGroup
from .stream_snapshots import SnapshotUnusable, read_pieces, restore_snapshot
from .times import MACHINE_TIMES, Answer, Times, asked

CHECKPOINTS_NAME: Final = "checkpoints"
MOVER: Final = "troth data move"
"""Who claims streams to which a directory is moved (`moving.py`); no node has this name."""
_FETCHES_COUNT: Final = 3

log = structlog.get_logger("troth.shards.streams")


class StreamStorage:
    """A stream, and a directory that is locked for this process; or one group of a cluster.

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
        group: StreamGroup | None = None,
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
        self.group = 0 if group is None else group.place.group
        self.turn = None if group is None else group.turn
        self._home = Path(path)
        self._path = self._home if group is None else self._home / group_name(self.group)
        self.is_fsync_unsafe = False
        """Whether a power cut can lose what the engine acknowledges, as far as it is known."""
        self.gathers = False
        """Whether appends wait for more records (`persistence/wal/gathering.py`)."""
        self._patience_ms = patience_ms
        self._group = group
        self._was_early = self._is_early
        self._is_owned = False
        self.keeps_ownership = False
        self._holds: dict[object, ChainMark | None] = {}
        self._noting = threading.Lock()  # checkpoints and upkeep have threads of their own
        self._lock = (
            lock_directory(files, path)
            if group is None
            else LockedDirectory.inherited(path, group.place.lock)
        )
        try:
            refuse_own_log(self._home, stream.name)
            self.identity = self._found(stream, shard_count, group)
            if group is not None:
                _make_directories(self._path.parent, self._path)
            self.noted = read_mark(self._path, self.data_id, self.place)
            """From where on the stream has what the checkpoints do not cover, if that is known."""
            self._open_checkpoints()
            self._wait_unless_it_can_follow(stream)
            self._begin(stream)
            self._log = StreamLog(
                stream,
                node=node,
                incarnation=secrets.randbits(64) if group is None else group.incarnation,
                boot_ms=times.boot_ms,
                now_ms=times.now_ms,
                sleep_s=times.sleep_s,
                mark=self.noted,
                patience_ms=patience_ms,
                silence_ms=times.silence_ms,
                may_claim=self._may_claim,
                look_s=self._look_s,
                ended=frozenset if group is None else group.ended,
                features=FEATURES if group is None else group.features,
            )
        except BaseException:
            if "_checkpoints" in self.__dict__:  # they were opened
                self._close_checkpoints()
            self._lock.close()
            stream.close()
            keeping.close()
            raise

    def _found(
        self, stream: Stream, shard_count: int | None, group: StreamGroup | None
    ) -> Identity:
        """Return who the stream's data is, and make it if it is new; wait for the engine.

        Of a cluster, all of it was made before.
        """
        new = Identity(
            secrets.token_bytes(DATA_ID_BYTES),
            (shard_count or SHARDS_DEFAULT_COUNT,),
            self._times.now_ms(),
            secrets.token_bytes(SECRET_BYTES),
        )
        wanted = encode_identity(new if group is None else group.identity)
        identity = decode_identity(stream.name, self._asked(lambda: stream.found(wanted)))
        if group is not None:
            if identity != group.identity:
                raise StreamRefused(f"{stream.name} is not of this cluster. Nothing was changed.")
        elif identity.groups_count > 1:
            raise StreamRefused(
                f"{stream.name} has a cluster of {identity.groups_count} groups. Nothing was "
                "changed. Serve it with --cluster; `troth cluster status --log URL` shows its name."
            )
        elif shard_count is not None and shard_count != identity.shard_count:
            raise ShardCountMismatch(stream.name, identity.shard_count, shard_count)
        return identity

    @property
    def _is_early(self) -> bool:
        """Return whether the process that had the group before still has the directory."""
        return self._group is not None and self._group.is_early()

    def _wait_unless_it_can_follow(self, stream: Stream) -> None:
        """Wait while this process is early, unless it needs nothing but to read what is there."""
        if not self._is_early:
            return
        noted = self._noted_with_rows()
        if noted is not None and noted.number >= self._asked(stream.first):
            return
        self._close_checkpoints()
        while self._is_early:
            self._times.check_ends()
            self._times.sleep_s(LOOK_INTERVAL_S)
        self.noted = read_mark(self._path, self.data_id, self.place)
        self._open_checkpoints()
        self._was_early = False

    def _check_checkpoints(self) -> None:
        """Raise CheckpointsOvertaken if those are not the newest that were read early."""
        if self._was_early:
            if not self._checkpoints.is_newest():
                raise CheckpointsOvertaken(str(self._path))
            self._was_early = False

    def _may_claim(self) -> bool:
        if self._is_early:
            return False
        self._check_checkpoints()
        return self._group is None or self._group.may_claim()

    def _look_s(self) -> float:
        if self._is_early:
            return STREAM_LOOK_EXPECTED_MS / 1000  # the group is about to be this process's
        return LOOK_INTERVAL_S if self.turn is None else self.turn.look_s()

    def _asked(self, question: Callable[[], Answer]) -> Answer:
        """Ask the engine, again and again for a while. Raises StreamRefused."""
        return asked(question, self.place, self._patience_ms, self._times)

    def _open_checkpoints(self) -> None:
        self._store = LmdbStore(self._path / CHECKPOINTS_NAME, TABLES, check=self._check_lock)
        self._checkpoints = Checkpoints(
            self._store, self.identity.data_id, self.identity.shards_of(self.group)
        )

    def _close_checkpoints(self) -> None:
        self._store.keeps_lock = self.keeps_ownership or self._is_early
        self._checkpoints.close()

    def _begin(self, stream: Stream) -> None:
        """Make sure that the stream has what the checkpoints lack; else begin with a snapshot."""
        self.noted = self._noted_with_rows()
        number = 0 if self.noted is None else self.noted.number
        self._asked(lambda: self.keeping.note_reader(self.node, number, is_starting=True))
        first_number = self._asked(stream.first)
        if self.noted is not None and self.noted.number >= first_number:
            return
        for tries_left in reversed(range(_FETCHES_COUNT)):
            found = self._asked(self.keeping.snapshot)
            if found is None:
                break
            try:
                self._asked(partial(self._begin_with, found))
            except (SnapshotUnusable, SnapshotError) as error:
                if not tries_left:  # not because another one has just taken its place
                    raise StreamDamaged(stream.name, found.mark.number, str(error)) from error
            else:
                return
        if first_number > 1:
            raise StreamDamaged(stream.name, first_number, "what was before it is not there")
        if first_number == 1:
            self._refuse_while_moved(stream)
        self.noted = None  # everything is read

    def _noted_with_rows(self) -> ChainMark | None:
        """Return the mark; None if its checkpoints are gone."""
        noted = self.noted
        if noted is not None and noted.next_sequence > self._checkpoints.position + 1:
            return None
        return noted

    def _refuse_while_moved(self, stream: Stream) -> None:
        """Raise StreamRefused if a directory is being moved here: not all of it has come yet."""
        shown = self._asked(lambda: stream.read(1))
        decoded = decode_stream_frame(shown[0][1]) if shown else None
        if decoded is not None and decoded[0].payload == MOVER.encode():
            raise StreamRefused(
                f"{stream.name}: a data directory is being moved here, and not all of it has come "
                "yet. Nothing was changed. Run `troth data move` again, as it was run before."
            )

    def _begin_with(self, snapshot: SnapshotDescription) -> None:
        """Replace the checkpoints by a snapshot. Raises StreamUnreachable or as it is unusable."""
        started_ms = self._times.boot_ms()
        # So that the rest is kept.
        self.keeping.note_reader(self.node, snapshot.mark.number, is_starting=True)
        file, fresh = self._path / "snapshot.fetched", self._path / f"{CHECKPOINTS_NAME}.new"
        try:
            with file.open("wb") as fetched:
                for piece in read_pieces(self.keeping, snapshot):
                    fetched.write(piece)
            (self._path / CACHE_NAME).unlink(missing_ok=True)
            self._checkpoints.close()
            shutil.rmtree(fresh, ignore_errors=True)
            rows_count = restore_snapshot(file, fresh, self.identity, self.group)
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
    def data_id(self) -> bytes:
        """The bytes that tell this data from any other."""
        return self.identity.data_id

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
            raise DataDirectoryLost(str(self._home))

    def check(self) -> None:
        self._check_lock()
        self._store.check()

    def records(self) -> Iterator[tuple[int, LogRecord]]:
        """Yield all records of the stream, those to come too, until this server owns it.

        In the meantime, make checkpoints: what is left to do at a takeover stays little.
        """
        following = Following(self._log, self._times.boot_ms)

        def pause() -> None:
            self._times.check_ends()
            if self._is_early:
                return
            self._check_checkpoints()
            following.tell()
            if following.is_due():
                self._catch_up()
            elif self.turn is not None and following.is_to_be_seen():
                self._note_reader()

        shards = self.identity.shards_of(self.group)
        mark = self._log.mark
        if mark is not None:
            self._log.check_mark(str(self._path), pause)
        for sequence, record in self._log.take_over(pause):
            if record.shard not in shards:
                raise StreamDamaged(
                    self.place, self._log.number, f"record {sequence} is of shard {record.shard}"
                )
            yield sequence, record
        if self.next_sequence <= self._checkpoints.position:
            raise another_history(self.place, self._log.number, str(self._path))
        self._is_owned = True

    def _catch_up(self) -> None:
        """Make a checkpoint of all that was read, if that is news, and note how far it is."""
        position = self.next_sequence - 1
        if self.make_checkpoint is not None and position > self._checkpoints.position:
            self.make_checkpoint(position)
        self.trim(self._checkpoints.position + 1)
        if self.noted is not None:
            self._note_reader()

    def _note_reader(self) -> None:
        is_starting = self._log.waits_for is None
        try:
            self.keeping.note_reader(self.node, _number_of(self.noted), is_starting=is_starting)
        except StreamUnreachable as error:  # less is trimmed, until the next time
            log.warning("how far this server has read is not noted", problem=str(error))

    def make_writer(self, committer: Committer) -> BatchWriter:
        committer.may_answer = self._log.may_answer
        self._store.prepare()
        return ThreadWriter(self._log, committer, first_seal_s=0, gathers=self.gathers)

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
        write_mark(self._path, self.data_id, mark)
        self.noted = mark

    @property
    def time_ms(self) -> int:
        """The time of the last owner when it was last heard, in ms since 1970."""
        return self._log.time_ms

    def tell_time(self, told_ms: Callable[[], int]) -> None:
        """Take what says, in any thread, when the next owner begins at least."""
        self._log.told_ms = told_ms

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
            self._holds[hold] = self.noted

        def release() -> None:
            with self._noting:
                self._holds.pop(hold, None)

        return release

    @property
    def held_number(self) -> int | None:
        """The first frame that a snapshot needs which is being read; None if there is none."""
        with self._noting:
            return min(map(_number_of, self._holds.values()), default=None)

    def open_rows(self) -> View:
        """Open the rows of a cut before its moment in the log has come; the log is held then.

        Raises CheckpointFailed.
        """
        return self._checkpoints.open_view()

    def open_cut(self, created_at_ms: int, opened: tuple[View, int] | None = None) -> Cut:
        """Make a cut of everything that is durable now. Raises CheckpointDamaged.

        `opened` are rows, and the last record of the cut, if that was before.
        """
        if opened is not None:
            with self._noting:
                # What was held before the rows were opened is before all that they lack.
                mark = min(self._holds.values(), key=_number_of, default=None)
            view, until_sequence = opened
        else:
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
        return last_taken_ms(self._home)

    def note_snapshot(self, at_ms: int) -> None:
        """Remember that a whole snapshot was taken. Blocks. Raises OSError."""
        note_taken(self._home, at_ms)

    def archive(self, now_ms: int) -> None:
        """Do nothing: the engine has its own."""

    def archive_statistics(self) -> ArchiveStatistics | None:
        """Return None: there is no archive."""
        return None

    @property
    def epoch(self) -> int:
        """The number of owners that the stream has had, this server included."""
        return self._log.epoch

    def agree(self, features: int) -> None:
        """Begin to write what came with `features` too; in any thread."""
        self._log.agree(features)

    @property
    def waits_for(self) -> str | None:
        """The name of the owner that this node stands by for, if it does; in any thread."""
        return self._log.waits_for

    @property
    def is_owned(self) -> bool:
        """Return whether this node has become the owner, and all records were read."""
        return self._is_owned

    def statistics(self) -> LogStatistics:
        return self._log.statistics()

    def torn(self) -> tuple[int, str | None]:
        return 0, None

    def doubt(self) -> LogEndDoubt | None:
        return None

    def close(self) -> None:
        try:
            self._close_checkpoints()
            self._log.close(keeps_ownership=self.keeps_ownership)
            self.keeping.close()
        finally:
            self._lock.close()


def _number_of(mark: ChainMark | None) -> int:
    return 0 if mark is None else mark.number


def _make_directories(*paths: Path) -> None:
    """Make directories unless they are there. Raises DataDirectoryUnwritable."""
    for path in paths:
        try:
            path.mkdir(DIRECTORY_MODE, exist_ok=True)
        except OSError as error:
            raise DataDirectoryUnwritable(str(path), error) from error


def refuse_own_log(directory: Path, name: str) -> None:
    """Raise DataDirectoryUnreadable if a directory holds a log, which is not in the engine."""
    for file in (IDENTITY_NAME, MOVED_NAME):
        if (directory / file).exists():
            raise DataDirectoryUnreadable(
                str(directory),
                f"holds a server's own log ({file}), which is not in {name}",
                "Choose another directory with --data.",
            )
