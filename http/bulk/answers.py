"""How bulk jobs are shown."""

from typing import Annotated

from msgspec import UNSET, Struct, UnsetType

from troth.core.bulk import BulkAction, BulkState, BulkSubject
from troth.core.model import EMPTY_VALUE
from troth.http.promises.answers import ValueObject, value_object
from troth.http.wire.answers import time_ms, told
from troth.shards.bulk.jobs import BulkProgress


class BulkJobObject(Struct, gc=False, rename="camel"):
    """A bulk job, and how far it is."""

    id: Annotated[str, told("The id.", "019b76da1c00c5f2a1b3d4e5")]
    state: Annotated[
        BulkState, told("running; or finished, stopped or failed, which are final.", "running")
    ]
    subject: Annotated[BulkSubject, told("What the filter is of.", "promises")]
    action: Annotated[BulkAction, told("What is done to each.", "cancel")]
    filter: Annotated[dict[str, str], told("Which they are.", {"id": "order/*"})]
    value: Annotated[
        ValueObject | UnsetType, told("What promises are completed with.", {"data": "aGVsbG8="})
    ]
    dry_run: Annotated[bool, told("Whether it only counts.", False)]
    rate_per_second: Annotated[int, told("How many a second it does at most.", 1000)]
    by: Annotated[str, told("Who started it.", "user anna")]
    created_on: Annotated[int, time_ms("When it was started")]
    ended_on: Annotated[int | UnsetType, time_ms("When it ended; absent while it runs")]
    total: Annotated[
        int | None, told("How many the filter finds; null until they are counted.", 1204)
    ]
    done: Annotated[int, told("How many are done or, in a dry run, would be.", 700)]
    failed: Annotated[int, told("How many could not be done; the server's log says why.", 0)]
    skipped: Annotated[
        dict[str, int],
        told(
            "How many were passed over, by reason: completed; pending; originPending and inUse, as "
            "when one is deleted; notWaiting (a task that is not stalled); paused; notPaused; "
            "forbidden (the token is not for what a schedule makes); changed (the filter did not "
            "find it any more when its turn came).",
            {"completed": 4},
        ),
    ]
    left: Annotated[int | None, told("How many are left; null until they are counted.", 500)]
    rate: Annotated[int, told("How many a second it does now.", 998)]
    examples: Annotated[list[str] | UnsetType, told("Ids of some, after a dry run.", ["order/42"])]
    problem: Annotated[str | UnsetType, told("Why it failed.", "shard 3 could not count")]


class BulkJobsObject(Struct, gc=False):
    """The bulk jobs that run, and those that ended not long ago."""

    jobs: list[BulkJobObject]


def bulk_job(progress: BulkProgress) -> BulkJobObject:
    """Return a job as it is shown."""
    job, counts, total_count = progress.job, progress.counts, progress.matched_count
    is_over = job.state is not BulkState.RUNNING
    left_count = None if total_count is None else max(total_count - counts.total_count, 0)
    return BulkJobObject(
        id=job.id,
        state=job.state,
        subject=job.subject,
        action=job.action,
        filter=job.asked,
        value=UNSET if job.value == EMPTY_VALUE else value_object(job.value),
        dry_run=job.dry_run,
        rate_per_second=job.rate_count,
        by=job.made_by,
        created_on=job.created_on,
        ended_on=UNSET if job.ended_on is None else job.ended_on,
        total=total_count,
        done=counts.done_count,
        failed=counts.failed_count,
        skipped=counts.skipped,
        left=left_count,
        rate=0 if is_over else round(progress.rate),
        examples=list(job.examples) if job.dry_run and is_over else UNSET,
        problem=UNSET if job.problem is None else job.problem,
    )
