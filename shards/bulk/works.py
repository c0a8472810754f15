"""How a bulk job goes through what it is about, slice by slice.

`ShardWork` asks one shard after the other for slices of promises or schedules. `TaskWork` goes
through the list of tasks, whose messages delivery keeps, and has their progress noted in the job's
own shard. After each slice both tell what it has done and whether to continue.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar, final

import trio

from troth.core.bulk import (
    BulkCounts,
    BulkJob,
    BulkPart,
    BulkReport,
    BulkSubject,
    Places,
    Skip,
)
from troth.core.codes import Code
from troth.core.commands import AdvanceBulk, Command, CountBulk, RunBulk
from troth.core.limits import BULK_EXAMPLES_COUNT, BULK_SCAN_COUNT
from troth.core.replies import Reply
from troth.core.workflows import execute_key
from troth.persistence.placement import ShardOf
from troth.shards.errors import CallFailed, LinkBroken, Overloaded
from troth.shards.surveys.rows import TaskFamily, TaskRow
from troth.shards.surveys.shown_tasks import STALLED
from troth.shards.surveys.tasks import TaskPage, TaskQuery

OVERLOADED_PAUSE_S: Final = 1.0

Answered = TypeVar("Answered")


class JobFailed(Exception):
    """A job cannot go on, because of a defect that the server's log tells of."""


class WorkShards(Protocol):
    """The part of `shards.Shards` that jobs need."""

    @property
    def count(self) -> int:
        """The number of shards."""
        ...  # pragma: no cover

    @property
    def shard_of_name(self) -> ShardOf:
        """Find the shard that an entry lives in."""
        ...  # pragma: no cover

    async def ask_shard(self, index: int, command: Command) -> Reply:
        """Make one shard carry out a command. Raises ShardsError."""
        ...  # pragma: no cover


class TaskLists(Protocol):
    """The part of `surveys.Surveys` that jobs on tasks need."""

    async def tasks(
        self, query: TaskQuery, limit_count: int, positions: Sequence[int] | None
    ) -> TaskPage:
        """Return a page of unfinished tasks. Raises ShardsError."""
        ...  # pragma: no cover

    async def newest_tasks(self) -> Places:
        """Return the place of the newest task in each stream. Raises ShardsError."""
        ...  # pragma: no cover

    async def retry_all(self, keys: Sequence[str], sent: set[str]) -> None:
        """Send stalled messages again now, and add their keys to `sent`. Raises ShardsError."""
        ...  # pragma: no cover


class SliceProgress(Protocol):
    """What a job notes of its slices."""

    @property
    def limit_count(self) -> int:
        """Return how many acts the next slice may have."""
        ...  # pragma: no cover

    async def counted(self, began_s: float, report: BulkReport) -> bool:
        """Note a slice that was counted, and rest; return whether to continue."""
        ...  # pragma: no cover

    async def done(self, began_s: float, index: int, report: BulkReport) -> bool:
        """Note how far a shard is after a slice, and rest; return whether to continue."""
        ...  # pragma: no cover


async def ask(shards: WorkShards, index: int, command: Command) -> Reply:
    """Make one shard carry out a command, however busy it is. Raises ShardsError."""
    while True:
        try:
            reply = await shards.ask_shard(index, command)
        except (Overloaded, LinkBroken):
            # Where the group is another process's: a slice that was carried out is not again.
            reply = Reply(Code.OVERLOADED)
        if reply.code is not Code.OVERLOADED:
            return reply
        # Clients come first.
        await trio.sleep(OVERLOADED_PAUSE_S)


class Work(ABC):
    """What a job is about, in slices. Its methods raise ShardsError and JobFailed."""

    def __init__(self, job: BulkJob, shards: WorkShards) -> None:
        self._job = job
        self._shards = shards

    @abstractmethod
    async def count(self, progress: SliceProgress) -> bool:
        """Count what the job would do; return whether it came to the end."""

    @abstractmethod
    async def run(self, parts: dict[int, BulkPart], progress: SliceProgress) -> bool:
        """Carry the job out from where its parts are; return whether it came to the end."""

    async def _report(self, index: int, command: Command) -> BulkReport | None:
        """Ask a shard for a slice; None if it failed there and nothing was changed."""
        reply = await ask(self._shards, index, command)
        if reply.code is Code.INTERNAL:
            return None
        if reply.bulk is None:
            raise JobFailed(f"shard {index} refused a slice with {reply.code.value}")
        return reply.bulk


@final
class ShardWork(Work):
    """What each shard has a part of."""

    async def count(self, progress: SliceProgress) -> bool:
        for index in range(self._shards.count):
            places: Places | None = self._job.start_in(index)
            while places is not None:
                began_s = trio.current_time()
                report = await self._report(index, CountBulk(self._job.id, places, BULK_SCAN_COUNT))
                if report is None:
                    raise JobFailed(f"shard {index} could not count")
                if not await progress.counted(began_s, report):
                    return False
                places = report.places
        return True

    async def run(self, parts: dict[int, BulkPart], progress: SliceProgress) -> bool:
        for index in range(self._shards.count):
            part = parts.get(index)
            places = self._job.start_in(index) if part is None else part.places
            while places is not None:
                began_s = trio.current_time()
                report = await self._slice(index, progress.limit_count)
                if not await progress.done(began_s, index, report):
                    return False
                places = report.places
        return True

    async def _slice(self, index: int, limit_count: int) -> BulkReport:
        """Return the report of a slice; what cannot be done is passed over."""
        for passes_over in (False, True):
            command = RunBulk(self._job.id, limit_count, BULK_SCAN_COUNT, passes_over)
            report = await self._report(index, command)
            if report is not None:
                return report
        raise JobFailed(f"shard {index} could not pass over what it could not do")


@final
class TaskWork(Work):
    """Tasks, whose messages are sent again."""

    def __init__(self, job: BulkJob, shards: WorkShards, tasks: TaskLists) -> None:
        super().__init__(job, shards)
        self._tasks = tasks
        wanted = job.filter
        self._query = TaskQuery(
            frozenset(wanted.states),
            frozenset(map(TaskFamily, wanted.families)) - {TaskFamily.FUNCTION},
            wanted.receiver,
            wanted.process_id,
            wanted.pattern,
            newest_first=True,
            id_prefix=job.id_prefix,
        )

    async def count(self, progress: SliceProgress) -> bool:
        places: Places | None = self._job.start
        while places is not None:
            began_s = trio.current_time()
            page = await self._again_while_away(partial(self._page, progress.limit_count, places))
            waiting = [row.id for row in page.rows if row.state == STALLED]
            counts = _counts(len(waiting), len(page.rows))
            places = None if page.positions is None else tuple(page.positions)
            examples = tuple(waiting[:BULK_EXAMPLES_COUNT])
            if not await progress.counted(began_s, BulkReport(places, counts, 0, examples)):
                return False
        return True

    async def run(self, parts: dict[int, BulkPart], progress: SliceProgress) -> bool:
        home = self._shards.shard_of_name(self._job.id)
        part = parts.get(home)
        places = self._job.start if part is None else part.places
        while places is not None:
            began_s = trio.current_time()
            page = await self._again_while_away(partial(self._page, progress.limit_count, places))
            sent: set[str] = set()
            await self._again_while_away(partial(self._retry, page, sent))
            places = None if page.positions is None else tuple(page.positions)
            counts = _counts(len(sent), len(page.rows))
            report = await self._report(home, AdvanceBulk(self._job.id, places, counts))
            if report is None:
                raise JobFailed("its progress could not be noted")
            if not await progress.done(began_s, home, report):
                return False
        return True

    async def _page(self, limit_count: int, places: Places) -> TaskPage:
        return await self._tasks.tasks(self._query, limit_count, places)

    async def _retry(self, page: TaskPage, sent: set[str]) -> None:
        left = [key for key in map(_key, page.rows) if key not in sent]
        await self._tasks.retry_all(left, sent)

    async def _again_while_away(self, ask: Callable[[], Awaitable[Answered]]) -> Answered:
        """Ask, again and again while one of several processes is away."""
        while True:
            try:
                return await ask()
            except CallFailed:
                raise JobFailed("a process could not say which tasks it has") from None
            except Overloaded:
                await trio.sleep(OVERLOADED_PAUSE_S)


def _key(row: TaskRow) -> str:
    """Return the name that delivery has for a task's message."""
    return execute_key(row.id) if row.family is TaskFamily.ENVELOPE else row.id


def _counts(done_count: int, rows_count: int) -> BulkCounts:
    skipped_count = rows_count - done_count
    return BulkCounts(
        done_count, 0, {Skip.NOT_WAITING.value: skipped_count} if skipped_count else {}
    )


def work_of(job: BulkJob, shards: WorkShards, tasks: TaskLists) -> Work:
    """Return how a job goes through what it is about."""
    if job.subject is BulkSubject.TASKS:
        return TaskWork(job, shards, tasks)
    return ShardWork(job, shards)
