"""What waits for each receiver: sums, order, rates, and what a look at many costs."""

import gc
import time
from collections.abc import Iterator

import trio
from trio.testing import MockClock

from tests.http.client import World, running
from troth.shards.delivery.dialects import Dialect
from troth.shards.delivery.polls import Polls
from troth.shards.delivery.shipments import ReceiverView
from troth.shards.surveys.queues import Queues

HOLD_LIMIT_S = 0.1  # 20 ms is meant; the rest is for machines that do other things, too


class SomeReceivers:
    """Receivers as a test says them."""

    def __init__(self, *views: ReceiverView) -> None:
        self.views = list(views)
        self.looks_count = 0

    def receivers(self) -> Iterator[ReceiverView]:
        """Yield them."""
        self.looks_count += 1
        return iter(self.views)


def view(target: str, waiting: int = 0, stalled: int = 0, sent: int = 0) -> ReceiverView:
    """One receiver's numbers."""
    return ReceiverView(target, waiting, 0, stalled, sent, None, None, None, None, None)


def queues_of(world: World, polls: Polls, receivers: SomeReceivers) -> Queues:
    """The receivers of a server."""
    shards = world.api.shards
    return Queues(shards, polls, receivers)  # type: ignore[arg-type]  # it is a Shards


async def test_numbers_of_one_receiver_add_up_and_the_longest_comes_first() -> None:
    async with running() as world:
        polls = Polls(connections_limit_count=9, buffer_limit_count=9)
        polls.connect("g", "w", Dialect.REST)
        receivers = SomeReceivers(
            view("poll://g", stalled=1),
            view("envelope poll://g", stalled=2),
            view("http://r", waiting=9),
            view("", stalled=1),
        )
        page = await queues_of(world, polls, receivers).longest(10)

        assert [(row.receiver, row.backlog_count, row.health) for row in page.rows] == [
            ("http://r", 9, "no-workers"),
            ("poll://g", 3, "good"),
            ("undeliverable", 1, "undeliverable"),
        ]
        assert (page.total_count, page.is_complete) == (3, True)
        assert len((await queues_of(world, polls, receivers).longest(1)).rows) == 1


async def test_rates_come_from_what_was_delivered_and_what_waits(autojump_clock: MockClock) -> None:
    async with running() as world:
        polls = Polls(connections_limit_count=9, buffer_limit_count=9)
        receivers = SomeReceivers(view("http://r", waiting=10, sent=100))
        queues = queues_of(world, polls, receivers)
        await queues.sample(1)
        assert (await queues.longest(1)).rows[0].rate_in is None
        await trio.sleep(10)
        receivers.views = [view("http://r", waiting=30, sent=150)]
        await queues.sample(1)

        (row,) = (await queues.longest(1)).rows
        assert (row.rate_in, row.rate_out) == (7.0, 5.0)


async def test_a_sample_says_what_waits_with_one_look_at_the_receivers() -> None:
    async with running() as world:
        polls = Polls(connections_limit_count=9, buffer_limit_count=9)
        receivers = SomeReceivers(*(view(f"http://h{number}", number) for number in range(9)))

        found = await queues_of(world, polls, receivers).sample(2)

        assert list(found.items()) == [("http://h8", 8), ("http://h7", 7)]
        assert receivers.looks_count == 1


async def test_a_look_at_many_is_cut_into_slices_and_ends() -> None:
    async with running() as world:
        polls = Polls(connections_limit_count=20_000, buffer_limit_count=9)
        for number in range(5_000):
            polls.connect(f"g{number % 500}", f"w{number}", Dialect.REST)
        receivers = SomeReceivers(*(view(f"http://h{number}", 1) for number in range(30_000)))
        queues = queues_of(world, polls, receivers)
        gc.disable()  # a running server freezes its state, so collections are short there
        steps = LongestStep()
        trio.lowlevel.add_instrument(steps)
        began_s = time.thread_time()
        page = await queues.longest(100)
        used_s = time.thread_time() - began_s
        rows, has_more = await queues.workers(1_000, None)
        trio.lowlevel.remove_instrument(steps)
        gc.enable()

        assert not page.is_complete
        assert (len(page.rows), len(rows), has_more) == (100, 1_000, True)
        assert steps.longest_s < HOLD_LIMIT_S
        assert used_s < 2 * HOLD_LIMIT_S


class LongestStep(trio.abc.Instrument):
    """Measures the CPU time that any task holds the loop for."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._began_s = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  its form
        """Begin to measure."""
        self._began_s = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  its form
        """Keep the longest."""
        self.longest_s = max(self.longest_s, time.thread_time() - self._began_s)
