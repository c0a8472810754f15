"""Calls of HTTP functions take turns, and whoever waits for a function task is woken."""

from random import Random

import pytest
import trio
import trio.testing

from troth.shards.placement.endings import Endings
from troth.shards.placement.executions import Host

from .placement_world import World, running


def test_calls_are_limited_by_host_and_wait_for_each_other() -> None:
    world = World(calls_count=8, calls_per_host_count=2)
    for number in range(4):
        world.create(f"x{number}", url="https://x.example/f")
    world.create("y0", url="https://Y.example:8443/g?q=1")
    assert [execution.id for execution in world.calls.begun] == ["x0", "x1", "y0"]
    assert world.placement.waiting_count("a") == 2

    first = world.calls.begun[0]
    world.placement.ending(first.promise_id, 1)
    world.finish(first.promise_id)
    assert len(world.calls.begun) == 3, "its place is free when the call has really ended"
    world.placement.call_ended(first)

    assert [execution.id for execution in world.calls.begun] == ["x0", "x1", "y0", "x2"]
    assert world.calls.stopped == []


def test_one_account_takes_at_most_half_of_all_places() -> None:
    world = World(calls_count=8, calls_per_host_count=2)
    for number in range(20):
        world.create(f"a{number:02}", "a", url=f"https://{number}.example/")
    assert len(world.calls.begun) == 4
    world.create("b0", "b", url="https://b.example/")
    assert world.calls.begun[-1].id == "b0"
    assert world.placement.statistics().waiting_calls_count == 16


def test_a_canceled_call_is_stopped_and_one_that_waits_is_forgotten() -> None:
    world = World(calls_count=2, calls_per_host_count=1)
    running = world.create("x0", url="https://x.example/")
    waiting = world.create("x1", url="https://x.example/")
    world.create("x2", url="https://x.example/")
    world.finish(waiting)
    world.finish(running)
    assert [execution.id for execution in world.calls.stopped] == ["x0"]
    world.placement.call_ended(world.calls.begun[0])
    assert [execution.id for execution in world.calls.begun] == ["x0", "x2"]


def test_a_call_whose_lease_ran_out_is_stopped_and_made_again() -> None:
    world = World()
    promise_id = world.create("x0", url="https://x.example/")
    world.again(promise_id)
    assert [execution.counter for execution in world.calls.stopped] == [1]
    assert [execution.counter for execution in world.calls.begun] == [1, 2]
    world.placement.call_ended(world.calls.begun[0])
    world.finish(promise_id)
    world.placement.call_ended(world.calls.begun[1])
    assert world.placement.statistics().running_calls_count == 0


async def test_a_call_that_ended_before_it_had_a_lease_is_made_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World(calls_count=2, calls_per_host_count=1)
    async with running(world):
        world.create("x0", url="https://x.example/")
        world.create("x1", url="https://x.example/")
        world.placement.call_ended(world.calls.begun[0])
        assert [execution.id for execution in world.calls.begun] == ["x0", "x1"]
        await trio.sleep(2)
        assert len(world.calls.begun) == 2, "its host has another call now"

        world.placement.call_ended(world.calls.begun[1])
        assert [execution.id for execution in world.calls.begun] == ["x0", "x1", "x0"]
        await trio.sleep(2)
        assert len(world.calls.begun) == 3
        world.placement.call_ended(world.calls.begun[2])
        assert [execution.id for execution in world.calls.begun[3:]] == ["x1"]
        assert world.calls.stopped == []
        world.check()


@pytest.mark.parametrize("comes", ["before", "after"])
async def test_a_call_that_ended_with_a_lease_is_left_to_the_shards(
    comes: str, autojump_clock: trio.testing.MockClock
) -> None:
    world = World()
    async with running(world):
        promise_id = world.create("x0", url="https://x.example/")
        if comes == "before":
            world.claim(promise_id)
        world.placement.call_ended(world.calls.begun[0])
        if comes == "after":
            world.claim(promise_id)
        await trio.sleep(10)
        assert len(world.calls.begun) == 1
        assert world.placement.look(promise_id) is None
        world.again(promise_id)
        assert [execution.counter for execution in world.calls.begun] == [1, 2]


@pytest.mark.parametrize("deed", ["finish", "again", "withhold"])
async def test_what_happens_before_a_call_is_made_again_counts(
    deed: str, autojump_clock: trio.testing.MockClock
) -> None:
    world = World()
    async with running(world):
        promise_id = world.create("x0", url="https://x.example/")
        world.placement.call_ended(world.calls.begun[0])
        if deed == "withhold":
            world.placement.withhold({"a"})
        else:
            getattr(world, deed)(promise_id)
        await trio.sleep(10)
        counters = [execution.counter for execution in world.calls.begun]
        assert counters == ([1, 2] if deed == "again" else [1])
        assert world.calls.stopped == []
        if deed == "withhold":
            world.placement.withhold(())
            assert len(world.calls.begun) == 2
        world.check()


@pytest.mark.parametrize("seed", range(20))
def test_calls_in_random_order_lose_none_and_leave_nothing(seed: int) -> None:
    random = Random(seed)
    world = World(calls_count=6, calls_per_host_count=2)
    alive: list[str] = []
    over: set[int] = set()
    gates = world.placement._gates
    for number in range(400):
        deed = random.choice(["create", "create", "end", "finish"])
        running = [execution for execution in world.calls.begun if id(execution) not in over]
        if deed == "create":
            host = random.choice("pqrst")
            alive.append(
                world.create(str(number), random.choice("abc"), url=f"https://{host}.example")
            )
        elif deed == "end" and running:
            execution = random.choice(running)
            over.add(id(execution))
            if execution.promise_id in alive:
                alive.remove(execution.promise_id)
                world.finish(execution.promise_id)
            world.placement.call_ended(execution)
        elif deed == "finish" and alive:
            world.finish(alive.pop(random.randrange(len(alive))))
        running = [execution for execution in world.calls.begun if id(execution) not in over]
        assert gates.running_count == len(running) <= 6
        for account in "abc":
            assert sum(execution.account_id == account for execution in running) <= 3
        for host in "pqrst":
            assert sum(execution.need == Host(f"{host}.example") for execution in running) <= 2
    for promise_id in alive:
        world.finish(promise_id)
    while running := [execution for execution in world.calls.begun if id(execution) not in over]:
        over.add(id(running[0]))
        world.placement.call_ended(running[0])
    assert not gates._hosts
    assert not gates._accounts
    assert not gates._waiting
    assert gates.waiting_count == 0
    assert not len(gates._ready)


async def test_an_end_wakes_everybody_who_waits_for_it_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endings = Endings(limit_count=2)
    started = trio.current_time()
    with endings.expect("p") as one, endings.expect("p") as two, endings.expect("p") as too_many:
        endings.ended("q")
        endings.ended("p")
        await one.wait(60)
        await two.wait(60)
        await too_many.wait(60)
    assert trio.current_time() == started
    assert endings.waiting_count == 0

    with endings.expect("p") as one:
        await one.wait(2.5)
    assert trio.current_time() == started + 2.5
    endings.close()
    with endings.expect("p") as one:
        await one.wait(60)
    assert trio.current_time() == started + 2.5
