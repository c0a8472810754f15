"""A message under way: what delivery knows of one task between `send` and its end.

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
from typing import TYPE_CHECKING, Protocol, TypeAlias, final

from troth.core.grammar.addresses import Address, PollAddress, PushAddress
from troth.core.model import TaskKind
from troth.core.replies import TaskMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from troth.shards.alarms import Alarm

ReceiverKey: TypeAlias = tuple[str, str | None]
"""Whom a stalled shipment waits for: a push target or poll group, and for one connection its id."""


class PushFailed(Exception):  # noqa: N818  a fact about the receiver, not a defect
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


@final
class Shipment:
    """One task's message. Compared by identity.

    `message` and the render function are dropped when it stalls: 100,000 stalled tasks must not
    hold their messages in memory.
    """

    __slots__ = (
        "_render",
        "address",
        "alarm",
        "attempt_count",
        "counter",
        "exact",
        "id",
        "message",
        "reserved",
        "state",
    )

    def __init__(
        self,
        message: TaskMessage,
        address: Address | None,
        render: "Callable[[TaskMessage], bytes]",
        attempt_count: int,
    ) -> None:
        """Begin as WAITING. `address` is None for a receiver that cannot be reached ever."""
        self.id = message.task.id
        self.counter = message.task.counter
        self.message: TaskMessage | None = message
        self._render: Callable[[TaskMessage], bytes] | None = render
        self.address = address
        self.attempt_count = attempt_count
        self.state = ShipmentState.WAITING
        self.alarm: Alarm | None = None
        self.reserved = False
        # A notification with an id is for that connection alone (decisions.md 1).
        self.exact = isinstance(address, PollAddress) and (
            address.cast == "uni"
            or (message.task.kind is TaskKind.NOTIFY and address.id is not None)
        )

    @property
    def receiver(self) -> ReceiverKey:
        """Whom this shipment waits for while it is stalled."""
        if isinstance(self.address, PollAddress):
            return (self.address.target, self.address.id if self.exact else None)
        if isinstance(self.address, PushAddress):
            return (self.address.target, None)
        return ("", None)

    def body(self) -> bytes:
        """Return the message as it goes out."""
        assert self.message is not None
        assert self._render is not None
        return self._render(self.message)

    def trace_headers(self) -> dict[str, str]:
        """Return the W3C trace headers of the request that created the task, if it had any."""
        trace = self.message.task.trace if self.message is not None else None
        if trace is None or not _is_header_value(trace.traceparent):
            return {}
        headers = {"traceparent": trace.traceparent}
        if trace.tracestate and _is_header_value(trace.tracestate):
            headers["tracestate"] = trace.tracestate
        return headers

    def empty(self) -> None:
        """Let go of the message; only who and where is still needed."""
        self.message = None
        self._render = None

    def cancel_alarm(self) -> None:
        """Cancel what was to happen to this shipment later."""
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None


def _is_header_value(text: str) -> bool:
    # A trace that no header can carry must not make the receiver look broken.
    return text.isascii() and text.isprintable()


@dataclass(frozen=True, slots=True)
class TargetStatistics:
    """One receiver: counts of this moment."""

    target: str
    health: str
    waiting_count: int
    in_flight_count: int
    stalled_count: int
    failing_since_ms: int | None


@dataclass(frozen=True, slots=True)
class DeliveryStatistics:
    """Counts of this moment, and totals since the start (`…_total_count`)."""

    waiting_count: int
    in_flight_count: int
    stalled_count: int
    sent_total_count: int
    failed_total_count: int
    retried_total_count: int
    withdrawn_total_count: int
    undeliverable_total_count: int
    push_given_up_total_count: int
    push_targets_count: int
    push_targets_open_count: int
    targets: tuple[TargetStatistics, ...]
    """The targets with most messages waiting or stalled, at most 20, most first."""
