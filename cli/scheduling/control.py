"""`troth schedules update|pause|resume|run|preview`: schedules under way."""

from typing import Any, BinaryIO, Final

import click

from troth.cli.connection.addresses import path_of
from troth.cli.options import (
    TEXT,
    Pairs,
    Session,
    pairs_option,
    server_command,
    value_body,
    value_options,
)
from troth.cli.output import moment, promise_fields, table

from .options import description_option, promise_timeout_option
from .shown import schedule_fields

CATCH_UP_LIMIT_COUNT: Final = 100


@click.command()
@click.argument("id", type=TEXT)
@click.option("--cron", type=TEXT, metavar="TEXT", help="When, as for `troth schedules create`.")
@click.option("--promise-id", type=TEXT, metavar="TEMPLATE", help="Id of the promises.")
@promise_timeout_option()
@value_options
@pairs_option("promise-tag", "A tag of each promise; those given replace all that were there.")
@description_option
@pairs_option("tag", "A tag of the schedule itself; those given replace all that were there.")
@server_command
def update(
    session: Session,
    id: str,  # noqa: A002 — the name that the help text shows
    cron: str | None,
    promise_id: str | None,
    promise_timeout_ms: int | None,
    data: str | None,
    data_file: BinaryIO | None,
    headers: Pairs,
    promise_tags: Pairs,
    description: str | None,
    tags: Pairs,
) -> None:
    """Change the schedule ID. What is not given stays as it is.

    A schedule creates a promise at each of its times and so starts work repeatedly. With another
    --cron it runs next at the first time from now on.

    \b
    Example:
      troth schedules update nightly --cron '0 4 * * *'
    """
    given = {
        "cron": cron,
        "promiseId": promise_id,
        "promiseTimeout": promise_timeout_ms,
        "promiseParam": value_body(data, data_file, headers) or None,
        "promiseTags": dict(promise_tags) or None,
        "description": description,
        "tags": dict(tags) or None,
    }
    body = {name: one for name, one in given.items() if one is not None}
    if not body:
        raise click.UsageError("nothing is to be changed; name at least one option")
    answer = session.client.ask("PATCH", path_of("schedules", id), body)
    session.show(answer, lambda: schedule_fields(answer.content, "Changed"))


@click.command()
@click.argument("id", type=TEXT)
@server_command
def pause(session: Session, id: str) -> None:  # noqa: A002
    """Pause the schedule ID.

    A schedule creates a promise at each of its times and so starts work repeatedly. It creates no
    more until it is resumed, also over a restart of the server.

    \b
    Example:
      troth schedules pause nightly
    """
    answer = session.client.ask("POST", "/schedules/pause", {"id": id})
    session.show(answer, lambda: schedule_fields(answer.content, "Paused"))


@click.command()
@click.argument("id", type=TEXT)
@click.option(
    "--catch-up",
    "catch_up_count",
    type=click.IntRange(0, CATCH_UP_LIMIT_COUNT),
    metavar="NUMBER",
    help="Make up for at most so many of the runs that it missed, the latest; 0 for none "
    "[default: as the server does after a downtime].",
)
@server_command
def resume(session: Session, id: str, catch_up_count: int | None) -> None:  # noqa: A002
    """Resume the paused schedule ID.

    A schedule creates a promise at each of its times and so starts work repeatedly. It goes on, and
    makes up for what it has missed.

    \b
    Example:
      troth schedules resume nightly --catch-up 0
    """
    body: dict[str, Any] = {"id": id}
    if catch_up_count is not None:
        body["catchUp"] = catch_up_count
    answer = session.client.ask("POST", "/schedules/resume", body)
    session.show(answer, lambda: schedule_fields(answer.content, "Resumed"))


@click.command()
@click.argument("id", type=TEXT)
@server_command
def run(session: Session, id: str) -> None:  # noqa: A002
    """Create the promise of the schedule ID now.

    A schedule creates a promise at each of its times and so starts work repeatedly. This is as if
    one of them were now; the others stay as they are. It also works while the schedule is paused.

    \b
    Example:
      troth schedules run nightly
    """
    answer = session.client.ask("POST", "/schedules/run", {"id": id})
    session.show(answer, lambda: promise_fields(answer.content, "Created"))


@click.command()
@click.argument("cron", type=TEXT)
@click.option(
    "--zone",
    type=TEXT,
    metavar="NAME",
    help="The time zone, as Europe/Berlin [default: the server's].",
)
@server_command
def preview(session: Session, cron: str, zone: str | None) -> None:
    """Show the next ten times of the expression CRON. Nothing is changed.

    A schedule creates a promise at each time of such an expression: five fields (minute, hour, day,
    month, weekday), six with leading seconds, or @every 10m, @daily, ….

    \b
    Examples:
      troth schedules preview '0 3 * * mon-fri' --zone Europe/Berlin
      troth schedules preview '@every 90s'
    """
    body = {"cron": cron} if zone is None else {"cron": cron, "timeZone": zone}
    answer = session.client.ask("POST", "/schedules/preview", body)
    session.show(
        answer,
        lambda: table(("TIME",), [(moment(time) or "",) for time in answer.content["times"]]),
    )


control_commands: Final = (update, pause, resume, run, preview)
