"""Slices of bulk jobs: what a job does to the things of one shard, and what it passes over.

A slice finds the next things as the list does that the job's filter is for, newest first and below
what was made last before the job began. It does to each what the command for a single one does, by
the same records, and ends with one that says how far the shard is: all in one batch of the log, so
a crash leaves both or neither. A slice ends early when what hangs on the promises that it completes
is enough for one step; a promise that more hangs on goes on in slices of its own.

Counting is the same without the act: so a dry run says what a run would do.
"""

from collections.abc import Iterator

from troth.core import records as r
from troth.core.bulk import (
    COMPLETIONS,
    BulkCounts,
    BulkJob,
    BulkReport,
    BulkState,
    BulkSubject,
    Skip,
)
from troth.core.codes import Code
from troth.core.commands import AdvanceBulk, CloseBulk, CountBulk, ReadBulk, RunBulk
from troth.core.deciding import DONE, DecisionContext
from troth.core.grammar.patterns import Pattern
from troth.core.limits import BULK_EFFECTS_COUNT, BULK_EXAMPLES_COUNT
from troth.core.model import PENDING, Promise, PromiseState
from troth.core.replies import Reply
from troth.core.state.cold import Query
from troth.core.state.completions import effects_count

from . import promises


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
    found, following = _find(
        context, job, command.places[0], command.scan_count, command.scan_count, now_ms
    )
    for promise in found:
        reason = _reason_to_skip(job, promise)
        if reason is None:
            tally.done_ids.append(promise.id)
        else:
            tally.skip(reason)
    places = None if following is None else (following,)
    examples = tuple(tally.done_ids[:BULK_EXAMPLES_COUNT])
    return Reply(Code.OK, bulk=BulkReport(places, tally.counts, examples=examples))


def run_bulk(context: DecisionContext, command: RunBulk, now_ms: int) -> Reply:
    """Carry out the next slice of a job in this shard."""
    job = running_job(context, command.id)
    if job is None:
        return Reply(Code.BULK_ENDED)
    part = context.state.bulk_parts.get(job.id)
    places = job.start if part is None else part.places
    if places is None:
        return _report(context, job, 0)
    found, following = _find(
        context, job, places[0], command.limit_count, command.scan_count, now_ms
    )
    tally = _Tally()
    if command.passes_over and found:
        tally.failed_count = 1
        stopped_at: int | None = found[0].serial
    else:
        stopped_at = _complete_all(context, job, places[0], found, tally, now_ms)
    if stopped_at is not None:
        following = stopped_at
    context.emit(
        r.BulkAdvanced(job.id, None if following is None else (following,), tally.counts, now_ms)
    )
    return _report(context, job, tally.acts_count)


def _report(context: DecisionContext, job: BulkJob, acts_count: int) -> Reply:
    part = context.state.bulk_parts[job.id]
    return Reply(Code.OK, bulk=BulkReport(part.places, part.counts, acts_count))


def _find(
    context: DecisionContext,
    job: BulkJob,
    below: int,
    limit_count: int,
    scan_count: int,
    now_ms: int,
) -> tuple[list[Promise], int | None]:
    """Return the next promises that the filter finds, and the serial to continue below."""
    assert job.subject is BulkSubject.PROMISES, "shards carry out nothing else"
    wanted = job.filter
    query = Query(
        Pattern(wanted.pattern, job.id_prefix),
        tuple(map(PromiseState, wanted.states)),
        wanted.tags,
        limit_count,
        below,
        scan_count,
        created=wanted.created,
        completed=wanted.completed,
    )
    found = promises.find(context, query, now_ms)
    return list(_as_at_start(job, found.promises)), found.next_before


def _as_at_start(job: BulkJob, found: list[Promise]) -> Iterator[Promise]:
    """Yield those that the filter found already when the job began.

    What has completed since was pending then.
    """
    was_wanted = PENDING.value in job.filter.states and job.filter.completed is None
    for promise in found:
        if was_wanted or promise.completed_on is None or promise.completed_on <= job.created_on:
            yield promise


def _reason_to_skip(job: BulkJob, promise: Promise) -> Skip | None:
    """Return why a job passes over a promise, or None if it does not."""
    assert job.action in COMPLETIONS, "shards carry out nothing else"
    return None if promise.state is PENDING else Skip.COMPLETED


def _complete_all(
    context: DecisionContext,
    job: BulkJob,
    below: int,
    found: list[Promise],
    tally: _Tally,
    now_ms: int,
) -> int | None:
    """Complete the promises; return the serial to continue below if there was too much to do.

    An error with one of them is raised by a slice that begins with it, which then has changed
    nothing. So it costs this one, and neither the others nor the server.
    """
    state = COMPLETIONS[job.action]
    effects_left_count = BULK_EFFECTS_COUNT
    slice_count = context.options.completion_slice_count
    for place, promise in enumerate(found):
        reason = _reason_to_skip(job, promise)
        if reason is not None:
            tally.skip(reason)
            continue
        effects_left_count -= min(effects_count(context.state, promise.id), slice_count)
        records_count = context.records_count
        try:
            context.complete(
                r.PromiseCompleted(
                    promise.id,
                    state,
                    job.value,
                    None,
                    max(now_ms, promise.created_on),  # the clock may have been set back in between
                    now_ms,
                )
            )
        except Exception:
            if not records_count or context.records_count > records_count:
                raise
            return found[place - 1].serial if place else below
        tally.done_ids.append(promise.id)
        if effects_left_count <= 0:
            return promise.serial
    return None


def advance_bulk(context: DecisionContext, command: AdvanceBulk, now_ms: int) -> Reply:
    """Note what was done for a job that is not carried out by shards."""
    job = running_job(context, command.id)
    if job is None:
        return Reply(Code.BULK_ENDED)
    context.emit(r.BulkAdvanced(job.id, command.places, command.counts, now_ms))
    counts = command.counts
    return _report(context, job, counts.done_count + counts.failed_count)


def read_bulk(context: DecisionContext, command: ReadBulk, now_ms: int) -> Reply:
    """Return how far this shard is with each job."""
    return Reply(Code.OK, bulk_parts=dict(context.state.bulk_parts))


def close_bulk(context: DecisionContext, command: CloseBulk, now_ms: int) -> Reply:
    """Forget how far this shard is with a job that has ended."""
    if command.id in context.state.bulk_parts:
        context.emit(r.BulkClosed(command.id, now_ms))
    return DONE
