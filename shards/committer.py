"""Group commit, seen from the shards: records in, "durable up to here" out.

All shards append to one log. What they append within one turn of the event loop becomes one batch
for the writer, and so shares one fdatasync. A *position* is the log sequence of the last record
that was handed over; when the log is durable up to a position, `on_durable` is called with it, in
the event loop. After a failure of the log nothing is durable any more, ever (fail stop).

What nothing waits for, such as a note that a message was sent, need not have a sync of its own: it
is written with the next batch, or after `LINGER_S`.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, final

import trio

from troth.persistence.errors import PersistenceError
from troth.persistence.wal.gathering import GatheringWriter
from troth.persistence.wal.log import Log, NewRecord
from troth.persistence.wal.writer import Writer

from .errors import StorageFailed
from .threads import in_thread

LINGER_S: Final = 0.020
"""How long records may lie that nothing waits for: a crash loses what a crash just before would."""

LINGER_LIMIT_BYTES: Final = 1 << 20
"""With so much to write, nothing lies any longer."""

_write: Final = ctypes.PyDLL(None).write
"""Write to a pipe without waiting. With `os.write` the log's thread would let go of the interpreter
and, while the loop is busy, wait for it once more in each batch."""

_RINGS_COUNT: Final = 4096
"""How many rings are read together; more are read next."""


class BatchWriter(Protocol):
    """What the committer needs of a writer; `persistence.writer.Writer` is the real one."""

    def submit(self, batch: Sequence[NewRecord]) -> None:
        """Take a batch, never waiting."""
        ...  # pragma: no cover

    async def close(self) -> None:
        """Write what was submitted, then end."""
        ...  # pragma: no cover


class BellListener(Protocol):
    """What waits for several descriptors together in the event loop: the hot lane."""

    def listen(self, number: int, hear: Callable[[], None]) -> None:
        """Call `hear` whenever this descriptor can be read, until `listen_no_more`."""
        ...  # pragma: no cover

    def listen_no_more(self, number: int) -> None:
        """Forget the descriptor: it is closed next."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class CommitterStatistics:
    """Positions are log sequences; `pending_bytes` is appended and not yet durable."""

    position: int
    durable_position: int
    pending_bytes: int
    batches_count: int
    records_count: int
    failed: bool


class DirectWriter:
    """A writer without a thread, for a log that needs no waiting (`--in-memory`)."""

    def __init__(self, log: Log, on_durable: Callable[[int], None]) -> None:
        self._log = log
        self._on_durable = on_durable

    def submit(self, batch: Sequence[NewRecord]) -> None:
        self._on_durable(self._log.append(batch, self._log.next_sequence))

    async def close(self) -> None:
        self._log.close()


@final
class ThreadWriter:
    """The real writer as the event loop sees it: a thread, and a pipe that it rings.

    The thread reports through one attribute, written there and read here, so only a ring must cross
    threads. This costs half of trio's own way to call from another thread, and no queue can grow in
    between.
    """

    def __init__(
        self,
        log: Log,
        committer: "Committer",
        *,
        first_seal_s: float | None = None,
        gathers: bool = False,
    ) -> None:
        """Start the thread. Use in the event loop. `first_seal_s` is as in `Writer`.

        A log whose appends are dear `gathers` what comes soon (`persistence/wal/gathering.py`).
        """
        self._committer = committer
        committer.look = self.look
        self._durable_position = committer.durable_position
        self._failure: PersistenceError | None = None
        self._is_closed = False
        self._listens_on, self._rings_on = os.pipe()
        os.set_blocking(self._listens_on, False)
        os.set_blocking(self._rings_on, False)
        writer = GatheringWriter if gathers else Writer
        self._writer = writer(
            log, self._note_durable, self._note_failure, first_seal_s=first_seal_s
        )
        trio.lowlevel.spawn_system_task(self._listen)
        self._writer.start()

    def submit(self, batch: Sequence[NewRecord]) -> None:
        self._writer.submit(batch)

    async def close(self) -> None:
        # Joining the thread takes as long as the last sync.
        await in_thread(self._writer.close)
        self._report()
        if self._committer.listener is not None:
            self._committer.listener.listen_no_more(self._listens_on)
        self._is_closed = True
        self._committer.let_hear(None)
        trio.lowlevel.notify_closing(self._listens_on)
        os.close(self._listens_on)
        os.close(self._rings_on)

    # In the thread

    def _note_durable(self, position: int) -> None:
        self._durable_position = position
        self._ring()

    def _note_failure(self, failure: PersistenceError) -> None:
        self._failure = failure
        self._ring()

    def _ring(self) -> None:
        _write(self._rings_on, b"!", 1)  # it may be full of rings, which will be heard

    # In the event loop

    def look(self) -> None:
        """Report what the thread has said by now; its ring then brings nothing new."""
        if self._durable_position > self._committer.durable_position:
            self._report()

    async def _listen(self) -> None:
        committer = self._committer
        if committer.listener is not None:
            committer.listener.listen(self._listens_on, self._hear)
            await committer.is_unheard.wait()
        with contextlib.suppress(trio.ClosedResourceError):
            while not self._is_closed:
                await trio.lowlevel.wait_readable(self._listens_on)
                if not self._is_closed:  # perhaps since this task was woken
                    self._hear()

    def _hear(self) -> None:
        os.read(self._listens_on, _RINGS_COUNT)
        self._report()

    def _report(self) -> None:
        # A failure is noted after everything that was durable before it.
        failure = self._failure
        self._committer.durable(self._durable_position)
        if failure is not None:
            self._committer.fail(failure)


@final
class Committer:
    """Collects the records of all shards into batches.

    `on_durable(position)` runs in the event loop whenever the durable position has grown.
    """

    def __init__(self, next_sequence: int, on_durable: Callable[[int], None]) -> None:
        self.position = next_sequence - 1
        self.durable_position = next_sequence - 1
        self.failure: PersistenceError | None = None
        self.failed = trio.Event()
        # While this is set, the code that set it calls `flush` before any task waits.
        self.is_flushed_by_caller = False
        self.is_flushed_each_pass = False
        """Whether what `flush_each_pass` has returned is called."""
        self.may_answer: Callable[[], bool] | None = None
        """Whether clients may be answered now, for a log that has a lease; None if always."""
        self.look: Callable[[], None] = _look_nowhere
        """Hear what the writer has said by now, for who is awake anyway: its ring costs more."""
        self.listener: BellListener | None = None
        self.is_unheard = trio.Event()
        """Set when the listener hears the bell no longer."""
        self._on_durable = on_durable
        self._pending: list[NewRecord] = []
        self.pending_bytes = 0
        """Bytes of records that are appended and not yet durable."""
        self._sizes: list[tuple[int, int]] = []
        self._work = trio.Event()
        self.is_wanted = False
        """Whether something waits for what is to be written."""
        self._wanted: trio.Event | None = None  # while `run` lets records lie
        self._changed = trio.Event()
        self._batches_count = 0
        self._records_count = 0
        self._new_bytes = 0
        self._new_bytes_wanted: int | None = None
        self._enough_bytes = trio.Event()
        self._watched_position = sys.maxsize
        self._enough_records = trio.Event()

    def let_hear(self, listener: BellListener | None) -> bool:
        """Leave the bell of the writer that is made next to a listener; return whether it is so.

        The first one stays until None says that it hears no more: then a task does.
        """
        if listener is not None and self.listener is not None:
            return False
        self.listener = listener
        if listener is None:
            self.is_unheard.set()
            self.is_unheard = trio.Event()
        return listener is not None

    def is_answerable(self, position: int) -> bool:
        """Return whether what the log shows up to a position may be told to clients now."""
        return self.durable_position >= position and (self.may_answer is None or self.may_answer())

    def begin(self, next_sequence: int) -> None:
        """Start with the sequence that follows a log that was read back; before any append."""
        assert not self._sizes, "nothing was appended yet"
        self.position = next_sequence - 1
        self.durable_position = next_sequence - 1

    def append(self, records: Sequence[NewRecord], *, is_awaited: bool = True) -> int:
        """Add a turn's records to the next batch; the position of the last.

        Unless it `is_awaited` that they are durable, they may lie for a while. Raises StorageFailed
        after a failure of the log.
        """
        if self.failure is not None:
            raise StorageFailed
        self._pending.extend(records)
        size_bytes = sum([len(body) for _, _, body in records])
        self.pending_bytes += size_bytes
        self.position += len(records)
        self._sizes.append((self.position, size_bytes))
        self._new_bytes += size_bytes
        if is_awaited or self.pending_bytes >= LINGER_LIMIT_BYTES:
            self.want()
        elif not self.is_wanted and self._wanted is None:
            self._work.set()
        if self._new_bytes_wanted is not None and self._new_bytes >= self._new_bytes_wanted:
            self._enough_bytes.set()
        if self.position >= self._watched_position:
            self._enough_records.set()
        return self.position

    def want(self) -> None:
        """Note that something waits for all that was appended: it is not to lie any longer."""
        if self._pending and not self.is_wanted:
            self.is_wanted = True
            if self._wanted is not None:
                self._wanted.set()
            elif not (self.is_flushed_by_caller or self.is_flushed_each_pass):
                self._work.set()

    async def wait_bytes(self, count: int) -> None:
        """Wait until this many bytes were appended since `forget_bytes`."""
        self._new_bytes_wanted = count
        self._enough_bytes = trio.Event()
        if self._new_bytes >= count:
            self._enough_bytes.set()
        await self._enough_bytes.wait()

    def forget_bytes(self) -> None:
        """Count appended bytes again."""
        self._new_bytes = 0

    async def wait_records(self, count: int) -> None:
        """Wait until this many records were appended from now on; for one caller at a time."""
        self._watched_position = self.position + count
        self._enough_records = trio.Event()
        await self._enough_records.wait()

    async def run(self, writer: BatchWriter) -> None:
        """Hand batches to the writer, one a turn, until canceled."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            if self._pending and not self.is_wanted:
                self._wanted = trio.Event()
                with trio.move_on_after(LINGER_S):
                    await self._wanted.wait()
                self._wanted = None
            self.flush(writer)

    def flush(self, writer: BatchWriter) -> None:
        """Hand what there is to the writer now."""
        if not self._pending or self.failure is not None:
            return
        batch, self._pending = self._pending, []
        self.is_wanted = False
        self._batches_count += 1
        self._records_count += len(batch)
        writer.submit(batch)

    def flush_each_pass(self, writer: BatchWriter) -> Callable[[], None] | None:
        """Return what the loop has to call at the end of each pass from now on, if anything.

        So what a timer leads to, for example, need not wait for the next pass, which may be long.
        That is for a writer that wakes no task.
        """
        self.is_flushed_each_pass = isinstance(writer, ThreadWriter)
        return (lambda: self.flush_wanted(writer)) if self.is_flushed_each_pass else None

    def flush_wanted(self, writer: BatchWriter) -> None:
        """Hand what there is to the writer now, if something waits for it."""
        if self.is_wanted:
            self.flush(writer)

    def durable(self, position: int) -> None:
        """Note that the log is durable up to this position. Called in the event loop."""
        assert position <= self.position, "nothing is durable that was not appended"
        if position <= self.durable_position:
            if self.may_answer is not None:  # a lease was renewed: answers may have waited for it
                self._wake_waiting()
                self._on_durable(self.durable_position)
            return
        self.durable_position = position
        done_count = 0
        for until, size_bytes in self._sizes:
            if until > position:
                break
            done_count += 1
            self.pending_bytes -= size_bytes
        del self._sizes[:done_count]
        self._wake_waiting()
        self._on_durable(position)

    def fail(self, failure: PersistenceError) -> None:
        """Stop: the log or the state has failed. What is not durable now is never acknowledged."""
        if self.failure is None:
            self.failure = failure
            self.failed.set()
            self._wake_waiting()

    def _wake_waiting(self) -> None:
        """Wake all waiting tasks; those that wait from now on wait for the next change."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_room(self, limit_bytes: int) -> None:
        """Wait until fewer than `limit_bytes` are pending, or the log has failed."""
        while self.pending_bytes >= limit_bytes and self.failure is None:
            self.want()
            await self._changed.wait()

    async def wait_durable(self) -> None:
        """Wait until everything appended so far is durable, or the log has failed.

        If the log has a lease, wait until clients may be answered, too.
        """
        position = self.position
        self.want()
        while not self.is_answerable(position) and self.failure is None:
            await self._changed.wait()

    def statistics(self) -> CommitterStatistics:
        """Return counters for metrics."""
        return CommitterStatistics(
            self.position,
            self.durable_position,
            self.pending_bytes,
            self._batches_count,
            self._records_count,
            self.failure is not None,
        )


def _look_nowhere() -> None:
    """Do nothing: the writer says everything itself."""
