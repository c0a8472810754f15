"""`troth account`: who can use the server, and who changed its settings."""

from typing import Any

import click

from .connection.addresses import path_of
from .operator_session import operator_command
from .options import TEXT, OrderedGroup, Session, limit_option
from .output import moment, short_moment, table, visible

_ENTRY_KEYS = frozenset({"time", "act", "outcome", "by", "from", "request"})


@click.group(cls=OrderedGroup)
def account() -> None:
    """Create and disable accounts; show who changed what.

    An account owns functions, tasks and nodes; its tokens let programs act for it. With the first
    account, open access ends: from then on every request needs credentials.

    These commands need access to the server's data directory: run them on the server's machine,
    as its user. They work whether or not the server is running.

    \b
    Example:
      troth account add billing --data /var/lib/troth
      troth token create billing --scope promises:read --data /var/lib/troth
    """


@account.command()
@click.argument("name", type=TEXT)
@operator_command(may_make=True)
def add(session: Session, name: str) -> None:
    """Create an account called NAME and print its id.

    \b
    Example:
      troth account add billing --data /var/lib/troth
    """
    answer = session.client.ask("POST", "/admin/accounts", {"name": name})
    session.show(answer, lambda: visible(answer.content["id"]))


@account.command("list")
@operator_command()
def list_command(session: Session) -> None:
    """List all accounts, oldest first.

    \b
    Example:
      troth account list --data /var/lib/troth
    """
    answer = session.client.ask("GET", "/admin/accounts")

    def shown() -> str:
        rows = (
            (
                one["id"],
                one["name"],
                "disabled" if one["disabled"] else "active",
                short_moment(one["createdOn"]),
            )
            for one in answer.content
        )
        return table(("ID", "NAME", "STATE", "CREATED"), rows)

    session.show(answer, shown)


@account.command()
@click.argument("account", type=TEXT)
@operator_command()
def disable(session: Session, account: str) -> None:
    """Disable ACCOUNT and all of its tokens, effective immediately.

    ACCOUNT is an id or a name. Its open streams end. What it owns is kept; `enable` undoes this.

    \b
    Example:
      troth account disable billing --data /var/lib/troth
    """
    _change(session, account, disabled=True)


@account.command()
@click.argument("account", type=TEXT)
@operator_command()
def enable(session: Session, account: str) -> None:
    """Enable ACCOUNT and its tokens again.

    ACCOUNT is an id or a name. Revoked and expired tokens stay invalid.

    \b
    Example:
      troth account enable billing --data /var/lib/troth
    """
    _change(session, account, disabled=False)


def _change(session: Session, account: str, *, disabled: bool) -> None:
    answer = session.client.ask(
        "PATCH", path_of("admin", "accounts", account), {"disabled": disabled}
    )
    word = "Disabled" if disabled else "Enabled"
    session.show(answer, lambda: f"{word} {visible(answer.content['name'])}")


@account.command("log")
@limit_option("Number of entries to show, the newest ones.")
@operator_command()
def log_command(session: Session, limit_count: int) -> None:
    """Show administrative changes, and who made them.

    The log has changes of accounts, tokens and nodes, snapshots, imports and manual retention.

    The whole log is in the files audit.log, audit.log.1 … of the data directory.

    \b
    Example:
      troth account log --limit 20 --data /var/lib/troth
    """
    query = [("limit", str(limit_count))]
    answer = session.client.ask("GET", "/admin/audit", query=query)

    def shown() -> str:
        rows = (
            (one["time"], one["act"], one["outcome"], one["by"], one["from"] or "", _about(one))
            for one in answer.content
        )
        return table(("TIME", "ACT", "OUTCOME", "BY", "FROM", "ABOUT"), rows)

    session.show(answer, shown)


def _about(entry: dict[str, Any]) -> str:
    about = ((name, text) for name, text in entry.items() if name not in _ENTRY_KEYS)
    return ", ".join(
        f"{name} {moment(text) if name == 'expiresOn' else text}" for name, text in about if text
    )
