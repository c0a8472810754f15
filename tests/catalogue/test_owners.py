"""The catalogue's entries about two owners of one history, and about answers that lie."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from tests.core import test_retention
from tests.persistence import test_damage, test_data_directory
from tests.persistence.lives import opened
from tests.shards import test_snapshotter
from tests.shards.simulated_storage import SimulatedStorage
from tests.shards.snapshot_world import world
from tests.shards.stage import FAR_MS, Outgoing, make_shards
from tests.shards.test_snapshotter import fill
from tests.twins.memory_store import MemoryStore
from tests.twins.simulated_files import SimulatedFiles
from troth.core import commands as c
from troth.core.codes import Code
from troth.core.model import PromiseState
from troth.persistence.errors import LogConflict, LogFailed
from troth.persistence.snapshots.restoring import Until, restore
from troth.persistence.snapshots.snapshot_file import SnapshotError
from troth.persistence.wal.log import LogRecord, NewRecord
from troth.persistence.wal.segmented_log import SegmentedLog
from troth.shards.committer import BatchWriter, Committer
from troth.shards.errors import StorageFailed


def test_stale_shard_owner_writes_after_takeover() -> None:
    """ "stale shard owner writes after takeover (must be fenced)": lock, sequence, epoch.

    A second process is refused while the first lives. An owner that does not know what was written
    since is refused by the sequence that it expects. A batch of an earlier owner that is in the
    log nevertheless is refused by its epoch.
    """
    test_data_directory.test_a_second_opening_is_refused()
    with opened(SimulatedFiles()) as log:
        log.append([LogRecord(0, 1, b"the newer owner's")], 1)
        with pytest.raises(LogConflict):
            log.append([LogRecord(0, 2, b"the older owner's")], 1)
        assert log.next_sequence == 2
    test_damage.test_a_valid_frame_in_the_wrong_place_is_refused("a batch of another epoch")


class LyingWriter:
    """Writes the batch, and then says that it could not."""

    def __init__(self, log: SegmentedLog, committer: Committer) -> None:
        self.lies = False
        self._log = log
        self._committer = committer

    def submit(self, batch: Sequence[NewRecord]) -> None:
        self._log.append(batch, self._log.next_sequence)
        if self.lies:
            self._committer.fail(LogFailed("no answer from the disk"))
        else:
            self._committer.durable(self._log.next_sequence - 1)

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_done_but_timed_out_from_the_log() -> None:
    """ ""done but timed out" from the log": the client hears 503; its retry finds the work done.

    The server ends, since it cannot know; what was written is there after the start, and the same
    request with the same idempotency key is answered with it.
    """
    files, writers = SimulatedFiles(), list[LyingWriter]()

    def make(log: SegmentedLog, committer: Committer) -> BatchWriter:
        writers.append(LyingWriter(log, committer))
        return writers[-1]

    create = c.CreatePromise("p", FAR_MS, idempotency_key="k")
    storage = SimulatedStorage(files, 2, make)
    shards = make_shards(2, Outgoing())
    shards.recover(storage)
    with pytest.raises(BaseExceptionGroup):  # noqa: PT012  the server ends when the log fails
        async with trio.open_nursery() as nursery:
            await nursery.start(shards.run, storage.make_writer)
            writers[0].lies = True
            with pytest.raises(StorageFailed):
                await shards.ask(create)
            await trio.sleep_forever()
    storage.close()
    files.end_process()
    storage = SimulatedStorage(files, 2, make)
    shards = make_shards(2, Outgoing())
    shards.recover(storage)
    async with trio.open_nursery() as nursery:
        await nursery.start(shards.run, storage.make_writer)
        reply = await shards.ask(create)
        assert reply.code is Code.OK
        nursery.cancel_scope.cancel()


def test_gc_racing_a_late_retry_with_the_same_id() -> None:
    """ "GC racing a late retry with the same id": at every step; old and new are never mixed."""
    test_retention.test_an_id_is_free_at_every_step_of_the_checkpoint_that_forgets_it()


@pytest.mark.parametrize("is_cold", [False, True])
def test_gc_and_a_late_message_with_the_same_id(is_cold: bool) -> None:
    """ "GC racing a late retry with the same id": what was sent before does not fit what is new.

    A leaf is deleted while its root lives on, and made again; the root waits for it again. The
    message about the first is not good for the second, though the task has the same id.
    """
    store = MemoryStore() if is_cold else None
    system = test_retention.RetainingSystem(1, now=1_000, store=store)
    system.ask(c.CreatePromise("root", FAR_MS))
    for counter in (1, 2):
        system.ask(c.CreatePromise("leaf", FAR_MS, tags={"x": "1"}))
        system.ask(c.CreateCallback("leaf", "root", FAR_MS, "poll://g"))
        # The book that the test's system keeps of life cycles knows of no task made anew.
        system.states.pop("__resume:root:leaf", None)
        system.ask(c.CompletePromise("leaf", PromiseState.RESOLVED))
        if counter == 2:
            late = system.ask(c.ClaimTask("__resume:root:leaf", 1, "w", 1_000))
            assert late.code is Code.TASK_COUNTER
        done = system.ask(c.ClaimTask("__resume:root:leaf", counter, "w", 1_000))
        assert done.code is Code.CREATED
        system.ask(c.CompleteTask("__resume:root:leaf", counter))
        if is_cold:
            test_retention.checkpoint(system)
        system.now += 1_000
        assert system.retain(0, 50, 200)[0] == ["leaf"]


async def test_restore_of_an_old_backup_while_a_newer_owner_lives(tmp_path: Path) -> None:
    """ "restore of an old backup while a newer owner lives": not into its directory, and elsewhere

    it becomes another history, whose log and cursors nobody takes for the first one's.
    """
    async with world(tmp_path / "data") as server:
        await fill(server, 0, 5)
        await server.snapshot(tmp_path / "old.snapshot")
        await fill(server, 5, 5)
        with pytest.raises(SnapshotError, match="is not empty"):
            restore(tmp_path / "old.snapshot", tmp_path / "data", until=Until())
        await fill(server, 10, 5)
    assert test_snapshotter.ids(tmp_path / "data") == test_snapshotter.named(15)
    (tmp_path / "again").mkdir()
    await test_snapshotter.test_a_restored_directory_goes_on_and_is_another_history(
        tmp_path / "again"
    )
