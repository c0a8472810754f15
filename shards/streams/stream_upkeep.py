"""What the owner of a stream does for those who read it later: snapshots and trimming.

Every half a minute it notes how far its own checkpoints are. A snapshot is taken when none was for
an hour, or when much was appended since, or when one is asked for; if nothing was appended, only
its mark moves on. Then what no node needs is trimmed: what lies before the checkpoints of this and
all other nodes that were there within the hour, and before the newest snapshot.

Nothing that goes wrong here stops the server: it is logged, and tried again. The stream grows in
the meantime.
"""

import time
from collections.abc import Callable
from typing import Final, final

import structlog
import trio

from troth.core.limits import (
    STREAM_SNAPSHOT_INTERVAL_MS,
    STREAM_SNAPSHOT_LOG_BYTES,
    STREAM_UPKEEP_MS,
)
from troth.persistence.errors import PersistenceError
from troth.persistence.streams.stream import SnapshotDescription, StreamUnreachable
from troth.shards.errors import OutOfReach
from troth.shards.storage import UpkeepStatistics
from troth.shards.threads import in_thread
from troth.shards.upkeep.snapshotter import KeptCopy

from .stream_snapshots import take_snapshot
from .stream_storage import StreamStorage

PAUSE_SHARE: Final = 1.0
"""How long to pause after a piece of a snapshot, as a share of the time that it took."""

PAUSE_LIMIT_S: Final = 0.05

log = structlog.get_logger("troth.shards.streams")


@final
class StreamUpkeep:
    """Takes the snapshots of a stream that this server owns, and trims it."""

    def __init__(
        self,
        storage: StreamStorage,
        *,
        upkeep_ms: int = STREAM_UPKEEP_MS,
        snapshot_interval_ms: int = STREAM_SNAPSHOT_INTERVAL_MS,
        snapshot_log_bytes: int = STREAM_SNAPSHOT_LOG_BYTES,
        pause: Callable[[], None] | None = None,
    ) -> None:
        """Work every `upkeep_ms`; call `pause` after each piece, or pause for a while."""
        self._pause = pause
        self._storage = storage
        self._upkeep_s = upkeep_ms / 1000
        self._snapshot_interval_ms = snapshot_interval_ms
        self._snapshot_log_bytes = snapshot_log_bytes
        self._working = trio.Lock()
        self._newest: SnapshotDescription | None = None
        self._bytes_at_snapshot = 0
        self._snapshots_count = 0
        self._failures_count = 0
        self._trimmed_count = 0

    async def run(self) -> None:
        """Work until canceled. Raises DataDirectoryLost."""
        while True:
            try:
                async with self._working:
                    await in_thread(self.work)
            except (StreamUnreachable, PersistenceError) as error:
                self._failures_count += 1
                log.error(
                    "the stream's upkeep failed; the server goes on, and tries again",
                    problem=str(error),
                )
            await trio.sleep(self._upkeep_s)

    async def take_now(self) -> KeptCopy | None:
        """Take a snapshot of what the last checkpoint has.

        Raises PersistenceError, or OutOfReach if the engine does not take it now.
        """
        try:
            async with self._working:
                made = await in_thread(lambda: self.work(takes_snapshot=True))
        except StreamUnreachable as error:
            log.warning("a snapshot that was asked for was not taken", problem=str(error))
            raise OutOfReach from error
        return None if made is None else KeptCopy(made.size_bytes, made.created_at_ms)

    def work(self, *, takes_snapshot: bool = False) -> SnapshotDescription | None:
        """Do what is due now, and a snapshot if that is asked for; return the newest one.

        Blocks; in one thread at a time. Raises StreamUnreachable or PersistenceError.
        """
        storage = self._storage
        keeping, checkpoints = storage.keeping, storage.checkpoints
        storage.trim(checkpoints.position + 1)
        # Before the rows are opened: the mark has to be of them, or of earlier ones.
        mark = storage.noted
        assert mark is not None, "there is one from the first frame on"
        keeping.note_reader(storage.node, mark.number)
        newest = keeping.snapshot()
        if takes_snapshot or self._is_due(newest):
            newest = take_snapshot(
                keeping,
                checkpoints.open_view(),
                storage.identity,
                mark,
                epoch=storage.epoch,
                now_ms=time.time_ns() // 1_000_000,
                pause=self._pause or _Pause().take,
            )
            self._snapshots_count += 1
            self._bytes_at_snapshot = storage.statistics().bytes_appended
            log.info("snapshot of the stream", bytes=newest.size_bytes, frame=mark.number)
        elif newest is not None and newest.mark.next_sequence == mark.next_sequence:
            newest = newest._replace(mark=mark)  # it lacks nothing that was appended since
            keeping.finish_snapshot(newest, storage.epoch)
        self._newest = newest
        needed_number = keeping.needed_number()
        if newest is not None and needed_number is not None:
            held_number = storage.held_number
            number = min(needed_number, newest.mark.number, held_number or newest.mark.number)
            self._trimmed_count += keeping.trim(number, storage.epoch)
        return newest

    def _is_due(self, newest: SnapshotDescription | None) -> bool:
        mark = self._storage.noted
        assert mark is not None
        if newest is None:
            return True
        if newest.mark.next_sequence == mark.next_sequence:
            return False
        grown_bytes = self._storage.statistics().bytes_appended - self._bytes_at_snapshot
        age_ms = time.time_ns() // 1_000_000 - newest.created_at_ms
        return age_ms >= self._snapshot_interval_ms or grown_bytes >= self._snapshot_log_bytes

    def statistics(self) -> UpkeepStatistics:
        """Return counters for metrics."""
        newest = self._newest
        return UpkeepStatistics(
            snapshots_count=self._snapshots_count,
            failures_count=self._failures_count,
            trimmed_frames_count=self._trimmed_count,
            snapshot_at_ms=0 if newest is None else newest.created_at_ms,
            snapshot_bytes=0 if newest is None else newest.size_bytes,
        )


class _Pause:
    """Pauses after each piece, so that clients do not notice; ends with the server."""

    def __init__(self) -> None:
        self._worked_s = time.monotonic()

    def take(self) -> None:
        pause_s = min((time.monotonic() - self._worked_s) * PAUSE_SHARE, PAUSE_LIMIT_S)
        trio.from_thread.run(trio.sleep, pause_s)
        self._worked_s = time.monotonic()
