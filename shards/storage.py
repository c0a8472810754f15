"""Where the shards' records are kept: a data directory, or nothing at all (`--in-memory`).

Opening takes the directory's lock and reads who it belongs to; `recover` replays its log into the
shards and may take long, so it may run in a thread of its own; then `make_writer` gives the
committer what it writes with. Nothing in the directory changes before recovery has ended well.
"""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from troth.core.limits import SEGMENT_BYTES, SHARDS_DEFAULT_COUNT
from troth.persistence.checkpoints import Checkpoints
from troth.persistence.data_directory import CHECKPOINTS_NAME, DataDirectory
from troth.persistence.errors import LogDamaged
from troth.persistence.files import RealFiles
from troth.persistence.log import LogRecord, LogStatistics, MemoryLog
from troth.persistence.rows import TABLES
from troth.persistence.store import LmdbStore

from .committer import BatchWriter, Committer, DirectWriter, start_writer_thread


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was read back at the start. `torn_bytes_count` is what a crash left half-written."""

    records_count: int
    duration_ms: int
    torn_bytes_count: int
    torn_file: str | None


class Storage(Protocol):
    """What a server keeps its records in."""

    @property
    def place(self) -> str:
        """Where the data is, for people."""
        ...  # pragma: no cover

    @property
    def shard_count(self) -> int:
        """The number of shards, fixed for ever."""
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
        """Let the log forget records below a sequence."""
        ...  # pragma: no cover

    def records(self) -> Iterator[tuple[int, LogRecord]]:
        """All records that a checkpoint may not cover, in order.

        What comes may still be refused at the end.
        """
        ...  # pragma: no cover

    def make_writer(self, committer: Committer) -> BatchWriter:
        """Begin to write."""
        ...  # pragma: no cover

    def statistics(self) -> LogStatistics:
        """Counters of the log."""
        ...  # pragma: no cover

    def torn(self) -> tuple[int, str | None]:
        """How many bytes of a half-written batch were cut off at the start, and in which file."""
        ...  # pragma: no cover

    def close(self) -> None:
        """Close the log and let go of the directory."""
        ...  # pragma: no cover


class MemoryStorage:
    """Nothing is kept: everything is gone when the server stops."""

    def __init__(self, shard_count: int | None = None) -> None:
        self.place = "memory only; nothing is kept"
        self.shard_count = shard_count or SHARDS_DEFAULT_COUNT
        self.secret = secrets.token_bytes(32)
        self._log = MemoryLog()
        self.checkpoints: Checkpoints | None = None

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

    def close(self) -> None:
        self._log.close()


class DirectoryStorage:
    """A data directory, locked for this process.

    Opening raises a `persistence.errors.DataDirectoryError`, whose text tells an operator what to
    do.
    """

    def __init__(
        self, path: Path, shard_count: int | None = None, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self.place = str(path.absolute())
        self._directory = DataDirectory.open(
            path,
            RealFiles(),
            shard_count,
            created_at_ms=time.time_ns() // 1_000_000,
            segment_bytes=segment_bytes,
        )
        try:
            store = LmdbStore(path / CHECKPOINTS_NAME, TABLES)
            self._checkpoints = Checkpoints(
                store, self._directory.identity.data_id, self._directory.shard_count
            )
        except BaseException:
            self._directory.close()
            raise

    @property
    def shard_count(self) -> int:
        return self._directory.shard_count

    @property
    def secret(self) -> bytes:
        return self._directory.secret

    @property
    def next_sequence(self) -> int:
        return self._directory.log.next_sequence

    @property
    def checkpoints(self) -> Checkpoints | None:
        return self._checkpoints

    def trim(self, to_sequence: int) -> None:
        self._directory.log.trim(to_sequence)

    def records(self) -> Iterator[tuple[int, LogRecord]]:
        position = self._checkpoints.position
        yield from self._directory.recover(position + 1)
        if self._directory.log.next_sequence <= position:
            raise LogDamaged(
                self._directory.path,
                0,
                f"the log ends before sequence {position}, which the checkpoints have reached",
            )

    def make_writer(self, committer: Committer) -> BatchWriter:
        return start_writer_thread(self._directory.log, committer)

    def statistics(self) -> LogStatistics:
        return self._directory.log.statistics()

    def torn(self) -> tuple[int, str | None]:
        report = self._directory.report
        return report.torn_bytes_cut, report.torn_file

    def close(self) -> None:
        self._checkpoints.close()
        self._directory.close()
