"""Snapshots of all groups: taken whole or not at all, and nothing is kept for one that is over."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.shards.mesh.world import World, until, world
from tests.shards.stage import FAR_MS, settle
from troth.core.commands import CreatePromise
from troth.shards.errors import OutOfReach
from troth.shards.gathered.cuts import CLOSED_LIMIT_MS, CLOSING_LIMIT_S, GatheredCuts


class FakeView:
    """Rows that know whether they are open."""

    def __init__(self, storage: "FakeStorage") -> None:
        self.storage = storage
        storage.open_count += 1

    def close(self) -> None:
        self.storage.open_count -= 1


class FakeStorage:
    """Counts what is kept for snapshots."""

    def __init__(self) -> None:
        self.group_shards = (2, 2, 2)
        self.open_count = 0
        self.held_count = 0

    def hold_log(self) -> Any:
        self.held_count += 1

        def release() -> None:
            self.held_count -= 1

        return release

    def open_rows(self) -> Any:
        return FakeView(self)

    def open_cut(self, created_at_ms: int, opened: Any = None) -> Any:  # noqa: ARG002
        raise AssertionError("no test comes that far")

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
    storages = [FakeStorage() for _ in server.processes]
    found = []
    for process, storage in zip(server.processes, storages, strict=True):
        mesh = process.mesh
        found.append(GatheredCuts(mesh.calls, mesh.barrier, storage, lambda: 7))
        found[-1].checkpoint = nothing
    return found, storages


async def take(cuts: GatheredCuts) -> None:
    await cuts.open(lambda: 1, lambda: None, lambda: None)


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
