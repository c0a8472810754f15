"""The pages for people, made once, when the application is: of the endpoint table, the codes, the
life cycles and the tables of metrics."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from troth.core.codes import EXPLANATIONS, MESSAGES, OURS
from troth.http.api.context import Api, Pages
from troth.http.api.rows import Endpoint
from troth.http.metrics.families import Group
from troth.http.web.ui_files import read_ui
from troth.http.wire.answers import example_of
from troth.http.wire.errors import ErrorObject
from troth.http.wire.requests import JSON_TYPE
from troth.http.wire.static_files import StaticFile

from .api_page import api_page
from .openapi import Documented, openapi_document
from .page_parts import CSS, SCRIPT, inline, json_line, page, paragraphs, table, text

STYLE: Final = Path(__file__).with_name("docs.css")
_SCRIPT: Final = Path(__file__).with_name("docs.js")
_JSON: Final = ((b"content-type", JSON_TYPE), (b"cache-control", b"no-cache"))


def make_pages(
    api: Api, endpoints: tuple[Endpoint, ...], groups: tuple[Group[Any], ...] = ()
) -> Pages:
    """Make all documents of a server. `groups` are its metrics."""
    return pages_of(documented(api), endpoints, groups)


def documented(api: Api) -> Documented:
    """Return what the documents say of a server."""
    base_path = api.settings.base_path if api.settings.ui else None
    return Documented(api.url, api.credentials.has_users, api.limits, base_path)


def pages_of(
    server: Documented, endpoints: tuple[Endpoint, ...], groups: tuple[Group[Any], ...]
) -> Pages:
    """Make all documents of what is said of a server."""
    return Pages(
        openapi=StaticFile(openapi_document(server, endpoints), _JSON),
        start=_start_page(),
        documentation=api_page(endpoints, server.url),
        errors=_errors_page(),
        metrics=_metrics_page(groups),
        style=StaticFile(STYLE.read_bytes(), CSS),
        script=StaticFile(_SCRIPT.read_bytes(), SCRIPT),
        ui=None if server.base_path is None else read_ui(server.base_path),
    )


def _start_page() -> StaticFile:
    return page(
        "Troth",
        [
            "<h1>Troth</h1><p>A durable-promise server. What is answered is on disk.</p><ul>",
            '<li><a href="docs">The API</a></li>',
            '<li><a href="docs/errors">Error codes</a></li>',
            '<li><a href="docs/metrics">Meanings of metrics</a></li>',
            '<li><a href="openapi.json">OpenAPI description</a></li>',
            '<li><a href="metrics">Metrics</a></li></ul>',
        ],
        varies_by=b"Accept, Accept-Encoding",
    )


_ABOVE: Final = '<a href="../docs">The API</a>'


def _errors_page() -> StaticFile:
    main = [
        "<h1>Error codes</h1><p>The first three digits are the HTTP status. Every refusal has this "
        f"form:</p>{json_line(example_of(ErrorObject))}",
    ]
    codes = sorted(EXPLANATIONS)
    for code in codes:
        ours = " <small>(Troth's own)</small>" if code in OURS else ""
        main.append(
            f'<h2 id="{code.value}"><code>{code.value}</code> {inline(MESSAGES[code])}{ours}</h2>'
            + paragraphs(EXPLANATIONS[code])
        )
    links = (f'<a href="#{code.value}">{code.value}</a>' for code in codes)
    return page("Troth: error codes", main, nav=[_ABOVE, *links], base="")


def _metrics_page(groups: tuple[Group[Any], ...]) -> StaticFile:
    def rows(group: Group[Any]) -> Iterable[tuple[str, str, str]]:
        for family in group.families:
            labels = ", ".join(f"<code>{text(label)}</code>" for label in family.labels)
            kind = family.kind.value + (f" by {labels}" if labels else "")
            yield f"<code>{text(family.name)}</code>", kind, inline(family.help)

    main = [
        "<h1>Metrics</h1>",
        '<p><a href="../metrics">/metrics</a> has them all, for Prometheus. Counters count since '
        "the start of the process.</p>",
    ]
    links = [_ABOVE]
    for number, group in enumerate(groups):
        main.append(f'<h2 id="group-{number}">{text(group.title)}</h2>')
        main.append(table(("Metric", "Kind", "Meaning"), rows(group)))
        links.append(f'<a href="#group-{number}">{text(group.title)}</a>')
    return page("Troth: metrics", main, nav=links, base="")
