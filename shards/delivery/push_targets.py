"""Push receivers: a queue for each, and how many sends each may have at a time.

What this module promises: a receiver that hangs, refuses or misbehaves delays only itself.

- A *target* is scheme, host and port. Its health is NEW (nothing known), GOOD (its last answer was
  a quick success) or SUSPECT (its last answer was a failure or slow). A good target gets several
  sends at a time, the others one.
- Each health has its own *share* of all places (half, a quarter, a quarter). So however
  many new or suspect targets hang, good ones find room, and new ones soon do too:
- a send that takes longer than `slow_ms` makes its target suspect and moves to that share. If
  that is then too full, the longest-running send there is given up (it counts as failed). So a
  target that was good until now blocks a place of the good for at most `slow_ms`.
- Within a share targets alternate, one send each.
- *Circuit breaker*: three failures in a row (one, if the target was new) open it. Then all its
  messages stall, and one at a time probes the target at the back-off pace. A success closes the
  breaker and lets the stalled ones go.
- Memory: at most `queue_limit_count` messages wait for a target, and at most `_IDLE_LIMIT_COUNT`
  targets without work are remembered, good ones longest.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Final, final

import structlog
import trio

from troth.core.grammar.addresses import PushAddress
from troth.shards.alarms import Alarm, Alarms

from .shipments import SENDING, PushFailed, PushTransport, ReceiverKey, Shipment

_FAILURES_LIMIT_COUNT: Final = 3  # in a row, before the breaker of a known target opens
_IDLE_LIMIT_COUNT: Final = 4_096
_REFILL_COUNT: Final = 256  # messages queued from the stalled ones, when a target is back
_DRAIN_BATCH_COUNT: Final = 100  # queued messages stalled before other trio tasks get their turn

_log = structlog.get_logger("troth.shards.push_targets")


class Health(Enum):
    """What is known of a target."""

    NEW = "new"
    GOOD = "good"
    SUSPECT = "suspect"


@final
class PushTarget:
    """One scheme, host and port, with its queue."""

    __slots__ = (
        "error",
        "failing_since_ms",
        "failure_count",
        "health",
        "in_flight_count",
        "key",
        "open",
        "probe",
        "probe_alarm",
        "probe_count",
        "sent_total_count",
        "waiting",
    )

    def __init__(self, key: ReceiverKey) -> None:
        """Initialize a target, with nothing known of it yet."""
        self.key = key
        self.waiting: dict[Shipment, None] = {}
        self.in_flight_count = 0
        self.sent_total_count = 0
        self.health = Health.NEW
        self.failure_count = 0  # in a row
        self.failing_since_ms: int | None = None
        self.error: str | None = None  # why the last send failed, while it fails
        self.open = False  # the breaker: True stops all but probes
        self.probe: Shipment | None = None
        self.probe_alarm: Alarm | None = None  # None while open: a probe may go now
        self.probe_count = 0  # since the breaker opened

    @property
    def is_idle(self) -> bool:
        """Return whether this target has no work here (stalled shipments may still wait for it)."""
        return not self.waiting and not self.in_flight_count


class _Share:
    """A share of all places, and the targets that wait for one, in turn."""

    __slots__ = ("in_flight", "limit_count", "ready")

    def __init__(self, limit_count: int) -> None:
        self.limit_count = limit_count
        self.in_flight: dict[_Flight, None] = {}
        self.ready: dict[PushTarget, None] = {}

    @property
    def has_place(self) -> bool:
        return len(self.in_flight) < self.limit_count


@dataclass(eq=False, slots=True)
class _Flight:
    """One send that is under way."""

    shipment: Shipment
    target: PushTarget
    share: _Share
    started: float
    scope: trio.CancelScope
    is_slow: bool = False
    given_up: bool = False
    alarm: Alarm | None = None


MessageHold = Callable[[int, Callable[[], None]], AbstractAsyncContextManager[None]]
"""Waits for room in memory for a message of this many characters, and keeps it for a block; the
function that it is given ends the block early, when others need the room."""


@asynccontextmanager
async def unlimited(size_characters: int, give_up: Callable[[], None]) -> AsyncIterator[None]:  # noqa: ARG001
    """Hold nothing: there is room for everything."""
    yield


@final
class PushTargets:
    """All push targets, their queues, shares and breakers."""

    def __init__(
        self,
        *,
        transport: PushTransport,
        alarms: Alarms,
        finished: Callable[[Shipment, str | None], None],
        stall: Callable[[Shipment], None],
        wake: Callable[[ReceiverKey], None],
        back_off_ms: Callable[[int], float],
        now_ms: Callable[[], int],
        concurrency_per_target_count: int,
        concurrency_count: int,
        queue_limit_count: int,
        slow_ms: int,
        hold: MessageHold = unlimited,
    ) -> None:
        """Initialize. `finished(shipment, reason)` is called at each send's end: None is success.

        `stall` takes a queued shipment that cannot be tried now; `wake` says that a target's
        stalled shipments may have room; `back_off_ms` gives the delay after a number of attempts.
        """
        self._transport = transport
        self._alarms = alarms
        self._finished = finished
        self._stall = stall
        self._wake = wake
        self._back_off_ms = back_off_ms
        self._now_ms = now_ms
        self._concurrency_per_target_count = concurrency_per_target_count
        self._queue_limit_count = queue_limit_count
        self._slow_ms = slow_ms
        self._hold = hold
        quarter_count = max(1, concurrency_count // 4)
        self._shares = {
            Health.GOOD: _Share(max(1, concurrency_count - 2 * quarter_count)),
            Health.NEW: _Share(quarter_count),
            Health.SUSPECT: _Share(quarter_count),
        }
        # The shares' limits add up to this, but sends that were given up take a moment to end.
        self._places_count = sum(share.limit_count for share in self._shares.values())
        self._targets: dict[ReceiverKey, PushTarget] = {}
        self._idle_good: dict[PushTarget, None] = {}
        self._idle_other: dict[PushTarget, None] = {}
        self._nursery: trio.Nursery | None = None
        self._draining: dict[PushTarget, None] = {}
        self._drain = trio.Event()
        self.given_up_total_count = 0

    # --- what delivery asks ---------------------------------------------------------------------

    def offer(self, shipment: Shipment) -> bool:
        """Queue a shipment; False if its target's queue is full or its breaker open."""
        target = self._target(shipment.receiver)
        if target.open:
            if target.probe is not None or target.probe_alarm is not None:
                self._settle(target)
                return False
            target.probe = shipment
        elif len(target.waiting) >= self._queue_limit_count:
            return False
        target.waiting[shipment] = None
        self._refresh(target)
        self._start_sends()
        return True

    def discard(self, shipment: Shipment) -> None:
        """Take a shipment out of its queue. One that is being sent is the caller's to mark LOST."""
        target = self._targets.get(shipment.receiver)
        if target is None or shipment not in target.waiting:
            return
        del target.waiting[shipment]
        if target.probe is shipment:
            target.probe = None
            self._wake(target.key)  # another one may be the probe
        self._refresh(target)
        self._settle(target)

    def is_open(self, key: ReceiverKey) -> bool:
        """Return whether messages for this target have to wait for a probe's success."""
        target = self._targets.get(key)
        return target is not None and target.open

    def find(self, key: ReceiverKey) -> PushTarget | None:
        """Return what is known of a target; None if nothing is."""
        return self._targets.get(key)

    def probe_now(self, key: ReceiverKey) -> None:
        """Send the next message for a target that fails without waiting for its time."""
        target = self._targets.get(key)
        if target is not None and target.probe_alarm is not None:
            target.probe_alarm.cancel()
            target.probe_alarm = None
            self._settle(target)

    def room_count(self, key: ReceiverKey) -> int:
        """Return how many stalled messages should be asked for now."""
        target = self._targets.get(key)
        if target is None:
            return _REFILL_COUNT
        if target.open:
            return int(target.probe is None and target.probe_alarm is None)
        return min(_REFILL_COUNT, self._queue_limit_count) - len(target.waiting)

    @property
    def targets(self) -> list[PushTarget]:
        """The targets that are remembered; for statistics."""
        return list(self._targets.values())

    @property
    def in_flight_count(self) -> int:
        """Sends that are under way."""
        return sum(len(share.in_flight) for share in self._shares.values())

    async def run(self) -> None:
        """Send what is queued, until canceled; sends under way are then canceled and failed."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                self._start_sends()
                while True:
                    await self._drain_batch()
            finally:
                self._nursery = None

    # --- targets --------------------------------------------------------------------------------

    def _target(self, key: ReceiverKey) -> PushTarget:
        target = self._targets.get(key)
        if target is None:
            target = self._targets[key] = PushTarget(key)
        self._idle_good.pop(target, None)
        self._idle_other.pop(target, None)
        return target

    def _settle(self, target: PushTarget) -> None:
        """Remember an idle target as such; forget others when there are too many.

        One that fails is remembered until its next probe is due: who forgot it would try again now.
        """
        if not target.is_idle or self._targets.get(target.key) is not target:
            return
        if target.probe_alarm is not None:
            return
        idle = self._idle_good if target.health is Health.GOOD else self._idle_other
        idle.pop(target, None)
        idle[target] = None
        if len(self._idle_good) + len(self._idle_other) <= _IDLE_LIMIT_COUNT:
            return
        oldest = next(iter(self._idle_other or self._idle_good))
        self._idle_other.pop(oldest, None)
        self._idle_good.pop(oldest, None)
        del self._targets[oldest.key]
        self._wake(oldest.key)  # whatever waits for its probe must not wait forever

    def _refresh(self, target: PushTarget) -> None:
        """Put the target into the line of its share, or take it out, as it is now."""
        if target.open:
            may_send = target.probe is not None and target.probe in target.waiting
        else:
            is_good = target.health is Health.GOOD
            limit_count = self._concurrency_per_target_count if is_good else 1
            may_send = bool(target.waiting) and target.in_flight_count < limit_count
        for health, share in self._shares.items():
            if not may_send or health is not target.health:
                share.ready.pop(target, None)
            elif target not in share.ready:
                share.ready[target] = None

    # --- sends ----------------------------------------------------------------------------------

    def _start_sends(self) -> None:
        if self._nursery is None:
            return
        for share in self._shares.values():
            while share.ready and share.has_place and self.in_flight_count < self._places_count:
                target = next(iter(share.ready))
                del share.ready[target]
                self._start_send(self._nursery, target, share)
                self._refresh(target)

    def _start_send(self, nursery: trio.Nursery, target: PushTarget, share: _Share) -> None:
        shipment = target.probe if target.open else next(iter(target.waiting))
        assert shipment is not None
        del target.waiting[shipment]
        shipment.state = SENDING
        flight = _Flight(shipment, target, share, trio.current_time(), trio.CancelScope())
        target.in_flight_count += 1
        share.in_flight[flight] = None
        flight.alarm = self._alarms.call_after(self._slow_ms, lambda: self._turned_slow(flight))
        nursery.start_soon(self._send, flight)

    async def _send(self, flight: _Flight) -> None:
        reason: str | None = "the server is shutting down"
        blame_target = False
        try:
            with flight.scope:
                shipment = flight.shipment
                assert isinstance(shipment.address, PushAddress)
                async with self._hold(shipment.size_characters, flight.scope.cancel):
                    await self._transport.send(
                        shipment.address, shipment.body(), shipment.trace_headers()
                    )
                reason = None
            if flight.scope.cancelled_caught:
                reason = "too many receivers are slow; this one was the slowest"
            blame_target = True
        except PushFailed as failure:
            reason = failure.reason
            blame_target = True
        except Exception:
            # A defect of ours. It must not end the server, nor go unnoticed.
            _log.exception("push failed unexpectedly", target=flight.target.key[0])
            reason = "unexpected error"
            blame_target = True
        finally:
            self._ended(flight, reason, blame_target=blame_target)

    def _turned_slow(self, flight: _Flight) -> None:
        """Move a send that has taken long, and its target, to the suspect ones."""
        flight.alarm = None
        flight.is_slow = True
        suspects = self._shares[Health.SUSPECT]
        if flight.share is not suspects:
            del flight.share.in_flight[flight]
            flight.share = suspects
            suspects.in_flight[flight] = None
            running = [other for other in suspects.in_flight if not other.given_up]
            if len(running) > suspects.limit_count:
                slowest = min(running, key=lambda other: other.started)
                slowest.given_up = True
                self.given_up_total_count += 1
                slowest.scope.cancel()
        flight.target.health = Health.SUSPECT
        self._refresh(flight.target)
        self._start_sends()

    def _ended(self, flight: _Flight, reason: str | None, *, blame_target: bool) -> None:
        if flight.alarm is not None:
            flight.alarm.cancel()
        del flight.share.in_flight[flight]
        target = flight.target
        target.in_flight_count -= 1
        was_probe = target.probe is flight.shipment
        if was_probe:
            target.probe = None
        if reason is None:
            self._succeeded(target, is_slow=flight.is_slow)
        elif blame_target:
            self._failed(target, reason, was_probe=was_probe)
        else:
            self._nursery = None  # canceled from outside: start nothing more
        self._finished(flight.shipment, reason)
        self._wake(target.key)
        self._refresh(target)
        self._settle(target)
        self._start_sends()

    # --- health and breaker ---------------------------------------------------------------------

    def _succeeded(self, target: PushTarget, *, is_slow: bool) -> None:
        target.health = Health.SUSPECT if is_slow else Health.GOOD
        target.failure_count = 0
        target.sent_total_count += 1
        target.failing_since_ms = None
        target.error = None
        if target.open:
            target.open = False
            target.probe_count = 0
            self._draining.pop(target, None)
            if target.probe_alarm is not None:
                target.probe_alarm.cancel()
                target.probe_alarm = None
            _log.info("push target answers again", target=target.key[0])

    def _failed(self, target: PushTarget, reason: str, *, was_probe: bool) -> None:
        was_new = target.health is Health.NEW
        target.health = Health.SUSPECT
        target.failure_count += 1
        target.error = reason
        if target.failing_since_ms is None:
            target.failing_since_ms = self._now_ms()
        if target.open:
            if was_probe:
                self._schedule_probe(target)
        elif was_new or target.failure_count >= _FAILURES_LIMIT_COUNT:
            target.open = True
            self._schedule_probe(target)
            self._draining[target] = None
            self._drain.set()
            _log.warning("push target fails", target=target.key[0], reason=reason)

    def _schedule_probe(self, target: PushTarget) -> None:
        def probe_due() -> None:
            target.probe_alarm = None
            self._wake(target.key)
            self._settle(target)

        target.probe_count += 1
        delay_ms = self._back_off_ms(target.probe_count)
        target.probe_alarm = self._alarms.call_after(delay_ms, probe_due)

    async def _drain_batch(self) -> None:
        """Stall what still waits for a target whose breaker has opened, a batch at a time."""
        await trio.lowlevel.checkpoint()
        if not self._draining:
            self._drain = trio.Event()
            await self._drain.wait()
            return
        target = next(iter(self._draining))
        del self._draining[target]
        batch = [one for one in target.waiting if one is not target.probe][:_DRAIN_BATCH_COUNT]
        for shipment in batch:
            del target.waiting[shipment]
            self._stall(shipment)
        if batch:
            self._draining[target] = None
        self._settle(target)
