"""`troth why`: says in one sentence why a promise is pending, and shows what is behind it."""

from typing import Any

import click

from troth.cli.connection.addresses import path_of
from troth.cli.options import TEXT, ServerCommand, Session, server_command
from troth.cli.output import fields, moment, visible


@click.command(cls=ServerCommand)
@click.argument("id", type=TEXT)
@server_command
def why(session: Session, id: str) -> None:  # noqa: A002
    """Say why the promise ID is still pending.

    A durable promise stands for a value that will be known later. It may wait for a worker that is
    busy, gone or was never there, for other promises, or for its time. The sentence names the
    deepest cause: if the promise waits for others, these are followed down.

    ID may be a function task's, with a token of its account.

    \b
    Examples:
      troth why order-7
      troth why order-7 --json
    """
    answer = session.client.ask("GET", path_of("why", id))
    session.show(answer, lambda: shown(answer.content))


def shown(content: Any) -> str:
    """Return why a promise is pending, for people."""
    cause = content["cause"]
    task = cause.get("task") or {}
    following = content["next"]
    path = " > ".join(visible(link["id"]) for link in content["path"])
    listeners = cause.get("listeners")
    sent_count, failed_count = task.get("sentCount", 0), task.get("failedCount", 0)
    return fields(
        visible(content["sentence"]),
        [
            ("state", visible(content["state"])),
            ("reason", visible(cause["reason"])),
            ("path", path or None),
            ("since", moment(cause.get("since"))),
            ("receiver", visible(task["receiver"]) if task else None),
            ("listeners", None if listeners is None else str(listeners)),
            ("task", f"{visible(task['id'])}, {visible(task['state'])}" if task else None),
            ("counter", str(task["counter"]) if task else None),
            ("sent", f"{sent_count} times since the server started" if sent_count else None),
            ("failed", f"{failed_count} times in a row" if failed_count else None),
            ("holder", visible(task["processId"]) if "processId" in task else None),
            ("last heard", moment(cause.get("heardOn"))),
            ("last error", visible(task["lastError"]) if "lastError" in task else None),
            ("next try", moment(task.get("nextTry"))),
            (
                "next",
                f"{visible(following['what'])} of {visible(following['id'])}: "
                f"{moment(following['at'])}"
                if following
                else None,
            ),
        ],
    )
