"""Actions to run at a later moment: one heap and one trio task for all of delivery.

Actions are plain functions that do not block. They run in the order of their times, on trio's clock
(so tests can use a MockClock), in batches that end after 200 actions or 3 ms (see `passes.py`),
with a checkpoint between them. Nothing is polled: while nothing is due the task sleeps.

Canceled entries leave the heap when they come to its top. When they are the greater part of it, the
others move to a new heap, a few with each alarm that is canceled: so no step takes long, however
many alarms there are.
"""

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Final, final

import trio

_BATCH_COUNT: Final = 200  # actions before other trio tasks get their turn
_BATCH_LIMIT_S: Final = 0.003
_COMPACT_COUNT: Final = 64  # smaller heaps are not worth compacting
_MOVES_COUNT: Final = 256
"""Entries that leave the old heap with an alarm that is canceled: it is empty long before most of
the new one can be canceled.
"""

_Entry = tuple[float, int, "Alarm"]


@final
class Alarm:
    """One thing to do at `due` (seconds on trio's clock)."""

    __slots__ = ("_alarms", "action", "due")

    def __init__(self, alarms: "Alarms", due: float, action: Callable[[], None]) -> None:
        """Use `Alarms.call_after` instead."""
        self._alarms = alarms
        self.due = due
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Do not do it. Has no effect on an alarm that has gone off or is canceled."""
        if self.action is not None:
            self.action = None
            self._alarms._cancelled()


@final
class Alarms:
    """The heap of alarms, and the task that makes them go off."""

    def __init__(self) -> None:
        """Start empty. Alarms may be set before `run`; they go off once it runs."""
        self._heap: list[_Entry] = []
        self._old_heap: list[_Entry] = []  # what is left of the one before
        self._numbers = count()
        self._cancelled_count = 0
        self._sleeps_until = -math.inf
        self._changed = trio.Event()

    def __len__(self) -> int:
        """Return how many alarms are set."""
        return len(self._heap) + len(self._old_heap) - self._cancelled_count

    def call_after(self, delay_ms: float, action: Callable[[], None]) -> Alarm:
        """Schedule `action` to be called in `delay_ms`. It must not raise."""
        alarm = Alarm(self, trio.current_time() + delay_ms / 1000, action)
        heapq.heappush(self._heap, (alarm.due, next(self._numbers), alarm))
        if alarm.due < self._sleeps_until:
            self._changed.set()
        return alarm

    async def run(self) -> None:
        """Make alarms go off, until canceled."""
        while True:
            await self._wait_due()
            end_s = trio.current_time() + _BATCH_LIMIT_S
            for _ in range(_BATCH_COUNT):
                now_s = trio.current_time()
                heap = self._first_heap()
                if not heap or heap[0][0] > now_s or now_s >= end_s:
                    break
                alarm = heapq.heappop(heap)[2]
                action, alarm.action = alarm.action, None
                if action is None:
                    self._cancelled_count -= 1
                else:
                    action()

    async def _wait_due(self) -> None:
        await trio.lowlevel.checkpoint()
        while True:
            heap = self._first_heap()
            due = heap[0][0] if heap else math.inf
            if due <= trio.current_time():
                return
            self._changed = trio.Event()
            self._sleeps_until = due
            with trio.CancelScope(deadline=due):
                await self._changed.wait()
            self._sleeps_until = -math.inf

    def _first_heap(self) -> list[_Entry]:
        """Return the heap whose first entry is the first of all; an empty one if there is none."""
        heap, old = self._heap, self._old_heap
        return old if old and (not heap or old[0] < heap[0]) else heap

    def _cancelled(self) -> None:
        self._cancelled_count += 1
        if self._old_heap:
            self._move()
        elif self._cancelled_count > max(_COMPACT_COUNT, len(self._heap) // 2):
            self._old_heap, self._heap = self._heap, []

    def _move(self) -> None:
        """Move the last entries of the old heap, which stays a heap, but for canceled ones."""
        last = self._old_heap[-_MOVES_COUNT:]
        del self._old_heap[-_MOVES_COUNT:]
        kept = [entry for entry in last if entry[2].action is not None]
        self._cancelled_count -= len(last) - len(kept)
        heap = self._heap
        for entry in kept:
            heapq.heappush(heap, entry)
