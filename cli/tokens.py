"""`troth token`: the credentials of programs."""

from typing import Any, Final

import click

from troth.core.catalog import Scope

from .connection.addresses import path_of
from .operator_session import operator_command
from .options import DURATION, TEXT, OrderedGroup, Session
from .output import note, short_moment, table, visible

_SCOPES: Final = tuple(scope.value for scope in Scope)


@click.group(cls=OrderedGroup)
def token() -> None:
    """Create, list and revoke tokens.

    A token lets a program act for an account, as far as the token's scopes allow. It is sent as
    `Authorization: Bearer TOKEN`, or, by programs that know only user names and passwords, as the
    password of any user.

    \b
    Example:
      troth token create billing --scope promises:read --scope promises:write
    """


@token.command()
@click.argument("account", type=TEXT)
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(_SCOPES),
    multiple=True,
    required=True,
    metavar="SCOPE",
    help=f"What it allows; repeatable. One of {', '.join(_SCOPES)}.",
)
@click.option("--name", type=TEXT, metavar="TEXT", help="What it is for.")
@click.option(
    "--expires-in",
    "expires_in_ms",
    type=DURATION,
    metavar="DURATION",
    help="When it stops working: 8h, 30d, or milliseconds [default: never].",
)
@click.option(
    "--id-prefix",
    type=TEXT,
    metavar="TEXT",
    help="Restrict it to ids of promises, schedules, locks and poll groups that begin with this.",
)
@operator_command()
def create(
    session: Session,
    account: str,
    scopes: tuple[str, ...],
    name: str | None,
    expires_in_ms: int | None,
    id_prefix: str | None,
) -> None:
    """Create a token for ACCOUNT, an id or a name, and print it.

    It is shown only once: the server stores only a digest of it.

    \b
    Examples:
      troth token create billing --scope promises:read --scope promises:write
      troth token create billing --scope tasks:write --name 'nightly job' --expires-in 90d
      troth token create ops --scope metrics:read --name prometheus
    """
    body: dict[str, Any] = {"account": account, "scopes": list(scopes)}
    given = (("name", name), ("expiresIn", expires_in_ms), ("idPrefix", id_prefix))
    body.update((key, value) for key, value in given if value is not None)
    answer = session.client.ask("POST", "/admin/tokens", body)
    session.show(answer, lambda: visible(answer.content["token"]))
    if not session.as_json:
        note(f"Token {visible(answer.content['id'])}. Store its text: it is not shown again.")


@token.command("list")
@click.option("--account", type=TEXT, metavar="ACCOUNT", help="Only tokens of this account.")
@operator_command()
def list_command(session: Session, account: str | None) -> None:
    """List all tokens, oldest first, including invalid ones. Their texts are never shown.

    \b
    Example:
      troth token list --account billing
    """
    query = [] if account is None else [("account", account)]
    answer = session.client.ask("GET", "/admin/tokens", query=query)

    def shown() -> str:
        rows = (
            (
                one["id"],
                one["accountName"],
                one["name"],
                one["state"],
                " ".join(one["scopes"]),
                one["idPrefix"],
                short_moment(one["expiresOn"]),
                short_moment(one.get("lastUsedOn")),
                short_moment(one["createdOn"]),
            )
            for one in answer.content
        )
        columns = ("ID", "ACCOUNT", "NAME", "STATE", "SCOPES", "ID PREFIX", "EXPIRES")
        return table((*columns, "LAST USED", "CREATED"), rows)

    session.show(answer, shown)


@token.command()
@click.argument("name", type=TEXT)
@click.option(
    "--grace",
    "grace_ms",
    type=DURATION,
    default="0",
    metavar="DURATION",
    help="How long the text before still works: 10m, 1h, 1d [default: not at all].",
)
@operator_command()
def rotate(session: Session, name: str, grace_ms: int) -> None:
    """Give the token NAME a new text, and print it.

    NAME is a token's name, if only one valid token has it, or its id. The token keeps its id, its
    account and its scopes. Its new text is shown only once.

    \b
    Examples:
      troth token rotate prometheus --grace 1h
      troth token rotate 65fb40f0a1b2c3d4e5f60718
    """
    body: dict[str, Any] = {"id": name, "grace": grace_ms}
    answer = session.client.ask("POST", "/admin/tokens/rotate", body)
    session.show(answer, lambda: visible(answer.content["token"]))
    if not session.as_json:
        note(f"Token {visible(answer.content['id'])}. Store its text: it is not shown again.")


@token.command()
@click.argument("id", type=TEXT)
@operator_command()
def revoke(session: Session, id: str) -> None:  # noqa: A002
    """Revoke the token with this ID, immediately and permanently. Its open streams end.

    ID is what `troth token list` shows, not the token's text.

    \b
    Example:
      troth token revoke 65fb40f0a1b2c3d4e5f60718
    """
    answer = session.client.ask("DELETE", path_of("admin", "tokens", id))
    session.show(answer, lambda: f"Revoked {visible(id)}")
