"""Series of several processes as one: what they count is added up, second by second.

Each process has begun its series at another time and counts at another moment of a second. Values
are put where the next whole step of the wall clock is, and those of the last step are left out
until all processes have it, so no sum lacks a part. What a process does not know, since it has
started later, counts as nothing.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

from msgspec import Struct

from troth.shards.surveys.series import RESOLUTIONS, UNKNOWN, SeriesBook, SeriesView

_LARGEST: Final = "ms"
_MEAN: Final = "records"


class SeriesPart(Struct, frozen=True, array_like=True):
    """All series from `first_at` on, in ms since 1970; they began at `began_ms`."""

    began_ms: int
    first_at: int
    step_ms: int
    views: list[SeriesView]

    @classmethod
    def of(cls, book: SeriesBook, resolution: str, since_ms: int) -> "SeriesPart":
        """Return the values of a book that are later than a time."""
        began_ms = book.began_ms
        first_s, views = book.view(resolution, max(-1, (since_ms - began_ms) // 1000))
        step_ms = RESOLUTIONS[resolution].step_s * 1000
        return cls(began_ms, began_ms + first_s * 1000, step_ms, views)

    @classmethod
    def last_of(cls, book: SeriesBook) -> "SeriesPart":
        """Return the values of a book's last second."""
        first_s, views = book.view(next(iter(RESOLUTIONS)), book.last_s - 1)
        return cls(book.began_ms, book.began_ms + first_s * 1000, 1000, views)

    @property
    def length(self) -> int:
        """The number of values that each series has."""
        return len(self.views[0].values) if self.views else 0

    @property
    def slot(self) -> int:
        """The step since 1970 that the first values belong to."""
        return round(self.first_at / self.step_ms)


def joined(parts: Sequence[SeriesPart], since_ms: int) -> SeriesPart:
    """Return the series of all processes together."""
    step_ms = parts[0].step_ms
    first = max(min(part.slot for part in parts), since_ms // step_ms + 1)
    end = max(first, min(part.slot + part.length for part in parts))
    found: dict[str, tuple[str, list[list[float]]]] = {}
    for part in parts:
        for view in part.views:
            _, columns = found.setdefault(view.name, (view.unit, []))
            columns.append(_placed(view.values, part.slot - first, end - first))
    views = [
        SeriesView(name, unit, [_joint(unit, values) for values in zip_longest(*columns)])
        for name, (unit, columns) in found.items()
    ]
    began_ms = min(part.began_ms for part in parts)
    return SeriesPart(began_ms, first * step_ms, step_ms, views)


def last_values(parts: Sequence[SeriesPart]) -> dict[str, float]:
    """Return the last value of each series, of all processes together."""
    found: dict[str, tuple[str, list[float]]] = {}
    for part in parts:
        for view in part.views:
            if view.values:
                found.setdefault(view.name, (view.unit, []))[1].append(view.values[-1])
    return {name: _joint(unit, values) for name, (unit, values) in found.items()}


def _placed(values: list[float], offset: int, length: int) -> list[float]:
    """Return values as they stand in a row of this length that begins that much earlier."""
    if offset < 0:
        values, offset = values[-offset:], 0
    row = [UNKNOWN] * min(offset, length) + values
    return (row + [UNKNOWN] * length)[:length]


def _joint(unit: str, values: Sequence[float]) -> float:
    known = [one for one in values if one == one]  # not NaN
    if not known:
        return UNKNOWN
    if unit == _LARGEST:
        return max(known)
    if unit == _MEAN:
        return sum(known) / len(known)
    return known[0] if len(known) == 1 else round(sum(known), 4)
