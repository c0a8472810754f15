"""The pages for people, made from the endpoint table, the codes and the life cycles.

They need no network, no script and no font, and are made once, when the application is. Their
style is a file (`docs.css`), so that the browser need not allow any in HTML.
"""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from msgspec import Struct

from troth.core.codes import EXPLANATIONS, MESSAGES, OURS, Code
from troth.core.lifecycles import TASK, TaskStep
from troth.core.model import TaskState
from troth.http.api.context import Api, Pages
from troth.http.api.rows import Endpoint, Parameter
from troth.http.web.ui_files import read_ui
from troth.http.wire.answers import example_of
from troth.http.wire.errors import ErrorObject
from troth.http.wire.fields import Nested, example, rules
from troth.http.wire.requests import JSON_TYPE
from troth.http.wire.static_files import StaticFile

from .diagrams import promise_diagram, task_diagram
from .openapi import openapi_document, scopes_of
from .refusals import refusals_of

STYLE: Final = Path(__file__).with_name("docs.css")

_POLICY: Final = (
    (b"content-security-policy", b"default-src 'none'; style-src 'self'; img-src data:"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-cache"),
)
_HTML: Final = ((b"content-type", b"text/html; charset=utf-8"), *_POLICY)
_CSS: Final = ((b"content-type", b"text/css; charset=utf-8"), *_POLICY)
_JSON: Final = ((b"content-type", JSON_TYPE), (b"cache-control", b"no-cache"))

_text = html.escape


def make_pages(api: Api, endpoints: tuple[Endpoint, ...]) -> Pages:
    """Make all documents of a server."""
    return Pages(
        openapi=StaticFile(openapi_document(api, endpoints), _JSON),
        start=_start_page(),
        documentation=_documentation_page(endpoints),
        errors=_errors_page(),
        style=StaticFile(STYLE.read_bytes(), _CSS),
        ui=read_ui(api.settings.base_path) if api.settings.ui else None,
    )


def _page(
    title: str,
    parts: Iterable[str],
    *,
    style: str = "docs/style.css",
    varies_by: bytes = b"Accept-Encoding",
) -> StaticFile:
    body = "\n".join(parts)
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{_text(title)}</title>"
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f'<link rel="stylesheet" href="{style}"></head><body>\n{body}\n</body></html>\n'
    )
    return StaticFile(text.encode(), _HTML, varies_by=varies_by)


def _start_page() -> StaticFile:
    return _page(
        "Troth",
        [
            "<h1>Troth</h1><p>A durable-promise server. What is answered is on disk.</p><ul>",
            '<li><a href="docs">The API</a></li>',
            '<li><a href="docs/errors">Error codes</a></li>',
            '<li><a href="openapi.json">OpenAPI description</a></li>',
            '<li><a href="metrics">Metrics</a></li></ul>',
        ],
        varies_by=b"Accept, Accept-Encoding",
    )


# --- /docs ----------------------------------------------------------------------------------------


def _documentation_page(endpoints: tuple[Endpoint, ...]) -> StaticFile:
    groups = dict.fromkeys(endpoint.group for endpoint in endpoints)
    index = (
        (
            f'<a href="#{endpoint.name}"><code>{_text(_line(endpoint))}</code></a>',
            _text(endpoint.summary),
        )
        for endpoint in endpoints
    )
    parts = [
        "<h1>The API</h1>",
        "<p>JSON over HTTP/1.1. Times are milliseconds since 1970, durations milliseconds, ids any "
        "text. A write is answered once it is on disk. Refusals have one form and a code: see "
        '<a href="docs/errors">all codes</a>. For programs: '
        '<a href="openapi.json">OpenAPI</a>.</p>',
        _table(("Endpoint", "What for"), index),
        "<h2>Authentication</h2>",
        "<p>While the server has neither accounts (<code>troth account add</code>) nor users "
        "(setting <code>basic_auth</code>), the promise API needs no credentials; <code>/v1</code> "
        "always needs a token, and <code>/admin</code> the operator's key (<code>admin.key</code> "
        "in the data directory) or a token of the scope <code>admin</code>. Otherwise send "
        "<code>Authorization: Bearer TOKEN</code>, the token alone, or <code>Basic</code> with a "
        "user and password, or with a token as the password. Each endpoint says which scope it "
        "needs. Ids that begin with <code>troth:</code> are the server's own.</p>",
        "<h2>Life cycles</h2>",
        "<p>A promise is pending until it completes, once: by a client, or by its timeout.</p>",
        promise_diagram(),
        "<p>A task is the work of a promise: sent to a receiver, claimed by one process at a "
        "time.</p>",
        task_diagram(),
        _task_table(),
    ]
    for group in groups:
        parts.append(f"<h2>{_text(group)}</h2>")
        for endpoint in endpoints:
            if endpoint.group == group:
                parts.extend(_endpoint(endpoint))
    return _page("Troth: the API", parts)


def _path(endpoint: Endpoint) -> str:
    return endpoint.path.replace("...", "")


def _line(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {_path(endpoint)}"


def _endpoint(endpoint: Endpoint) -> Iterable[str]:
    yield f'<h3 id="{endpoint.name}"><code><span class="method">{endpoint.method}</span> '
    yield f"{_text(_path(endpoint))}</code> {_text(endpoint.summary)}</h3>"
    if endpoint.description:
        yield f"<p>{_text(endpoint.description)}</p>"
    if endpoint.any_scope:
        yield "<p>A token needs no particular scope.</p>"
    elif not endpoint.public:
        scopes = " or ".join(f"<code>{scope}</code>" for scope in scopes_of(endpoint))
        yield f"<p>A token needs the scope {scopes}.</p>"
    rows = [
        *(_parameter_row("path", parameter) for parameter in endpoint.path_parameters),
        *(_parameter_row("query", parameter) for parameter in endpoint.query),
        *(("header", f"<code>{header}</code>", "") for header in endpoint.headers),
        *(_parameter_row("header", parameter) for parameter in endpoint.raw_headers),
    ]
    if endpoint.body is not None:
        rows.extend(_body_rows(endpoint.body, ""))
    if endpoint.raw_body is not None:
        types = " ".join(f"<code>{_text(name)}</code>" for name in endpoint.raw_body.media_types)
        rows.append(("body", types, _text(endpoint.raw_body.description)))
    if rows:
        yield _table(("In", "Name", "Meaning"), rows)
    if endpoint.body is not None:
        yield f"<pre>{_json(example(endpoint.body))}</pre>"
    for command in endpoint.examples:
        yield f"<pre>{_text(command)}</pre>"
    answers = []
    for success in endpoint.successes:
        shown = ""
        if success.shape is not None and success.media_type == "application/json":
            shown = f"<pre>{_json(example_of(success.shape))}</pre>"
        answers.append((str(success.status), _text(success.description) + shown))
    if endpoint.refusals:
        answers.extend((_code_link(code), _text(MESSAGES[code])) for code in endpoint.refusals)
    general = [code for code in refusals_of(endpoint) if code not in endpoint.refusals]
    answers.append(("else", " ".join(_code_link(code) for code in general)))
    yield _table(("Answer", "Meaning"), answers)


def _parameter_row(place: str, parameter: Parameter) -> tuple[str, str, str]:
    star = "" if parameter.required else " (optional)"
    return place, f"<code>{_text(parameter.name)}</code>{star}", _text(parameter.description)


def _body_rows(body: type[Struct], prefix: str) -> Iterable[tuple[str, str, str]]:
    for _, name, marker in rules(body):
        star = "" if marker.is_needed else " (optional)"
        yield "body", f"<code>{_text(prefix + name)}</code>{star}", _text(marker.description)
        if isinstance(marker, Nested):
            yield from _body_rows(marker.body, f"{prefix}{name}.")


def _code_link(code: Code) -> str:
    return f'<a href="docs/errors#{code.value}">{code.value}</a>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are HTML already."""
    lines = ["<table><tr>", *(f"<th>{_text(cell)}</th>" for cell in head), "</tr>"]
    lines.extend("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return "".join([*lines, "</table>"])


def _json(value: Any) -> str:
    return _text(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


# --- life cycles, drawn from core/lifecycles.py ---------------------------------------------------


def _task_table() -> str:
    def row(state: TaskState, event: str, step: TaskStep) -> tuple[str, str, str, str]:
        code = step.code
        answer = _code_link(code) if code.status >= 400 else str(code.status)
        return state.value, _text(event), step.state.value if step.state else "unchanged", answer

    rows = [row(state, event.value, step) for (state, event), step in TASK.items()]
    return _table(("State", "Event", "Next state", "Answer"), rows)


# --- /docs/errors ---------------------------------------------------------------------------------


def _errors_page() -> StaticFile:
    parts = [
        "<h1>Error codes</h1><p>The first three digits are the HTTP status. Every refusal has this "
        f"form:</p><pre>{_json(example_of(ErrorObject))}</pre>",
    ]
    for code in sorted(EXPLANATIONS):
        ours = " <small>(Troth's own)</small>" if code in OURS else ""
        parts.append(
            f'<h3 id="{code.value}"><code>{code.value}</code> {_text(MESSAGES[code])}{ours}</h3>'
            f"<p>{_text(EXPLANATIONS[code])}</p>"
        )
    parts.append('<p><a href="../docs">The API</a></p>')
    return _page("Troth: error codes", parts, style="style.css")
