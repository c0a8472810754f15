"""Bringing the shards' state up at the start: from the checkpoint, then from the log behind it."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

import structlog

from troth.core import records
from troth.core.json_errors import UNREADABLE_JSON
from troth.core.state import apply, checkpointing
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.checkpoints.loading import bring_up
from troth.persistence.errors import UnknownRecord
from troth.persistence.process_memory import trim_heap
from troth.persistence.wal.log import LogRecord

from .shard import Shard
from .storage import FollowedStorage, Storage

PROGRESS_S: Final = 2.0
"""How often a long replay reports its progress."""

_SLICE_COUNT: Final = 1_000
"""How many records are replayed between two pauses; it takes some milliseconds."""

log = structlog.get_logger("troth.shards")


def load(shards: Sequence[Shard], checkpoints: Checkpoints, pause: Callable[[], None]) -> None:
    """Bring the state to the checkpoint, from where the log goes on.

    `pause` is called now and then. Raises CheckpointDamaged.
    """
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
    # What was read is in the shards now; the pages that it was read from are not needed.
    checkpoints.reader.view.release_pages()
    trim_heap()


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
    checkpoints.write(captures, in_place=True)  # there is nobody else to notice
    checkpoints.renew()
    for shard, captured in zip(shards, captures, strict=True):
        for _ in checkpointing.evict(shard.machine.state, captured):
            pass  # in slices for those who have something else to do
    trim_heap()


def replay(
    shards: Sequence[Shard],
    recovered: Iterable[tuple[int, LogRecord]],
    pause: Callable[[], None],
) -> int:
    """Apply the records that the checkpoint does not cover; how many there were.

    `pause` is called now and then. Raises UnknownRecord.
    """
    count = 0
    said = started = time.monotonic()
    found = {shard.index: (shard, shard.machine.state) for shard in shards}
    for number, (sequence, entry) in enumerate(recovered):
        if number % _SLICE_COUNT == 0:
            pause()
            now = time.monotonic()
            if now - said >= PROGRESS_S:
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
        shard.sequence = entry.shard_sequence
        count += 1
    return count
