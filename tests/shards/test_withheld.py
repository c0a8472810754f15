"""Tasks of disabled accounts do not start; those of others do, and those that run go on."""

from random import Random

import pytest

from troth.shards.placement.executions import Stage

from .placement_world import FakeNode, World


def test_what_waits_for_a_node_starts_when_its_account_is_enabled_again() -> None:
    world = World()
    node = world.node("n", "b", shared=True)
    running = world.create("running")
    first, second = world.create("first"), world.create("second")
    other = world.create("other", "b")
    node.take()

    world.placement.withhold({"a"})
    later = world.create("later")
    world.check()
    assert world.placement.waiting_count("a") == 3
    assert world.placement.statistics().withheld_count == 3
    assert world.placement.oldest_waiting_ms("a") == 3  # since `first`, a millisecond a task
    assert dict(world.placement.statistics().waiting_by_account) == {"a": 3, "b": 1}
    node.take()
    assert node.cancels() == [], "what runs goes on"
    world.finish(running)
    node.take()
    world.finish(other)
    assert node.runs() == ["running", "other"]

    world.finish(second)  # canceled, or its time is over
    world.placement.withhold(set())
    world.check()
    node.take()
    assert node.runs() == ["running", "other", "first"]
    world.finish(first)
    assert world.place_of(later) == "n"
    assert world.placement.statistics().withheld_count == 0


def test_what_was_not_written_to_the_node_yet_is_taken_back() -> None:
    world = World()
    node, slow = world.node("n", "b", shared=True), world.node("slow", "b", shared=True)
    unread, read = world.create("unread"), world.create("read")
    by_place = {world.place_of(unread): unread, world.place_of(read): read}
    slow.read()

    world.placement.withhold({"a"})
    world.check()
    assert world.place_of(by_place["n"]) is None
    assert world.place_of(by_place["slow"]) == "slow"
    assert slow.connection is not None
    slow.connection.confirm()
    assert [sent.id for sent in world.sent] == [world.tasks[by_place["slow"]].id]
    node.take()
    assert node.runs() == []

    world.placement.withhold(())
    node.take()
    assert len(node.runs()) == 1
    world.check()


def test_a_task_that_comes_back_is_withheld() -> None:
    world = World()
    node = world.node("n", "b", shared=True)
    task = world.create("t")
    node.take()
    world.placement.withhold({"a"})

    world.again(task)

    assert world.place_of(task) is None
    node.take()
    assert node.runs() == ["t"]
    world.placement.withhold(())
    assert world.place_of(task) == "n"


def test_calls_are_withheld_too() -> None:
    world = World(calls_per_host_count=1)
    first = world.create("first", url="http://x/")
    second = world.create("second", url="http://x/")
    world.placement.withhold({"a"})
    third = world.create("third", url="http://y/")

    assert [execution.promise_id for execution in world.calls.begun] == [first]
    assert world.calls.stopped == []
    world.claim(first)
    world.placement.call_ended(world.calls.begun[0])
    world.placement.finished([first])
    assert len(world.calls.begun) == 1

    world.placement.withhold(())
    assert [execution.promise_id for execution in world.calls.begun] == [first, second, third]


def test_nothing_starts_until_it_is_known_who_is_disabled() -> None:
    world = World()
    world.placement.withhold(None)
    node = world.node("n", "b", shared=True)
    world.create("a")
    world.create("b", "b")
    world.create("call", url="http://x/")
    node.take()
    assert (node.runs(), world.calls.begun) == ([], [])

    world.placement.withhold({"a"})

    node.take()
    assert node.runs() == ["b"]
    assert world.calls.begun == []


@pytest.mark.parametrize("seed", range(20))
def test_in_random_order_nothing_withheld_starts_and_nothing_is_lost(seed: int) -> None:
    random = Random(seed)
    world = World(calls_count=3)
    accounts = ["a", "b", "c"]
    for number in range(4):
        world.node(f"n{number}", random.choice(accounts), slots=2, shared=random.random() < 0.6)
    withheld: set[str] = set()
    for number in range(400):
        started = {
            promise_id
            for promise_id, execution in world.placement._executions.items()
            if execution.stage is not Stage.QUEUED
        }
        deed = random.choice(["create"] * 3 + ["finish", "take", "take", "withhold", "drop"])
        node: FakeNode = random.choice(list(world.nodes.values()))
        assert node.connection is not None
        if deed == "create":
            url = random.choice([None, None, "http://x/"])
            world.create(f"t{number}", random.choice(accounts), url=url)
        elif deed == "finish" and world.tasks:
            promise_id = random.choice(list(world.tasks))
            world.finish(promise_id)
            for call in [one for one in world.calls.begun if one.promise_id == promise_id]:
                world.placement.call_ended(call)
        elif deed == "take":
            node.take()
        elif deed == "withhold":
            withheld = {account for account in accounts if random.random() < 0.4}
            world.placement.withhold(withheld)
        elif deed == "drop":
            node.connection.close()
            world.connect(node)
        world.check()
        for promise_id, execution in world.placement._executions.items():
            if execution.account_id in withheld and promise_id not in started:
                assert execution.stage is Stage.QUEUED

    world.placement.withhold(())
    assert world.placement.statistics().withheld_count == 0
    world.check()
