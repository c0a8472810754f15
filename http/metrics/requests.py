"""Requests and refusals, counted as they are answered.

As prometheus_client's own counters, but at a tenth of their cost. Those take locks and format
labels each time; these are only ever touched in the event loop.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final, final

from troth.core.buckets import Buckets
from troth.core.codes import Code
from troth.core.model import Trace
from troth.core.state.activity import note_trace

from .families import Group, Labels, counter, histogram

_BUCKETS_S: Final = (
    *(0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0),
)


_NOTED_LIMIT_COUNT: Final = 256
"""So many durations are counted together."""


class _Answered:
    """Requests of one endpoint with one status: how long they took; streams have no duration.

    `noted` are durations that are not counted yet.
    """

    __slots__ = ("durations", "noted", "streams_count")

    def __init__(self) -> None:
        self.durations = Buckets(_BUCKETS_S)
        self.streams_count = 0
        self.noted: list[float] = []

    def settle(self) -> None:
        """Count what was noted."""
        self.durations.add_all(self.noted)
        self.noted.clear()


@final
class AnsweredRequests:
    """The requests of one server since its start."""

    def __init__(self) -> None:
        self._settled: dict[tuple[str, int], _Answered] = {}
        self._noted: dict[tuple[str, int], list[float]] = {}
        self._refusals: Counter[Code] = Counter()

    def count(self, endpoint: str, status: int, duration_s: float | None) -> None:
        """Note one answered request; without a duration if it was a stream."""
        if duration_s is None:
            self._of(endpoint, status).streams_count += 1
        else:
            self.answered(endpoint, status, duration_s)

    def answered(self, endpoint: str, status: int, duration_s: float) -> None:
        """Note one answered request that was no stream."""
        try:
            noted = self._noted[endpoint, status]
        except KeyError:
            noted = self._of(endpoint, status).noted
        noted.append(duration_s)
        if len(noted) >= _NOTED_LIMIT_COUNT:
            self._settled[endpoint, status].settle()

    def _of(self, endpoint: str, status: int) -> _Answered:
        found = self._settled.get((endpoint, status))
        if found is None:
            found = self._settled[endpoint, status] = _Answered()
            self._noted[endpoint, status] = found.noted
        return found

    @property
    def _answered(self) -> Mapping[tuple[str, int], _Answered]:
        """Return all that was noted, by endpoint and status."""
        for one in self._settled.values():
            one.settle()
        return self._settled

    def note_trace(self, endpoint: str, status: int, duration_s: float, traceparent: bytes) -> None:
        """Note the trace of a request that was counted, if it was sampled."""
        trace = Trace(traceparent.decode("latin-1"))
        note_trace(self._settled[endpoint, status].durations, duration_s, trace)

    def refused(self, code: Code) -> None:
        """Note why a request was refused."""
        self._refusals[code] += 1

    def totals(self) -> tuple[int, int]:
        """Return how many there were, and how many had a status of 400 or more."""
        answered_count = refused_count = 0
        for (_, status), count in self._counts().items():
            answered_count += count
            refused_count += count if status >= 400 else 0
        return answered_count, refused_count

    def _counts(self) -> dict[tuple[str, int], int]:
        return {key: one.streams_count + one.durations.count for key, one in self._answered.items()}

    def by_status(self) -> Mapping[Labels, float]:
        """Return how many requests of each endpoint had each status."""
        return {
            (endpoint, str(status)): count for (endpoint, status), count in self._counts().items()
        }

    def durations(self) -> Mapping[str, Buckets]:
        """Return how long the requests of each endpoint took, in seconds."""
        timed: dict[str, Buckets] = {}
        for (endpoint, _), one in self._answered.items():
            if any(one.durations.counts):
                timed.setdefault(endpoint, Buckets(_BUCKETS_S)).merge(one.durations)
        return timed

    def refusals(self) -> Mapping[str, float]:
        """Return how many requests were refused for each reason that a request can be told."""
        return {code.name.lower(): self._refusals[code] for code in _REASONS}


_ANSWERS: Final = ("PROMISE_", "TASK_", "LOCK_")
_REASONS: Final = tuple(
    code
    for code in Code
    if code.status in {401, 403, 413, 421, 429, 500, 503} and not code.name.startswith(_ANSWERS)
)
"""Refusals that an operator wants to know of; of others, such as 404, clients can tell.

A promise that is resolved already, and the like, answers 403 as well: that is part of the protocol.
"""

REQUESTS: Final[Group[AnsweredRequests]] = Group(
    "Requests",
    (
        counter(
            "troth_http_requests_total",
            "Requests answered, by endpoint and HTTP status. Many with 503 mean overload, or a "
            "server that starts or stops.",
            AnsweredRequests.by_status,
            "endpoint",
            "status",
        ),
        histogram(
            "troth_http_request_duration_seconds",
            "Time from the last byte of a request to the last of its answer; streams are not "
            "counted. Compare with troth_log_sync_duration_seconds, which every write waits for.",
            AnsweredRequests.durations,
            "endpoint",
        ),
        counter(
            "troth_refused_total",
            "Requests refused for want of rights or room, by error code (see /docs/errors).",
            AnsweredRequests.refusals,
            "reason",
        ),
    ),
)
