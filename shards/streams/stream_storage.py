"""A server's records in a stream of an engine, with a directory as a cache.

The stream holds everything. The directory holds checkpoints, which spare a start from reading the
stream from its first frame, and what belongs to this machine alone. If it is lost, an empty one
takes its place.

`records` reads the stream, waits until its owner is gone, and ends when this server owns it.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog
import trio

from troth.core.limits import SHARDS_DEFAULT_COUNT, STREAM_PATIENCE_MS
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
from troth.persistence.streams.chain import StreamDamaged, another_history
from troth.persistence.streams.stream import Stream, StreamRefused, StreamUnreachable
from troth.persistence.streams.stream_log import ChainMark, StreamLog
from troth.persistence.wal.frames import DATA_ID_BYTES
from troth.persistence.wal.log import LogRecord, LogStatistics
from troth.shards.committer import BatchWriter, Committer, ThreadWriter

CACHE_NAME: Final = "stream.json"
CHECKPOINTS_NAME: Final = "checkpoints"
_RETRY_S: Final = 0.5

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


class StreamStorage:
    """A stream, and a directory that is locked for this process.

    Opening makes the stream if there is none, and may wait for the engine. Raises a
    `persistence.errors.DataDirectoryError`, whose text tells an operator what to do.
    """

    def __init__(
        self,
        stream: Stream,
        directory: Path,
        shard_count: int | None = None,
        *,
        node: str,
        patience_ms: int = STREAM_PATIENCE_MS,
    ) -> None:
        files = RealFiles()
        path = files.resolved(os.fspath(directory))
        self.directory: Path | None = Path(path)
        self.place = stream.name
        self._path = Path(path)
        self._lock = lock_directory(files, path)
        try:
            if (self._path / IDENTITY_NAME).exists():
                raise DataDirectoryUnreadable(
                    path,
                    f"holds a server's own log ({IDENTITY_NAME}), which is not in {stream.name}",
                    "Choose another directory with --data.",
                )
            self._identity = _found(stream, shard_count, patience_ms)
            cached = self._read_cache()
            self._store = LmdbStore(self._path / CHECKPOINTS_NAME, TABLES, check=self._check_lock)
            self._checkpoints = Checkpoints(
                self._store, self._identity.data_id, self._identity.shards_of(0)
            )
            if cached is not None and cached.next_sequence > self._checkpoints.position + 1:
                cached = None  # its checkpoints are gone: everything is read again
            self._log = StreamLog(
                stream,
                node=node,
                incarnation=secrets.randbits(64),
                boot_ms=boot_ms,
                now_ms=_now_ms,
                sleep_s=_rest,
                mark=cached,
                patience_ms=patience_ms,
            )
        except BaseException:
            self._lock.close()
            stream.close()
            raise

    @property
    def shard_count(self) -> int:
        return self._identity.shard_count

    @property
    def group(self) -> int:
        return 0

    @property
    def group_shards(self) -> tuple[int, ...]:
        return self._identity.group_shards

    @property
    def placement(self) -> PlacementRule:
        return self._identity.placement

    @property
    def secret(self) -> bytes:
        return self._identity.secret

    @property
    def next_sequence(self) -> int:
        return self._log.next_sequence

    @property
    def checkpoints(self) -> Checkpoints | None:
        return self._checkpoints

    def _check_lock(self) -> None:
        if not self._lock.is_in_place():
            raise DataDirectoryLost(str(self._path))

    def check(self) -> None:
        self._check_lock()
        self._store.check()

    def records(self) -> Iterator[tuple[int, LogRecord]]:
        """Yield all records of the stream, those to come too, until this server owns it."""
        has_told = False

        def pause() -> None:
            nonlocal has_told
            trio.from_thread.check_cancelled()
            owner = self._log.waits_for
            if owner is not None and not has_told:
                has_told = True
                log.info("standing by until the owner of the log is gone", owner=owner)

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

    def make_writer(self, committer: Committer) -> BatchWriter:
        committer.may_answer = self._log.may_answer
        self._store.prepare()
        return ThreadWriter(self._log, committer, first_seal_s=0)

    def trim(self, to_sequence: int) -> None:
        """Trim nothing, but note from where on the next start has to read."""
        self.check()
        mark = self._log.mark_before(to_sequence)
        if mark is not None:
            fields = {"data_id": self._identity.data_id.hex(), **mark._asdict()}
            _write_durably(self._path / CACHE_NAME, json.dumps(fields).encode())

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
                "Everything is in the database: start with an empty directory.",
            ) from error
        if data_id != self._identity.data_id.hex():
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
        finally:
            self._lock.close()


def _found(stream: Stream, shard_count: int | None, patience_ms: int) -> Identity:
    """Return who the stream's data is, and make it if it is new; wait for the engine."""
    new = Identity(
        secrets.token_bytes(DATA_ID_BYTES),
        (shard_count or SHARDS_DEFAULT_COUNT,),
        _now_ms(),
        secrets.token_bytes(SECRET_BYTES),
    )
    gives_up_ms = boot_ms() + patience_ms
    while True:
        try:
            identity = decode_identity(stream.name, stream.found(encode_identity(new)))
            break
        except StreamUnreachable as error:
            if boot_ms() >= gives_up_ms:
                raise StreamRefused(f"{stream.name} cannot be reached: {error}.") from error
        _rest(_RETRY_S)
    if shard_count is not None and shard_count != identity.shard_count:
        raise ShardCountMismatch(stream.name, identity.shard_count, shard_count)
    return identity


def _write_durably(path: Path, content: bytes) -> None:
    """Replace a file's content, so that a crash leaves the old one or the new one."""
    fresh = path.with_name(f"{path.name}.tmp")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    RealFiles().sync_directory(str(path.parent))


def open_stream(url: str, directory: Path, shard_count: int | None) -> StreamStorage:
    """Open the storage whose log is in the database that a URL names, as `StreamStorage`."""
    try:
        from troth.persistence.streams.postgres_stream import PostgresStream
    except ImportError as error:
        raise StreamRefused(
            "PostgreSQL's client is not installed. Install it: pip install 'troth[postgres]'."
        ) from error
    stream = PostgresStream(url)
    storage = StreamStorage(
        stream, directory, shard_count, node=f"{socket.gethostname()}:{os.getpid()}"
    )
    if not stream.has_standby:
        log.warning(
            "the database has no synchronous standby: what is acknowledged is on one machine",
            database=stream.name,
        )
    return storage
