"""Who takes work, and what waits for whom: `GET /workers` and `GET /queues`.

A token with an id prefix sees the groups that it might listen to: those that begin so.
"""

from typing import Annotated, Final

from msgspec import Struct

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.api.context import Api
from troth.http.api.permissions import refuse_unless_within
from troth.http.api.rows import Call, Endpoint, Success, answer
from troth.http.api.shards_port import answered
from troth.http.questions.asked import CURSOR, AskedQuery, cursor, limit_parameter
from troth.http.wire.answers import told
from troth.http.wire.fields import Text
from troth.http.wire.requests import Response
from troth.shards.surveys.queues import WholeQueues

from .traffic_answers import (
    QueuesObject,
    WorkersObject,
    node_object,
    queue_object,
    worker_object,
)

NODES_LIMIT_COUNT: Final = 1_000
"""How many nodes are shown; those with a stream come first."""


class _Place(Struct, frozen=True, array_like=True, tag="workers"):
    """The stream that a page ends with, and how many rows a page has."""

    group: str
    id: str
    limit_count: int


def queues_of(api: Api) -> WholeQueues:
    """Return what looks at the receivers."""
    assert api.queues is not None, "a server has queues"
    return api.queues


async def workers(api: Api, call: Call) -> Response:
    """GET /workers."""
    principal = call.request.principal
    asked = AskedQuery(call.request.query)
    place = asked.place(_Place, api.shards.cursor_secret)
    limit_count = asked.limit()
    asked.done()
    after = None
    if place is not None:
        after, limit_count = (place.group, place.id), place.limit_count
    rows, has_more = await answered(queues_of(api).workers(limit_count, after, principal.id_prefix))
    nodes = []
    if place is None and not principal.id_prefix and api.placement is not None:
        known = sorted(api.placement.nodes.values(), key=lambda node: node.connection is None)
        nodes = [node_object(node) for node in known[:NODES_LIMIT_COUNT]]
    following = None
    if has_more and rows:
        last = _Place(rows[-1].group, rows[-1].id, limit_count)
        following = cursor(last, api.shards.cursor_secret)
    made = WorkersObject(following, [worker_object(row) for row in rows], nodes)
    return answer(Code.OK, made)


async def queues(api: Api, call: Call) -> Response:
    """GET /queues."""
    asked = AskedQuery(call.request.query)
    limit_count = asked.limit()
    asked.done()
    found = await answered(queues_of(api).longest(limit_count, call.request.principal.id_prefix))
    rows = [queue_object(row) for row in found.rows]
    return answer(Code.OK, QueuesObject(rows, found.total_count, found.is_complete))


class RetryQueueBody(Struct):
    """The receiver whose messages are meant."""

    receiver: Annotated[
        str | None,
        Text(
            "As `GET /queues` names it: a group, or the address of pushes.",
            "poll://default",
            required=True,
            limit_bytes=0,
        ),
    ] = None


class RetriedQueueObject(Struct, gc=False):
    """How much is sent again."""

    receiver: Annotated[str, told("The receiver.", "poll://default")]
    retried: Annotated[int, told("How many messages were stalled.", 12)]


async def retry_queue(api: Api, call: Call) -> Response:
    """POST /queues/retry."""
    body: RetryQueueBody = call.body
    receiver = body.receiver or ""
    # Of receivers, only groups have a beginning that a token can be limited to.
    refuse_unless_within(call.request.principal, (receiver.removeprefix("poll://"),))
    count = await queues_of(api).retry(receiver)
    return answer(Code.OK, RetriedQueueObject(receiver, count))


ENDPOINTS = (
    Endpoint(
        name="retryQueue",
        group="Server",
        method="POST",
        path="/queues/retry",
        summary="Send all that is stalled for a receiver now",
        description=(
            "Messages that could not be sent go again as soon as the receiver has room, without "
            "waiting for their next try. A receiver of pushes that fails gets one immediately, "
            "and the others when that was accepted."
        ),
        handler=retry_queue,
        scope=Scope.PROMISES_WRITE,
        body=RetryQueueBody,
        successes=(Success(200, "They are sent.", RetriedQueueObject),),
        examples=("troth queues retry poll://default",),
    ),
    Endpoint(
        name="workers",
        group="Server",
        method="GET",
        path="/workers",
        summary="List the workers and nodes that are connected",
        handler=workers,
        scope=Scope.METRICS_READ,
        query=(limit_parameter(), CURSOR),
        successes=(Success(200, "A page of streams.", WorkersObject),),
        examples=("troth workers",),
    ),
    Endpoint(
        name="queues",
        group="Server",
        method="GET",
        path="/queues",
        summary="List the receivers of messages, and what waits for each",
        handler=queues,
        scope=Scope.METRICS_READ,
        query=(limit_parameter(),),
        successes=(Success(200, "Those with most messages.", QueuesObject),),
        examples=("troth queues",),
    ),
)
