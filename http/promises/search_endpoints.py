"""Search for promises and schedules, page by page (rest.md 10, decisions.md 1).

`*` in the id stands for any characters and is the only wildcard. When a cursor is given, the
search is the cursor's; the other parameters are checked and then not used. A token with an id
prefix finds only ids that begin so, whatever its cursor says.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import orjson
from msgspec.structs import replace

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.commands import TimeRange
from troth.core.lifecycles import CANCELED, PENDING, REJECTED, RESOLVED, TIMEDOUT
from troth.core.limits import INTEGER_MAX, INTEGER_MIN, PAGE_LIMIT_COUNT
from troth.core.model import Promise, PromiseState, Value
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Parameter, Success, answer
from troth.http.api.shards_port import answered
from troth.http.wire.cursors import Search, decode_cursor, encode_cursor
from troth.http.wire.decoding import integer, query_parameters
from troth.http.wire.errors import ApiError, FieldProblem, invalid
from troth.http.wire.requests import Response
from troth.http.wire.schema_parts import Schema
from troth.shards.gathering import SearchBounds

from .answers import (
    PREVIEW_CHARACTERS_COUNT,
    LookedObject,
    PromisePageObject,
    SchedulePageObject,
    ValueObject,
    preview_object,
    promise_object,
    schedule_object,
    value_object,
)

_ALL_STATES = (PENDING, RESOLVED, REJECTED, TIMEDOUT, CANCELED)
_STATES: dict[str, tuple[PromiseState, ...]] = {
    "pending": (PENDING,),
    "resolved": (RESOLVED,),
    "rejected": (REJECTED, TIMEDOUT, CANCELED),
}
EXACT_STATES: dict[str, PromiseState] = {
    "pending": PENDING,
    "resolved": RESOLVED,
    "rejected": REJECTED,
    "canceled": CANCELED,
    "timedout": TIMEDOUT,
}
"""What each state of a promise is called where states are told apart."""
FULL, PREVIEW, NONE = "full", "preview", "none"
_VALUES: Mapping[str, Callable[[Value], ValueObject]] = {
    FULL: value_object,
    PREVIEW: partial(preview_object, shown_count=PREVIEW_CHARACTERS_COUNT),
    NONE: partial(preview_object, shown_count=0),
}
_WORDS: Mapping[str, bool] = {"true": True, "false": False}
_ORDERS: Mapping[str, bool] = {"newest": False, "oldest": True}


async def search_promises(api: Api, call: Call) -> Response:
    """GET /promises."""
    search = read_search(api, query_parameters(call.request.query), "promises")
    found, before_serial = await answered(
        api.shards.search_promises(
            search.pattern,
            search.states,
            search.tags,
            search.limit_count,
            search.before_serial,
            call.request.principal.id_prefix,
            SearchBounds(search.created, search.completed, search.is_partial, search.oldest_first),
        )
    )
    cursor = _next(search, before_serial, api)
    shown = _VALUES.get(search.values, value_object)
    page = PromisePageObject(cursor, [promise_object(one, shown) for one in found])
    if search.is_partial:
        page.looked = await _looked(api, search, found, before_serial)
    return answer(Code.OK, page)


async def _looked(
    api: Api, search: Search, found: list[Promise], before_serial: int | None
) -> LookedObject:
    """Return how far a search has come, by the order of creation."""
    numbers = await answered(api.whole.numbers())
    of_count = sum(numbers.counts.promises.values())
    # Serials say when, so this takes promises to have been created at an even rate.
    oldest, newest = numbers.oldest_serial, numbers.largest_serial
    span = passed = max(newest - oldest, 1)
    if before_serial is not None:
        passed = before_serial - oldest if search.oldest_first else newest - before_serial
    through_count = min(of_count, of_count * max(passed, 0) // span)
    return LookedObject(through_count, of_count, found[-1].created_on if found else None)


async def search_schedules(api: Api, call: Call) -> Response:
    """GET /schedules."""
    search = read_search(api, query_parameters(call.request.query), "schedules")
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
    following = replace(search, before_serial=before_serial)
    return encode_cursor(following, api.shards.cursor_secret)


def read_search(api: Api, given: dict[str, str], kind: str) -> Search:
    """Read a search from query parameters. Raises ApiError with all that is wrong."""
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
    if kind == "promises" and given.get("states"):
        states = _exact_states(given["states"], found)
    limit_count = _limit(given.get("limit", ""), found)
    times = {name: _time(given, name, found) for name in _TIMES} if kind == "promises" else {}
    values = _word(given, "values", _VALUES, FULL, found)
    is_partial = _WORDS[_word(given, "partial", _WORDS, "false", found)]
    oldest_first = _ORDERS[_word(given, "order", _ORDERS, "newest", found)]
    tags = _tags(given, found, api.limits.tags_limit_count)
    if found:
        raise ApiError(Code.INVALID, found)
    if cursor:
        return decode_cursor(cursor, kind, api.shards.cursor_secret)
    if kind != "promises":
        return Search(kind, pattern or "", states, tags, limit_count, None)
    return Search(
        kind,
        pattern or "",
        states,
        tags,
        limit_count,
        None,
        _range(times["createdFrom"], times["createdTo"]),
        _range(times["completedFrom"], times["completedTo"]),
        values,
        is_partial,
        oldest_first,
    )


_TIMES = ("createdFrom", "createdTo", "completedFrom", "completedTo")
PROMISE_FILTERS = frozenset({"id", "state", "states", *_TIMES})
SCHEDULE_FILTERS = frozenset({"id"})
"""The parameters that say what is found, besides tags."""


def _time(given: dict[str, str], name: str, found: list[FieldProblem]) -> int | None:
    if not given.get(name):
        return None
    try:
        return integer(f"query {name}", given[name])
    except ApiError as error:
        found.extend(error.problems)
        return None


def _range(first: int | None, end: int | None) -> TimeRange | None:
    if first is None and end is None:
        return None
    return INTEGER_MIN if first is None else first, INTEGER_MAX if end is None else end


def _word(
    given: dict[str, str],
    name: str,
    known: Mapping[str, object],
    default: str,
    found: list[FieldProblem],
) -> str:
    word = (given.get(name) or default).lower()
    if word in known:
        return word
    problem = f"must be one of {', '.join(known)} (got {given[name][:64]!r})"
    found.append(FieldProblem(f"query {name}", problem))
    return default


def _exact_states(given: str, found: list[FieldProblem]) -> tuple[PromiseState, ...]:
    words = given.lower().split(",")
    unknown = [word for word in words if word not in EXACT_STATES]
    if unknown:
        problem = f"must be some of {', '.join(EXACT_STATES)} (got {unknown[0][:64]!r})"
        found.append(FieldProblem("query states", problem))
        return _ALL_STATES
    return tuple(dict.fromkeys(EXACT_STATES[word] for word in words))


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


def names_tag(name: str) -> bool:
    """Return whether a parameter asks for a tag."""
    return len(name) > 6 and name.startswith("tags[") and name.endswith("]")


def _tags(given: dict[str, str], found: list[FieldProblem], limit_count: int) -> dict[str, str]:
    tags = {name[5:-1]: text for name, text in given.items() if names_tag(name)}
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


def words_schema(known: Iterable[str]) -> Schema:
    """Return the schema of a list of words with commas between; empty is as if absent."""
    word = "|".join(known)
    return {"type": "string", "pattern": f"^(({word})(,({word}))*)?$"}


_TIME_PARAMETERS = tuple(
    Parameter(
        name,
        f"Only promises that were {name[:-4] if name.endswith('From') else name[:-2]} "
        f"{'at this time or later' if name.endswith('From') else 'before this time'}, in "
        "milliseconds since 1970.",
        {"type": "integer", "format": "int64"},
    )
    for name in _TIMES
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
            Parameter(
                "states",
                "Only promises in exactly these states, with commas between.",
                words_schema(EXACT_STATES),
                example="rejected,timedout",
            ),
            _TAGS,
            *_TIME_PARAMETERS,
            Parameter(
                "order",
                "Which come first.",
                {"type": "string", "enum": list(_ORDERS), "default": "newest"},
            ),
            Parameter(
                "values",
                f"How much of params and values is shown: `{PREVIEW}` is the first "
                f"{PREVIEW_CHARACTERS_COUNT} characters of `data`.",
                {"type": "string", "enum": list(_VALUES), "default": FULL},
            ),
            Parameter(
                "partial",
                "With `true` a page ends, perhaps empty, when it has cost 50 ms, and `looked` "
                "says how far the search has come.",
                {"type": "boolean", "default": False},
            ),
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
