"""The workers' stream of messages, on the API port and on the poll port."""

import math
import random
from typing import Annotated, Final

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.api.context import Api
from troth.http.api.permissions import refuse_unless_within
from troth.http.api.rows import Call, Endpoint, Handler, Parameter, Success
from troth.http.api.streams import HEADERS, PollStream
from troth.http.wire.answers import told
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Response
from troth.shards.delivery.dialects import Dialect
from troth.shards.delivery.polls import TooManyConnections

POLL_STREAM_SPREAD: Final = 1 / 12
"""By how much of their time streams end sooner or later."""


async def poll(api: Api, call: Call) -> Response:
    """GET /poll/{group}/{id}: which of the protocols its worker speaks, it shows (11.7)."""
    limit_ms = api.settings.poll_stream_limit_ms
    # Not a secret: only that streams which began together do not all end together.
    spread = random.uniform(-1, 1) * POLL_STREAM_SPREAD  # noqa: S311
    return await _poll(api, call, 0, None, limit_ms / 1000 * (1 + spread))


async def poll_rest(api: Api, call: Call) -> Response:
    """GET /{group}/{id} on the poll port, which is for workers of the REST API."""
    return await _poll(api, call, 1, Dialect.REST, math.inf)


async def _poll(
    api: Api, call: Call, port_number: int, dialect: Dialect | None, limit_s: float
) -> Response:
    """Open a stream. A token with an id prefix may listen to groups that begin so."""
    refuse_unless_within(call.request.principal, (call.path["group"],))
    if call.request.method == "HEAD":
        return Response(200, headers=HEADERS)
    if api.stream_relay is not None:
        home = api.stream_relay.home_of(call.path["group"])
        if home is not None:
            return await api.stream_relay.open(home, port_number, call.request)
    try:
        connection = api.polls.connect(call.path["group"], call.path["id"], dialect)
    except TooManyConnections as error:
        message = "All worker connections are in use. Connect again after `Retry-After`."
        raise ApiError(Code.OVERLOADED, message=message) from error
    connection.peer, connection.since_ms = call.request.peer, api.now_ms()
    stream = PollStream(connection, api.settings.poll_keep_alive_ms, limit_s)
    return Response(200, headers=HEADERS, stream=stream)


_MESSAGE = Annotated[
    str,
    told(
        "Server-sent events. Each is one message as JSON: `type` is `invoke` or `resume`, with "
        "`task` and `href`, or `notify`, with `promise`; for the envelope protocol `kind` is "
        "`execute`, with `task` in `data`, or `unblock`, with `promise` in `data`.",
        'data: {"href":{"claim":"…"},"task":{"id":"__invoke:order/42","counter":1},'
        '"type":"invoke"}\n\n',
    ),
]


def _poll_endpoint(
    name: str, path: str, summary: str, description: str, handler: Handler
) -> Endpoint:
    return Endpoint(
        name=name,
        group="Workers",
        method="GET",
        path=path,
        summary=summary,
        description=description,
        handler=handler,
        changes_by_link=True,
        awaits_start=True,
        scope=Scope.PROMISES_WRITE,
        path_parameters=(
            Parameter(
                "group",
                "The group to which messages are addressed.",
                {"type": "string", "minLength": 1},
                required=True,
                example="default",
            ),
            Parameter(
                "id",
                "This worker's id in the group; it may contain slashes.",
                {"type": "string", "minLength": 1},
                required=True,
                example="worker-1",
            ),
        ),
        successes=(Success(200, "A stream of messages.", _MESSAGE, "text/event-stream"),),
    )


ENDPOINTS = (
    _poll_endpoint(
        "poll",
        "/poll/{group}/{id...}",
        "Receive messages",
        "A stream of server-sent events, each a message as JSON, and comments that keep it "
        "alive. A new connection with the same group and id ends the older one. Messages are "
        "those of the REST API or of the envelope protocol, as the worker shows by what it asks "
        "for. After about four minutes the server ends the stream; connect again, no message is "
        "lost. Streams for workers of the REST API alone, which are not ended, are on the poll "
        "port at `/{group}/{id}`.",
        poll,
    ),
)

POLL_PORT_ENDPOINTS = (
    _poll_endpoint(
        "pollPort",
        "/{group}/{id...}",
        "Receive messages",
        "The poll port has this and the probes.",
        poll_rest,
    ),
)
