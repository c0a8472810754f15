"""How many there are of what, and how that went on: `GET /statistics`."""

from typing import Annotated, Final

from msgspec import UNSET, Struct, UnsetType

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.limits import INTEGER_MAX
from troth.core.state.counts import Counts
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Parameter, Success, answer
from troth.http.api.shards_port import answered
from troth.http.promises.search_endpoints import EXACT_STATES
from troth.http.questions.asked import AskedQuery
from troth.http.wire.answers import time_ms, told
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Response
from troth.shards.surveys.series import RESOLUTIONS

from .upkeep import UpkeepObject, upkeep_object

_FIRST = next(iter(RESOLUTIONS))


class SeriesObject(Struct, gc=False):
    """A series of numbers; null where one is not known."""

    name: Annotated[str, told("What is counted.", "promises.created")]
    unit: Annotated[str, told("Its unit.", "per second")]
    values: list[float | None]


class ProcessObject(Struct, gc=False):
    """One process of the server, which has one group of its shards."""

    process: Annotated[int, told("Its number.", 0)]
    promises: Annotated[int, told("How many promises it has, in any state.", 40_000)]


class StatisticsObject(Struct, gc=False, rename="camel"):
    """Counts, and series since the server's start."""

    now: Annotated[int, time_ms("The time")]
    started_on: Annotated[int, time_ms("When the series began")]
    counts: Annotated[dict[str, dict[str, int]], told("By kind and state.", {})]
    resolution_ms: Annotated[int, told("How long each value stands for.", 1_000)]
    first_at: Annotated[int, time_ms("When the first values began")]
    series: list[SeriesObject]
    upkeep: UpkeepObject
    processes: list[ProcessObject] | UnsetType = UNSET
    """Left out unless there are several."""


STATE_WORDS: Final = {state: word for word, state in EXACT_STATES.items()}


def counts_object(counts: Counts) -> dict[str, dict[str, int]]:
    """Return counts by kind and state."""
    return {
        "promises": {word: counts.promises[state] for state, word in STATE_WORDS.items()},
        "tasks": {state.value.lower(): count for state, count in counts.tasks.items()},
        "workflows": {state.value.lower(): count for state, count in counts.workflows.items()},
        "functions": {word: counts.functions[state] for state, word in STATE_WORDS.items()},
    }


async def statistics(api: Api, call: Call) -> Response:
    """GET /statistics."""
    asked = AskedQuery(call.request.query)
    resolution = asked.word("resolution", RESOLUTIONS, _FIRST)
    since = asked.number("since", 0, INTEGER_MAX, 0)
    asked.done()
    if call.request.principal.id_prefix:
        message = "The counts are of all ids, and the token is limited to some."
        raise ApiError(Code.FORBIDDEN_PREFIX, message=message)
    await answered(api.shards.wait_shown())
    series = await answered(api.whole.series(resolution, since))
    numbers = await answered(api.whole.numbers())
    made = StatisticsObject(
        api.now_ms(),
        series.began_ms,
        counts_object(numbers.counts),
        series.step_ms,
        series.first_at,
        [SeriesObject(one.name, one.unit, list(one.values)) for one in series.views],
        await upkeep_object(api),
    )
    if numbers.promises_counts:
        made.processes = [
            ProcessObject(process, count) for process, count in enumerate(numbers.promises_counts)
        ]
    return answer(Code.OK, made)


ENDPOINTS = (
    Endpoint(
        name="statistics",
        group="Server",
        method="GET",
        path="/statistics",
        summary="Count what there is, and show how it went on",
        description=(
            "5 minutes by the second, an hour by 10 s, a day by the minute. The counts are of all "
            "ids: a token with an id prefix is refused."
        ),
        handler=statistics,
        scope=Scope.METRICS_READ,
        query=(
            Parameter(
                "resolution",
                "How long each value stands for.",
                {"type": "string", "enum": list(RESOLUTIONS)},
            ),
            Parameter(
                "since",
                "Only later values, in ms since 1970.",
                {"type": "integer", "format": "int64", "minimum": 0},
            ),
        ),
        successes=(Success(200, "Counts and series.", StatisticsObject),),
        examples=("troth top",),
    ),
)
