"""The log's writer and the store of checkpoints, in simulated time.

The writer is a trio task instead of a thread, with a seeded delay. It may write what the shards
submitted together in several frames, cut anywhere: the state must be right after every prefix of
the log, whatever happens to share a batch today.
"""

import errno
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from random import Random

import trio

from tests.twins.memory_store import MemoryStore, MemoryView
from tests.twins.simulated_files import SimulatedCrash
from troth.persistence.checkpoints.port import Write
from troth.persistence.errors import CheckpointFailed, LogFailed
from troth.persistence.wal.log import NewRecord
from troth.persistence.wal.segmented_log import SegmentedLog
from troth.shards.committer import Committer


class SimulatedWriter:
    """Joins what waits into one batch, as the real writer does; each takes a while.

    `lost_power` is called when the disk loses its power in the middle of a batch.
    """

    def __init__(
        self,
        log: SegmentedLog,
        committer: Committer,
        random: Random,
        lost_power: Callable[[], None],
    ) -> None:
        self.slowness = 1.0
        self.is_dead = False
        self.is_to_lose_power_within_a_batch = False
        self._log = log
        self._committer = committer
        self._random = random
        self._lost_power = lost_power
        self._waiting: list[Sequence[NewRecord]] = []
        self._has_cut = False
        self._work = trio.Event()

    def submit(self, batch: Sequence[NewRecord]) -> None:
        self._waiting.append(batch)
        self._work.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while not self.is_dead:
            await self._work.wait()
            self._work = trio.Event()
            # Half of the time passes before the write and half after, so that power can be lost
            # with a batch that is on disk and that nobody was told of.
            await trio.sleep(self._delay_s())
            if not self._waiting:
                continue  # it came while the last batch waited for its turn, and went with it
            joined = self._take()
            if not self._do(partial(self._log.append, joined, self._log.next_sequence)):
                return
            if self.is_to_lose_power_within_a_batch and self._has_cut:
                self._lost_power()
                return
            position = self._log.next_sequence - 1
            await trio.sleep(self._delay_s())
            self._committer.durable(position)
            if self._random.random() < 0.3 and not self._waiting and not self._do(self._log.seal):
                return

    def _take(self) -> Sequence[NewRecord]:
        """All that waits, or only a part: what comes together need not be written together."""
        taken_count = 1 if self._random.random() < 0.4 else len(self._waiting)
        taken, self._waiting = self._waiting[:taken_count], self._waiting[taken_count:]
        records: Sequence[NewRecord] = [record for batch in taken for record in batch]
        self._has_cut = False
        if self.is_to_lose_power_within_a_batch or self._random.random() < 0.1:
            records = self._cut(records)
        if self._waiting:
            self._work.set()
        return records

    def _cut(self, records: Sequence[NewRecord]) -> Sequence[NewRecord]:
        """Leave what follows a change from one shard's records to another's for the next time."""
        places = [
            place
            for place in range(1, len(records))
            if records[place - 1][0] != records[place][0]  # their shards
        ]
        if not places:
            return records
        place = self._random.choice(places)
        self._waiting.insert(0, records[place:])
        self._has_cut = True
        return records[:place]

    def _delay_s(self) -> float:
        return self._random.expovariate(1 / 0.0005) * self.slowness

    def _do(self, change: Callable[[], object]) -> bool:
        """Change the log; whether the disk has lived through it."""
        try:
            change()
        except SimulatedCrash:
            self._lost_power()
            return False
        except LogFailed as failure:
            self._committer.fail(failure)
            return False
        return True

    async def close(self) -> None:
        """Write what was submitted, unless the process is gone."""
        await trio.lowlevel.checkpoint()
        if self.is_dead or self._committer.failure is not None:
            return
        joined = [record for batch in self._waiting for record in batch]
        self._waiting.clear()
        if joined:
            self._do(partial(self._log.append, joined, self._log.next_sequence))


class SimulatedStore:
    """A store of checkpoints whose next commit may go wrong; it outlives the server's lives."""

    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.lost_power: Callable[[], None] = lambda: None
        self.next_fault: str | None = None

    def commit(self, writes: Iterable[Write]) -> None:
        """See Store."""
        fault, self.next_fault = self.next_fault, None
        if fault == "checkpoint_fails":
            self.memory.fail_next = True
        if fault == "power_cut before":
            self.lost_power()
            raise SimulatedCrash
        self.memory.commit(writes)
        if fault == "power_cut after":
            self.lost_power()
            raise SimulatedCrash
        if fault == "checkpoint_done_but_failed":
            raise CheckpointFailed("memory", "cannot be written", OSError(errno.EIO, "asked to"))

    def view(self) -> MemoryView:
        """See Store."""
        return self.memory.view()

    def release_memory(self) -> None:
        """See Store."""

    def size_bytes(self) -> int:
        """See Store."""
        return self.memory.size_bytes()

    def close(self) -> None:
        """See Store."""
