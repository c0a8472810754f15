"""Snapshots of all groups: taken whole or not at all, and nothing is kept for one that is over."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.shards.mesh.world import World, until, world
from tests.shards.stage import FAR_MS, settle
from tests.twins.memory_store import MemoryStore
from troth.core.commands import CreatePromise
from troth.core.records import EntryDeleted, encode
from troth.persistence.checkpoints.rows import FORMAT_VERSION, PROMISES, seal
from troth.persistence.snapshots.snapshot_file import SnapshotHeader, SnapshotReader
from troth.persistence.snapshots.snapshot_rules import TABLES
from troth.persistence.snapshots.snapshots import Cut, verify
from troth.persistence.wal.log import LogRecord
from troth.shards.errors import CallFailed, OutOfReach, ShardsError
from troth.shards.gathered import cuts
from troth.shards.gathered.cuts import (
    CLOSED_LIMIT_MS,
    CLOSING_LIMIT_S,
    GatheredCuts,
    GatheredSnapshot,
)


class FakeView:
    """Rows that know whether they are open."""

    def __init__(self, storage: "FakeStorage") -> None:
        self.storage = storage
        storage.open_count += 1
        view = storage.store.view()
        self.get = view.get
        self.scan = view.scan

    def close(self) -> None:
        self.storage.open_count -= 1


class FakeStorage:
    """Has three rows and two batches, and counts what is kept for snapshots."""

    def __init__(self, group: int, groups_count: int) -> None:
        self.group_shards = (2,) * groups_count
        self.open_count = 0
        self.held_count = 0
        self.group = group
        self.store = MemoryStore()
        keys = [f"key-{group}-{number}".encode() for number in range(3)]
        self.store.commit((PROMISES, key, seal(PROMISES, key, b"row")) for key in keys)

    def hold_log(self) -> Any:
        self.held_count += 1

        def release() -> None:
            self.held_count -= 1

        return release

    def open_rows(self) -> Any:
        return FakeView(self)

    def open_cut(self, created_at_ms: int, opened: Any = None) -> Cut:
        view, until_sequence = opened
        header = SnapshotHeader(
            data_id="ab" * 16,
            secret="cd" * 32,
            shard_count=sum(self.group_shards),
            directory_created_at_ms=1,
            created_at_ms=created_at_ms,
            troth_version="test",
            row_format=FORMAT_VERSION,
            tables=TABLES,
            rows_position=until_sequence - 2,
            rows_until_sequence=until_sequence - 2,
            rows_until_ms=created_at_ms,
            until_sequence=until_sequence,
        )
        records = [LogRecord(2 * self.group, 1, encode(EntryDeleted("id", 1)))]
        return Cut(header, view, [(until_sequence - 1, records), (until_sequence, records)])

    @property
    def data_id(self) -> bytes:
        return b""

    @property
    def kept_count(self) -> int:
        return self.open_count + self.held_count


@pytest.fixture(autouse=True)
def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time must not pass while a thread works."""

    async def call(act: Callable[[], Any]) -> Any:
        await trio.lowlevel.checkpoint()
        return act()

    monkeypatch.setattr("troth.shards.gathered.cuts.in_thread", call)


async def nothing() -> None:
    await trio.lowlevel.checkpoint()


def taken_by(server: World) -> tuple[list[GatheredCuts], list[FakeStorage]]:
    count = len(server.processes)
    storages = [FakeStorage(group, count) for group in range(count)]
    found = []
    for process, storage in zip(server.processes, storages, strict=True):
        mesh = process.mesh
        found.append(GatheredCuts(mesh.calls, mesh.barrier, storage, lambda: 7))
        found[-1].checkpoint = nothing
    return found, storages


async def take(cuts: GatheredCuts) -> GatheredSnapshot:
    return await cuts.open(lambda: 1, lambda: None, lambda: None)


async def read(snapshot: GatheredSnapshot, path: Path) -> None:
    """Write the file, piece by piece."""
    with path.open("wb") as file:
        while (piece := await snapshot.next_piece()) is not None:
            file.write(piece)


@pytest.mark.parametrize("part_bytes", [1, cuts.PART_BYTES])
async def test_the_file_has_the_part_of_each_group(
    part_bytes: int, autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as taken when its last piece was read; then no group keeps anything for it."""
    monkeypatch.setattr(cuts, "PART_BYTES", part_bytes)
    said: list[str] = []
    async with world(3) as server:
        all_of, storages = taken_by(server)
        for group, one in enumerate(all_of):
            one._durable = lambda group=group: 100 + group  # type: ignore[misc]
        snapshot = await all_of[1].open(
            lambda: 77, lambda: said.append("whole"), lambda: said.append("released")
        )
        assert [storage.kept_count for storage in storages] == [2, 2, 2]
        assert not any(process.mesh.barrier.is_closed for process in server.processes)
        await read(snapshot, tmp_path / "all.snapshot")
        assert said == ["whole"]
        snapshot.close()
        snapshot.close()
        await trio.sleep(1)
        assert said == ["whole", "released"]
        assert [storage.kept_count for storage in storages] == [0, 0, 0]
    header = verify(tmp_path / "all.snapshot").header
    assert header == snapshot.header
    assert [group.until_sequence for group in header.groups] == [100, 101, 102]
    assert (header.created_at_ms, header.shard_count) == (77, 6)
    found: dict[int, tuple[list[bytes], int]] = {}
    with SnapshotReader(tmp_path / "all.snapshot") as reader:
        for part in reader.parts():
            keys, batches_count = found.get(part.group, ([], 0))
            found[part.group] = (
                [*keys, *(key for key, _ in part.rows)],
                batches_count + len(part.batches),
            )
    assert found == {
        group: ([f"key-{group}-{number}".encode() for number in range(3)], 2) for group in range(3)
    }


async def test_a_snapshot_that_lost_a_group_on_the_way_is_not_finished(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """A group whose process was started again has not kept its part, and has nothing of it."""
    async with world(2) as server:
        all_of, storages = taken_by(server)
        snapshot = await take(all_of[0])
        server.cut_off(1)
        await trio.sleep(1)
        assert storages[1].kept_count == 0
        server.mend_all()
        await server.until_linked()
        with pytest.raises(OutOfReach):
            await read(snapshot, tmp_path / "half.snapshot")
        snapshot.close()
        await trio.sleep(1)
        assert storages[0].kept_count == 0


async def test_a_group_that_has_not_heard_of_the_end_keeps_nothing_for_it(
    autojump_clock: MockClock,
) -> None:
    """Only the link by which it would have been told was broken; its own to the taker was not."""
    async with world(2) as server:
        all_of, storages = taken_by(server)

        def durable() -> int:
            server.wires[0, 1].is_silent = True
            return 7

        all_of[1]._durable = durable
        with pytest.raises(OutOfReach):
            await take(all_of[0])
        assert storages[1].kept_count == 2, "it has not heard of the end"
        server.wires[0, 1].is_silent = False
        await server.until_linked()
        await trio.sleep(1)
        assert [storage.kept_count for storage in storages] == [0, 0]
        assert not any(process.mesh.barrier.is_closed for process in server.processes)


async def test_rows_that_cannot_be_opened_leave_the_log_free_to_be_trimmed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(2) as server:
        all_of, storages = taken_by(server)

        def fail() -> Any:
            raise OSError("asked to")

        monkeypatch.setattr(storages[1], "open_rows", fail)
        with pytest.raises(CallFailed):
            await take(all_of[0])
        await trio.sleep(1)
        assert [storage.kept_count for storage in storages] == [0, 0]


async def test_there_is_none_before_a_process_serves(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        all_of, storages = taken_by(server)
        all_of[1].checkpoint = None
        with pytest.raises(OutOfReach):
            await take(all_of[0])
        await trio.sleep(1)
        assert [storage.kept_count for storage in storages] == [0, 0]


async def test_there_is_none_while_a_process_is_away(autojump_clock: MockClock) -> None:
    async with world(3) as server:
        all_of, storages = taken_by(server)
        server.cut_off(2)
        with trio.fail_after(60):
            await until(lambda: 2 not in server.processes[0].mesh.calls.linked)
        with pytest.raises(OutOfReach):
            await take(all_of[0])
        await settle()
        assert [storage.kept_count for storage in storages[:2]] == [0, 0]
        assert not any(process.mesh.barrier.is_closed for process in server.processes)


async def test_a_process_that_hangs_does_not_hold_the_others(autojump_clock: MockClock) -> None:
    """There is no snapshot, and what the others had held goes on within a moment."""
    async with world(3) as server:
        all_of, storages = taken_by(server)

        async def hang() -> None:
            server.wires[0, 2].is_silent = True
            await trio.lowlevel.checkpoint()

        all_of[0].checkpoint = hang
        asked = None
        with trio.move_on_after(CLOSING_LIMIT_S + CLOSED_LIMIT_MS / 1000 + 5):
            with pytest.raises(OutOfReach):
                await take(all_of[0])
            asked = server.ask(1, CreatePromise(server.id_of(0, "made"), FAR_MS))
            await trio.sleep(0.5)
            assert asked.reply is not None
        assert asked is not None
        server.wires[0, 2].is_silent = False
        await trio.sleep(5)
        await settle()
        assert storages[0].kept_count == storages[1].kept_count == 0
        assert not any(process.mesh.barrier.is_closed for process in server.processes)


async def test_what_is_kept_for_one_that_is_gone_is_given_up(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        all_of, storages = taken_by(server)
        stands = trio.Event()

        async def wait() -> None:
            await stands.wait()

        all_of[0].checkpoint = wait
        server.nursery.start_soon(take, all_of[0])
        await trio.sleep(0.1)
        assert storages[1].kept_count == 2
        server.cut_off(0)
        await trio.sleep(1)
        assert storages[1].kept_count == 0
        server.nursery.cancel_scope.cancel()


async def test_one_that_is_given_up_while_it_is_prepared_keeps_nothing(
    autojump_clock: MockClock,
) -> None:
    async with world(2) as server:
        all_of, storages = taken_by(server)

        async def slowly() -> None:
            await trio.sleep(30)

        all_of[1].checkpoint = slowly
        with trio.move_on_after(5):
            await take(all_of[0])
        await trio.sleep(60)
        assert [storage.kept_count for storage in storages] == [0, 0]


async def test_a_thread_that_writes_the_file_gets_the_same_pieces(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """As for a snapshot that is written to the directory of snapshots."""
    async with world(2) as server:
        all_of, _ = taken_by(server)
        snapshot = await take(all_of[0])
        pieces = await trio.to_thread.run_sync(lambda: list(snapshot.pieces()))
        (tmp_path / "a.snapshot").write_bytes(b"".join(pieces))
        snapshot.close()
    assert verify(tmp_path / "a.snapshot").header == snapshot.header


async def test_no_part_is_read_of_a_cut_that_was_not_made(autojump_clock: MockClock) -> None:
    """An empty part would look like one of a group that has nothing."""
    async with world(2) as server:
        taken_by(server)
        calls = server.processes[0].mesh.calls
        asked = cuts.CutAsked("one")
        await calls.call(1, cuts.PREPARE, asked)
        with pytest.raises(CallFailed):
            await calls.call(1, cuts.READ, asked)


async def test_one_whose_taker_goes_while_it_is_prepared_is_not_kept(
    autojump_clock: MockClock,
) -> None:
    async with world(2) as server:
        all_of, storages = taken_by(server)

        async def slowly() -> None:
            await trio.sleep(30)

        all_of[1].checkpoint = slowly
        server.nursery.start_soon(take_in_vain, all_of[0])
        await trio.sleep(1)
        server.cut_off(0)
        await trio.sleep(60)
        assert storages[1].kept_count == 0
        assert all_of[1]._preparing == {}


async def take_in_vain(taking: GatheredCuts) -> None:
    with pytest.raises(ShardsError):
        await take(taking)
