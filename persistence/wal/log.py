"""The log as the rest of Troth sees it: the `Log` interface, and `MemoryLog`, which keeps nothing.

A log takes batches of records and numbers them from 1 without gaps. Once `append` has returned, its
batch is durable, as far as the implementation promises. A replicated log would be one more
implementation of this interface.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, final

from troth.core.buckets import Buckets
from troth.persistence.errors import LogConflict, LogFailed

__all__ = [
    "Log",
    "LogConflict",
    "LogFailed",
    "LogRecord",
    "LogStatistics",
    "MemoryLog",
    "NewRecord",
]

NewRecord = tuple[int, int, bytes]
"""A record before it is in the log, with the fields of `LogRecord`: plain, as there are many."""


class LogRecord(NamedTuple):
    """One fact of one shard. The body is opaque here (UTF-8 JSON in practice)."""

    shard: int
    shard_sequence: int  # strictly increasing within the shard, from 1
    body: bytes


SYNC_BOUNDS_S: Final = (
    *(0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    *(2.5, 5.0),
)
BATCH_BOUNDS_COUNT: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)


@dataclass(frozen=True, slots=True)
class LogStatistics:
    """What a log has done since it was opened, and its size now.

    `syncs_s` has how long each sync took, `batches_records` how many records each append had. Both
    go on to be counted in: they are not copied.
    """

    next_sequence: int = 1
    epoch: int = 0
    appends_count: int = 0
    records_count: int = 0
    bytes_appended: int = 0
    syncs_count: int = 0
    syncs_s: Buckets = field(default_factory=lambda: Buckets(SYNC_BOUNDS_S))
    batches_records: Buckets = field(default_factory=lambda: Buckets(BATCH_BOUNDS_COUNT))
    segments_count: int = 0
    size_bytes: int = 0
    failed: bool = False


class Log(Protocol):
    """An append-only sequence of records. One thread appends; others may read and trim."""

    @property
    def next_sequence(self) -> int:
        """The number the next record will get."""

    def append(self, batch: Sequence[NewRecord], expected_sequence: int) -> int:
        """Make a batch durable, whole or not at all, and return its last record's sequence.

        Raises `LogConflict` if `expected_sequence` is not the next one, and `ValueError` if the
        batch is empty or breaks a rule of `LogRecord`; then nothing was written. Raises
        `LogFailed` if writing failed: the outcome is unknown, and every later call raises it too.
        """

    def seal(self) -> float | None:
        """Say that nothing more is coming for now, so that the end can be marked.

        Return after how many seconds to say so again; None if not before the next batch. Raises
        `LogFailed`.
        """

    def read(self, from_sequence: int) -> Iterator[tuple[int, LogRecord]]:
        """Yield all records from a sequence up to what was durable at the call, with sequences."""

    def trim(self, to_sequence: int) -> None:
        """Allow the log to forget records below `to_sequence`; it may keep some of them."""

    def close(self) -> None:
        """Release everything; a second call does nothing. Later calls raise `LogFailed`."""

    def statistics(self) -> LogStatistics:
        """Return a snapshot; may be called from any thread and after a failure."""


@final
class MemoryLog:
    """A log that numbers records and keeps none: for `--in-memory` and for tests."""

    def __init__(self) -> None:
        self._next_sequence = 1
        self._appends_count = 0
        self._bytes_appended = 0
        self._closed = False

    @property
    def next_sequence(self) -> int:
        return self._next_sequence

    def append(self, batch: Sequence[NewRecord], expected_sequence: int) -> int:
        if self._closed:
            raise LogFailed("the log is closed")
        if not batch:
            raise ValueError("a batch holds at least one record")
        if expected_sequence != self._next_sequence:
            raise LogConflict(expected_sequence, self._next_sequence)
        self._next_sequence += len(batch)
        self._appends_count += 1
        self._bytes_appended += sum(len(body) for _, _, body in batch)
        return self._next_sequence - 1

    def seal(self) -> float | None:
        """Do nothing: there is no end to mark."""

    def read(self, from_sequence: int) -> Iterator[tuple[int, LogRecord]]:
        """Yield nothing, or raise `LookupError` for records that were not kept."""
        if from_sequence < self._next_sequence:
            raise LookupError(f"a log in memory keeps no records, so not {from_sequence} either")
        return iter(())

    def trim(self, to_sequence: int) -> None:
        """Do nothing: nothing is kept."""

    def close(self) -> None:
        self._closed = True

    def statistics(self) -> LogStatistics:
        return LogStatistics(
            next_sequence=self._next_sequence,
            appends_count=self._appends_count,
            records_count=self._next_sequence - 1,
            bytes_appended=self._bytes_appended,
        )
