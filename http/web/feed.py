"""The live feed: once a second what has changed, and soon which watched promises have.

What this module promises:

- A second's event is encoded once for all streams with the same rights, and only if something in
  it has changed. Without streams nothing is done.
- Nothing is told that is not durable.
- One look at receivers a second serves all streams; with thousands of receivers, it comes less
  often. New failures are judged once for each kind of rights.
- A change of a watched promise is told immediately, then at most every `CHANGES_EVERY_S`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple, final

import trio
from msgspec import UNSET, Struct, structs

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.failures import Failure, Failures
from troth.http.api.context import Api
from troth.http.bulk.answers import BulkJobObject, bulk_job
from troth.http.overview.failure_endpoints import FailureObject, ShownFailures, failure_object
from troth.http.overview.statistics_endpoints import counts_object
from troth.http.overview.traffic_answers import QueueObject, queue_object
from troth.http.wire.answers import told
from troth.http.wire.errors import ApiError
from troth.http.wire.principals import Principal
from troth.shards.errors import ShardsError
from troth.shards.surveys.pace import Pace

from .feed_stream import Channel, FeedStream, Topic, leave_all

STEP_S: Final = 1.0
CHANGES_EVERY_S: Final = 0.1
ROWS_COUNT: Final = 20
"""How many receivers, failures and jobs an event has."""
RECEIVERS_A_SECOND_COUNT: Final = 1_000
"""How many receivers are looked at for each second of rest."""
NEXT_TRY_STEP_MS: Final = 1_000
"""By how much the time of a next try has to differ: it is counted from now, never exactly."""

_LEFT_OUT: Final = "process."
"""Series that change every second even if nothing happens begin so."""


class CountersEvent(Struct, gc=False):
    """How many there are of what, and what the last second had."""

    counts: Annotated[dict[str, dict[str, int]], told("As in /statistics.", {})]
    series: Annotated[dict[str, float | None], told("The values of the last second.", {})]


class QueuesEvent(Struct, gc=False):
    """The receivers with most waiting."""

    total: int
    complete: bool
    queues: list[QueueObject]


class FailuresEvent(Struct, gc=False):
    """The newest failures, newest first."""

    failures: list[FailureObject]


class BulkEvent(Struct, gc=False):
    """The newest bulk jobs, without the values and examples that they have."""

    jobs: list[BulkJobObject]


class Rights(NamedTuple):
    """What a stream may hear: all of the server or only promises, and with which prefix."""

    sees_metrics: bool
    id_prefix: str


_ALL: Final = Rights(True, "")
_Key = tuple[Topic, Rights]


@final
class _NewestFailures:
    """The newest failures that some rights show, newest first."""

    def __init__(self, rights: Rights) -> None:
        self._shown = ShownFailures(*rights)
        self.rows: deque[Failure] = deque(maxlen=ROWS_COUNT)

    def begin(self, kept: Failures, until_number: int) -> None:
        """Take those up to a number."""
        shown = self._shown
        found, _ = kept.newest(shown.kinds, ROWS_COUNT, until_number + 1, shown.admits)
        self.rows.extend(found)

    def add(self, later: Sequence[Failure]) -> None:
        """Take those that are new, the oldest first."""
        shown = self._shown
        kinds = shown.kinds
        self.rows.extendleft(one for one in later if one.kind in kinds and shown.admits(one))


@dataclass(frozen=True, slots=True)
class FeedStatistics:
    """What streams watch now, and totals since the start."""

    watched_count: int
    events_total_count: int
    skipped_total_count: int


@final
class Feed:
    """The live feed of one server; a `context.EventFeed`. `run` tells the streams."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._limit_count = api.settings.event_streams_limit_count
        self._channels: dict[_Key, Channel] = {}
        self._failures: dict[Rights, _NewestFailures] = {}
        self._failures_seen = 0
        self._queues_due_s = 0.0
        self._next_tries: dict[str, int] = {}
        self._streams: dict[FeedStream, Callable[[], None]] = {}
        self._watchers: dict[tuple[str, str], dict[FeedStream, None]] = {}
        self._occupied = trio.Event()
        self._changed = trio.Event()
        self._events_count = 0
        self._skipped_count = 0
        self._watch = api.shards.watch
        self._watch.ring = lambda: self._changed.set()

    # Streams

    def open(
        self, principal: Principal, topics: frozenset[str], watched: Sequence[str]
    ) -> FeedStream:
        """Open a stream for one who may hear all of that. Raises ApiError (503): too many."""
        if len(self._streams) >= self._limit_count:
            message = "All streams of events are in use. Connect again after `Retry-After`."
            raise ApiError(Code.OVERLOADED, message=message)
        keep_alive_ms = self._api.settings.poll_keep_alive_ms
        stream = FeedStream(keep_alive_ms, self._api.now_ms, self._close)
        prefix = principal.id_prefix
        rights = Rights(Scope.METRICS_READ in principal.scopes, prefix)
        keys = [(topic, _rights_on(topic, rights)) for topic in Topic if topic in topics]
        pairs = [(promise_id, prefix) for promise_id in dict.fromkeys(watched)]
        for key in keys:
            if key not in self._channels:
                self._channels[key] = Channel(key[0])
            self._channels[key].join(stream)
        for pair in pairs:
            self._watch.add(*pair)
            self._watchers.setdefault(pair, {})[stream] = None

        def leave() -> None:
            leave_all([self._channels[key] for key in keys], stream)
            for key in keys:
                if not self._channels[key].streams:
                    self._end(key)
            for pair in pairs:
                self._watch.remove(*pair)
                del self._watchers[pair][stream]
                if not self._watchers[pair]:
                    del self._watchers[pair]

        self._streams[stream] = leave
        self._occupied.set()
        return stream

    def _close(self, stream: FeedStream) -> None:
        self._streams.pop(stream)()
        self._skipped_count += stream.skipped_total_count

    def _end(self, key: _Key) -> None:
        """Forget a channel that has no streams."""
        topic, rights = key
        del self._channels[key]
        if topic is Topic.FAILURES:
            self._failures.pop(rights, None)

    @property
    def streams_count(self) -> int:
        """The number of open streams."""
        return len(self._streams)

    def statistics(self) -> FeedStatistics:
        """Return counts of this moment and totals since the start."""
        waiting = sum(stream.skipped_total_count for stream in self._streams)
        return FeedStatistics(
            watched_count=len(self._watch.ids),
            events_total_count=self._events_count,
            skipped_total_count=self._skipped_count + waiting,
        )

    # Telling them

    async def run(self) -> None:
        """Tell the streams until canceled, or until the shards stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_changes)
            try:
                while True:
                    if not self._streams:
                        self._occupied = trio.Event()
                        await self._occupied.wait()
                    began_s = trio.current_time()
                    await self.tell_second()
                    await trio.sleep_until(began_s + STEP_S)
            except ShardsError:
                nursery.cancel_scope.cancel()  # the server stops, and ends the streams

    async def _tell_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self.tell_changes()
            await trio.sleep(CHANGES_EVERY_S)

    async def tell_changes(self) -> None:
        """Tell which watched promises have changed."""
        changed = self._watch.take()
        try:
            await self._api.shards.wait_shown()
        except ShardsError:
            return
        for pair in sorted(changed):
            for stream in self._watchers.get(pair, ()):
                stream.tell_change(pair[0])

    async def tell_second(self) -> None:
        """Tell what is new on each topic. Raises Stopping or StorageFailed."""
        pace = Pace()
        counters = self._counters() if (Topic.COUNTERS, _ALL) in self._channels else None
        wanted = self._rights_of(Topic.FAILURES)
        if wanted:
            await self._look_at_failures(wanted, pace)
        await self._api.shards.wait_shown()
        if counters is not None:
            self._tell((Topic.COUNTERS, _ALL), counters)
        for rights, known in list(self._failures.items()):
            rows = [failure_object(one) for one in known.rows]
            self._tell((Topic.FAILURES, rights), FailuresEvent(rows))
            await pace.rest()
        await self._tell_bulk(pace)
        await self._tell_queues(pace)

    def _rights_of(self, topic: Topic) -> list[Rights]:
        return [rights for known, rights in self._channels if known is topic]

    def _tell(self, key: _Key, event: Struct) -> None:
        channel = self._channels.get(key)
        if channel is not None:  # its streams may have gone in the meantime
            channel.tell(event, self._api.now_ms())
            self._events_count += 1

    def _counters(self) -> CountersEvent:
        api = self._api
        _, views = api.series.view("1s", api.series.last_s - 1)
        series: dict[str, float | None] = {
            one.name: one.values[-1]
            for one in views
            if one.values and not one.name.startswith(_LEFT_OUT)
        }
        return CountersEvent(counts_object(api.shards.counts()), series)

    async def _look_at_failures(self, wanted: list[Rights], pace: Pace) -> None:
        """Take in what has failed since the last time."""
        kept = self._api.shards.failures
        for rights in wanted:
            if rights not in self._failures:
                known = self._failures[rights] = _NewestFailures(rights)
                known.begin(kept, self._failures_seen)
                await pace.rest()
        later = kept.later_than(self._failures_seen)
        if later:
            self._failures_seen = later[-1].number
            for known in list(self._failures.values()):
                known.add(later)
                await pace.rest()

    async def _tell_bulk(self, pace: Pace) -> None:
        wanted = self._rights_of(Topic.BULK)
        jobs = self._api.bulk
        if jobs is None or not wanted:
            return
        found = jobs.all_progress()
        await self._api.shards.wait_shown()
        for rights in wanted:
            seen = [one for one in found if one.job.id_prefix.startswith(rights.id_prefix)]
            rows = [
                structs.replace(bulk_job(one), value=UNSET, examples=UNSET)
                for one in seen[:ROWS_COUNT]
            ]
            self._tell((Topic.BULK, rights), BulkEvent(rows))
            await pace.rest()

    async def _tell_queues(self, pace: Pace) -> None:
        queues = self._api.queues
        wanted = self._rights_of(Topic.QUEUES)
        now_s = trio.current_time()
        if queues is None or not wanted or now_s < self._queues_due_s:
            return
        pages = await queues.longest_of_each(ROWS_COUNT, [one.id_prefix for one in wanted])
        receivers_count = max(page.total_count for page in pages)
        self._queues_due_s = now_s + receivers_count / RECEIVERS_A_SECOND_COUNT
        next_tries: dict[str, int] = {}
        for rights, page in zip(wanted, pages, strict=True):
            rows = [self._steadied(queue_object(row), next_tries) for row in page.rows]
            event = QueuesEvent(page.total_count, page.is_complete, rows)
            self._tell((Topic.QUEUES, rights), event)
            await pace.rest()
        self._next_tries = next_tries

    def _steadied(self, row: QueueObject, next_tries: dict[str, int]) -> QueueObject:
        """Keep the time of the next try as it was told, if it is about the same."""
        given = row.next_try
        if isinstance(given, int):
            before = self._next_tries.get(row.receiver, given)
            kept = before if abs(given - before) < NEXT_TRY_STEP_MS else given
            row.next_try = next_tries[row.receiver] = kept
        return row


def _rights_on(topic: Topic, rights: Rights) -> Rights:
    """Return what matters of rights for a topic, so that as many as can be share a channel."""
    match topic:
        case Topic.COUNTERS:
            return _ALL
        case Topic.QUEUES:
            return Rights(True, rights.id_prefix)
        case Topic.BULK:
            return Rights(False, rights.id_prefix)
        case Topic.FAILURES:
            return rights
