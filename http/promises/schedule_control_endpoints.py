"""Control of schedules: change, pause, resume, run now; preview a cron expression."""

from typing import Annotated, Final

from msgspec import Struct

from troth.core import limits
from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.commands import (
    Command,
    CreatePromise,
    PauseSchedule,
    ReadSchedule,
    ResumeSchedule,
    UpdateSchedule,
)
from troth.core.grammar import cron
from troth.core.grammar.zones import Zone, ZoneUnknown, load_zone
from troth.core.schedule_runs import run_of
from troth.http.api.context import Api
from troth.http.api.rows import ID_PARAMETER, Asking, Call, Endpoint, Success, answer
from troth.http.api.shards_port import ask
from troth.http.settings.local_zone import local_zone
from troth.http.wire.answers import told
from troth.http.wire.errors import ApiError, FieldProblem
from troth.http.wire.fields import Integer, Nested, StringMap, Text
from troth.http.wire.requests import Response
from troth.shards.surveys.pace import Pace

from .answers import PromiseObject, ScheduleObject, promise_object
from .schedule_endpoints import refuse_unless_valid, rendered_schedule
from .schemas import ValueBody
from .values import string_map, value

CATCH_UP_LIMIT_COUNT: Final = 100
"""The most missed runs that a client may have made up for: finding them takes some
milliseconds."""
PREVIEW_COUNT: Final = 10
"""How many times a preview shows."""

_Strings = dict[str, str | None] | None
_ID: Final = Text("The schedule's id.", "nightly", required=True)
_CRON: Final = Text(
    "When: five fields, six with leading seconds, `@daily` and the like, or `@every 1h30m`; "
    "`TZ=Europe/Berlin ` may come first.",
    "0 4 * * *",
    limit_bytes=limits.CRON_LIMIT_BYTES,
    form="cron",
)


class UpdateScheduleBody(Struct, rename="camel"):
    """The changes to a schedule. Absent fields stay as they are; `{}` and `""` remove."""

    description: Annotated[
        str | None,
        Text("For people.", "Close the books", limit_bytes=limits.DESCRIPTION_LIMIT_BYTES),
    ] = None
    cron: Annotated[str | None, _CRON] = None
    tags: Annotated[_Strings, StringMap("For search.", {"team": "orders"})] = None
    promise_id: Annotated[
        str | None,
        Text(
            "The id of the promises made, with `{{.id}}` and `{{.timestamp}}`.",
            "nightly.{{.timestamp}}",
            form="promise-id-template",
        ),
    ] = None
    promise_timeout: Annotated[
        int | None, Integer("Milliseconds from firing to the promise's timeout.", 3_600_000)
    ] = None
    promise_param: Annotated[
        ValueBody | None, Nested("The param of the promises made.", body=ValueBody)
    ] = None
    promise_tags: Annotated[
        _Strings, StringMap("The tags of the promises made.", {"team": "x"})
    ] = None


class NamedScheduleBody(Struct, rename="camel"):
    """The schedule to act on."""

    id: Annotated[str | None, _ID] = None


class ResumeScheduleBody(Struct, rename="camel"):
    """The schedule to resume."""

    id: Annotated[str | None, _ID] = None
    catch_up: Annotated[
        int | None,
        Integer(
            f"How many missed runs (0 to {CATCH_UP_LIMIT_COUNT}) to make up for at most, the "
            "latest; by default as many as after a downtime of the server (`schedule_catch_up`).",
            0,
            minimum=0,
            maximum=CATCH_UP_LIMIT_COUNT,
        ),
    ] = None


class PreviewScheduleBody(Struct, rename="camel"):
    """A cron expression, and the time after which to preview it."""

    cron: Annotated[
        str | None,
        Text(
            _CRON.description,
            _CRON.example,
            required=True,
            limit_bytes=limits.CRON_LIMIT_BYTES,
            form="cron",
        ),
    ] = None
    time_zone: Annotated[
        str | None,
        Text(
            "The time zone if the expression names none; by default the server's.",
            "Europe/Berlin",
            limit_bytes=limits.CRON_LIMIT_BYTES,
            form="time-zone",
        ),
    ] = None
    after: Annotated[
        int | None,
        Integer("Show times after this one, in milliseconds since 1970; by default now."),
    ] = None


class PreviewObject(Struct, gc=False, rename="camel"):
    """The next times of a cron expression."""

    cron: Annotated[str, told("The expression.", "0 4 * * *")]
    time_zone: Annotated[str, told("The time zone if it names none.", "Europe/Berlin")]
    times: Annotated[
        list[int],
        told(
            f"The next {PREVIEW_COUNT} times, in milliseconds since 1970; fewer if there are no "
            "more in the next years.",
            [1_800_000_000_000],
        ),
    ]


def _update(api: Api, call: Call) -> Command:
    body: UpdateScheduleBody = call.body
    schedule_id = call.path["id"]
    refuse_unless_valid(api, schedule_id, body.cron or None, body.promise_id or None)
    return UpdateSchedule(
        schedule_id,
        call.request.principal.id_prefix,
        body.cron or None,
        body.promise_id or None,
        body.promise_timeout,
        body.description,
        None if body.tags is None else string_map(body.tags) or {},
        None if body.promise_param is None else value(body.promise_param),
        None if body.promise_tags is None else string_map(body.promise_tags) or {},
    )


def _pause(_api: Api, call: Call) -> Command:
    body: NamedScheduleBody = call.body
    return PauseSchedule(body.id or "")


def _resume(_api: Api, call: Call) -> Command:
    body: ResumeScheduleBody = call.body
    return ResumeSchedule(body.id or "", call.request.principal.id_prefix, body.catch_up)


async def run_schedule(api: Api, call: Call) -> Response:
    """POST /schedules/run."""
    body: NamedScheduleBody = call.body
    read = await ask(api.shards, ReadSchedule(body.id or ""), call.request)
    schedule = read.schedule
    assert schedule is not None
    run = run_of(schedule, api.now_ms())
    create = CreatePromise(run.promise_id, run.timeout, schedule.promise_param, run.tags)
    reply = await ask(api.shards, create, call.request)
    assert reply.promise is not None
    return answer(Code.CREATED, promise_object(reply.promise))


async def preview_schedule(api: Api, call: Call) -> Response:
    """POST /schedules/preview."""
    body: PreviewScheduleBody = call.body
    zone = _zone(api, body.time_zone)
    try:
        parsed = cron.parse(body.cron or "", zone)
    except cron.CronRefused as error:
        problem = FieldProblem("cron", f"is not a cron expression: {error}")
        raise ApiError(Code.INVALID, [problem]) from error
    pace = Pace()
    times: list[int] = []
    time_ms = api.now_ms() if body.after is None else body.after
    while len(times) < PREVIEW_COUNT:
        following = parsed.next_after_ms(time_ms)
        if following is None or following <= time_ms:
            break
        times.append(following)
        time_ms = following
        await pace.rest()  # a rare match may take milliseconds to find
    return answer(Code.OK, PreviewObject(body.cron or "", zone.name, times))


def _zone(api: Api, name: str | None) -> Zone:
    """Return a zone by name, or the default one. Raises ApiError (400) if it is unknown."""
    chosen = name or api.settings.time_zone
    if chosen is None:
        return local_zone()
    try:
        return load_zone(chosen)
    except ZoneUnknown as error:
        raise ApiError(Code.INVALID, [FieldProblem("timeZone", str(error))]) from error


_PREFIX_TEXT: Final = (
    " A token with an id prefix may do this if the schedule's promises begin with it, too."
)
_FOUND: Final = (Success(200, "The schedule as it is now.", ScheduleObject),)

ENDPOINTS = (
    Endpoint(
        name="updateSchedule",
        group="Schedules",
        method="PATCH",
        path="/schedules/{id...}",
        summary="Change a schedule",
        description=(
            "What is not named stays as it is. With another expression the schedule fires next at "
            "its first time from now on, whatever it has missed." + _PREFIX_TEXT
        ),
        handler=Asking(_update, rendered_schedule),
        scope=Scope.PROMISES_WRITE,
        body=UpdateScheduleBody,
        path_parameters=(ID_PARAMETER,),
        successes=_FOUND,
        refusals=(Code.SCHEDULE_NOT_FOUND,),
    ),
    Endpoint(
        name="pauseSchedule",
        group="Schedules",
        method="POST",
        path="/schedules/pause",
        summary="Pause a schedule",
        description="It makes no more promises until it is resumed, also over a restart.",
        handler=Asking(_pause, rendered_schedule),
        scope=Scope.PROMISES_WRITE,
        body=NamedScheduleBody,
        successes=_FOUND,
        refusals=(Code.SCHEDULE_NOT_FOUND,),
    ),
    Endpoint(
        name="resumeSchedule",
        group="Schedules",
        method="POST",
        path="/schedules/resume",
        summary="Resume a paused schedule",
        description=(
            "The runs that it missed are made up for, in order, as after a downtime of the server; "
            "`catchUp` says at most how many of them: 0 for none." + _PREFIX_TEXT
        ),
        handler=Asking(_resume, rendered_schedule),
        scope=Scope.PROMISES_WRITE,
        body=ResumeScheduleBody,
        successes=_FOUND,
        refusals=(Code.SCHEDULE_NOT_FOUND,),
    ),
    Endpoint(
        name="runSchedule",
        group="Schedules",
        method="POST",
        path="/schedules/run",
        summary="Make a schedule's promise now",
        description=(
            "An additional run: the schedule and its next times stay as they are, also while it is "
            "paused. If the promise exists, as where its id does not depend on the time, that is "
            "409." + _PREFIX_TEXT
        ),
        handler=run_schedule,
        scope=Scope.PROMISES_WRITE,
        body=NamedScheduleBody,
        successes=(Success(201, "The promise that was created.", PromiseObject),),
        refusals=(Code.SCHEDULE_NOT_FOUND, Code.PROMISE_EXISTS),
    ),
    Endpoint(
        name="previewSchedule",
        group="Schedules",
        method="POST",
        path="/schedules/preview",
        summary="Show when a cron expression fires",
        description="Nothing is changed: this is for trying expressions out.",
        handler=preview_schedule,
        scope=Scope.PROMISES_READ,
        or_scope=Scope.PROMISES_WRITE,
        body=PreviewScheduleBody,
        successes=(Success(200, "The next times.", PreviewObject),),
    ),
)
