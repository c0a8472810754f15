"""`troth top`: a running server at a glance, once a second, until `q`.

On a terminal the picture is drawn over the last one. Elsewhere, or with `--once`, it is printed
once.
"""

import contextlib
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Any, Final

import click

from troth.cli.connection.answers import RequestRefused
from troth.cli.options import DURATION, ServerCommand, Session, server_command
from troth.cli.output import emit, relative, span, styled, visible

from .traffic import queues_table

_BARS: Final = "▁▂▃▄▅▆▇█"
_HISTORY_COUNT: Final = 60
_QUEUES_COUNT: Final = 10
_FAILURES_COUNT: Final = 5
_CLEAR: Final = "\x1b[H\x1b[J"
_KEYS: Final = frozenset({"q", "Q", "\x03", "\x04"})
"""What ends it: q, Ctrl-C, Ctrl-D."""

_SHOWN: Final = (
    ("promises.pending", "pending"),
    ("promises.created", "created/s"),
    ("promises.resolved", "resolved/s"),
    ("promises.rejected", "rejected/s"),
    ("promises.timedout", "timed out/s"),
    ("tasks.sent", "tasks sent/s"),
    ("tasks.claimed", "claimed/s"),
    ("tasks.expired", "leases run out/s"),
    ("http.requests", "requests/s"),
    ("http.refusals", "refused/s"),
    ("log.syncP50", "disk sync p50 ms"),
    ("log.syncP99", "disk sync p99 ms"),
    ("process.cpu", "CPU cores"),
    ("process.memory", "memory MiB"),
)


@click.command(cls=ServerCommand)
@click.option("--once", is_flag=True, help="Print one picture and end.")
@click.option(
    "--every",
    "every_ms",
    type=DURATION,
    default="1s",
    show_default=True,
    metavar="DURATION",
    help="How often to look; 200ms at least.",
)
@server_command
def top(session: Session, once: bool, every_ms: int) -> None:
    """Watch a running server: what it does, and what waits.

    Shows counts and rates with a minute of history, the receivers with most waiting, and the latest
    failures. `q` ends it. Where the output is not a terminal, one picture is printed.

    \b
    Examples:
      troth top
      troth top --once --json
    """
    if session.as_json:
        answer = session.client.ask("GET", "/statistics")
        session.show(answer, str)
        return
    if once or not (sys.stdout.isatty() and sys.stdin.isatty()):
        emit(picture(session))
        return
    with _single_keys():
        while True:
            shown = picture(session).split("\n")
            lines = shutil.get_terminal_size().lines
            click.echo(_CLEAR + "\r\n".join(shown[: lines - 1]), nl=False)
            if _is_ended(max(200, every_ms) / 1000):
                click.echo("\r")
                return


@contextlib.contextmanager
def _single_keys() -> Iterator[None]:
    """Read keys without Enter, for a block."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _is_ended(wait_s: float) -> bool:
    """Wait, and return whether a key was pressed in the meantime that ends it."""
    until_s = time.monotonic() + wait_s
    while (left_s := until_s - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left_s)[0] and sys.stdin.read(1) in (*_KEYS, ""):
            return True
    return False


def picture(session: Session) -> str:
    """Ask the server and return what is shown. Raises as `ApiClient.ask`."""
    client = session.client
    found = client.ask("GET", "/statistics").content
    limit = [("limit", str(_QUEUES_COUNT))]
    waiting = client.ask("GET", "/queues", query=limit).content
    failed = _failures(session)
    try:
        return "\n".join(_picture(client.shown_url, found, waiting, failed))
    except (KeyError, TypeError) as error:
        raise client.not_the_api() from error


def _failures(session: Session) -> list[Any]:
    query = [("limit", str(_FAILURES_COUNT))]
    try:
        rows: list[Any] = session.client.ask("GET", "/failures", query=query).content["failures"]
    except RequestRefused:
        return []  # not for these credentials; the rest is
    return rows


def _picture(url: str, found: Any, waiting: Any, failed: list[Any]) -> Iterator[str]:
    up = span(max(0, found["now"] - found["startedOn"]))
    yield styled(f"Troth at {visible(url)}, up for {up}", bold=True)
    for name, counts in found["counts"].items():
        told = "  ".join(f"{state} {count}" for state, count in counts.items() if count)
        yield f"  {name:<12}{told or 'none'}"
    yield ""
    series = {one["name"]: one["values"] for one in found["series"]}
    for name, title in _SHOWN:
        values = series.get(name, [])[-_HISTORY_COUNT:]
        yield f"  {title:<18}{_number(name, values):>12}  {bars(values)}"
    if waiting["queues"]:
        yield ""
        yield from queues_table(waiting["queues"]).split("\n")
    if failed:
        yield ""
        yield styled("Latest failures", bold=True)
    for one in failed:
        yield f"  {relative(one['at']):<12}{one['kind']:<10}{visible(one['id'])}: {one['reason']}"


def _number(name: str, values: list[float | None]) -> str:
    known = [value for value in values[-1:] if value is not None]
    if not known:
        return "-"
    value = known[0] / 1024 / 1024 if name == "process.memory" else known[0]
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:,.2f}"


def bars(values: list[float | None]) -> str:
    """Return a line of bars, each as high as its value; a gap where none is known."""
    largest = max((value for value in values if value is not None), default=0)
    if not largest:
        return "".join(" " if value is None else _BARS[0] for value in values)
    steps = len(_BARS) - 1
    return "".join(
        " " if value is None else _BARS[round(max(0, value) / largest * steps)] for value in values
    )
