"""Slices of bulk jobs: what a job does to the things of one shard, and what it passes over.

A slice finds the next things as the list does that the job's filter is for, newest first and below
what was made last before the job began. It does to each what the command for a single one does, by
the same records, and ends with one that says how far the shard is: all in one batch of the log, so
a crash leaves both or neither. A slice ends early when what hangs on the promises that it completes
or deletes is enough for one step; a completion that more hangs on goes on in slices of its own.

Counting is the same without the act: so a dry run says what a run would do.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, final

from troth.core import records as r
from troth.core.bulk import (
    COMPLETIONS,
    NOTHING_DONE,
    BulkAction,
    BulkCounts,
    BulkJob,
    BulkReport,
    BulkState,
    BulkSubject,
    Skip,
)
from troth.core.codes import Code
from troth.core.commands import (
    AdvanceBulk,
    CloseBulk,
    CountBulk,
    DeleteSchedule,
    FindBulk,
    PauseSchedule,
    ReadBulk,
    ResumeSchedule,
    RunBulk,
    SearchSchedules,
)
from troth.core.deciding import DONE, DecisionContext
from troth.core.grammar.patterns import Pattern
from troth.core.limits import BULK_EFFECTS_COUNT, BULK_EXAMPLES_COUNT
from troth.core.model import PENDING, Promise, PromiseState, Schedule
from troth.core.replies import PromisePage, Reply
from troth.core.state.activity import Deleter
from troth.core.state.cold import Query
from troth.core.state.completions import effects_count

from . import deletions, promises, schedules

_REASONS: Final[Mapping[Code, Skip]] = {
    Code.PROMISE_PENDING: Skip.PENDING,
    Code.PROMISE_IN_USE: Skip.IN_USE,
    Code.ORIGIN_PENDING: Skip.ORIGIN_PENDING,
}
"""Why promises are not deleted, as the command for a single one says it."""


class _Acting(ABC):
    """What a job does in this shard, at one moment. `found` things are promises or schedules."""

    def __init__(self, context: DecisionContext, job: BulkJob, now_ms: int) -> None:
        self._context = context
        self._job = job
        self._now_ms = now_ms

    @property
    def has_to_wait(self) -> bool:
        """Return whether it cannot be said just now what may be done."""
        return False

    @abstractmethod
    def find(
        self, below: int, limit_count: int, scan_count: int
    ) -> tuple[Sequence[Any], int | None]:
        """Return the next things that the filter finds, and the serial to continue below."""

    @abstractmethod
    def reason_to_skip(self, found: Any) -> Skip | None:
        """Return why the job passes over something, or None if it does not."""

    @abstractmethod
    def act(self, found: Any) -> int:
        """Do it; return how much more this step did than for a thing that stands alone."""


class _OnPromises(_Acting):
    def find(
        self, below: int, limit_count: int, scan_count: int
    ) -> tuple[list[Promise], int | None]:
        job = self._job
        query = Query(
            Pattern(job.filter.pattern, job.id_prefix),
            tuple(map(PromiseState, job.filter.states)),
            job.filter.tags,
            limit_count,
            below,
            scan_count,
            created=job.filter.created,
            completed=job.filter.completed,
        )
        found = promises.find(self._context, query, self._now_ms)
        return list(self._as_at_start(found.promises)), found.next_before

    def _as_at_start(self, found: list[Promise]) -> Iterator[Promise]:
        """Yield those that the filter found already when the job began.

        What has completed since was pending then.
        """
        job = self._job
        was_wanted = PENDING.value in job.filter.states and job.filter.completed is None
        for promise in found:
            if was_wanted or promise.completed_on is None or promise.completed_on <= job.created_on:
                yield promise


@final
class _Completing(_OnPromises):
    def reason_to_skip(self, found: Promise) -> Skip | None:
        return None if found.state is PENDING else Skip.COMPLETED

    def act(self, found: Promise) -> int:
        context, now_ms = self._context, self._now_ms
        effects = effects_count(context.state, found.id)
        state = COMPLETIONS[self._job.action]
        context.state.activity.bulk[state] += 1
        context.complete(
            r.PromiseCompleted(
                found.id,
                state,
                self._job.value,
                None,
                max(now_ms, found.created_on),  # the clock may have been set back in between
                now_ms,
            )
        )
        return min(effects, context.options.completion_slice_count)


@final
class _Deleting(_OnPromises):
    def __init__(self, context: DecisionContext, job: BulkJob, now_ms: int) -> None:
        super().__init__(context, job, now_ms)
        self._wanted = deletions.Wanted(context, now_ms)

    @property
    def has_to_wait(self) -> bool:
        # No task is about this id: it is awaited only while a completion is under way somewhere,
        # whose tasks may be about any promise. That is soon over.
        return self._context.is_awaited("")

    def reason_to_skip(self, found: Promise) -> Skip | None:
        refusal = self._wanted.refusal(found)
        return None if refusal is None else _REASONS[refusal]

    def act(self, found: Promise) -> int:
        return deletions.delete(self._context, [found.id], Deleter.BULK, self._now_ms)


@final
class _OnSchedules(_Acting):
    def find(
        self, below: int, limit_count: int, scan_count: int
    ) -> tuple[list[Schedule], int | None]:
        job = self._job
        search = SearchSchedules(
            job.filter.pattern, job.filter.tags, limit_count, below, scan_count, job.id_prefix
        )
        return schedules.find(self._context, search)

    def reason_to_skip(self, found: Schedule) -> Skip | None:
        match self._job.action:
            case BulkAction.PAUSE if found.paused_on is not None:
                return Skip.PAUSED
            case BulkAction.RESUME if found.paused_on is None:
                return Skip.NOT_PAUSED
            case BulkAction.RESUME if not schedules.runs_within(found, self._job.id_prefix):
                return Skip.FORBIDDEN
        return None

    def act(self, found: Schedule) -> int:
        context, now_ms = self._context, self._now_ms
        match self._job.action:
            case BulkAction.PAUSE:
                schedules.pause_schedule(context, PauseSchedule(found.id), now_ms)
            case BulkAction.RESUME:
                command = ResumeSchedule(found.id, self._job.id_prefix)
                schedules.resume_schedule(context, command, now_ms)
            case _:
                schedules.delete_schedule(context, DeleteSchedule(found.id), now_ms)
        return 0


def _acting(context: DecisionContext, job: BulkJob, now_ms: int) -> _Acting:
    assert job.subject is not BulkSubject.TASKS, "shards have no part of such a job"
    if job.subject is BulkSubject.SCHEDULES:
        return _OnSchedules(context, job, now_ms)
    if job.action is BulkAction.DELETE:
        return _Deleting(context, job, now_ms)
    return _Completing(context, job, now_ms)


@final
class _Tally:
    """What a slice has counted so far."""

    def __init__(self) -> None:
        self.done_ids: list[str] = []
        self.skipped: dict[str, int] = {}
        self.failed_count = 0

    def skip(self, reason: Skip) -> None:
        self.skipped[reason.value] = self.skipped.get(reason.value, 0) + 1

    @property
    def acts_count(self) -> int:
        return len(self.done_ids) + self.failed_count

    @property
    def counts(self) -> BulkCounts:
        return BulkCounts(len(self.done_ids), self.failed_count, self.skipped)


def running_job(context: DecisionContext, job_id: str) -> BulkJob | None:
    """Return a job, of any shard, that may go on."""
    job = context.neighbor(job_id).state.entries.by_id.get(job_id)
    return job if isinstance(job, BulkJob) and job.state is BulkState.RUNNING else None


def count_bulk(context: DecisionContext, command: CountBulk, now_ms: int) -> Reply:
    """Count what a job would do, without doing it."""
    job = running_job(context, command.id)
    if job is None:
        return Reply(Code.BULK_ENDED)
    tally = _Tally()
    acting = _acting(context, job, now_ms)
    if acting.has_to_wait:
        return Reply(Code.OK, bulk=BulkReport(command.places, tally.counts))
    found, following = acting.find(command.places[0], command.scan_count, command.scan_count)
    for one in found:
        reason = acting.reason_to_skip(one)
        if reason is None:
            tally.done_ids.append(one.id)
        else:
            tally.skip(reason)
    places = None if following is None else (following,)
    examples = tuple(tally.done_ids[:BULK_EXAMPLES_COUNT])
    return Reply(Code.OK, bulk=BulkReport(places, tally.counts, examples=examples))


def find_bulk(context: DecisionContext, command: FindBulk, now_ms: int) -> Reply:
    """Return what the next slice of a deletion may delete, as far as this shard knows."""
    job = running_job(context, command.id)
    if job is None:
        return Reply(Code.BULK_ENDED)
    places = command.places
    if places is None:
        part = context.state.bulk_parts.get(job.id)
        places = job.start if part is None else part.places
    found: Sequence[Promise] = ()
    if places is not None:
        acting = _acting(context, job, now_ms)
        found, _ = acting.find(places[0], command.limit_count, command.scan_count)
    completed = tuple(one for one in found if one.state is not PENDING)
    return Reply(Code.OK, promises=PromisePage(completed, None))


def run_bulk(context: DecisionContext, command: RunBulk, now_ms: int) -> Reply:
    """Carry out the next slice of a job in this shard."""
    job = running_job(context, command.id)
    if job is None:
        return Reply(Code.BULK_ENDED)
    part = context.state.bulk_parts.get(job.id)
    places = job.start if part is None else part.places
    if places is None:
        return _report(context, job, 0)
    acting = _acting(context, job, now_ms)
    if acting.has_to_wait:
        counts = NOTHING_DONE if part is None else part.counts
        return Reply(Code.OK, bulk=BulkReport(places, counts))
    found, following = acting.find(places[0], command.limit_count, command.scan_count)
    tally = _Tally()
    if command.passes_over and found:
        tally.failed_count = 1
        stopped_at: int | None = found[0].serial
    else:
        stopped_at = _act_on_all(context, acting, places[0], found, tally)
    if stopped_at is not None:
        following = stopped_at
    context.emit(
        r.BulkAdvanced(job.id, None if following is None else (following,), tally.counts, now_ms)
    )
    return _report(context, job, tally.acts_count)


def _report(context: DecisionContext, job: BulkJob, acts_count: int) -> Reply:
    part = context.state.bulk_parts[job.id]
    return Reply(Code.OK, bulk=BulkReport(part.places, part.counts, acts_count))


def _act_on_all(
    context: DecisionContext, acting: _Acting, below: int, found: Sequence[Any], tally: _Tally
) -> int | None:
    """Do it to all that were found; return the serial to continue below if that was too much.

    An error with one of them is raised by a slice that begins with it, which then has changed
    nothing. So it costs this one, and neither the others nor the server.
    """
    effects_left_count = BULK_EFFECTS_COUNT
    for place, one in enumerate(found):
        reason = acting.reason_to_skip(one)
        if reason is not None:
            tally.skip(reason)
            continue
        records_count = context.records_count
        try:
            effects_left_count -= acting.act(one)
        except Exception:
            if not records_count or context.records_count > records_count:
                raise
            last: int = found[place - 1].serial if place else below
            return last
        tally.done_ids.append(one.id)
        if effects_left_count <= 0:
            serial: int = one.serial
            return serial
    return None


def advance_bulk(context: DecisionContext, command: AdvanceBulk, now_ms: int) -> Reply:
    """Note what was done for a job that is not carried out by shards."""
    job = running_job(context, command.id)
    if job is None:
        return Reply(Code.BULK_ENDED)
    part = context.state.bulk_parts.get(job.id)
    if part is not None and part.places == command.places:
        return _report(context, job, 0)  # it is noted; the answer was lost on its way
    context.emit(r.BulkAdvanced(job.id, command.places, command.counts, now_ms))
    counts = command.counts
    return _report(context, job, counts.done_count + counts.failed_count)


def read_bulk(context: DecisionContext, command: ReadBulk, now_ms: int) -> Reply:
    """Return how far this shard is with each job."""
    return Reply(Code.OK, bulk_parts=tuple(context.state.bulk_parts.items()))


def close_bulk(context: DecisionContext, command: CloseBulk, now_ms: int) -> Reply:
    """Forget how far this shard is with a job that has ended."""
    if command.id in context.state.bulk_parts:
        context.emit(r.BulkClosed(command.id, now_ms))
    return DONE
