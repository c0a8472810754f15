"""Shards of several groups over simulated links: who asks does not see where a shard is."""

import trio
from trio.testing import MockClock

from tests.shards.stage import FAR_MS, WORKER, CalledBack, id_in
from troth.core.codes import Code
from troth.core.commands import (
    ClaimTask,
    CompletePromise,
    CompleteTask,
    CreateCallback,
    CreatePromise,
    ReadPromise,
)
from troth.core.grammar import task_ids
from troth.core.model import RESOLVED, PromiseState, TaskState
from troth.shards.errors import LinkBroken, OutOfReach
from troth.shards.mesh.answering import Answering
from troth.shards.mesh.link import MeshLink

from .world import make_process, start, until, world


async def test_any_process_carries_out_what_lives_in_any_group(autojump_clock: MockClock) -> None:
    async with world(3, delay_s=0.01) as server:
        for home in range(3):
            for process in range(3):
                name = server.id_of(home, f"order-{process}")
                reply = await server.call(process, CreatePromise(name, FAR_MS))
                assert reply.code is Code.CREATED
                for reader in range(3):
                    reply = await server.call(reader, ReadPromise(name))
                    assert reply.promise is not None
                    assert reply.promise.id == name
                states = server.processes[home].shards.states()
                assert any(name in state.promises for state in states)


async def test_serials_of_all_groups_are_different(autojump_clock: MockClock) -> None:
    async with world(3) as server:
        for number in range(12):
            name = server.id_of(number % 3, f"order-{number}")
            await server.call(0, CreatePromise(name, FAR_MS))
        found, following = await server.processes[1].shards.search_promises(
            "*", tuple(PromiseState), {}, 100, None
        )
        assert following is None
        serials = [promise.serial for promise in found]
        assert len(set(serials)) == len(serials) == 12
        assert serials == sorted(serials, reverse=True)


async def test_a_completion_makes_tasks_in_other_groups_before_it_is_answered(
    autojump_clock: MockClock,
) -> None:
    async with world(2, delay_s=0.02) as server:
        leaf, root = server.id_of(0, "leaf"), server.id_of(1, "root")
        await server.call(0, CreatePromise(root, FAR_MS))
        await server.call(1, CreatePromise(leaf, FAR_MS))
        reply = await server.call(1, CreateCallback(leaf, root, FAR_MS, WORKER))
        assert reply.code is Code.CREATED
        done = server.ask(0, CompletePromise(leaf, RESOLVED))
        with trio.fail_after(5):
            await until(lambda: done.is_done, 0.000_1)
        assert done.reply is not None
        task_id = task_ids.resume_id(root, leaf)
        states = server.processes[1].shards.states()
        assert any(task_id in state.tasks for state in states), "it is there when it is answered"


async def test_what_is_in_flight_when_a_link_breaks_is_refused_and_not_repeated(
    autojump_clock: MockClock,
) -> None:
    async with world(2, manual=True) as server:
        name = server.id_of(1, "order")
        asked = server.ask(0, CreatePromise(name, FAR_MS))
        await trio.sleep(0.1)
        link = server.processes[0].mesh.links[1]
        assert link.away_s == 0.0
        server.cut_off(1)
        await trio.sleep(0.1)
        assert 0.0 < link.away_s < 1.0
        assert isinstance(asked.error, LinkBroken)
        server.mend_all()
        await trio.sleep(1)
        server.processes[1].writer.make_all_durable()
        assert len(server.processes[1].writer.written) == 1


async def test_new_questions_wait_for_a_link_but_not_for_long(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        server.cut_off(1)
        await trio.sleep(0.1)
        early = server.ask(0, CreatePromise(server.id_of(1, "early"), FAR_MS))
        await trio.sleep(1)
        late = server.ask(0, CreatePromise(server.id_of(1, "late"), FAR_MS))
        await trio.sleep(1.5)
        assert isinstance(early.error, OutOfReach)
        server.mend_all()
        await trio.sleep(0.5)
        assert late.reply is not None
        assert late.reply.code is Code.CREATED


async def test_a_link_that_says_nothing_is_broken(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        wire = server.wires[0, 1]
        wire.is_silent = True
        asked = server.ask(0, ReadPromise(server.id_of(1, "order")))
        await trio.sleep(4)
        assert isinstance(asked.error, LinkBroken)


async def test_a_task_of_another_group_is_claimed_and_completed(autojump_clock: MockClock) -> None:
    async with world(2, delay_s=0.01) as server:
        name = server.id_of(1, "work")
        tags = {"resonate:invoke": WORKER}
        await server.call(0, CreatePromise(name, FAR_MS, tags=tags))
        task_id = task_ids.invoke_id(name)
        reply = await server.call(0, ClaimTask(task_id, 1, "worker", 10_000))
        assert reply.code is Code.CREATED
        assert reply.claimed is not None
        assert reply.claimed.root is not None
        assert await server.processes[0].shards.heartbeat_tasks("worker") == 1
        reply = await server.call(0, CompleteTask(task_id, 1))
        assert reply.task is not None
        assert reply.task.state is TaskState.COMPLETED


async def test_each_end_notices_by_itself_that_the_other_is_silent() -> None:
    now_s = 100.0
    here, there = make_process(0, (1, 1)), make_process(1, (1, 1))
    link = MeshLink(here.place, 1, now_s=lambda: now_s, wake=lambda: None, when_up=lambda *_: None)
    mesh = there.mesh
    end = Answering(
        there.place,
        there.shards,
        mesh.passes,
        mesh.calls,
        mesh.barrier,
        now_s=lambda: now_s,
        wake=lambda: None,
        keep_up_with=lambda _: None,
    )
    link.opened()
    end.received(link.take())
    link.received(end.take())
    assert link.is_up
    assert link.away_s == 0.0
    for _ in range(20):
        now_s += 0.5
        assert link.look()
        assert end.look()
        end.received(link.take())
        link.received(end.take())
    now_s += 2.1
    assert not link.look()
    assert not end.look()


async def test_answers_leave_when_they_are_durable_without_a_pass_for_them(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Nobody is woken for them: what the log releases is sent together, then and there."""
    woken: list[str] = []
    sent: list[bytes] = []
    here = make_process(0, (1, 1))
    there = make_process(1, (1, 1), wake=lambda: woken.append("there"))
    await start(nursery, there, manual=True)
    link = MeshLink(here.place, 1, now_s=lambda: 0, wake=lambda: None, when_up=lambda *_: None)
    end = there.mesh.answering(there.shards)
    there.mesh.when_let_go = lambda: sent.append(end.take())
    link.opened()
    end.received(link.take())
    link.received(end.take())
    askers = [CalledBack(), CalledBack()]
    for number, asker in enumerate(askers):
        command = CreatePromise(id_in(1, 2, f"order-{number}"), FAR_MS)
        link.ask(1, command, asker, 0, None)
    end.received(link.take())
    there.shards.run_turn()
    woken.clear()
    there.writer.make_all_durable()
    assert woken == []
    (answers,) = sent
    link.received(answers)
    assert [len(asker.replies) for asker in askers] == [1, 1]
    nursery.cancel_scope.cancel()


async def test_what_a_process_refuses_because_it_stops_waits_for_the_next_one(
    autojump_clock: MockClock,
) -> None:
    """As in a restart of one process after the other: its clients notice only a delay."""
    async with world(2) as server:
        name, other = server.id_of(1, "order"), server.id_of(1, "other")
        group = server.processes[1].shards
        await group.stop()
        asked = [server.ask(0, CreatePromise(one, FAR_MS)) for one in (name, other)]
        await trio.sleep(0.5)
        assert not any(one.is_done for one in asked)
        server.cut_off(1)
        await trio.sleep(0.5)
        group._stopping = False  # the next process
        server.mend_all()
        with trio.fail_after(5):
            await until(lambda: all(one.is_done for one in asked))
        assert [one.reply.code for one in asked if one.reply is not None] == [Code.CREATED] * 2

        await group.stop()
        late = server.ask(0, CreatePromise(server.id_of(1, "late"), FAR_MS))
        await trio.sleep(3)
        assert isinstance(late.error, OutOfReach), "as long as for a link, and no longer"
