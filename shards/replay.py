"""Bringing the shards' state up at the start: from the checkpoint, then from the log behind it."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

import structlog

from troth.core import records
from troth.core.json_errors import UNREADABLE_JSON
from troth.core.state import apply, checkpointing, eviction
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.checkpoints.loading import bring_up
from troth.persistence.errors import UnknownRecord
from troth.persistence.process_memory import trim_heap
from troth.persistence.wal.log import LogRecord

from .shard import Shard
from .storage import FollowedStorage, OwnedStorage, Storage

PROGRESS_S: Final = 2.0
"""How often a long replay reports its progress."""

_SLICE_COUNT: Final = 1_000
"""How many records are replayed between two pauses; it takes some milliseconds."""

_LAST_COUNT: Final = 100
"""Among so many records there is one that says when it was, whatever they are about."""

log = structlog.get_logger("troth.shards")


def load(shards: Sequence[Shard], checkpoints: Checkpoints, pause: Callable[[], None]) -> int:
    """Bring the state to the checkpoint, from where the log goes on; return its time in ms, or 0.

    `pause` is called now and then. Raises CheckpointDamaged.
    """
    time_ms = 0
    if checkpoints.is_small:
        checkpoints.verify(pause)
    for shard in shards:
        pause()
        state = shard.machine.state
        state.cold = checkpoints.reader.shards[shard.index]
        state.tracks_changes = True
        loaded = checkpoints.load(shard.index)
        if loaded is not None:
            bring_up(state, loaded)
            shard.sequence = loaded.header.sequence
            time_ms = max(time_ms, loaded.header.time_ms)
    # What was read is in the shards now; the pages that it was read from are not needed.
    checkpoints.reader.view.release_pages()
    trim_heap()
    return time_ms


def allow_checkpoints(storage: Storage, shards: Sequence[Shard], checkpoints: Checkpoints) -> None:
    """Give a storage that may be read for long a way to make checkpoints in the meantime."""
    if isinstance(storage, FollowedStorage):
        storage.make_checkpoint = partial(checkpoint, shards, checkpoints)


def checkpoint(shards: Sequence[Shard], checkpoints: Checkpoints, position: int) -> None:
    """Write what was replayed to the checkpoints, and drop from memory what is finished.

    All records up to `position` have been applied, and none beyond. Blocks. Raises
    CheckpointFailed.
    """
    captures = [
        checkpointing.capture(shard.machine.state, shard.sequence, position) for shard in shards
    ]
    checkpoints.write(captures, in_place=True)  # no client waits for this process yet
    checkpoints.renew()
    for shard, captured in zip(shards, captures, strict=True):
        for _ in eviction.evict(shard.machine.state, captured):
            pass  # in slices for those who have something else to do
    trim_heap()


def is_standing_by(storage: Storage) -> bool:
    """Return whether a storage reads what another node writes, for as long as that one does."""
    return isinstance(storage, OwnedStorage) and storage.waits_for is not None


def replay(
    shards: Sequence[Shard],
    recovered: Iterable[tuple[int, LogRecord]],
    pause: Callable[[], None],
    is_standing_by: Callable[[], bool],
) -> tuple[int, int]:
    """Apply the records that the checkpoint does not cover.

    Return how many there were, and the time of the last ones in ms, or 0. `pause` is called now and
    then. Who stands by reads for as long as another node writes, so no progress is reported then.
    Raises UnknownRecord.
    """
    count = 0
    last: deque[records.Record] = deque(maxlen=_LAST_COUNT)
    said = started = time.monotonic()
    found = {shard.index: (shard, shard.machine.state) for shard in shards}
    for number, (sequence, entry) in enumerate(recovered):
        if number % _SLICE_COUNT == 0:
            pause()
            now = time.monotonic()
            if now - said >= PROGRESS_S and not is_standing_by():
                said = now
                log.info("reading the log", records=number, seconds=round(now - started, 1))
        shard, state = found[entry.shard]
        if entry.shard_sequence <= shard.sequence:
            continue  # the checkpoint covers it
        try:
            record = records.decode(entry.body)
        except UNREADABLE_JSON as error:
            raise UnknownRecord(sequence, str(error)) from error
        apply.replay(state, record)
        last.append(record)
        shard.sequence = entry.shard_sequence
        count += 1
    times = (getattr(one, "at", 0) or getattr(one, "created_on", 0) for one in last)
    return count, max(times, default=0)
