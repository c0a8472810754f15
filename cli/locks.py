"""`troth locks`: make sure that only one of many does something at a time."""

from typing import Any, Final

import click

from .options import DURATION, TEXT, OrderedGroup, Session, default_process_id, server_command
from .output import fields, moment, span, visible


@click.group(cls=OrderedGroup)
def locks() -> None:
    """Acquire, release and renew locks.

    A lock makes sure that only one execution (one run of a program or script, under a name it
    chooses) uses a resource at a time. It is a lease: it ends by itself unless it is renewed,
    so a crashed holder blocks nobody for long.

    \b
    Example:
      troth locks acquire printer run-42 --ttl 5m
      troth locks release printer run-42
    """


process_option: Final = click.option(
    "--process-id",
    type=TEXT,
    default=default_process_id,
    show_default="troth-cli@ and this machine's name",
    metavar="TEXT",
    help="Who renews the lock; heartbeats name the same.",
)


@locks.command()
@click.argument("resource", type=TEXT)
@click.argument("execution", type=TEXT)
@process_option
@click.option(
    "--ttl",
    "ttl_ms",
    type=DURATION,
    default="1m",
    show_default=True,
    metavar="DURATION",
    help="How long the lock holds without a heartbeat: 10s, 5m, 2h, or milliseconds.",
)
@server_command
def acquire(session: Session, resource: str, execution: str, process_id: str, ttl_ms: int) -> None:
    """Acquire the lock on RESOURCE for EXECUTION.

    A lock is a lease on a resource, which one execution has at a time. If EXECUTION has it
    already, it is renewed. If another has it, the
    command does not wait: it ends with status 1.

    \b
    Example:
      troth locks acquire printer run-42 --ttl 5m
    """
    body = {
        "resourceId": resource,
        "executionId": execution,
        "processId": process_id,
        "ttl": ttl_ms,
    }
    answer = session.client.ask("POST", "/locks/acquire", body)
    session.show(answer, lambda: _lock(answer.content))


@locks.command()
@click.argument("resource", type=TEXT)
@click.argument("execution", type=TEXT)
@server_command
def release(session: Session, resource: str, execution: str) -> None:
    """Release the lock on RESOURCE that EXECUTION has.

    A lock is a lease on a resource, which one execution has at a time.

    \b
    Example:
      troth locks release printer run-42
    """
    body = {"resourceId": resource, "executionId": execution}
    answer = session.client.ask("POST", "/locks/release", body)
    session.show(answer, lambda: f"Released {visible(resource)}")


@locks.command()
@process_option
@server_command
def heartbeat(session: Session, process_id: str) -> None:
    """Renew all locks of one process, each by its own ttl.

    A lock is a lease on a resource, which one execution has at a time. Heartbeats tell the
    server that its holder is alive.

    \b
    Example:
      troth locks heartbeat --process-id worker-3
    """
    answer = session.client.ask("POST", "/locks/heartbeat", {"processId": process_id})
    session.show(
        answer,
        lambda: f"Locks renewed for {visible(process_id)}: {answer.content['locksAffected']}",
    )


def _lock(lock: Any) -> str:
    return fields(
        "Acquired",
        [
            ("resource", visible(lock["resourceId"])),
            ("execution", visible(lock["executionId"])),
            ("process", visible(lock["processId"])),
            ("ttl", span(lock["ttl"])),
            ("ends", moment(lock["expiresAt"])),
        ],
    )
