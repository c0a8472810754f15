"""`troth timers`: lists what comes due next."""

from typing import Any

import click

from troth.cli.options import (
    DURATION,
    ServerCommand,
    Session,
    page_options,
    page_query,
    server_command,
    show_search,
)
from troth.cli.output import moment, now_ms, table


@click.command(cls=ServerCommand)
@click.option(
    "--within",
    "within_ms",
    type=DURATION,
    metavar="DURATION",
    help="Only what comes due in this time: 10s, 5m, 2h [default: everything].",
)
@page_options()
@server_command
def timers(
    session: Session,
    within_ms: int | None,
    limit_count: int,
    cursor: str | None,
    all_pages: bool,
) -> None:
    """List what comes due next, in the order of time.

    That is timeouts of promises, timers that end (sleep), the ends of leases and of the time to
    claim a task, delays, locks, and runs of schedules.

    \b
    Examples:
      troth timers
      troth timers --within 1h --all --json
    """
    until = [] if within_ms is None else [("until", str(now_ms() + within_ms))]
    query = page_query(limit_count, cursor, *until)
    show_search(session, "/timers", query, all_pages, _table)


def _table(rows: list[Any]) -> str:
    return table(
        ("AT", "WHAT", "ID", "PROMISE"),
        [
            (moment(row["at"]) or "", row["what"], row["id"], row.get("promiseId", ""))
            for row in rows
        ],
    )
