"""The endpoints that are not about promises: health, metrics and documentation."""

# ruff: noqa: ARG001 — handlers share one signature.

from typing import Annotated, Any

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.api.context import Api, Readiness
from troth.http.api.rows import Call, Endpoint, Success, answer
from troth.http.metrics.metrics import OPEN_METRICS_TYPE, TEXT_TYPE
from troth.http.wire.answers import told
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Response

from .answers import StatusObject

_DOCUMENT = Annotated[dict[str, Any], told("An OpenAPI description.")]
_PAGE = Success(200, "A page.", str, "text/html")
_TO_UI = Success(302, "A browser (`Accept: text/html`) is led to the web UI, unless that is off.")


async def ping(api: Api, call: Call) -> Response:
    """GET /ping."""
    return answer(Code.OK, StatusObject("ok"))


async def health(api: Api, call: Call) -> Response:
    """GET /health: that this line runs is the answer."""
    return answer(Code.OK, StatusObject("ok"))


async def ready(api: Api, call: Call) -> Response:
    """GET /ready."""
    if api.readiness is Readiness.READY:
        if not api.others_are_ready():
            raise ApiError(Code.STARTING, message="Not all processes of the server are ready.")
        step_ms = api.clock_step_ms()
        if not step_ms:
            return answer(Code.OK, StatusObject("ready"))
        clock = f"the wall clock was set by {step_ms} ms while the server ran"
        return answer(Code.OK, StatusObject("ready", clock))
    api.refuse_unless_ready()
    raise AssertionError("not ready means refused")


async def show_metrics(api: Api, call: Call) -> Response:
    """GET /metrics."""
    names_accounts = Scope.ADMIN in call.request.principal.scopes
    is_open = b"application/openmetrics-text" in call.request.headers.get(b"accept", b"")
    text = await api.scrape(names_accounts=names_accounts, is_open=is_open)
    kind = OPEN_METRICS_TYPE if is_open else TEXT_TYPE
    return Response(200, text, [(b"content-type", kind), (b"vary", b"Accept")])


async def show_openapi(api: Api, call: Call) -> Response:
    """GET /openapi.json."""
    return api.documents.openapi.answer(call.request)


async def show_start(api: Api, call: Call) -> Response:
    """GET /: a browser is led to the web UI."""
    wants_page = b"text/html" in call.request.headers.get(b"accept", b"").lower()
    if api.documents.ui is not None and wants_page:
        return Response(302, headers=[(b"vary", b"Accept"), (b"location", b"ui/")])
    return api.documents.start.answer(call.request)


async def show_documentation(api: Api, call: Call) -> Response:
    """GET /docs."""
    return api.documents.documentation.answer(call.request)


async def show_errors(api: Api, call: Call) -> Response:
    """GET /docs/errors."""
    return api.documents.errors.answer(call.request)


async def show_metric_documentation(api: Api, call: Call) -> Response:
    """GET /docs/metrics."""
    return api.documents.metrics.answer(call.request)


async def show_script(api: Api, call: Call) -> Response:
    """GET /docs/script.js."""
    return api.documents.script.answer(call.request)


async def show_style(api: Api, call: Call) -> Response:
    """GET /docs/style.css."""
    return api.documents.style.answer(call.request)


ENDPOINTS = (
    Endpoint(
        name="ping",
        group="Server",
        method="GET",
        path="/ping",
        summary="Check whether the server answers",
        handler=ping,
        successes=(Success(200, "It does.", StatusObject),),
        any_host=True,
        public=True,
        sheltered=False,
    ),
    Endpoint(
        name="health",
        group="Server",
        method="GET",
        path="/health",
        summary="Check whether the server is alive",
        description="For a supervisor that restarts dead servers.",
        handler=health,
        successes=(Success(200, "It is.", StatusObject),),
        any_host=True,
        public=True,
        sheltered=False,
    ),
    Endpoint(
        name="ready",
        group="Server",
        method="GET",
        path="/ready",
        summary="Check whether the server accepts requests",
        description=(
            "For a load balancer. 503 while the server starts or stops, or while one of its "
            "processes does. `clock` is present, "
            "until the next start, if the wall clock was set while the server ran: back by "
            "more than 5 s, or forward by more than 60 s."
        ),
        handler=ready,
        successes=(Success(200, "It does.", StatusObject),),
        any_host=True,
        public=True,
    ),
    Endpoint(
        name="metrics",
        group="Server",
        method="GET",
        path="/metrics",
        summary="Get metrics for Prometheus",
        description=(
            "Metrics of the whole server, so do not give this scope to customers. With the "
            "scope `admin` as well, they include the ids of the accounts with the most "
            "tasks."
        ),
        handler=show_metrics,
        scope=Scope.METRICS_READ,
        successes=(Success(200, "All metrics.", str, "text/plain"),),
        sheltered=False,
    ),
    Endpoint(
        name="openapi",
        group="Server",
        method="GET",
        path="/openapi.json",
        summary="Get the OpenAPI 3.0 description of this API",
        handler=show_openapi,
        successes=(Success(200, "The description.", _DOCUMENT),),
        public=True,
        sheltered=False,
    ),
    *(
        Endpoint(
            name=name,
            group="Server",
            method="GET",
            path=path,
            summary=summary,
            handler=handler,
            successes=successes,
            public=True,
            sheltered=False,
        )
        for name, path, summary, handler, successes in (
            (
                *("documentationStyle", "/docs/style.css", "Get the style of these pages"),
                *(show_style, (Success(200, "A style sheet.", str, "text/css"),)),
            ),
            (
                *("documentationScript", "/docs/script.js", "Get the script of these pages"),
                *(show_script, (Success(200, "A script.", str, "text/javascript"),)),
            ),
            ("start", "/", "Show the start page", show_start, (_PAGE, _TO_UI)),
            ("documentation", "/docs", "Show the API documentation", show_documentation, (_PAGE,)),
            ("errorDocumentation", "/docs/errors", "Show all error codes", show_errors, (_PAGE,)),
            (
                *("metricDocumentation", "/docs/metrics", "Show the meanings of all metrics"),
                *(show_metric_documentation, (_PAGE,)),
            ),
        )
    ),
)
