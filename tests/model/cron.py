"""When a cron expression fires next (rest.md 8.1), by looking at every day and every second of it.

Only what the histories use: five or six fields of `*`, `?`, numbers, ranges, steps and lists, and
`@every <n>s`. The zone is UTC.
"""

from datetime import UTC, datetime, timedelta

_RANGES = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_YEARS_COUNT = 5


def next_after_ms(expression: str, time_ms: int) -> int | None:
    """The first instant strictly after `time_ms`; None if there is none within five years."""
    if expression.startswith("@every "):
        length_s = int(expression.removeprefix("@every ").removesuffix("s"))
        return time_ms // 1000 * 1000 + length_s * 1000
    words = expression.split()
    words = ["0", *words] if len(words) == 5 else words
    seconds, minutes, hours, days, months, weekdays = [
        _values(word, *limits) for word, limits in zip(words, _RANGES, strict=True)
    ]
    both = any(word.replace("?", "*") in ("*", "*/1") for word in (words[3], words[5]))
    start = datetime.fromtimestamp(time_ms // 1000, UTC) + timedelta(seconds=1)
    day = start.replace(hour=0, minute=0, second=0)
    for _ in range(_YEARS_COUNT * 366):
        is_day, is_weekday = day.day in days, day.isoweekday() % 7 in weekdays
        matches = (is_day and is_weekday) if both else (is_day or is_weekday)
        if day.month in months and matches:
            for number in range(86_400):
                moment = day + timedelta(seconds=number)
                if (
                    moment >= start
                    and moment.hour in hours
                    and moment.minute in minutes
                    and moment.second in seconds
                ):
                    return int(moment.timestamp()) * 1000
        day += timedelta(days=1)
    return None


def _values(word: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in word.split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        if first in ("*", "?"):
            start, end = low, high
        else:
            start = int(first)
            end = int(last) if dash else high if step else start
        found |= set(range(start, end + 1, int(step or 1)))
    return found
