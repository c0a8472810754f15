"""`troth tree`: shows what a promise has set going, as a tree of calls.

The server says which promise is below which (`troth.core.lineage`), for both APIs. What lies
between and does not exist is skipped.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import click
from rich.text import Text

from .connection.addresses import path_of
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

DEPTH_SHOWN_COUNT: Final = 100
"""Levels below the promise that are drawn unless --depth asks for more or fewer."""
INDENTED_LEVELS_COUNT: Final = 20
"""Levels that are indented. Deeper rows stand at the last indentation and name their level."""

JsonCall = Mapping[str, Any]


@click.command(cls=ServerCommand)
@click.argument("id", type=TEXT)
@click.option(
    "--depth",
    "depth_limit_count",
    type=click.IntRange(min=1, max=10_000),
    metavar="NUMBER",
    help=f"Number of levels to show below the promise [default: {DEPTH_SHOWN_COUNT}; "
    "with --json all].",
)
@server_command
def tree(session: Session, id: str, depth_limit_count: int | None) -> None:  # noqa: A002
    """Draw the promise ID and everything that its work has created.

    A durable promise stands for a value that will be known later, often the result of a
    function; a function that calls others makes a promise for each. The tree shows for each
    its state, the function's name if it is known, how long it took, and when it times out. Where
    nothing will happen automatically, for example because no worker listens to a group, it says so.
    At most 2,000 promises are shown.

    With --json: {"id": …, "cut": …, "calls": [{"id": …, "parent": id or null, …}, …]} on one
    line, in the order of the tree.

    \b
    Examples:
      troth tree order-7
      troth tree order-7 --depth 2
    """
    if depth_limit_count is None and not session.as_json:
        depth_limit_count = DEPTH_SHOWN_COUNT
    query = [] if depth_limit_count is None else [("depth", str(depth_limit_count))]
    answer = session.client.ask("GET", path_of("tree", id), query=query)
    content = answer.content
    if not isinstance(content, dict) or "calls" not in content:
        raise session.client.not_the_api()
    if session.as_json:
        session.show(answer, lambda: "")
        return
    emit(draw(content["calls"]))
    if content["cut"]:
        note("there may be more; `troth tree ID` of a lower promise begins there")
    elif any(call["depth"] == depth_limit_count for call in content["calls"]):
        note(
            f"levels below {depth_limit_count} are not shown; --depth NUMBER shows more, "
            "`troth tree ID` of a lower promise begins there"
        )


def draw(calls: Iterable[JsonCall]) -> str:
    """Return the tree as text, a line a promise; parents come before their children.

    A line is bounded however deep it stands, so time and size grow with the number of rows.
    """
    listed = list(calls)
    waiting: dict[str, int] = {}
    for call in listed[1:]:
        waiting[call["parent"]] = waiting.get(call["parent"], 0) + 1
    drawing = Text()
    # What the children of a promise begin with, and their level.
    inside: dict[str, tuple[str, int]] = {}
    for call in listed:
        if not inside:
            lead, level, below = "", 0, ""
        else:
            stem, level = inside[call["parent"]]
            waiting[call["parent"]] -= 1
            is_last = not waiting[call["parent"]]
            lead, below = stem + ("└── " if is_last else "├── "), stem
            if level < INDENTED_LEVELS_COUNT:
                below += "    " if is_last else "│   "
            else:
                lead += f"(level {level}) "
            drawing.append("\n")
        inside[call["id"]] = (below, level + 1)
        drawing.append(lead, style="dim")
        drawing.append_text(_label(call))
    return drawn(drawing)


def _label(call: JsonCall) -> Text:
    label = Text(visible(call["id"]), style="bold")
    name = call.get("function")
    if name is not None:
        label.append(f"  {visible(name)}()", style="not bold cyan")
    label.append("  ")
    label.append_text(state_cell(call["state"]))
    label.append(f"  {_times(call)}", style="not bold dim")
    if call.get("hint"):
        label.append(f"  {visible(call['hint'])}", style="not bold yellow")
    return label


def _times(call: JsonCall) -> str:
    created, completed = call.get("createdOn"), call.get("completedOn")
    if call["state"] == "PENDING":
        age = f"for {span(max(0, now_ms() - created))}, " if created is not None else ""
        return f"{age}times out {short_moment(call['timeout'])}"
    if created is None or completed is None:
        return ""
    return f"after {span(max(0, completed - created))}, {relative(completed)}"
