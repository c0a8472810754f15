"""Finished spans on their way from the event loop to the exporter's thread.

A span is a plain value here: its ids and times, and a function that says the rest of it later, in
the thread, so that the event loop only appends it. At most `SPANS_LIMIT_COUNT` are under way, from
here to the collector's answer; beyond that the newest are dropped and counted. What is not durable
yet leaves only when it is (`tracing.py`), so nothing is told twice after a crash.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import trio
from msgspec import Struct

from .contexts import SpanContext

SPANS_LIMIT_COUNT: Final = 8_192
"""Spans between their end and the collector's answer; each takes about a kilobyte."""

Attributes = dict[str, str | int | float | bool]


class SpanKind(IntEnum):
    """The kinds of OpenTelemetry, with its numbers."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2
    PRODUCER = 3
    CONSUMER = 4


class FinishedSpan(Struct, eq=False, gc=False):
    """A span that has ended. Times are in ns since 1970.

    `describe`, called with `about` in the exporter's thread, returns its name and attributes.
    `error` says what went wrong; None if nothing has. `link` is another span that led to it.
    """

    context: SpanContext
    parent_id: int | None
    kind: SpanKind
    start_ns: int
    end_ns: int
    describe: Callable[..., tuple[str, Attributes]]
    about: tuple[Any, ...] = ()
    error: str | None = None
    link: SpanContext | None = None


@dataclass(frozen=True, slots=True)
class TraceStatistics:
    """What has become of the spans since the start, by result."""

    spans: Mapping[str, int]


NO_SPANS: Final = TraceStatistics({"sent": 0, "failed": 0, "dropped": 0})
"""What a server without traces says."""


class SpanQueue:
    """The spans that have ended and were not handed over yet. Only the event loop adds."""

    def __init__(self, limit_count: int = SPANS_LIMIT_COUNT) -> None:
        self._limit_count = limit_count
        self._spans: list[FinishedSpan] = []
        self._bell = trio.Event()
        self._added_count = 0
        self._dropped_count = 0
        self.sent_count = 0
        """Spans that the collector has taken. Only the exporter's thread changes it."""
        self.failed_count = 0
        """Spans that it has not. Only the exporter's thread changes it."""

    def add(self, span: FinishedSpan) -> None:
        """Take a span, or drop it if too many are under way. Never blocks."""
        # As `under_way_count`, for every span.
        if self._added_count - self.sent_count - self.failed_count >= self._limit_count:
            self._dropped_count += 1
            return
        self._added_count += 1
        if not self._spans:
            self._bell.set()
        self._spans.append(span)

    @property
    def under_way_count(self) -> int:
        """The number of spans that wait for the collector's answer, here and in the thread."""
        return self._added_count - self.sent_count - self.failed_count

    async def wait(self) -> None:
        """Wait until there is one."""
        await self._bell.wait()

    @property
    def count(self) -> int:
        """The number of spans that were not taken yet."""
        return len(self._spans)

    def take(self, count: int) -> list[FinishedSpan]:
        """Return the oldest so many."""
        taken, self._spans = self._spans[:count], self._spans[count:]
        if not self._spans:
            self._bell = trio.Event()
        return taken

    def statistics(self) -> TraceStatistics:
        """Return totals since the start."""
        return TraceStatistics(
            {
                "sent": self.sent_count,
                "failed": self.failed_count,
                "dropped": self._dropped_count,
            }
        )
