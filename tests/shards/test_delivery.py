"""Delivery to poll connections, back-off, withdrawal, and held messages."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from troth.core.commands import RetryTask, TaskNotSent, TaskSent
from troth.core.grammar.addresses import PollAddress
from troth.core.model import TaskKind
from troth.shards.delivery.polls import PollConnection
from troth.shards.delivery.shipments import key_of
from troth.shards.held import HeldMessages, Notice

from .delivery_world import World, message, stalled_count


async def read(connection: PollConnection) -> list[str]:
    """Receive and confirm once, as a stream handler does."""
    texts = [text.decode() for text in await connection.receive()]
    connection.confirm()
    return texts


async def read_for_ever(connection: PollConnection, texts: list[str]) -> None:
    while True:
        texts += await read(connection)


async def test_a_message_counts_as_sent_when_it_is_written(autojump_clock: MockClock) -> None:
    world = World()
    async with world.running():
        with world.polls.connect("g", "a") as connection:
            world.send(message("t", "poll://g", counter=3))
            assert await connection.receive() == [b"t/3"]
            assert world.commands() == []
            connection.confirm()
            assert world.commands() == [TaskSent("t", 3)]
    assert world.delivery.statistics().sent_total_count == 1


async def test_without_a_worker_it_fails_at_once_and_goes_when_one_connects(
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with world.running():
        world.send(message("t", "default"))
        assert world.commands() == [TaskNotSent("t", 1)]
        await trio.sleep(300)
        assert world.commands() == [TaskNotSent("t", 1)]  # no use trying while nobody is there
        with world.polls.connect("default", "a") as connection:
            assert await read(connection) == ["t/1"]
    assert world.commands() == [TaskNotSent("t", 1), RetryTask("t", 1), TaskSent("t", 1)]
    assert world.retried_at("t") == [300]


async def test_configured_names_are_resolved(autojump_clock: MockClock) -> None:
    world = World(targets={"workers": PollAddress("g", None, "any")})
    async with world.running():
        with world.polls.connect("g", "a") as connection:
            world.send(message("t", "workers"))
            assert await read(connection) == ["t/1"]


@pytest.mark.parametrize("receiver", [17, "nowhere", {"type": "smoke"}, None, ["poll://g"]])
async def test_undeliverable_receivers_stall_and_cost_nothing(
    receiver: object,
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with world.running():
        world.send(message("t", receiver))
        world.send(message("u", receiver))
        assert world.commands() == [TaskNotSent("t", 1), TaskNotSent("u", 1)]
        await trio.sleep(80_000)
        assert len(world.commands()) == 2
        assert stalled_count(world.delivery) == 2
        assert world.delivery.statistics().undeliverable_total_count == 2


async def test_uni_waits_for_its_connection(autojump_clock: MockClock) -> None:
    world = World()
    async with world.running():
        with world.polls.connect("g", "other") as other:
            world.send(message("t", "poll://uni@g/a"))
            assert world.not_sent_ids() == ["t"]
            with world.polls.connect("g", "a") as connection:
                assert await read(connection) == ["t/1"]
            assert other.load_count == 0


@pytest.mark.parametrize("receiver", ["poll://any@g/a", "poll://g/a", "poll://g"])
async def test_any_goes_to_another_of_the_group(receiver: str, autojump_clock: MockClock) -> None:
    world = World()
    async with world.running():
        with world.polls.connect("g", "b") as connection:
            world.send(message("t", receiver))
            assert await read(connection) == ["t/1"]


async def test_notify_with_an_id_goes_only_to_that_id_and_without_to_any(
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with world.running():
        with world.polls.connect("g", "b") as other:
            world.send(message("with", "poll://any@g/a", kind=TaskKind.NOTIFY))
            world.send(message("without", "poll://g", kind=TaskKind.NOTIFY))
            assert world.not_sent_ids() == ["with"]
            assert await read(other) == ["without/1"]
            with world.polls.connect("g", "a") as connection:
                assert await read(connection) == ["with/1"]


async def test_a_worker_that_leaves_with_a_message_in_flight(autojump_clock: MockClock) -> None:
    """Field bug catalogue: "poller disconnects with a message in flight"."""
    world = World()
    async with world.running():
        first, second = world.polls.connect("g", "a"), world.polls.connect("g", "b")
        world.send(message("t", "poll://any@g/a"))
        assert await first.receive() == [b"t/1"]
        first.__exit__(None, None, None)
        assert world.commands() == []  # it went to the other one at once
        assert await second.receive() == [b"t/1"]
        second.__exit__(None, None, None)
        assert world.commands() == [TaskNotSent("t", 1)]  # nobody is left
        with world.polls.connect("g", "c") as third:
            assert await read(third) == ["t/1"]
        assert world.sent_ids() == ["t"]


async def test_a_replaced_connection_hands_its_messages_to_the_new_one(
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with world.running():
        old = world.polls.connect("g", "a")
        world.send(message("t", "poll://uni@g/a"))
        await old.receive()
        with world.polls.connect("g", "a") as new:
            old.confirm()
            assert world.commands() == []
            assert await read(new) == ["t/1"]
        assert world.commands() == [TaskSent("t", 1)]


async def test_a_slow_consumer_fills_its_buffer_and_the_rest_goes_elsewhere_or_waits(
    autojump_clock: MockClock,
) -> None:
    """Field bug catalogue: "slow consumer fills buffers"."""
    world = World(buffer_limit_count=5)
    async with world.running():
        slow = world.polls.connect("g", "slow")
        for number in range(8):
            world.send(message(f"early {number}", "poll://g"))
        assert world.not_sent_ids() == ["early 5", "early 6", "early 7"]
        texts: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_for_ever, world.polls.connect("g", "quick"), texts)
            for number in range(100):
                world.send(message(f"late {number}", "poll://g"))
                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert slow.load_count == 5
        assert len(texts) == 103
        assert len(world.sent_ids()) == 103


async def test_stalled_tasks_are_let_go_as_fast_as_the_worker_takes_them(
    autojump_clock: MockClock,
) -> None:
    world = World(buffer_limit_count=10)
    async with world.running():
        for number in range(95):
            world.send(message(str(number), "poll://g"))
        connection = world.polls.connect("g", "a")
        await wait_all_tasks_blocked()
        assert connection.load_count == 10
        assert len(world.commands()) == 95 + 10  # not one RetryTask more than there was room for
        texts: list[str] = []
        while len(texts) < 95:
            texts += await read(connection)
            await wait_all_tasks_blocked()
        assert texts == [f"{number}/1" for number in range(95)]  # oldest first
        assert len(world.not_sent_ids()) == 95  # nobody failed a second time
        assert trio.current_time() == 0  # and nothing had to wait for a clock


async def test_released_tasks_that_send_nothing_do_not_keep_the_room(
    autojump_clock: MockClock,
) -> None:
    world = World(buffer_limit_count=10)
    async with world.running():
        for number in range(20):
            world.send(message(str(number), "poll://g"))
        for number in range(10):
            del world.tasks[str(number)]  # the machine has no message for these any more
        connection = world.polls.connect("g", "a")
        assert await read(connection) == [f"{number}/1" for number in range(10, 20)]
        assert trio.current_time() == 1
        await trio.sleep(150)
        assert not len(world.delivery._shipments)


@pytest.mark.slow
async def test_100_000_stalled_tasks_do_not_block_the_loop_when_a_worker_connects(
    autojump_clock: MockClock,
) -> None:
    world = World(buffer_limit_count=100)
    async with world.running():
        for number in range(100_000):
            world.send(message(str(number), "poll://g"))
            if number % 1000 == 0:
                await trio.lowlevel.checkpoint()
        texts: list[str] = []
        turns_count = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_for_ever, world.polls.connect("g", "a"), texts)
            while len(texts) < 20_000:
                before_count = len(texts)
                await trio.lowlevel.checkpoint()
                turns_count += 1
                assert len(texts) - before_count <= 200  # the reader may run twice between
            nursery.cancel_scope.cancel()
        assert turns_count >= 100
        assert len(set(texts)) == len(texts)


async def test_withdrawn_messages_are_forgotten_wherever_they_are(
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with world.running():
        world.send(message("stalled", "poll://g"))
        world.withdraw("stalled")
        with world.polls.connect("g", "a") as connection:
            world.send(message("written", "poll://g"))
            await connection.receive()
            world.send(message("buffered", "poll://g"))
            world.withdraw("written")
            world.withdraw("buffered")
            world.withdraw("never heard of")
            connection.confirm()
        assert world.commands() == [TaskNotSent("stalled", 1)]
        assert not len(world.delivery._shipments)
        assert stalled_count(world.delivery) == 0


async def test_a_newer_message_of_a_task_replaces_the_older(autojump_clock: MockClock) -> None:
    world = World()
    async with world.running():
        with world.polls.connect("g", "a") as connection:
            world.send(message("t", "poll://g", counter=1))
            world.send(message("t", "poll://g", counter=2))
            assert await read(connection) == ["t/2"]
        assert world.commands() == [TaskSent("t", 2)]


async def test_an_older_message_of_a_task_does_not_replace_the_newer(
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with world.running():
        with world.polls.connect("g", "a") as connection:
            world.send(message("t", "poll://g", counter=2))
            world.send(message("t", "poll://g", counter=1))
            assert await read(connection) == ["t/2"]
        assert world.commands() == [TaskSent("t", 2)]


async def test_one_stalled_group_does_not_hold_another(autojump_clock: MockClock) -> None:
    world = World()
    async with world.running():
        world.send(message("one", "poll://absent"))
        with world.polls.connect("g", "a") as connection:
            world.send(message("two", "poll://g"))
            assert await read(connection) == ["two/1"]
        assert world.sent_ids() == ["two"]


async def test_closing_all_connections_stalls_what_they_held(autojump_clock: MockClock) -> None:
    world = World()
    async with world.running():
        for name in "abc":
            world.polls.connect("g", name)
        for number in range(30):
            world.send(message(str(number), "poll://g"))
        world.polls.close()
        assert len(world.not_sent_ids()) == 30
        assert len(set(world.not_sent_ids())) == 30


async def test_what_waits_is_known_by_receiver(autojump_clock: MockClock) -> None:
    world = World()
    async with world.running():
        for number in range(3):
            world.send(message(str(number), "poll://g"))
        world.send(message("x", "nowhere"))
        waiting = {view.target: view.stalled_count for view in world.delivery.receivers()}
        assert waiting == {"poll://g": 3, "": 1}


def test_held_messages_leave_after_the_release_in_order_and_only_once() -> None:
    sent: list[str] = []
    held = HeldMessages(
        lambda messages: sent.extend(
            key_of(message) for message in messages if not isinstance(message, Notice)
        )
    )
    held.add([message("1", "x"), message("2", "x")])
    assert sent == []
    held.release()
    assert sent == ["1", "2"]
    held.release()
    held.add([message("3", "x")])  # durable only after the answer was written
    assert sent == ["1", "2", "3"]


async def test_receivers_are_told_of_while_what_waits_comes_and_goes(
    autojump_clock: MockClock,
) -> None:
    """A look that is taken up again later leaves out what has gone in between."""
    world = World()
    async with world.running():
        for name in ("bad", "worse"):
            world.push.behaviour[name] = "fail"
        for number in range(3):
            world.send(message(f"g{number}", f"poll://g{number}"))
        for name in ("bad", "worse"):
            world.send(message(name, f"http://{name}/"))
        await trio.sleep(0.5)
        everything = {view.target: view.stalled_count for view in world.delivery.receivers()}
        groups = {f"poll://g{number}": 1 for number in range(3)}
        assert everything == groups | {"http://bad:80": 1, "http://worse:80": 1}

        look = world.delivery.receivers()
        first = next(look)
        for task_id in ("g0", "g1", "g2", "bad", "worse"):
            world.withdraw(task_id)
        rest = list(look)
        assert not any(view.stalled_count for view in rest)
        assert first.target
        assert stalled_count(world.delivery) == 0


async def test_a_message_that_one_receiver_alone_refuses_waits_for_its_next_try(
    autojump_clock: MockClock,
) -> None:
    """It is shown as stalled while others reach the same receiver, until it is withdrawn."""
    world = World()
    world.push.behaviour["good"] = 0.01
    world.push.behaviour["odd/1"] = "fail"
    async with world.running():
        for number in range(20):
            world.send(message(f"even{number}", "http://good/"))
        await trio.sleep(1)
        world.send(message("odd", "http://good/"))
        await trio.sleep(0.5)
        views = list(world.delivery.receivers())
        assert sum(view.stalled_count for view in views) == 1
        look = world.delivery.receivers()
        next(look)
        world.withdraw("odd")
        assert not any(view.stalled_count for view in look)
