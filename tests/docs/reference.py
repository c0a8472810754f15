"""The reference pages of the documentation, made from the code: each function returns a page.

Commands, settings, metrics, error codes and the life cycles are read from the code's own tables.
The API is what a server says of itself (`/openapi.json`), so it cannot differ from what is served.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from tests.helpers.repository import ROOT
from tests.helpers.server import ServerProcess
from troth.cli.command import troth
from troth.cli.serve import OTHER, SECTIONS
from troth.core.codes import EXPLANATIONS, MESSAGES, OURS
from troth.http.documents.diagrams import promise_diagram, task_diagram
from troth.http.monitoring.stream_metrics import STREAM
from troth.http.monitoring.tables import GROUPS
from troth.http.settings.sources import describe
from troth.http.tracing.environment import VARIABLES

MADE: Final = "Made from the code when this documentation is built; do not edit."
_WIDTH_COUNT: Final = 100
_STYLED: Final = (
    "<style>svg text {{ fill: currentColor; font-size: 13px }} svg .label {{ font-size: 11px }} "
    "svg rect, svg path {{ fill: none; stroke: currentColor }}</style>\n{}\n"
)
_METHODS: Final = ("get", "post", "put", "patch", "delete")


def pages() -> dict[str, str]:
    """Return all pages that are made, by their path in `docs/`."""
    document = served()
    return {
        "reference/api.md": api_page(document),
        "reference/commands.md": commands_page(),
        "reference/settings.md": settings_page(),
        "reference/errors.md": errors_page(),
        "reference/metrics.md": metrics_page(),
        "reference/formats.md": formats_page(),
        "understand/life-cycles.md": life_cycles_page(),
    }


def served() -> dict[str, Any]:
    """Return what a server says of its API."""
    with (
        tempfile.TemporaryDirectory(prefix="troth-docs-") as directory,
        ServerProcess(Path(directory), "--in-memory") as server,
    ):
        document: dict[str, Any] = server.request("GET", "/openapi.json")[1]
        return document


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    titles = [*head]
    lines = [titles, ["---"] * len(titles), *([_cell(text) for text in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _page(title: str, parts: Iterable[str]) -> str:
    return f"# {title}\n\n<!-- {MADE} -->\n\n" + "\n".join(parts)


# The API


def api_page(document: Mapping[str, Any]) -> str:
    """Return the page of all endpoints, by group."""
    groups: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method in _METHODS:
            if method in operations:
                operation = operations[method]
                for group in operation["tags"]:
                    groups.setdefault(group, []).append(_operation(path, method, operation))
    parts = [
        "A running server has this at `/docs`, with an example for each call, and as OpenAPI 3.0.3 "
        "at `/openapi.json`, from which clients can be generated. [Error codes](errors.md) has "
        "what refusals mean.\n",
    ]
    for group, operations in groups.items():
        parts += [f"## {group}\n", *operations]
    return _page("The API", parts)


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    scopes = sorted({s for one in operation.get("security", []) for s in one.get("token", [])})
    lines = [f"### `{method.upper()} {path}`\n", f"{operation['summary']}.\n"]
    if operation.get("description"):
        lines.append(f"{operation['description']}\n")
    if scopes:
        lines.append(f"Scope: {', '.join(f'`{scope}`' for scope in scopes)}.\n")
    codes = [
        code for response in operation["responses"].values() for code in response.get("x-codes", [])
    ]
    statuses = ", ".join(f"{status}" for status in operation["responses"])
    lines.append(f"Answers: {statuses}.\n")
    if codes:
        lines.append("Codes: " + ", ".join(f"[{code}](errors.md#{code})" for code in codes) + ".\n")
    return "\n".join(lines)


# Commands


def commands_page() -> str:
    """Return the page of all commands, with the text of their `--help`."""
    parts = ["`troth COMMAND --help` prints the same.\n"]
    context = click.Context(troth, info_name="troth")
    for name in troth.list_commands(context):
        command = troth.get_command(context, name)
        assert command is not None
        parts += _command(command, name, context, "##")
    return _page("Commands", parts)


def _command(command: click.Command, name: str, parent: click.Context, mark: str) -> Iterator[str]:
    context = click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=_WIDTH_COUNT,
        max_content_width=_WIDTH_COUNT,
    )
    yield f"{mark} `{context.command_path}`\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for own in command.list_commands(context):
            found = command.get_command(context, own)
            assert found is not None
            yield from _command(found, own, context, f"{mark}#")


# Settings


def settings_page() -> str:
    """Return the page of all settings, under the headings of `troth serve --help`."""
    rows = {row.name: row for row in describe()}
    section_of = {name: title for title, names in SECTIONS.items() for name in names}
    parts = [
        "Each setting is an option of `troth serve`, a variable of the environment, and a line of "
        "a TOML file (`--config`); in the file, its name is written with underscores. Options win "
        "over variables, and variables over the file. `troth settings` shows those of a running "
        "server.\n",
    ]
    for title in (*SECTIONS, OTHER):
        listed = [row for name, row in rows.items() if section_of.get(name, OTHER) == title]
        if listed:
            parts += [
                f"## {title}\n",
                table(
                    ("option, variable", "allowed", "default", "meaning"),
                    (
                        (
                            f"`{row.flag}`<br>`{row.environment_variable}`",
                            row.allowed,
                            f"`{row.default}`",
                            row.help,
                        )
                        for row in listed
                    ),
                ),
            ]
    parts += [
        "## Variables of OpenTelemetry\n",
        "Whether spans are exported, and where to, is said by OpenTelemetry's own variables. There "
        "are no options for them, and no lines of the file. [Traces](../operate/traces.md).\n",
        table(
            ("variable", "meaning, and default"),
            ((f"`{name}`", text) for name, text in VARIABLES.items()),
        ),
    ]
    return _page("Settings", parts)


# Codes


def errors_page() -> str:
    """Return the page of all codes of refusals."""
    parts = [
        "The first three digits are the HTTP status. The body of a refusal has the code, a "
        "message, and details that say which field is wrong, what was given and what is allowed.\n",
    ]
    for code in sorted(EXPLANATIONS):
        ours = " (Troth's own)" if code in OURS else ""
        parts.append(
            f"## {code.value} {MESSAGES[code]}{ours} {{ #{code.value} }}\n\n{EXPLANATIONS[code]}\n"
        )
    return _page("Error codes", parts)


# Metrics


def metrics_page() -> str:
    """Return the page of all metrics, group by group."""
    parts = [
        "`GET /metrics` has these for Prometheus, or as OpenMetrics where `Accept` asks for that. "
        "Once there are accounts it needs a token with the scope `metrics:read`. "
        "`deploy/prometheus/` has a configuration that scrapes them. What a server does not have, "
        "such as checkpoints if it keeps everything in memory, is left out; what Python's "
        "client library says of the process (`process_…`, `python_…`) comes on top.\n"
    ]
    for group in (*GROUPS, STREAM):
        parts.append(f"## {group.title}\n")
        rows = (
            (
                f"`{one.name}`",
                one.kind.value,
                ", ".join(f"`{name}`" for name in one.labels),
                one.help,
            )
            for one in group.families
        )
        parts.append(table(("metric", "kind", "labels", "meaning"), rows))
    return _page("Metrics", parts)


# Formats and pictures


def formats_page() -> str:
    """Return the page of the formats on disk: the design of `persistence/`, as it stands there."""
    text = (ROOT / "persistence" / "README.md").read_text(encoding="utf-8")
    _, _, body = text.partition("\n")
    # Its links lead to files of the repository.
    body = re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", body)
    return _page("Formats on disk", [body])


def life_cycles_page() -> str:
    """Return the page of the life cycles, drawn from the tables that the server runs."""
    return _page(
        "Life cycles",
        [
            "These pictures are drawn from the tables that decide in the server "
            "(`core/lifecycles.py`); what is not in them cannot happen.\n",
            "## A promise\n",
            _STYLED.format(promise_diagram()),
            "A completed promise never changes again. What a second attempt is answered depends on "
            "its idempotency key and on `strict`: see [the promise](promise.md).\n",
            "## A task\n",
            _STYLED.format(task_diagram()),
            "Each time a task goes back to `init` after it was sent, its counter grows. A worker "
            "with an older counter is refused: see [leases and fencing](promise.md#leases).\n",
        ],
    )
