"""The answers of the endpoints that say what the server is and does."""

from typing import Annotated

from msgspec import Struct

from troth import __version__
from troth.core.catalog import Scope
from troth.http.api.context import Api
from troth.http.wire.answers import time_ms, told
from troth.http.wire.principals import Principal, PrincipalKind


class ServerObject(Struct, gc=False, rename="camel"):
    """The server that answered."""

    version: Annotated[str, told("Its version.", "0.1.0")]
    is_open: Annotated[bool, told("Whether the promise API needs no credentials.", False)] = False
    in_memory: Annotated[bool, told("Whether nothing is kept on disk.", False)] = False
    started_on: Annotated[int, time_ms("When it started")] = 0
    now: Annotated[int, time_ms("The time of its clock")] = 0


class WhoamiObject(Struct, gc=False, rename="camel"):
    """Whose credentials a request had, and what they allow."""

    kind: Annotated[PrincipalKind, told("The kind of credentials.", PrincipalKind.TOKEN.value)]
    name: Annotated[str, told("The account or user.", "billing")]
    account: Annotated[str | None, told("The id of a token's account.", None)]
    token: Annotated[str | None, told("The id of a token.", None)]
    scopes: Annotated[list[Scope], told("What they allow.", [Scope.PROMISES_READ.value])]
    id_prefix: Annotated[str, told("The prefix of ids they may name.", "b/")]
    expires_on: Annotated[int | None, time_ms("When they stop working")]
    server: ServerObject


class SettingObject(Struct, gc=False):
    """A setting of the server. Of secrets only names are shown."""

    name: Annotated[str, told("Its name, as in the file.", "listen")]
    value: Annotated[str, told("The value in force, as text.", "127.0.0.1:8001")]
    default: Annotated[str, told("Its default.", "127.0.0.1:8001")]
    source: Annotated[str, told("Where the value came from.", "option --listen")]
    secret: Annotated[bool, told("Whether the value is kept secret.", False)]
    help: Annotated[str, told("What it is for.", "Address of the API.")]


class SettingsObject(Struct, gc=False):
    """All settings."""

    settings: list[SettingObject]


def whoami_object(api: Api, principal: Principal) -> WhoamiObject:
    """Return whose credentials these are, and which server this is."""
    server = ServerObject(
        version=__version__,
        is_open=api.credentials.is_open,
        in_memory=api.settings.in_memory,
        started_on=api.started_on_ms,
        now=api.now_ms(),
    )
    return WhoamiObject(
        kind=principal.kind,
        name=principal.name,
        account=principal.account_id or None,
        token=principal.token_id or None,
        scopes=[scope for scope in Scope if scope in principal.scopes],
        id_prefix=principal.id_prefix,
        expires_on=principal.expires_on,
        server=server,
    )
