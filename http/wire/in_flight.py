"""Bytes in flight: what requests and answers take in memory, all together, has a limit.

Counting connections is not enough: a body, an answer or a message may have megabytes. Code that is
about to collect or to write much takes a `Hold`, which grows with what it keeps. When there is no
room, those holds are evicted whose other side has done nothing for `STALLED_S`, largest first; if
that does not help, the one that asked has to wait, or is refused. Small things are not counted: up
to `SMALL_BYTES` a connection costs no more than its buffers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import trio

from troth.shards.threads import in_thread

SMALL_BYTES: Final = 16 * 1024
"""What is not larger is not counted."""

STALLED_S: Final = 1.0
"""Without progress for this long a hold has to go, if others need the room."""

_WATCH_INTERVAL_S: Final = 0.1
HEADROOM_FACTOR: Final = 6
"""What a body becomes on its way: bytes, text, a record, a frame, an answer, and the state."""


@dataclass(frozen=True, slots=True)
class InFlightStatistics:
    """Bytes of this moment, and totals since the start."""

    held_bytes: int
    limit_bytes: int
    holds_count: int
    refused_total_count: int
    evicted_total_count: int


@final
class Hold:
    """What one connection keeps in memory. Made by `InFlight.hold`; a context manager.

    `evict` may be called at any time while anything is held; it has to lead to `release` soon.
    """

    __slots__ = ("_evict", "_in_flight", "_is_pinned", "progressed_at", "size_bytes")

    def __init__(self, in_flight: "InFlight", evict: Callable[[], None] | None) -> None:
        """Hold nothing yet."""
        self._in_flight = in_flight
        self._evict = evict
        self._is_pinned = False
        self.size_bytes = 0
        self.progressed_at = 0.0
        """When the other side last sent, or took, anything."""

    def grow(self, count_bytes: int) -> bool:
        """Hold more, if there is room; return whether there was."""
        return self._in_flight.grow(self, count_bytes, may_exceed=False)

    async def grown(self, count_bytes: int) -> None:
        """Hold more; wait until there is room for it."""
        await self._in_flight.grown(self, count_bytes)

    def grow_anyway(self, count_bytes: int) -> None:
        """Hold more: it is in memory already."""
        self._in_flight.grow(self, count_bytes, may_exceed=True)

    def progress(self, now: float) -> None:
        """Note that the other side is there."""
        self.progressed_at = now

    def pin(self) -> None:
        """Forbid eviction: it is the server's turn, not the other side's."""
        self._is_pinned = True

    def unpin(self) -> None:
        """Allow eviction again."""
        self._is_pinned = False

    @property
    def can_be_evicted(self) -> bool:
        """Return whether it is the other side that keeps this waiting."""
        return self._evict is not None and not self._is_pinned

    def evict(self) -> None:
        """Make the holder give up."""
        evict, self._evict = self._evict, None
        if evict is not None:
            evict()

    def release(self) -> None:
        """Hold nothing any more; a second call does nothing."""
        self._in_flight.release(self)

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@final
class InFlight:
    """All that is in flight. `headroom_bytes` says how much memory may still be had, if known."""

    def __init__(
        self,
        limit_bytes: int,
        *,
        now: Callable[[], float] = trio.current_time,
        headroom_bytes: Callable[[], int | None] = lambda: None,
        margin_bytes: int = 0,
        trim: Callable[[], None] = lambda: None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin with nothing. `margin_bytes` of the memory that may be had are for others.

        `watch` calls `trim`, which gives freed memory back, in a thread, and `look` now and then.
        """
        self.limit_bytes = limit_bytes
        self._margin_bytes = margin_bytes
        self._look = look
        self.is_full = False
        """Whether nothing large should be begun now."""
        self._now = now
        self._headroom_bytes = headroom_bytes
        self._trim = trim
        self._is_to_trim = False
        self._held_bytes = 0
        self._most_bytes = 0
        self._holds: dict[Hold, None] = {}
        self._waiting: dict[Callable[[], None], None] = {}
        self._is_needed = trio.Event()  # that `watch` looks
        self._refused_count = 0
        self._evicted_count = 0

    def hold(self, evict: Callable[[], None] | None = None) -> Hold:
        """Return a hold of nothing; see `Hold`."""
        return Hold(self, evict)

    def grow(self, hold: Hold, count_bytes: int, *, may_exceed: bool) -> bool:
        """See Hold."""
        has_grown = self._grow(hold, count_bytes, may_exceed=may_exceed)
        self._refused_count += not has_grown
        return has_grown

    def _grow(self, hold: Hold, count_bytes: int, *, may_exceed: bool) -> bool:
        size_bytes = hold.size_bytes + count_bytes
        if size_bytes <= SMALL_BYTES:
            hold.size_bytes = size_bytes
            return True
        counted_bytes = size_bytes if hold not in self._holds else count_bytes
        hold.progressed_at = self._now()
        if not self._has_room(counted_bytes, hold) and not may_exceed:
            return False
        hold.size_bytes = size_bytes
        self._holds[hold] = None
        self._held_bytes += counted_bytes
        self._most_bytes = max(self._most_bytes, self._held_bytes)
        self._judge()
        return True

    def release(self, hold: Hold) -> None:
        """See Hold."""
        if hold in self._holds:
            del self._holds[hold]
            self._held_bytes -= hold.size_bytes
            self._judge()
            if (
                self._most_bytes > self.limit_bytes // 4
                and self._held_bytes < self._most_bytes // 8
            ):
                self._most_bytes = self._held_bytes
                self._is_to_trim = True
                self._is_needed.set()
        hold.size_bytes = 0

    def _judge(self) -> None:
        """Find out whether it is full; notify waiting holds whenever there may be room."""
        self.is_full = self._held_bytes >= self.limit_bytes
        if not self.is_full and self._waiting:
            waiting, self._waiting = self._waiting, {}
            for act in waiting:
                act()

    def _has_room(self, count_bytes: int, asking: Hold) -> bool:
        headroom_bytes = self._headroom_bytes()
        if headroom_bytes is not None:
            # What is held becomes more on its way, all of it perhaps at the same time.
            needed_bytes = HEADROOM_FACTOR * (self._held_bytes + count_bytes)
            if headroom_bytes < self._margin_bytes + needed_bytes:
                return False
        missing_bytes = self._held_bytes + count_bytes - self.limit_bytes
        return missing_bytes <= 0 or self.evict_stalled(missing_bytes, asking) >= missing_bytes

    def evict_stalled(self, wanted_bytes: int, sparing: Hold | None = None) -> int:
        """Evict holds that make no progress, largest first; return how many bytes that gives."""
        latest = self._now() - STALLED_S
        stalled = [
            hold
            for hold in self._holds
            if hold.progressed_at <= latest and hold is not sparing and hold.can_be_evicted
        ]
        stalled.sort(key=lambda hold: -hold.size_bytes)
        given_bytes = 0
        for hold in stalled:
            if given_bytes >= wanted_bytes:
                break
            given_bytes += hold.size_bytes
            self._evicted_count += 1
            hold.evict()
        return given_bytes

    def when_room(self, act: Callable[[], None]) -> None:
        """Call `act` once, when it may no longer be full: perhaps immediately."""
        if self.is_full:
            self._wait(act)
        else:
            act()

    async def grown(self, hold: Hold, count_bytes: int) -> None:
        """Grow a hold; wait until there is room for it."""
        while not self._grow(hold, count_bytes, may_exceed=False):
            changed = trio.Event()
            self._wait(changed.set)
            await changed.wait()

    def _wait(self, act: Callable[[], None]) -> None:
        self._waiting[act] = None
        self._is_needed.set()

    async def watch(self) -> None:
        """Evict what is stalled while others wait, and give memory back; until canceled."""
        while True:
            if not self._waiting and not self._is_to_trim:
                self._is_needed = trio.Event()
                await self._is_needed.wait()
            await trio.sleep(_WATCH_INTERVAL_S)
            self._look()
            if self._waiting:
                self._judge()  # there may be memory again
                self.evict_stalled(self._held_bytes - self.limit_bytes // 2)
            if self._is_to_trim:
                self._is_to_trim = False
                await in_thread(self._trim)

    def statistics(self) -> InFlightStatistics:
        """Return counts of this moment and totals since the start."""
        return InFlightStatistics(
            held_bytes=self._held_bytes,
            limit_bytes=self.limit_bytes,
            holds_count=len(self._holds),
            refused_total_count=self._refused_count,
            evicted_total_count=self._evicted_count,
        )
