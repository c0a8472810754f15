"""A histogram that costs next to nothing to add to."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import final


@final
class Buckets:
    """Counts of values by the first of some bounds that is not below them, and their sum.

    `bounds` grow; what is above the last one is counted too. `examples` has, for some of them, a
    value that was counted there, and the id of its trace.
    """

    __slots__ = ("bounds", "counts", "examples", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Count nothing yet."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.examples: dict[int, tuple[float, str]] = {}

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add_all(self, values: list[float]) -> None:
        """Count values, sorting them: at a quarter of what one at a time costs."""
        values.sort()
        start = 0
        for place, bound in enumerate(self.bounds):
            end = bisect_right(values, bound, start)
            self.counts[place] += end - start
            start = end
        self.counts[-1] += len(values) - start
        self.sum += sum(values)

    def note_example(self, value: float, trace_id: str) -> None:
        """Note the trace of a value that was counted."""
        self.examples[bisect_left(self.bounds, value)] = value, trace_id

    def merge(self, other: "Buckets") -> None:
        """Count the values of another histogram with the same bounds, too."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum
        self.examples |= other.examples

    @classmethod
    def together(cls, parts: Sequence["Buckets"]) -> "Buckets":
        """Return one histogram of several with the same bounds."""
        made = cls(parts[0].bounds)
        for one in parts:
            made.merge(one)
        return made

    def scaled(self, divisor: float) -> "Buckets":
        """Return the same in another unit, that many times as large."""
        made = Buckets([bound / divisor for bound in self.bounds])
        made.counts, made.sum = self.counts, self.sum / divisor
        made.examples = {
            place: (value / divisor, trace_id) for place, (value, trace_id) in self.examples.items()
        }
        return made

    def cumulative(self) -> list[int]:
        """Return for each bound how many values are not above it, and how many there are."""
        return list(accumulate(self.counts))

    @property
    def count(self) -> int:
        """Return how many values there are."""
        return sum(self.counts)
