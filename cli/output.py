"""How answers look to people: fields, tables, times, durations and data.

Nothing from a server reaches the terminal as it is: control characters are shown as escapes, so
that an id or a value cannot steer the terminal. Colors appear only on a terminal.
"""

import base64
import binascii
import errno
import io
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from troth.core.limits import INTEGER_MAX

BROKEN_PIPE_STATUS: Final = 141
"""What shells report of a program whose reader has gone: `troth … | head`."""

STATE_COLORS: Final[Mapping[str, str]] = {
    "PENDING": "yellow",
    "RESOLVED": "green",
    "REJECTED": "red",
    "REJECTED_CANCELED": "red",
    "REJECTED_TIMEDOUT": "red",
}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Units of time, each with the smaller one that its rest is rounded to.
_SPANS: Final = (
    (60_000, "m", 1000, "s"),
    (3_600_000, "h", 60_000, "m"),
    (86_400_000, "d", 3_600_000, "h"),
)
# Wide enough for every id: lines in a pipe are never broken.
_PIPE_WIDTH_COUNT: Final = 10_000

Field = tuple[str, str | None]
"""A label and what it says; None leaves the line out."""


def now_ms() -> int:
    """Return the time of this machine's clock, in ms since 1970."""
    return time.time_ns() // 1_000_000


def emit(text: str) -> None:
    """Print lines. Ends the command quietly if the output was closed."""
    try:
        click.echo(text)
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        # Python would complain when it flushes on exit.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
        raise click.exceptions.Exit(BROKEN_PIPE_STATUS) from error


def note(text: str) -> None:
    """Say something that is not part of the answer, on standard error."""
    click.echo(styled(text, dim=True), err=True)


def one_line(json_text: str) -> str:
    """Return JSON text on one line. Its strings contain no line ends, so none is lost."""
    return json_text.strip().replace("\r", " ").replace("\n", " ")


def visible(text: str, keep: str = "") -> str:
    """Return a text with control characters as escapes, all but those in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in keep
        else character.encode("unicode_escape").decode()
        for character in text
    )


def styled(text: str, **style: Any) -> str:
    """Return a text with colors, unless the environment asks for none (no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def span(duration_ms: int) -> str:
    """Return a duration, rounded to its two largest units: `2d 4h`, `5m 10s`, `1.5s`, `20ms`."""
    if duration_ms < 1000:
        return f"{duration_ms}ms"
    if duration_ms < 59_950:
        return f"{duration_ms / 1000:.1f}".removesuffix(".0") + "s"
    shown, rounded_ms = "", INTEGER_MAX
    for unit_ms, unit, part_ms, part in _SPANS:
        # As rounded for the smaller unit: what is 23h 30m there must not become 1d here.
        if rounded_ms < unit_ms:
            break
        rounded_ms = (duration_ms + part_ms // 2) // part_ms * part_ms
        count, rest_ms = divmod(rounded_ms, unit_ms)
        shown = f"{count}{unit} {rest_ms // part_ms}{part}" if rest_ms else f"{count}{unit}"
    return shown


def relative(time_ms: int) -> str:
    """Return a time as seen from now: `in 5m`, `3h 20m ago`."""
    distance = time_ms - now_ms()
    return f"in {span(distance)}" if distance > 0 else f"{span(-distance)} ago"


def moment(time_ms: int | None) -> str | None:
    """Return a time where this machine is, with its zone, and seen from now. None stays None."""
    if time_ms is None:
        return None
    local = _local(time_ms)
    if local is None:
        return f"never ({time_ms})"
    return f"{local.isoformat(sep=' ', timespec='seconds')} ({relative(time_ms)})"


def short_moment(time_ms: int | None) -> str:
    """Return a time seen from now, for tables; empty for None."""
    if time_ms is None:
        return ""
    return "never" if _local(time_ms) is None else relative(time_ms)


def _local(time_ms: int) -> datetime | None:
    """Return a time, or None if no calendar has it; servers use such times to say never."""
    try:
        moment = _EPOCH + timedelta(milliseconds=time_ms)
        return moment.astimezone() if moment.year > 1 else None
    except (OverflowError, ValueError):
        return None


def decoded(data: str) -> str:
    """Return a value's data: the text if it is one, else the base64 that the API uses."""
    try:
        content = base64.b64decode(data, validate=True)
        return visible(content.decode(), keep="\n\t")
    except (binascii.Error, UnicodeDecodeError):
        return f"base64:{visible(data)}"


def value_fields(label: str, value: Mapping[str, Any]) -> list[Field]:
    """Return lines for a promise's param or value."""
    headers = value.get("headers")
    data = value.get("data")
    return [
        (label, decoded(data) if data else None),
        (f"{label} headers", pairs(headers)),
    ]


def pairs(entries: Mapping[str, str] | None) -> str | None:
    """Return tags or headers, one a line; None if there are none."""
    if not entries:
        return None
    return "\n".join(f"{visible(name)}={visible(content)}" for name, content in entries.items())


def state_text(state: str) -> str:
    """Return a promise's state in its color."""
    return styled(visible(state), fg=STATE_COLORS.get(state))


def fields(headline: str, entries: Iterable[Field]) -> str:
    """Return a headline and labeled lines.

    What is printable only by escapes must be made so before.
    """
    shown = [(label, text) for label, text in entries if text is not None]
    width = max((len(label) for label, _ in shown), default=0) + 2
    lines = [styled(headline, bold=True)] if headline else []
    for label, text in shown:
        first, *others = text.split("\n")
        lines.append(f"  {label.ljust(width)}{first}")
        lines += [" " * (width + 2) + other for other in others]
    return "\n".join(lines)


def promise_fields(promise: Mapping[str, Any], headline: str = "") -> str:
    """Return everything about a promise."""
    pending = promise["state"] == "PENDING"
    return fields(
        headline,
        [
            ("id", visible(promise["id"])),
            ("state", state_text(promise["state"])),
            ("created", moment(promise.get("createdOn"))),
            ("times out" if pending else "timeout", moment(promise["timeout"])),
            ("completed", moment(promise.get("completedOn"))),
            *value_fields("param", promise.get("param") or {}),
            *value_fields("value", promise.get("value") or {}),
            ("tags", pairs(promise.get("tags"))),
            ("create key", _key(promise.get("idempotencyKeyForCreate"))),
            ("complete key", _key(promise.get("idempotencyKeyForComplete"))),
        ],
    )


def _key(key: str | None) -> str | None:
    if key is None:
        return None
    return visible(key) or '"" (empty)'


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> str:
    """Return a table. Texts need not be printable."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(visible(cell)) for cell in row))
    return drawn(made)


def state_cell(state: str) -> Text:
    """Return a promise's state in its color, for tables and trees."""
    return Text(visible(state), style=STATE_COLORS.get(state, ""))


def drawn(renderable: RenderableType) -> str:
    """Return what rich makes of something, in the width and colors of where it is printed."""
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else _PIPE_WIDTH_COUNT
    console = Console(
        file=io.StringIO(), force_terminal=is_terminal, width=width, highlight=False, emoji=False
    )
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n"))
