"""Who a request came from, and how the server is set up: `GET /whoami` and `GET /settings`."""

# ruff: noqa: ARG001 — handlers share one signature.

from troth import __version__
from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Success, answer
from troth.http.settings.sources import describe
from troth.http.wire.requests import Response

from .answers import ServerObject, SettingObject, SettingsObject, WhoamiObject


async def whoami(api: Api, call: Call) -> Response:
    """GET /whoami."""
    principal = call.request.principal
    server = ServerObject(
        version=__version__,
        is_open=api.credentials.is_open,
        in_memory=api.settings.in_memory,
        started_on=api.started_on_ms,
        now=api.now_ms(),
    )
    made = WhoamiObject(
        kind=principal.kind,
        name=principal.name,
        account=principal.account_id or None,
        token=principal.token_id or None,
        scopes=[scope for scope in Scope if scope in principal.scopes],
        id_prefix=principal.id_prefix,
        expires_on=principal.expires_on,
        server=server,
    )
    return answer(Code.OK, made)


async def show_settings(api: Api, call: Call) -> Response:
    """GET /settings: what could be a password is shown nowhere, names of users and targets are."""
    rows = [
        SettingObject(row.name, row.value, row.default, row.source, row.secret, row.help)
        for row in describe(api.settings)
    ]
    return answer(Code.OK, SettingsObject(rows))


ENDPOINTS = (
    Endpoint(
        name="whoami",
        group="Server",
        method="GET",
        path="/whoami",
        summary="Show whose credentials these are",
        handler=whoami,
        any_scope=True,
        successes=(Success(200, "And which server this is.", WhoamiObject),),
        examples=("troth whoami",),
    ),
    Endpoint(
        name="settings",
        group="Server",
        method="GET",
        path="/settings",
        summary="Show the settings in force",
        handler=show_settings,
        scope=Scope.ADMIN,
        successes=(Success(200, "All settings.", SettingsObject),),
        examples=("troth settings",),
    ),
)
