"""The write-ahead log on disk: numbered segments of framed batches.

`append` returns after one `pwrite` and one `fdatasync` of the batch. Any error of the disk is
final: nothing is retried, every later call raises the same `LogFailed`. A segment is prepared
ahead by an executor, so that beginning a new one costs the appending thread two short syncs.

Writes to a file without a name are never acknowledged. No file is made or removed when `check` says
that the directory was replaced.
"""

import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar, final

from troth.core.buckets import Buckets
from troth.core.limits import SEGMENT_BYTES
from troth.persistence.errors import DataDirectoryLost, LogConflict, LogFailed, MemoryRanOut
from troth.persistence.files import File, Files
from troth.persistence.shortage import SHORTAGES

from .frames import (
    SEAL_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    encode_frame,
    encode_seal,
)
from .log import BATCH_BOUNDS_COUNT, SYNC_BOUNDS_S, LogRecord, LogStatistics, NewRecord
from .recovery import LogEnd, LogScan
from .segments import (
    NEXT_NAME,
    OVERSIZED_NAME,
    START_FILL_BYTES,
    START_NAME,
    Segment,
    prepare_segment,
    publish_segment,
    segment_path,
    write_header,
)

_SETTLE_BYTES = 1 << 20

SYNCS_KEPT_COUNT: Final = 10_000
"""How many durations of syncs are kept until they are counted, once a second."""

LINK_LOOK_INTERVAL_S: Final = 0.05
"""How long a log is written to before the next look whether it still has a name: a look after each
batch took a twentieth of the server's time."""

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


@final
class InlineExecutor(Executor):
    """Runs each call immediately, in the caller: the deterministic twin of a helper thread.

    Only disk errors go into the future; any other exception reaches the caller.
    """

    def submit(
        self,
        fn: Callable[_Parameters, _Result],
        /,
        *args: _Parameters.args,
        **kwargs: _Parameters.kwargs,
    ) -> Future[_Result]:
        future: Future[_Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except (OSError, DataDirectoryLost) as error:
            future.set_exception(error)
        return future


def _do_nothing() -> None:
    pass


@final
class SegmentedLog:
    """The log of one opened data directory. Made by `DataDirectory` at the end of recovery."""

    def __init__(
        self,
        files: Files,
        log_path: str,
        data_id: bytes,
        end: LogEnd,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        executor: Executor | None = None,
        monotonic_s: Callable[[], float] = time.perf_counter,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin a new segment after `end`, and cut what is torn there.

        `check` raises `DataDirectoryLost` if the log is not where it was, or `OSError`.

        The new segment is ready under a temporary name before anything existing is changed.
        Raises `OSError` if the disk fails or is full.
        """
        assert segment_bytes > SEGMENT_HEADER_BYTES + SEAL_BYTES
        self._files = files
        self._log_path = log_path
        self._data_id = data_id
        self._segment_bytes = segment_bytes
        self._executor = executor or ThreadPoolExecutor(1, "troth-log-segments")
        self._monotonic_s = monotonic_s
        self._look_at_link_s = 0.0
        self._check_place = check
        self._epoch = end.epoch + 1
        self._next_sequence = end.next_sequence
        self._previous_checksum = end.previous_checksum
        self._shard_sequences = dict(end.shard_sequences)
        self._failure: LogFailed | None = None
        self._closed = False
        self._segments_lock = threading.Lock()  # trimming happens in another thread
        self._segments = list(end.segments)
        self._next_file: Future[File] | None = None
        self._unfinished: list[Future[None]] = []
        self._appends_count = 0
        self._records_count = 0
        self._bytes_appended = 0
        self._syncs_count = 0
        self._sync_durations_s = Buckets(SYNC_BOUNDS_S)
        self._batches_records = Buckets(BATCH_BOUNDS_COUNT)
        self._syncs_s: deque[float] = deque(maxlen=SYNCS_KEPT_COUNT)
        self._start(end)

    def _start(self, end: LogEnd) -> None:
        """Replace or follow the last segment that recovery found."""
        path = f"{self._log_path}/{START_NAME}"
        self._file = prepare_segment(self._files, path, self._segment_bytes, START_FILL_BYTES)
        try:
            write_header(self._file, self._header())
            last = self._segments.pop()
            if last.first_sequence != self._next_sequence:  # else the new one takes its name
                self._settle(segment_path(self._log_path, last.first_sequence), last, end)
                self._segments.append(Segment(last.first_sequence, end.kept_bytes))
            if self._files.exists(f"{self._log_path}/{NEXT_NAME}"):
                # It says something about the segment that was last; not about this one.
                self._files.remove(f"{self._log_path}/{NEXT_NAME}")
                self._files.sync_directory(self._log_path)
        except OSError:
            self._file.close()
            self._files.remove(path)
            raise
        publish_segment(self._files, self._log_path, path, self._next_sequence)
        self._begin_segment(self._segment_bytes)
        # Its thread begins now: later there may be none to be had.
        self._executor.submit(_do_nothing)

    def _settle(self, path: str, last: Segment, end: LogEnd) -> None:
        """Make what was read of the last segment durable, and cut what is torn behind it.

        What was read may be in the kernel's cache only: the process that wrote it may have died
        before its sync, or of a sync that failed, and then the kernel takes the pages for clean
        though they never reached the disk. So they are written again before the caller is told of
        what they hold. Only the last segment can be so: a new one is begun when the one before is
        synced.
        """
        content = self._files.read(path)
        file = self._files.open(path)
        try:
            for offset in range(0, end.kept_bytes, _SETTLE_BYTES):
                file.write_at(offset, content[offset : min(offset + _SETTLE_BYTES, end.kept_bytes)])
            if last.size_bytes > end.kept_bytes:
                file.truncate(end.kept_bytes)
            file.sync()
        finally:
            file.close()

    def _header(self) -> SegmentHeader:
        return SegmentHeader(
            self._data_id, self._epoch, self._next_sequence, self._previous_checksum
        )

    def _begin_segment(self, capacity_bytes: int) -> None:
        """Make the published file in `_file` the one that is appended to."""
        self._capacity_bytes = capacity_bytes
        self._used_bytes = SEGMENT_HEADER_BYTES
        self._seal_bytes = 0  # of a seal behind `_used_bytes`; the next batch overwrites it
        with self._segments_lock:
            self._segments.append(Segment(self._next_sequence, capacity_bytes))

    @property
    def next_sequence(self) -> int:
        """The number the next record will get."""
        return self._next_sequence

    def append(self, batch: Sequence[NewRecord], expected_sequence: int) -> int:
        """Make a batch durable and return its last record's sequence; see `Log.append`.

        Raises MemoryError if there is no memory for it: nothing was written then.
        """
        self._check_usable()
        if not batch:
            raise ValueError("a batch holds at least one record")
        if expected_sequence != self._next_sequence:
            raise LogConflict(expected_sequence, self._next_sequence)
        shard_sequences = self._checked_shard_sequences(batch)
        # Encoding first: a batch that cannot be encoded must not leave a trace.
        frame, checksum = encode_frame(
            batch, self._next_sequence, self._epoch, self._previous_checksum
        )
        try:
            self._append_frame(frame, checksum, batch, shard_sequences)
        except MemoryError as error:  # perhaps a part was written
            self._failure = MemoryRanOut("while a batch was written to the log")
            raise self._failure from error
        return self._next_sequence - 1

    def _append_frame(
        self,
        frame: bytes,
        checksum: int,
        batch: Sequence[NewRecord],
        shard_sequences: dict[int, int],
    ) -> None:
        try:
            if self._used_bytes + len(frame) + SEAL_BYTES > self._capacity_bytes:
                self._roll_over(len(frame))
            started_s = self._monotonic_s()
            self._file.write_durably(self._used_bytes, frame)
            ended_s = self._monotonic_s()
            if ended_s >= self._look_at_link_s:
                self._look_at_link_s = ended_s + LINK_LOOK_INTERVAL_S
                if not self._file.is_linked():
                    raise DataDirectoryLost(self._log_path)
        except (OSError, DataDirectoryLost) as error:
            raise self._fail(error) from error
        self._count(len(frame), len(batch), ended_s - started_s)
        self._shard_sequences.update(shard_sequences)
        self._used_bytes += len(frame)
        self._seal_bytes = 0
        self._previous_checksum = checksum
        self._next_sequence += len(batch)
        if self._next_file is None and self._used_bytes * 2 > self._capacity_bytes:
            self._next_file = self._executor.submit(self._prepare_next)

    def seal(self) -> float | None:
        """Write an empty frame that confirms the last batch; not synced, overwritten by the next.

        Raises `LogFailed`.
        """
        self._check_usable()
        if self._seal_bytes or self._used_bytes == SEGMENT_HEADER_BYTES:
            return None  # already sealed; or no batch here, and the header confirms what is before
        try:
            self._file.write_at(
                self._used_bytes,
                encode_seal(self._next_sequence, self._epoch, self._previous_checksum),
            )
        except OSError as error:
            raise self._fail(error) from error
        self._seal_bytes = SEAL_BYTES
        return None

    def read(self, from_sequence: int) -> Iterator[tuple[int, LogRecord]]:
        """Yield the records from a sequence up to what is durable now, verifying all of them.

        May run in any thread, concurrently with `append`; a concurrent `trim` can end it with an
        error. Raises `LookupError` if the record is trimmed, `LogDamaged` or
        `DataDirectoryUnreadable`.
        """
        batches = self.read_batches(from_sequence, self._next_sequence)
        return (
            (sequence, record)
            for first_sequence, records in batches
            for sequence, record in enumerate(records, first_sequence)
            if sequence >= from_sequence
        )

    def read_batches(
        self, from_sequence: int, until_sequence: int
    ) -> Iterator[tuple[int, list[LogRecord]]]:
        """Yield the batches from the one that holds `from_sequence` on, whole.

        The last is the one before `until_sequence`, which has to be durable or the next to be
        written. Otherwise as `read`.
        """
        with self._segments_lock:
            segments = list(self._segments)
        if from_sequence < segments[0].first_sequence:
            raise LookupError(f"record {from_sequence} has been trimmed")
        while len(segments) > 1 and segments[1].first_sequence <= from_sequence:
            del segments[0]
        if from_sequence >= until_sequence:
            return iter(())
        scan = LogScan(self._files, self._log_path, self._data_id, segments, until_sequence)
        return (
            (first_sequence, records)
            for first_sequence, records in scan.batches()
            if first_sequence + len(records) > from_sequence
        )

    def finished_segments(self) -> list[Segment]:
        """Return the segments that will never change again, with their valid lengths."""
        with self._segments_lock:
            return self._segments[:-1]

    def trim(self, to_sequence: int) -> None:
        """Delete the segments that hold only records below `to_sequence`. Raises `LogFailed`.

        Each removal is durable before the next one, so a crash never leaves a gap.
        """
        self._check_usable()
        try:
            self._check_place()
            while (segment := self._take_segment_below(to_sequence)) is not None:
                self._files.remove(segment_path(self._log_path, segment.first_sequence))
                self._files.sync_directory(self._log_path)
        except (OSError, DataDirectoryLost) as error:
            raise self._fail(error) from error

    def _take_segment_below(self, to_sequence: int) -> Segment | None:
        """Take the oldest segment off the list if all its records are below a sequence."""
        with self._segments_lock:
            if len(self._segments) > 1 and self._segments[1].first_sequence <= to_sequence:
                return self._segments.pop(0)
        return None

    def close(self) -> None:
        """Seal and sync the end, cut the unused zeros, and release everything.

        After a failure nothing is written any more. Raises `LogFailed` if the disk fails now;
        what was acknowledged is durable even so.
        """
        if self._closed:
            return
        try:
            if self._failure is None:
                self.seal()
                self._finish_cleanly()
        finally:
            self._closed = True
            self._executor.shutdown()
            self._file.close()
            if self._next_file is not None and self._next_file.exception() is None:
                self._next_file.result().close()  # its name may stay: it is worthless

    def take_syncs(self) -> list[float]:
        """Return how long each sync since the last call took, in seconds. From one thread only."""
        syncs_s = self._syncs_s
        return [syncs_s.popleft() for _ in range(len(syncs_s))]

    def statistics(self) -> LogStatistics:
        """Return a snapshot; may be called from any thread."""
        with self._segments_lock:
            segments = list(self._segments)
        return LogStatistics(
            next_sequence=self._next_sequence,
            epoch=self._epoch,
            appends_count=self._appends_count,
            records_count=self._records_count,
            bytes_appended=self._bytes_appended,
            syncs_count=self._syncs_count,
            syncs_s=self._sync_durations_s,
            batches_records=self._batches_records,
            segments_count=len(segments),
            size_bytes=sum(segment.size_bytes for segment in segments),
            failed=self._failure is not None,
        )

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise LogFailed("the log is closed")

    def _checked_shard_sequences(self, batch: Sequence[NewRecord]) -> dict[int, int]:
        """Return each shard's last number in the batch; `ValueError` if one does not grow.

        Recovery refuses such a log, so it must never be written.
        """
        durable = self._shard_sequences
        last: dict[int, int] = {}
        for shard, shard_sequence, _ in batch:
            before = last.get(shard) or durable.get(shard, 0)
            if shard_sequence <= before:
                raise ValueError(f"record {shard_sequence} of shard {shard} comes after {before}")
            last[shard] = shard_sequence
        return last

    def _roll_over(self, frame_bytes: int) -> None:
        """Begin a new segment, large enough for a frame; raises `OSError`, `DataDirectoryLost`."""
        needed_bytes = SEGMENT_HEADER_BYTES + frame_bytes + SEAL_BYTES
        oversized = needed_bytes > self._segment_bytes
        self._check_place()
        self._wait_for_finished_segments()
        path = f"{self._log_path}/{OVERSIZED_NAME if oversized else NEXT_NAME}"
        if oversized:  # zeros would only be written twice: the batch fills all of it
            file = prepare_segment(self._files, path, 0)
        elif self._next_file is not None:
            file, self._next_file = self._next_file.result(), None
        else:
            file = prepare_segment(self._files, path, self._segment_bytes)
        write_header(file, self._header())
        if self._used_bytes == SEGMENT_HEADER_BYTES:  # an empty one: the new one takes its name
            self._file.close()
            with self._segments_lock:
                self._segments.pop()
        else:
            kept_bytes = self._used_bytes + self._seal_bytes
            self._unfinished.append(self._executor.submit(_finish_segment, self._file, kept_bytes))
            with self._segments_lock:
                self._segments[-1] = self._segments[-1]._replace(size_bytes=kept_bytes)
        publish_segment(self._files, self._log_path, path, self._next_sequence)
        self._file = file
        self._begin_segment(max(needed_bytes, self._segment_bytes))

    def _prepare_next(self) -> File:
        """Make the file of the next segment; raises `OSError`, `DataDirectoryLost`."""
        self._check_place()
        path = f"{self._log_path}/{NEXT_NAME}"
        return prepare_segment(self._files, path, self._segment_bytes)

    def _wait_for_finished_segments(self) -> None:
        """Raise the `OSError` of a segment that could not be finished."""
        while self._unfinished:
            self._unfinished.pop().result()

    def _finish_cleanly(self) -> None:
        try:
            self._wait_for_finished_segments()
            self._file.truncate(self._used_bytes + self._seal_bytes)
            self._file.sync()
            # If it could not be prepared, that does not matter any more.
            if self._next_file is not None and self._next_file.exception() is None:
                self._files.remove(f"{self._log_path}/{NEXT_NAME}")
        except OSError as error:
            raise self._fail(error) from error

    def _count(self, frame_bytes: int, records_count: int, sync_s: float) -> None:
        self._appends_count += 1
        self._records_count += records_count
        self._bytes_appended += frame_bytes
        self._syncs_count += 1
        self._batches_records.add(records_count)
        self._syncs_s.append(sync_s)
        self._sync_durations_s.add(sync_s)

    def _fail(self, error: OSError | DataDirectoryLost) -> LogFailed:
        """Remember that the log has failed, for good, and return the error to raise."""
        if isinstance(error, DataDirectoryLost):
            self._failure = error
            return error
        reason = f"{error.strerror or error} (errno {error.errno})"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "The disk is full: free space"
        elif error.errno in SHORTAGES:
            advice = "The disk is not the cause: allow more open files or memory (ulimit)"
        else:
            advice = "Check the disk"
        self._failure = LogFailed(
            f"{self._log_path} could not be written: {reason}. {advice} and start the server "
            "again; it will find out whether the last batch is durable. Nothing acknowledged is "
            "lost."
        )
        return self._failure


def _finish_segment(file: File, size_bytes: int) -> None:
    """Give a full segment's unused zeros back; not synced, recovery accepts them."""
    try:
        file.truncate(size_bytes)
    finally:
        file.close()
