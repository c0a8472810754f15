"""How late the event loop is: a timer that wakes ten times a second, and how late it does."""

from typing import Final

import trio

from troth.core.buckets import Buckets

INTERVAL_S: Final = 0.1
BOUNDS_S: Final = (0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LoopLag:
    """Measures until canceled, in `run`; `lag_s` is what was measured."""

    def __init__(self) -> None:
        self.lag_s = Buckets(BOUNDS_S)

    async def run(self) -> None:
        """Measure. What the loop misses while it is held counts as one wake-up that is late."""
        while True:
            due_s = trio.current_time() + INTERVAL_S
            await trio.sleep_until(due_s)
            self.lag_s.add(max(0.0, trio.current_time() - due_s))
