"""Who a request came from, and how the server is set up: `GET /whoami` and `GET /settings`."""

# ruff: noqa: ARG001 — handlers share one signature.

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Success, answer
from troth.http.settings.sources import describe
from troth.http.wire.requests import Response

from .answers import SettingObject, SettingsObject, WhoamiObject, whoami_object


async def whoami(api: Api, call: Call) -> Response:
    """GET /whoami."""
    return answer(Code.OK, whoami_object(api, call.request.principal))


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
