"""The bulk jobs of one server: started, carried on after a restart, stopped, remembered.

A job is an entry of the catalog, and how far it is stands in the shards (`core/bulk.py`). Here is
only what drives it: a task for each job that runs, which asks for slices. It first counts what the
filter finds, and then acts; a dry run ends there. When it has ended, its entry says so with its
counts before the shards forget their parts. So whenever the server dies, the next start finds a job
that runs and carries on with it, or one that has ended and is still to be closed.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, final

import structlog
import trio
from msgspec import Struct

from troth.core.bulk import (
    NOTHING_DONE,
    BulkCounts,
    BulkJob,
    BulkPart,
    BulkReport,
    BulkState,
    BulkSubject,
    Places,
    Skip,
)
from troth.core.codes import Code
from troth.core.commands import (
    CloseBulk,
    Command,
    CreateEntry,
    DeleteEntry,
    ReadBulk,
    ReplaceEntry,
)
from troth.core.limits import (
    BULK_EXAMPLES_COUNT,
    BULK_JOBS_KEPT_COUNT,
    BULK_JOBS_KEPT_MS,
    BULK_JOBS_LIMIT_COUNT,
)
from troth.core.model import replace
from troth.core.replies import Reply
from troth.shards.errors import LinkBroken, Overloaded, ShardsError, Stopping
from troth.shards.gathering import EntryKind

from . import works
from .pacing import JobPace
from .works import JobFailed, TaskLists, work_of

FORGET_INTERVAL_S = 3600.0

log = structlog.get_logger("troth.bulk")


class JobShards(works.WorkShards, Protocol):
    """The part of `shards.Shards` that jobs need."""

    @property
    def largest_serial(self) -> int:
        """The serial of the newest promise or schedule."""
        ...  # pragma: no cover

    async def list_entries(self, kind: type[EntryKind], account_id: str | None) -> list[EntryKind]:
        """Return the entries of a type, oldest first. Raises ShardsError."""
        ...  # pragma: no cover


class TooManyJobs(Exception):
    """As many jobs run as may run at the same time. Nothing was done."""


class BulkProgress(Struct, frozen=True):
    """How far a job is. `matched_count` is None while it counts; `rate` is in acts a second."""

    job: BulkJob
    matched_count: int | None
    counts: BulkCounts
    rate: float


@final
class _Running:
    """A job that runs, and what it has done so far; the progress of its slices."""

    def __init__(self, job: BulkJob) -> None:
        self.job = job
        self.created = trio.Event()
        self.stopping = trio.Event()
        self.ended = trio.Event()
        self.error: ShardsError | None = None
        self.found = NOTHING_DONE
        self.examples: tuple[str, ...] = ()
        self.parts: dict[int, BulkPart] = {}
        self._pace = JobPace(job.rate_count)

    @property
    def limit_count(self) -> int:
        return self._pace.limit_count

    async def counted(self, began_s: float, report: BulkReport) -> bool:
        self.found = self.found.plus(report.counts)
        self.examples = (*self.examples, *report.examples)[:BULK_EXAMPLES_COUNT]
        return await self._pace.rest(began_s, 0, self.stopping)

    async def done(self, began_s: float, index: int, report: BulkReport) -> bool:
        self.parts[index] = BulkPart(report.places, report.counts)
        return await self._pace.rest(began_s, report.acts_count, self.stopping)

    @property
    def counts(self) -> BulkCounts:
        """Return what was done, or what would be by a dry run."""
        if self.job.dry_run:
            return self.found
        counts = NOTHING_DONE
        for part in self.parts.values():
            counts = counts.plus(part.counts)
        return counts

    @property
    def progress(self) -> BulkProgress:
        return BulkProgress(self.job, self.job.matched_count, self.counts, self._pace.rate)


@final
class BulkJobs:
    """The jobs of one server. `ended` is told of each that has ended, perhaps twice."""

    def __init__(
        self,
        shards: JobShards,
        tasks: TaskLists,
        now_ms: Callable[[], int],
        ended: Callable[[BulkJob], Awaitable[None]],
    ) -> None:
        self._shards = shards
        self._tasks = tasks
        self._now_ms = now_ms
        self._tell_ended = ended
        self._running: dict[str, _Running] = {}
        self._ended: dict[str, BulkJob] = {}
        self._nursery: trio.Nursery | None = None
        self._problem: ShardsError | None = None
        self.largest_serial: Callable[[], Awaitable[int]] | None = None
        """Returns the serial of the newest promise or schedule of all processes, if there are
        several. Raises ShardsError.
        """

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry jobs on until canceled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await self._begin_all(nursery)
                task_status.started()
                while True:
                    await trio.sleep(FORGET_INTERVAL_S)
                    try:
                        await self._forget_old()
                    except ShardsError as error:
                        log.debug("old bulk jobs were not forgotten", reason=str(error))
            finally:
                self._nursery = None  # a job that is started from here on is refused

    async def _begin_all(self, nursery: trio.Nursery) -> None:
        try:
            await self._recover(nursery)
        except ShardsError as error:
            # The server is stopping, or its log has failed: other code ends it. Until then it is
            # not known which jobs there are, and none may be said to be missing.
            log.debug("bulk jobs were not carried on", reason=str(error))
            self._problem = error

    async def _recover(self, nursery: trio.Nursery) -> None:
        """Carry on with the jobs that run, and close those that have only just ended."""
        parts = await self._all_parts()
        for job in await self._all_jobs():
            if job.state is BulkState.RUNNING:
                running = self._running[job.id] = _Running(job)
                running.parts = parts.get(job.id, {})
                running.created.set()
                nursery.start_soon(self._carry_on, running)
            else:
                self._ended[job.id] = job
                if job.id in parts:
                    await self._close(job)

    async def _all_jobs(self) -> list[BulkJob]:
        """Return all jobs that there are; a process that is busy or away is waited for."""
        while True:
            try:
                return await self._shards.list_entries(BulkJob, None)
            except (Overloaded, LinkBroken):
                await trio.sleep(works.OVERLOADED_PAUSE_S)

    async def _all_parts(self) -> dict[str, dict[int, BulkPart]]:
        """Return the parts of each job, by shard."""
        found: dict[str, dict[int, BulkPart]] = {}
        for index in range(self._shards.count):
            reply = await self._ask(index, ReadBulk())
            for job_id, part in reply.bulk_parts:
                found.setdefault(job_id, {})[index] = part
        return found

    # What the API asks for

    async def newest(self, subject: BulkSubject) -> Places:
        """Return the last thing that there is now, in each order of creation.

        Raises ShardsError.
        """
        if subject is BulkSubject.TASKS:
            return await self._tasks.newest_tasks()
        if self.largest_serial is not None:
            return (await self.largest_serial(),)
        return (self._shards.largest_serial,)

    async def start(self, job: BulkJob) -> None:
        """Start a job that is new; return when it is durable. Raises TooManyJobs, ShardsError.

        Once begun it is started even if the caller is canceled.
        """
        self._require_known()
        if self._nursery is None:
            raise Stopping
        if len(self._running) >= BULK_JOBS_LIMIT_COUNT:
            raise TooManyJobs
        running = self._running[job.id] = _Running(job)
        self._nursery.start_soon(self._begin, running)
        await running.created.wait()
        if running.error is not None:
            raise running.error

    async def stop(self, job_id: str) -> BulkJob | None:
        """Stop a job; return it when it has ended, or None if it does not run.

        Raises ShardsError if it is unknown whether it has ended.
        """
        self._require_known()
        running = self._running.get(job_id)
        if running is None:
            return None
        running.stopping.set()
        await running.ended.wait()
        if running.error is not None:
            raise running.error
        return running.job

    def progress(self, job_id: str) -> BulkProgress | None:
        """Return how far a job is, or None if there is no such job.

        Raises ShardsError if the server could not find out at its start which jobs there are.
        """
        self._require_known()
        running = self._running.get(job_id)
        if running is not None:
            return running.progress if running.created.is_set() else None
        job = self._ended.get(job_id)
        if job is None:
            return None
        return BulkProgress(job, job.matched_count, job.counts or NOTHING_DONE, 0.0)

    def all_progress(self) -> list[BulkProgress]:
        """Return how far all jobs are, the newest first. Raises ShardsError, as `progress`."""
        self._require_known()
        ids = {**self._ended, **self._running}
        found = [one for one in map(self.progress, ids) if one is not None]
        found.sort(key=lambda one: (one.job.created_on, one.job.id), reverse=True)
        return found

    def _require_known(self) -> None:
        if self._problem is not None:
            raise self._problem

    # A job's life

    async def _begin(self, running: _Running) -> None:
        try:
            await works.ask(self._shards, self._home(running.job), CreateEntry(running.job))
        except ShardsError as error:
            running.error = error
            del self._running[running.job.id]
            running.created.set()
            return
        running.created.set()
        await self._carry_on(running)

    async def _carry_on(self, running: _Running) -> None:
        """Carry a job on to its end, or until the server ends."""
        try:
            await self._to_the_end(running)
        except ShardsError as error:
            # The server is stopping, or its log has failed: the next start carries on.
            log.debug("a bulk job was broken off", job=running.job.id, reason=str(error))
            running.error = error
        running.ended.set()

    async def _to_the_end(self, running: _Running) -> None:
        state, problem = BulkState.FINISHED, None
        try:
            if not await self._count_and_run(running):
                state = BulkState.STOPPED
        except JobFailed as failure:
            state, problem = BulkState.FAILED, f"{failure}; see the server's log"
            log.error("a bulk job has failed", job=running.job.id, problem=str(failure))
        is_counted = running.job.dry_run and state is BulkState.FINISHED
        matched_count = running.found.total_count if is_counted else running.job.matched_count
        job = await self._replaced(
            running.job,
            state=state,
            matched_count=matched_count,
            problem=problem,
            ended_on=self._now_ms(),
            counts=self._final(running, state),
            examples=running.examples if running.job.dry_run else (),
        )
        running.job = job
        await self._close(job)
        self._ended[job.id] = job
        del self._running[job.id]
        await self._forget_old()

    async def _count_and_run(self, running: _Running) -> bool:
        """Count what there is, then act; return whether it came to the end."""
        work = work_of(running.job, self._shards, self._tasks)
        if running.job.matched_count is None:
            running.found, running.examples = NOTHING_DONE, ()
            if not await work.count(running):
                return False
            if running.job.dry_run:
                return True
            running.job = await self._replaced(running.job, matched_count=running.found.total_count)
        return await work.run(running.parts, running)

    def _final(self, running: _Running, state: BulkState) -> BulkCounts:
        """Return a job's counts; what it never came to see again has changed by others' hands."""
        counts = running.counts
        missing_count = (running.job.matched_count or 0) - counts.total_count
        if state is BulkState.FINISHED and missing_count > 0:
            return counts.plus(BulkCounts(skipped={Skip.CHANGED.value: missing_count}))
        return counts

    async def _replaced(self, job: BulkJob, **changes: object) -> BulkJob:
        """Return the job's next revision, when that is durable."""
        changed = replace(job, revision=job.revision + 1, **changes)
        reply = await self._ask(self._home(job), ReplaceEntry(changed))
        # It was done already if the answer was lost with a link to another process.
        assert reply.code in (Code.OK, Code.ENTRY_CHANGED), "only this task changes a job"
        return changed

    async def _close(self, job: BulkJob) -> None:
        """Tell of a job's end, and let the shards forget their parts."""
        await self._tell_ended(job)
        for index in range(self._shards.count):
            await self._ask(index, CloseBulk(job.id))

    async def _forget_old(self) -> None:
        """Forget jobs that ended long ago, or before many others. Raises ShardsError."""
        oldest_ms = self._now_ms() - BULK_JOBS_KEPT_MS
        jobs = sorted(self._ended.values(), key=lambda job: job.ended_on or 0, reverse=True)
        for number, job in enumerate(jobs):
            if number >= BULK_JOBS_KEPT_COUNT or (job.ended_on or 0) < oldest_ms:
                await self._ask(self._home(job), DeleteEntry(job.id, job.revision))
                self._ended.pop(job.id, None)

    def _home(self, job: BulkJob) -> int:
        return self._shards.shard_of_name(job.id)

    async def _ask(self, index: int, command: Command) -> Reply:
        return await works.ask(self._shards, index, command)
