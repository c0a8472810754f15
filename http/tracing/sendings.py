"""The spans of messages to workers and waiters, and the ids that these messages carry.

`TracedOutgoing` stands between the shards and delivery, and hears delivery's reports. A message of
a sampled trace leaves with the id of its own span in place of that of the promise's creation, so
what a worker does hangs below the sending; everything else passes untouched. The span ends with the
report, which comes soon: what cannot be sent now is reported as not sent, and the next attempt is a
span of its own.
"""

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from troth.core.catalog import RESERVED_PREFIX
from troth.core.commands import Command, TaskNotSent, TaskSent
from troth.core.grammar.addresses import Address, PushAddress, Undeliverable
from troth.core.model import RESUME, Promise, Trace, replace
from troth.core.replies import ExecuteMessage, Message, TaskMessage
from troth.core.workflow_commands import ExecuteNotSent, ExecuteSent, UnblockSent
from troth.core.workflows import execute_key, unblock_key
from troth.shards.delivery.shipments import UNDELIVERABLE, address_of, counter_of, key_of
from troth.shards.turns import Outgoing

from .contexts import Ids, SpanContext, context_of, sampled_context
from .spans import Attributes, FinishedSpan, SpanKind, SpanQueue

REMEMBERED_COUNT: Final = 100_000
"""Sendings that are remembered until their task is claimed; the oldest are forgotten first."""


class MessageSpan(Struct, eq=False, gc=False):
    """A message under way: its span, and what is said of it."""

    context: SpanContext
    parent_id: int
    start_ns: int
    receiver: str
    is_push: bool
    attempt: int
    subject: str
    kind: str
    link: SpanContext | None


class TracedOutgoing:
    """The `Outgoing` of a traced server. `finder` returns a promise in memory, by its id."""

    def __init__(
        self,
        outgoing: Outgoing,
        queue: SpanQueue,
        ids: Ids,
        *,
        names: Mapping[str, Address],
        now_ns: Callable[[], int],
        finder: Callable[[str], Promise | None],
        shows_ids: bool = True,
    ) -> None:
        self._outgoing = outgoing
        self._queue = queue
        self._ids = ids
        self._names = names
        self._now_ns = now_ns
        self._finder = finder
        self._shows_ids = shows_ids
        self._under_way: dict[str, MessageSpan] = {}
        self._sent: dict[str, SpanContext] = {}

    def send(self, message: Message) -> None:
        """See Outgoing."""
        creation, link = self._origin(message)
        if creation is None:
            self._outgoing.send(message)
            return
        key = key_of(message)
        if key in self._under_way:
            self._end(key, "replaced")
        context = creation.with_span(self._ids.span_id())
        receiver, is_push = _receiver(address_of(message, self._names))
        kind = message.task.kind.value if isinstance(message, TaskMessage) else "unblock"
        if isinstance(message, ExecuteMessage):
            kind = "execute"
        if len(self._under_way) >= REMEMBERED_COUNT:
            self._end(next(iter(self._under_way)), "unknown")
        self._under_way[key] = MessageSpan(
            context,
            creation.span_id,
            self._now_ns(),
            receiver,
            is_push,
            counter_of(message),
            _promise_of(message),
            kind,
            link,
        )
        self._outgoing.send(_with_trace(message, context.trace()))

    def withdraw(self, task_id: str) -> None:
        """See Outgoing."""
        if task_id in self._under_way:
            self._end(task_id, "withdrawn")
        self._outgoing.withdraw(task_id)

    def finished(self, promise_ids: list[str]) -> None:
        """See Outgoing."""
        self._outgoing.finished(promise_ids)

    def heard(self, command: Command) -> None:
        """Note what delivery reports."""
        match command:
            case TaskSent():
                self._end(command.id, "sent")
            case ExecuteSent():
                self._end(execute_key(command.id), "sent")
            case UnblockSent():
                self._end(unblock_key(command.id, command.address), "sent")
            case TaskNotSent():
                self._end(command.id, "failed")
            case ExecuteNotSent():
                self._end(execute_key(command.id), "failed")
            case _:
                pass

    def context_of(self, key: str) -> SpanContext | None:
        """Return the span of the message about a task that went out last; None if unknown."""
        sending = self._under_way.get(key)
        return self._sent.get(key) if sending is None else sending.context

    def forget(self, key: str) -> None:
        """Forget the message about a task that has ended."""
        self._sent.pop(key, None)

    def _origin(self, message: Message) -> tuple[SpanContext | None, SpanContext | None]:
        """Return the span that a message hangs below, if it is traced, and what led to it."""
        if isinstance(message, ExecuteMessage):
            return sampled_context(message.trace), None
        if not isinstance(message, TaskMessage):
            return sampled_context(message.promise.trace), None
        task = message.task
        if task.root_id.startswith(RESERVED_PREFIX):
            return None, None  # a function task: its attempt is a span of its own
        if task.kind is not RESUME:
            return sampled_context(task.trace), None
        root = self._finder(task.root_id)
        leaf = self._finder(task.leaf_id)
        creation = sampled_context(None if root is None else root.trace)
        link = context_of(None if leaf is None else leaf.trace)
        return creation or sampled_context(task.trace), link

    def _end(self, key: str, result: str) -> None:
        sending = self._under_way.pop(key, None)
        if sending is None:
            return
        if result != "failed":
            self._sent[key] = sending.context
            if len(self._sent) > REMEMBERED_COUNT:
                del self._sent[next(iter(self._sent))]
        self._queue.add(
            FinishedSpan(
                sending.context,
                sending.parent_id,
                SpanKind.CLIENT if sending.is_push else SpanKind.PRODUCER,
                sending.start_ns,
                self._now_ns(),
                self._described,
                (sending, result),
                error="not sent" if result == "failed" and sending.is_push else None,
                link=sending.link,
            )
        )

    def _described(self, sending: MessageSpan, result: str) -> tuple[str, Attributes]:
        made: Attributes = {
            "messaging.system": "troth",
            "messaging.operation.name": "send",
            "messaging.destination.name": sending.receiver,
            "troth.attempt": sending.attempt,
            "troth.message.kind": sending.kind,
            "troth.result": result,
        }
        if self._shows_ids:
            made["troth.promise.id"] = sending.subject
        return f"send {sending.receiver}", made


def _receiver(address: Address | Undeliverable) -> tuple[str, bool]:
    """Return how a receiver is called, without credentials, and whether it is pushed to."""
    if isinstance(address, Undeliverable):
        return UNDELIVERABLE, False
    if not isinstance(address, PushAddress):
        return address.target, False
    return address.target + urlsplit(address.url).path, True


def _promise_of(message: Message) -> str:
    if isinstance(message, TaskMessage):
        return message.task.root_id
    return message.id if isinstance(message, ExecuteMessage) else message.promise.id


def _with_trace(message: Message, trace: Trace) -> Message:
    if isinstance(message, TaskMessage):
        return replace(message, task=replace(message.task, trace=trace))
    if isinstance(message, ExecuteMessage):
        return replace(message, trace=trace)
    return replace(message, promise=replace(message.promise, trace=trace))
