"""Cron expressions: when a schedule fires.

The grammar is that of rest.md 8.1 (robfig/cron v3):

- five fields (minute, hour, day of month, month, day of week) or six with leading seconds; each is
  a comma list of `*`, `?` (the same), `n`, `a-b`, any of these with `/step`; `n/step` means n to
  the maximum; names `jan`-`dec` and `sun`-`sat` in any case; Sunday is 0 and never 7; no L, W or #;
- if day of month or day of week is a star (`*`, `?`, `*/1`), both must match, else either;
- `@yearly`, `@annually`, `@monthly`, `@weekly`, `@daily`, `@midnight`, `@hourly`, and
  `@every <duration>` with a duration as in Go (`1h30m`, `1.5h`, `90s`, `500ms`);
- a prefix `TZ=<zone> ` or `CRON_TZ=<zone> `.

An expression fires at every whole second whose wall-clock time in its zone matches. So where clocks
go forward, times that are skipped do not fire on that day; where clocks go back, times in the
repeated hour fire twice. (robfig/cron does the same by adding absolute durations, apart from days
without a midnight and half-hour changes, where it misses firings; those are not missed here.)

croniter finds the matching wall-clock times, as if they were UTC; `zones` says which stretch of
wall-clock time is which stretch of real time. So croniter's own handling of zones is not used.
"""

import re
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from troth.core.limits import INTEGER_MAX

from . import durations
from .zones import INSTANT_MAX_S, INSTANT_MIN_S, Zone, ZoneUnknown, load_zone

YEARS_AHEAD_LIMIT_COUNT: Final = 5
"""An expression with no match up to the end of the fifth year from now does not fire."""

_SEARCH_AHEAD_S: Final = (YEARS_AHEAD_LIMIT_COUNT + 1) * 366 * 86_400


class CronRefused(ValueError):
    """The text is not a cron expression; the message says which part and what is allowed."""


class Cron(ABC):
    """A parsed cron expression. Made by `parse`; it must not be shared between threads."""

    __slots__ = ("expression",)

    def __init__(self, expression: str) -> None:
        self.expression = expression

    def __repr__(self) -> str:
        return f"Cron({self.expression!r})"

    @abstractmethod
    def next_after_ms(self, time_ms: int) -> int | None:
        """Return the first firing time strictly after this one, or None if there is none soon.

        It is a whole second. None: no match up to the end of the fifth year after.
        """

    @abstractmethod
    def latest_between_ms(self, after_ms: int, until_ms: int, count: int) -> list[int]:
        """Return the last `count` firing times in (after, until], in ascending order.

        Takes time in proportion to `count`, not to the length of the interval. Stops at a time
        that has no firing within five years before it.
        """


class _EveryCron(Cron):
    """`@every`: a fixed time after the previous run, whatever the calendar."""

    __slots__ = ("_period_ms",)

    def __init__(self, expression: str, period_ms: int) -> None:
        super().__init__(expression)
        self._period_ms = period_ms

    def next_after_ms(self, time_ms: int) -> int | None:
        return min((time_ms + self._period_ms) // 1_000 * 1_000, INTEGER_MAX)

    def latest_between_ms(self, after_ms: int, until_ms: int, count: int) -> list[int]:
        base_ms = after_ms // 1_000 * 1_000
        last = (until_ms - base_ms) // self._period_ms
        return [base_ms + n * self._period_ms for n in range(max(1, last - count + 1), last + 1)]


class _FieldCron(Cron):
    """Fields matched against the wall clock of a zone."""

    __slots__ = ("_walls", "_zone")

    def __init__(self, expression: str, fields: str, zone: Zone) -> None:
        # Here: it takes a twentieth of the time of a start, and many servers have no schedules.
        from croniter import croniter

        super().__init__(expression)
        self._zone = zone
        self._walls = croniter(
            fields,
            0.0,
            second_at_beginning=True,
            max_years_between_matches=YEARS_AHEAD_LIMIT_COUNT,
        )

    def next_after_ms(self, time_ms: int) -> int | None:
        after_s = max(time_ms // 1_000, INSTANT_MIN_S)
        horizon_s = after_s + _SEARCH_AHEAD_S
        if horizon_s > INSTANT_MAX_S:
            return None
        zone = self._zone
        offset_s = zone.offset_s(after_s)
        last_year = _year(after_s + 1 + zone.offset_s(after_s + 1)) + YEARS_AHEAD_LIMIT_COUNT
        wall_s = self._next_wall_s(after_s + offset_s)
        stretch_s = after_s  # no change of offset between here and the next one that is looked for
        while True:
            change_s = zone.next_change_s(stretch_s, horizon_s)
            if wall_s is not None and (change_s is None or wall_s - offset_s < change_s):
                return (wall_s - offset_s) * 1_000 if _year(wall_s) <= last_year else None
            if change_s is None:
                return None
            stretch_s = change_s
            # Go on in the next stretch; the match still holds unless clocks went back before it
            # or it was skipped.
            earlier_offset_s, offset_s = offset_s, zone.offset_s(change_s)
            if offset_s < earlier_offset_s or (wall_s is not None and wall_s < change_s + offset_s):
                wall_s = self._next_wall_s(change_s - 1 + offset_s)

    def latest_between_ms(self, after_ms: int, until_ms: int, count: int) -> list[int]:
        after_s = max(after_ms // 1_000, INSTANT_MIN_S)
        until_s = min(until_ms // 1_000, INSTANT_MAX_S)
        found: list[int] = []
        while len(found) < count and until_s > after_s:
            instant_s = self._latest_s(after_s, until_s)
            if instant_s is None:
                break
            found.append(instant_s * 1_000)
            until_s = instant_s - 1
        found.reverse()
        return found

    def _latest_s(self, after_s: int, until_s: int) -> int | None:
        """Return the last firing instant in (after, until], if there is one in the last years."""
        after_s = max(after_s, until_s - _SEARCH_AHEAD_S)
        while until_s > after_s:
            offset_s = self._zone.offset_s(until_s)
            change_s = self._zone.latest_change_s(until_s, after_s + 1)
            wall_s = self._previous_wall_s(until_s + 1 + offset_s)
            if wall_s is not None and wall_s - offset_s >= (change_s or after_s + 1):
                return wall_s - offset_s
            if change_s is None:
                return None
            until_s = change_s - 1
        return None

    def _next_wall_s(self, wall_s: int) -> int | None:
        """Return the first matching wall-clock time after this one, in seconds as if UTC."""
        from croniter import CroniterBadDateError

        self._walls.set_current(float(wall_s), force=True)
        try:
            return int(self._walls.get_next(float))
        except CroniterBadDateError:
            return None

    def _previous_wall_s(self, wall_s: int) -> int | None:
        from croniter import CroniterBadDateError

        self._walls.set_current(float(wall_s), force=True)
        try:
            return int(self._walls.get_prev(float))
        except CroniterBadDateError:
            return None


def _year(wall_s: int) -> int:
    return datetime.fromtimestamp(wall_s, UTC).year


# --- grammar --------------------------------------------------------------------------------------


class _Field:
    """A field of an expression: its name for people, its values and their names."""

    __slots__ = ("maximum", "minimum", "name", "names")

    def __init__(self, name: str, minimum: int, maximum: int, names: tuple[str, ...] = ()) -> None:
        self.name = name
        self.minimum = minimum
        self.maximum = maximum
        self.names = {text: minimum + number for number, text in enumerate(names)}

    def refusal(self, given: str, rule: str) -> CronRefused:
        """Return the error for a part of this field."""
        return CronRefused(f"{self.name}: {_shown(given)} is not allowed; {rule}")

    def allowed(self) -> str:
        """Return what values the field may have, for messages."""
        names = f" or {next(iter(self.names))} to {list(self.names)[-1]}" if self.names else ""
        return f"write {self.minimum} to {self.maximum}{names}, *, a-b, lists and /steps"


_JANUARY_TO_JUNE: Final = ("jan", "feb", "mar", "apr", "may", "jun")
_JULY_TO_DECEMBER: Final = ("jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS: Final = _JANUARY_TO_JUNE + _JULY_TO_DECEMBER
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: Final = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _DAYS),
)
_DESCRIPTORS: Final = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_ZONE_PREFIXES: Final = ("TZ=", "CRON_TZ=")
_EVERY: Final = "@every "
_NUMBER: Final = re.compile(r"\+?[0-9]{1,30}\Z", re.ASCII)


@lru_cache(maxsize=4_096)
def parse(expression: str, default_zone: str | Zone = "UTC") -> Cron:
    """Return the schedule that a cron expression describes.

    It is in the zone it names, else in `default_zone`. Raises CronRefused.
    """
    rest = expression
    zone_name = default_zone
    if expression.startswith(_ZONE_PREFIXES):
        zone_prefix, blank, rest = expression.partition(" ")
        if not blank:
            raise CronRefused(f"{_shown(zone_prefix)} has no fields after the time zone")
        name = zone_prefix.partition("=")[2]
        zone_name = name if name != "Local" else default_zone
        rest = rest.strip()
    try:
        zone = zone_name if isinstance(zone_name, Zone) else load_zone(zone_name)
    except ZoneUnknown as error:
        raise CronRefused(f"time zone: {error}") from error
    if rest.startswith(_EVERY):
        return _EveryCron(expression, _period_ms(rest.removeprefix(_EVERY)))
    if rest.startswith("@"):
        if rest not in _DESCRIPTORS:
            raise CronRefused(
                f"{_shown(rest)} is not a descriptor; there are {', '.join(_DESCRIPTORS)} and "
                "@every with a duration"
            )
        return _FieldCron(expression, _DESCRIPTORS[rest], zone)
    return _FieldCron(expression, _croniter_fields(rest), zone)


def _croniter_fields(text: str) -> str:
    """Return the fields as croniter wants them: six, each a star or a plain list."""
    parts = text.split()
    if len(parts) == 5:
        parts.insert(0, "0")
    if len(parts) != 6:
        raise CronRefused(
            f"a cron expression has 5 fields (minute, hour, day of month, month, day of week) or 6 "
            f"(second first), not {len(parts)}: {_shown(text)}"
        )
    return " ".join(
        _croniter_field(field, part) for field, part in zip(_FIELDS, parts, strict=True)
    )


def _croniter_field(field: _Field, text: str) -> str:
    """Return a star, which croniter leaves out of "either day matches", or a list of values."""
    values: set[int] = set()
    is_star = False
    elements = [element for element in text.split(",") if element]  # as robfig, `1,,2` is `1,2`
    if not elements:
        raise field.refusal(text, field.allowed())
    for element in elements:
        element_values, element_is_star = _element(field, element)
        values.update(element_values)
        is_star = is_star or element_is_star
    if is_star:
        return "*"
    return ",".join(str(value) for value in sorted(values))


def _element(field: _Field, element: str) -> tuple[range, bool]:
    """Return the values of one element of a list and whether it counts as a star."""
    bounds, slash, step_text = element.partition("/")
    step = _number(field, step_text, element) if slash else 1
    if not step:
        raise field.refusal(element, "a step is at least 1")
    if bounds in ("*", "?"):
        return range(field.minimum, field.maximum + 1, step), step == 1
    low_text, dash, high_text = bounds.partition("-")
    low = _value(field, low_text, element)
    high = field.maximum if slash else low
    if dash:
        high = _value(field, high_text, element)
    if low > high:
        raise field.refusal(element, "a range goes from the lower to the higher value")
    return range(low, high + 1, step), False


def _value(field: _Field, text: str, element: str) -> int:
    named = field.names.get(text.lower())
    value = _number(field, text, element) if named is None else named
    if not field.minimum <= value <= field.maximum:
        raise field.refusal(element, field.allowed())
    return value


def _number(field: _Field, text: str, element: str) -> int:
    if not _NUMBER.match(text) or int(text) > INTEGER_MAX:
        raise field.refusal(element, field.allowed())
    return int(text)


def _period_ms(text: str) -> int:
    """Return a duration as Go writes it, cut to whole seconds, at least one, in ms."""
    # A sign is allowed, and 0 without a unit: both as in Go.
    length = text[1:] if text[:1] in ("+", "-") else text
    total_ns = 0 if length == "0" else durations.read_ns(length, durations.GO_UNITS)
    if total_ns is None:
        raise CronRefused(
            f"@every: {_shown(text)} is not a duration; write numbers with the units h, m, s, ms, "
            "us or ns, like 1h30m"
        )
    if total_ns > INTEGER_MAX:
        raise CronRefused(f"@every: {_shown(text)} is too long; the most is 292 years (2562047h)")
    if text.startswith("-"):
        total_ns = 0
    return max(total_ns // 1_000_000_000, 1) * 1_000


def _shown(text: str) -> str:
    """Return the text quoted, ASCII and not too long for a message."""
    return ascii(text) if len(text) <= 60 else ascii(text[:60]) + "…"
