"""`troth tasks`: do by hand what workers do with their tasks."""

from typing import Any, Final

import click

from .connection.addresses import path_of
from .options import (
    DURATION,
    TEXT,
    OrderedGroup,
    Session,
    page_options,
    page_query,
    process_option,
    server_command,
    show_search,
    together,
)
from .output import fields, moment, promise_fields, visible
from .questions.tables import task_fields, tasks_table


@click.group(cls=OrderedGroup)
def tasks() -> None:
    """List, claim, complete and return tasks.

    A task is an order to a worker to continue with a promise: to begin the work, or to go on
    because something it waited for is completed. A worker claims the task for a limited time,
    renews the claim by heartbeats while it works, and completes it. If it stops responding, the
    server sends the task to another worker, with a higher counter.

    \b
    Example:
      troth tasks list --states stalled
      troth tasks claim __invoke:order-7 1 --ttl 5m
      troth tasks complete __invoke:order-7 1
    """


@tasks.command("list")
@click.option("--kind", metavar="WORDS", help="Only rest, envelope or function; with commas.")
@click.option(
    "--states",
    metavar="WORDS",
    help="Only tasks in these states, with commas: init, enqueued, claimed, stalled, pending, "
    "acquired, suspended, halted; with --root ID also completed, timedout, fulfilled.",
)
@click.option("--receiver", metavar="TEXT", help="Only tasks for exactly this receiver.")
@click.option("--process", metavar="TEXT", help="Only tasks that this process holds.")
@click.option(
    "--root", metavar="PATTERN", help="Only tasks of these promises; * stands for any characters."
)
@click.option("--newest", is_flag=True, help="The newest first, not the oldest.")
@page_options()
@server_command
def list_tasks(
    session: Session,
    kind: str | None,
    states: str | None,
    receiver: str | None,
    process: str | None,
    root: str | None,
    newest: bool,
    limit_count: int,
    cursor: str | None,
    all_pages: bool,
) -> None:
    """List unfinished tasks of both APIs, the oldest first.

    A task is an order to a worker to continue with a promise. Shown are where its message goes, who
    holds it until when, and why it could not be sent.

    \b
    Examples:
      troth tasks list --receiver poll://any@gpu
      troth tasks list --root 'order-*' --states claimed,acquired
    """
    query = page_query(
        limit_count,
        cursor,
        ("kind", kind),
        ("states", states),
        ("receiver", receiver),
        ("process", process),
        ("root", root),
        ("order", "newest" if newest else None),
    )
    show_search(session, "/tasks", query, all_pages, tasks_table)


@tasks.command()
@click.argument("id", type=TEXT)
@server_command
def show(session: Session, id: str) -> None:  # noqa: A002
    """Show everything about the task ID.

    A task is an order to a worker to continue with a promise. For a task of the envelope protocol,
    ID is the promise's.

    \b
    Examples:
      troth tasks show __invoke:order-7
      troth tasks show order-8
    """
    answer = session.client.ask("GET", path_of("tasks", "show", id))
    session.show(answer, lambda: task_fields(answer.content))


@tasks.command()
@click.argument("id", type=TEXT)
@server_command
def release(session: Session, id: str) -> None:  # noqa: A002
    """Take the task ID from the worker that holds it.

    A task is an order to a worker to continue with a promise. It goes out again, to any worker, and
    whatever the old holder does with it is refused. For a worker that is known to be gone, this is
    faster than to wait for the end of its lease.

    \b
    Example:
      troth tasks release __invoke:order-7
    """
    answer = session.client.ask("POST", "/tasks/release", {"id": id})
    session.show(answer, lambda: task_fields(answer.content))


@tasks.command()
@click.argument("id", type=TEXT)
@server_command
def retry(session: Session, id: str) -> None:  # noqa: A002
    """Send the stalled task ID now, without waiting for its next try.

    A task is an order to a worker to continue with a promise. One is stalled when its receiver
    could not be reached.

    \b
    Example:
      troth tasks retry __invoke:order-7
    """
    answer = session.client.ask("POST", "/tasks/retry", {"id": id})
    session.show(answer, lambda: task_fields(answer.content))


task_arguments: Final = together(
    click.argument("id", type=TEXT), click.argument("counter", type=int)
)
holder_option: Final = process_option("The process that claims; heartbeats must give the same id.")


@tasks.command()
@task_arguments
@holder_option
@click.option(
    "--ttl",
    "ttl_ms",
    type=DURATION,
    default="1m",
    show_default=True,
    metavar="DURATION",
    help="How long the claim holds without a heartbeat: 10s, 5m, 2h, or milliseconds.",
)
@server_command
def claim(session: Session, id: str, counter: int, process_id: str, ttl_ms: int) -> None:  # noqa: A002
    """Claim the task ID, and show the promises it is about.

    A task is an order to a worker to continue with a promise. ID and COUNTER are in the message
    that the worker was sent. The counter rises each time the task is sent again, so that
    a worker that has lost the task cannot interfere.

    \b
    Example:
      troth tasks claim __invoke:order-7 1 --ttl 5m
    """
    body = {"id": id, "counter": counter, "processId": process_id, "ttl": ttl_ms}
    answer = session.client.ask("POST", "/tasks/claim", body)
    session.show(answer, lambda: _claimed(answer.content, process_id))


@tasks.command()
@task_arguments
@server_command
def complete(session: Session, id: str, counter: int) -> None:  # noqa: A002
    """Complete the claimed task ID.

    A task is an order to a worker to continue with a promise; it is complete when the work is done,
    or has to wait for something else. Completing the task does not complete the promise, but
    completing the promise ends its tasks.

    \b
    Example:
      troth tasks complete __invoke:order-7 1
    """
    answer = session.client.ask("POST", "/tasks/complete", {"id": id, "counter": counter})
    headline = "Completed" if answer.is_new else "Already completed; nothing changed"
    session.show(answer, lambda: _task(answer.content, headline))


@tasks.command()
@task_arguments
@server_command
def drop(session: Session, id: str, counter: int) -> None:  # noqa: A002
    """Return the claimed task ID.

    A task is an order to a worker to continue with a promise. A worker that cannot do the work, or
    has to stop, returns it, and another worker gets it immediately instead of after the claim has
    run out.

    \b
    Example:
      troth tasks drop __invoke:order-7 1
    """
    answer = session.client.ask("POST", "/tasks/drop", {"id": id, "counter": counter})
    text = "Given back" if answer.is_new else "It was not claimed; nothing changed"
    session.show(answer, lambda: text)


@tasks.command()
@holder_option
@server_command
def heartbeat(session: Session, process_id: str) -> None:
    """Renew the claims on all tasks of one process.

    A task is an order to a worker to continue with a promise. Each claim holds for its ttl again.
    Heartbeats tell the server that the
    worker is alive and still working.

    \b
    Example:
      troth tasks heartbeat --process-id worker-3
    """
    answer = session.client.ask("POST", "/tasks/heartbeat", {"processId": process_id})
    session.show(
        answer,
        lambda: f"Tasks renewed for {visible(process_id)}: {answer.content['tasksAffected']}",
    )


def _claimed(content: Any, process_id: str) -> str:
    parts = [fields(f"Claimed by {visible(process_id)}", [("type", visible(content["type"]))])]
    for role in ("root", "leaf"):
        about = content["promises"].get(role)
        if about is None:
            continue
        title = {"root": "The promise to continue", "leaf": "The promise it waited for"}[role]
        if about["data"] is None:
            parts.append(fields(title, [("id", visible(about["id"])), ("state", "does not exist")]))
        else:
            parts.append(promise_fields(about["data"], title))
    return "\n".join(parts)


def _task(task: Any, headline: str) -> str:
    return fields(
        headline,
        [
            ("id", visible(task["id"])),
            ("counter", str(task["counter"])),
            ("promise", visible(task["rootPromiseId"]) if "rootPromiseId" in task else None),
            ("process", visible(task["processId"]) if "processId" in task else None),
            ("created", moment(task.get("createdOn"))),
            ("timeout", moment(task["timeout"])),
            ("completed", moment(task.get("completedOn"))),
        ],
    )
