"""How late timers are handled: a histogram that costs next to nothing.

A timer's lateness is the time from its deadline to the end of the turn that handled it. Timers that
were armed when their deadline had passed already are not counted: they were armed late, or
the server was down.
"""

from bisect import bisect_left
from typing import Final, final

BOUNDS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000)


@final
class Lateness:
    """Counts of timers by how late they were."""

    __slots__ = ("_counts", "max_ms")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_MS) + 1)
        self.max_ms = 0

    def add(self, lateness_ms: int) -> None:
        """Count one timer."""
        self._counts[bisect_left(BOUNDS_MS, lateness_ms)] += 1
        if lateness_ms > self.max_ms:
            self.max_ms = lateness_ms

    def cumulative(self) -> tuple[tuple[str, int], ...]:
        """Count the timers that were at most this late, for each bound (`le_20_ms`) and in all."""
        rows = []
        total_count = 0
        names = (*(f"le_{bound_ms}_ms" for bound_ms in BOUNDS_MS), "all")
        for name, count in zip(names, self._counts, strict=True):
            total_count += count
            rows.append((name, total_count))
        return tuple(rows)
