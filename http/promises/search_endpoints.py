"""Search for promises and schedules, page by page (rest.md 10, decisions.md 1).

`*` in the id stands for any characters and is the only wildcard. When a cursor is given, the
search is the cursor's; the other parameters are checked and then not used. A token with an id
prefix finds only ids that begin so, whatever its cursor says.
"""

import orjson

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.lifecycles import CANCELED, PENDING, REJECTED, RESOLVED, TIMEDOUT
from troth.core.limits import PAGE_LIMIT_COUNT
from troth.core.model import PromiseState
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Parameter, Success, answer
from troth.http.api.shards_port import answered
from troth.http.wire.cursors import Search, decode_cursor, encode_cursor
from troth.http.wire.decoding import integer, query_parameters
from troth.http.wire.errors import ApiError, FieldProblem, invalid
from troth.http.wire.requests import Response

from .answers import PromisePageObject, SchedulePageObject, promise_object, schedule_object

_ALL_STATES = (PENDING, RESOLVED, REJECTED, TIMEDOUT, CANCELED)
_STATES: dict[str, tuple[PromiseState, ...]] = {
    "pending": (PENDING,),
    "resolved": (RESOLVED,),
    "rejected": (REJECTED, TIMEDOUT, CANCELED),
}


async def search_promises(api: Api, call: Call) -> Response:
    """GET /promises."""
    search = _search(api, call.request.query, "promises")
    found, before_serial = await answered(
        api.shards.search_promises(
            search.pattern,
            search.states,
            search.tags,
            search.limit_count,
            search.before_serial,
            call.request.principal.id_prefix,
        )
    )
    cursor = _next(search, before_serial, api)
    return answer(Code.OK, PromisePageObject(cursor, [promise_object(p) for p in found]))


async def search_schedules(api: Api, call: Call) -> Response:
    """GET /schedules."""
    search = _search(api, call.request.query, "schedules")
    found, before_serial = await answered(
        api.shards.search_schedules(
            search.pattern,
            search.tags,
            search.limit_count,
            search.before_serial,
            call.request.principal.id_prefix,
        )
    )
    cursor = _next(search, before_serial, api)
    return answer(Code.OK, SchedulePageObject(cursor, [schedule_object(s) for s in found]))


def _next(search: Search, before_serial: int | None, api: Api) -> str | None:
    if before_serial is None:
        return None
    following = Search(
        search.kind, search.pattern, search.states, search.tags, search.limit_count, before_serial
    )
    return encode_cursor(following, api.shards.cursor_secret)


def _search(api: Api, query: bytes, kind: str) -> Search:
    """Read a search from a query string. Raises ApiError with all that is wrong."""
    given = query_parameters(query)
    found: list[FieldProblem] = []
    cursor = given.get("cursor", "")
    pattern = given.get("id")
    if not pattern and (pattern is not None or not cursor):
        found.append(FieldProblem("query id", "is required; `*` stands for any characters"))
    states: tuple[PromiseState, ...] = _ALL_STATES if kind == "promises" else ()
    if kind == "promises" and "state" in given:
        word = given["state"].lower()
        if word in _STATES:
            states = _STATES[word]
        else:
            found.append(
                FieldProblem(
                    "query state",
                    f"must be one of {', '.join(_STATES)} (got {given['state'][:64]!r})",
                )
            )
    limit_count = _limit(given.get("limit", ""), found)
    tags = _tags(given, found, api.limits.tags_limit_count)
    if found:
        raise ApiError(Code.INVALID, found)
    if cursor:
        return decode_cursor(cursor, kind, api.shards.cursor_secret)
    return Search(kind, pattern or "", states, tags, limit_count, None)


def _limit(given: str, found: list[FieldProblem]) -> int:
    if not given:
        return PAGE_LIMIT_COUNT
    try:
        limit_count = integer("query limit", given)
        if not 0 <= limit_count <= PAGE_LIMIT_COUNT:
            raise invalid(
                "query limit", f"must be between 0 and {PAGE_LIMIT_COUNT} (got {limit_count})"
            )
    except ApiError as error:
        found.extend(error.problems)
        return PAGE_LIMIT_COUNT
    return limit_count or PAGE_LIMIT_COUNT


def _tags(given: dict[str, str], found: list[FieldProblem], limit_count: int) -> dict[str, str]:
    tags = {
        name[5:-1]: text
        for name, text in given.items()
        if len(name) > 6 and name.startswith("tags[") and name.endswith("]")
    }
    if len(tags) > limit_count:
        found.append(
            FieldProblem("query tags", f"must be at most {limit_count} (got {len(tags)} tags)")
        )
    if given.get("tags"):
        try:
            usable = isinstance(orjson.loads(given["tags"]), dict)
        except orjson.JSONDecodeError:
            usable = False
        if not usable:
            found.append(
                FieldProblem("query tags", "must be written tags[name]=value, one for each tag")
            )
    return tags


_LIMIT = Parameter(
    "limit",
    f"Results per page; 0 means {PAGE_LIMIT_COUNT}.",
    {"type": "integer", "minimum": 0, "maximum": PAGE_LIMIT_COUNT},
    example=10,
)
_CURSOR = Parameter(
    "cursor",
    "The `cursor` of the previous page. The search then continues as it began; other "
    "parameters are ignored.",
    {"type": "string"},
)
_TAGS = Parameter(
    "tags",
    "Only results with all these tags: `tags[team]=orders`.",
    {"type": "object", "additionalProperties": {"type": "string"}},
    deep=True,
)


def _pattern(example: str) -> Parameter:
    return Parameter(
        "id",
        "The ids to find; `*` stands for any characters. Required without a cursor.",
        {"type": "string", "minLength": 1},
        example=example,
    )


ENDPOINTS = (
    Endpoint(
        name="searchPromises",
        answers_much=True,
        group="Promises",
        method="GET",
        path="/promises",
        summary="Search for promises",
        description="Newest first. A page of large promises ends early; the last page has "
        "no cursor.",
        handler=search_promises,
        scope=Scope.PROMISES_READ,
        query=(
            _pattern("order/*"),
            Parameter(
                "state",
                "Only promises in this state; `rejected` includes canceled and timed out.",
                {"type": "string", "enum": list(_STATES)},
                example="pending",
            ),
            _TAGS,
            _LIMIT,
            _CURSOR,
        ),
        successes=(Success(200, "A page of promises.", PromisePageObject),),
    ),
    Endpoint(
        name="searchSchedules",
        answers_much=True,
        group="Schedules",
        method="GET",
        path="/schedules",
        summary="Search for schedules",
        description="Newest first. A page of large schedules ends early; the last page has "
        "no cursor.",
        handler=search_schedules,
        scope=Scope.PROMISES_READ,
        query=(_pattern("nightly*"), _TAGS, _LIMIT, _CURSOR),
        successes=(Success(200, "A page of schedules.", SchedulePageObject),),
    ),
)
