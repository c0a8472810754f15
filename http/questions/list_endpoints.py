"""Lists of what waits: tasks of all kinds, locks, and what comes due next."""

import msgspec
from msgspec import Struct

from troth.core.catalog import RESERVED_PREFIX, Scope
from troth.core.codes import Code
from troth.core.grammar import task_ids
from troth.http.api.context import Api
from troth.http.api.permissions import refuse_unless_within
from troth.http.api.rows import ID_PARAMETER, Call, Endpoint, Parameter, Success, answer
from troth.http.api.shards_port import answered
from troth.http.wire.cursors import FOREIGN_CURSOR
from troth.http.wire.errors import ApiError, invalid
from troth.http.wire.requests import Response
from troth.shards.surveys.locks import LockPlace
from troth.shards.surveys.rows import FINISHED, UNFINISHED, TaskFamily
from troth.shards.surveys.tasks import TaskQuery

from .answers import (
    LockPageObject,
    SeenTaskObject,
    SeenTaskPageObject,
    TimersPageObject,
    due_object,
    locked,
    seen_task,
)
from .asked import (
    CURSOR,
    AskedQuery,
    account_of,
    cursor,
    limit_parameter,
    surveys_of,
    words_parameter,
)

ORDERS = ("oldest", "newest")
STATES = tuple(sorted(UNFINISHED | FINISHED))
FAMILIES = tuple(family.value for family in TaskFamily)


class TasksPlace(Struct, frozen=True, array_like=True, tag="tasks"):
    """A page of tasks: what is asked, and the position in each stream."""

    query: TaskQuery
    limit_count: int
    positions: list[int] | None = None


class LocksPlace(Struct, frozen=True, array_like=True, tag="locks"):
    """A page of locks: what is asked, and where it begins."""

    pattern: str
    process_id: str | None
    limit_count: int
    place: LockPlace = LockPlace()


class TimersPlace(Struct, frozen=True, array_like=True, tag="timers"):
    """A page of deadlines: what is asked, and the deadline after which it begins."""

    until_ms: int
    limit_count: int
    after: tuple[int, str, str] | None = None


async def list_tasks(api: Api, call: Call) -> Response:
    """GET /tasks."""
    surveys = surveys_of(api)
    secret = api.shards.cursor_secret
    asked = AskedQuery(call.request.query)
    asked_query = read_task_query(asked, call)
    place = TasksPlace(asked_query, asked.limit())
    given = asked.place(TasksPlace, secret)
    asked.done()
    if given is not None:
        # The sender's own limits hold, whatever the cursor says.
        query = msgspec.structs.replace(
            given.query, id_prefix=asked_query.id_prefix, account_id=asked_query.account_id
        )
        place = msgspec.structs.replace(given, query=query)
    query = place.query
    is_of_one = query.root is not None and "*" not in query.root
    if is_of_one and query.id_prefix:
        refuse_unless_within(call.request.principal, (query.root or "",))
    positions_count = 1 if is_of_one else surveys.task_streams_count
    if place.positions is not None and len(place.positions) != positions_count:
        raise invalid("query cursor", FOREIGN_CURSOR)
    if is_of_one:
        position = 0 if place.positions is None else place.positions[0]
        asking = surveys.tasks_of(query.root or "", query, place.limit_count, position)
    else:
        asking = surveys.tasks(query, place.limit_count, place.positions)
    page = await answered(asking)
    following = None
    if page.positions is not None:
        following = cursor(msgspec.structs.replace(place, positions=page.positions), secret)
    return answer(Code.OK, SeenTaskPageObject(following, [seen_task(row) for row in page.rows]))


TASK_FILTERS = frozenset({"kind", "states", "receiver", "process", "root"})
"""The parameters that say which tasks are listed."""


def read_task_query(asked: AskedQuery, call: Call) -> TaskQuery:
    """Read which tasks are wanted. Raises ApiError (403) if the sender may not see them."""
    principal = call.request.principal
    states = asked.words("states", STATES)
    families = asked.words("kind", FAMILIES)
    return TaskQuery(
        states or UNFINISHED,
        frozenset(map(TaskFamily, families)) or frozenset(TaskFamily),
        asked.text("receiver"),
        asked.text("process"),
        asked.text("root"),
        asked.word("order", ORDERS, "oldest") == "newest",
        principal.id_prefix,
        account_of(call),
    )


async def show_task(api: Api, call: Call) -> Response:
    """GET /tasks/show/{id}."""
    named = task_ids.home(call.path["id"])
    principal = call.request.principal
    if named.startswith(RESERVED_PREFIX) and not account_of(call):
        raise ApiError(Code.RESERVED_ID)
    found = await answered(surveys_of(api).task(call.path["id"]))
    if found is not None and found.family is TaskFamily.FUNCTION:
        owner = await answered(surveys_of(api).account_of(found.promise_id))
        if owner is None or owner != account_of(call):
            found = None
    elif principal.id_prefix:
        refuse_unless_within(principal, (named if found is None else found.promise_id,))
    if found is None:
        raise ApiError(Code.TASK_NOT_FOUND)
    return answer(Code.OK, seen_task(found))


async def list_locks(api: Api, call: Call) -> Response:
    """GET /locks."""
    secret = api.shards.cursor_secret
    asked = AskedQuery(call.request.query)
    place = LocksPlace(asked.text("id") or "*", asked.text("process"), asked.limit())
    place = asked.place(LocksPlace, secret) or place
    asked.done()
    prefix = call.request.principal.id_prefix
    page = await answered(
        surveys_of(api).locks(
            place.pattern, prefix, place.process_id, place.limit_count, place.place
        )
    )
    following = None
    if page.following is not None:
        following = cursor(msgspec.structs.replace(place, place=page.following), secret)
    return answer(Code.OK, LockPageObject(following, [locked(row) for row in page.rows]))


async def list_timers(api: Api, call: Call) -> Response:
    """GET /timers."""
    secret = api.shards.cursor_secret
    asked = AskedQuery(call.request.query)
    place = TimersPlace(asked.time("until"), asked.limit())
    place = asked.place(TimersPlace, secret) or place
    asked.done()
    dues, has_more = await answered(
        surveys_of(api).timers(
            place.until_ms,
            place.limit_count,
            place.after,
            call.request.principal.id_prefix,
            account_of(call),
        )
    )
    following = None
    if has_more and dues:
        following = cursor(msgspec.structs.replace(place, after=dues[-1].place), secret)
    return answer(Code.OK, TimersPageObject(following, [due_object(due) for due in dues]))


ENDPOINTS = (
    Endpoint(
        name="listTasks",
        answers_much=True,
        group="Questions",
        method="GET",
        path="/tasks",
        summary="List unfinished tasks",
        description=(
            "Tasks of both APIs, in the order in which they were made, and with a token of scope "
            "`tasks:read` the function tasks of its account. Each with its receiver, who holds it "
            "until when, how often it was sent, the last error and the next try. A page may end "
            "early; the last page has no cursor. All finished tasks are listed for one promise "
            "(`root`), else only some recent ones."
        ),
        handler=list_tasks,
        scope=Scope.PROMISES_READ,
        query=(
            words_parameter("kind", "Only tasks of these kinds.", FAMILIES),
            words_parameter("states", "Only tasks in these states.", STATES),
            Parameter(
                "receiver",
                "Only tasks for exactly this receiver.",
                {"type": "string"},
                example="poll://any@gpu",
            ),
            Parameter("process", "Only tasks that this process holds.", {"type": "string"}),
            Parameter(
                "root",
                "Only tasks of the promises with these ids; `*` stands for any characters.",
                {"type": "string"},
                example="order/*",
            ),
            Parameter(
                "order",
                "Which come first.",
                {"type": "string", "enum": list(ORDERS), "default": "oldest"},
            ),
            limit_parameter(),
            CURSOR,
        ),
        successes=(Success(200, "A page of tasks.", SeenTaskPageObject),),
    ),
    Endpoint(
        name="showTask",
        group="Questions",
        method="GET",
        path="/tasks/show/{id...}",
        summary="Show a task",
        description="By its id or, for a task of the envelope protocol, its promise's id.",
        handler=show_task,
        scope=Scope.PROMISES_READ,
        path_parameters=(ID_PARAMETER,),
        successes=(Success(200, "The task.", SeenTaskObject),),
        refusals=(Code.TASK_NOT_FOUND,),
    ),
    Endpoint(
        name="listLocks",
        answers_much=True,
        group="Questions",
        method="GET",
        path="/locks",
        summary="List the locks that are held",
        description=(
            "In the order of their resources; of very many locks, in that order for each shard. A "
            "page may end early; the last page has no cursor."
        ),
        handler=list_locks,
        scope=Scope.PROMISES_READ,
        query=(
            Parameter(
                "id",
                "Only locks on these resources; `*` stands for any characters.",
                {"type": "string"},
                example="printer*",
            ),
            Parameter("process", "Only locks that this process renews.", {"type": "string"}),
            limit_parameter(),
            CURSOR,
        ),
        successes=(Success(200, "A page of locks.", LockPageObject),),
    ),
    Endpoint(
        name="listTimers",
        answers_much=True,
        group="Questions",
        method="GET",
        path="/timers",
        summary="List what comes due next",
        description=(
            "Timeouts of promises, timers that end, leases, delays, locks and runs of schedules, "
            "in the order of time; the last page has no cursor."
        ),
        handler=list_timers,
        scope=Scope.PROMISES_READ,
        query=(
            Parameter(
                "until",
                "Only what comes due up to this time, in milliseconds since 1970.",
                {"type": "integer", "format": "int64", "minimum": 0},
            ),
            limit_parameter(),
            CURSOR,
        ),
        successes=(Success(200, "What comes due.", TimersPageObject),),
    ),
)
