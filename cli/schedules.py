"""`troth schedules`: create promises repeatedly, at the times of a cron expression."""

from typing import Any, BinaryIO

import click

from .connection.addresses import path_of
from .options import (
    TEXT,
    OrderedGroup,
    Pairs,
    Session,
    key_option,
    pairs_option,
    request_headers,
    search_options,
    search_query,
    server_command,
    show_search,
    value_body,
    value_options,
)
from .output import short_moment, table, visible
from .scheduling.control import control_commands
from .scheduling.options import description_option, promise_timeout_option
from .scheduling.shown import schedule_fields


@click.group(cls=OrderedGroup)
def schedules() -> None:
    """Create promises on a schedule given by a cron expression.

    A schedule makes the server create a promise at each of its times, with an id made from a
    template, and so starts work automatically. Times missed while the server was
    stopped are made up for.

    \b
    Example:
      troth schedules create nightly --cron '0 3 * * *' --promise-id 'report-{{.timestamp}}'
      troth schedules search
    """


@schedules.command()
@click.argument("id", type=TEXT)
@click.option(
    "--cron",
    type=TEXT,
    required=True,
    metavar="TEXT",
    help="When: five fields (minute, hour, day, month, weekday), or @every 10m, @daily, …",
)
@click.option(
    "--promise-id",
    type=TEXT,
    required=True,
    metavar="TEMPLATE",
    help="Id of the promises; {{.id}} is the schedule's id, {{.timestamp}} the time in ms.",
)
@promise_timeout_option("1d")
@value_options
@pairs_option(
    "promise-tag", "A tag of each promise; resonate:invoke=ADDRESS sends a task to a worker."
)
@description_option
@pairs_option("tag", "A tag of the schedule itself, to search by; repeatable.")
@key_option
@server_command
def create(
    session: Session,
    id: str,  # noqa: A002 — the name that the help text shows
    cron: str,
    promise_id: str,
    promise_timeout_ms: int,
    data: str | None,
    data_file: BinaryIO | None,
    headers: Pairs,
    promise_tags: Pairs,
    description: str | None,
    tags: Pairs,
    idempotency_key: str | None,
) -> None:
    """Create the schedule ID.

    A schedule creates a promise at each time that --cron gives, and so starts work
    repeatedly and automatically. Data and headers given here
    are the param of each promise.

    \b
    Examples:
      troth schedules create nightly --cron '0 3 * * *' --promise-id 'report-{{.timestamp}}'
      troth schedules create ping --cron '@every 10s' --promise-id '{{.id}}-{{.timestamp}}' \\
          --promise-tag resonate:invoke=poll://any@default --promise-timeout 5s
    """
    body: dict[str, Any] = {
        "id": id,
        "cron": cron,
        "promiseId": promise_id,
        "promiseTimeout": promise_timeout_ms,
        "promiseParam": value_body(data, data_file, headers),
        "promiseTags": dict(promise_tags),
        "tags": dict(tags),
    }
    if description is not None:
        body["description"] = description
    answer = session.client.ask(
        "POST", "/schedules", body, headers=request_headers(idempotency_key)
    )
    headline = "Created" if answer.is_new else "Already created with the same key"
    session.show(answer, lambda: schedule_fields(answer.content, headline))


@schedules.command()
@click.argument("id", type=TEXT)
@server_command
def get(session: Session, id: str) -> None:  # noqa: A002
    """Show everything about the schedule ID.

    A schedule creates a promise at each of its times and so starts work repeatedly. Shown
    are when it last ran, when it runs next, and what it creates.

    \b
    Example:
      troth schedules get nightly
    """
    answer = session.client.ask("GET", path_of("schedules", id))
    session.show(answer, lambda: schedule_fields(answer.content, ""))


@schedules.command()
@click.argument("id", type=TEXT)
@server_command
def delete(session: Session, id: str) -> None:  # noqa: A002
    """Delete the schedule ID. The promises it has created are kept.

    A schedule creates a promise at each of its times and so starts work repeatedly.

    \b
    Example:
      troth schedules delete nightly
    """
    answer = session.client.ask("DELETE", path_of("schedules", id))
    session.show(answer, lambda: f"Deleted {visible(id)}")


@schedules.command()
@click.argument("pattern", type=TEXT, default="*")
@search_options
@server_command
def search(
    session: Session,
    pattern: str,
    tags: Pairs,
    limit_count: int,
    cursor: str | None,
    all_pages: bool,
) -> None:
    """List the schedules whose id matches PATTERN, newest first.

    A schedule creates a promise at each of its times and so starts work repeatedly. In the
    pattern * stands for any characters; without one all are listed.

    \b
    Example:
      troth schedules search 'night*'
    """
    query = search_query(pattern, tags, limit_count, cursor)
    show_search(session, "/schedules", query, all_pages, _table)


for control in control_commands:
    schedules.add_command(control)


def _table(rows: list[Any]) -> str:
    return table(
        ("ID", "CRON", "LAST RUN", "NEXT RUN", "PROMISE ID", "DESCRIPTION"),
        [
            (
                row["id"],
                row["cron"],
                short_moment(row.get("lastRunTime")),
                "paused" if "pausedOn" in row else short_moment(row["nextRunTime"]),
                row["promiseId"],
                row.get("description", ""),
            )
            for row in rows
        ],
    )
