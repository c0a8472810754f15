"""Placement: who gets which task, and what happens when nodes come, go, fail and fall silent."""

import time
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from tests.helpers.seeds import seeds
from troth.core.catalog import Capabilities, Language
from troth.core.commands import TaskSent
from troth.core.grammar.task_ids import invoke_id
from troth.core.model import replace
from troth.shards.placement.executions import Offer, Requirement
from troth.shards.placement.node_connections import ConnectionEnded, NodeMessage, NodeMessageKind

from .placement_world import FakeNode, World

RUN = NodeMessageKind.RUN


def test_a_task_goes_to_a_free_node_and_counts_as_sent_when_it_is_written() -> None:
    world = World()
    node = world.node("n")
    promise_id = world.create("t1")

    assert node.read() == [NodeMessage(NodeMessageKind.HELLO), NodeMessage(RUN, "t1", 1)]
    assert world.sent == []
    assert node.connection is not None
    node.connection.confirm()

    assert world.sent == [TaskSent(invoke_id(promise_id), 1)]
    assert world.placement.find_with("n", promise_id, 1) is not None
    assert world.placement.find_with("n", promise_id, 2) is None
    assert world.placement.find_with("other", promise_id, 1) is None


def test_a_task_waits_for_a_node_and_goes_when_it_connects() -> None:
    world = World()
    world.create("t1")
    node = world.node("n", connected=False)
    assert world.placement.waiting_count("a") == 1

    world.connect(node)

    assert node.take()[-1] == NodeMessage(RUN, "t1", 1)
    assert world.placement.waiting_count("a") == 0


def test_a_node_has_no_more_tasks_than_slots_and_gets_the_next_when_one_ends() -> None:
    world = World()
    node = world.node("n", slots=2)
    first, _, _ = [world.create(name) for name in ("t1", "t2", "t3")]
    node.take()
    assert node.runs() == ["t1", "t2"]

    world.placement.ending(first, 1)
    world.finish(first)
    node.take()

    assert node.runs() == ["t1", "t2", "t3"]
    assert node.cancels() == []


def test_a_node_gets_the_next_task_while_its_result_is_made_durable() -> None:
    world = World()
    node = world.node("n")
    first, second, third = [world.create(name) for name in ("t1", "t2", "t3")]
    node.take()

    world.placement.ending(first, 1)
    world.placement.ending(first, 1)
    node.take()
    assert node.runs() == ["t1", "t2"]
    world.check()
    # Refused after all: it has one too many, so there is no room when one of them ends.
    world.placement.ending(first, 1, is_ending=False)
    world.finish(second)
    assert world.place_of(third) is None

    world.placement.ending(first, 1)
    world.finish(first)
    node.take()
    assert node.runs() == ["t1", "t2", "t3"]
    world.finish(third)
    world.check()
    assert not world.placement._queues._accounts


def test_what_is_canceled_is_told_to_the_node_at_once_and_frees_its_slot() -> None:
    world = World()
    node = world.node("n")
    first = world.create("t1")
    world.create("t2")
    node.take()

    world.finish(first)

    assert node.take() == [NodeMessage(NodeMessageKind.CANCEL, "t1", 1), NodeMessage(RUN, "t2", 1)]


def test_a_node_is_not_told_of_a_task_that_ended_before_it_was_written() -> None:
    world = World()
    node = world.node("n")
    first = world.create("t1")

    world.finish(first)

    assert node.take() == [NodeMessage(NodeMessageKind.HELLO)]


def test_a_task_that_ends_while_its_message_is_written_is_canceled_and_was_not_sent() -> None:
    world = World()
    node = world.node("n")
    world.create("t1")
    node.read()
    world.finish("troth:task/t1")
    assert node.connection is not None
    node.connection.confirm()
    assert world.sent == []
    node.take()
    assert node.cancels() == [("t1", 1)]


def test_of_two_changes_of_a_node_the_later_one_counts() -> None:
    world = World()
    node = world.node("n")
    entry = world.placement.nodes["n"].entry
    world.placement.put_node(replace(entry, revision=entry.revision + 2, draining=True))
    world.placement.put_node(replace(entry, revision=entry.revision + 1))
    world.create("t1")
    node.take()
    assert node.runs() == []


def test_many_that_wait_and_go_leave_the_others_in_their_order() -> None:
    world = World()
    for number in range(300):
        world.create(f"t{number:03}")
    for number in range(300):
        if number % 100:
            world.placement.withdraw(invoke_id(f"troth:task/t{number:03}"))
    node = world.node("n", slots=10)
    node.take()
    assert node.runs() == ["t000", "t100", "t200"]


def test_a_result_that_was_refused_leaves_the_node_to_be_told() -> None:
    world = World()
    node = world.node("n")
    first = world.create("t1")
    node.take()
    world.placement.ending(first, 1)
    world.placement.ending(first, 1, is_ending=False)

    world.finish(first)

    assert node.take() == [NodeMessage(NodeMessageKind.CANCEL, "t1", 1)]


@pytest.mark.parametrize("change", ["disabled", "draining", "deleted"])
def test_nodes_that_must_not_work_get_nothing(change: str) -> None:
    world = World()
    node = world.node("n")
    world.change(node, **{change: True})
    world.create("t1")
    world.check()
    assert world.placement.waiting_count("a") == 1

    world.change(node, **{change: False})
    if change == "deleted":
        world.connect(node)
    node.take()

    assert node.runs() == ["t1"]


def test_a_node_works_for_its_account_alone_unless_it_is_shared() -> None:
    world = World()
    own = world.node("own", "a")
    world.create("b1", "b")
    assert own.take() == [NodeMessage(NodeMessageKind.HELLO)]

    shared = world.node("shared", "a", shared=True)
    shared.take()

    assert shared.runs() == ["b1"]


def test_an_account_uses_its_own_nodes_before_shared_ones() -> None:
    world = World()
    shared = world.node("shared", "operator", shared=True)
    own = world.node("own", "a")
    world.create("t1")
    assert own.take()[-1] == NodeMessage(RUN, "t1", 1)
    assert shared.take() == [NodeMessage(NodeMessageKind.HELLO)]


@pytest.mark.parametrize(
    ("offers", "wanted", "meets"),
    [
        ({}, {}, True),
        ({"cpu_count": 2}, {"cpu_count": 2}, True),
        ({"cpu_count": 1}, {"cpu_count": 2}, False),
        ({"memory_mb": 512}, {"memory_mb": 512}, True),
        ({"memory_mb": 511}, {"memory_mb": 512}, False),
        ({"network_latency_ms": 20}, {"network_latency_ms": 20}, True),
        ({"network_latency_ms": 21}, {"network_latency_ms": 20}, False),
        ({"network_latency_ms": 9_999}, {}, True),
        ({"privileged": True}, {"privileged": True}, True),
        ({"privileged": False}, {"privileged": True}, False),
        ({"privileged": True}, {}, True),
        ({"timeout_s": 10}, {"timeout_s": 120}, True),
    ],
)
def test_capabilities_decide_and_zero_demands_nothing(
    offers: dict[str, Any], wanted: dict[str, Any], *, meets: bool
) -> None:
    world = World()
    node = world.node("n", **offers)
    world.create("t1", **wanted)
    node.take()

    assert (node.runs() == ["t1"]) == meets


def test_the_language_decides() -> None:
    offer = Offer(frozenset({Language.JAVASCRIPT}), Capabilities())
    assert not offer.meets(Requirement(Language.PYTHON))
    assert offer.meets(Requirement(Language.JAVASCRIPT))


def test_a_task_goes_to_the_node_that_is_just_enough() -> None:
    world = World()
    big = world.node("big", cpu_count=4, memory_mb=2048)
    small = world.node("small", cpu_count=1, memory_mb=256)
    world.create("t1", cpu_count=1)
    small.take()
    big.take()
    assert small.runs() == ["t1"]
    assert big.runs() == []


def test_a_task_that_nobody_can_run_does_not_hold_up_those_behind_it() -> None:
    world = World()
    world.create("heavy", memory_mb=4_096)
    world.create("light")
    node = world.node("n", memory_mb=512)
    node.take()
    assert node.runs() == ["light"]


def test_within_an_account_the_oldest_goes_first_also_when_it_comes_back() -> None:
    world = World()
    node = world.node("n")
    first, _, _ = [world.create(name) for name in ("t1", "t2", "t3")]
    node.take()
    world.again(first)  # its lease ran out; t2 has the node now, or t1 again: it is the older
    node.take()
    assert node.runs() == ["t1", "t2"]
    assert node.cancels() == [("t1", 1)]
    world.finish("troth:task/t2")
    node.take()
    assert node.runs() == ["t1", "t2", "t1"]


def test_the_account_with_the_fewest_running_goes_next() -> None:
    world = World()
    node = world.node("n", slots=4, shared=True, connected=False)
    for number in range(10):
        world.create(f"a{number}", "a")
    for number in range(2):
        world.create(f"b{number}", "b")
    world.connect(node)
    node.take()
    assert sorted(node.runs()) == ["a0", "a1", "b0", "b1"]


def test_what_an_account_has_running_counts_more_than_how_long_it_has_waited() -> None:
    world = World()
    node = world.node("n", slots=3, shared=True)
    for number in range(4):
        world.create(f"a{number}", "a")
    world.create("b0", "b")
    node.take()
    world.finish("troth:task/a0")
    node.take()
    assert node.runs() == ["a0", "a1", "a2", "b0"]


def test_accounts_with_equally_many_take_turns_on_a_single_slot() -> None:
    world = World()
    node = world.node("n", shared=True, connected=False)
    for number in range(50):
        world.create(f"a{number:02}", "a")
    world.create("b0", "b")
    world.create("b1", "b")
    world.connect(node)
    for _ in range(5):
        node.take()
        world.finish(f"troth:task/{node.runs()[-1]}")
    assert node.runs()[:5] == ["a00", "b0", "a01", "b1", "a02"]


def test_what_a_stream_had_not_written_goes_elsewhere() -> None:
    world = World()
    first, second = world.node("n1"), world.node("n2", connected=False)
    world.create("t1")
    first.read()
    world.connect(second)
    assert first.connection is not None

    first.connection.close()
    second.take()

    assert second.runs() == ["t1"]
    assert [report.counter for report in world.sent] == [1]
    first.connection.confirm()  # too late
    assert len(world.sent) == 1


def test_what_was_written_stays_with_the_node_when_its_stream_ends() -> None:
    world = World()
    first = world.node("n1")
    second = world.node("n2", connected=False)
    promise_id = world.create("t1")
    first.take()
    world.connect(second)
    assert first.connection is not None
    first.connection.close()
    assert second.take() == [NodeMessage(NodeMessageKind.HELLO)]
    assert world.placement.find_with("n1", promise_id, 1) is not None

    world.again(promise_id)  # not claimed in time
    second.take()

    assert second.runs() == ["t1"]


def test_a_newer_stream_replaces_the_older_and_gets_what_that_had_not_written() -> None:
    world = World()
    node = world.node("n")
    world.create("t1")
    older = node.connection
    world.connect(node)
    assert older is not None
    assert older.is_closed
    node.take()
    assert node.runs() == ["t1"]


def test_a_claim_before_the_stream_has_confirmed_keeps_the_slot() -> None:
    world = World()
    node = world.node("n")
    promise_id = world.create("t1")
    world.create("t2")
    node.read()
    world.placement.withdraw(invoke_id(promise_id))
    world.placement.assigned(promise_id, 1)
    assert node.connection is not None
    node.connection.confirm()
    assert world.sent == []
    assert world.placement.find_with("n", promise_id, 1) is not None
    node.take()
    assert node.runs() == ["t1"]


def test_a_task_that_is_withdrawn_while_it_waits_is_forgotten() -> None:
    world = World()
    promise_id = world.create("t1")
    world.placement.withdraw(invoke_id(promise_id))
    node = world.node("n")
    assert node.take() == [NodeMessage(NodeMessageKind.HELLO)]
    world.placement.withdraw("no task at all")


def test_an_older_message_than_the_known_one_is_ignored() -> None:
    world = World()
    promise_id = world.create("t1")
    task = world.tasks[promise_id]
    task.counter = 5
    world.send(promise_id)
    task.counter = 4
    world.send(promise_id)
    node = world.node("n")
    assert node.take()[-1] == NodeMessage(RUN, "t1", 5)


def test_what_ran_at_a_restart_takes_its_slot_again() -> None:
    world = World()
    promise_id = world.create("t1")
    plan = world.plans[promise_id]
    fresh = World()
    node = fresh.node("n", connected=False)
    fresh.placement.restore(promise_id, 3, plan, "n", 17)
    fresh.placement.restore(promise_id, 3, plan, "n", 17)
    fresh.placement.restore("troth:task/gone", 1, plan, "unknown", 17)
    fresh.connect(node)
    fresh.create("t2")
    assert node.take() == [NodeMessage(NodeMessageKind.HELLO)]
    assert fresh.placement.find_with("n", promise_id, 3) is not None

    fresh.placement.finished([promise_id])

    assert node.take()[-1] == NodeMessage(RUN, "t2", 1)


async def test_a_node_that_gives_a_task_back_rests_a_moment(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World()
    node = world.node("n")
    promise_id = world.create("t1")
    node.take()
    async with trio.open_nursery() as nursery:
        await nursery.start(world.placement.run)
        world.placement.returned("n", promise_id, 1)
        world.again(promise_id)
        assert world.placement.waiting_count("a") == 1
        await trio.sleep(1.5)
        node.take()
        nursery.cancel_scope.cancel()
    assert node.runs() == ["t1", "t1"]
    assert node.cancels() == []


async def test_a_connection_waits_for_messages_and_ends() -> None:
    world = World()
    node = world.node("n")
    connection = node.connection
    assert connection is not None
    assert await connection.receive() == [NodeMessage(NodeMessageKind.HELLO)]
    connection.confirm()
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            assert await connection.receive() == [NodeMessage(RUN, "t1", 1)]
            connection.confirm()
            with pytest.raises(ConnectionEnded):
                await connection.receive()

        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        world.create("t1")
        await trio.testing.wait_all_tasks_blocked()
        connection.close()
        connection.close()


def test_the_statistics_say_who_waits_and_for_how_long() -> None:
    world = World(calls_count=2, calls_per_host_count=1)
    world.node("n", slots=2)
    world.node("away", connected=False)
    for name in ("t1", "t2", "t3", "t4"):
        world.create(name, "a")
    world.create("x1", "b", url="https://x.example/")
    world.create("x2", "b", url="https://x.example/")
    world.now_ms += 500
    told = world.placement.statistics()
    assert (told.waiting_count, told.waiting_calls_count) == (2, 1)
    assert (told.running_count, told.running_calls_count) == (2, 1)
    assert (told.nodes_count, told.nodes_connected_count) == (2, 1)
    assert (told.nodes_free_count, told.nodes_busy_count) == (0, 1)
    assert told.waiting_by_account == (("a", 2), ("b", 1))
    assert told.running_by_account == (("a", 2),)
    assert told.oldest_waiting_ms == world.placement.oldest_waiting_ms("a") == 503
    assert world.placement.oldest_waiting_ms("b") == 500
    assert world.placement.oldest_waiting_ms("nobody") == 0


# --- at random, and many --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.seeds
@pytest.mark.parametrize("seed", seeds(0, 4, 30))
def test_in_random_order_every_promise_holds_and_no_account_starves(seed: int) -> None:
    random = Random(seed)
    world = World()
    accounts = ["a", "b", "c"]
    for number in range(6):
        world.node(
            f"n{number}",
            random.choice(accounts),
            slots=random.choice([1, 1, 2, 3]),
            shared=random.random() < 0.4,
            cpu_count=random.choice([0, 1, 4]),
            memory_mb=random.choice([0, 256, 2048]),
            privileged=random.random() < 0.3,
        )
    number = 0
    for _ in range(600):
        deed = random.choice(
            ["create"] * 4
            + ["finish"] * 2
            + ["take"] * 3
            + ["again", "drop", "change", "claim", "result"]
        )
        node: FakeNode = random.choice(list(world.nodes.values()))
        placed = [promise_id for promise_id in world.tasks if world.place_of(promise_id)]
        if deed == "create":
            number += 1
            world.create(
                f"t{number}",
                random.choice(accounts),
                cpu_count=random.choice([0, 0, 1, 4]),
                memory_mb=random.choice([0, 0, 256, 2048]),
                privileged=random.random() < 0.1,
            )
        elif deed == "finish" and world.tasks:
            world.finish(random.choice(list(world.tasks)))
        elif deed == "take" and node.connection is not None and not node.connection.is_closed:
            node.take()
        elif deed == "again" and placed:
            world.again(random.choice(placed))
        elif deed == "claim" and placed:
            promise_id = random.choice(placed)
            world.placement.withdraw(invoke_id(promise_id))
            world.placement.assigned(promise_id, world.tasks[promise_id].counter)
        elif deed == "result" and placed:
            promise_id = random.choice(placed)
            world.placement.ending(promise_id, world.tasks[promise_id].counter)
        elif deed == "drop":
            if node.connection is not None and random.random() < 0.5:
                node.connection.close()
            world.connect(node)
        elif deed == "change":
            name = random.choice(["draining", "disabled"])
            entry = world.placement.nodes[node.id].entry
            world.change(node, **{name: not getattr(entry, name)})
        world.check()

    # Now one shared node that can do everything, and nobody new: all come to their end.
    for node in world.nodes.values():
        world.change(node, disabled=True)
    able = world.node(
        "able", "a", slots=1, shared=True, cpu_count=9, memory_mb=9_999, privileged=True
    )
    for promise_id in [one for one in world.tasks if world.place_of(one) not in (None, "able")]:
        world.again(promise_id)
    passed_over = dict.fromkeys(accounts, 0)
    while world.tasks:
        world.check()
        able.take()
        promise_id = next(one for one in world.tasks if world.place_of(one) == "able")
        served = world.plans[promise_id].account_id
        for account in {world.plans[one].account_id for one in world.tasks}:
            passed_over[account] = 0 if account == served else passed_over[account] + 1
            assert passed_over[account] <= len(accounts), "with one slot all take turns"
        world.finish(promise_id)
    assert not world.placement._queues._accounts
    assert not world.placement._queues._kinds


@pytest.mark.slow
def test_a_hundred_thousand_tasks_and_a_thousand_nodes_are_no_trouble() -> None:
    world = World()
    tasks_count, nodes_count, accounts_count = 100_000, 1_000, 100
    started = time.process_time()
    for number in range(tasks_count):
        world.create(
            str(number), f"account {number % accounts_count}", memory_mb=(number % 7) * 128
        )
    created_s = time.process_time() - started
    nodes = [
        world.node(f"n{number}", "x", shared=True, memory_mb=1_024 + number)
        for number in range(nodes_count)
    ]
    started = time.process_time()
    finished_count = 0
    for _ in range(10):
        for node in nodes:
            node.take()
            finished_count += 1
            world.finish(f"troth:task/{node.runs()[-1]}")
    finished_s = time.process_time() - started
    world.placement.statistics()
    # Generous: a tenth of a millisecond would do, but machines that test are busy.
    assert created_s / tasks_count < 0.001
    assert finished_s / finished_count < 0.002
