"""The server's time: milliseconds since the Unix epoch, never going backwards.

The state machine is stepped with these times, so a system clock that is set back must not make a
deadline return from the past: time then stands still until the clock has caught up.
"""

import math
import time
from typing import Protocol

import trio


class Clock(Protocol):
    """Where shards get the time from."""

    def now_ms(self) -> int:
        """The time now, at least that of the call before."""
        ...  # pragma: no cover


class SystemClock:
    """The machine's clock."""

    def __init__(self) -> None:
        self._last_ms = 0

    def now_ms(self) -> int:
        now_ms = time.time_ns() // 1_000_000
        if now_ms > self._last_ms:
            self._last_ms = now_ms
        return self._last_ms


class TrioClock:
    """Trio's clock, shifted to an epoch: a test that fakes trio's clock fakes this one too."""

    def __init__(self, epoch_ms: int) -> None:
        self._epoch_ms = epoch_ms

    def now_ms(self) -> int:
        # Trio counts in seconds: 0.57 * 1000 is a little less than 570.
        return self._epoch_ms + math.floor(trio.current_time() * 1000 + 1e-3)
