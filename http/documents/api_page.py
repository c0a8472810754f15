"""`/docs`: every endpoint with its request, a command to try it, and its answers."""

import shlex
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

import orjson
from msgspec import Struct

from troth.core.codes import MESSAGES, Code
from troth.core.lifecycles import TASK, TaskStep
from troth.core.model import TaskState
from troth.http.api.rows import Endpoint, Parameter
from troth.http.wire.answers import example_of
from troth.http.wire.fields import Nested, example, rules
from troth.http.wire.static_files import StaticFile

from .diagrams import promise_diagram, task_diagram
from .openapi import scopes_of
from .page_parts import (
    code_link,
    command,
    inline,
    json_line,
    page,
    paragraphs,
    points,
    table,
    text,
)
from .parameters import meaning_of
from .refusals import refusals_of

_INTRODUCTION: Final = (
    "JSON over HTTP/1.1. Times are milliseconds since 1970, durations milliseconds, ids any text. "
    "A write is answered once it is on disk."
)
_AUTHENTICATION: Final = (
    "While the server has neither accounts (`troth account add`) nor users (setting `basic_auth`), "
    "the promise API needs no credentials; `/v1` always needs a token, and `/admin` the operator's "
    "key (`admin.key` in the data directory) or a token of the scope `admin`. Otherwise send "
    "`Authorization: Bearer TOKEN`, the token alone, or `Basic` with a user and password, or with "
    "a token as the password. Each endpoint says which scope it needs. Ids that begin with "
    "`troth:` are the server's own.\n\nIn the commands below, `$TOKEN` is a token. "
    "Without one, `curl` leaves the header out."
)


def api_page(endpoints: tuple[Endpoint, ...], url: str) -> StaticFile:
    """Return the page. `url` is what the commands ask."""
    groups: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        groups.setdefault(endpoint.group, []).append(endpoint)
    main = [
        '<h1 id="top">The API</h1>',
        f"<p>{_INTRODUCTION} Refusals have one form and a code: see "
        '<a href="docs/errors">all codes</a>. For programs: <a href="openapi.json">OpenAPI</a>. '
        'For operators: <a href="docs/metrics">metrics</a>.</p>',
        "<p>Any endpoint may refuse what is sent or who sends it: "
        + " ".join(code_link(code) for code in _general(endpoints))
        + ". Each one lists what else it may refuse.</p>",
        '<h2 id="authentication">Authentication</h2>',
        paragraphs(_AUTHENTICATION),
        '<h2 id="life-cycles">Life cycles</h2>',
        "<p>A promise is pending until it completes, once: by a client, or by its timeout.</p>",
        promise_diagram(),
        "<p>A task is the work of a promise: sent to a receiver, claimed by one process at a "
        "time.</p>",
        task_diagram(),
        _task_table(),
    ]
    seen: dict[str, Endpoint] = {}
    for group, rows in groups.items():
        main.append(f'<h2 id="{group_anchor(group)}">{text(group)}</h2>')
        for endpoint in rows:
            main.extend(_endpoint(endpoint, url, seen))
    return page("Troth: the API", main, nav=_contents(groups))


def _general(endpoints: tuple[Endpoint, ...]) -> list[Code]:
    """Return the refusals that are not particular to endpoints."""
    return sorted(
        {
            code
            for endpoint in endpoints
            for code in refusals_of(endpoint)
            if code not in endpoint.refusals
        }
    )


def group_anchor(group: str) -> str:
    """Return the name of the place where a group of endpoints begins."""
    return "group-" + group.lower().replace(" ", "-")


def _contents(groups: Iterable[str]) -> Iterable[str]:
    """Yield links to the groups; the script adds those to their endpoints."""
    yield '<a href="#top">The API</a><a href="#authentication">Authentication</a>'
    yield '<a href="#life-cycles">Life cycles</a>'
    for group in groups:
        yield f'<a href="#{group_anchor(group)}">{text(group)}</a>'


def _endpoint(endpoint: Endpoint, url: str, seen: dict[str, Endpoint]) -> Iterable[str]:
    """Yield the section of an endpoint. `seen` are the examples of answers above it."""
    path = endpoint.path.replace("...", "")
    yield f"<h3 id={endpoint.name}>{text(endpoint.summary)}</h3>"
    yield f"<p class=line><b>{endpoint.method}</b> <code>{text(path)}</code> "
    if endpoint.any_scope:
        yield "any scope"
    elif endpoint.public:
        yield "no credentials"
    else:
        scopes = " or ".join(f"<code>{scope}</code>" for scope in scopes_of(endpoint))
        yield f"scope {scopes}"
    yield paragraphs(endpoint.description)
    yield "<h4>Request</h4>"
    yield points(
        [
            *(_parameter(parameter, "path") for parameter in endpoint.path_parameters),
            *(_parameter(parameter, "query") for parameter in endpoint.query),
            *(_named(one, "header, optional", meaning_of(one)) for one in endpoint.headers),
            *(_parameter(parameter, "header") for parameter in endpoint.raw_headers),
            *(() if endpoint.body is None else _fields(endpoint.body, "")),
        ]
    )
    if endpoint.raw_body is not None:
        types = " or ".join(f"<code>{text(name)}</code>" for name in endpoint.raw_body.media_types)
        yield f"<p>Body, {types}: {inline(endpoint.raw_body.description)}"
    if not any(line.startswith("curl ") for line in endpoint.examples):
        yield command(curl_line(endpoint, url))
    yield from map(command, endpoint.examples)
    yield "<h4>Response</h4>"
    answers = []
    for success in endpoint.successes:
        shown = ""
        if success.shape is not None and success.media_type == "application/json":
            made = json_line(example_of(success.shape))
            first = seen.get(made)
            if first is None:
                seen[made] = endpoint
                shown = made
            elif first is not endpoint:
                shown = f" As of <a href=#{first.name}>{inline(first.summary)}</a>."
        answers.append((str(success.status), inline(success.description) + shown))
    answers.extend((code_link(code), inline(MESSAGES[code])) for code in endpoint.refusals)
    yield points(answers)


def curl_line(endpoint: Endpoint, url: str) -> str:
    """Return a command that asks an endpoint for something."""
    path = endpoint.path
    for parameter in endpoint.path_parameters:
        shown = quote(_example_of(parameter), safe="")
        path = path.replace(f"{{{parameter.name}...}}", shown)
        path = path.replace(f"{{{parameter.name}}}", shown)
    asked = "&".join(
        f"{parameter.name}={quote(_example_of(parameter), safe='')}"
        for parameter in endpoint.query
        if parameter.required or parameter.name == "id"  # searches need one on their first page
    )
    is_stream = any(one.media_type == "text/event-stream" for one in endpoint.successes)
    words = ["curl", *(["-N"] if is_stream else [])]
    has_body = endpoint.body is not None or endpoint.raw_body is not None
    if endpoint.method != ("POST" if has_body else "GET"):
        words += ["-X", endpoint.method]
    words.append(shlex.quote(url + path + (f"?{asked}" if asked else "")))
    if not endpoint.public:
        words.append('-H "Authorization: $TOKEN"')
    for parameter in endpoint.raw_headers:
        if parameter.required:
            words.append("-H " + shlex.quote(f"{parameter.name}: {_example_of(parameter)}"))
    if endpoint.body is not None:
        words.append("-d " + shlex.quote(orjson.dumps(example(endpoint.body)).decode()))
    elif endpoint.raw_body is not None:
        media_type = endpoint.raw_body.media_types[0].replace("*/*", "application/json")
        words.append(f"-H 'Content-Type: {media_type}' --data-binary @FILE")
    return " ".join(words)


def _example_of(parameter: Parameter) -> str:
    shown: Any = parameter.example
    if shown is None:
        shown = next(iter(parameter.schema.get("enum", ())), parameter.name)
    return str(shown)


def _parameter(parameter: Parameter, place: str) -> tuple[str, str]:
    optional = "" if parameter.required else ", optional"
    return _named(parameter.name, place + optional, parameter.description)


def _fields(body: type[Struct], prefix: str) -> Iterable[tuple[str, str]]:
    for _, name, marker in rules(body):
        optional = "" if marker.is_needed else " optional"
        yield _named(prefix + name, optional, marker.description)
        if isinstance(marker, Nested):
            yield from _fields(marker.body, f"{prefix}{name}.")


def _named(name: str, about: str, meaning: str) -> tuple[str, str]:
    return f"<code>{text(name)}</code> {about}".rstrip(), inline(meaning)


def _task_table() -> str:
    def row(state: TaskState, event: str, step: TaskStep) -> tuple[str, str, str, str]:
        code = step.code
        answer = code_link(code) if code.status >= 400 else str(code.status)
        return state.value, text(event), step.state.value if step.state else "unchanged", answer

    rows = [row(state, event.value, step) for (state, event), step in TASK.items()]
    return table(("State", "Event", "Next state", "Answer"), rows)
