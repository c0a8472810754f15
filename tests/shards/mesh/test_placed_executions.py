"""Executions of all groups have their home in process 0, which hears when they have ended."""

from typing import Any, cast

import trio

from tests.shards.mesh.home_world import HomeWorld, homes
from tests.shards.mesh.world import until
from tests.shards.test_functions import create
from troth.core import commands as c
from troth.core.replies import Message, TaskMessage
from troth.shards.mesh.placed_executions import PlacedExecutions, answer_about_executions
from troth.shards.placement.placement import Placement


class Place:
    """Stands for placement in process 0, and for what routes messages to it."""

    def __init__(self, *known: str) -> None:
        self.promise_ids = list(known)
        self.sent: list[str] = []
        self.ended: list[str] = []
        self.withdrawn: list[str] = []

    def send(self, message: Message) -> None:
        """Take an execution."""
        assert isinstance(message, TaskMessage)
        self.sent.append(message.task.root_id)

    def withdraw(self, task_id: str) -> None:
        """Note that it was withdrawn."""
        self.withdrawn.append(task_id)

    def finished(self, promise_ids: list[str]) -> None:
        """Note that they have ended."""
        self.ended += promise_ids

    def restore(self, *_: Any) -> None:
        """Take up what a node has: here is none."""
        raise AssertionError("no node has anything")


def in_group(world: HomeWorld, group: int, number: int) -> c.CreateExecution:
    """Return the creation of an execution that lives in a group."""
    shards = world.alive[0].process.shards
    own = world.alive[group].process.place.shards_of(group)
    while shards.shard_of(create(number).id) not in own:
        number += 1
    return create(number)


async def test_executions_of_all_groups_go_to_process_0_and_so_do_their_ends(
    autojump_clock: object,
) -> None:
    async with homes(3, seed=1) as world:
        place = Place()
        home = world.alive[0].homes
        home.attach(place, lambda _: None, world.alive[0].process.shards.shard_of)
        for group in (1, 2, 0):
            command = in_group(world, group, 100 * group)
            await world.server.call((group + 1) % 3, command)
            with trio.fail_after(30):
                await until(lambda one=command.id: one in place.sent)  # type: ignore[misc]
            await world.server.call(group, c.CancelExecution(command.id))
            with trio.fail_after(30):
                await until(lambda one=command.id: one in place.ended)  # type: ignore[misc]
        assert len(place.sent) == len(place.ended) == 3


async def test_what_has_ended_while_a_group_was_away_is_asked_for(autojump_clock: object) -> None:
    async with homes(2) as world:
        living, ended = in_group(world, 1, 1), in_group(world, 1, 1_000)
        elsewhere = in_group(world, 0, 1)
        await world.server.call(1, living)
        place = Place(living.id, ended.id, elsewhere.id)
        for one in world.alive:
            answer_about_executions(one.process.mesh.calls, one.process.shards)
        first = world.alive[0].process
        placed = PlacedExecutions(
            first.mesh.calls, cast(Placement, place), first.shards.shard_of, first.place.groups
        )
        world.nursery.start_soon(placed.run)
        placed.lost(1)
        with trio.fail_after(30):
            await until(lambda: bool(place.ended))
        assert place.ended == [ended.id]
