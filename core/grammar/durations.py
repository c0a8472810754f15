"""Durations as text: numbers with units, one after the other, as in `1h30m`, `250ms` or `1.5h`.

The one grammar of durations, for schedules, settings and commands. They differ only in the units
they know: Go's, which `@every` has, know no days; settings and commands know nothing shorter than a
millisecond. Numbers are decimal digits, with or without a fraction.
"""

import re
from collections.abc import Collection, Mapping
from typing import Final

UNITS_NS: Final[Mapping[str, int]] = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # micro sign
    "μs": 1_000,  # Greek mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
"""Nanoseconds of every unit, shorter units first."""

GO_UNITS: Final = frozenset(UNITS_NS) - {"d"}
"""The units of Go's durations, and so of robfig/cron's `@every`."""

UNITS: Final = ("ms", "s", "m", "h", "d")
"""The units of settings and commands, shorter ones first."""

_TEXT_LIMIT_COUNT: Final = 4_000
"""Longer texts are no durations: Python makes no numbers of more digits."""
_PART: Final = re.compile(r"(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))([a-zµμ]+)")
_NS_OF_MS: Final = UNITS_NS["ms"]


def read_ns(text: str, units: Collection[str]) -> int | None:
    """Return a duration in nanoseconds, what is less cut off; None if the text is not one."""
    if not text or len(text) > _TEXT_LIMIT_COUNT:
        return None
    total_ns = place = 0
    while place < len(text):
        part = _PART.match(text, place)
        if part is None or part[4] not in units:
            return None
        unit_ns = UNITS_NS[part[4]]
        fraction = part[2] or part[3] or ""
        total_ns += int(part[1] or 0) * unit_ns
        total_ns += int(fraction or 0) * unit_ns // 10 ** len(fraction)
        place = part.end()
    return total_ns


def read_ms(text: str) -> int | None:
    """Return a duration of settings and commands in milliseconds, what is less cut off.

    None if the text is not one.
    """
    total_ns = read_ns(text, UNITS)
    return None if total_ns is None else total_ns // _NS_OF_MS


def exact_text(duration_ms: int) -> str:
    """Write a duration exactly in one unit, the longest possible."""
    if duration_ms == 0:
        return "0s"
    duration_ns = duration_ms * _NS_OF_MS
    unit = next(unit for unit in reversed(UNITS) if duration_ns % UNITS_NS[unit] == 0)
    return f"{duration_ns // UNITS_NS[unit]}{unit}"
