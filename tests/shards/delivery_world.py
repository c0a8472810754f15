"""Delivery with everything around it faked: the machine's side, push receivers, and the clock."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import trio

from troth.core.commands import Command, RetryTask, TaskNotSent, TaskSent
from troth.core.grammar.addresses import Address, PushAddress
from troth.core.model import Promise, PromiseState, Task, TaskKind, Trace
from troth.core.replies import Message, TaskMessage
from troth.shards.delivery.delivery import Delivery
from troth.shards.delivery.polls import Polls
from troth.shards.delivery.shipments import PushFailed

FAR_FUTURE_MS = 2**53


def message(
    task_id: str,
    receiver: object,
    *,
    counter: int = 1,
    kind: TaskKind = TaskKind.INVOKE,
    trace: Trace | None = None,
) -> TaskMessage:
    """A message for one task, as the machine would emit it."""
    task = Task(
        id=task_id,
        kind=kind,
        root_id=f"root of {task_id}",
        leaf_id=f"leaf of {task_id}",
        receiver=receiver,
        timeout=FAR_FUTURE_MS,
        sequence=1,
        created_on=0,
        counter=counter,
        trace=trace,
    )
    promise = None
    if kind is TaskKind.NOTIFY:
        promise = Promise(task_id, 1, PromiseState.RESOLVED, FAR_FUTURE_MS, 0)
    return TaskMessage(task, promise)


def render(shown: Message) -> bytes:
    """The message's text: enough to recognise it by."""
    assert isinstance(shown, TaskMessage)
    return f"{shown.task.id}/{shown.task.counter}".encode()


@dataclass
class FakePush:
    """Receivers by host name: each answers, fails, or waits as `behaviour` says (seconds, or text).

    A single message, named by its text, may have a behaviour of its own.

    A number is the time until the answer; "fail" refuses, "hang" never answers, "break" raises
    what no transport should.
    """

    behaviour: dict[str, float | str] = field(default_factory=dict)
    arrivals: list[tuple[float, str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    in_flight: Counter[str] = field(default_factory=Counter)
    most_in_flight: Counter[str] = field(default_factory=Counter)

    async def send(self, address: PushAddress, body: bytes, headers: Mapping[str, str]) -> None:
        """Behave."""
        host = address.target.removeprefix("http://").removesuffix(":80")
        self.arrivals.append((trio.current_time(), host, body.decode()))
        self.headers.append(dict(headers))
        for name in (host, ""):
            self.in_flight[name] += 1
            self.most_in_flight[name] = max(self.most_in_flight[name], self.in_flight[name])
        try:
            behaviour = self.behaviour.get(body.decode(), self.behaviour.get(host, 0.01))
            if behaviour == "hang":
                await trio.sleep_forever()
            elif behaviour == "timeout":
                await trio.sleep(10)
                raise PushFailed("no answer within 10 s")
            elif behaviour == "fail":
                await trio.sleep(0.01)
                raise PushFailed("status 500")
            elif behaviour == "break":
                raise RuntimeError("a defect")
            else:
                await trio.sleep(float(behaviour))
        finally:
            for name in (host, ""):
                self.in_flight[name] -= 1

    def arrivals_at(self, host: str) -> list[tuple[float, str]]:
        """When which message came to a host."""
        return [(at, body) for at, name, body in self.arrivals if name == host]


class World:
    """Delivery, with a stand-in for the machine that answers RetryTask by sending anew."""

    def __init__(
        self,
        *,
        targets: Mapping[str, Address] | None = None,
        seed: int = 7,
        connections_limit_count: int = 1_000,
        buffer_limit_count: int = 100,
        concurrency_per_target_count: int = 8,
        concurrency_count: int = 256,
        target_queue_limit_count: int = 10_000,
    ) -> None:
        """Nothing runs yet."""
        self.push = FakePush()
        self.reports: list[tuple[float, Command]] = []
        self.tasks: dict[str, TaskMessage] = {}
        self.resends = True
        self._mail: list[Command] = []
        self._mailed = trio.Event()
        self.polls = Polls(
            connections_limit_count=connections_limit_count, buffer_limit_count=buffer_limit_count
        )
        self.delivery = Delivery(
            render=render,
            push=self.push,
            polls=self.polls,
            report=self._report,
            targets=targets or {},
            now_ms=lambda: int(trio.current_time() * 1000),
            random=Random(seed),
            concurrency_per_target_count=concurrency_per_target_count,
            concurrency_count=concurrency_count,
            target_queue_limit_count=target_queue_limit_count,
        )

    def _report(self, command: Command) -> None:
        self.reports.append((trio.current_time(), command))
        self._mail.append(command)
        self._mailed.set()

    def send(self, task_message: TaskMessage) -> None:
        """Send as the machine does."""
        self.tasks[task_message.task.id] = task_message
        self.delivery.send(task_message)

    def withdraw(self, task_id: str) -> None:
        """Withdraw as the machine does."""
        self.tasks.pop(task_id, None)
        self.delivery.withdraw(task_id)

    def finished(self, promise_ids: list[str]) -> None:
        """Tell it, as the shards do."""
        self.delivery.finished(promise_ids)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run delivery and the machine's stand-in."""
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: self.delivery.run(task_status=task_status))
            nursery.start_soon(self._machine)
            yield
            nursery.cancel_scope.cancel()

    async def _machine(self) -> None:
        while True:
            while not self._mail:
                self._mailed = trio.Event()
                await self._mailed.wait()
            mail, self._mail = self._mail, []
            for command in mail:
                if isinstance(command, TaskSent):
                    self.tasks.pop(command.id, None)
                elif isinstance(command, RetryTask) and self.resends and command.id in self.tasks:
                    self.delivery.send(self.tasks[command.id])
            await trio.lowlevel.checkpoint()

    def commands(self) -> list[Command]:
        """All reports so far, without their times."""
        return [command for _, command in self.reports]

    def sent_ids(self) -> list[str]:
        """Tasks reported as sent, in order."""
        return [command.id for command in self.commands() if isinstance(command, TaskSent)]

    def not_sent_ids(self) -> list[str]:
        """Tasks reported as not sent, in order."""
        return [command.id for command in self.commands() if isinstance(command, TaskNotSent)]

    def retried_at(self, task_id: str) -> list[float]:
        """When this task was asked for again."""
        return [
            at
            for at, command in self.reports
            if isinstance(command, RetryTask) and command.id == task_id
        ]


def stalled_count(delivery: Delivery) -> int:
    """How many messages wait until they are tried again."""
    return sum(view.stalled_count for view in delivery.receivers())
