"""When promises are folded: what is old, and sooner what is too much."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import trio
from trio.testing import MockClock

from troth.core.commands import CompletePromise, CreatePromise
from troth.core.model import PromiseState
from troth.shards.upkeep.folder import (
    FOLDING_INTERVAL_S,
    LOOK_AFTER_COUNT,
    UNFOLDED_LIMIT_COUNT,
    Folder,
)

from .stage import FAR_MS, Stage, stage

SHARD_COUNT = 3
AT_ONCE_COUNT = 256

numbers = count()


@asynccontextmanager
async def folding() -> AsyncIterator[tuple[Stage, Folder]]:
    async with stage(SHARD_COUNT, direct=True) as world:
        folder = Folder(world.shards)
        world.nursery.start_soon(folder.run)
        await trio.testing.wait_all_tasks_blocked()
        yield world, folder


async def create(world: Stage, wanted_count: int) -> list[str]:
    ids = [f"promise-{next(numbers)}" for _ in range(wanted_count)]
    await world.shards.ask_each([CreatePromise(one, FAR_MS) for one in ids])
    return ids


async def test_what_is_old_is_folded(mock_clock: MockClock) -> None:
    async with folding() as (world, folder):
        await create(world, 10)
        assert folder.unfolded_count == 10
        for _ in range(2):
            mock_clock.jump(FOLDING_INTERVAL_S)
            await trio.testing.wait_all_tasks_blocked()

        assert folder.unfolded_count == 0


async def test_of_many_promises_few_are_objects_before_any_time_has_passed(
    mock_clock: MockClock,
) -> None:
    async with folding() as (world, folder):
        largest_count = 0
        for _ in range(0, 3 * UNFOLDED_LIMIT_COUNT, AT_ONCE_COUNT):
            await create(world, AT_ONCE_COUNT)
            await trio.testing.wait_all_tasks_blocked()
            largest_count = max(largest_count, folder.unfolded_count)

        assert largest_count > UNFOLDED_LIMIT_COUNT
        assert largest_count <= UNFOLDED_LIMIT_COUNT + LOOK_AFTER_COUNT + AT_ONCE_COUNT


async def test_what_completes_soon_is_never_folded(mock_clock: MockClock) -> None:
    async with folding() as (world, _):
        for _ in range(0, 2 * UNFOLDED_LIMIT_COUNT, AT_ONCE_COUNT):
            ids = await create(world, AT_ONCE_COUNT)
            await world.shards.ask_each(
                [CompletePromise(one, PromiseState.RESOLVED) for one in ids]
            )
            await trio.testing.wait_all_tasks_blocked()

        assert not any(state.promises.folded_count for state in world.shards.states())
