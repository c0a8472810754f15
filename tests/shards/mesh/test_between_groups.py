"""Messages between groups: only what is durable leaves, all of it arrives once and in order."""

from random import Random

import pytest
import trio
from trio.testing import MockClock

from tests.helpers.seeds import seeds
from tests.shards.stage import FAR_MS, WORKER, settle
from troth.core.codes import Code
from troth.core.commands import CompletePromise, CreateCallback, CreatePromise, CreateSchedule
from troth.core.grammar import task_ids
from troth.core.model import RESOLVED

from .world import World, world

PAIRS_COUNT = 12


def tasks_of(server: World, process: int) -> list[str]:
    """Return the ids of all tasks of a group."""
    states = server.processes[process].shards.states()
    return [task_id for state in states for task_id in state.tasks]


def outbox_count(server: World) -> int:
    """Return how many messages of all groups are not acknowledged."""
    return sum(
        len(state.outbox) for process in server.processes for state in process.shards.states()
    )


async def test_a_message_leaves_when_its_record_is_durable(autojump_clock: MockClock) -> None:
    async with world(2, manual=True) as server:
        first, second = (process.writer for process in server.processes)
        leaf, root = server.id_of(0, "leaf"), server.id_of(1, "root")
        server.ask(0, CreatePromise(leaf, FAR_MS))
        await settle()
        server.ask(0, CreateCallback(leaf, root, FAR_MS, WORKER))
        await settle()
        await trio.sleep(0.1)
        first.make_all_durable()
        completed = server.ask(0, CompletePromise(leaf, RESOLVED))
        await trio.sleep(0.1)
        assert tasks_of(server, 1) == []
        assert not second.waiting, "nothing has come"
        first.make_all_durable()
        await trio.sleep(0.1)
        assert tasks_of(server, 1) == [task_ids.resume_id(root, leaf)]
        assert completed.reply is not None, "it is received, which is enough"
        assert outbox_count(server) == 1
        second.make_all_durable()
        await trio.sleep(0.1)
        first.make_all_durable()
        assert outbox_count(server) == 0


async def test_an_answer_does_not_wait_for_a_group_that_is_gone(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        leaf, root = server.id_of(0, "leaf"), server.id_of(1, "root")
        await server.call(0, CreatePromise(leaf, FAR_MS))
        await server.call(0, CreateCallback(leaf, root, FAR_MS, WORKER))
        server.cut_off(1)
        await trio.sleep(0.1)
        completed = server.ask(0, CompletePromise(leaf, RESOLVED))
        await trio.sleep(0.1)
        assert completed.reply is not None
        assert tasks_of(server, 1) == []
        server.mend_all()
        await trio.sleep(1)
        assert tasks_of(server, 1) == [task_ids.resume_id(root, leaf)]
        assert outbox_count(server) == 0


async def test_an_answer_does_not_wait_for_a_group_that_dies_before_it_receives(
    autojump_clock: MockClock,
) -> None:
    async with world(2) as server:
        leaf, root = server.id_of(0, "leaf"), server.id_of(1, "root")
        await server.call(0, CreatePromise(leaf, FAR_MS))
        await server.call(0, CreateCallback(leaf, root, FAR_MS, WORKER))
        server.wires[0, 1].is_silent = True
        completed = server.ask(0, CompletePromise(leaf, RESOLVED))
        await trio.sleep(0.1)
        assert completed.reply is None, "it waits for the receipt"
        server.cut_off(1)
        await trio.sleep(0.1)
        assert completed.reply is not None


async def test_an_acknowledgment_that_was_lost_is_said_again(autojump_clock: MockClock) -> None:
    async with world(2, manual=True) as server:
        leaf, root = server.id_of(0, "leaf"), server.id_of(1, "root")
        server.ask(0, CreatePromise(leaf, FAR_MS))
        await settle()
        server.ask(0, CreateCallback(leaf, root, FAR_MS, WORKER))
        await settle()
        server.ask(0, CompletePromise(leaf, RESOLVED))
        await settle()
        server.processes[0].writer.make_all_durable()
        await trio.sleep(0.1)
        server.wires[1, 0].cut()  # the way of acknowledgments, and not that of messages
        await trio.sleep(0.1)
        server.processes[1].writer.make_all_durable()
        await trio.sleep(0.1)
        assert outbox_count(server) == 1
        server.mend_all()
        await trio.sleep(1)
        server.processes[0].writer.make_all_durable()
        await settle()
        assert outbox_count(server) == 0


async def test_a_worker_hears_of_a_task_when_the_answer_is_written(
    autojump_clock: MockClock,
) -> None:
    async with world(2) as server:
        far = server.processes[1]
        name = server.id_of(1, "work")
        held = server.processes[0].shards.hold()
        asked = server.ask(0, CreatePromise(name, FAR_MS, tags={"resonate:invoke": WORKER}), held)
        await trio.sleep(0.1)
        assert asked.reply is not None
        assert far.outgoing.events == []
        held.release()
        await trio.sleep(0.1)
        assert far.outgoing.events == [("send", task_ids.invoke_id(name), 1)]


async def test_a_broken_link_lets_messages_go(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        far = server.processes[1]
        name = server.id_of(1, "work")
        held = server.processes[0].shards.hold()
        server.ask(0, CreatePromise(name, FAR_MS, tags={"resonate:invoke": WORKER}), held)
        await trio.sleep(0.1)
        server.cut_off(0)
        await trio.sleep(0.1)
        assert far.outgoing.events == [("send", task_ids.invoke_id(name), 1)]


async def test_a_message_waits_for_the_answer_in_a_third_group_too(
    autojump_clock: MockClock,
) -> None:
    async with world(3) as server:
        leaf, root = server.id_of(1, "leaf"), server.id_of(2, "root")
        await server.call(0, CreatePromise(root, FAR_MS))
        await server.call(0, CreatePromise(leaf, FAR_MS))
        await server.call(0, CreateCallback(leaf, root, FAR_MS, WORKER))
        held = server.processes[0].shards.hold()
        completed = server.ask(0, CompletePromise(leaf, RESOLVED), held)
        await trio.sleep(0.1)
        assert completed.reply is not None
        assert tasks_of(server, 2) == [task_ids.resume_id(root, leaf)]
        assert server.processes[2].outgoing.events == []
        held.release()
        await trio.sleep(0.1)
        assert server.processes[2].outgoing.events == [("send", tasks_of(server, 2)[0], 1)]


@pytest.mark.seeds
@pytest.mark.parametrize("seed", seeds(0, 2, 60))
async def test_every_message_arrives_once_however_links_break(
    autojump_clock: MockClock, seed: int
) -> None:
    luck = Random(seed)
    async with world(3, seed=seed, delay_s=0.05) as server:
        wanted: dict[int, list[str]] = {0: [], 1: [], 2: []}
        for number in range(PAIRS_COUNT):
            source, target = luck.sample(range(3), 2)
            leaf = server.id_of(source, f"leaf-{number}")
            root = server.id_of(target, f"root-{number}")
            await server.call(source, CreatePromise(leaf, FAR_MS))
            await server.call(source, CreateCallback(leaf, root, FAR_MS, WORKER))
            wanted[target].append(task_ids.resume_id(root, leaf))
            if luck.random() < 0.5:
                server.wires[source, target].cut()
            if luck.random() < 0.3:
                server.cut_off(luck.randrange(3))
            await server.call(source, CompletePromise(leaf, RESOLVED))
            await trio.sleep(luck.random() * 0.1)
            if luck.random() < 0.5:
                server.mend_all()
        server.mend_all()
        await trio.sleep(5)
        for target, ids in wanted.items():
            assert sorted(tasks_of(server, target)) == sorted(ids)
        assert outbox_count(server) == 0


async def test_schedules_make_promises_in_other_groups(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        # A schedule lives by its whole id, its promises by their origins.
        for number in range(8):
            name = f"every-{number}"
            reply = await server.call(
                number % 2, CreateSchedule(name, "* * * * *", f"{name}-{{{{.timestamp}}}}", 1000)
            )
            assert reply.code is Code.CREATED
        await trio.sleep(130)
        made = [
            (state.index, name)
            for process in server.processes
            for state in process.shards.states()
            for name in state.promises
        ]
        assert len(made) == 16
        for index, name in made:
            assert server.processes[0].shards.shard_of(name) == index
        assert outbox_count(server) == 0


async def test_what_is_not_durable_is_not_sent_again_either(autojump_clock: MockClock) -> None:
    async with world(2, manual=True) as server:
        first = server.processes[0].writer
        leaf, root = server.id_of(0, "leaf"), server.id_of(1, "root")
        server.ask(0, CreatePromise(leaf, FAR_MS))
        await settle()
        server.ask(0, CreateCallback(leaf, root, FAR_MS, WORKER))
        await settle()
        first.make_all_durable()
        server.cut_off(1)
        await trio.sleep(0.1)
        server.ask(0, CompletePromise(leaf, RESOLVED))
        await trio.sleep(0.1)
        server.mend_all()
        await trio.sleep(1)
        assert outbox_count(server) == 1
        assert tasks_of(server, 1) == []
        first.make_all_durable()
        await trio.sleep(0.1)
        assert tasks_of(server, 1) == [task_ids.resume_id(root, leaf)]


async def test_ids_of_one_group_that_follow_each_other_are_one_stretch(
    autojump_clock: MockClock,
) -> None:
    """A request about many promises is cut only where the next lives in another process."""
    async with world(2) as server:
        ids = [server.id_of(group, f"p{place}") for place, group in enumerate((0, 0, 1, 0, 1, 1))]
        for process in server.processes:
            found = list(process.shards.stretches(ids))
            assert found == [range(2), range(2, 3), range(3, 4), range(4, 6)]
            assert list(process.shards.stretches([])) == [range(0)]
