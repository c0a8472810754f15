"""Executions of all groups have their home in process 0, which hears when they have ended."""

from typing import Any, cast

import pytest
import trio

from tests.shards.mesh.home_world import HomeWorld, homes
from tests.shards.mesh.world import until
from tests.shards.test_functions import create
from troth.core import commands as c
from troth.core.grammar import task_ids
from troth.core.model import replace
from troth.core.replies import Message, TaskMessage
from troth.shards.errors import ShardsError
from troth.shards.mesh.placed_executions import (
    PlacedExecutions,
    all_builds_in_use,
    answer_about_executions,
    builds_in_use,
)
from troth.shards.placement.placement import Placement


class Place:
    """Stands for placement in process 0, and for what routes messages to it."""

    def __init__(self, *known: str) -> None:
        self.promise_ids = list(known)
        self.sent: list[str] = []
        self.ended: list[str] = []
        self.withdrawn: list[str] = []
        self.restored: list[tuple[str, int, str]] = []

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

    def restore(self, promise_id: str, counter: int, _: Any, node_id: str, __: int) -> None:
        """Note what a node has."""
        self.restored.append((promise_id, counter, node_id))


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
        assert place.restored == []


async def test_what_a_node_has_of_another_group_is_taken_up(autojump_clock: object) -> None:
    """When its group is back: until then it is asked again and again."""
    async with homes(2) as world:
        running = in_group(world, 1, 1)
        await world.server.call(1, running)
        task_id = task_ids.invoke_id(running.id)
        reply = await world.server.call(1, c.AssignExecution(task_id, 1, "node", 10_000))
        assert reply.code.status < 300
        for one in world.alive:
            answer_about_executions(one.process.mesh.calls, one.process.shards)
        first = world.alive[0].process
        place = Place()
        placed = PlacedExecutions(
            first.mesh.calls, cast(Placement, place), first.shards.shard_of, first.place.groups
        )
        assert list(placed.others) == [1]
        world.server.cut_off(1)
        world.nursery.start_soon(placed.run)
        placed.lost(1)
        await trio.sleep(3)
        assert place.restored == []
        world.server.mend_all()
        with trio.fail_after(60):
            await until(lambda: bool(place.restored))
        assert place.restored == [(running.id, 1, "node")]


async def test_builds_are_in_use_as_long_as_an_execution_of_any_group_needs_them(
    autojump_clock: object,
) -> None:
    """Nobody may delete one while it is unknown what a group needs."""
    async with homes(2) as world:
        for one in world.alive:
            answer_about_executions(one.process.mesh.calls, one.process.shards)
        calls = world.alive[0].process.mesh.calls
        for group, build in ((0, "b"), (1, "b"), (1, "c"), (1, "")):
            made = in_group(world, group, 1 + 500 * len(build) + 100 * ord((build or "a")[0]))
            made = replace(made, plan=replace(made.plan, build_id=build))
            await world.server.call(0, made)
            if group:
                task_id = task_ids.invoke_id(made.id)
                await world.server.call(0, c.AssignExecution(task_id, 1, f"on-{build}", 10_000))
        assert await all_builds_in_use(calls) == {"b": {"on-b"}, "c": {"on-c"}}
        assert await builds_in_use(world.alive[0].process.shards) == {"b": set()}
        world.server.cut_off(1)
        await trio.sleep(1)
        with pytest.raises(ShardsError):
            await all_builds_in_use(calls)
