"""When promises are folded: what is old, and sooner what is too much."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import trio
from trio.testing import MockClock

from troth.core.commands import CompletePromise, CreatePromise, ReadPromise
from troth.core.model import EMPTY_VALUE, PromiseState, Trace, Value
from troth.shards.upkeep.folder import (
    FOLDING_INTERVAL_S,
    LOOK_AFTER_COUNT,
    UNFOLDED_LIMIT_COUNT,
    Folder,
)

from .stage import FAR_MS, Stage, stage

SHARD_COUNT = 3
AT_ONCE_COUNT = 256
TAGS = {"team": "1"}
"""What has none is folded when it is created."""

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
    await world.shards.ask_each([CreatePromise(one, FAR_MS, tags=TAGS) for one in ids])
    return ids


async def test_what_is_old_is_folded(mock_clock: MockClock) -> None:
    async with folding() as (world, folder):
        await create(world, 10)
        assert folder.unfolded_count == 10
        for _ in range(2):
            mock_clock.jump(FOLDING_INTERVAL_S)
            await trio.testing.wait_all_tasks_blocked()

        assert folder.unfolded_count == 0


async def test_what_has_nothing_but_a_param_is_folded_when_it_is_created(
    mock_clock: MockClock,
) -> None:
    async with folding() as (world, folder):
        plain = [CreatePromise("a", FAR_MS), CreatePromise("b", FAR_MS, Value(None, "aGVsbG8="))]
        await world.shards.ask_each(plain)
        assert folder.unfolded_count == 0
        for more in (
            CreatePromise("c", FAR_MS, Value({"a": "b"}, "aGVsbG8=")),
            CreatePromise("d", FAR_MS, idempotency_key="key"),
            CreatePromise("e", FAR_MS, trace=Trace("00-a-b-01")),
            CreatePromise("f", FAR_MS, tags=TAGS),
        ):
            await world.shards.ask_each([more])
        assert folder.unfolded_count == 4
        for _ in range(2):
            mock_clock.jump(FOLDING_INTERVAL_S)
            await trio.testing.wait_all_tasks_blocked()

        assert folder.unfolded_count == 0
        found = await world.shards.ask_each([ReadPromise(one) for one in "abcdef"])
        promises = [one.promise for one in found]
        assert [one and (one.param, one.tags, one.key_for_create) for one in promises] == [
            (EMPTY_VALUE, None, None),
            (Value(None, "aGVsbG8="), None, None),
            (Value({"a": "b"}, "aGVsbG8="), None, None),
            (EMPTY_VALUE, None, "key"),
            (EMPTY_VALUE, None, None),
            (EMPTY_VALUE, TAGS, None),
        ]


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
