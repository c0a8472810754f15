"""Time zones as stretches of constant offset, for finding wall-clock times without guessing.

`load_zone` gives a zone by its IANA name. A `Zone` tells the offset from UTC at an instant and
where the stretch with that offset begins and ends, which `zoneinfo` itself does not tell. Instants
are whole seconds since 1970 UTC, offsets are seconds east of Greenwich.

The changes of offset within a year are found by looking at each day once, and kept. Two changes
within a day would be missed; the time zone database has none.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

INSTANT_MIN_S: Final = int(datetime(2, 1, 1, tzinfo=UTC).timestamp())
INSTANT_MAX_S: Final = int(datetime(9990, 1, 1, tzinfo=UTC).timestamp())
"""Zones answer only between these two: Python's calendar ends with the year 9999."""

_NAME: Final = re.compile(r"[A-Za-z0-9_+-]{1,40}(?:/[A-Za-z0-9_+-]{1,40}){0,3}\Z")
_DAY_S: Final = 86_400


class ZoneUnknown(ValueError):
    """There is no such time zone; the message says which."""


class Zone:
    """A time zone; instants outside INSTANT_MIN_S and INSTANT_MAX_S raise."""

    __slots__ = ("_changes_by_year", "_zone", "name")

    def __init__(self, name: str, zone: ZoneInfo) -> None:
        self.name = name
        self._zone = zone
        self._changes_by_year: dict[int, tuple[int, ...]] = {}

    def offset_s(self, instant_s: int) -> int:
        """Return how far the wall clock is ahead of UTC at the instant."""
        offset = datetime.fromtimestamp(instant_s, self._zone).utcoffset()
        assert offset is not None
        return offset.days * _DAY_S + offset.seconds

    def next_change_s(self, instant_s: int, until_s: int) -> int | None:
        """Return the first instant after this one, up to `until_s`, that has another offset."""
        for year in range(_year(instant_s), _year(until_s) + 1):
            for change_s in self._changes(year):
                if change_s > instant_s:
                    return change_s if change_s <= until_s else None
        return None

    def latest_change_s(self, instant_s: int, from_s: int) -> int | None:
        """Return the last instant up to this one, not before `from_s`, where the offset changed."""
        for year in range(_year(instant_s), _year(from_s) - 1, -1):
            for change_s in reversed(self._changes(year)):
                if change_s <= instant_s:
                    return change_s if change_s >= from_s else None
        return None

    def _changes(self, year: int) -> tuple[int, ...]:
        """Return the instants within the UTC year at which the offset differs from before."""
        changes = self._changes_by_year.get(year)
        if changes is None:
            first_s = int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) - 1
            last_s = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp()) - 1
            found = []
            for day_s in range(first_s, last_s, _DAY_S):
                before = self.offset_s(day_s)
                if self.offset_s(day_s + _DAY_S) != before:
                    found.append(self._bisect(day_s, day_s + _DAY_S, before))
            changes = self._changes_by_year[year] = tuple(found)
        return changes

    def _bisect(self, low_s: int, high_s: int, offset_s: int) -> int:
        """Return the first instant after `low_s` whose offset is not this one."""
        while high_s - low_s > 1:
            middle_s = (low_s + high_s) // 2
            if self.offset_s(middle_s) == offset_s:
                low_s = middle_s
            else:
                high_s = middle_s
        return high_s


def _year(instant_s: int) -> int:
    return datetime.fromtimestamp(instant_s, UTC).year


@lru_cache(maxsize=1_024)
def load_zone(name: str) -> Zone:
    """Return the zone of this IANA name ("" is UTC). Raises ZoneUnknown."""
    if not name:
        name = "UTC"
    if not _NAME.match(name):
        raise ZoneUnknown(f"{name[:80]!a} is not the name of a time zone")
    try:
        return Zone(name, ZoneInfo(name))
    except (KeyError, ValueError, OSError) as error:  # unknown; no zone file; a directory
        raise ZoneUnknown(f"there is no time zone {name!a}") from error
