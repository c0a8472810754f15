"""Delivery with a real machine behind it: what workers of the envelope protocol see."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from random import Random

import trio

from troth.core import workflow_commands as w
from troth.core.commands import Command, GoOn
from troth.core.limits import INTEGER_MAX
from troth.core.machine import Machine
from troth.core.model import PromiseState
from troth.core.replies import ExecuteMessage, Message, Reply, TaskMessage
from troth.shards.delivery.delivery import Delivery
from troth.shards.delivery.polls import PollConnection, Polls

from .delivery_world import FakePush


def render(message: Message) -> bytes:
    """Enough to recognize a message by."""
    if isinstance(message, TaskMessage):
        return f"{message.task.id}/{message.task.counter}".encode()
    if isinstance(message, ExecuteMessage):
        return f"execute {message.id}/{message.version}".encode()
    return f"unblock {message.promise.id}".encode()


class WorkflowWorld:
    """One machine, whose messages go out at once, and delivery."""

    def __init__(self) -> None:
        self.machine = Machine(0, lambda _: 0, count(1).__next__)
        self.push = FakePush()
        self.polls = Polls(connections_limit_count=100, buffer_limit_count=10)
        self.delivery = Delivery(
            render=render,
            push=self.push,
            polls=self.polls,
            report=self._report,
            targets={},
            now_ms=self.now_ms,
            random=Random(7),
        )
        self.reports: list[Command] = []
        self._mail: list[Command] = []
        self._mailed = trio.Event()

    def now_ms(self) -> int:
        """The clock of the test."""
        return round(trio.current_time() * 1000)

    def ask(self, command: Command) -> Reply:
        """Step the machine and hand over what it sends."""
        step = self.machine.step(command, self.now_ms())
        for key in step.withdrawals:
            self.delivery.withdraw(key)
        for message in step.sends:
            self.delivery.send(message)
        if step.has_more:
            self.ask(GoOn())
        return step.reply

    def _report(self, command: Command) -> None:
        self.reports.append(command)
        self._mail.append(command)
        self._mailed.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run delivery, and let its reports reach the machine."""
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: self.delivery.run(task_status=task_status))
            nursery.start_soon(self._carry)
            yield
            nursery.cancel_scope.cancel()

    async def _carry(self) -> None:
        while True:
            while not self._mail:
                self._mailed = trio.Event()
                await self._mailed.wait()
            mail, self._mail = self._mail, []
            for command in mail:
                self.ask(command)
            await trio.lowlevel.checkpoint()

    # What clients do

    def create(self, promise_id: str, target: str = "poll://any@g") -> None:
        """A promise with a task."""
        tags = {"resonate:target": target}
        self.ask(w.EnsurePromise(promise_id, INTEGER_MAX, tags=tags))

    def listen(self, promise_id: str, address: str) -> None:
        """A promise that is listened to."""
        self.ask(w.EnsurePromise(promise_id, INTEGER_MAX))
        self.ask(w.RegisterListener(promise_id, address))

    def settle(self, promise_id: str) -> None:
        """Its end."""
        self.ask(w.SettlePromise(promise_id, PromiseState.RESOLVED))

    def acquire(self, promise_id: str, version: int = 0) -> None:
        """A claim."""
        reply = self.ask(w.AcquireWorkflow(promise_id, version, "p", 60_000))
        assert reply.workflow is not None


async def read(connection: PollConnection) -> list[str]:
    """Receive and confirm once, as a stream handler does; fails if nothing comes for an hour."""
    with trio.fail_after(3_600):
        texts = [text.decode() for text in await connection.receive()]
    connection.confirm()
    return texts


async def waiting(connection: PollConnection) -> list[str]:
    """What has come within a moment; perhaps nothing."""
    with trio.move_on_after(0.5):
        return await read(connection)
    return []
