"""How late the event loop is: a timer that wakes ten times a second, and how late it does.

While nothing happens it wakes every five seconds only: an idle server is to cost nothing.
"""

from collections.abc import Callable
from typing import Final

import trio

from troth.core.buckets import Buckets
from troth.shards.together import shared_end_s

INTERVAL_S: Final = 0.1
QUIET_INTERVAL_S: Final = 5.0
LATE_S: Final = 0.01
"""What is later than this is looked at closely, even if nothing seems to happen."""

BOUNDS_S: Final = (0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LoopLag:
    """Measures until canceled, in `run`; `lag_s` is what was measured.

    `activity` returns a number that changes while the server has something to do.
    """

    def __init__(self, activity: Callable[[], int]) -> None:
        self.lag_s = Buckets(BOUNDS_S)
        self._activity = activity

    async def run(self) -> None:
        """Measure. What the loop misses while it is held counts as one wake-up that is late."""
        is_quiet, seen = False, -1
        while True:
            due_s = trio.current_time() + INTERVAL_S
            if is_quiet:
                due_s = shared_end_s(QUIET_INTERVAL_S)
            await trio.sleep_until(due_s)
            late_s = max(0.0, trio.current_time() - due_s)
            self.lag_s.add(late_s)
            now = self._activity()
            is_quiet = now == seen and late_s < LATE_S
            seen = now
