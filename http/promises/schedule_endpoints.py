"""Schedules: promises made at certain times (rest.md 8)."""

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.commands import Command, CreateSchedule, DeleteSchedule, ReadSchedule
from troth.core.grammar import cron, templates
from troth.core.limits import INTEGER_MAX
from troth.core.replies import Reply
from troth.http.api.context import Api
from troth.http.api.rows import ID_PARAMETER, Asking, Call, Endpoint, Header, Success, nothing
from troth.http.wire.errors import ApiError, FieldProblem
from troth.http.wire.fields import size_bytes
from troth.http.wire.json_text import dump

from .answers import ScheduleObject, schedule_object
from .schemas import CreateScheduleBody
from .values import string_map, value


def _create(api: Api, call: Call) -> Command:
    body: CreateScheduleBody = call.body
    refuse_unless_valid(api, body.id or "", body.cron or "", body.promise_id or "")
    return CreateSchedule(
        id=body.id or "",
        cron=body.cron or "",
        promise_id=body.promise_id or "",
        promise_timeout=body.promise_timeout or 0,
        description=body.description or body.desc or "",
        tags=string_map(body.tags),
        promise_param=value(body.promise_param),
        promise_tags=string_map(body.promise_tags),
        idempotency_key=call.headers.idempotency_key,
    )


def rendered_schedule(_api: Api, reply: Reply) -> bytes:
    """Return the schedule of a reply as JSON."""
    assert reply.schedule is not None
    return dump(schedule_object(reply.schedule))


def refuse_unless_valid(
    api: Api, schedule_id: str, expression: str | None, template: str | None
) -> None:
    """Raise ApiError (400) for a wrong cron expression or template; None is not looked at."""
    found = []
    if expression is not None:
        try:
            cron.parse(expression)
        except cron.CronRefused as error:
            found.append(FieldProblem("cron", f"is not a cron expression: {error}"))
    if template is not None:
        problem = templates.check(template)
        if problem is None:
            limit_bytes = api.limits.id_limit_bytes
            longest_bytes = size_bytes(templates.expand(template, schedule_id, INTEGER_MAX))
            if longest_bytes > limit_bytes:
                problem = f"makes ids of {longest_bytes} bytes; the limit is {limit_bytes}"
        if problem is not None:
            found.append(FieldProblem("promiseId", problem))
    if found:
        raise ApiError(Code.INVALID, found)


def _read(_api: Api, call: Call) -> Command:
    return ReadSchedule(call.path["id"])


def _delete(_api: Api, call: Call) -> Command:
    return DeleteSchedule(call.path["id"])


create_schedule = Asking(_create, rendered_schedule)
read_schedule = Asking(_read, rendered_schedule)
delete_schedule = Asking(_delete, nothing)


ENDPOINTS = (
    Endpoint(
        name="createSchedule",
        group="Schedules",
        method="POST",
        path="/schedules",
        summary="Create a schedule",
        description=(
            "At each time of `cron`, creates a promise with an id made from `promiseId`. "
            "With the tag `resonate:invoke` in `promiseTags`, its work is sent to a "
            "receiver each time."
        ),
        handler=create_schedule,
        scope=Scope.PROMISES_WRITE,
        body=CreateScheduleBody,
        headers=(Header.IDEMPOTENCY_KEY,),
        successes=(
            Success(201, "The schedule was created.", ScheduleObject),
            Success(200, "It already existed, with the same key.", ScheduleObject),
        ),
        refusals=(Code.SCHEDULE_EXISTS,),
    ),
    Endpoint(
        name="readSchedule",
        group="Schedules",
        method="GET",
        path="/schedules/{id...}",
        summary="Read a schedule",
        handler=read_schedule,
        scope=Scope.PROMISES_READ,
        path_parameters=(ID_PARAMETER,),
        successes=(Success(200, "The schedule.", ScheduleObject),),
        refusals=(Code.SCHEDULE_NOT_FOUND,),
    ),
    Endpoint(
        name="deleteSchedule",
        group="Schedules",
        method="DELETE",
        path="/schedules/{id...}",
        summary="Delete a schedule",
        description="The promises it has created are kept.",
        handler=delete_schedule,
        scope=Scope.PROMISES_WRITE,
        path_parameters=(ID_PARAMETER,),
        successes=(Success(204, "The schedule is deleted."),),
        refusals=(Code.SCHEDULE_NOT_FOUND,),
    ),
)
