"""Commands that take several groups to carry out: claims, suspensions, deletions, bulk jobs."""

import trio
from trio.testing import MockClock

from tests.shards.stage import FAR_MS, WORKER
from troth.core.codes import Code
from troth.core.commands import (
    ClaimTask,
    CompletePromise,
    CompleteTask,
    CreateCallback,
    CreatePromise,
    DeletePromise,
    ReadPromise,
)
from troth.core.grammar import task_ids
from troth.core.model import RESOLVED, TAG_ORIGIN, Value
from troth.core.workflow_commands import (
    CreateWorkflow,
    EnsurePromise,
    ReadWorkflow,
    RegisterAwait,
    SettlePromise,
    SuspendWorkflow,
)
from troth.core.workflows import WorkflowState
from troth.shards.errors import OutOfReach

from .world import World, world

TARGET = {"resonate:target": WORKER}


async def resumed(server: World, root_group: int, leaf_group: int) -> tuple[str, str]:
    """Make a root that is to be resumed by a leaf of another group; their ids."""
    root, leaf = server.id_of(root_group, "root"), server.id_of(leaf_group, "leaf")
    await server.call(0, CreatePromise(root, FAR_MS))
    await server.call(0, CreatePromise(leaf, FAR_MS))
    await server.call(0, CreateCallback(leaf, root, FAR_MS, WORKER))
    await server.call(0, CompletePromise(leaf, RESOLVED, Value(data="ZG9uZQ==")))
    await trio.sleep(0.1)
    return root, leaf


async def test_a_claim_brings_the_leaf_of_another_group(autojump_clock: MockClock) -> None:
    async with world(3, delay_s=0.01) as server:
        root, leaf = await resumed(server, 1, 2)
        task_id = task_ids.resume_id(root, leaf)
        reply = await server.call(0, ClaimTask(task_id, 1, "worker", 60_000))
        assert reply.claimed is not None
        assert reply.claimed.root is not None
        assert reply.claimed.root.id == root
        assert reply.claimed.leaf is not None
        assert reply.claimed.leaf.value.data == "ZG9uZQ=="
        reply = await server.call(0, ClaimTask(task_id, 1, "other", 60_000))
        assert reply.claimed is None


async def test_nothing_is_claimed_while_the_leafs_group_is_away(autojump_clock: MockClock) -> None:
    async with world(3) as server:
        root, leaf = await resumed(server, 1, 2)
        task_id = task_ids.resume_id(root, leaf)
        server.cut_off(2)
        await trio.sleep(0.1)
        asked = server.ask(0, ClaimTask(task_id, 1, "worker", 60_000))
        await trio.sleep(3)
        assert isinstance(asked.error, OutOfReach)
        server.mend_all()
        await trio.sleep(1)
        reply = await server.call(0, ClaimTask(task_id, 1, "worker", 60_000))
        assert reply.code is Code.CREATED, "it was not claimed before"


async def claimed_flow(server: World, group: int) -> tuple[str, int]:
    """Make a workflow with an acquired task; its id and version."""
    name = server.id_of(group, "flow")
    reply = await server.call(0, CreateWorkflow(name, FAR_MS, "worker", 60_000, tags=TARGET))
    assert reply.workflow is not None
    return name, reply.workflow.version


async def test_a_workflow_waits_for_promises_of_other_groups(autojump_clock: MockClock) -> None:
    async with world(3, delay_s=0.01) as server:
        flow, version = await claimed_flow(server, 0)
        children = [server.id_of(group, "child") for group in range(3)]
        for child in children:
            await server.call(0, EnsurePromise(child, FAR_MS))
        suspended = await server.call(1, SuspendWorkflow(flow, version, tuple(children)))
        assert suspended.code is Code.OK
        await trio.sleep(0.1)
        reply = await server.call(2, ReadWorkflow(flow))
        assert reply.workflow is not None
        assert reply.workflow.state is WorkflowState.SUSPENDED
        await server.call(0, SettlePromise(children[2], RESOLVED))
        await trio.sleep(0.1)
        reply = await server.call(2, ReadWorkflow(flow))
        assert reply.workflow is not None
        assert reply.workflow.state is WorkflowState.PENDING
        assert reply.workflow.resumes == 1


async def test_a_suspension_is_judged_by_what_other_groups_say(autojump_clock: MockClock) -> None:
    async with world(2, delay_s=0.01) as server:
        flow, version = await claimed_flow(server, 0)
        child = server.id_of(1, "child")
        missing = await server.call(0, SuspendWorkflow(flow, version, (child,)))
        assert missing.code is Code.AWAITED_NOT_FOUND
        await server.call(0, EnsurePromise(child, FAR_MS))
        await server.call(0, SettlePromise(child, RESOLVED))
        settled = await server.call(0, SuspendWorkflow(flow, version, (child,)))
        assert settled.code is Code.AWAITED_SETTLED


async def test_a_task_is_registered_to_be_woken_by_another_group(autojump_clock: MockClock) -> None:
    async with world(2, delay_s=0.01) as server:
        child = server.id_of(1, "child")
        await server.call(0, EnsurePromise(child, FAR_MS))
        stranger = server.id_of(0, "stranger")
        reply = await server.call(0, RegisterAwait(child, stranger))
        assert reply.code is Code.AWAITER_UNUSABLE
        flow, _ = await claimed_flow(server, 0)
        reply = await server.call(0, RegisterAwait(child, flow))
        assert reply.code is Code.OK
        await server.call(0, SettlePromise(child, RESOLVED))
        await trio.sleep(0.1)
        workflow = (await server.call(0, ReadWorkflow(flow))).workflow
        assert workflow is not None
        assert workflow.resumes == 1


async def test_a_promise_stays_while_a_task_of_another_group_is_about_it(
    autojump_clock: MockClock,
) -> None:
    async with world(3, delay_s=0.01) as server:
        root, leaf = await resumed(server, 1, 2)
        reply = await server.call(0, DeletePromise(leaf))
        assert reply.code is Code.PROMISE_IN_USE
        task_id = task_ids.resume_id(root, leaf)
        await server.call(0, ClaimTask(task_id, 1, "worker", 60_000))
        await server.call(0, CompleteTask(task_id, 1))
        reply = await server.call(0, DeletePromise(leaf))
        assert reply.code is Code.NO_CONTENT
        assert (await server.call(1, ReadPromise(leaf))).code is Code.PROMISE_NOT_FOUND


async def test_a_promise_stays_while_its_origin_in_another_group_is_pending(
    autojump_clock: MockClock,
) -> None:
    async with world(2, delay_s=0.01) as server:
        origin, child = server.id_of(0, "origin"), server.id_of(1, "child")
        await server.call(0, CreatePromise(origin, FAR_MS))
        await server.call(0, CreatePromise(child, FAR_MS, tags={TAG_ORIGIN: origin}))
        await server.call(0, CompletePromise(child, RESOLVED))
        reply = await server.call(0, DeletePromise(child))
        assert reply.code is Code.ORIGIN_PENDING
        await server.call(0, CompletePromise(origin, RESOLVED))
        reply = await server.call(0, DeletePromise(child))
        assert reply.code is Code.NO_CONTENT


async def test_a_lineage_is_followed_through_groups_to_a_pending_origin(
    autojump_clock: MockClock,
) -> None:
    """There and back; one that leads to a promise that is gone holds nothing."""
    async with world(2, delay_s=0.01) as server:
        first, second, third = (server.id_of(group, "step") for group in (1, 0, 1))
        third = server.id_of(1, "last")
        lost = server.id_of(1, "lost")
        gone = server.id_of(0, "gone")
        for name, origin in ((first, None), (second, first), (third, second), (lost, gone)):
            tags = None if origin is None else {TAG_ORIGIN: origin}
            await server.call(0, CreatePromise(name, FAR_MS, tags=tags))
        for name in (second, third, lost):
            await server.call(0, CompletePromise(name, RESOLVED))
        assert (await server.call(0, DeletePromise(third))).code is Code.ORIGIN_PENDING
        assert (await server.call(0, DeletePromise(lost))).code is Code.NO_CONTENT
        await server.call(0, CompletePromise(first, RESOLVED))
        assert (await server.call(0, DeletePromise(third))).code is Code.NO_CONTENT


async def test_what_cannot_be_deleted_is_refused_though_a_group_is_away(
    autojump_clock: MockClock,
) -> None:
    """Its own shard knows that it is pending, or that there is none."""
    async with world(2) as server:
        pending, missing = server.id_of(0, "pending"), server.id_of(0, "missing")
        await server.call(0, CreatePromise(pending, FAR_MS))
        server.cut_off(1)
        await trio.sleep(0.1)
        assert (await server.call(0, DeletePromise(pending))).code is Code.PROMISE_PENDING
        assert (await server.call(0, DeletePromise(missing))).code is Code.PROMISE_NOT_FOUND


async def test_there_is_no_task_to_claim_before_the_leaf_of_another_group_has_completed(
    autojump_clock: MockClock,
) -> None:
    async with world(2, delay_s=0.01) as server:
        root, leaf = server.id_of(0, "root"), server.id_of(1, "leaf")
        for name in (root, leaf):
            await server.call(0, CreatePromise(name, FAR_MS))
        await server.call(0, CreateCallback(leaf, root, FAR_MS, WORKER))
        claim = ClaimTask(task_ids.resume_id(root, leaf), 1, "worker", 60_000)
        assert (await server.call(0, claim)).code is Code.TASK_NOT_FOUND
