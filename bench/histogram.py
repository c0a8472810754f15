"""Counts of durations in buckets whose width grows with the value, as HdrHistogram has them.

A value is known to within 1/128 (0.8 %) whatever its size, so that a microsecond and a minute fit
into one histogram of a few hundred numbers. Histograms of several processes can be added, and go
through JSON.
"""

from collections.abc import Iterator, Mapping
from typing import Final, Self

_PRECISION_BITS: Final = 7
_SUB_BUCKETS: Final = 1 << _PRECISION_BITS


class Histogram:
    """How often which value was seen. Values are whole and at least 0; the unit is the user's."""

    __slots__ = ("_counts", "count", "maximum", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total = 0
        self.maximum = 0

    def record(self, value: int) -> None:
        """Count one value; what is below 0 counts as 0."""
        if value < 0:
            # A clock was set back between the two moments.
            value = 0
        if value < _SUB_BUCKETS:
            index = value
        else:
            shift = value.bit_length() - _PRECISION_BITS
            index = (shift << _PRECISION_BITS) + (value >> shift)
        counts = self._counts
        counts[index] = counts.get(index, 0) + 1
        self.count += 1
        self.total += value
        if value > self.maximum:
            self.maximum = value

    def add(self, other: "Histogram") -> None:
        """Count everything that another histogram has counted, too."""
        counts = self._counts
        for index, count in other._counts.items():
            counts[index] = counts.get(index, 0) + count
        self.count += other.count
        self.total += other.total
        self.maximum = max(self.maximum, other.maximum)

    @property
    def mean(self) -> float:
        """The average, exact; 0 if nothing was counted."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> int:
        """Return the value that this percentage does not exceed, to within 0.8 %, or 0 if none."""
        wanted = max(1, -(-self.count * percent // 100))
        seen = 0
        for _, highest, count in self.buckets():
            seen += count
            if seen >= wanted:
                return min(highest, self.maximum)
        return self.maximum

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """Yield lowest value, highest value and count of each nonempty bucket, ascending."""
        for index in sorted(self._counts):
            # `record` has put the shift above what was left of the value; small ones: shift 0.
            shift, lowest = divmod(index, _SUB_BUCKETS)
            yield lowest << shift, ((lowest + 1) << shift) - 1, self._counts[index]

    def to_json(self) -> dict[str, object]:
        """Return everything, as JSON can hold it."""
        return {
            "counts": {str(index): count for index, count in sorted(self._counts.items())},
            "total": self.total,
            "maximum": self.maximum,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Self:
        """Read what `to_json` made. Raises KeyError or ValueError for anything else."""
        counts, total, maximum = stored["counts"], stored["total"], stored["maximum"]
        if not isinstance(counts, dict) or not isinstance(total, int):
            raise ValueError("this is not a histogram")
        histogram = cls()
        histogram._counts = {int(index): int(count) for index, count in counts.items()}
        histogram.count = sum(histogram._counts.values())
        histogram.total = total
        histogram.maximum = int(str(maximum))
        return histogram
