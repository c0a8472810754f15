"""The timers of a wheel that was given up, since the clock was set back.

A wheel cannot go back. So a shard goes on with an empty one, and looks again at what was in the old
one in slices. What is taken from here is freed in slices, too.
"""

from collections import deque
from typing import final

from troth.core.commands import PROMISE_TIMER, RearmTimers
from troth.core.limits import REARM_SLICE_COUNT, WHEEL_SLICE_COUNT
from troth.core.state.shard_state import TimerKey

from .wheel import TimingWheel

WheelKey = TimerKey | str
"""For a promise's deadline, which never changes, its id; for others what the machine says."""


@final
class Rearming:
    """What has not been looked at yet. While it is not finished the clock may be set back again."""

    def __init__(self) -> None:
        self._wheels: deque[TimingWheel[WheelKey]] = deque()
        self._due: deque[tuple[WheelKey, int]] = deque()

    def add(self, wheel: TimingWheel[WheelKey], due: deque[tuple[WheelKey, int]]) -> None:
        """Take over a wheel, and what has been taken from it and not been handled."""
        self._wheels.append(wheel)
        self._due.extend(due)

    def next_slice(self) -> RearmTimers | None:
        """Return what to look at next, or None if all is done."""
        due = self._due
        while not due and self._wheels:
            due.extend(self._wheels[0].take_any(WHEEL_SLICE_COUNT))
            if not due:
                self._wheels.popleft()
        if not due:
            return None
        keys = [due.popleft()[0] for _ in range(min(len(due), REARM_SLICE_COUNT))]
        return RearmTimers(
            tuple((PROMISE_TIMER, key) if isinstance(key, str) else key for key in keys)
        )
