"""`troth whoami`: shows whose credentials a command uses, what they allow, and at which server."""

from typing import Any

import click

from troth.cli.options import ServerCommand, Session, server_command
from troth.cli.output import fields, moment, span, visible


@click.command(cls=ServerCommand)
@server_command
def whoami(session: Session) -> None:
    """Show whose credentials these are and what they allow.

    \b
    Example:
      troth whoami --server https://troth.example
    """
    answer = session.client.ask("GET", "/whoami")
    session.show(answer, lambda: _text(answer.content, session.client.shown_url))


def _text(shown: Any, url: str) -> str:
    server = shown["server"]
    named = {"anonymous": "no credentials", "operator": "the operator's key"}
    expires = moment(shown["expiresOn"]) if shown["kind"] == "token" else None
    access = "open: the promise API needs no credentials" if server["isOpen"] else "closed"
    storage = "memory only, lost when it stops" if server["inMemory"] else "disk"
    return fields(
        named.get(shown["kind"], f"{shown['kind']} {visible(shown['name'])}".rstrip()),
        [
            ("account", visible(shown["account"]) if shown["account"] else None),
            ("token", visible(shown["token"]) if shown["token"] else None),
            ("scopes", " ".join(map(visible, shown["scopes"])) or "none"),
            ("only ids", f"{visible(shown['idPrefix'])}…" if shown["idPrefix"] else None),
            ("expires", expires or ("never" if shown["kind"] == "token" else None)),
            ("server", f"{visible(url)}, Troth {visible(server['version'])}"),
            ("access", access),
            ("data", storage),
            ("up for", span(max(0, server["now"] - server["startedOn"]))),
        ],
    )
