"""The workers' stream of messages, on the API port and on the poll port."""

from typing import Annotated

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.api.context import Api
from troth.http.api.permissions import refuse_unless_within
from troth.http.api.rows import Call, Endpoint, Parameter, Success
from troth.http.api.streams import HEADERS, PollStream
from troth.http.wire.answers import told
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Response
from troth.shards.delivery.polls import TooManyConnections


async def poll(api: Api, call: Call) -> Response:
    """GET /poll/{group}/{id}. A token with an id prefix may listen to groups that begin so."""
    refuse_unless_within(call.request.principal, (call.path["group"],))
    if call.request.method == "HEAD":
        return Response(200, headers=HEADERS)
    try:
        connection = api.polls.connect(call.path["group"], call.path["id"])
    except TooManyConnections as error:
        message = "All connections of workers are in use. Connect again after `Retry-After`."
        raise ApiError(Code.OVERLOADED, message=message) from error
    stream = PollStream(connection, api.settings.poll_keep_alive_ms)
    return Response(200, headers=HEADERS, stream=stream)


_MESSAGE = Annotated[
    str,
    told(
        "Server-sent events. Each is one message as JSON: `type` is `invoke` or `resume`, with "
        "`task` and `href`, or `notify`, with `promise`.",
        'data: {"href":{"claim":"…"},"task":{"id":"__invoke:order/42","counter":1},'
        '"type":"invoke"}\n\n',
    ),
]


def _poll_endpoint(name: str, path: str, summary: str, description: str) -> Endpoint:
    return Endpoint(
        name=name,
        group="Workers",
        method="GET",
        path=path,
        summary=summary,
        description=description,
        handler=poll,
        changes_by_link=True,
        scope=Scope.PROMISES_WRITE,
        path_parameters=(
            Parameter(
                "group",
                "The group that messages are addressed to.",
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
        "Be sent messages",
        "A stream of server-sent events, each a message as JSON, and comments that keep it "
        "alive. A new "
        "connection with the same group and id ends the older one. The same stream is on the poll "
        "port at `/{group}/{id}`.",
    ),
)

POLL_PORT_ENDPOINTS = (
    _poll_endpoint(
        "pollPort",
        "/{group}/{id...}",
        "Be sent messages",
        "The poll port has this and the probes.",
    ),
)
