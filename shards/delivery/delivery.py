"""Delivery: brings messages to workers and waiters, or says that it could not.

The shards' state machine decides *which* task may have a message out; delivery decides *how* and
*when* it is tried. Between `send` and the report the message belongs to delivery:

- `TaskSent`: the message is on the receiver's socket (poll) or was answered with 2xx (push).
- `TaskNotSent`: the first attempt failed. Delivery keeps the task and reports `RetryTask` once,
  when trying again makes sense; the machine then calls `send` again if the task may still go.
- The same for workflow tasks (`ExecuteSent`, `ExecuteNotSent`, `RetryExecute`) and for listeners of
  promises (`UnblockSent`, `RetryUnblock`). A workflow task whose worker's connection ended before
  it claimed the task is asked for again, too (`unclaimed.py`).

When trying again makes sense:

- poll: when a matching worker connects or has room again. Nothing is tried in between, since
  nothing else can make it succeed; 100,000 stalled tasks cost nothing while no worker is connected.
- push: after a back-off that doubles from `retry_first_ms` to `retry_limit_ms`, with jitter; if the
  target's circuit breaker is open, when a probe has succeeded (`push_targets.py`).
- As a safety net, every `_RECHECK_MS`.
- a receiver that cannot be resolved: never, since names are settled at the start. What waits for
  one, or for a group without workers, costs nothing but its memory.

Delivery holds no durable state: after a restart the machine sends again what was not reported. So a
message can arrive twice, but never less than once while its task lives. The task's counter tells
the copies apart.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from random import Random
from typing import Final, cast, final

import structlog
import trio

from troth.core import limits
from troth.core.commands import Command
from troth.core.failures import FailureKind, Failures
from troth.core.grammar.addresses import (
    Address,
    PollAddress,
    PushAddress,
    Undeliverable,
    resolve,
)
from troth.core.model import Json
from troth.core.replies import ExecuteMessage, Message
from troth.shards.alarms import Alarms

from .dialects import Dialect
from .missed import MissedReceivers
from .parked import Shipments
from .polls import Item, Polls
from .push_targets import MessageHold, PushTargets, unlimited
from .shipments import (
    EXECUTE,
    LOST,
    RELEASED,
    STALLED,
    WAITING,
    DeliveryStatistics,
    PushFailed,
    PushTransport,
    ReceiverKey,
    ReceiverView,
    Shipment,
    ShipmentView,
    address_of,
    counter_of,
    key_of,
    poll_group,
    poll_receiver,
    targets_of,
)
from .stalled import StalledShipments
from .unclaimed import Unclaimed

__all__ = ["Delivery", "DeliveryStatistics", "PushFailed", "PushTransport"]

_PUSH_SLOW_MS: Final = 1_000
_RESERVATION_MS: Final = 1_000  # a released task's message normally arrives within milliseconds
_RECHECK_MS: Final = 600_000
_JITTER: Final = 0.2  # a delay is up to this share longer or shorter

_log = structlog.get_logger("troth.shards.delivery")


_KINDS: Final[Mapping[type, str]] = {PollAddress: "poll", PushAddress: "push"}
_RESULTS: Final = ("sent", "failed", "retried", "withdrawn")


@final
class Delivery:
    """Brings messages to poll connections and push targets."""

    def __init__(
        self,
        *,
        render: Callable[[Message], bytes],
        push: PushTransport,
        polls: Polls,
        report: Callable[[Command], None],
        targets: Mapping[str, Address],
        now_ms: Callable[[], int],
        random: Random,
        retry_first_ms: int = limits.TASK_RETRY_FIRST_MS,
        retry_limit_ms: int = limits.TASK_RETRY_LIMIT_MS,
        concurrency_per_target_count: int = limits.PUSH_CONCURRENCY_PER_TARGET_COUNT,
        concurrency_count: int = limits.PUSH_CONCURRENCY_COUNT,
        target_queue_limit_count: int = limits.TARGET_QUEUE_LIMIT_COUNT,
        push_slow_ms: int = _PUSH_SLOW_MS,
        hold: MessageHold = unlimited,
        failures: Failures | None = None,
    ) -> None:
        """Initialize. Poll connections take messages immediately, push targets only after `run`.

        `render` makes the JSON text of a message. `report` puts a command into a shard's mailbox:
        it must neither block nor raise, nor call back into delivery before it returns. `targets`
        are the configured logical names. `concurrency_count` is shared out between good, new and
        suspect targets. `hold` is asked before a message for a push is rendered.
        """
        self._failures = Failures() if failures is None else failures
        self._now_ms = now_ms
        self._render = render
        self._polls = polls
        self._report = report
        self._addresses = targets
        self._random = random
        self._retry_first_ms = retry_first_ms
        self._retry_limit_ms = retry_limit_ms
        self._shipments = Shipments()
        self._backing_off: dict[ReceiverKey, dict[Shipment, None]] = {}
        self._totals: dict[type, Counter[str]] = {
            kind: Counter() for kind in (PollAddress, PushAddress, type(None))
        }
        self._alarms = Alarms()
        self._unclaimed = Unclaimed(self._alarms, report)
        self._stalled = StalledShipments(self._room_count, self._release_waiting)
        self._missed = MissedReceivers(self._alarms, polls, self._stalled.is_waiting_for)
        self._push_targets = PushTargets(
            transport=push,
            alarms=self._alarms,
            finished=self._push_finished,
            stall=self._stall,
            wake=self._stalled.wake,
            back_off_ms=self._back_off_ms,
            now_ms=now_ms,
            concurrency_per_target_count=concurrency_per_target_count,
            concurrency_count=concurrency_count,
            queue_limit_count=target_queue_limit_count,
            slow_ms=push_slow_ms,
            hold=hold,
        )
        polls.attach(self)

    def send(self, message: Message) -> None:
        """Take a message; its fate is reported later, or before this returns. Never blocks.

        An earlier message of the same task is withdrawn; one with a lower counter than what
        is under way is ignored.
        """
        key = key_of(message)
        attempt_count = 0
        earlier = self._shipments.find(key)
        if earlier is not None:
            if counter_of(message) < earlier.counter:
                return
            attempt_count = earlier.attempt_count
            self._shipments.remove(earlier)
            self._forget(earlier)
        if isinstance(message, ExecuteMessage):
            self._unclaimed.forget(key)
        address = address_of(message, self._addresses)
        if isinstance(address, Undeliverable):
            self._totals[type(None)]["undeliverable"] += 1
            if attempt_count == 0:
                self._missed.cannot_resolve(key, address.reason)
                self._failures.note(FailureKind.SENDING, self._now_ms(), key, address.reason)
            shipment = Shipment.of(key, message, None, self._render, attempt_count)
        else:
            shipment = Shipment.of(key, message, address, self._render, attempt_count)
        if earlier is not None:
            shipment.error = earlier.error
        self._shipments.add(shipment)
        self._dispatch(shipment)

    def withdraw(self, task_id: str) -> None:
        """Forget everything of a task. A message on the wire may still arrive, unreported."""
        self._unclaimed.forget(task_id)
        shipment = self._shipments.find(task_id)
        if shipment is not None:
            self._shipments.remove(shipment)
            self._totals[type(shipment.address)]["withdrawn"] += 1
            self._forget(shipment)

    def finished(self, promise_ids: list[str]) -> None:
        """Do nothing: delivery does not handle executions."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do the work that takes time, until canceled; pushes under way then count as failed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._alarms.run)
            nursery.start_soon(self._stalled.run)
            nursery.start_soon(self._push_targets.run)
            task_status.started()

    @property
    def sent_count(self) -> int:
        """The number of messages sent since the start."""
        return self._total("sent")

    def statistics(self) -> DeliveryStatistics:
        """Return counts of this moment and totals since the start."""
        push_targets = self._push_targets.targets
        return DeliveryStatistics(
            in_flight_count=self._push_targets.in_flight_count,
            sent_total_count=self._total("sent"),
            failed_total_count=self._total("failed"),
            retried_total_count=self._total("retried"),
            withdrawn_total_count=self._total("withdrawn"),
            undeliverable_total_count=self._total("undeliverable"),
            by_kind={
                (word, result): self._totals[kind][result]
                for kind, word in _KINDS.items()
                for result in _RESULTS
            },
            push_given_up_total_count=self._push_targets.given_up_total_count,
            push_targets_count=len(push_targets),
            push_targets_open_count=sum(target.open for target in push_targets),
        )

    def _total(self, result: str) -> int:
        return sum(totals[result] for totals in self._totals.values())

    # --- what people ask ------------------------------------------------------------------------

    def resolve(self, receiver: Json) -> Address | Undeliverable:
        """Return where the messages of a REST task with this receiver go."""
        return resolve(receiver, self._addresses)

    def look(self, key: str) -> ShipmentView | None:
        """Return what is known of the message about something (`key_of`); None if there is none."""
        shipment = self._shipments.look(key)
        if shipment is None:
            return None
        alarm, error, failing_since_ms = shipment.alarm, shipment.error, None
        target = self._push_targets.find(shipment.receiver)
        if target is not None and target.open:
            alarm, error = target.probe_alarm, error or target.error
            failing_since_ms = target.failing_since_ms
        next_try_in_ms = None
        if alarm is not None and shipment.state is STALLED:
            next_try_in_ms = max(0, int((alarm.due - trio.current_time()) * 1000))
        return ShipmentView(
            shipment.state, shipment.attempt_count, error, next_try_in_ms, failing_since_ms
        )

    def receivers(self) -> Iterator[ReceiverView]:
        """Yield what waits for each receiver, one of these or several for each.

        It may be left and taken up again later: what has gone in between is not yielded.
        """
        targets = self._push_targets
        for target in list(targets.targets):
            next_try = target.probe_alarm.due if target.probe_alarm is not None else None
            yield ReceiverView(
                target.key[0],
                len(target.waiting),
                target.in_flight_count,
                0,
                target.sent_total_count,
                next(iter(target.waiting), None),
                "failing" if target.open else target.health.value,
                target.failing_since_ms,
                target.error,
                next_try,
            )
        for key in list(self._stalled.by_receiver):
            waiting = self._stalled.by_receiver.get(key)
            if waiting:
                yield _view_of(key, len(waiting), self._shipments.look(next(iter(waiting))))
        for key in list(self._backing_off):
            shipments = self._backing_off.get(key)
            if shipments:
                yield _view_of(key, len(shipments), next(iter(shipments)))

    def retry(self, key: str) -> bool:
        """Try a stalled message again now; return whether there is one.

        A receiver that fails gets it as its next probe, without waiting until that is due.
        """
        shipment = self._shipments.find(key)
        if shipment is None or shipment.state is not STALLED:
            return False
        self._push_targets.probe_now(shipment.receiver)
        self._release(shipment)
        return True

    def retry_receiver(self, receiver: str, limit_count: int) -> int:
        """Send stalled messages for a receiver as soon as it has room; at most so many a call.

        Return for how many the back-off has ended; 0 when there are no more. `receiver` is what
        `receiver_name` gives. One that fails gets its next probe now.
        """
        targets = targets_of(receiver)
        waiting = self._stalled.keys_of(targets)
        # Only pushes back off, and all to a target wait for the same.
        pushed: list[ReceiverKey] = [(target, None) for target in targets]
        backing_off = [key for key in pushed if key in self._backing_off]
        count = 0
        for key in backing_off:
            for shipment in list(islice(self._backing_off[key], limit_count - count)):
                self._end_back_off(shipment)
                shipment.cancel_alarm()
                self._park(shipment)
                count += 1
        for key in dict.fromkeys((*waiting, *backing_off)):
            self._push_targets.probe_now(key)
            self._stalled.wake(key)
        return count

    # --- what poll connections tell (PollListener) ----------------------------------------------

    def delivered(self, items: list[Item], group: str, connection_id: str) -> None:
        """Note that these messages have been written to their connection."""
        for shipment in cast("list[Shipment]", items):
            if shipment.kind is EXECUTE:
                self._unclaimed.add(shipment, (group, connection_id))
            self._sent(shipment)

    def returned(self, items: list[Item]) -> None:
        """Send these messages, whose connection ended first, to another one if there is one."""
        for shipment in cast("list[Shipment]", items):
            self._dispatch(shipment)

    def came(self, group: str, connection_id: str) -> None:
        """Release stalled messages to a connection that is new; its worker may have come back."""
        self._missed.connected(group)
        self._unclaimed.came(group, connection_id)
        self.has_room(group, connection_id)

    def has_room(self, group: str, connection_id: str) -> None:
        """Release stalled messages to a connection that can take more."""
        if not self._stalled.count:
            return  # as after nearly every message: none of the names below is needed
        for dialect in Dialect:
            self._stalled.wake(poll_receiver(group, connection_id, dialect))
            self._stalled.wake(poll_receiver(group, None, dialect))

    def ended(self, group: str, connection_id: str, *, is_coming_back: bool) -> None:
        """Handle the end of a connection: what its worker has not claimed goes to others."""
        self._unclaimed.ended((group, connection_id), is_coming_back=is_coming_back)

    # --- the life of a shipment -----------------------------------------------------------------

    def _dispatch(self, shipment: Shipment) -> None:
        """Hand a waiting shipment on; if no receiver takes it, it stalls."""
        address = shipment.address
        if isinstance(address, PollAddress):
            taken = self._polls.put(shipment, address.group, address.id, exact=shipment.exact)
        elif isinstance(address, PushAddress):
            taken = self._push_targets.offer(shipment)
        else:
            taken = False
        if not taken:
            self._stall(shipment)

    def _push_finished(self, shipment: Shipment, reason: str | None) -> None:
        if shipment.state is LOST:
            return
        shipment.error = reason
        if reason is None:
            self._sent(shipment)
        else:
            self._failures.note(
                FailureKind.SENDING, self._now_ms(), shipment.subject, reason, shipment.receiver[0]
            )
            self._stall(shipment)

    def _sent(self, shipment: Shipment) -> None:
        self._shipments.remove(shipment)
        self._totals[type(shipment.address)]["sent"] += 1
        self._report(shipment.sent())

    def _stall(self, shipment: Shipment) -> None:
        """Report a failure and keep the shipment until trying again makes sense."""
        shipment.state = STALLED
        shipment.attempt_count += 1
        shipment.empty()
        self._totals[type(shipment.address)]["failed"] += 1
        is_push = isinstance(shipment.address, PushAddress)
        if is_push and not self._push_targets.is_open(shipment.receiver):
            delay_ms = self._back_off_ms(shipment.attempt_count)
            self._backing_off.setdefault(shipment.receiver, {})[shipment] = None
            shipment.alarm = self._alarms.call_after(
                delay_ms, lambda: self._back_off_over(shipment)
            )
        else:
            self._park(shipment)
        report = shipment.not_sent()
        if report is not None:
            self._report(report)

    def _park(self, shipment: Shipment) -> None:
        """Keep a shipment until its receiver is woken; one without a receiver never is."""
        self._stalled.add(shipment)
        address = shipment.address
        if isinstance(address, PollAddress):
            self._missed.waits_for(address.group)
        if isinstance(address, PushAddress):
            shipment.alarm = self._alarms.call_after(_RECHECK_MS, lambda: self._release(shipment))
        else:
            self._shipments.park(shipment)

    def _end_back_off(self, shipment: Shipment) -> None:
        """Take a shipment out of those whose back-off runs, if it is there."""
        shipments = self._backing_off.get(shipment.receiver)
        if shipments is None or shipment not in shipments:
            return
        del shipments[shipment]
        if not shipments:
            del self._backing_off[shipment.receiver]

    def _back_off_over(self, shipment: Shipment) -> None:
        self._end_back_off(shipment)
        if self._push_targets.is_open(shipment.receiver):
            self._park(shipment)
            self._stalled.wake(shipment.receiver)
        else:
            self._release(shipment)

    def _release_waiting(self, key: str) -> None:
        shipment = self._shipments.find(key)
        assert shipment is not None, "what waits is known"
        self._release(shipment)

    def _release(self, shipment: Shipment) -> None:
        """Ask for this task's message again."""
        self._stalled.remove(shipment)
        self._end_back_off(shipment)
        self._stalled.reserve(shipment)
        shipment.cancel_alarm()
        shipment.state = RELEASED
        shipment.alarm = self._alarms.call_after(
            _RESERVATION_MS, lambda: self._reservation_over(shipment)
        )
        self._totals[type(shipment.address)]["retried"] += 1
        self._report(shipment.retry())

    def _reservation_over(self, shipment: Shipment) -> None:
        """Free the room of a message that did not come. Remember the attempts for a while."""
        self._stalled.unreserve(shipment)
        self._stalled.wake(shipment.receiver)
        shipment.alarm = self._alarms.call_after(
            2 * self._retry_limit_ms, lambda: self._remembered_enough(shipment)
        )

    def _remembered_enough(self, shipment: Shipment) -> None:
        self._shipments.remove(shipment)

    def _forget(self, shipment: Shipment) -> None:
        shipment.cancel_alarm()
        if shipment.reserved:
            self._stalled.unreserve(shipment)
            self._stalled.wake(shipment.receiver)
        before, shipment.state = shipment.state, LOST
        if before is STALLED:
            self._stalled.remove(shipment)
            self._end_back_off(shipment)
        elif before is WAITING:
            if isinstance(shipment.address, PollAddress):
                self._polls.discard(shipment)
            else:
                self._push_targets.discard(shipment)

    # --- helpers --------------------------------------------------------------------------------

    def _room_count(self, key: ReceiverKey, reserved_count: int) -> int:
        target, connection_id = key
        named = poll_group(target)
        if named is not None:
            group, dialect = named
            return self._polls.room_count(group, connection_id, dialect) - reserved_count
        return self._push_targets.room_count(key) - reserved_count

    def _back_off_ms(self, attempt_count: int) -> float:
        # The exponent is bounded so that a million attempts do not make a huge number.
        delay_ms = min(self._retry_limit_ms, self._retry_first_ms << min(attempt_count - 1, 40))
        return delay_ms * self._random.uniform(1 - _JITTER, 1 + _JITTER)


def _view_of(key: ReceiverKey, count: int, first: Shipment | None) -> ReceiverView:
    assert first is not None, "what waits is known"
    due = None if first.alarm is None else first.alarm.due
    return ReceiverView(key[0], 0, 0, count, 0, first, None, None, first.error, due)
