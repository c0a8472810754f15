"""`troth bulk`: do one thing to everything that a list finds, and follow how far it is."""

import time
from collections.abc import Callable
from typing import Any, BinaryIO, Final

import click

from troth.cli.connection.addresses import path_of
from troth.cli.connection.answers import ApiAnswer
from troth.cli.options import (
    DURATION,
    TEXT,
    OrderedGroup,
    Pairs,
    Session,
    server_command,
    tag_filter_option,
    together,
    value_body,
    value_options,
)
from troth.cli.output import fields, moment, note, now_ms, short_moment, table, visible
from troth.cli.progress import Progress

_LOOK_FIRST_S: Final = 0.1
_LOOK_LIMIT_S: Final = 1.0


@click.group(cls=OrderedGroup)
def bulk() -> None:
    """Do one thing to everything that a filter finds.

    Promises are canceled, resolved, rejected or deleted, schedules paused, resumed or deleted, and
    the messages of stalled tasks sent again. The server does it as a bulk job, at a rate of your
    choice: it gives way to other clients, and continues after a restart. A job touches nothing that
    is created after its start. Try it with --dry-run, which counts and gives examples.

    \b
    Example:
      troth bulk cancel --id 'order-*' --tag team=checkout --state pending --dry-run
      troth bulk cancel --id 'order-*' --tag team=checkout --state pending
    """


job_options: Final = together(
    click.option("--dry-run", is_flag=True, help="Only count, and give examples."),
    click.option(
        "--rate",
        "rate_count",
        type=click.IntRange(1, 20_000),
        metavar="NUMBER",
        help="How many a second at most [default: 1000].",
    ),
    click.option(
        "--detach", is_flag=True, help="Start the job and return; do not wait for its end."
    ),
)
id_option: Final = click.option(
    "--id",
    "pattern",
    type=TEXT,
    required=True,
    metavar="PATTERN",
    help="The ids; * stands for any characters.",
)
promise_options: Final = together(
    id_option,
    tag_filter_option,
    click.option(
        "--state",
        type=click.Choice(["pending", "resolved", "rejected"]),
        help="Only promises in this state; rejected includes canceled and timed out.",
    ),
    click.option(
        "--states",
        metavar="WORDS",
        help="Only promises in exactly these states, with commas: pending, resolved, rejected, "
        "canceled, timedout.",
    ),
    click.option(
        "--since",
        "since_ms",
        type=DURATION,
        metavar="DURATION",
        help="Only promises created in this time up to now: 10s, 5m, 2h.",
    ),
    click.option(
        "--older",
        "older_ms",
        type=DURATION,
        metavar="DURATION",
        help="Only promises created longer ago than this.",
    ),
    click.option(
        "--ended",
        "ended_ms",
        type=DURATION,
        metavar="DURATION",
        help="Only promises that completed longer ago than this.",
    ),
)


def _promise_filter(
    pattern: str,
    tags: Pairs,
    state: str | None,
    states: str | None,
    since_ms: int | None,
    older_ms: int | None,
    ended_ms: int | None,
) -> dict[str, str]:
    """Return the filter of promises, by the names that the API has."""
    now = now_ms()
    times = {"createdFrom": since_ms, "createdTo": older_ms, "completedTo": ended_ms}
    given = {"id": pattern, "state": state, "states": states}
    given |= {name: str(now - ago_ms) for name, ago_ms in times.items() if ago_ms is not None}
    found = {name: text for name, text in given.items() if text is not None}
    return {**found, **{f"tags[{name}]": text for name, text in tags}}


def _completing(action: str, summary: str) -> click.Command:
    """Make the command for an action that completes promises."""

    def complete(
        session: Session,
        dry_run: bool,
        rate_count: int | None,
        detach: bool,
        data: str | None,
        data_file: BinaryIO | None,
        headers: Pairs,
        **wanted: Any,
    ) -> None:
        value = value_body(data, data_file, headers)
        more = {"value": value} if value else {}
        _run(session, action, _promise_filter(**wanted), dry_run, rate_count, detach, **more)

    complete.__doc__ = (
        f"{summary}\n\n"
        "Those that are completed are passed over. What waits for the promises is told, as with a "
        "single one.\n\n\b\nExample:\n"
        f"  troth bulk {action} --id 'order-*' --tag team=checkout --dry-run"
    )
    return bulk.command(action)(
        promise_options(value_options(job_options(server_command(complete))))
    )


_completing("cancel", "Cancel all pending promises that the filter finds.")
_completing("resolve", "Resolve all pending promises that the filter finds.")
_completing("reject", "Reject all pending promises that the filter finds.")


@bulk.command()
@click.option("--kind", metavar="WORDS", help="Only rest or envelope tasks; with commas.")
@click.option("--states", metavar="WORDS", help="Only tasks in these states, with commas.")
@click.option("--receiver", metavar="TEXT", help="Only tasks for exactly this receiver.")
@click.option("--process", metavar="TEXT", help="Only tasks that this process holds.")
@click.option(
    "--root", metavar="PATTERN", help="Only tasks of these promises; * stands for any characters."
)
@job_options
@server_command
def retry(
    session: Session, dry_run: bool, rate_count: int | None, detach: bool, **wanted: str | None
) -> None:
    """Send stalled tasks that the filter finds now.

    A task is an order to a worker to continue with a promise; it is stalled when its receiver could
    not be reached. Tasks that are not stalled are passed over.

    \b
    Example:
      troth bulk retry --receiver https://example.com/tasks
    """
    given = {name: text for name, text in wanted.items() if text is not None}
    _run(session, "retry", given, dry_run, rate_count, detach)


@bulk.command()
@promise_options
@click.option("--schedules", is_flag=True, help="Delete schedules, not promises.")
@job_options
@server_command
def delete(
    session: Session,
    schedules: bool,
    dry_run: bool,
    rate_count: int | None,
    detach: bool,
    **wanted: Any,
) -> None:
    """Delete completed promises, or schedules, for good.

    All that the filter finds go. Passed over are promises that are pending, whose origin is
    pending, or that a worker is still to be told of. Schedules have only ids and tags.

    \b
    Examples:
      troth bulk delete --id 'order-*' --ended 30d --dry-run
      troth bulk delete --schedules --id 'test-*'
    """
    more = {"subject": "schedules"} if schedules else {}
    _run(session, "delete", _promise_filter(**wanted), dry_run, rate_count, detach, **more)


def _pausing(action: str, summary: str) -> click.Command:
    """Make the command for an action on schedules."""

    def act(
        session: Session,
        pattern: str,
        tags: Pairs,
        dry_run: bool,
        rate_count: int | None,
        detach: bool,
    ) -> None:
        wanted = {"id": pattern, **{f"tags[{name}]": text for name, text in tags}}
        _run(session, action, wanted, dry_run, rate_count, detach)

    act.__doc__ = f"{summary}\n\n\b\nExample:\n  troth bulk {action} --id 'nightly-*' --dry-run"
    return bulk.command(action)(id_option(tag_filter_option(job_options(server_command(act)))))


_pausing("pause", "Pause all schedules that the filter finds.")
_pausing("resume", "Resume all paused schedules that the filter finds.")


@bulk.command("list")
@server_command
def list_jobs(session: Session) -> None:
    """List bulk jobs that run or ended not long ago.

    \b
    Example:
      troth bulk list
    """
    answer = session.client.ask("GET", "/bulk")
    session.show(answer, lambda: _table(answer.content["jobs"]))
    if not session.as_json:
        note(f"{len(answer.content['jobs'])} found")


@bulk.command()
@click.argument("id", type=TEXT)
@server_command
def show(session: Session, id: str) -> None:  # noqa: A002
    """Show how far the bulk job ID is.

    \b
    Example:
      troth bulk show 019b76da1c00c5f2a1b3d4e5
    """
    answer = session.client.ask("GET", path_of("bulk", id))
    session.show(answer, lambda: _job(answer.content))


@bulk.command()
@click.argument("id", type=TEXT)
@server_command
def stop(session: Session, id: str) -> None:  # noqa: A002
    """Stop the bulk job ID. What is done stays done.

    \b
    Example:
      troth bulk stop 019b76da1c00c5f2a1b3d4e5
    """
    answer = session.client.ask("DELETE", path_of("bulk", id))
    session.show(answer, lambda: _job(answer.content))


def _run(
    session: Session,
    action: str,
    wanted: dict[str, str],
    dry_run: bool,
    rate_count: int | None,
    detach: bool,
    **more: Any,
) -> None:
    """Start a job and, unless told otherwise, wait for its end. Exits with 1 if it has failed."""
    body: dict[str, Any] = {"action": action, "filter": wanted, **more}
    if dry_run:
        body["dryRun"] = True
    if rate_count is not None:
        body["ratePerSecond"] = rate_count
    answer = session.client.ask("POST", "/bulk", body)
    if not detach:
        answer = _followed(session, answer)
    session.show(answer, lambda: _job(answer.content))
    if answer.content["state"] in ("failed", "stopped"):
        raise click.exceptions.Exit(1)


def _followed(session: Session, answer: ApiAnswer) -> ApiAnswer:
    """Wait for a job's end; return how it is then."""
    job_id = answer.content["id"]
    pause_s = _LOOK_FIRST_S
    try:
        with Progress("Counting", "done", shown=not session.as_json) as progress:
            while answer.content["state"] == "running":
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, _LOOK_LIMIT_S)
                answer = session.client.ask("GET", path_of("bulk", job_id))
                if answer.content["total"] is not None:
                    progress.label(f"Of {answer.content['total']}")
                progress.advance(answer.content["done"])
    except KeyboardInterrupt:
        note(f"The job goes on: troth bulk show {job_id}, troth bulk stop {job_id}")
        raise
    return answer


def _job(job: Any) -> str:
    """Return everything about a job."""
    would = "would be done" if job["dryRun"] else "done"
    skipped = [f"{count} ({visible(reason)})" for reason, count in job["skipped"].items()]
    wanted = [f"{visible(name)}={visible(text)}" for name, text in job["filter"].items()]
    examples = "\n".join(map(visible, job.get("examples", ())))
    entries: list[tuple[str, str | None]] = [
        ("id", visible(job["id"])),
        ("state", visible(job["state"])),
        ("what", f"{visible(job['action'])} {visible(job['subject'])}"),
        ("filter", "\n".join(wanted) or "everything"),
        ("found", _number(job["total"])),
        (would, str(job["done"])),
        ("skipped", "\n".join(skipped) or None),
        ("failed", str(job["failed"]) if job["failed"] else None),
        ("left", _number(job["left"]) if job["left"] else None),
        ("rate", f"{job['rate']} a second" if job["rate"] else None),
        ("by", visible(job["by"])),
        ("started", moment(job["createdOn"])),
        ("ended", moment(job.get("endedOn"))),
        ("problem", visible(job["problem"]) if "problem" in job else None),
        ("examples", examples or None),
    ]
    return fields("Dry run: nothing was changed" if job["dryRun"] else "", entries)


def _number(count: int | None) -> str:
    return "not counted yet" if count is None else str(count)


def _table(jobs: list[Any]) -> str:
    columns: tuple[tuple[str, Callable[[Any], str]], ...] = (
        ("ID", lambda job: job["id"]),
        ("STATE", lambda job: job["state"] + (" (dry run)" if job["dryRun"] else "")),
        ("WHAT", lambda job: f"{job['action']} {job['subject']}"),
        ("FOUND", lambda job: "" if job["total"] is None else str(job["total"])),
        ("DONE", lambda job: str(job["done"])),
        ("SKIPPED", lambda job: str(sum(job["skipped"].values()))),
        ("RATE", lambda job: str(job["rate"] or "")),
        ("STARTED", lambda job: short_moment(job["createdOn"])),
        ("BY", lambda job: job["by"]),
    )
    rows = [tuple(cell(job) for _, cell in columns) for job in jobs]
    return table(tuple(name for name, _ in columns), rows)
