"""Connections whose other end has not proved anything yet: a limited number of them.

When there are as many as may be, the one that has been there longest is cut off for the next. A
process of the cluster needs some milliseconds for its proof, so it gets in while strangers come by
the thousand a second, and those that only keep connections open keep out no one.

What they do wrong is logged now and then, so that they cannot fill the log.
"""

from collections.abc import Callable
from typing import Final, final

import structlog

STRANGERS_LIMIT_COUNT: Final = 64
"""Of one process. Each has a descriptor, and some kilobytes; with TLS some ten."""

_LOG_INTERVAL_S: Final = 10.0

_log = structlog.get_logger("troth.http.links")


@final
class Strangers:
    """Those that are here now, the oldest first. `now_s` is a monotonic clock."""

    def __init__(
        self, now_s: Callable[[], float], limit_count: int = STRANGERS_LIMIT_COUNT
    ) -> None:
        self.cut_off_count = 0
        self.refused_count = 0
        self._now_s = now_s
        self._limit_count = limit_count
        self._last = 0
        self._here: dict[int, Callable[[], None]] = {}
        self._logged_s = -_LOG_INTERVAL_S
        self._unlogged_count = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._here)

    def enter(self, cut_off: Callable[[], None]) -> int:
        """Note one that has come, and how to cut it off; return its number."""
        if len(self._here) >= self._limit_count:
            oldest = next(iter(self._here))
            self.cut_off_count += 1
            self._here.pop(oldest)()
        self._last += 1
        self._here[self._last] = cut_off
        return self._last

    def leave(self, number: int) -> None:
        """Note that one has proved that it belongs, or has gone."""
        self._here.pop(number, None)

    def refused(self, problem: str) -> None:
        """Note what one has done wrong."""
        self.refused_count += 1
        self._unlogged_count += 1
        now_s = self._now_s()
        if now_s - self._logged_s >= _LOG_INTERVAL_S:
            _log.warning("a link was refused", problem=problem, times=self._unlogged_count)
            self._logged_s, self._unlogged_count = now_s, 0
