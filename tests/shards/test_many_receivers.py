"""Very many receivers, or messages of one: no pass of delivery is long (see `shards/passes.py`)."""

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

import pytest
import structlog
import trio
import trio.lowlevel

from troth.core.commands import Command
from troth.core.replies import ExecuteMessage, Message
from troth.core.workflow_commands import RetryExecute
from troth.shards.delivery import missed
from troth.shards.delivery.delivery import Delivery
from troth.shards.delivery.polls import Polls

from .delivery_world import FakePush
from .passing import LongestPass, until

MANY_COUNT = 20_000
WRITTEN_COUNT = 100
LIMIT_MS = 20
"""The budget of a pass is 10 ms."""


@dataclass
class Receivers:
    """Delivery, and what it reports."""

    delivery: Delivery
    polls: Polls
    reports: list[Command]

    def send(self, count: int, target: Callable[[int], str], first: int = 0) -> None:
        """Send so many messages."""
        for number in range(first, first + count):
            self.delivery.send(ExecuteMessage(f"w{number}", 1, target(number), None))


def render(_: Message) -> bytes:
    return b"{}"


@asynccontextmanager
async def running() -> AsyncIterator[Receivers]:
    """Run delivery."""
    reports: list[Command] = []
    polls = Polls(connections_limit_count=10, buffer_limit_count=MANY_COUNT)
    delivery = Delivery(
        render=render,
        push=FakePush(),
        polls=polls,
        report=reports.append,
        targets={},
        now_ms=lambda: 0,
        random=Random(7),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: delivery.run(task_status=task_status))
        yield Receivers(delivery, polls, reports)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def measured() -> AsyncIterator[LongestPass]:
    """Measure passes, from the next one on."""
    gc.collect()
    gc.disable()
    await trio.lowlevel.checkpoint()
    found = LongestPass()
    trio.lowlevel.add_instrument(found)
    try:
        yield found
    finally:
        trio.lowlevel.remove_instrument(found)
        gc.enable()


@pytest.mark.slow
@pytest.mark.alone
async def test_very_many_groups_that_nobody_listens_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning is due for each of the latest thousand, at one moment. It was 170 ms."""
    monkeypatch.setattr(missed, "MISSED_AFTER_MS", 1_000)
    async with running() as receivers:
        with structlog.testing.capture_logs() as logs:
            receivers.send(MANY_COUNT, lambda number: f"poll://any@g{number}")
            async with measured() as found:
                await until(lambda: len(logs) >= MANY_COUNT)
    assert found.longest_ms < LIMIT_MS


@pytest.mark.slow
@pytest.mark.alone
async def test_a_worker_is_lost_that_has_claimed_nothing_of_very_much() -> None:
    """What it was sent goes to others: each message is asked for again, the oldest first."""
    async with running() as receivers:
        with receivers.polls.connect("g", "1") as connection:
            for first in range(0, MANY_COUNT, WRITTEN_COUNT):
                receivers.send(WRITTEN_COUNT, lambda _: "poll://any@g", first)
                assert len(connection.receive_now()) == WRITTEN_COUNT
                connection.confirm()
            receivers.reports.clear()
            receivers.delivery.withdraw("execute w7")
            async with measured() as found:
                connection.__exit__(None, None, None)
                await trio.sleep(0.001)
                gone = {7}
                if len(receivers.reports) < MANY_COUNT // 2:  # else the machine is fast
                    receivers.delivery.withdraw(f"execute w{MANY_COUNT - 7}")
                    gone.add(MANY_COUNT - 7)
                await until(lambda: len(receivers.reports) >= MANY_COUNT - len(gone))
    numbers = [number for number in range(MANY_COUNT) if number not in gone]
    assert receivers.reports == [RetryExecute(f"w{number}", 1) for number in numbers]
    assert found.longest_ms < LIMIT_MS


@pytest.mark.slow
@pytest.mark.alone
async def test_one_receiver_of_very_many_is_tried_again() -> None:
    """It is found without a look at the others."""
    async with running() as receivers:
        receivers.send(MANY_COUNT, lambda number: f"poll://uni@g{number}/1")
        receivers.send(MANY_COUNT, lambda number: f"http://host{number}.example/")
        async with measured() as found:
            for name in ("poll://g7", "http://host7.example/", "undeliverable"):
                receivers.delivery.retry_receiver(name, 100)
                await trio.lowlevel.checkpoint()
    assert found.longest_ms < LIMIT_MS


@pytest.mark.slow
@pytest.mark.alone
async def test_a_worker_comes_that_very_much_waits_for() -> None:
    """All is released, the oldest first."""
    async with running() as receivers:
        receivers.send(MANY_COUNT, lambda _: "poll://any@g")
        receivers.reports.clear()
        async with measured() as found:
            connection = receivers.polls.connect("g", "1")
            await until(lambda: len(receivers.reports) == MANY_COUNT)
        connection.__exit__(None, None, None)
    assert receivers.reports == [RetryExecute(f"w{number}", 1) for number in range(MANY_COUNT)]
    assert found.longest_ms < LIMIT_MS
