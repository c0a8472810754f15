"""A message under way: what delivery knows of one message between `send` and its end.

    send() -> WAITING (push queue, or a poll connection's buffer) -> SENDING (push) -> sent:
    forgotten
                 |                                                      |
                 v                                                      v
              STALLED  <---------------- failed: TaskNotSent -----------+
                 |
                 v  back-off over, or the receiver is back: RetryTask
              RELEASED -> send() comes again, or the machine needs it no more: forgotten

At every moment a task has at most one shipment that is not LOST. A LOST shipment is one whose task
was withdrawn while its message was on the wire; what becomes of it is not reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self, TypeAlias

from msgspec import Struct

from troth.core.commands import Command, RetryTask, TaskNotSent, TaskSent
from troth.core.grammar.addresses import (
    Address,
    PollAddress,
    PushAddress,
    Undeliverable,
    resolve,
)
from troth.core.grammar.targets import resolve_target
from troth.core.model import NOTIFY, Promise, Trace
from troth.core.replies import ExecuteMessage, Message, TaskMessage, UnblockMessage
from troth.core.workflow_commands import (
    ExecuteNotSent,
    ExecuteSent,
    RetryExecute,
    RetryUnblock,
    UnblockSent,
)
from troth.core.workflows import execute_key, unblock_key, unblocked_of, workflow_of

from .dialects import ENVELOPE, REST, Dialect

if TYPE_CHECKING:
    from collections.abc import Callable

    from troth.shards.alarms import Alarm

ReceiverKey: TypeAlias = tuple[str, str | None]
"""What a stalled shipment waits for: a push target or poll group, and for one connection its id."""


_FOR_ENVELOPE: Final = "envelope "


_KEYS_COUNT: Final = 4_096
"""So many keys are each one object, however many messages wait for the same receiver."""


@lru_cache(maxsize=_KEYS_COUNT)
def poll_receiver(group: str, connection_id: str | None, dialect: Dialect) -> ReceiverKey:
    """Name a poll group, or one connection of it, as the receiver of messages of a dialect."""
    beginning = _FOR_ENVELOPE if dialect is ENVELOPE else ""
    return f"{beginning}poll://{group}", connection_id


@lru_cache(maxsize=_KEYS_COUNT)
def _push_receiver(target: str) -> ReceiverKey:
    return target, None


_NO_RECEIVER: Final[ReceiverKey] = ("", None)


def poll_group(target: str) -> tuple[str, Dialect] | None:
    """Return the group and dialect that the first part of a receiver's key names, if any."""
    dialect = ENVELOPE if target.startswith(_FOR_ENVELOPE) else REST
    url = target.removeprefix(_FOR_ENVELOPE)
    return (url.removeprefix("poll://"), dialect) if url.startswith("poll://") else None


def poll_targets(group: str) -> list[str]:
    """Return the first parts of a group's keys, and of those of its connections."""
    return [poll_receiver(group, None, dialect)[0] for dialect in Dialect]


UNDELIVERABLE: Final = "undeliverable"
"""The name of all receivers that cannot be resolved."""


def receiver_name(target: str) -> str:
    """Return how the receiver of both dialects is called that the first part of a key names."""
    group = poll_group(target)
    return (target or UNDELIVERABLE) if group is None else f"poll://{group[0]}"


def targets_of(receiver: str) -> list[str]:
    """Return the first parts of the keys of a receiver that `receiver_name` calls so."""
    if receiver.startswith("poll://"):
        return poll_targets(receiver.removeprefix("poll://"))
    return ["" if receiver == UNDELIVERABLE else receiver]


class PushFailed(Exception):
    """A message was not accepted by its HTTP receiver; `reason` says why, for people."""

    def __init__(self, reason: str) -> None:
        """Keep the reason."""
        super().__init__(reason)
        self.reason = reason


class PushTransport(Protocol):
    """Sends one message by HTTP. `troth.http.outgoing.push.PushSender` is the real one."""

    async def send(self, address: PushAddress, body: bytes, headers: Mapping[str, str]) -> None:
        """Return when the receiver has accepted the message. Raises PushFailed."""
        ...


class ShipmentState(Enum):
    """Where a shipment is; see the drawing above."""

    WAITING = "waiting"
    SENDING = "sending"
    STALLED = "stalled"
    RELEASED = "released"
    LOST = "lost"


class ShipmentKind(Enum):
    """What a message is about."""

    TASK = "task"
    EXECUTE = "execute"
    UNBLOCK = "unblock"


# See PENDING in model.py.
WAITING: Final = ShipmentState.WAITING
SENDING: Final = ShipmentState.SENDING
STALLED: Final = ShipmentState.STALLED
RELEASED: Final = ShipmentState.RELEASED
LOST: Final = ShipmentState.LOST
TASK: Final = ShipmentKind.TASK
EXECUTE: Final = ShipmentKind.EXECUTE
UNBLOCK: Final = ShipmentKind.UNBLOCK


def key_of(message: Message) -> str:
    """Return the name of what a message is about: a newer message of it replaces an older one."""
    if isinstance(message, TaskMessage):
        return message.task.id
    if isinstance(message, ExecuteMessage):
        return execute_key(message.id)
    return unblock_key(message.promise.id, message.address)


def parts_of(key: str) -> tuple[ShipmentKind, str, str]:
    """Return what a key of `key_of` is about: its kind, task or promise, and listener if any."""
    workflow_id = workflow_of(key)
    if workflow_id is not None:
        return EXECUTE, workflow_id, ""
    unblocked = unblocked_of(key)
    if unblocked is not None:
        return UNBLOCK, *unblocked
    return TASK, key, ""


def counter_of(message: Message) -> int:
    """Return what tells older messages of the same task from newer ones."""
    if isinstance(message, TaskMessage):
        return message.task.counter
    return message.version if isinstance(message, ExecuteMessage) else 0


def address_of(message: Message, names: Mapping[str, Address]) -> Address | Undeliverable:
    """Return where a message goes. `names` are those that receivers of REST's tasks may have."""
    if isinstance(message, TaskMessage):
        return resolve(message.task.receiver, names)
    if isinstance(message, ExecuteMessage):
        return resolve_target(message.target)
    return resolve_target(message.address)


def shown_promise(message: Message) -> Promise | None:
    """Return the promise that a message shows, whatever its receiver; None if it shows none."""
    if isinstance(message, ExecuteMessage):
        return None
    if isinstance(message, TaskMessage) and message.task.kind is not NOTIFY:
        return None
    return message.promise


def size_characters(message: Message) -> int:
    """Return about how many characters a message's text has, without making it."""
    promise = shown_promise(message)
    return 0 if promise is None else promise.param.size + promise.value.size


class Shipment(Struct, eq=False):
    """One message. Compared by identity. `subject` is the id of its task or promise.

    `dialect` is what a worker must understand to get this; `receiver` is what this waits for while
    it is stalled; `error` says why the last attempt failed. `address` is None for a receiver that
    can never be reached. `message` and the render function are dropped when it stalls: 100,000
    stalled tasks must not hold their messages in memory.
    """

    id: str
    kind: ShipmentKind
    subject: str
    counter: int
    dialect: Dialect
    address: Address | None
    receiver: ReceiverKey
    exact: bool
    attempt_count: int
    listener: str = ""
    message: Message | None = None
    render: "Callable[[Message], bytes] | None" = None
    state: ShipmentState = WAITING
    error: str | None = None
    alarm: "Alarm | None" = None
    reserved: bool = False

    @classmethod
    def of(
        cls,
        key: str,
        message: Message,
        address: Address | None,
        render: "Callable[[Message], bytes]",
        attempt_count: int,
    ) -> Self:
        """Return a message that begins as WAITING. `key` is that of `key_of`."""
        # A message to a waiter with an id is for that connection alone (decisions.md 1,
        # envelope.md 7).
        is_for_waiter = False
        dialect, listener = ENVELOPE, ""
        if isinstance(message, TaskMessage):
            task = message.task
            kind, subject, counter, dialect = TASK, key, task.counter, REST
            is_for_waiter = task.kind is NOTIFY
        elif isinstance(message, ExecuteMessage):
            kind, subject, counter = EXECUTE, message.id, message.version
        else:
            kind, subject, counter = UNBLOCK, message.promise.id, 0
            listener = message.address
            is_for_waiter = True
        exact, receiver = False, _NO_RECEIVER
        if isinstance(address, PollAddress):
            exact = address.cast == "uni" or (is_for_waiter and address.id is not None)
            receiver = poll_receiver(address.group, address.id if exact else None, dialect)
        elif isinstance(address, PushAddress):
            receiver = _push_receiver(address.target)
        return cls(
            key,
            kind,
            subject,
            counter,
            dialect,
            address,
            receiver,
            exact,
            attempt_count,
            listener,
            message,
            render,
        )

    @classmethod
    def revived(
        cls,
        key: str,
        address: Address | None,
        receiver: ReceiverKey,
        counter: int,
        attempt_count: int,
        exact: bool,
    ) -> Self:
        """Return a message that is STALLED, and was forgotten but for this."""
        kind, subject, listener = parts_of(key)
        dialect = REST if kind is TASK else ENVELOPE
        return cls(
            key,
            kind,
            subject,
            counter,
            dialect,
            address,
            receiver,
            exact,
            attempt_count,
            listener,
            state=STALLED,
        )

    def sent(self) -> Command:
        """Return the report that it has arrived."""
        if self.kind is TASK:
            return TaskSent(self.subject, self.counter)
        if self.kind is EXECUTE:
            return ExecuteSent(self.subject, self.counter)
        return UnblockSent(self.subject, self.listener)

    def not_sent(self) -> Command | None:
        """Return the report that it is kept until it can be sent; None if no report is wanted."""
        if self.kind is TASK:
            return TaskNotSent(self.subject, self.counter)
        if self.kind is EXECUTE:
            return ExecuteNotSent(self.subject, self.counter)
        return None

    def retry(self) -> Command:
        """Return the question for the message of one that was kept."""
        if self.kind is TASK:
            return RetryTask(self.subject, self.counter)
        if self.kind is EXECUTE:
            return RetryExecute(self.subject, self.counter)
        return RetryUnblock(self.subject, self.listener)

    @property
    def size_characters(self) -> int:
        """About how long the message is, without what all have."""
        assert self.message is not None
        return size_characters(self.message)

    def body(self) -> bytes:
        """Return the message as it goes out."""
        assert self.message is not None
        assert self.render is not None
        return self.render(self.message)

    def trace_headers(self) -> dict[str, str]:
        """Return the W3C trace headers of the request that created the task, if it had any."""
        trace = _trace_of(self.message)
        if trace is None or not _is_header_value(trace.traceparent):
            return {}
        headers = {"traceparent": trace.traceparent}
        if trace.tracestate and _is_header_value(trace.tracestate):
            headers["tracestate"] = trace.tracestate
        return headers

    def empty(self) -> None:
        """Drop the message; only its subject and receiver are still needed."""
        self.message = None
        self.render = None

    def cancel_alarm(self) -> None:
        """Cancel what was to happen to this shipment later."""
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None


def _trace_of(message: Message | None) -> Trace | None:
    if isinstance(message, TaskMessage):
        return message.task.trace
    if isinstance(message, ExecuteMessage):
        return message.trace
    return message.promise.trace if isinstance(message, UnblockMessage) else None


def _is_header_value(text: str) -> bool:
    # A trace that no header can carry must not make the receiver look broken.
    return text.isascii() and text.isprintable()


@dataclass(frozen=True, slots=True)
class ShipmentView:
    """What is known of one message: failed attempts, why the last one failed, and the next one.

    `failing_since_ms` is since when its receiver fails, if messages wait until it answers again.
    """

    state: ShipmentState
    failed_count: int
    error: str | None
    next_try_in_ms: int | None
    failing_since_ms: int | None


class ReceiverView(NamedTuple):
    """Some of what waits for a receiver, named as in `ReceiverKey`; counts and texts add up.

    `first` is a message that has waited long, `next_try_s` on trio's clock. `health` is None where
    nothing is known of it.
    """

    target: str
    waiting_count: int
    in_flight_count: int
    stalled_count: int
    sent_total_count: int
    first: Shipment | None
    health: str | None
    failing_since_ms: int | None
    error: str | None
    next_try_s: float | None


@dataclass(frozen=True, slots=True)
class DeliveryStatistics:
    """Counts of this moment, and totals since the start (`…_total_count`)."""

    in_flight_count: int
    sent_total_count: int
    failed_total_count: int
    retried_total_count: int
    withdrawn_total_count: int
    undeliverable_total_count: int
    by_kind: Mapping[tuple[str, str], int]
    """Messages by the kind of their receivers (`poll`, `push`) and result."""
    push_given_up_total_count: int
    push_targets_count: int
    push_targets_open_count: int
