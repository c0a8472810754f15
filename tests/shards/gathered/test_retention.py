"""Retention over groups: what another group's unfinished work needs is not deleted."""

from contextlib import AbstractAsyncContextManager

import pytest
import trio
from trio.testing import MockClock

from tests.shards.mesh.world import World, until, world
from tests.shards.stage import EPOCH_MS, FAR_MS, WORKER
from troth.core.commands import (
    ClaimTask,
    CompletePromise,
    CompleteTask,
    CreateCallback,
    CreatePromise,
    ReadPromise,
)
from troth.core.deciding import Options
from troth.core.grammar import task_ids
from troth.core.lifecycles import FINAL_STATES
from troth.core.limits import RETENTION_RECHECK_MS
from troth.core.model import RESOLVED
from troth.core.retention_rules import RetentionRule
from troth.shards.errors import OutOfReach
from troth.shards.gathered.retention import AllSweepers
from troth.shards.upkeep.retention import Sweeper

ALL = RetentionRule(tuple(FINAL_STATES), 1_000)
RECHECK_S = RETENTION_RECHECK_MS / 1000 + 2


def retaining(count: int = 2) -> AbstractAsyncContextManager[World]:
    """Run groups that delete what has been complete for a second."""
    return world(count, options=Options(retention=(ALL,)))


def sweepers(server: World) -> list[AllSweepers]:
    found = []
    for process in server.processes:
        found.append(AllSweepers(process.mesh.calls))
        found[-1].own = Sweeper(
            process.shards,
            (ALL,),
            ("all",),
            interval_ms=60_000,
            now_ms=process.shards.clock.now_ms,
        )
    return found


async def is_there(server: World, promise_id: str) -> bool:
    return (await server.call(0, ReadPromise(promise_id))).promise is not None


async def test_what_is_old_is_deleted_in_all_groups(autojump_clock: MockClock) -> None:
    async with retaining(3) as server:
        sweeper = sweepers(server)[1]
        ids = [server.id_of(group, "old") for group in range(3)]
        for name in ids:
            await server.call(0, CreatePromise(name, FAR_MS))
            await server.call(0, CompletePromise(name, RESOLVED))
        await trio.sleep(2)
        assert (await sweeper.dry_run()).counts == (3,)
        assert (await sweeper.dry_run((ALL, ALL))).counts == (3, 0)
        outcome = await sweeper.sweep()
        assert (outcome.counts, outcome.waiting_count) == ((3,), 0)
        assert not any([await is_there(server, name) for name in ids])


async def test_a_leaf_stays_while_a_task_of_another_group_is_about_it(
    autojump_clock: MockClock,
) -> None:
    async with retaining() as server:
        sweeper = sweepers(server)[0]
        leaf, root = server.id_of(0, "leaf"), server.id_of(1, "root")
        await server.call(0, CreatePromise(leaf, FAR_MS))
        await server.call(0, CreatePromise(root, FAR_MS))
        await server.call(0, CreateCallback(leaf, root, FAR_MS, WORKER))
        await server.call(0, CompletePromise(leaf, RESOLVED))
        await trio.sleep(2)
        outcome = await sweeper.dry_run()
        assert (outcome.counts, outcome.waiting_count) == ((0,), 1)
        outcome = await sweeper.sweep()
        assert (outcome.counts, outcome.waiting_count) == ((0,), 1)
        assert await is_there(server, leaf)

        task_id = task_ids.resume_id(root, leaf)
        (task,) = [s.tasks[task_id] for s in server.processes[1].shards.states() if s.tasks]
        claimed = await server.call(1, ClaimTask(task_id, task.counter, "worker", 60_000))
        assert claimed.claimed is not None
        await server.call(1, CompleteTask(task_id, task.counter))
        await trio.sleep(RECHECK_S)
        assert (await sweeper.sweep()).counts == (1,)
        assert not await is_there(server, leaf)


async def test_a_child_stays_for_an_origin_in_another_group(autojump_clock: MockClock) -> None:
    async with retaining() as server:
        sweeper = sweepers(server)[0]
        origin = server.id_of(1, "origin")
        children = [server.id_of(0, "child"), server.id_of(0, "sibling")]
        await server.call(0, CreatePromise(origin, FAR_MS))
        for child in children:
            tags = {"resonate:origin": origin}
            await server.call(0, CreatePromise(child, FAR_MS, tags=tags))
            await server.call(0, CompletePromise(child, RESOLVED))
        await trio.sleep(2)
        outcome = await sweeper.sweep()
        assert (outcome.counts, outcome.waiting_count) == ((0,), 2)
        await server.call(0, CompletePromise(origin, RESOLVED))
        await trio.sleep(RECHECK_S)
        outcome = await sweeper.sweep()
        assert sum(outcome.counts) >= 1
        await trio.sleep(RECHECK_S)
        await sweeper.sweep()
        assert not any([await is_there(server, name) for name in (*children, origin)])
        for process in server.processes:
            assert not process.mesh.far.state.promises


async def test_nothing_is_deleted_while_a_group_is_away(autojump_clock: MockClock) -> None:
    async with retaining() as server:
        all_of = sweepers(server)
        name = server.id_of(0, "old")
        await server.call(0, CreatePromise(name, FAR_MS))
        await server.call(0, CompletePromise(name, RESOLVED))
        await trio.sleep(2)
        server.cut_off(1)
        with trio.fail_after(60):
            await until(lambda: not server.processes[0].mesh.calls.linked)
        with pytest.raises(OutOfReach):
            await all_of[0].sweep()
        assert server.processes[0].shards.clock.now_ms() > EPOCH_MS
        assert await is_there(server, name)
        server.mend_all()
        await server.until_linked()
        assert (await all_of[0].sweep()).counts == (1,)
