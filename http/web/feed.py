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
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple, final

import trio
from msgspec import UNSET, Struct, structs

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.failures import Failure
from troth.http.api.context import Api
from troth.http.bulk.answers import BulkJobObject, bulk_job
from troth.http.bulk.progress import progress_here
from troth.http.overview.failure_endpoints import FailureObject, ShownFailures, failure_object
from troth.http.overview.statistics_endpoints import counts_object
from troth.http.overview.traffic_answers import QueueObject, queue_object
from troth.http.wire.answers import told
from troth.http.wire.errors import ApiError
from troth.http.wire.principals import Principal
from troth.shards.errors import CallFailed, Overloaded, ShardsError
from troth.shards.gathered.whole import WholeServer
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

    async def begin(self, whole: WholeServer) -> None:
        """Take those that there are. Raises ShardsError."""
        shown = self._shown
        found, _ = await whole.failures(shown.kinds, ROWS_COUNT, None, shown.id_prefix)
        self.rows.extend(found)

    def add(self, later: Sequence[Failure]) -> None:
        """Take those that are new, the oldest first; some may be there already."""
        shown = self._shown
        kinds = shown.kinds
        known = {one.number for one in self.rows}
        self.rows.extendleft(
            one
            for one in later
            if one.kind in kinds and one.number not in known and shown.admits(one)
        )


@dataclass(frozen=True, slots=True)
class FeedStatistics:
    """What streams watch now, and totals since the start."""

    watched_count: int
    events_total_count: int
    skipped_total_count: int


@final
class Feed:
    """The live feed of one server; a `context.EventFeed`. `run` tells the streams."""

    def __init__(self, api: Api, limit_count: int | None = None) -> None:
        """Begin without streams. `limit_count` None: there may be as many as the settings say."""
        self._api = api
        self._limit_count = limit_count or api.settings.event_streams_limit_count
        self._channels: dict[_Key, Channel] = {}
        self._failures: dict[Rights, _NewestFailures] = {}
        self._failures_seen: dict[int, int] = {}
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
        self._others = api.other_watchers
        if self._others is not None:
            self._others.heard = self._tell_changed

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
            if self._others is not None and pair not in self._watchers:
                self._others.add(pair)
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
                    if self._others is not None:
                        self._others.remove(pair)

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
        if self._others is not None:
            self._others.tell(changed)
        self._tell_changed(changed)

    def _tell_changed(self, changed: Collection[tuple[str, str]]) -> None:
        for pair in sorted(changed):
            for stream in self._watchers.get(pair, ()):
                stream.tell_change(pair[0])

    async def tell_second(self) -> None:
        """Tell what is new on each topic. Raises Stopping or StorageFailed."""
        pace = Pace()
        for tell in (self._tell_counters, self._tell_failures, self._tell_bulk, self._tell_queues):
            try:
                await tell(pace)
            except (Overloaded, CallFailed):
                continue  # another process is away: the next second may have it
        await self._api.shards.wait_shown()

    async def _tell_counters(self, pace: Pace) -> None:  # noqa: ARG002  as the others
        if (Topic.COUNTERS, _ALL) in self._channels:
            counters = await self._counters()
            await self._api.shards.wait_shown()
            self._tell((Topic.COUNTERS, _ALL), counters)

    async def _tell_failures(self, pace: Pace) -> None:
        wanted = self._rights_of(Topic.FAILURES)
        if wanted:
            await self._look_at_failures(wanted, pace)
        for rights, known in list(self._failures.items()):
            rows = [failure_object(one) for one in known.rows]
            self._tell((Topic.FAILURES, rights), FailuresEvent(rows))
            await pace.rest()

    def _rights_of(self, topic: Topic) -> list[Rights]:
        return [rights for known, rights in self._channels if known is topic]

    def _tell(self, key: _Key, event: Struct) -> None:
        channel = self._channels.get(key)
        if channel is not None:  # its streams may have gone in the meantime
            channel.tell(event, self._api.now_ms())
            self._events_count += 1

    async def _counters(self) -> CountersEvent:
        whole = self._api.whole
        last = await whole.last_series()
        numbers = await whole.numbers()
        series: dict[str, float | None] = {
            name: value for name, value in last.items() if not name.startswith(_LEFT_OUT)
        }
        return CountersEvent(counts_object(numbers.counts), series)

    async def _look_at_failures(self, wanted: list[Rights], pace: Pace) -> None:
        """Take in what has failed since the last time."""
        whole = self._api.whole
        later = await whole.later_failures(self._failures_seen)
        if later:
            for known in list(self._failures.values()):
                known.add(later)
                await pace.rest()
        for rights in wanted:
            if rights not in self._failures:
                known = _NewestFailures(rights)
                await known.begin(whole)
                self._failures[rights] = known
                await pace.rest()

    async def _tell_bulk(self, pace: Pace) -> None:
        wanted = self._rights_of(Topic.BULK)
        if not wanted:
            return
        ask = self._api.bulk_progress
        found = await (progress_here(self._api) if ask is None else ask())
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
