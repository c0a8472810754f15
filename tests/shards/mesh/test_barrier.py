"""The barrier of a snapshot: cuts of all groups in which no effect is without its cause."""

from random import Random

import pytest
import trio
from trio.testing import MockClock

from tests.helpers.seeds import seeds
from tests.shards.stage import FAR_MS, WORKER, settle
from tests.simulation.checks import faults_of_cut
from troth.core import records
from troth.core.commands import CompletePromise, CreateCallback, CreatePromise
from troth.core.model import RESOLVED
from troth.core.state.apply import replay
from troth.core.state.shard_state import ShardState

from .world import Process, World, world

ROUNDS_COUNT = 12


def states_at(process: Process, count: int) -> list[ShardState]:
    """Return a group's states after so many records of its log."""
    shard_of = process.shards.shard_of
    found = {index: ShardState(index, shard_of) for index in process.mesh.own}
    for shard, _, body in process.writer.written[:count]:
        replay(found[shard], records.decode(body))
    return list(found.values())


async def work(server: World, luck: Random) -> None:
    """Complete promises of all groups that resume others, again and again."""
    count = len(server.processes)
    number = 0
    while True:
        number += 1
        leaf = server.id_of(luck.randrange(count), f"leaf-{number}")
        root = server.id_of(luck.randrange(count), f"root-{number}")
        for name in (leaf, root):
            server.ask(0, CreatePromise(name, FAR_MS))
        await trio.sleep(luck.random() * 0.01)
        server.ask(luck.randrange(count), CreateCallback(leaf, root, FAR_MS, WORKER))
        await trio.sleep(luck.random() * 0.01)
        server.ask(luck.randrange(count), CompletePromise(leaf, RESOLVED))


async def write(process: Process, luck: Random) -> None:
    """Let a group's log become durable now and then."""
    while True:
        await trio.sleep(luck.random() * 0.006)
        process.shards.committer.want()
        process.writer.make_all_durable()


async def cuts(server: World, luck: Random, *, holds: bool) -> list[int]:
    """Cut all groups, each when it hears of it; return how many records are in each cut."""
    found: list[int] = []
    for process in luck.sample(server.processes, len(server.processes)):
        await trio.sleep(luck.random() * 0.02)
        if holds:
            process.mesh.barrier.close("snapshot", 5_000)
        found.append(len(process.writer.written))
        found[-1] = found[-1] * len(server.processes) + process.place.process
    for process in server.processes:
        process.mesh.barrier.open("snapshot")
    count = len(server.processes)
    return [one // count for one in sorted(found, key=lambda one: one % count)]


async def faults_of(seed: int, *, holds: bool) -> list[str]:
    """Take snapshots under load; return what is wrong in any of them."""
    luck = Random(seed)
    found: list[str] = []
    async with world(3, 1, seed=seed, delay_s=0.004, manual=True) as server:
        for process in server.processes:
            server.nursery.start_soon(write, process, Random(luck.random()))
        server.nursery.start_soon(work, server, Random(luck.random()))
        for _ in range(ROUNDS_COUNT):
            await trio.sleep(luck.random() * 0.05)
            cut = await cuts(server, luck, holds=holds)
            states = [
                state
                for process, count in zip(server.processes, cut, strict=True)
                for state in states_at(process, count)
            ]
            found += faults_of_cut(states)
        assert sum(len(one.writer.written) for one in server.processes) > 100
        server.nursery.cancel_scope.cancel()
    return found


async def test_no_effect_is_without_its_cause(autojump_clock: MockClock) -> None:
    for seed in seeds(0, 2, 100):
        assert await faults_of(seed, holds=True) == [], f"seed {seed}"


async def test_a_snapshot_without_the_barrier_is_found_out(autojump_clock: MockClock) -> None:
    for seed in range(20):
        if await faults_of(seed, holds=False):
            return
    pytest.fail("no seed finds it")


async def test_it_holds_messages_and_answers_and_lets_them_go(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        leaf, root = server.id_of(0, "leaf"), server.id_of(1, "root")
        await server.call(0, CreatePromise(leaf, FAR_MS))
        await server.call(0, CreateCallback(leaf, root, FAR_MS, WORKER))
        barrier = server.processes[0].mesh.barrier
        barrier.close("snapshot", 10_000)
        near = server.ask(0, CreatePromise(server.id_of(0, "near"), FAR_MS))
        completed = server.ask(0, CompletePromise(leaf, RESOLVED))
        far = server.ask(1, CreatePromise(server.id_of(0, "far"), FAR_MS))
        await trio.sleep(0.1)
        assert near.reply is not None, "clients are not held"
        assert completed.reply is None, "it waits for the receipt"
        assert far.reply is None
        tasks = [task for state in server.processes[1].shards.states() for task in state.tasks]
        assert tasks == []
        barrier.open("snapshot")
        await trio.sleep(0.1)
        assert completed.reply is not None
        assert far.reply is not None
        tasks = [task for state in server.processes[1].shards.states() for task in state.tasks]
        assert len(tasks) == 1
        assert not any(len(state.outbox) for state in server.processes[0].shards.states())


async def test_it_opens_when_its_time_is_over(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        barrier = server.processes[1].mesh.barrier
        barrier.close("given up", 500)
        barrier.close("other", 100_000)
        asked = server.ask(0, CreatePromise(server.id_of(1, "made"), FAR_MS))
        await trio.sleep(1)
        assert asked.reply is None, "another snapshot has closed it too"
        assert barrier.open("other")
        await settle()
        assert asked.reply is not None
        assert not barrier.open("given up")


async def test_a_link_that_comes_up_behind_it_loses_nothing(
    autojump_clock: MockClock,
) -> None:
    async with world(2) as server:
        pairs = [(server.id_of(0, f"leaf-{n}"), server.id_of(1, f"root-{n}")) for n in range(4)]
        for leaf, root in pairs:
            await server.call(0, CreatePromise(leaf, FAR_MS))
            await server.call(0, CreateCallback(leaf, root, FAR_MS, WORKER))
        server.cut_off(1)
        await trio.sleep(0.2)
        for leaf, _ in pairs[:2]:
            await server.call(0, CompletePromise(leaf, RESOLVED))
        barrier = server.processes[0].mesh.barrier
        barrier.close("snapshot", 60_000)
        third = server.ask(0, CompletePromise(pairs[2][0], RESOLVED))
        server.mend_all()
        await server.until_linked()
        fourth = server.ask(0, CompletePromise(pairs[3][0], RESOLVED))
        await trio.sleep(0.5)
        barrier.open("snapshot")
        await trio.sleep(0.5)
        assert third.reply is not None
        assert fourth.reply is not None
        tasks = [task for state in server.processes[1].shards.states() for task in state.tasks]
        assert len(tasks) == 4
        assert not any(len(state.outbox) for state in server.processes[0].shards.states())
