"""Which ids a running server looks for in its store: no new ones, and all that left memory."""

import pytest
import trio

from troth.core import commands as c
from troth.core.catalog import PACKAGE_PREFIX
from troth.core.codes import Code
from troth.persistence.checkpoints.checkpoints import COLD_TABLES
from troth.persistence.checkpoints.port import View

from .stage import FAR_MS, WORKER
from .test_checkpointer import Disk, Life, fill, life


def cold_reads(life: Life) -> list[str]:
    """From now on, the ids that are looked for in the store."""
    assert life.storage.checkpoints is not None
    reader = life.storage.checkpoints.reader
    reads: list[str] = []

    class Noting:
        """The view, noting what it is asked for."""

        def __init__(self, view: View) -> None:
            self._view = view
            self.scan = view.scan
            self.scan_back = view.scan_back
            self.release_pages = view.release_pages
            self.close = view.close

        def get(self, table: str, key: bytes) -> bytes | None:
            if table in COLD_TABLES:
                reads.append(key[2:].decode())
            return self._view.get(table, key)

    reader.view = Noting(reader.view)
    return reads


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_new_id_is_not_looked_for_in_the_store(is_restarted: bool) -> None:
    """And one that has left memory is: it is refused as what exists."""
    disk = Disk()
    async with life(disk) as one:
        await fill(one.shards, 20)
        await one.checkpointer.checkpoint()
        if not is_restarted:
            await check_reads(one)
    if is_restarted:
        async with life(disk) as two:
            await check_reads(two)


async def check_reads(life: Life) -> None:
    """Create what is new, with and without a task, and what was there."""
    reads = cold_reads(life)
    tags = {"resonate:invoke": WORKER}
    for number in range(20):
        new = c.CreatePromise(f"new{number}", FAR_MS, tags=tags if number % 2 else None)
        assert (await life.shards.ask(new)).code is Code.CREATED
    assert not reads
    for number in range(20):
        old = c.CreatePromise(f"p{number}", FAR_MS)
        assert (await life.shards.ask(old)).code is Code.PROMISE_EXISTS
    assert reads == [f"p{number}" for number in range(20)]


async def test_what_leaves_memory_while_a_large_store_is_read_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before, at every moment of that, and after; from then on new ids are not looked for."""
    monkeypatch.setattr("troth.persistence.checkpoints.digests.SLICE_COUNT", 7)
    monkeypatch.setattr("troth.shards.upkeep.checkpointer.VERIFY_PAUSE_LIMIT_S", 0)
    disk = Disk()
    async with life(disk) as one:
        await fill(one.shards, 20)
        await one.checkpointer.checkpoint()
    monkeypatch.setattr("troth.persistence.checkpoints.checkpoints.SMALL_BYTES", -1)
    async with life(disk) as two, trio.open_nursery() as nursery:
        reads = cold_reads(two)
        await two.shards.ask(c.ReadPromise("nothing"))
        assert reads == ["nothing"]
        nursery.start_soon(two.checkpointer.run)
        rounds_count = 0
        with trio.fail_after(60):
            while not two.checkpointer.statistics().store.filter_is_complete or rounds_count < 3:
                await fill(two.shards, 3, f"round{rounds_count}/")
                await two.checkpointer.checkpoint()
                rounds_count += 1
                for past in range(rounds_count):
                    for number in range(3):
                        found = await two.shards.ask(c.ReadPromise(f"round{past}/{number}"))
                        assert found.promise is not None, f"{past}, {number}"
        nursery.cancel_scope.cancel()
        for number in range(20):
            found = await two.shards.ask(c.ReadPromise(f"p{number}"))
            assert found.promise is not None
        reads = cold_reads(two)
        await two.shards.ask(c.ReadPromise("nothing"))
        assert not reads


async def test_a_filter_of_what_was_deleted_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its memory stays in proportion to what is stored."""
    monkeypatch.setattr("troth.persistence.checkpoints.id_filter.ROOM_MIN_COUNT", 10)
    disk = Disk()
    async with life(disk, log_bytes=1) as one, trio.open_nursery() as nursery:
        nursery.start_soon(one.checkpointer.run)
        names = [f"{PACKAGE_PREFIX}{number}" for number in range(50)]
        for name in names:
            await one.shards.ask(c.StorePackage(name, "aa=="))
        await one.checkpointer.checkpoint()
        most = one.checkpointer.statistics().store
        assert (most.filter_ids_count, most.filter_bytes) == (50, 160)
        await one.shards.delete_packages(names[2:])
        with trio.fail_after(60):
            while one.checkpointer.statistics().store.filter_ids_count != 2:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
        assert one.checkpointer.statistics().store.filter_bytes == 20
        reads = cold_reads(one)
        for name in names:
            code = (await one.shards.ask(c.ReadPromise(name))).code
            assert code is (Code.OK if name in names[:2] else Code.PROMISE_NOT_FOUND)
        assert reads == names[:2]
