"""`troth events`: prints what changes on a running server, as it happens."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import urlencode

import click

from troth.cli.connection.answers import ServerUnreachable
from troth.cli.options import TEXT, ServerCommand, Session, server_command
from troth.cli.output import emit, note, relative, short_moment, visible

_TOPICS: Final = ("counters", "queues", "failures", "bulk")
_SHOWN_COUNT: Final = 3
"""How many receivers and failures a line names."""

_EVENT_LIMIT_BYTES: Final = 4 * 1024 * 1024


@click.command(cls=ServerCommand)
@click.option(
    "--topic",
    "topics",
    type=click.Choice(_TOPICS),
    multiple=True,
    help="What to hear; repeatable. All, unless --watch is given.",
)
@click.option(
    "--watch", "watched", type=TEXT, multiple=True, metavar="ID", help="A promise; repeatable."
)
@server_command
def events(session: Session, topics: tuple[str, ...], watched: tuple[str, ...]) -> None:
    """Print what changes on a server, until Ctrl-C.

    Counts, receivers, failures and bulk jobs are told once a second, if they have changed. A
    watched promise is told soon after it, its tasks or a promise below it have changed.

    \b
    Examples:
      troth events
      troth events --watch order-7 --json
      troth events --topic failures
    """
    wanted = topics or (() if watched else _TOPICS)
    query = [("topics", ",".join(wanted))] if wanted else []
    query += [("watch", promise_id) for promise_id in watched]
    with session.client.download("GET", f"/events?{urlencode(query)}") as pieces:
        for name, told in events_in(pieces):
            try:
                line = json.dumps({"event": name, **told}) if session.as_json else _line(name, told)
            except (KeyError, TypeError) as error:
                raise session.client.not_the_api() from error
            emit(line)
    note("the server has ended the stream")


def events_in(pieces: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield the events of a stream, name and content. Raises ServerUnreachable."""
    received = b""
    for piece in pieces:
        *whole, received = (received + piece).split(b"\n\n")
        for event in whole:
            lines = dict(line.partition(b": ")[::2] for line in event.split(b"\n"))
            if b"event" in lines:
                yield lines[b"event"].decode(), json.loads(lines.get(b"data", b"{}"))
        if len(received) > _EVENT_LIMIT_BYTES:
            raise ServerUnreachable("what was received is not a stream of events.")


def _line(name: str, told: Any) -> str:
    """Return an event as a line for people."""
    if name == "skipped":
        left_out = ", ".join(f"{count} of {topic}" for topic, count in told.items())
        return f"{'':<21}skipped   {left_out}"
    return f"{short_moment(told['at']):<21}{name:<10}{_TEXTS[name](told)}"


def _counters(told: Any) -> str:
    counts, series = told["counts"]["promises"], told["series"]
    created = series.get("promises.created") or 0
    totals = "  ".join(f"{state} {count}" for state, count in counts.items() if count)
    return f"{totals or 'no promises'}  created/s {created:.0f}"


def _queues(told: Any) -> str:
    shown = [
        f"{visible(row['receiver'])} {row['waiting'] + row['inFlight'] + row['stalled']}"
        for row in told["queues"][:_SHOWN_COUNT]
    ]
    return f"{told['total']} receivers: {', '.join(shown)}" if shown else "no receivers"


def _failures(told: Any) -> str:
    shown = [
        f"{relative(row['at'])} {row['kind']} {visible(row['id'])}: {visible(row['reason'])}"
        for row in told["failures"][:_SHOWN_COUNT]
    ]
    return "; ".join(shown) or "none"


def _bulk(told: Any) -> str:
    shown = [
        f"{visible(row['id'])} {row['action']} {row['state']}: {row['done']} of "
        f"{'?' if row['total'] is None else row['total']}"
        for row in told["jobs"][:_SHOWN_COUNT]
    ]
    return "; ".join(shown) or "no jobs"


def _changed(told: Any) -> str:
    return "  ".join(map(visible, told["ids"]))


_TEXTS: Final = {
    "counters": _counters,
    "queues": _queues,
    "failures": _failures,
    "bulk": _bulk,
    "changed": _changed,
}
