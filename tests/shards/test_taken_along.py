"""What placement hands to a node's stream and an exchange takes from there."""

from troth.shards.placement.node_connections import NodeMessageKind

from .placement_world import World


def test_what_is_taken_along_is_told_by_another_way_than_the_stream() -> None:
    world = World()
    node = world.node("n", slots=2)
    first, second, third = [world.create(name) for name in "abc"]
    node.take()
    world.claim(first)
    world.claim(second)
    assert world.placement.take_along("n", 5) == []
    world.placement.ending(first, 1)
    (along,) = world.placement.take_along("n", 5)
    assert (along.promise_id, world.place_of(third)) == (third, "n")
    assert node.take() == []

    # The shards refuse it: it counts as sent, so that they send it again if it is not claimed.
    sent_count = len(world.sent)
    world.placement.not_assigned([along])
    assert [one.id for one in world.sent[sent_count:]] == [along.task_id]
    world.again(third)
    assert node.cancels() == []
    (message,) = [one for one in node.take() if one.kind is NodeMessageKind.RUN]
    assert (message.execution_id, message.counter) == (along.id, 2)
    # What is known of it by now is another one.
    world.placement.not_assigned([along])
    assert len(world.sent) == sent_count + 2
    world.check()
