"""Shards on a real data directory, with checkpoints and snapshots, for as long as a test needs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import trio

from tests.helpers.scanned_counts import shard_rows
from troth.core.commands import CompletePromise, CreatePromise
from troth.core.grammar.cron import Cron
from troth.core.limits import ARCHIVE_KEEP_MS
from troth.core.model import PromiseState
from troth.core.replies import Message
from troth.persistence.snapshots.snapshots import write_file
from troth.shards.clock import SystemClock
from troth.shards.shards import Shards
from troth.shards.storage import DirectoryStorage
from troth.shards.upkeep.checkpointer import Checkpointer
from troth.shards.upkeep.snapshotter import Snapshotter

from .stage import FAR_MS

SEGMENT_BYTES = 8 * 1024


class Nowhere:
    """Messages to workers, which these tests do not have, go here."""

    def send(self, message: Message) -> None:
        """Forget it."""

    def withdraw(self, task_id: str) -> None:
        """There is nothing to take back."""

    def finished(self, promise_ids: list[str]) -> None:
        """There is nothing to do."""


@dataclass
class World:
    """A server without HTTP."""

    storage: DirectoryStorage
    shards: Shards
    checkpointer: Checkpointer
    snapshotter: Snapshotter

    async def create(self, promise_id: str) -> None:
        """Create a promise; it is acknowledged when this returns."""
        await self.shards.ask(CreatePromise(promise_id, FAR_MS))

    async def resolve(self, promise_id: str) -> None:
        """Resolve a promise; it is acknowledged when this returns."""
        await self.shards.ask(CompletePromise(promise_id, PromiseState.RESOLVED))

    async def snapshot(self, target: Path) -> None:
        """Take a snapshot as an administrator does."""
        snapshot = await self.snapshotter.open()
        try:
            await trio.to_thread.run_sync(write_file, snapshot.pieces(), target)
        finally:
            snapshot.close()


def make_shards(storage: DirectoryStorage) -> Shards:
    """The shards of a storage, recovered."""
    shards = Shards(
        shard_count=storage.shard_count,
        clock=SystemClock(),
        outgoing=Nowhere(),
        cursor_secret=storage.secret,
        placement=storage.placement,
    )
    shards.recover(storage)
    return shards


@asynccontextmanager
async def world(
    path: Path,
    *,
    archive: Path | None = None,
    archive_keep_ms: int = ARCHIVE_KEEP_MS,
    directory: Path | None = None,
    schedule: Cron | None = None,
    keep_count: int = 3,
    shard_count: int = 4,
) -> AsyncIterator[World]:
    """Open or make a data directory and run a server on it; stop it cleanly at the end."""
    storage = DirectoryStorage(
        path,
        shard_count,
        SEGMENT_BYTES,
        archive_directory=archive,
        archive_keep_ms=archive_keep_ms,
    )
    with closing(storage):
        shards = make_shards(storage)
        async with trio.open_nursery() as nursery:
            await nursery.start(shards.run, storage.make_writer)
            checkpointer = shards.make_checkpointer(
                storage, interval_ms=3_600_000, log_bytes=1 << 30
            )
            assert checkpointer is not None
            snapshotter = Snapshotter(
                storage,
                checkpointer.checkpoint,
                shards.clock,
                directory=directory,
                schedule=schedule,
                keep_count=keep_count,
            )
            nursery.start_soon(snapshotter.run)
            yield World(storage, shards, checkpointer, snapshotter)
            await shards.stop()
            nursery.cancel_scope.cancel()


def state_of(path: Path) -> dict[str, Any]:
    """Everything a data directory remembers, by kind and id, whether it is in memory or not."""
    with closing(DirectoryStorage(path, None, SEGMENT_BYTES)) as storage:
        shards = make_shards(storage)
        found: dict[str, Any] = {}
        for shard in shards._shards:
            state = shard.machine.state
            view = storage.checkpoints.reader.view if storage.checkpoints else None
            assert view is not None
            assert storage.checkpoints is not None
            decoder = storage.checkpoints.reader.decoder
            promises = {
                promise.id: promise
                for key, value in shard_rows(view, shard.index, "promises")
                for promise in [decoder.promise("promises", key, value)]
            }
            promises |= state.promises
            for promise in promises.values():
                found[f"promise {promise.id}"] = msgspec.to_builtins(promise)
            for schedule in state.schedules.values():
                found[f"schedule {schedule.id}"] = msgspec.to_builtins(schedule)
            for lock in state.locks.values():
                found[f"lock {lock.resource_id}"] = msgspec.to_builtins(lock)
        return found
