"""Snapshots of a running server: on demand, and by schedule; and the archive of its log.

`open` makes a checkpoint, so that little of the log is to be copied, and then a cut: rows and log
up to what is durable at that moment. Writers continue; only the log is not trimmed as long as a cut
is open. The bytes are made in a thread, one piece when the last one has been taken, so a slow
reader delays no one else.

Nothing that goes wrong with a scheduled snapshot or with the archive stops the server: it is
logged and counted, and tried again. Only a failed checkpoint is final, as everywhere.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol, final, runtime_checkable

import structlog
import trio

from troth.core.grammar.cron import Cron
from troth.persistence.errors import PersistenceError
from troth.persistence.snapshots.archive import ArchiveStatistics
from troth.persistence.snapshots.snapshot_file import SnapshotHeader
from troth.persistence.snapshots.snapshots import (
    Cut,
    SnapshotFile,
    automatic_name,
    inspect,
    list_directory,
    remove_old,
    write_file,
)
from troth.shards.clock import Clock
from troth.shards.errors import ShardsError
from troth.shards.storage import UpkeepStatistics
from troth.shards.threads import in_thread

OPEN_LIMIT_COUNT: Final = 2
"""Snapshots being taken at a time; each keeps rows and log segments from being given up."""

ARCHIVE_INTERVAL_MS: Final = 5_000
"""How often the server looks for finished segments to archive."""

PAUSE_LIMIT_S: Final = 0.05
"""Longest pause after a piece of a snapshot."""

_LONGEST_SLEEP_MS: Final = 3_600_000

_log = structlog.get_logger("troth.snapshots")


class TooManySnapshots(Exception):
    """`OPEN_LIMIT_COUNT` snapshots are being taken already."""


_WHY: Final[dict[type[Exception], str]] = {
    TooManySnapshots: "too many snapshots are being taken at the moment"
}


@runtime_checkable
class SnapshotStorage(Protocol):
    """What is needed of a storage that keeps something."""

    def hold_log(self) -> Callable[[], None]:
        """Keep what no checkpoint covers now from being trimmed, until the result is called."""
        ...  # pragma: no cover

    def open_cut(self, created_at_ms: int) -> Cut:
        """Make a cut of everything that is durable now. Raises CheckpointDamaged."""
        ...  # pragma: no cover

    def last_snapshot_at_ms(self) -> int:
        """Return when the last whole snapshot was taken, or 0 if that is not known."""
        ...  # pragma: no cover

    def note_snapshot(self, at_ms: int) -> None:
        """Remember that a whole snapshot was taken, beyond a restart. Blocks. Raises OSError."""
        ...  # pragma: no cover

    def archive(self, now_ms: int) -> None:
        """Copy finished segments, and remove copies that are too old. Blocks. Raises OSError."""
        ...  # pragma: no cover

    def archive_statistics(self) -> ArchiveStatistics | None:
        """Return counters of the archive, or None if there is none."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class SnapshotterStatistics:
    """`last_at_ms` is when the last snapshot was finished, 0 if none is known.

    It counts those that were scheduled, those that were asked for, and those of earlier processes.
    """

    taken_total_count: int
    scheduled_total_count: int
    failures_total_count: int
    removed_total_count: int
    open_count: int
    last_at_ms: int
    last_bytes: int
    archive: ArchiveStatistics | None


@final
class OpenSnapshot:
    """A snapshot being read: its pieces, one after the other, each made in a thread.

    `on_whole` is called in a thread when the last piece was taken.
    """

    def __init__(
        self, cut: Cut, release: Callable[[], None], on_whole: Callable[[], None] = lambda: None
    ) -> None:
        self.header = cut.header
        self._on_whole = on_whole
        self._cut = cut
        self._release = release
        self._pieces: Iterator[bytes] = cut.encoded()
        self._closed = False

    async def next_piece(self) -> bytes | None:
        """Return the next bytes of the file; None at its end. Raises PersistenceError."""
        started = time.monotonic()
        piece = await in_thread(lambda: next(self._pieces, None))
        if piece is None:
            await in_thread(self._on_whole)
        await trio.sleep(_pause_s(started))
        return piece

    def pieces(self) -> Iterator[bytes]:
        """Yield the rest, for a thread that writes them itself."""
        return self._pieces

    def close(self) -> None:
        """Allow the log to be trimmed again; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._cut.close()
            self._release()


class ReadableSnapshot(Protocol):
    """See `OpenSnapshot`."""

    header: SnapshotHeader

    async def next_piece(self) -> bytes | None: ...

    def pieces(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class CutsOfAll(Protocol):
    """What takes snapshots of all groups of a server; see `gathered.cuts`."""

    checkpoint: Callable[[], Awaitable[None]] | None

    async def open(
        self,
        now_ms: Callable[[], int],
        on_whole: Callable[[], None],
        release: Callable[[], None],
    ) -> ReadableSnapshot:
        """Begin a snapshot of all groups. Raises ShardsError."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class KeptCopy:
    """A snapshot in the engine that keeps the log."""

    size_bytes: int
    created_at_ms: int


class CopiesOfAll(Protocol):
    """What takes the snapshots that an engine keeps of all groups; see `gathered.kept_copies`."""

    own: Callable[[], Awaitable[KeptCopy | None]] | None

    async def take_all(self) -> KeptCopy:
        """Take one of each group. Raises ShardsError."""
        ...  # pragma: no cover


class EngineUpkeep(Protocol):
    """What takes the snapshots that an engine keeps; see `streams.stream_upkeep`."""

    async def run(self) -> None:
        """Work until canceled."""
        ...  # pragma: no cover

    def statistics(self) -> UpkeepStatistics:
        """Return counters for metrics."""
        ...  # pragma: no cover

    async def take_now(self) -> KeptCopy | None:
        """Take a snapshot of what the last checkpoint has. Raises PersistenceError, OutOfReach."""
        ...  # pragma: no cover


@final
class Snapshotter:
    """Takes the snapshots of one server; of several groups, `of_all` does.

    If the log is in an engine, `engine` takes those that are kept there; of several groups,
    `copies_of_all` does.

    `checkpoint` makes one checkpoint. `directory` and `schedule` belong together: without them no
    snapshot is taken unless a client asks. `keep_count` of the scheduled ones are kept.
    """

    def __init__(
        self,
        storage: SnapshotStorage,
        checkpoint: Callable[[], Awaitable[None]],
        clock: Clock,
        *,
        directory: Path | None,
        schedule: Cron | None,
        keep_count: int,
        of_all: CutsOfAll | None = None,
        engine: EngineUpkeep | None = None,
        copies_of_all: CopiesOfAll | None = None,
    ) -> None:
        self._engine = engine
        self._copies_of_all = None if engine is None else copies_of_all
        if self._copies_of_all is not None:
            self._copies_of_all.own = self._write_own_to_engine
        self._of_all = of_all
        if of_all is not None:
            of_all.checkpoint = self._checkpointed
        self._storage = storage
        self._checkpoint = checkpoint
        self._clock = clock
        self._directory = directory
        self._schedule = schedule
        self._keep_count = keep_count
        self._waiting: list[trio.Event] = []
        self._wanted = trio.Event()
        self._open_count = 0
        self._taken_count = 0
        self._scheduled_count = 0
        self._failures_count = 0
        self._removed_count = 0
        self._last_at_ms = storage.last_snapshot_at_ms()
        self._last_bytes = 0

    async def run(self) -> None:
        """Work until canceled. Raises CheckpointFailed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._make_checkpoints)
            nursery.start_soon(self._take_scheduled)
            if self._storage.archive_statistics() is not None:
                nursery.start_soon(self._archive)

    async def _make_checkpoints(self) -> None:
        """Make those that snapshots ask for.

        In a task of the server's own: one that is abandoned half-way, as requests are when their
        client leaves, would lose what the shards have handed over.
        """
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            waiting, self._waiting = self._waiting, []
            await self._checkpoint()
            for done in waiting:
                done.set()

    async def _checkpointed(self) -> None:
        """Wait for a checkpoint that begins now or later."""
        done = trio.Event()
        self._waiting.append(done)
        self._wanted.set()
        await done.wait()

    async def open(self) -> ReadableSnapshot:
        """Begin a snapshot of what is durable now; the caller closes it.

        Raises TooManySnapshots, CheckpointDamaged, or ShardsError if a group is away.
        """
        if self._open_count >= OPEN_LIMIT_COUNT:
            raise TooManySnapshots
        self._open_count += 1
        releases: list[Callable[[], None]] = []

        def release() -> None:
            self._open_count -= 1
            while releases:
                releases.pop()()

        try:
            if self._of_all is not None:
                taken = await self._of_all.open(self._clock.now_ms, self._is_whole, release)
                self._taken_count += 1
                return taken
            await self._checkpointed()
            releases.append(self._storage.hold_log())
            now_ms = self._clock.now_ms()
            cut = await in_thread(lambda: self._storage.open_cut(now_ms))
        except BaseException:
            release()
            raise
        self._taken_count += 1
        return OpenSnapshot(cut, release, self._is_whole)

    def _is_whole(self) -> None:
        """Note in a thread that all of a snapshot was handed out."""
        self._last_at_ms = self._clock.now_ms()
        try:
            self._storage.note_snapshot(self._last_at_ms)
        except OSError as error:
            _log.warning(
                "the time of the last snapshot was not noted; a restart forgets it",
                problem=str(error),
            )

    async def _take_scheduled(self) -> None:
        if self._schedule is None or self._directory is None:
            return
        at_ms = self._schedule.next_after_ms(self._clock.now_ms())
        while at_ms is not None:
            await self._sleep_until(at_ms, self._schedule)
            await self._take(self._directory)
            at_ms = self._schedule.next_after_ms(max(at_ms, self._clock.now_ms()))

    async def _sleep_until(self, at_ms: int, schedule: Cron) -> None:
        """Sleep in steps: a clock that was ahead may be set back, and the time comes sooner."""
        while True:
            now_ms = self._clock.now_ms()
            following_ms = schedule.next_after_ms(now_ms)
            if following_ms is not None and following_ms < at_ms:
                at_ms = following_ms
            wait_ms = at_ms - now_ms
            if wait_ms <= 0:
                return
            await trio.sleep(min(wait_ms, _LONGEST_SLEEP_MS) / 1000)

    async def listed(self) -> list[SnapshotFile] | None:
        """Return the snapshots in the directory, oldest first; None if there is no directory.

        Raises SnapshotError.
        """
        directory = self._directory
        if directory is None or not directory.is_dir():
            return None if directory is None else []
        return await in_thread(lambda: list_directory(directory))

    async def write_now(self) -> SnapshotFile | None:
        """Write a snapshot to the directory as if it were scheduled; None if there is none.

        Raises TooManySnapshots, PersistenceError or OSError.
        """
        directory = self._directory
        if directory is None:
            return None
        snapshot = await self.open()
        try:
            return await in_thread(lambda: inspect(self._write(directory, snapshot)))
        finally:
            snapshot.close()

    async def write_to_engine(self) -> KeptCopy | None:
        """Take a snapshot that the engine of the log keeps; None if there is no such engine.

        Of several groups, take one of each. Raises PersistenceError or ShardsError.
        """
        if self._copies_of_all is not None:
            return await self._copies_of_all.take_all()
        return await self._write_own_to_engine()

    async def _write_own_to_engine(self) -> KeptCopy | None:
        if self._engine is None:
            return None
        await self._checkpointed()
        return await self._engine.take_now()

    async def _take(self, directory: Path) -> None:
        try:
            snapshot = await self.open()
            try:
                await in_thread(lambda: self._write(directory, snapshot))
            finally:
                snapshot.close()
        except (PersistenceError, OSError, TooManySnapshots, ShardsError) as error:
            self._failures_count += 1
            _log.error(
                "a scheduled snapshot failed; the server continues, and tries again next time",
                problem=str(error) or _WHY.get(type(error), "a process of the server is away"),
            )

    def _write(self, directory: Path, snapshot: ReadableSnapshot) -> Path:
        header = snapshot.header
        directory.mkdir(mode=0o700, exist_ok=True)
        at = datetime.fromtimestamp(header.created_at_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
        target = directory / automatic_name(at, header.until_sequence)
        self._last_bytes = write_file(_gently(snapshot.pieces()), target)
        self._is_whole()
        self._removed_count += remove_old(directory, header.data_id, self._keep_count)
        self._scheduled_count += 1
        _log.info("snapshot", file=str(target), bytes=self._last_bytes)
        return target

    async def _archive(self) -> None:
        failing = False
        while True:
            now_ms = self._clock.now_ms()
            try:
                await in_thread(partial(self._storage.archive, now_ms))
                failing = False
            except OSError as error:
                if not failing:  # once, not every few seconds
                    _log.error(
                        "the log cannot be archived; it is kept, and grows, until it can be "
                        "archived",
                        problem=str(error),
                    )
                failing = True
            await trio.sleep(ARCHIVE_INTERVAL_MS / 1000)

    def statistics(self) -> SnapshotterStatistics:
        """Return counters for metrics."""
        return SnapshotterStatistics(
            taken_total_count=self._taken_count,
            scheduled_total_count=self._scheduled_count,
            failures_total_count=self._failures_count,
            removed_total_count=self._removed_count,
            open_count=self._open_count,
            last_at_ms=self._last_at_ms,
            last_bytes=self._last_bytes,
            archive=self._storage.archive_statistics(),
        )


def _gently(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same, in a thread, with pauses; a stopping server does not wait for the rest."""
    started = time.monotonic()
    for piece in pieces:
        yield piece
        trio.from_thread.run(trio.sleep, _pause_s(started))
        started = time.monotonic()


def _pause_s(started: float) -> float:
    """Return the time worked so far: Python runs one thread at a time, and requests go first."""
    return min(time.monotonic() - started, PAUSE_LIMIT_S)
