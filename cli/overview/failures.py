"""`troth failures`: lists what went wrong since a server started."""

from typing import Any

import click

from troth.cli.options import ServerCommand, Session, limit_option, server_command
from troth.cli.output import note, short_moment, table

_KINDS = ("promise", "lease", "sending", "function", "build", "login")


@click.command(cls=ServerCommand)
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(_KINDS),
    multiple=True,
    help="Only these; repeatable.",
)
@limit_option("How many.")
@click.option(
    "--before", type=click.IntRange(1), metavar="NUMBER", help="Only those before this one."
)
@server_command
def failures(
    session: Session, kinds: tuple[str, ...], limit_count: int, before: int | None
) -> None:
    """List what failed since the server started.

    These are promises that were rejected or timed out, leases that ran out, messages that could not
    be sent, builds and function tasks that failed, and refused log-ins. The last 1,000 of each kind
    are kept; the newest come first.

    \b
    Examples:
      troth failures
      troth failures --kind sending --kind lease --limit 20
    """
    query = [("limit", str(limit_count))]
    if kinds:
        query.append(("kind", ",".join(kinds)))
    if before is not None:
        query.append(("before", str(before)))
    answer = session.client.ask("GET", "/failures", query=query)
    session.show(answer, lambda: _table(answer.content["failures"]))
    if not session.as_json:
        found = answer.content
        following = found.get("before")
        more = f", there are more: --before {following}" if following else ""
        note(f"{len(found['failures'])} found{more}")


def _table(rows: list[Any]) -> str:
    return table(
        ("WHEN", "KIND", "ID", "REASON", "ABOUT"),
        [
            (short_moment(row["at"]), row["kind"], row["id"], row["reason"], row["about"])
            for row in rows
        ],
    )
