"""Bulk jobs: one act on everything that a list finds; started, looked at, stopped.

A token with an id prefix starts jobs that touch only such ids, and sees only those of its kind. A
job outlives its request, its maker's token and the server's process; only its end, or who stops it,
ends it.
"""

from typing import Final

import structlog

from troth.core.bulk import ACTIONS, BulkAction, BulkJob, BulkSubject
from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.limits import BULK_RATE_COUNT, BULK_VALUE_LIMIT_BYTES
from troth.core.model import EMPTY_VALUE, replace
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Parameter, Success, answer
from troth.http.api.shards_port import answered
from troth.http.functions.values import new_id
from troth.http.identity.audit import AuditLog, Told, shown
from troth.http.promises.values import string_map, value
from troth.http.wire.errors import ApiError, invalid
from troth.http.wire.principals import Principal
from troth.http.wire.requests import Response
from troth.shards.bulk.jobs import BulkJobs, BulkProgress, TooManyJobs

from .answers import BulkJobObject, BulkJobsObject, bulk_job
from .bodies import BulkBody
from .filters import read_filter

log = structlog.get_logger("troth.http.bulk")

_SUBJECTS: Final = {
    BulkAction.RETRY: BulkSubject.TASKS,
    BulkAction.PAUSE: BulkSubject.SCHEDULES,
    BulkAction.RESUME: BulkSubject.SCHEDULES,
}
"""What an action is about unless the request says it."""


def jobs_of(api: Api) -> BulkJobs:
    """Return the server's jobs. Raises ApiError (503) while it starts."""
    if api.bulk is None:
        raise ApiError(Code.STARTING)
    return api.bulk


async def start_job(api: Api, call: Call) -> Response:
    """POST /bulk."""
    jobs, job = jobs_of(api), _job(api, call)
    job = replace(job, through=await answered(jobs.newest(job.subject)))
    async with api.audit.act(call.request, "bulk.start", **_told(job)):
        try:
            await answered(jobs.start(job))
        except TooManyJobs:
            raise ApiError(Code.TOO_MANY_BULK_JOBS) from None
    return answer(Code.CREATED, bulk_job(_found(jobs, call, job.id)))


def _job(api: Api, call: Call) -> BulkJob:
    """Return the job that a request asks for; how far it goes is not in it yet.

    Raises ApiError with what is wrong.
    """
    body: BulkBody = call.body
    principal = call.request.principal
    action = BulkAction((body.action or "").lower())
    subject = _SUBJECTS.get(action, BulkSubject.PROMISES)
    if body.subject:
        subject = BulkSubject(body.subject.lower())
    allowed = ACTIONS.get(subject, frozenset())
    if action not in allowed:
        raise invalid("action", f"must be one of {', '.join(sorted(allowed))} for {subject.value}")
    given = value(body.value)
    if given.size > BULK_VALUE_LIMIT_BYTES:
        raise invalid(
            "value", f"must have at most {BULK_VALUE_LIMIT_BYTES} characters (got {given.size})"
        )
    if given != EMPTY_VALUE and subject is not BulkSubject.PROMISES:
        raise invalid("value", "is only for promises that are completed")
    asked = string_map(body.filter) or {}
    now_ms = api.now_ms()
    return BulkJob(
        new_id(now_ms),
        1,
        now_ms,
        principal.account_id,
        shown(principal),
        subject,
        action,
        read_filter(api, call, subject, asked),
        asked,
        body.rate_per_second or BULK_RATE_COUNT,
        (),
        given,
        bool(body.dry_run),
        principal.id_prefix,
    )


def _told(job: BulkJob) -> Told:
    """Return what the audit log says of a job."""
    filters = {f"filter.{name}": text for name, text in job.asked.items()}
    return {
        "job": job.id,
        "action": job.action.value,
        "subject": job.subject.value,
        "dry_run": job.dry_run,
        "id_prefix": job.id_prefix or None,
        **filters,
    }


async def note_end(audit: AuditLog, job: BulkJob) -> None:
    """Note in the audit log that a job has ended, and how many it was about."""
    counts = job.counts
    assert counts is not None, "a job that has ended has its counts"
    told: Told = {
        **_told(job),
        "total": job.matched_count,
        "done": counts.done_count,
        "failed": counts.failed_count,
        **{f"skipped.{reason}": count for reason, count in counts.skipped.items()},
    }
    try:
        await audit.note(job.made_by, "bulk.end", job.state.value, told)
    except ApiError as error:
        log.error("the end of a bulk job is not in the audit log", job=job.id, problem=str(error))


def _is_visible(principal: Principal, job: BulkJob) -> bool:
    return job.id_prefix.startswith(principal.id_prefix)


def _found(jobs: BulkJobs, call: Call, job_id: str) -> BulkProgress:
    """Return a job that the sender may see. Raises ApiError (404)."""
    found = jobs.progress(job_id)
    if found is None or not _is_visible(call.request.principal, found.job):
        raise ApiError(Code.BULK_NOT_FOUND)
    return found


async def read_job(api: Api, call: Call) -> Response:
    """GET /bulk/{id}."""
    return answer(Code.OK, bulk_job(_found(jobs_of(api), call, call.path["id"])))


async def list_jobs(api: Api, call: Call) -> Response:
    """GET /bulk."""
    principal = call.request.principal
    found = [one for one in jobs_of(api).all_progress() if _is_visible(principal, one.job)]
    return answer(Code.OK, BulkJobsObject([bulk_job(one) for one in found]))


async def stop_job(api: Api, call: Call) -> Response:
    """DELETE /bulk/{id}."""
    jobs, job_id = jobs_of(api), call.path["id"]
    _found(jobs, call, job_id)
    async with api.audit.act(call.request, "bulk.stop", job=job_id):
        if await answered(jobs.stop(job_id)) is None:
            raise ApiError(Code.BULK_ENDED)
    return answer(Code.OK, bulk_job(_found(jobs, call, job_id)))


_JOB_ID: Final = Parameter(
    "id",
    "The job's id.",
    {"type": "string", "minLength": 1},
    required=True,
    example="019b76da1c00c5f2a1b3d4e5",
)

ENDPOINTS = (
    Endpoint(
        name="startBulkJob",
        group="Bulk jobs",
        method="POST",
        path="/bulk",
        summary="Do something to everything that a list finds",
        description=(
            "The job counts first and then acts, and does to each what the request for a single "
            "one does. It goes on after a restart where it was. At most four run at a time. The "
            "audit log says who started it, for what, and how many it was about."
        ),
        handler=start_job,
        scope=Scope.PROMISES_WRITE,
        body=BulkBody,
        successes=(Success(201, "The job has started.", BulkJobObject),),
        refusals=(Code.TOO_MANY_BULK_JOBS,),
    ),
    Endpoint(
        name="listBulkJobs",
        group="Bulk jobs",
        method="GET",
        path="/bulk",
        summary="List bulk jobs",
        description=(
            "Those that run, and the last hundred that ended in the last seven days; the newest "
            "first."
        ),
        handler=list_jobs,
        scope=Scope.PROMISES_READ,
        successes=(Success(200, "The jobs.", BulkJobsObject),),
    ),
    Endpoint(
        name="readBulkJob",
        group="Bulk jobs",
        method="GET",
        path="/bulk/{id}",
        summary="Read how far a bulk job is",
        handler=read_job,
        scope=Scope.PROMISES_READ,
        path_parameters=(_JOB_ID,),
        successes=(Success(200, "The job.", BulkJobObject),),
        refusals=(Code.BULK_NOT_FOUND,),
    ),
    Endpoint(
        name="stopBulkJob",
        group="Bulk jobs",
        method="DELETE",
        path="/bulk/{id}",
        summary="Stop a bulk job",
        description="Answers when it has stopped; what is done stays done.",
        handler=stop_job,
        scope=Scope.PROMISES_WRITE,
        path_parameters=(_JOB_ID,),
        successes=(Success(200, "The job has stopped.", BulkJobObject),),
        refusals=(Code.BULK_NOT_FOUND, Code.BULK_ENDED),
    ),
)
