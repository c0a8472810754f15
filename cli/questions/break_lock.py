"""`troth locks break`: releases a lock of any holder. Only for administrators."""

import click

from troth.cli.operator_session import administrator_command
from troth.cli.options import TEXT, ServerCommand, Session
from troth.cli.output import visible


@click.command("break", cls=ServerCommand)
@click.argument("resource", type=TEXT)
@administrator_command()
def break_lock(session: Session, resource: str) -> None:
    """Release the lock on RESOURCE, which another may hold.

    A lock is a lease on a resource, which one execution has at a time. Its holder is not told, and
    may go on as if it had the lock: break one only if its holder is known to be gone. The audit log
    has a line.

    \b
    Example:
      troth locks break printer
    """
    answer = session.client.ask("POST", "/locks/break", {"resourceId": resource})
    session.show(answer, lambda: f"Released {visible(resource)}")
