"""`troth settings`: shows the settings that a running server has, and where they came from."""

from typing import Any

import click

from troth.cli.operator_session import administrator_command
from troth.cli.options import ServerCommand, Session
from troth.cli.output import note, table


@click.command(cls=ServerCommand)
@click.option("--all", "shows_all", is_flag=True, help="Show those that have their defaults too.")
@administrator_command()
def settings(session: Session, shows_all: bool) -> None:
    """Show the settings of a running server.

    Only those that differ from their defaults, unless --all is given. Passwords and the addresses
    of receivers are not shown. Run it on the server's machine, as its user, with --data, or give a
    token of the scope admin.

    \b
    Examples:
      troth settings --data /var/lib/troth
      troth settings --all --json --server https://troth.example
    """
    answer = session.client.ask("GET", "/settings")
    session.show(answer, lambda: _table(answer.content["settings"], shows_all))
    if not (session.as_json or shows_all):
        count = sum(row["source"] == "default" for row in answer.content["settings"])
        note(f"{count} more have their defaults: --all shows them")


def _table(rows: list[Any], shows_all: bool) -> str:
    shown = [row for row in rows if shows_all or row["source"] != "default"]
    columns = ("SETTING", "VALUE", "DEFAULT", "FROM")
    return table(
        columns, [(row["name"], row["value"], row["default"], row["source"]) for row in shown]
    )
