"""What is not about promises: health, metrics, documentation, and the workers' stream."""

# ruff: noqa: ARG001 — handlers share one signature.

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.shards.polls import TooManyConnections

from .api import Api, Readiness
from .endpoints import Call, Endpoint, Parameter, Success, answer
from .errors import ApiError
from .metrics import CONTENT_TYPE
from .permissions import refuse_unless_within
from .requests import Response, json_response
from .streams import HEADERS, PollStream

_HTML = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
]


async def ping(api: Api, call: Call) -> Response:
    """GET /ping."""
    return answer(Code.OK, {"status": "ok"})


async def health(api: Api, call: Call) -> Response:
    """GET /health: that this line runs is the answer."""
    return answer(Code.OK, {"status": "ok"})


async def ready(api: Api, call: Call) -> Response:
    """GET /ready."""
    if api.readiness is Readiness.READY:
        return answer(Code.OK, {"status": "ready"})
    api.refuse_unless_ready()
    raise AssertionError("not ready means refused")


async def show_metrics(api: Api, call: Call) -> Response:
    """GET /metrics."""
    return Response(200, api.metrics.render(), [(b"content-type", CONTENT_TYPE)])


async def show_openapi(api: Api, call: Call) -> Response:
    """GET /openapi.json."""
    return json_response(200, api.pages.openapi)


async def show_start(api: Api, call: Call) -> Response:
    """GET /."""
    return Response(200, api.pages.start, _HTML)


async def show_documentation(api: Api, call: Call) -> Response:
    """GET /docs."""
    return Response(200, api.pages.documentation, _HTML)


async def show_errors(api: Api, call: Call) -> Response:
    """GET /docs/errors."""
    return Response(200, api.pages.errors, _HTML)


async def poll(api: Api, call: Call) -> Response:
    """GET /poll/{group}/{id}. A token with an id prefix may listen to groups that begin so."""
    refuse_unless_within(call.request.principal, (call.path["group"],))
    try:
        connection = api.polls.connect(call.path["group"], call.path["id"])
    except TooManyConnections as error:
        message = "All connections of workers are in use. Connect again after `Retry-After`."
        raise ApiError(Code.OVERLOADED, message=message) from error
    stream = PollStream(connection, api.settings.poll_keep_alive_ms)
    return Response(200, headers=HEADERS, stream=stream)


def _poll_endpoint(name: str, path: str, summary: str, description: str) -> Endpoint:
    return Endpoint(
        name=name,
        group="Workers",
        method="GET",
        path=path,
        summary=summary,
        description=description,
        handler=poll,
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
        successes=(Success(200, "A stream of messages.", "Message", "text/event-stream"),),
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
    Endpoint(
        name="ping",
        group="Server",
        method="GET",
        path="/ping",
        summary="See whether the server answers",
        handler=ping,
        successes=(Success(200, "It does.", "Status"),),
        any_host=True,
        public=True,
        sheltered=False,
    ),
    Endpoint(
        name="health",
        group="Server",
        method="GET",
        path="/health",
        summary="See whether the server is alive",
        description="For a supervisor that restarts dead servers.",
        handler=health,
        successes=(Success(200, "It is.", "Status"),),
        any_host=True,
        public=True,
        sheltered=False,
    ),
    Endpoint(
        name="ready",
        group="Server",
        method="GET",
        path="/ready",
        summary="See whether the server takes requests",
        description="For a load balancer. 503 while the server starts or stops.",
        handler=ready,
        successes=(Success(200, "It does.", "Status"),),
        any_host=True,
        public=True,
    ),
    Endpoint(
        name="metrics",
        group="Server",
        method="GET",
        path="/metrics",
        summary="Numbers for Prometheus",
        description=(
            "About the whole server: the ids of accounts that have most tasks are among them, so "
            "the scope is not one to give to customers."
        ),
        handler=show_metrics,
        scope=Scope.METRICS_READ,
        successes=(Success(200, "All metrics.", "Text", "text/plain"),),
        sheltered=False,
    ),
    Endpoint(
        name="openapi",
        group="Server",
        method="GET",
        path="/openapi.json",
        summary="This API, as OpenAPI 3.1",
        handler=show_openapi,
        successes=(Success(200, "The description.", "AnyObject"),),
        public=True,
        sheltered=False,
    ),
    Endpoint(
        name="start",
        group="Server",
        method="GET",
        path="/",
        summary="Where to go from here",
        handler=show_start,
        successes=(Success(200, "A page.", "Text", "text/html"),),
        public=True,
        sheltered=False,
    ),
    Endpoint(
        name="documentation",
        group="Server",
        method="GET",
        path="/docs",
        summary="This API, for people",
        handler=show_documentation,
        successes=(Success(200, "A page.", "Text", "text/html"),),
        public=True,
        sheltered=False,
    ),
    Endpoint(
        name="errorDocumentation",
        group="Server",
        method="GET",
        path="/docs/errors",
        summary="All error codes",
        handler=show_errors,
        successes=(Success(200, "A page.", "Text", "text/html"),),
        public=True,
        sheltered=False,
    ),
)

POLL_PORT_ENDPOINTS = (
    _poll_endpoint(
        "pollPort", "/{group}/{id...}", "Be sent messages", "The only endpoint of the poll port."
    ),
)
