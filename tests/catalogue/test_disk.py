"""The catalogue's entries about disks, the log and checkpoints.

Where a test of a folder below proves an entry already, the named test here is that test.
"""

import errno
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing

from tests.persistence import (
    test_crashes,
    test_damage,
    test_data_directory,
    test_files,
    test_snapshot_file,
    test_store,
)
from tests.persistence.lives import opened, recover
from tests.shards import test_checkpointer
from tests.shards.test_checkpointer import Disk, fill, life, seen
from tests.twins import test_simulated_files
from tests.twins.simulated_files import SimulatedFiles
from troth.persistence.errors import LogFailed
from troth.persistence.wal.log import LogRecord


def test_fsync_eio_once_then_success() -> None:
    """ "fsync EIO (once, then success)": the log ends, whatever a second call would say."""
    test_crashes.test_a_failed_sync_is_not_repaired_by_a_later_one()
    test_crashes.test_an_error_of_the_disk_is_final("sync", errno.EIO)


@pytest.mark.parametrize("seed", range(20))
def test_fsync_eio_once_and_the_next_process_believes_the_cache(seed: int) -> None:
    """ "fsync EIO (once, then success)": what the next process shows survives a power cut too.

    The failed sync has left the page in the kernel's cache, marked clean: it can be read, and no
    sync will ever write it. The next process must write again what it has read.
    """
    files = SimulatedFiles()
    with opened(files) as log:
        log.append([LogRecord(0, 1, b"before")], 1)
        files.fail("sync", errno.EIO)
        with pytest.raises(LogFailed):
            log.append([LogRecord(0, 2, b"never acknowledged")], 2)
    files.end_process()
    shown = recover(files)
    after_the_power_cut = recover(files.crash(Random(seed)))

    assert [record.body for _, record in shown] == [b"before", b"never acknowledged"]
    assert after_the_power_cut == shown


@pytest.mark.slow
def test_write_short_or_torn_at_every_byte_of_the_last_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "write short/torn at every byte of the last record": short ones go on, torn ones are cut."""
    test_damage.test_a_last_batch_torn_at_any_byte_is_cut()
    test_files.test_short_writes_are_completed(tmp_path, monkeypatch)


def test_enospc_mid_group_commit() -> None:
    """ "ENOSPC mid-group-commit": nothing acknowledged is lost, and the message says: disk full."""
    test_crashes.test_a_full_disk_in_the_middle_of_a_batch()
    test_crashes.test_an_error_of_the_disk_is_final("write_at", errno.ENOSPC)


@pytest.mark.slow
def test_lost_rename_or_missing_directory_fsync() -> None:
    """ "lost rename / missing directory fsync": a crash in any operation, any part of it lost."""
    test_simulated_files.test_an_unsynced_rename_is_whole_or_not_at_all()
    test_data_directory.test_a_crash_in_every_operation_of_making_a_directory()
    test_crashes.test_crash_in_every_operation_of_a_script()


@pytest.mark.slow
def test_bit_flip_in_wal() -> None:
    """ "bit flip in WAL, snapshot, LMDB page": every bit of a log with several segments."""
    test_damage.test_every_flipped_bit_is_refused_or_harmless()


def test_bit_flip_in_snapshot(tmp_path: Path) -> None:
    """ "bit flip in WAL, snapshot, LMDB page": every byte of a snapshot's file."""
    test_snapshot_file.test_a_file_with_any_byte_altered_is_refused(tmp_path)


@pytest.mark.slow
def test_bit_flip_in_an_lmdb_page(tmp_path: Path) -> None:
    """ "bit flip in WAL, snapshot, LMDB page": bits anywhere in the store's file."""
    test_store.test_damage_is_refused_or_harmless(tmp_path, test_store.flip)


@pytest.mark.parametrize("point", ["written", "renewed", "evicted", "trimmed"])
async def test_crash_between_snapshot_publish_and_log_trim(point: str, mock_clock: object) -> None:
    """ "crash between snapshot publish and log trim": nobody sees it, before or afterwards."""
    await test_checkpointer.test_a_crash_at_any_step_of_any_checkpoint_shows_nowhere(
        point, mock_clock
    )


async def test_wal_truncated_before_snapshot_is_durable() -> None:
    """ "WAL truncated before snapshot is durable": no segment goes before the store has committed,

    and none that holds what came while it did.
    """
    disk = Disk()
    async with life(disk) as one:
        await fill(one.shards, 60)
        segments_count = one.segments_count
        assert segments_count > 2
        before = await seen(one.shards)

        def at(point: str) -> None:
            if point in ("durable", "written", "renewed"):
                assert one.segments_count == segments_count

        one.at = at
        await one.checkpointer.checkpoint()
        assert one.segments_count < segments_count
    async with life(disk) as two:
        assert await seen(two.shards) == before


async def test_wal_written_while_the_snapshot_is_made_is_not_truncated() -> None:
    """ "WAL truncated before snapshot is durable": what it does not hold stays in the log."""
    disk = Disk()
    async with life(disk) as one, trio.open_nursery() as nursery:
        await fill(one.shards, 5)
        goes_on = trio.Event()

        async def make_snapshot() -> None:
            """A checkpoint whose eviction is followed by as much work as the disk can take."""
            blocking = one.checkpointer._blocking

            async def slowly(function: object) -> None:
                await goes_on.wait()
                await blocking(function)  # type: ignore[arg-type]

            one.checkpointer._blocking = slowly  # type: ignore[method-assign]
            await one.checkpointer.checkpoint()

        nursery.start_soon(make_snapshot)
        await trio.testing.wait_all_tasks_blocked()
        await fill(one.shards, 40, "meanwhile")
        goes_on.set()
        await trio.testing.wait_all_tasks_blocked()
        assert disk.store.commits_count == 1
        before = await seen(one.shards)
    async with life(disk) as two:
        assert two.records_count >= 80
        assert await seen(two.shards) == before
