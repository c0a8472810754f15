"""What placement is told by nodes and at a start: late, twice, or by one that lost its task."""

import pytest
import trio
import trio.testing

from troth.core.executions import Execution
from troth.shards.placement.node_connections import ConnectionEnded, NodeMessage, NodeMessageKind

from .placement_world import World

RUN = NodeMessageKind.RUN


def test_what_a_start_has_found_takes_its_slots() -> None:
    """Each as it was assigned, at its place in the order of creation."""
    world = World()
    names = ["t1", "t2", "t3"]
    promise_ids = [world.create(name) for name in names]
    assigned = [
        (Execution(one, world.plans[one], node_id="n", assigned_on=1), world.tasks[one])
        for one in promise_ids
    ]
    fresh = World()
    node = fresh.node("n", slots=4)
    node.take()
    fresh.placement.restore_all(assigned)
    for name in ("t4", "t5"):
        fresh.create(name)
    node.take()
    assert node.runs() == ["t4"]
    assert set(fresh.placement.promise_ids) >= set(promise_ids)


def test_what_is_said_of_an_older_attempt_changes_nothing() -> None:
    """A node that was silent tells of what another one has been given since."""
    world = World()
    node = world.node("n")
    promise_id = world.create("t1")
    node.take()
    for counter in (0, 2):
        world.placement.assigned(promise_id, counter)
        world.placement.ending(promise_id, counter)
        world.placement.returned("n", promise_id, counter)
    world.placement.ending("troth:task/unknown", 1)
    world.placement.returned("other", promise_id, 1)
    world.create("t2")
    assert node.take() == [], "its slot is taken"
    assert world.placement.statistics().returned_total_count == 0


async def test_a_node_that_gives_two_back_rests_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World()
    node = world.node("n", slots=2)
    promise_ids = [world.create(name) for name in ("t1", "t2")]
    node.take()
    async with trio.open_nursery() as nursery:
        await nursery.start(world.placement.run)
        for promise_id in promise_ids:
            world.placement.returned("n", promise_id, 1)
            world.again(promise_id)
        assert world.placement.waiting_count("a") == 2
        await trio.sleep(1.5)
        node.take()
        nursery.cancel_scope.cancel()
    assert node.runs() == ["t1", "t2", "t1", "t2"]
    assert world.placement.statistics().returned_total_count == 2


async def test_a_stream_that_has_ended_gives_no_messages() -> None:
    world = World()
    node = world.node("n")
    connection = node.connection
    assert connection is not None
    ready: list[bool] = []
    connection.when_ready(lambda: ready.append(True))
    world.create("t1")
    assert ready == [True]
    assert connection.receive_now() == [
        NodeMessage(NodeMessageKind.HELLO),
        NodeMessage(RUN, "t1", 1),
    ]
    connection.confirm()
    assert connection.receive_now() == []
    connection.close()
    for _ in range(2):
        with pytest.raises(ConnectionEnded):
            connection.receive_now()
    await trio.lowlevel.checkpoint()


def test_a_node_hears_when_it_connects_that_it_must_not_work() -> None:
    """Though it was disabled, or told to finish what it has, while it was away."""
    for change, kind in (
        ({"disabled": True}, NodeMessageKind.DISABLE),
        ({"draining": True}, NodeMessageKind.DRAIN),
    ):
        world = World()
        node = world.node("n", connected=False)
        world.change(node, **change)
        world.connect(node)
        world.create("t1")
        assert [one.kind for one in node.take()] == [NodeMessageKind.HELLO, kind]


def test_tasks_are_handed_over_with_an_answer_before_those_of_the_stream() -> None:
    """As many as were asked for, without what has ended; the rest comes by the stream."""
    world = World()
    node = world.node("n", slots=4)
    node.take()
    promise_ids = [world.create(name) for name in ("t1", "t2", "t3", "t4")]
    world.finish(promise_ids[0])
    connection = node.connection
    assert connection is not None
    taken = connection.take_along(2)
    assert [one.id for one in taken] == ["t2", "t3"]
    assert [one.execution_id for one in node.take()] == ["t4"]
    assert connection.take_along(2) == []
