"""When and how checkpoints are made, while the server runs.

A checkpoint has five steps: each shard captures what changed since the last one, between two of its
turns; wait until all that is durable in the log, so that a checkpoint never knows more than the
log; write it, in a thread of its own; switch cold reads to it and drop from memory what is
finished; trim the log. A crash between any two leaves the old checkpoint or the new one, and a log
that reaches from there to the end.

One is made when the log has grown by `log_bytes`, when `interval_ms` have passed since the last one
and something has changed, and at a clean stop. An error is final, as with the log:
CheckpointFailed.
"""

import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol, final

import structlog
import trio

from troth.core.buckets import Buckets
from troth.core.limits import CAPTURE_SLICE_COUNT, CHECKPOINT_WRITER_WAIT_MS
from troth.core.state import eviction
from troth.core.state.captures import Capture
from troth.core.state.checkpointing import Capturing
from troth.persistence.checkpoints.checkpoints import CheckpointStatistics
from troth.persistence.errors import CheckpointFailed
from troth.persistence.memory_reserve import with_reserve
from troth.persistence.process_memory import trim_heap
from troth.persistence.shortage import is_out_of_memory, opening
from troth.shards.committer import Committer
from troth.shards.passes import Pass
from troth.shards.shard import Shard
from troth.shards.threads import in_thread

VERIFY_PAUSE_LIMIT_S: Final = 0.1
SHARE_S: Final = 0.0003
"""The time that captures, or what follows them, may take in a pass of the loop."""

REST_FACTOR: Final = 10
"""How much longer they rest after that while the loop has other passes to make.

Without a rest they would take part in each pass, and for some ms the loop would hardly do anything
else: requests would take three times as long."""

_BUSY_PASSES_COUNT: Final = 2
"""So many passes a rest on an idle server has: that of its end, and one by chance."""

PIECE_S: Final = 0.0005
PAUSES_FACTOR: Final = 4
"""How long a thread that hands over a checkpoint works in one piece, and how much longer it rests.

While it works, the loop waits for the interpreter."""
_BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

VERIFIED: Final = "the checkpoints are as they were written"
FILTER_RENEWED: Final = "the filter of the stored ids is built again"

WRITTEN_IN_PLACE: Final = "a thread has written a large checkpoint; requests may have waited longer"

log = structlog.get_logger("troth.checkpoints")


class CheckpointStore(Protocol):
    """The store that checkpoints are written to; see `persistence.checkpoints.Checkpoints`."""

    def write(self, captures: list[Capture], pause: Callable[[], None]) -> None:
        """Write durably; may block. `pause` is called now and then. Raises CheckpointFailed."""
        ...  # pragma: no cover

    @property
    def writer_problem(self) -> str | None:
        """The reason why a thread has written a large checkpoint; None if it has not."""
        ...  # pragma: no cover

    @property
    def has_writer(self) -> bool:
        """Return whether there is a process now that writes large checkpoints."""
        ...  # pragma: no cover

    def end_writer(self) -> None:
        """End that process; may block."""
        ...  # pragma: no cover

    def renew(self) -> None:
        """Switch cold reads to what was written."""
        ...  # pragma: no cover

    @property
    def is_small(self) -> bool:
        """Return whether it was verified at the start already."""
        ...  # pragma: no cover

    def verify(self, pause: Callable[[], None]) -> int:
        """Compare all that is stored with its digests, and fill the filter of the stored ids.

        Raises CheckpointDamaged.
        """
        ...  # pragma: no cover

    @property
    def filter_is_stale(self) -> bool:
        """Return whether most ids in that filter were deleted."""
        ...  # pragma: no cover

    def renew_filter(self, pause: Callable[[], None]) -> int:
        """Build that filter again. Raises CheckpointDamaged."""
        ...  # pragma: no cover

    @property
    def position(self) -> int:
        """The log sequence up to which everything is covered."""
        ...  # pragma: no cover

    def statistics(self) -> CheckpointStatistics:
        """Return counters for metrics."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class CheckpointerStatistics:
    """Counters of checkpoints. `durations_s` has how long each took; `store` is what they fill.

    `last_on_ms` is when the last one ended, in ms since 1970; 0 if there was none.
    """

    checkpoints_count: int
    evicted_count: int
    durations_s: Buckets
    last_on_ms: int
    store: CheckpointStatistics


@final
class Checkpointer:
    """Makes the checkpoints of one server.

    `trim(sequence)` lets the log forget records below a sequence; it may block. `in_thread` runs a
    blocking function elsewhere; tests run it in place.
    """

    def __init__(
        self,
        shards: list[Shard],
        committer: Committer,
        store: CheckpointStore,
        trim: Callable[[int], None],
        *,
        interval_ms: int,
        log_bytes: int,
        current_pass: Pass | None = None,
        capture_slice_count: int = CAPTURE_SLICE_COUNT,
        use_thread: bool = True,
    ) -> None:
        """Initialize. Without `current_pass` one slice of a capture is made in a pass."""
        self._shards = shards
        self._committer = committer
        self._store = store
        self._trim = trim
        self._interval_ms = interval_ms
        self._log_bytes = log_bytes
        self._use_thread = use_thread
        self._pass = current_pass
        self._capture_slice_count = capture_slice_count
        self._limiter = trio.CapacityLimiter(1)
        self._running = trio.Lock()
        self._is_reading = False
        self._checkpoints_count = 0
        self._evicted_count = 0
        self._durations_s = Buckets(_BOUNDS_S)
        self._last_on_ms = 0
        self._writer_problem: str | None = None
        self._hurries = threading.Event()
        self._is_busy = False

    async def run(self) -> None:
        """Make checkpoints when they are due, until canceled.

        In between, once, a store too large to be verified at the start is verified, and the filter
        of its ids is built again when it has become stale. Raises CheckpointFailed or
        CheckpointDamaged.
        """
        async with trio.open_nursery() as nursery:
            if not self._store.is_small:
                self._start_reading(nursery, self._store.verify, VERIFIED)
            await self._run(nursery)

    def _start_reading(
        self, nursery: trio.Nursery, read: Callable[[Callable[[], None]], int], result: str
    ) -> None:
        """Begin one of the store's passes over its rows; one at a time."""
        assert not self._is_reading, "one pass at a time"
        self._is_reading = True
        nursery.start_soon(self._read, read, result)

    async def _read(self, read: Callable[[Callable[[], None]], int], result: str) -> None:
        started = time.monotonic()
        worked = started

        def pause() -> None:
            """Work a tenth of the time, so that clients do not notice; stop with the server."""
            nonlocal worked
            pause_s = min(9 * (time.monotonic() - worked), VERIFY_PAUSE_LIMIT_S)
            trio.from_thread.run(trio.sleep, pause_s)
            worked = time.monotonic()

        rows_count = await in_thread(lambda: read(pause))
        self._is_reading = False
        log.info(
            result,
            rows=rows_count,
            duration_ms=int((time.monotonic() - started) * 1000),
        )

    async def _run(self, nursery: trio.Nursery) -> None:
        while True:
            await self._wait()
            if any(shard.machine.state.changes.count for shard in self._shards):
                await self.checkpoint()
                if self._store.filter_is_stale and not self._is_reading:
                    self._start_reading(nursery, self._store.renew_filter, FILTER_RENEWED)

    async def _wait(self) -> None:
        """Wait until a checkpoint may be due; end what writes them if it is not soon."""
        ends_s = trio.current_time() + self._interval_ms / 1000
        soon_s = trio.current_time() + CHECKPOINT_WRITER_WAIT_MS / 1000
        with trio.move_on_at(min(soon_s, ends_s)):
            await self._committer.wait_bytes(self._log_bytes)
            return
        if soon_s < ends_s:
            if self._store.has_writer:
                async with self._running:
                    await self._blocking(self._store.end_writer)
            with trio.move_on_at(ends_s):
                await self._committer.wait_bytes(self._log_bytes)

    async def checkpoint(self, *, is_last: bool = False) -> None:
        """Make one checkpoint now. Raises CheckpointFailed.

        After the last one, at a stop, nothing is read any more and nothing need leave memory.
        """
        if is_last:
            self._hurries.set()  # also for one that is being written
        async with self._running:
            started = time.monotonic()
            self._committer.forget_bytes()
            captures = []
            for shard in self._shards:
                captures.append(await self._capture(shard))
                await trio.lowlevel.checkpoint()
            rows_count = sum(capture.rows_count for capture in captures)
            await self._committer.wait_durable()
            if self._committer.failure is not None:
                return
            await self._blocking(lambda: self._write(captures))
            self._warn_of_writer()
            if not is_last:
                self._store.renew()
                for shard, capture in zip(self._shards, captures, strict=True):
                    await self._evict(shard, capture)
            position = self._store.position
            await self._blocking(lambda: self._finish(position))
            self._note(started, rows_count)

    @asynccontextmanager
    async def resting(self) -> AsyncIterator[None]:
        """Make no checkpoint in a block: another process reads the last one."""
        async with self._running:
            yield

    async def _capture(self, shard: Shard) -> Capture:
        """Capture a shard in slices, as many in each pass of the loop as time allows."""
        capturing = Capturing(shard.machine.state, self._capture_slice_count)
        while not capturing.is_nearly_done:
            is_over = self._share()
            while True:
                capturing.read_some()
                if capturing.is_nearly_done or is_over():
                    break
            if not capturing.is_nearly_done:
                await self._rest()
        return shard.finish_capture(capturing)

    async def _evict(self, shard: Shard, capture: Capture) -> None:
        """Drop from memory what is finished, in such slices."""
        is_over = self._share()
        for count in eviction.evict(shard.machine.state, capture):
            self._evicted_count += count
            if is_over():
                await self._rest()
                is_over = self._share()
        await trio.lowlevel.checkpoint()

    async def _rest(self) -> None:
        """Leave the loop to others: for long if they had much of it during the last rest."""
        current = self._pass
        if current is None or self._hurries.is_set():
            await trio.lowlevel.checkpoint()
            return
        passes_count = current.passes_count
        await trio.sleep(SHARE_S * (REST_FACTOR if self._is_busy else 1))
        self._is_busy = current.passes_count - passes_count > _BUSY_PASSES_COUNT

    def _share(self) -> Callable[[], bool]:
        """Return what says whether slices have taken their share of this pass."""
        ends_s = trio.current_time() + SHARE_S
        return lambda: self._pass is None or self._pass.is_over or trio.current_time() >= ends_s

    def _write(self, captures: list[Capture]) -> None:
        """Write; where memory runs out before anything has been committed, wait for more."""
        try:
            opening(
                lambda: with_reserve(lambda: self._store.write(captures, self._pacing())),
                is_out_of_memory,
            )
        except MemoryError as error:
            raise CheckpointFailed("the data directory", "cannot be written", error) from error

    def _pacing(self) -> Callable[[], None]:
        """Return what a thread calls between small pieces of work, so that clients wait little."""
        if not self._use_thread:
            return lambda: None
        worked_s = time.thread_time()

        def pause() -> None:
            nonlocal worked_s
            took_s = time.thread_time() - worked_s
            if took_s >= PIECE_S:
                self._hurries.wait(PAUSES_FACTOR * took_s)
                worked_s = time.thread_time()

        return pause

    def _warn_of_writer(self) -> None:
        """Say once why no process of its own writes checkpoints, if that is so."""
        problem = self._store.writer_problem
        if problem is not None and problem != self._writer_problem:
            log.warning(WRITTEN_IN_PLACE, reason=problem)
        self._writer_problem = problem

    def _finish(self, position: int) -> None:
        self._trim(position + 1)
        trim_heap()

    async def _blocking(self, function: Callable[[], None]) -> None:
        if self._use_thread:
            await in_thread(function, limiter=self._limiter)
        else:
            await trio.lowlevel.checkpoint()
            function()

    def _note(self, started: float, rows_count: int) -> None:
        self._checkpoints_count += 1
        duration_s = time.monotonic() - started
        self._durations_s.add(duration_s)
        self._last_on_ms = time.time_ns() // 1_000_000
        log.debug(
            "checkpoint",
            rows=rows_count,
            duration_ms=int(duration_s * 1000),
            position=self._store.position,
        )

    def statistics(self) -> CheckpointerStatistics:
        """Return counters for metrics."""
        return CheckpointerStatistics(
            self._checkpoints_count,
            self._evicted_count,
            self._durations_s,
            self._last_on_ms,
            self._store.statistics(),
        )
