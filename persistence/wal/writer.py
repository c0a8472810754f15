"""The writer thread: group commit.

One batch is in flight at a time; what is submitted during it becomes the next one, so that one
fdatasync serves all of it. When nothing has been submitted for a moment, the log's end is sealed
once, and then the thread sleeps until there is work.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from troth.persistence.errors import LogFailed, MemoryRanOut
from troth.persistence.memory_reserve import with_reserve
from troth.persistence.shortage import PATIENCE_S, is_out_of_memory, opening

from .log import Log, NewRecord

# A frame is built in memory, and everyone in it waits for all of it: no larger than this, except
# that what was submitted together stays together.
JOINED_BYTES_MAX = 4 << 20

# Long enough that a busy server never seals, short enough that a log is rarely left unsealed.
SEAL_DELAY_S = 0.010


@dataclass(frozen=True, slots=True)
class WriterStatistics:
    """What the writer has done since its start."""

    submits_count: int
    submits_written_count: int
    batches_written_count: int
    failed: bool

    @property
    def submits_waiting_count(self) -> int:
        """Submitted, and not yet durable."""
        return self.submits_count - self.submits_written_count


class Writer:
    """Appends what is submitted, in order, in a thread of its own.

    `on_durable(last_sequence)` and `on_failure(failure)` are called in that thread. After
    `on_failure`, which comes at most once, nothing is written and nothing more is called.
    """

    def __init__(
        self,
        log: Log,
        on_durable: Callable[[int], None],
        on_failure: Callable[[LogFailed], None],
        *,
        seal_delay_s: float = SEAL_DELAY_S,
        first_seal_s: float | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Start nothing yet; `patience_s` is how long to wait for memory.

        `first_seal_s` is how long to wait for the first batch before the log is sealed.
        """
        self._first_seal_s = first_seal_s
        self._patience_s = patience_s
        self._log = log
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._seal_delay_s = seal_delay_s
        self._queue: queue.SimpleQueue[Sequence[NewRecord] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="troth-log-writer")
        self._closed = False
        self._submits_count = 0
        self._submits_written_count = 0
        self._batches_written_count = 0
        self._failed = False

    def start(self) -> None:
        """Start the thread; once."""
        self._thread.start()

    def submit(self, batch: Sequence[NewRecord]) -> None:
        """Hand over a batch, never waiting; it becomes durable whole or not at all.

        The records get the sequences that follow those submitted before. The list must not be
        changed afterwards. After a failure the batch is dropped: `on_failure` has said so.
        """
        assert not self._closed, "the writer is closed"
        assert batch, "a batch holds at least one record"
        self._submits_count += 1
        self._queue.put(batch)

    def close(self) -> None:
        """Write what has been submitted, then end the thread; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()

    def statistics(self) -> WriterStatistics:
        """Return a snapshot; may be called from any thread."""
        return WriterStatistics(
            self._submits_count,
            self._submits_written_count,
            self._batches_written_count,
            self._failed,
        )

    def _run(self) -> None:
        try:
            self._write_until_closed()
        except LogFailed as failure:
            self._end(failure)
        except Exception as error:  # a bug; but the server must stop acknowledging, not hang
            bug = LogFailed(f"the log's writer has a bug and has stopped: {error!r}")
            bug.__cause__ = error
            self._end(bug)

    def _end(self, failure: LogFailed) -> None:
        self._failed = True
        self._on_failure(failure)

    def _write_until_closed(self) -> None:
        wait_s = self._first_seal_s
        while True:
            try:
                # Without a timeout when there is nothing to seal: an idle writer never wakes.
                batch = self._queue.get(timeout=wait_s)
            except queue.Empty:
                wait_s = self._log.seal()
                if wait_s is not None:  # what it has said may be waited for
                    self._on_durable(self._log.next_sequence - 1)
                continue
            if batch is None:
                return
            joined, submits_count, closing = self._join(batch)
            last_sequence = self._append(joined)
            wait_s = self._seal_delay_s
            self._submits_written_count += submits_count
            self._batches_written_count += 1
            self._on_durable(last_sequence)
            if closing:
                return

    def _append(self, batch: Sequence[NewRecord]) -> int:
        """Append; where there is no memory to begin with, wait for it. Raises LogFailed."""
        log = self._log
        try:
            return opening(
                lambda: with_reserve(lambda: log.append(batch, log.next_sequence)),
                is_out_of_memory,
                patience_s=self._patience_s,
            )
        except MemoryError as error:
            raise MemoryRanOut("before a batch could be written to the log") from error

    def _join(self, first: Sequence[NewRecord]) -> tuple[Sequence[NewRecord], int, bool]:
        """Join what else is waiting to `first`: the batch, how many submits, whether to close."""
        if self._queue.empty():  # nearly always: their sizes do not matter then
            return first, 1, False
        joined = list(first)  # the submitter's list stays as it is
        submits_count = 1
        size_bytes = _size_bytes(first)
        while size_bytes < JOINED_BYTES_MAX:
            try:
                batch = self._queue.get_nowait()
            except queue.Empty:
                break
            if batch is None:
                return joined, submits_count, True
            joined += batch
            submits_count += 1
            size_bytes += _size_bytes(batch)
        return joined, submits_count, False


def _size_bytes(batch: Sequence[NewRecord]) -> int:
    return sum([len(body) for _, _, body in batch])
