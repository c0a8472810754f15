"""A state machine with traces around it, on a simulated clock, without threads or network.

Times are in ms since the start of the simulated clock. Spans are described as the exporter's thread
would describe them.
"""

from collections.abc import Mapping
from itertools import count
from random import Random
from typing import Any

from troth.core.commands import Command, TaskNotSent, TaskSent
from troth.core.deciding import Options
from troth.core.machine import Machine
from troth.core.model import Promise, Trace
from troth.core.replies import ExecuteMessage, Message, Reply, TaskMessage
from troth.core.workflow_commands import ExecuteSent
from troth.http.settings.kinds import Targets
from troth.http.tracing.contexts import Ids, Sampler
from troth.http.tracing.environment import TracingPlan
from troth.http.tracing.spans import FinishedSpan, SpanQueue
from troth.http.tracing.tracing import Tracing
from troth.http.wire.requests import Request

START_MS = 1_700_000_000_000


class NoExporter:
    """An exporter that keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[FinishedSpan] = []

    def give(self, spans: list[FinishedSpan]) -> None:
        """Keep them."""
        self.given.extend(spans)

    def close(self, timeout_s: float) -> None:
        """Do nothing."""


class NoLog:
    """A request log that writes nothing."""

    above_s = float("inf")

    def note(self, request: Request, status: int, duration_s: float) -> None:
        """Do nothing."""


class TracedWorld:
    """The machine, what it has sent, and the spans that were made."""

    def __init__(
        self,
        *,
        ratio: float = 1.0,
        shows_ids: bool = True,
        tags: tuple[str, ...] = (),
        targets: Mapping[str, str] | None = None,
    ) -> None:
        self.now_ms = START_MS
        self.messages: list[Message] = []
        self.exporter = NoExporter()
        sampler = Sampler.of(ratio)
        serials = count(1)
        self.machine = Machine(
            0,
            lambda _: 0,
            lambda: next(serials),
            Options(samples_run=sampler.wants_root),
        )
        self.tracing = Tracing(
            TracingPlan(sampler, "troth"),
            self._make_exporter,
            now_ns=lambda: self.now_ms * 1_000_000,
            ids=Ids(Random(7).getrandbits),
            tags=tags,
            shows_ids=shows_ids,
        )
        names: Any = Targets().from_toml(dict(targets)) if targets else {}
        self.outgoing = self.tracing.outgoing(self, names, self._find)
        self.requests = self.tracing.listen(self.machine.watch, self.machine.failures, NoLog())

    def _make_exporter(self, _: SpanQueue) -> Any:
        return self.exporter

    def _find(self, promise_id: str) -> Promise | None:
        return self.machine.state.promises.get(promise_id)

    def step(self, command: Command) -> Reply:
        """Carry out a command now; its messages leave."""
        step = self.machine.step(command, self.now_ms)
        for key in step.withdrawals:
            self.outgoing.withdraw(key)
        for message in step.sends:
            self.outgoing.send(message)
        return step.reply

    def report(self, *, was_sent: bool = True) -> None:
        """Report the newest message as sent, or not."""
        message = self.messages[-1]
        report: Command
        if isinstance(message, ExecuteMessage):
            report = ExecuteSent(message.id, message.version)
        else:
            assert isinstance(message, TaskMessage)
            kind = TaskSent if was_sent else TaskNotSent
            report = kind(message.task.id, message.task.counter)
        self.tracing.heard(report)
        self.step(report)

    def after(self, ms: int) -> None:
        """Let time go on."""
        self.now_ms += ms

    def trace_of_last(self) -> Trace:
        """Return the trace that the newest message carries."""
        message = self.messages[-1]
        if isinstance(message, TaskMessage):
            trace = message.task.trace
        elif isinstance(message, ExecuteMessage):
            trace = message.trace
        else:
            trace = message.promise.trace
        assert trace is not None
        return trace

    def spans(self) -> list[tuple[str, FinishedSpan, dict[str, Any]]]:
        """Return all spans that have ended since the last call: name, span, attributes."""
        taken = self.tracing.queue.take(self.tracing.queue.count)
        described = [(one, one.describe(*one.about)) for one in taken]
        return [(name, one, attributes) for one, (name, attributes) in described]

    # Outgoing

    def send(self, message: Message) -> None:
        """Keep a message."""
        self.messages.append(message)

    def withdraw(self, task_id: str) -> None:
        """Do nothing."""

    def finished(self, promise_ids: list[str]) -> None:
        """Do nothing."""
