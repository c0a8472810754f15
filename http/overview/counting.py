"""What is counted over time: once a second, from counters that exist anyway.

`Counting.run` compares the counters of shards, delivery, log and requests with those of a second
ago, and puts the differences into the series (`troth.shards.surveys.series`). Nothing else pays for
it. Receivers are looked at every ten seconds; the 20 that have had most waiting have a series each.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, final

import trio

from troth.core.failures import FailureKind
from troth.core.model import PromiseState
from troth.http.api.context import Api
from troth.persistence.process_memory import resident_bytes
from troth.persistence.wal.log import LogStatistics
from troth.shards.errors import ShardsError
from troth.shards.surveys.queues import SAMPLE_MS
from troth.shards.surveys.series import (
    QUEUE_SERIES_COUNT,
    UNKNOWN,
    SeriesBook,
    SeriesKind,
)

STEP_S: Final = 1.0
CLOCK_STEP_MS: Final = 2_000
"""By how much the wall clock has to be off before the series are dated again."""
QUEUE_PREFIX: Final = "queue."

_STATES: Final = {
    "promises.resolved": PromiseState.RESOLVED,
    "promises.rejected": PromiseState.REJECTED,
    "promises.canceled": PromiseState.REJECTED_CANCELED,
    "promises.timedout": PromiseState.REJECTED_TIMEDOUT,
}
_RATE: Final = SeriesKind("per second")
KINDS: Final = {
    "promises.pending": SeriesKind("promises"),
    "promises.created": _RATE,
    **dict.fromkeys(_STATES, _RATE),
    "tasks.sent": _RATE,
    "tasks.claimed": _RATE,
    "tasks.expired": _RATE,
    "log.syncP50": SeriesKind("ms"),
    "log.syncP99": SeriesKind("ms", is_peak=True),
    "log.syncMax": SeriesKind("ms", is_peak=True),
    "log.batch": SeriesKind("records"),
    "log.bytes": SeriesKind("bytes"),
    "http.requests": _RATE,
    "http.refusals": _RATE,
    "process.cpu": SeriesKind("cores"),
    "process.memory": SeriesKind("bytes"),
}
"""The series that every server has."""


class Sources(NamedTuple):
    """Where numbers come from that the API does not know itself.

    `sent_count` is how many messages were delivered since the start, `syncs_s` how long each sync
    of the log took since the last call.
    """

    sent_count: Callable[[], int]
    log: Callable[[], LogStatistics]
    syncs_s: Callable[[], Sequence[float]]


class _Totals(NamedTuple):
    """Counters that only grow, at one moment."""

    at_s: float
    cpu_s: float
    created: int
    completed: dict[str, int]
    sent: int
    claimed: int
    expired: int
    requests: int
    refusals: int
    appends: int
    records: int


@final
class Counting:
    """Counts one server, from `run` on."""

    def __init__(self, api: Api, sources: Sources, book: SeriesBook) -> None:
        self._api = api
        self._sources = sources
        self._book = book
        now_s = trio.current_time()
        self._began_s = now_s // STEP_S * STEP_S  # the moments at which others wake up, too
        self._before = self._totals()
        self._queues: dict[str, float] = {}
        book.began_ms = api.now_ms() - round((now_s - self._began_s) * 1000)
        for name, kind in KINDS.items():
            book.declare(name, kind)

    async def run(self) -> None:
        """Count every second until canceled."""
        queues_due_s = self._began_s
        while True:
            now_s = trio.current_time()
            if now_s >= queues_due_s:
                queues_due_s = now_s + SAMPLE_MS / 1000
                await self._look_at_queues()
            await trio.sleep_until(self._began_s + (self._second() + 1) * STEP_S)
            self.fold()

    def _second(self) -> int:
        return int((trio.current_time() - self._began_s) / STEP_S)

    def fold(self) -> None:
        """Add what has happened since the last time to the series, as the second before now."""
        before, now = self._before, self._totals()
        self._before = now
        passed_s = max(now.at_s - before.at_s, 0.001)

        def rate(was: int, number: int) -> float:
            # A test that resets a server takes counters back.
            return round(max(0, number - was) / passed_s, 3)

        counts = self._api.shards.counts()
        syncs_ms = sorted(1000 * one for one in self._sources.syncs_s())
        appends = now.appends - before.appends
        log = self._sources.log()
        values = {
            "promises.pending": float(counts.promises[PromiseState.PENDING]),
            "promises.created": rate(before.created, now.created),
            **{name: rate(before.completed[name], now.completed[name]) for name in _STATES},
            "tasks.sent": rate(before.sent, now.sent),
            "tasks.claimed": rate(before.claimed, now.claimed),
            "tasks.expired": rate(before.expired, now.expired),
            "log.syncP50": quantile(syncs_ms, 0.5),
            "log.syncP99": quantile(syncs_ms, 0.99),
            "log.syncMax": quantile(syncs_ms, 1),
            "log.batch": (now.records - before.records) / appends if appends else UNKNOWN,
            "log.bytes": float(log.size_bytes),
            "http.requests": rate(before.requests, now.requests),
            "http.refusals": rate(before.refusals, now.refusals),
            "process.cpu": round((now.cpu_s - before.cpu_s) / passed_s, 4),
            "process.memory": float(resident_bytes()),
            **self._queues,
        }
        second = self._second()
        began_ms = self._api.now_ms() - second * 1000
        if abs(began_ms - self._book.began_ms) > CLOCK_STEP_MS:
            self._book.began_ms = began_ms
        self._book.add(max(0, second - 1), values)

    def _totals(self) -> _Totals:
        shards = self._api.shards
        activity = shards.activity
        completed = {name: activity.durations[state].count for name, state in _STATES.items()}
        log = self._sources.log()
        requests, refusals = self._api.metrics.requests.totals()
        return _Totals(
            at_s=trio.current_time(),
            cpu_s=time.process_time(),
            created=activity.created_count,
            completed=completed,
            sent=self._sources.sent_count(),
            claimed=activity.claims_count,
            expired=shards.failures.totals[FailureKind.LEASE],
            requests=requests,
            refusals=refusals,
            appends=log.appends_count,
            records=log.records_count,
        )

    async def _look_at_queues(self) -> None:
        queues = self._api.queues
        if queues is None:
            return
        try:
            longest = await queues.sample(QUEUE_SERIES_COUNT)
        except ShardsError:
            return  # the server stops, or its log has failed, which ends it
        found = {QUEUE_PREFIX + name: float(count) for name, count in longest.items() if count}
        gone = [name for name in self._queues if name not in found]
        self._queues = {**dict.fromkeys(gone, 0.0), **found}
        # Those that are empty make room for others, the ones that have been for longest first.
        while len(self._queues) > QUEUE_SERIES_COUNT:
            name = next(iter(self._queues))
            del self._queues[name]
            self._book.forget(name)
        for name in self._queues:
            self._book.declare(name, SeriesKind("messages"))


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which a share of all lie; NaN if there are none."""
    if not ordered:
        return UNKNOWN
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3)
