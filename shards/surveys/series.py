"""Series of numbers over time, in rings of a fixed size: seconds, ten seconds, minutes.

Memory is bounded whatever happens: at most `SERIES_LIMIT_COUNT` series, each with a ring for every
resolution, less than `SERIES_LIMIT_BYTES` together. A value that is not known is NaN. The last
values of a series are means of what is kept for the next finer resolution, or the largest of it.

Time is counted in seconds since the server's start, on a clock that is never set.
"""

import math
from array import array
from collections.abc import Mapping
from typing import Final, NamedTuple, final

SERIES_LIMIT_COUNT: Final = 64
SERIES_LIMIT_BYTES: Final = 1_258_291  # 1.2 MiB
QUEUE_SERIES_COUNT: Final = 20
"""How many receivers have a series of their own."""

UNKNOWN: Final = math.nan


class Resolution(NamedTuple):
    """How long a value stands for, in seconds, and how many are kept."""

    step_s: int
    length: int


RESOLUTIONS: Final[Mapping[str, Resolution]] = {
    "1s": Resolution(1, 300),
    "10s": Resolution(10, 360),
    "1m": Resolution(60, 1_440),
}


class SeriesKind(NamedTuple):
    """The unit of a series, and whether the largest value counts instead of the mean."""

    unit: str
    is_peak: bool = False


class SeriesView(NamedTuple):
    """A series; its values in order, the first one of `first_s` seconds after the start."""

    name: str
    unit: str
    values: list[float]


class _Ring:
    """The values of one resolution, and what the next one is made of."""

    __slots__ = ("count", "largest", "sum", "values")

    def __init__(self, length: int) -> None:
        self.values = array("d", [UNKNOWN]) * length
        self.count = 0
        self.sum = 0.0
        self.largest = UNKNOWN

    def gather(self, value: float) -> None:
        if value == value:  # not NaN
            self.count += 1
            self.sum += value
            self.largest = value if self.count == 1 else max(self.largest, value)

    def take(self, *, is_peak: bool) -> float:
        """Return what was gathered as one value, and begin again."""
        value = UNKNOWN
        if self.count:
            value = self.largest if is_peak else self.sum / self.count
        self.count, self.sum = 0, 0.0
        return value


class _Series:
    __slots__ = ("kind", "rings", "used_s")

    def __init__(self, kind: SeriesKind) -> None:
        self.kind = kind
        self.rings = [_Ring(one.length) for one in RESOLUTIONS.values()]
        self.used_s = 0


@final
class SeriesBook:
    """All series of one server. `add` takes the values of one second."""

    def __init__(self) -> None:
        self.began_ms = 0
        """The time at which the first second began, in ms since 1970."""
        self._series: dict[str, _Series] = {}
        self._last_s = -1

    @property
    def last_s(self) -> int:
        """The second of the newest values; -1 if there are none."""
        return self._last_s

    @property
    def size_bytes(self) -> int:
        """The memory of all values."""
        return sum(
            ring.values.buffer_info()[1] * ring.values.itemsize
            for series in self._series.values()
            for ring in series.rings
        )

    def declare(self, name: str, kind: SeriesKind) -> bool:
        """Begin a series, unless it is there; return whether there is room for it."""
        if name in self._series:
            return True
        if len(self._series) >= SERIES_LIMIT_COUNT:
            return False
        self._series[name] = _Series(kind)
        return True

    def forget(self, name: str) -> None:
        """End a series."""
        self._series.pop(name, None)

    def add(self, second: int, values: Mapping[str, float]) -> None:
        """Take the values of a second; earlier ones that did not come are unknown.

        A second that is not later than the last one is not taken.
        """
        if second <= self._last_s:
            return
        if second > self._last_s + 1:
            self._skip(self._last_s + 1, second)
        self._add(second, values)
        self._last_s = second

    def _skip(self, first: int, second: int) -> None:
        """Leave out the seconds from `first` up to `second`; a gap of a year costs no more than
        one of a day."""
        for series in self._series.values():
            for ring, one in zip(series.rings, RESOLUTIONS.values(), strict=True):
                begun, coming = first // one.step_s, second // one.step_s
                if begun == coming:
                    continue
                ring.values[begun % one.length] = ring.take(is_peak=series.kind.is_peak)
                for number in range(max(begun + 1, coming - one.length), coming):
                    ring.values[number % one.length] = UNKNOWN

    def _add(self, second: int, values: Mapping[str, float]) -> None:
        ends = [
            (second + 1) % one.step_s == 0 for one in RESOLUTIONS.values()
        ]  # whether this second is the last of a value
        for name, series in self._series.items():
            value = values.get(name, UNKNOWN)
            is_peak = series.kind.is_peak
            for ring, one, is_end in zip(series.rings, RESOLUTIONS.values(), ends, strict=True):
                ring.gather(value)
                if is_end:
                    ring.values[second // one.step_s % one.length] = ring.take(is_peak=is_peak)

    def view(self, resolution: str, after_s: int) -> tuple[int, list[SeriesView]]:
        """Return the second that the first values begin with, and all series from there on.

        Only whole values that begin after `after_s` are in it.
        """
        step_s, count = RESOLUTIONS[resolution]
        place = list(RESOLUTIONS).index(resolution)
        end = (self._last_s + 1) // step_s  # values that are complete
        first = min(end, max(0, end - count, after_s // step_s + 1))
        views = []
        for name, series in self._series.items():
            ring = series.rings[place].values
            low, high = first % count, end % count
            if first == end:
                values: list[float] = []
            elif low < high:
                values = ring[low:high].tolist()
            else:
                values = ring[low:].tolist() + ring[:high].tolist()
            views.append(SeriesView(name, series.kind.unit, values))
        return first * step_s, views
