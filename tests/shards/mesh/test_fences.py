"""Requests on behalf of a task of another group: its hold stays while they are carried out."""

from random import Random

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from tests.helpers.seeds import seeds
from tests.shards.stage import FAR_MS, WORKER
from troth.core.codes import Code
from troth.core.commands import (
    ClaimTask,
    Command,
    CompletePromise,
    CompleteTask,
    CreateCallback,
    CreatePromise,
    ReadPromise,
)
from troth.core.grammar import task_ids
from troth.core.model import CLAIMED, RESOLVED, Fence
from troth.core.workflow_commands import (
    CreateWorkflow,
    EnsurePromise,
    FulfillWorkflow,
    SettlePromise,
)
from troth.core.workflows import WorkflowFence
from troth.shards.errors import LinkBroken, OutOfReach
from troth.shards.mesh.passes import GivenPasses

from .world import World, until, world

HOUR_MS = 3_600_000


async def claimed_task(server: World, group: int) -> Fence:
    """Make a promise with a task in a group, and claim it."""
    name = server.id_of(group, "work")
    await server.call(0, CreatePromise(name, FAR_MS, tags={"resonate:invoke": WORKER}))
    task_id = task_ids.invoke_id(name)
    reply = await server.call(0, ClaimTask(task_id, 1, "worker", HOUR_MS))
    assert reply.code is Code.CREATED
    return Fence(task_id, 1)


def passes_are_out(server: World, group: int) -> bool:
    """Return whether a group has given passes that are not over."""
    return server.processes[group].mesh.passes.are_out()


async def test_a_fenced_request_about_another_group(autojump_clock: MockClock) -> None:
    async with world(2, delay_s=0.01) as server:
        fence = await claimed_task(server, 1)
        for process in range(2):
            child = server.id_of(0, f"child-{process}")
            reply = await server.call(process, CreatePromise(child, FAR_MS, fence=fence))
            assert reply.code is Code.CREATED
            root = fence.task_id.removeprefix("__invoke:")
            reply = await server.call(
                process, CreateCallback(child, root, FAR_MS, WORKER, fence=fence)
            )
            assert reply.code is Code.CREATED
            other = Fence(fence.task_id, 2)
            reply = await server.call(process, CompletePromise(child, RESOLVED, fence=other))
            assert reply.code is Code.TASK_FENCED
            reply = await server.call(process, CompletePromise(child, RESOLVED, fence=fence))
            assert reply.code is Code.CREATED
        await trio.sleep(0.1)
        assert not passes_are_out(server, 1), "all are returned"
        await server.call(0, CompleteTask(fence.task_id, 1))
        reply = await server.call(0, CreatePromise("late", FAR_MS, fence=fence))
        assert reply.code is Code.TASK_FENCED


async def test_a_fence_of_a_workflow_task_of_another_group(autojump_clock: MockClock) -> None:
    async with world(2, delay_s=0.01) as server:
        name = server.id_of(1, "flow")
        tags = {"resonate:target": WORKER}
        reply = await server.call(0, CreateWorkflow(name, FAR_MS, "worker", 60_000, tags=tags))
        assert reply.workflow is not None
        fence = WorkflowFence(name, reply.workflow.version)
        child = server.id_of(0, "child")
        reply = await server.call(1, EnsurePromise(child, FAR_MS, fence=fence))
        assert reply.code is Code.OK
        wrong = WorkflowFence(name, fence.version + 1)
        reply = await server.call(1, SettlePromise(child, RESOLVED, fence=wrong))
        assert reply.code is Code.WORKFLOW_VERSION
        reply = await server.call(1, SettlePromise(child, RESOLVED, fence=fence))
        assert reply.promise is not None
        assert reply.promise.state is RESOLVED
        await server.call(0, FulfillWorkflow(name, fence.version, RESOLVED))
        reply = await server.call(1, EnsurePromise(child, FAR_MS, fence=fence))
        assert reply.code is Code.WORKFLOW_STATE


async def test_what_was_done_for_a_task_is_not_refused_when_it_is_asked_again(
    autojump_clock: MockClock,
) -> None:
    """The link broke before the answer came, and the task ended until there was another one.

    Seed 203 of `--nodes 3 --groups 4`: a child was created, and its maker told that it was not.
    """
    async with world(2, delay_s=0.1) as server:
        name, child = server.id_of(1, "flow"), server.id_of(0, "child")
        tags = {"resonate:target": WORKER}
        made = await server.call(1, CreateWorkflow(name, FAR_MS, "worker", 60_000, tags=tags))
        assert made.workflow is not None
        fence = WorkflowFence(name, made.workflow.version)
        asked = server.ask(1, EnsurePromise(child, FAR_MS, fence=fence))
        with trio.fail_after(5):
            states = server.processes[0].shards.states
            await until(lambda: any(child in one.promises for one in states()))
        server.wires[1, 0].cut()
        await server.call(1, FulfillWorkflow(name, fence.version, RESOLVED))
        assert not asked.is_done
        server.wires[1, 0].mend()
        with trio.fail_after(5):
            await until(lambda: asked.is_done)
        assert asked.reply is not None
        assert asked.reply.code is Code.OK
        assert asked.reply.promise is not None


async def given_to_one_that_hangs(server: World, fence: Fence, command: Command) -> None:
    """Give a pass to process 0, which then is silent and carries its command out late."""
    server.ask(0, command)
    await trio.lowlevel.checkpoint()
    with trio.fail_after(5):
        while not passes_are_out(server, 1):  # noqa: ASYNC110  nothing tells of it
            await trio.sleep(0.001)
    server.wires[0, 1].is_silent = True


async def test_what_would_end_the_hold_waits_for_the_pass(autojump_clock: MockClock) -> None:
    async with world(2, delay_s=0.01) as server:
        fence = await claimed_task(server, 1)
        child = server.id_of(0, "child")
        await given_to_one_that_hangs(server, fence, CreatePromise(child, FAR_MS, fence=fence))
        completed = server.ask(1, CompleteTask(fence.task_id, 1))
        await trio.sleep(0.4)
        assert not completed.is_done
        await trio.sleep(0.4)
        assert completed.reply is not None, "the pass has run out"


async def test_a_command_whose_pass_has_run_out_is_not_carried_out(
    autojump_clock: MockClock,
) -> None:
    async with world(2, delay_s=0.01) as server:
        fence = await claimed_task(server, 1)
        child = server.id_of(0, "child")
        asked_reply = server.ask(0, CreatePromise(child, FAR_MS, fence=fence))
        with trio.fail_after(5):
            while not passes_are_out(server, 1):  # noqa: ASYNC110  nothing tells of it
                await trio.sleep(0.000_1)
        server.wires[0, 1].is_silent = True
        await trio.sleep(0.55)
        reply = await server.call(1, CompleteTask(fence.task_id, 1))
        assert reply.task is not None
        server.wires[0, 1].is_silent = False  # only now the pass arrives
        await trio.sleep(1)
        assert asked_reply.reply is not None
        assert asked_reply.reply.code is Code.TASK_FENCED, "it has asked again"
        assert (await server.call(0, ReadPromise(child))).promise is None


async def test_a_pass_ends_before_the_lease(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        name = server.id_of(1, "work")
        await server.call(0, CreatePromise(name, FAR_MS, tags={"resonate:invoke": WORKER}))
        fence = Fence(task_ids.invoke_id(name), 1)
        await server.call(0, ClaimTask(fence.task_id, 1, "worker", 1))
        child = server.id_of(0, "child")
        await trio.sleep(10)  # the lease is over
        reply = await server.call(0, CreatePromise(child, FAR_MS, fence=fence))
        assert reply.code is Code.TASK_FENCED


async def test_nothing_is_done_while_the_tasks_group_is_away(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        fence = await claimed_task(server, 1)
        child = server.id_of(0, "child")
        server.cut_off(1)
        await trio.sleep(0.1)
        asked = server.ask(0, CreatePromise(child, FAR_MS, fence=fence))
        await trio.sleep(3)
        assert isinstance(asked.error, OutOfReach)
        assert (await server.call(0, ReadPromise(child))).promise is None


@pytest.mark.seeds
@pytest.mark.parametrize("seed", seeds(0, 2, 60))
async def test_nothing_is_done_for_a_task_that_has_ended(
    autojump_clock: MockClock, seed: int
) -> None:
    """A fenced request that begins after the task's end was answered is refused.

    And one that was carried out was so before the end: whatever links do in between.
    """
    luck = Random(seed)
    async with world(3, seed=seed, delay_s=0.3) as server:
        for number in range(6):
            task_group, child_group = luck.sample(range(3), 2)
            name = server.id_of(task_group, f"work-{number}")
            tags = {"resonate:invoke": WORKER}
            await server.call(task_group, CreatePromise(name, FAR_MS, tags=tags))
            fence = Fence(task_ids.invoke_id(name), 1)
            await server.call(task_group, ClaimTask(fence.task_id, 1, "worker", HOUR_MS))
            child = server.id_of(child_group, f"child-{number}")
            fenced = server.ask(child_group, CreatePromise(child, FAR_MS, fence=fence))
            await trio.sleep(luck.random() * 1.2)
            if luck.random() < 0.3:
                server.wires[child_group, task_group].cut()
            was_there_at_end: list[bool] = []
            ending = server.ask(task_group, CompleteTask(fence.task_id, 1))
            with trio.fail_after(60):
                while not ending.is_done:  # noqa: ASYNC110  nothing tells of it
                    await trio.sleep(0.001)
            reply = await server.processes[child_group].shards.ask(ReadPromise(child))
            was_there_at_end.append(reply.promise is not None)
            server.mend_all()
            await trio.sleep(4)
            reply = await server.processes[child_group].shards.ask(ReadPromise(child))
            assert (reply.promise is not None) == was_there_at_end[0], "it came after the end"
            if fenced.reply is not None:
                is_created = fenced.reply.code is Code.CREATED
                assert is_created == was_there_at_end[0]
            else:
                assert isinstance(fenced.error, (OutOfReach, LinkBroken))


async def test_a_clock_that_is_set_forward_ends_no_hold_while_a_pass_is_out(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is over by the clock then, which both the timer and any look at the task heed."""
    async with world(2, delay_s=0.2) as server:
        fence = await claimed_task(server, 1)
        root = task_ids.home(fence.task_id)
        shards = server.processes[1].shards
        state = next(one for one in shards.states() if fence.task_id in one.tasks)
        asked = server.ask(0, CreatePromise(server.id_of(0, "child"), FAR_MS, fence=fence))
        while not passes_are_out(server, 1):  # noqa: ASYNC110  nothing tells of it
            await trio.sleep(0.01)
        now_ms = shards.clock.now_ms
        monkeypatch.setattr(type(shards.clock), "now_ms", lambda _: now_ms() + 2 * HOUR_MS)
        read = server.ask(1, ReadPromise(root))
        while passes_are_out(server, 1):
            assert state.tasks[fence.task_id].state is CLAIMED
            assert not read.is_done
            await trio.sleep(0.01)
        await trio.sleep(1)
        assert read.is_done
        assert state.tasks[fence.task_id].state is not CLAIMED
        assert asked.reply is not None
        assert asked.reply.code is Code.CREATED, "it was carried out within the pass"


def test_passes_of_one_promise_are_counted_one_by_one() -> None:
    """What waits goes on when the last is over; one that has run out may still be given back."""
    now_s = 0.0
    passes, over = GivenPasses(lambda: now_s), []
    passes.when_over = lambda: over.append(now_s)
    passes.give("p", "one", 1_000, 0)
    passes.give("p", "two", 2_000, 0)
    assert passes.is_held("p")
    assert not passes.is_held("other")
    passes.take_back("one")
    assert passes.is_held("p")
    assert over == []
    now_s = 2.0
    assert not passes.are_out()
    assert over == [2.0]
    passes.take_back("two")
    assert over == [2.0]
