"""How fast a bulk job goes: as fast as it was asked to, and never ahead of clients.

A slice is a command like any other and waits in the mailbox behind those of clients. After each
slice a job rests for as long as the slice took, which is longer the more there is to do for others,
and for as long as its rate demands.
"""

from collections import deque
from typing import Final, final

import trio

from troth.core.limits import BULK_SLICE_COUNT

SLICES_PER_SECOND_COUNT: Final = 20
"""A slow job has slices this often, and so small that they fit its rate."""

REST_LIMIT_S: Final = 0.25
RATE_WINDOW_S: Final = 5.0


@final
class JobPace:
    """The pace of one job. It goes by trio's clock."""

    def __init__(self, rate_count: int) -> None:
        """Begin now. `rate_count` is how many acts a second there are at most."""
        self._rate_count = rate_count
        self._due_s = trio.current_time()
        self._acts: deque[tuple[float, int]] = deque()
        self._began_s = self._due_s

    @property
    def limit_count(self) -> int:
        """Return how many acts the next slice may have."""
        return max(1, min(BULK_SLICE_COUNT, self._rate_count // SLICES_PER_SECOND_COUNT))

    async def rest(self, began_s: float, acts_count: int, stopping: trio.Event) -> bool:
        """Rest after a slice that began at a time and did so much; return whether to continue."""
        now_s = trio.current_time()
        self._acts.append((now_s, acts_count))
        # What was not used of the past is not made up for.
        self._due_s = max(self._due_s, began_s) + acts_count / self._rate_count
        wake_s = max(self._due_s, now_s + min(now_s - began_s, REST_LIMIT_S))
        with trio.move_on_at(wake_s):
            await stopping.wait()
        return not stopping.is_set()

    @property
    def rate(self) -> float:
        """Return the number of acts a second in the last seconds."""
        now_s = trio.current_time()
        first_s = now_s - RATE_WINDOW_S
        while self._acts and self._acts[0][0] < first_s:
            self._acts.popleft()
        span_s = now_s - max(first_s, self._began_s)
        return sum(count for _, count in self._acts) / span_s if span_s > 0 else 0.0
