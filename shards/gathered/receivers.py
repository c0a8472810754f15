"""Workers and receivers of a server of several processes.

Each receiver has its home in one process, which knows all of it but for the ages of messages: these
are asked of the groups. Only what cannot be resolved is in every process.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, final

from msgspec import Struct

from troth.core.model import Json
from troth.shards.delivery.polls import Polls
from troth.shards.delivery.shipments import UNDELIVERABLE
from troth.shards.errors import ShardsError
from troth.shards.mesh.calls import ProcessCall, ProcessCalls
from troth.shards.mesh.homes import HomeFinder
from troth.shards.shards import Shards
from troth.shards.surveys import workers
from troth.shards.surveys.pace import Pace
from troth.shards.surveys.queues import MeteredQueue, QueueRow, Queues, QueuesPage
from troth.shards.surveys.workers import WorkerRow

from .asking import ask_all, ask_one

AGES_LIMIT_MS: Final = 1_000
"""How long other groups are waited for, to say how old messages are."""


class WorkersAsked(Struct, frozen=True, array_like=True):
    """A page of streams: how many, after which, and how their groups begin."""

    limit_count: int
    after: tuple[str, str] | None
    group_prefix: str


class LongestAsked(Struct, frozen=True, array_like=True):
    """The receivers with most waiting: how many, for each of some beginnings of groups."""

    limit_count: int
    id_prefixes: tuple[str, ...]


class LeasesFound(Struct, frozen=True, array_like=True):
    """How many tasks workers hold; None if it takes too long to count."""

    counts: dict[str, int] | None


WORKERS: Final = ProcessCall("workers", WorkersAsked, tuple[list[WorkerRow], bool])
LEASES: Final = ProcessCall("workers.leases", list[str], LeasesFound)
LONGEST: Final = ProcessCall("queues", LongestAsked, list[QueuesPage])
AGES: Final = ProcessCall("queues.ages", list[str], dict[str, int])
RETRY: Final = ProcessCall("queues.retry", str, int)


@final
class AllQueues:
    """The receivers of all processes (`WholeQueues`). Methods raise ShardsError.

    `queues` are those of this process.
    """

    def __init__(self, calls: ProcessCalls, shards: Shards, polls: Polls, queues: Queues) -> None:
        self._calls = calls
        self._shards = shards
        self._polls = polls
        self._queues = queues
        self._finder = HomeFinder(len(calls.others) + 1)
        queues.ages_elsewhere = self._ages_elsewhere
        calls.handle(WORKERS, self._answer_workers)
        calls.handle(LEASES, self._answer_leases)
        calls.handle(LONGEST, self._answer_longest)
        calls.handle(AGES, self._answer_ages)
        calls.handle(RETRY, self._answer_retry)

    def metered(self) -> tuple[MeteredQueue, ...]:
        """Return what this process's sample has seen."""
        return self._queues.metered()

    def label_of(self, receiver: Json) -> str:
        """Return the label that a task's receiver has in metrics of this process."""
        return self._queues.label_of(receiver)

    async def sample(self, limit_count: int) -> dict[str, int]:
        """Measure the receivers of this process; see `Queues.sample`."""
        return await self._queues.sample(limit_count)

    async def workers(
        self, limit_count: int, after: tuple[str, str] | None, group_prefix: str = ""
    ) -> tuple[list[WorkerRow], bool]:
        """Return the next streams of all processes, and whether there are more."""
        asked = WorkersAsked(limit_count, after, group_prefix)
        found = await ask_all(self._calls, WORKERS, asked)
        rows = sorted(
            (row for some, _ in found for row in some), key=lambda row: (row.group, row.id)
        )
        has_more = len(rows) > limit_count or any(more for _, more in found)
        del rows[limit_count:]
        ids = sorted({row.id for row in rows})
        held = await ask_all(self._calls, LEASES, ids) if ids else []
        return workers.with_leases(rows, _summed(held)), has_more

    async def retry(self, receiver: str) -> int:
        """Send what is stalled for a receiver; return how much that is."""
        if receiver == UNDELIVERABLE:
            return sum(await ask_all(self._calls, RETRY, receiver))
        home = self._finder.of_group(receiver.removeprefix("poll://"))
        return await ask_one(self._calls, home, RETRY, receiver)

    async def longest(self, limit_count: int, id_prefix: str = "") -> QueuesPage:
        """Return the receivers with most waiting, most first; see `Queues.longest`."""
        (page,) = await self.longest_of_each(limit_count, (id_prefix,))
        return page

    async def longest_of_each(
        self, limit_count: int, id_prefixes: Sequence[str]
    ) -> list[QueuesPage]:
        """Do as `longest` for several prefixes."""
        asked = LongestAsked(limit_count, tuple(id_prefixes))
        found = await ask_all(self._calls, LONGEST, asked)
        return [_joined(pages, limit_count) for pages in zip(*found, strict=True)]

    async def _ages_elsewhere(self, keys: list[str]) -> Mapping[str, int]:
        """Ask all groups how old messages are; what one that is away has is left out."""
        found = await self._calls.call_all(AGES, keys, wait_ms=0, limit_ms=AGES_LIMIT_MS)
        ages: dict[str, int] = {}
        for answer in found.values():
            if not isinstance(answer, ShardsError):
                ages.update(answer)
        return ages

    # What other processes ask

    async def _answer_workers(self, _: int, asked: WorkersAsked) -> tuple[list[WorkerRow], bool]:
        return await workers.streams(
            self._polls, asked.limit_count, asked.after, asked.group_prefix, Pace()
        )

    async def _answer_leases(self, _: int, ids: list[str]) -> LeasesFound:
        found = await workers.leases(self._shards, set(ids), Pace())
        await self._shards.wait_shown()
        return LeasesFound(found)

    async def _answer_longest(self, _: int, asked: LongestAsked) -> list[QueuesPage]:
        return await self._queues.longest_of_each(asked.limit_count, asked.id_prefixes)

    async def _answer_ages(self, _: int, keys: list[str]) -> dict[str, int]:
        found = self._queues.ages(keys)
        await self._shards.wait_shown()
        return found

    async def _answer_retry(self, _: int, receiver: str) -> int:
        return await self._queues.retry(receiver)


def _summed(found: Iterable[LeasesFound]) -> dict[str, int] | None:
    """Return the sums of counts; None if one of them took too long."""
    sums: dict[str, int] = {}
    for one in found:
        if one.counts is None:
            return None
        for name, count in one.counts.items():
            sums[name] = sums.get(name, 0) + count
    return sums


def _joined(pages: Sequence[QueuesPage], limit_count: int) -> QueuesPage:
    """Return one page of those of all processes."""
    rows: dict[str, QueueRow] = {}
    doubles_count = 0
    for page in pages:
        for row in page.rows:
            before = rows.get(row.receiver)
            doubles_count += before is not None
            rows[row.receiver] = row if before is None else _together(before, row)
    ordered = sorted(rows.values(), key=lambda row: (-row.backlog_count, row.receiver))
    return QueuesPage(
        ordered[:limit_count],
        sum(page.total_count for page in pages) - doubles_count,
        all(page.is_complete for page in pages),
    )


def _together(one: QueueRow, other: QueueRow) -> QueueRow:
    """Return both rows of what cannot be resolved: it has no home."""
    ages = [age for age in (one.oldest_on, other.oldest_on) if age is not None]
    return one._replace(
        stalled_count=one.stalled_count + other.stalled_count,
        oldest_on=min(ages, default=None),
        rate_in=_sum_of(one.rate_in, other.rate_in),
        rate_out=_sum_of(one.rate_out, other.rate_out),
    )


def _sum_of(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
