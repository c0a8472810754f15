"""What waits for each receiver, who takes it, and how fast: for operators.

Rates are kept here: `sample` is called every `SAMPLE_MS` and compares what was delivered and what
waits with the last time. So counting costs the way of a message nothing. What was withdrawn in
between counts as if it had never come in.
"""

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, final

import trio

from troth.core.executions import RECEIVER_TYPE
from troth.core.grammar import task_ids
from troth.core.grammar.addresses import Address, Undeliverable
from troth.core.model import Json
from troth.shards.delivery.polls import Polls
from troth.shards.delivery.shipments import (
    UNDELIVERABLE,
    ReceiverView,
    ShipmentKind,
    parts_of,
    receiver_name,
)
from troth.shards.shards import Shards

from . import workers
from .first_comers import OTHER, FirstComers
from .pace import Pace
from .smallest import Smallest, chunks
from .workers import WorkerRow

SAMPLE_MS: Final = 10_000
LOOK_COUNT: Final = 200
"""How many receivers are looked at between two rests."""
RECEIVERS_LIMIT_COUNT: Final = 20_000
"""How many receivers an answer, or a sample of rates, looks at."""
ORDER_COUNT: Final = 1_000
"""How many are put in order between two rests."""
FAR_LOOK_COUNT: Final = 4
"""Of how many messages of other groups for a receiver the age is asked."""
LOOK_LIMIT_S: Final = 0.030
"""What an answer may cost before it is put in order, in seconds of CPU."""

FUNCTIONS_LABEL: Final = "functions"

RETRY_COUNT: Final = 200
"""How many stalled messages are taken up between two rests."""


class Receivers(Protocol):
    """The part of `Delivery` that is needed."""

    def receivers(self) -> Iterator[ReceiverView]:
        """Yield what waits for each receiver."""
        ...

    def retry_receiver(self, receiver: str, limit_count: int) -> int:
        """Send stalled messages for a receiver now; see `Delivery.retry_receiver`."""
        ...

    def resolve(self, receiver: Json) -> Address | Undeliverable:
        """Return where messages for a receiver go."""
        ...


class QueueRow(NamedTuple):
    """What waits for one receiver, and how it is. Rates are per second, None before two samples."""

    receiver: str
    workers_count: int
    waiting_count: int
    in_flight_count: int
    stalled_count: int
    oldest_on: int | None
    rate_in: float | None
    rate_out: float | None
    health: str
    failing_since: int | None
    last_error: str | None
    next_try: int | None

    @property
    def backlog_count(self) -> int:
        """All that has not been delivered."""
        return self.waiting_count + self.in_flight_count + self.stalled_count


class MeteredQueue(NamedTuple):
    """What waits for a receiver, for metrics: `label` is its name, or `other` for many together.

    `oldest_age_s` and `failing_since_s` are 0 where there is nothing, or no failure.
    """

    label: str
    workers_count: int = 0
    waiting_count: int = 0
    in_flight_count: int = 0
    stalled_count: int = 0
    oldest_age_s: float = 0.0
    failing_since_s: float = 0.0

    @property
    def failing(self) -> bool:
        """Return whether pushes to it fail."""
        return self.failing_since_s > 0

    def plus(self, other: "MeteredQueue") -> "MeteredQueue":
        """Return both together; of their times the worse one."""
        since_s = [one for one in (self.failing_since_s, other.failing_since_s) if one]
        return MeteredQueue(
            self.label,
            self.workers_count + other.workers_count,
            self.waiting_count + other.waiting_count,
            self.in_flight_count + other.in_flight_count,
            self.stalled_count + other.stalled_count,
            max(self.oldest_age_s, other.oldest_age_s),
            min(since_s, default=0.0),
        )


class QueuesPage(NamedTuple):
    """Some receivers, the one with most waiting first. Not complete if there are too many."""

    rows: list[QueueRow]
    total_count: int
    is_complete: bool


class _Queue:
    """The sums of one receiver."""

    __slots__ = (
        *("delivered_count", "error", "failing_since", "first", "health", "in_flight_count"),
        *("next_try_s", "stalled_count", "waiting_count", "workers_count"),
    )

    def __init__(self) -> None:
        self.workers_count = self.waiting_count = self.in_flight_count = self.stalled_count = 0
        self.delivered_count = 0
        self.first: list[str] = []  # keys of messages that have waited long
        self.health: str | None = None
        self.failing_since: int | None = None
        self.error: str | None = None
        self.next_try_s: float | None = None

    @property
    def backlog_count(self) -> int:
        return self.waiting_count + self.in_flight_count + self.stalled_count

    def add(self, view: ReceiverView) -> None:
        self.waiting_count += view.waiting_count
        self.in_flight_count += view.in_flight_count
        self.stalled_count += view.stalled_count
        self.delivered_count += view.sent_total_count
        if view.first is not None:
            self.first.append(view.first.id)
        self.health = self.health or view.health
        self.failing_since = self.failing_since or view.failing_since_ms
        self.error = self.error or view.error
        if view.next_try_s is not None:
            known = self.next_try_s
            self.next_try_s = view.next_try_s if known is None else min(known, view.next_try_s)


class _Sample(NamedTuple):
    delivered_count: int
    backlog_count: int
    rate_in: float | None
    rate_out: float | None


class WholeQueues(Protocol):
    """What is asked of the receivers of a whole server; see `Queues`."""

    def metered(self) -> tuple[MeteredQueue, ...]: ...

    def label_of(self, receiver: Json) -> str: ...

    async def sample(self, limit_count: int) -> dict[str, int]: ...

    async def workers(
        self, limit_count: int, after: tuple[str, str] | None, group_prefix: str = ""
    ) -> tuple[list[WorkerRow], bool]: ...

    async def retry(self, receiver: str) -> int: ...

    async def longest(self, limit_count: int, id_prefix: str = "") -> QueuesPage: ...

    async def longest_of_each(
        self, limit_count: int, id_prefixes: Sequence[str]
    ) -> list[QueuesPage]: ...


@final
class Queues:
    """The receivers of one process, which are all of a server that has no others."""

    def __init__(self, shards: Shards, polls: Polls, receivers: Receivers) -> None:
        self._shards = shards
        self._polls = polls
        self._receivers = receivers
        self._samples: dict[str, _Sample] = {}
        self._sampled_s: float | None = None
        self._labels = FirstComers()
        self._metered: dict[str, MeteredQueue] = {OTHER: MeteredQueue(OTHER)}
        self.ages_elsewhere: Callable[[list[str]], Awaitable[Mapping[str, int]]] | None = None
        """Returns since when there are messages of other groups, by their keys, if there are such
        groups."""

    def metered(self) -> tuple[MeteredQueue, ...]:
        """Return what `sample` has seen last: the first receivers since the start, and others."""
        return tuple(self._metered.values())

    def label_of(self, receiver: Json) -> str:
        """Return the label that a task's receiver has here, for other metrics by receiver.

        Function tasks go to nodes, not to receivers: their label is `functions`.
        """
        if isinstance(receiver, dict) and receiver.get("type") == RECEIVER_TYPE:
            return FUNCTIONS_LABEL
        address = self._receivers.resolve(receiver)
        if isinstance(address, Undeliverable):
            return OTHER
        return self._labels.label(receiver_name(address.target))

    async def sample(self, limit_count: int) -> dict[str, int]:
        """Measure the rates since the last call, and what waits.

        Return how much waits for the receivers with most waiting, most first. Raises Stopping or
        StorageFailed.
        """
        pace = Pace(math.inf)
        queues, _ = await self._look(pace)
        await self._meter(queues, pace)
        now_s = trio.current_time()
        before, self._samples = self._samples, {}
        passed_s = None if self._sampled_s is None else max(now_s - self._sampled_s, 0.001)
        self._sampled_s = now_s
        for name, queue in queues.items():
            rate_in = rate_out = None
            if passed_s is not None:
                last = before.get(name, _Sample(0, 0, None, None))
                # A group that has come again counts from 0.
                delivered = queue.delivered_count
                if delivered >= last.delivered_count:
                    delivered -= last.delivered_count
                grown = queue.backlog_count - last.backlog_count
                rate_out = delivered / passed_s
                rate_in = max(0, delivered + grown) / passed_s
            count = queue.delivered_count
            self._samples[name] = _Sample(count, queue.backlog_count, rate_in, rate_out)
        names, _ = await _most_waiting(queues, limit_count, "", pace)
        await self._shards.wait_shown()
        return {name: queues[name].backlog_count for name in names}

    async def _meter(self, queues: dict[str, _Queue], pace: Pace) -> None:
        metered = {label: MeteredQueue(label) for label in self._metered}
        now_ms = self._shards.clock.now_ms()
        for some in chunks(list(queues), LOOK_COUNT):
            oldest = await self._oldest([queues[name] for name in some])
            for name, oldest_on in zip(some, oldest, strict=True):
                queue = queues[name]
                label = self._labels.label(name)
                seen = MeteredQueue(
                    label,
                    queue.workers_count,
                    queue.waiting_count,
                    queue.in_flight_count,
                    queue.stalled_count,
                    0.0 if oldest_on is None else max(0, now_ms - oldest_on) / 1000,
                    (queue.failing_since or 0) / 1000,
                )
                metered[label] = metered.get(label, MeteredQueue(label)).plus(seen)
            await pace.rest()
        self._metered = metered

    async def workers(
        self, limit_count: int, after: tuple[str, str] | None, group_prefix: str = ""
    ) -> tuple[list[WorkerRow], bool]:
        """Return the next streams of workers, and whether there are more."""
        return await workers.page(self._shards, self._polls, limit_count, after, group_prefix)

    async def retry(self, receiver: str) -> int:
        """Send what is stalled for a receiver, as soon as it has room; return how much that is."""
        pace = Pace(math.inf)
        stalled_count = 0
        for number, one in enumerate(self._receivers.receivers()):
            if receiver_name(one.target) == receiver:
                stalled_count += one.stalled_count
            if not number % LOOK_COUNT:
                await pace.rest()
        # What fails again in the meantime waits as before.
        left_count = stalled_count
        while True:
            count = self._receivers.retry_receiver(receiver, RETRY_COUNT)
            left_count -= count
            if count < RETRY_COUNT or left_count <= 0:
                return stalled_count
            await pace.rest()

    async def longest(self, limit_count: int, id_prefix: str = "") -> QueuesPage:
        """Return the receivers with most waiting, most first.

        With a prefix only poll groups that begin so. Raises Stopping or StorageFailed.
        """
        (page,) = await self.longest_of_each(limit_count, (id_prefix,))
        return page

    async def longest_of_each(
        self, limit_count: int, id_prefixes: Sequence[str]
    ) -> list[QueuesPage]:
        """Do as `longest` for several prefixes, with one look at all receivers."""
        pace = Pace(LOOK_LIMIT_S)
        queues, is_complete = await self._look(pace)
        pages = []
        for id_prefix in id_prefixes:
            beginning = f"poll://{id_prefix}" if id_prefix else ""
            names, count = await _most_waiting(queues, limit_count, beginning, pace)
            oldest = await self._oldest([queues[name] for name in names])
            rows = [
                self._row(name, queues[name], oldest_on)
                for name, oldest_on in zip(names, oldest, strict=True)
            ]
            pages.append(QueuesPage(rows, count, is_complete))
        await self._shards.wait_shown()
        return pages

    async def _look(self, pace: Pace) -> tuple[dict[str, _Queue], bool]:
        """Return what is known of all receivers, by name, and whether that are all."""
        queues: dict[str, _Queue] = {}
        for number, (name, view) in enumerate(self._polls.groups()):
            queue = queues[f"poll://{name}"] = _Queue()
            queue.workers_count = view.connections_count
            queue.waiting_count = view.buffered_count
            queue.delivered_count = view.delivered_total_count
            if not number % LOOK_COUNT:
                await pace.rest()
        for number, one in enumerate(self._receivers.receivers()):
            name = receiver_name(one.target)
            known = queues.get(name)
            if known is None:
                if len(queues) >= RECEIVERS_LIMIT_COUNT or pace.is_spent:
                    return queues, False
                known = queues[name] = _Queue()
            known.add(one)
            if not number % LOOK_COUNT:
                await pace.rest()
        return queues, True

    def _row(self, name: str, queue: _Queue, oldest_on: int | None) -> QueueRow:
        health = queue.health
        if name == UNDELIVERABLE:
            health = UNDELIVERABLE
        elif health is None:
            health = "good" if queue.workers_count else "no-workers"
        sample = self._samples.get(name)
        next_try = None
        if queue.next_try_s is not None:
            in_ms = max(0, int((queue.next_try_s - trio.current_time()) * 1000))
            next_try = self._shards.clock.now_ms() + in_ms
        return QueueRow(
            name,
            queue.workers_count,
            queue.waiting_count,
            queue.in_flight_count,
            queue.stalled_count,
            oldest_on,
            None if sample is None else sample.rate_in,
            None if sample is None else sample.rate_out,
            health,
            queue.failing_since,
            queue.error,
            next_try,
        )

    async def _oldest(self, queues: Sequence[_Queue]) -> list[int | None]:
        """Return since when there is something to send, for each of these queues."""
        near = [self.ages(queue.first[:LOOK_COUNT]) for queue in queues]
        if self.ages_elsewhere is not None:
            far = [
                [key for key in queue.first[:FAR_LOOK_COUNT] if not self._is_near(key)]
                for queue in queues
            ]
            keys = [key for some in far for key in some]
            ages = await self.ages_elsewhere(keys) if keys else {}
            for found, some in zip(near, far, strict=True):
                found.update({key: ages[key] for key in some if key in ages})
        return [min(found.values(), default=None) for found in near]

    def ages(self, keys: Sequence[str]) -> dict[str, int]:
        """Return since when there are messages of this group, as far as that is known still."""
        ages = {key: self._since(key) for key in keys if self._is_near(key)}
        return {key: since for key, since in ages.items() if since is not None}

    def _is_near(self, key: str) -> bool:
        return self._shards.is_near(_home_id(key))

    def _since(self, key: str) -> int | None:
        """Return since when there is something to send; None if that is not known any more."""
        kind, subject, _ = parts_of(key)
        state = self._shards.state_of(_home_id(key))
        if kind is ShipmentKind.TASK:
            task = state.tasks.get(subject)
            return None if task is None else task.created_on
        promise = state.promises.get(subject)
        if promise is None:
            return None
        return promise.completed_on if kind is ShipmentKind.UNBLOCK else promise.created_on


def _home_id(key: str) -> str:
    """Return the id of the promise whose shard a message is from."""
    kind, subject, _ = parts_of(key)
    if kind is not ShipmentKind.TASK:
        return subject
    name = task_ids.parse(subject)
    return subject if name is None else name.root


async def _most_waiting(
    queues: dict[str, _Queue], limit_count: int, beginning: str, pace: Pace
) -> tuple[list[str], int]:
    """Return the receivers with most waiting whose names begin so, and how many there are."""
    count = 0
    smallest: Smallest[tuple[int, str]] = Smallest(limit_count, None)
    for some in chunks(list(queues), ORDER_COUNT):
        wanted = [name for name in some if name.startswith(beginning)]
        count += len(wanted)
        smallest.offer((-queues[name].backlog_count, name) for name in wanted)
        await pace.rest()
    names, _ = smallest.found()
    return [name for _, name in names], count
