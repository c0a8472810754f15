"""The row of the live feed: `GET /events`."""

from typing import Annotated, Final

from troth.core.catalog import RESERVED_PREFIX, Scope
from troth.core.codes import Code
from troth.http.api.context import Api
from troth.http.api.permissions import refuse_unless_within
from troth.http.api.rows import Call, Endpoint, Parameter, Success, require_scope
from troth.http.api.streams import HEADERS
from troth.http.questions.asked import AskedQuery, words_parameter
from troth.http.wire.answers import told
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Response

from .feed_stream import WATCHED_LIMIT_COUNT, Topic


async def events(api: Api, call: Call) -> Response:
    """GET /events."""
    principal = call.request.principal
    asked = AskedQuery(call.request.query)
    topics = asked.words("topics", list(Topic))
    watched = asked.texts("watch", WATCHED_LIMIT_COUNT)
    if not topics and not watched:
        asked.refuse("topics", "must name at least one topic, unless `watch` names a promise")
    asked.done()
    if topics & {Topic.COUNTERS, Topic.QUEUES}:
        require_scope(call, Scope.METRICS_READ)
    if watched or Topic.BULK in topics:
        require_scope(call, Scope.PROMISES_READ)
        refuse_unless_within(principal, watched)
        if any(one.startswith(RESERVED_PREFIX) for one in watched):
            raise ApiError(Code.RESERVED_ID)
    if call.request.method == "HEAD":
        return Response(200, headers=HEADERS)
    assert api.feed is not None, "a server has a feed"
    return Response(200, headers=HEADERS, stream=api.feed.open(principal, topics, watched))


_EVENT = Annotated[
    str,
    told(
        "Server-sent events with names. `counters`, `queues`, `failures` and `bulk` come once a "
        "second, if something has changed, and first with what there is; `changed` has the watched "
        "`ids` that have changed. `skipped` says how many events of each topic were left out, "
        "since the client read too slowly. All but the last say when, `at`.",
        'event: changed\ndata: {"at":1700000000000,"ids":["order/42"]}\n\n',
    ),
]

ENDPOINTS: Final = (
    Endpoint(
        name="events",
        group="Server",
        method="GET",
        path="/events",
        summary="Hear what changes",
        description=(
            "A stream for pages and dashboards; of what was missed it tells only the newest. "
            "`counters` and `queues` need `metrics:read`, `watch` and `bulk` `promises:read`; with "
            "`promises:read` alone `failures` has promises only. A promise also counts as changed "
            "when its tasks or what waits for it do, or a promise whose tags name it as their "
            "root or origin; renewed leases are no change. The 20 receivers with most waiting, "
            "the 20 newest failures and the 20 newest bulk jobs are told."
        ),
        handler=events,
        scope=Scope.METRICS_READ,
        or_scope=Scope.PROMISES_READ,
        query=(
            words_parameter("topics", "What to tell.", [topic.value for topic in Topic]),
            Parameter(
                "watch",
                "A promise to watch; may be repeated.",
                {
                    "type": "array",
                    "items": {"type": "string"},
                    "maxItems": WATCHED_LIMIT_COUNT,
                },
                example=["order/42"],
            ),
        ),
        successes=(Success(200, "A stream of events.", _EVENT, "text/event-stream"),),
        examples=(
            "troth events --topic counters --watch order/42",
            "curl -N 'localhost:8001/events?topics=counters,failures&watch=order/42'",
        ),
    ),
)
