"""Messages of the envelope protocol on their way to workers and listeners (envelope.md 7, 11.7)."""

import pytest
import trio
from trio.testing import MockClock

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.limits import INTEGER_MAX
from troth.shards.delivery.dialects import Dialect
from troth.shards.delivery.unclaimed import RETURN_MS

from .workflow_world import WorkflowWorld, read, waiting

RETURN_S = RETURN_MS / 1000


async def test_a_task_waits_for_a_worker_and_goes_when_one_connects(
    autojump_clock: MockClock,
) -> None:
    world = WorkflowWorld()
    async with world.running():
        world.create("r")
        await trio.sleep(300)
        reports_count = len(world.reports)
        await trio.sleep(250)
        assert len(world.reports) == reports_count, "nothing is tried while nobody is there"
        with world.polls.connect("g", "a") as connection:
            assert await read(connection) == ["execute r/0"]


async def test_what_a_killed_worker_did_not_claim_goes_to_another_at_once(
    autojump_clock: MockClock,
) -> None:
    world = WorkflowWorld()
    async with world.running():
        with world.polls.connect("g", "a") as first:
            world.create("r")
            world.create("s")
            assert sorted(await read(first)) == ["execute r/0", "execute s/0"]
            await trio.sleep(0.1)
            world.acquire("s")
        started = trio.current_time()
        with world.polls.connect("g", "b") as second:
            assert await read(second) == ["execute r/0"]
        assert trio.current_time() == started


async def test_a_worker_that_is_replaced_gets_its_unclaimed_tasks_again(
    autojump_clock: MockClock,
) -> None:
    """A client that reconnects before its old connection is noticed dead."""
    world = WorkflowWorld()
    async with world.running():
        world.polls.connect("g", "a")
        world.create("r")
        connection = world.polls.connect("g", "a")
        assert await read(connection) == ["execute r/0"]
        again = world.polls.connect("g", "a")
        assert await read(again) == ["execute r/0"]


async def test_a_worker_whose_stream_the_server_ends_keeps_what_it_has(
    autojump_clock: MockClock,
) -> None:
    world = WorkflowWorld()
    async with world.running():
        with world.polls.connect("g", "a") as connection, world.polls.connect("g", "b") as other:
            world.create("r", "poll://any@g/a")
            assert await read(connection) == ["execute r/0"]
            connection.rotate()
            connection.__exit__(None, None, None)
            await trio.sleep(1)
            with world.polls.connect("g", "a") as back:
                await trio.sleep(2 * RETURN_S)
                assert await waiting(back) == []
                assert await waiting(other) == []


async def test_a_worker_that_does_not_come_back_loses_its_unclaimed_tasks(
    autojump_clock: MockClock,
) -> None:
    world = WorkflowWorld()
    async with world.running():
        with world.polls.connect("g", "a") as connection, world.polls.connect("g", "b") as other:
            world.create("r", "poll://any@g/a")
            assert await read(connection) == ["execute r/0"]
            connection.rotate()
            connection.__exit__(None, None, None)
            ended = trio.current_time()
            assert await read(other) == ["execute r/0"]
            assert trio.current_time() == ended + RETURN_S


async def test_what_was_not_written_before_the_end_goes_out_on_the_next_stream(
    autojump_clock: MockClock,
) -> None:
    world = WorkflowWorld()
    async with world.running():
        world.listen("l", "poll://any@g/a")
        with world.polls.connect("g", "a") as connection:
            world.create("r")
            world.settle("l")
            assert len(await connection.receive()) == 2  # and never written
            connection.rotate()
        with world.polls.connect("g", "a") as again:
            texts = await read(again)
            assert sorted(texts + await waiting(again)) == ["execute r/0", "unblock l"]


@pytest.mark.parametrize("address", ["poll://uni@g/a", "poll://any@g/a"])
async def test_a_listener_with_an_id_is_waited_for(address: str, autojump_clock: MockClock) -> None:
    world = WorkflowWorld()
    async with world.running():
        with world.polls.connect("g", "b") as other:
            world.listen("l", address)
            world.settle("l")
            await trio.sleep(600)
            assert await waiting(other) == []
            assert world.machine.state.unblocks
            with world.polls.connect("g", "a") as connection:
                assert await read(connection) == ["unblock l"]
                await trio.sleep(0.1)
    assert not world.machine.state.unblocks


async def test_a_listener_without_an_id_is_any_of_the_group(autojump_clock: MockClock) -> None:
    world = WorkflowWorld()
    async with world.running():
        with world.polls.connect("g", "b") as connection:
            world.listen("l", "poll://any@g")
            world.settle("l")
            assert await read(connection) == ["unblock l"]


async def test_pushes_are_tried_until_they_succeed(autojump_clock: MockClock) -> None:
    world = WorkflowWorld()
    world.push.behaviour["h"] = "fail"
    async with world.running():
        world.listen("l", "http://h/x")
        world.settle("l")
        world.create("r", "http://h/y")
        await trio.sleep(20)
        assert len(world.push.arrivals) > 4
        assert world.machine.state.unblocks
        world.push.behaviour["h"] = 0.01
        await trio.sleep(120)
        assert not world.machine.state.unblocks
        assert {text for _, _, text in world.push.arrivals} == {"unblock l", "execute r/0"}
        last = world.push.arrivals[-1]
        await trio.sleep(20)
        assert world.push.arrivals[-1] == last


async def test_a_claimed_task_leaves_no_message_behind(autojump_clock: MockClock) -> None:
    world = WorkflowWorld()
    async with world.running():
        world.create("r")
        world.acquire("r")
        with world.polls.connect("g", "a") as connection:
            assert await waiting(connection) == []


async def test_a_bad_target_is_undeliverable_and_costs_nothing(autojump_clock: MockClock) -> None:
    world = WorkflowWorld()
    async with world.running():
        world.create("r", "gcps://project/topic")
        await trio.sleep(60)
        assert world.delivery.statistics().undeliverable_total_count == 1
        world.acquire("r")


# Dialects


def rest_task(world: WorkflowWorld, promise_id: str, receiver: str = "poll://any@g") -> None:
    """A task of the REST API."""
    tags = {"resonate:invoke": receiver}
    world.ask(c.CreatePromise(promise_id, INTEGER_MAX, tags=tags))


async def test_a_decided_stream_never_gets_the_other_kind(autojump_clock: MockClock) -> None:
    world = WorkflowWorld()
    async with world.running():
        old = world.polls.connect("g", "old")
        new = world.polls.connect("g", "new")
        world.polls.decide("old", Dialect.REST)
        world.polls.decide("new", Dialect.ENVELOPE)
        for number in range(5):
            world.create(f"w{number}", "poll://any@g/old")
            rest_task(world, f"r{number}", "poll://any@g/new")
        assert all(text.startswith("execute") for text in await read(new))
        assert all(text.startswith("__invoke") for text in await read(old))
        old.__exit__(None, None, None)
        world.create("x")
        rest_task(world, "y")
        assert await read(new) == ["execute x/0"]
        assert await waiting(new) == []


async def test_an_undecided_stream_is_taken_only_if_no_other_is_there(
    autojump_clock: MockClock,
) -> None:
    world = WorkflowWorld()
    async with world.running():
        undecided = world.polls.connect("g", "u")
        world.create("a")
        rest_task(world, "b")
        assert await read(undecided) == ["execute a/0", "__invoke:b/1"]
        decided = world.polls.connect("g", "d")
        world.polls.decide("d", Dialect.ENVELOPE)
        for number in range(3):
            world.create(f"w{number}")
        assert len(await read(decided)) == 3
        assert await waiting(undecided) == []


async def test_a_stream_on_the_poll_port_gets_rests_messages_only(
    autojump_clock: MockClock,
) -> None:
    world = WorkflowWorld()
    async with world.running():
        with world.polls.connect("g", "a", Dialect.REST) as connection:
            world.polls.decide("a", Dialect.ENVELOPE)
            world.create("w")
            rest_task(world, "r")
            assert await read(connection) == ["__invoke:r/1"]
            assert await waiting(connection) == []


async def test_what_waits_for_a_stream_is_given_back_when_it_turns_out_to_be_wrong(
    autojump_clock: MockClock,
) -> None:
    world = WorkflowWorld()
    async with world.running():
        first = world.polls.connect("g", "a")
        world.create("w")
        rest_task(world, "r")
        world.polls.decide("a", Dialect.REST, "g")
        assert await read(first) == ["__invoke:r/1"]
        with world.polls.connect("g", "b") as second:
            assert await read(second) == ["execute w/0"]


async def test_a_decision_outlives_the_stream_and_the_first_one_counts(
    autojump_clock: MockClock,
) -> None:
    world = WorkflowWorld()
    async with world.running():
        world.polls.decide("a", Dialect.ENVELOPE)
        world.polls.decide("a", Dialect.REST)
        with world.polls.connect("g", "a") as connection:
            rest_task(world, "r")
            assert await waiting(connection) == []
            world.create("w")
            assert await read(connection) == ["execute w/0"]
            assert world.polls.room_count("g", "a", Dialect.REST) == 0
            assert world.polls.room_count("g", None, Dialect.REST) == 0
            assert world.polls.room_count("g", None, Dialect.ENVELOPE) == 10


async def test_a_released_task_comes_back_to_the_same_worker(autojump_clock: MockClock) -> None:
    world = WorkflowWorld()
    async with world.running():
        with world.polls.connect("g", "a") as connection:
            world.create("r")
            assert await read(connection) == ["execute r/0"]
            await trio.sleep(0.1)
            world.acquire("r")
            world.ask(w.ReleaseWorkflow("r", 1))
            assert await read(connection) == ["execute r/1"]


async def test_very_many_messages_of_a_worker_that_has_gone_are_asked_for_in_slices(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All go to another one; a worker that comes back with nothing changes nothing."""
    monkeypatch.setattr("troth.shards.delivery.unclaimed.SLICE_COUNT", 2)
    world = WorkflowWorld()
    async with world.running():
        connection = world.polls.connect("g", "a")
        with connection:
            for number in range(5):
                world.create(f"r{number}", "poll://any@g")
            assert len(await read(connection)) == 5
            connection.rotate()
        with world.polls.connect("g", "idle") as idle:
            idle.rotate()
        again = world.polls.connect("g", "a")
        with again:
            again.rotate()
        with world.polls.connect("g", "b") as other:
            found: list[str] = []
            with trio.move_on_after(3 * RETURN_S):
                while len(found) < 5:
                    found += await read(other)
            assert sorted(found) == [f"execute r{number}/0" for number in range(5)]
