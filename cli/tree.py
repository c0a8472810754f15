"""`troth tree`: shows what a promise has set going, as a tree of calls.

`troth.core.lineage` says which promise is below which, for both APIs. What lies between and does
not exist is skipped.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import click
from rich.text import Text

from troth.core.lineage import SEPARATORS, parents_of
from troth.core.model import TAG_ORIGIN, TAG_PARENT, TAG_ROOT, TAG_TARGET

from .client import ApiClient, path_of
from .options import TEXT, ServerCommand, Session, server_command
from .output import (
    drawn,
    emit,
    note,
    now_ms,
    relative,
    short_moment,
    span,
    state_cell,
    visible,
)

_NUMBERS: Final = re.compile(r"([0-9]+)")
# A longer text is not the name of a function.
_NAME_LIMIT_COUNT: Final = 120

DEPTH_SHOWN_COUNT: Final = 100
"""Levels below the promise that are drawn unless --depth asks for more or fewer."""
INDENTED_LEVELS_COUNT: Final = 20
"""Levels that are indented. Deeper rows stand at the last indentation and name their level."""

JsonPromise = Mapping[str, Any]


@click.command(cls=ServerCommand)
@click.argument("id", type=TEXT)
@click.option(
    "--depth",
    "depth_limit_count",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help=f"Number of levels to show below the promise [default: {DEPTH_SHOWN_COUNT}; "
    "with --json all].",
)
@server_command
def tree(session: Session, id: str, depth_limit_count: int | None) -> None:  # noqa: A002
    """Draw the promise ID and everything that its work has created.

    A durable promise stands for a value that will be known later, often the result of a
    function; a function that calls others makes a promise for each. The tree shows for each
    its state, the function's name if it is known, how long it took, and when it times out.

    With --json: {"id": …, "promises": [{"parent": id or null, "promise": {…}}, …]} on one line,
    in the order of the tree.

    \b
    Examples:
      troth tree order-7
      troth tree order-7 --depth 2
    """
    root = session.client.ask("GET", path_of("promises", id)).content
    if not isinstance(root, dict) or "id" not in root:
        raise session.client.not_the_api()
    found = _candidates(session.client, root)
    parents = parents_of(root["id"], {name: row.get("tags") for name, row in found.items()})
    if depth_limit_count is None and not session.as_json:
        depth_limit_count = DEPTH_SHOWN_COUNT
    rows = in_order(root["id"], found, parents, depth_limit_count)
    if session.as_json:
        listed = [{"parent": parents.get(row["id"]), "promise": row} for row in rows]
        text = json.dumps(
            {"id": root["id"], "promises": listed}, ensure_ascii=False, separators=(",", ":")
        )
        emit(text)
    else:
        emit(draw(rows, parents))
        deeper_count = len(parents) + 1 - len(rows)
        if deeper_count:
            note(
                f"{deeper_count} more below level {depth_limit_count}; --depth NUMBER shows more "
                "levels, `troth tree ID` of a lower promise begins there"
            )


def in_order(
    root_id: str,
    found: Mapping[str, JsonPromise],
    parents: Mapping[str, str],
    depth_limit_count: int | None,
) -> list[JsonPromise]:
    """Return the root and what is below it: parents first, children in order of creation."""
    children: dict[str, list[str]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    rows = []
    waiting = [(root_id, 0)]
    while waiting:
        promise_id, depth = waiting.pop()
        rows.append(found[promise_id])
        if depth_limit_count is None or depth < depth_limit_count:
            below = sorted(children.get(promise_id, ()), key=lambda child: _order(found[child]))
            waiting += [(child, depth + 1) for child in reversed(below)]
    return rows


def function_name(promise: JsonPromise) -> str | None:
    """Return the function that a promise stands for, if its JSON param names it as `func`."""
    try:
        param = json.loads(base64.b64decode((promise.get("param") or {}).get("data", "")))
    except ValueError:
        return None  # any data is allowed; this is not a client library's
    name = param.get("func") if isinstance(param, dict) else None
    return name if isinstance(name, str) and 0 < len(name) <= _NAME_LIMIT_COUNT else None


def _candidates(client: ApiClient, root: JsonPromise) -> dict[str, JsonPromise]:
    """Return all promises that may be below the root, and the root, by id."""
    found: dict[str, JsonPromise] = {root["id"]: root}
    searches = [[("id", f"{root['id']}{separator}*")] for separator in SEPARATORS]
    # A library that writes these tags lets functions choose any id for what they call.
    searches += [
        [("id", "*"), (f"tags[{name}]", origin)]
        for name, origin in _origins(root["id"], root.get("tags") or {}).items()
    ]
    for query in searches:
        for page in client.pages("/promises", query, "promises"):
            for promise in page:
                found.setdefault(promise["id"], promise)
    return found


def _origins(root_id: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Return which tags the promises below a root may have in common, with their values."""
    origins = {name: tags[name] for name in (TAG_ROOT, TAG_ORIGIN) if name in tags}
    if not origins and TAG_PARENT in tags:
        origins[TAG_ROOT] = root_id
    if TAG_TARGET in tags:
        origins.setdefault(TAG_ORIGIN, root_id)
    return origins


def _order(promise: JsonPromise) -> tuple[int, list[tuple[int, str]]]:
    # Ids like `a.10` come after `a.9` when both were created in the same millisecond.
    parts = _NUMBERS.split(promise["id"])
    natural = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return promise.get("createdOn") or 0, natural


def draw(rows: Iterable[JsonPromise], parents: Mapping[str, str]) -> str:
    """Return the tree as text, a line a promise; `rows` as `in_order` gives them.

    A line is bounded however deep it stands, so time and size grow with the number of rows.
    """
    listed = list(rows)
    waiting: dict[str, int] = {}
    for promise in listed[1:]:
        parent_id = parents[promise["id"]]
        waiting[parent_id] = waiting.get(parent_id, 0) + 1
    drawing = Text()
    # What the children of a promise begin with, and their level.
    inside: dict[str, tuple[str, int]] = {}
    for promise in listed:
        promise_id = promise["id"]
        if not inside:
            lead, level, below = "", 0, ""
        else:
            parent_id = parents[promise_id]
            stem, level = inside[parent_id]
            waiting[parent_id] -= 1
            is_last = not waiting[parent_id]
            lead, below = stem + ("└── " if is_last else "├── "), stem
            if level < INDENTED_LEVELS_COUNT:
                below += "    " if is_last else "│   "
            else:
                lead += f"(level {level}) "
            drawing.append("\n")
        inside[promise_id] = (below, level + 1)
        drawing.append(lead, style="dim")
        drawing.append_text(_label(promise))
    return drawn(drawing)


def _label(promise: JsonPromise) -> Text:
    label = Text(visible(promise["id"]), style="bold")
    name = function_name(promise)
    if name is not None:
        label.append(f"  {visible(name)}()", style="not bold cyan")
    label.append("  ")
    label.append_text(state_cell(promise["state"]))
    label.append(f"  {_times(promise)}", style="not bold dim")
    return label


def _times(promise: JsonPromise) -> str:
    created, completed = promise.get("createdOn"), promise.get("completedOn")
    if promise["state"] == "PENDING":
        age = f"for {span(max(0, now_ms() - created))}, " if created is not None else ""
        return f"{age}times out {short_moment(promise['timeout'])}"
    if created is None or completed is None:
        return ""
    return f"after {span(max(0, completed - created))}, {relative(completed)}"
