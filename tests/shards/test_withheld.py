"""Tasks of disabled accounts do not start; those of others do, and those that run go on."""

from random import Random

import pytest
import trio
import trio.testing

from troth.core.catalog import execution_promise_id
from troth.shards.placement import withheld
from troth.shards.placement.executions import Host, Stage
from troth.shards.placement.node_connections import NodeMessage, NodeMessageKind

from .placement_world import FakeNode, World, running


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
    assert slow.connection is not None
    slow.connection.confirm()
    assert [sent.id for sent in world.sent] == [world.tasks[by_place["slow"]].id]
    assert node.take() == [NodeMessage(NodeMessageKind.HELLO)]
    world.check()
    assert world.place_of(by_place["n"]) is None
    assert world.place_of(by_place["slow"]) == "slow"

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


def test_what_was_claimed_before_it_was_written_is_not_taken_back() -> None:
    world = World()
    node = world.node("n", "b", shared=True)
    task = world.create("t")
    world.claim(task)
    world.placement.withhold({"a"})

    node.take()

    assert node.runs() == ["t"]
    world.check()


async def test_a_stream_that_had_all_taken_back_waits_for_the_next_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World()
    node = world.node("n", "b", shared=True)
    node.take()
    world.create("t")
    other = world.create("other", "b")
    world.placement.withhold({"a"})
    assert node.connection is not None

    # Room for the other came only while the first was taken back.
    messages = await node.connection.receive()

    assert [message.execution_id for message in messages] == ["other"]
    assert world.place_of(other) == "n"
    with trio.move_on_after(60) as waiting:
        await node.connection.receive()
    assert waiting.cancelled_caught


WAITING_COUNT = 4 * withheld.SLICE_COUNT


def many_of_one_account(world: World, url: str | None = None) -> list[str]:
    """What waits of account a, more than moves in one slice."""
    return [world.create(f"t{number}", url=url) for number in range(WAITING_COUNT)]


async def test_what_moves_starts_in_no_slice(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    many = many_of_one_account(world)
    other = world.create("other", "b")
    world.placement.withhold({"a"})
    assert world.placement.statistics().withheld_count == withheld.SLICE_COUNT
    world.check()
    node = world.node("n", "b", slots=2, shared=True)
    world.node("own", "a")
    world.check()
    assert world.placement.waiting_count("a") == WAITING_COUNT
    for promise_id, is_withheld in ((many[0], True), (many[-1], True), (other, False)):
        view = world.placement.look(promise_id)
        assert view is not None
        assert view.is_withheld is is_withheld
    world.finish(many[0])
    world.finish(many[-1])

    async with running(world):
        await trio.sleep(1)

    world.check()
    node.take()
    assert node.runs() == ["other"]
    assert world.placement.statistics().withheld_count == WAITING_COUNT - 2


@pytest.mark.parametrize("url", [None, "http://x/"])
async def test_what_is_released_starts_in_order_and_what_comes_in_between_is_last(
    url: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(calls_count=4 * WAITING_COUNT, calls_per_host_count=2 * WAITING_COUNT)
    world.placement.withhold({"a"})
    many = many_of_one_account(world, url)
    node = world.node("n", "a", slots=WAITING_COUNT + 1)

    world.placement.withhold(())
    late = world.create("late", url=url)
    assert world.placement.statistics().withheld_count == WAITING_COUNT + 1 - withheld.SLICE_COUNT
    world.check()
    async with running(world):
        await trio.sleep(1)

    node.take()
    started = node.runs() or [execution.id for execution in world.calls.begun]
    assert [execution_promise_id(name) for name in started] == [*many, late]
    world.check()


@pytest.mark.parametrize("url", [None, "http://x/"])
async def test_an_account_that_is_enabled_while_it_is_gathered_starts_in_order(
    url: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(calls_count=2)
    many = many_of_one_account(world, url)
    world.placement.withhold({"a"})
    world.placement.withhold(())
    late = world.create("late", url=url)
    node = world.node("n", "a", slots=WAITING_COUNT + 1)
    assert node.take() == [NodeMessage(NodeMessageKind.HELLO)]

    async with running(world):
        await trio.sleep(1)
        node.take()
        started = node.runs()
        for execution in world.calls.begun:  # which grows: when one ends, the next begins
            started.append(execution.id)
            world.finish(execution.promise_id)
            world.placement.call_ended(execution)

    assert [execution_promise_id(name) for name in started] == [*many, late]
    assert not world.placement.statistics().withheld_count
    world.check()


async def test_an_account_that_is_disabled_while_it_is_released_stops_there(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World()
    world.placement.withhold({"a"})
    many_of_one_account(world)
    world.placement.withhold(())
    world.placement.withhold({"a"})
    node = world.node("n", "a")
    world.check()

    async with running(world):
        await trio.sleep(1)

    assert node.take() == [NodeMessage(NodeMessageKind.HELLO)]
    assert world.placement.statistics().withheld_count == WAITING_COUNT
    world.check()


@pytest.mark.parametrize("seed", range(30))
async def test_in_random_order_nothing_withheld_starts_and_nothing_is_lost(
    seed: int, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    monkeypatch.setattr(withheld, "SLICE_COUNT", random.choice([1, 2, 5, 100]))
    world = World(calls_count=3)
    async with running(world):
        await play(world, random)
        world.placement.withhold(())
        await trio.sleep(1)
        assert world.placement.statistics().withheld_count == 0
        world.check()
        check_calls(world)


async def play(world: World, random: Random) -> None:
    """Let all kinds of things happen, and look after each whether what was promised holds."""
    accounts = ["a", "b", "c"]
    for number in range(4):
        world.node(f"n{number}", random.choice(accounts), slots=2, shared=random.random() < 0.6)
    disabled: set[str] = set()
    deeds = ["create"] * 4 + ["finish", "take", "take", "withhold", "drop", "wait"]
    for number in range(400):
        started = {
            promise_id
            for promise_id, execution in world.placement._executions.items()
            if execution.stage in STARTED
        }
        deed = random.choice(deeds)
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
            disabled = {account for account in accounts if random.random() < 0.4}
            world.placement.withhold(disabled)
        elif deed == "drop":
            node.connection.close()
            world.connect(node)
        elif deed == "wait":  # a slice, perhaps
            await trio.lowlevel.checkpoint()
        world.check()
        check_calls(world)
        for promise_id, execution in world.placement._executions.items():
            if execution.account_id in disabled and promise_id not in started:
                assert execution.stage not in STARTED


STARTED = (Stage.SENT, Stage.RUNNING)


def check_calls(world: World) -> None:
    """While there is room for a call, none waits that may begin."""
    gates = world.placement._gates
    waiting = [
        execution
        for execution in world.placement._executions.values()
        if execution.stage is Stage.QUEUED
        and isinstance(execution.need, Host)
        and not world.placement._withheld.holds(execution)
    ]
    assert len(waiting) == gates.waiting_count
    for account_id in {execution.account_id for execution in waiting}:
        count = sum(execution.account_id == account_id for execution in waiting)
        assert gates.waiting_count_of(account_id) == count
    if gates.running_count == 0 and not world.placement._withheld.is_moving:
        assert not waiting
