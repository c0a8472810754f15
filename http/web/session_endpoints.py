"""Signing in and out with a browser: `/session`, and codes that sign in once.

A session is what a cookie stands for (`troth.http.identity.sessions`), and `session_cookies.py`
says when it counts. Here sessions are opened, shown and ended.
"""

from typing import Annotated, Final

from msgspec import UNSET, Struct, UnsetType

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.limits import CODE_LIMIT_MS, SESSION_IDLE_LIMIT_MS
from troth.http.api.authentication import identified_by, unauthorized
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Success, answer
from troth.http.api.session_cookies import is_of_own_page
from troth.http.identity.sessions import BrowserSession
from troth.http.overview.answers import WhoamiObject, whoami_object
from troth.http.wire.answers import time_ms, told
from troth.http.wire.errors import ApiError, invalid
from troth.http.wire.fields import Text
from troth.http.wire.json_text import dump
from troth.http.wire.principals import Principal
from troth.http.wire.requests import Request, Response, json_response

_NO_STORE: Final = (b"cache-control", b"no-store")


class OpenSessionBody(Struct, rename="camel", forbid_unknown_fields=True):
    """What signs in: a token, a user with a password, or a one-time code."""

    token: Annotated[str | None, Text("A token, or the operator's key.", "troth_…")] = None
    user: Annotated[str | None, Text("A user of the setting `basic_auth`.", "ann")] = None
    password: Annotated[str | None, Text("The user's password.", "secret")] = None
    code: Annotated[str | None, Text("A code of `POST /admin/session-code`.", "Xv…")] = None


class SessionObject(Struct, gc=False, rename="camel"):
    """A session, and whose it is."""

    who: WhoamiObject
    csrf: Annotated[
        str | UnsetType, told("For the header X-Troth-CSRF; absent without a session.", "f2Q…")
    ] = UNSET
    opened_on: Annotated[int | UnsetType, time_ms("When it began")] = UNSET
    ends_on: Annotated[int | UnsetType, time_ms("When it ends at the latest")] = UNSET
    idle_limit: Annotated[
        int | UnsetType, told("Ends this long after its last use, in ms.", SESSION_IDLE_LIMIT_MS)
    ] = UNSET


class SessionCodeObject(Struct, gc=False, rename="camel"):
    """A code that opens one session."""

    code: Annotated[str, told("The code.", "Xv…")]
    expires_in: Annotated[int, told("How long it works, in ms.", CODE_LIMIT_MS)]
    url: Annotated[
        str | None, told("What the setting `url` says, with a slash; null without it.", None)
    ]


def _session_object(
    api: Api, principal: Principal, session: BrowserSession | None
) -> SessionObject:
    made = SessionObject(whoami_object(api, principal))
    if session is not None:
        made.csrf = session.csrf
        made.opened_on, made.ends_on = session.opened_ms, session.ends_ms
        made.idle_limit = SESSION_IDLE_LIMIT_MS
    return made


async def open_session(api: Api, call: Call) -> Response:
    """POST /session."""
    request = call.request
    if not is_of_own_page(request):
        message = "Only a page of this server opens sessions; others send `X-Troth-UI: 1`."
        raise ApiError(Code.SESSION_FORBIDDEN, message=message)
    principal = _identified(api, request, call.body)
    request.principal = principal
    await api.audit.write(request, "session.open")
    opened = api.credentials.open_session(principal)
    if opened is None:
        raise unauthorized()  # revoked in this very moment
    await api.credentials.spread()
    secret, session = opened
    made = _session_object(api, session.principal, session)
    return json_response(201, dump(made), [_NO_STORE, api.session_cookie.set(secret)])


def _identified(api: Api, request: Request, body: OpenSessionBody) -> Principal:
    """Return whose session it is to be. Raises ApiError: 400, 401, 429, 503."""
    has_user = body.user is not None or body.password is not None
    if (body.token is not None) + (body.code is not None) + has_user != 1:
        raise invalid("body", "must have `token`, or `user` and `password`, or `code`")
    if body.code is not None:
        principal = api.credentials.sessions.take_code(body.code)
        if principal is None:
            api.credentials.attempts.failed(request.peer)
            raise unauthorized("The code is unknown, was used, or is older than a minute.")
        return principal
    return identified_by(
        api, request, body.token or body.password or "", body.user or "", body.password or ""
    )


async def show_session(api: Api, call: Call) -> Response:
    """GET /session."""
    principal = call.request.principal
    session = api.credentials.sessions.of(principal)
    return json_response(200, dump(_session_object(api, principal, session)), [_NO_STORE])


async def close_session(api: Api, call: Call) -> Response:
    """DELETE /session."""
    session = api.credentials.sessions.of(call.request.principal)
    if session is not None:
        await api.audit.write(call.request, "session.close")
        api.credentials.sessions.end(session)
        await api.credentials.spread()
    return Response(204, headers=[api.session_cookie.cleared()])


async def make_session_code(api: Api, call: Call) -> Response:
    """POST /admin/session-code."""
    principal = call.request.principal
    if principal.session_id:
        message = "A session cannot make others: it would never have to end."
        raise ApiError(Code.SESSION_FORBIDDEN, message=message)
    url = None if api.settings.url is None else f"{api.url}/"
    async with api.audit.act(call.request, "session.code"):
        made = SessionCodeObject(api.credentials.sessions.new_code(principal), CODE_LIMIT_MS, url)
    response = answer(Code.CREATED, made)
    response.headers.append(_NO_STORE)
    return response


ENDPOINTS: Final = (
    Endpoint(
        name="openSession",
        group="Sessions",
        method="POST",
        path="/session",
        summary="Sign in with a browser",
        description=(
            "The cookie in the answer has the rights of what signed in, until that stops working; "
            "12 h after its last use, or after 7 days, it ends. It counts for requests of this "
            "server's own pages only, with `X-Troth-CSRF` for all but GET; not for links that "
            "change something, nor for workers and nodes. Programs send `Authorization`."
        ),
        handler=open_session,
        body=OpenSessionBody,
        public=True,
        auth_in_body=True,
        successes=(Success(201, "Signed in.", SessionObject),),
        refusals=(Code.UNAUTHORIZED, Code.SESSION_FORBIDDEN, Code.TOO_MANY_ATTEMPTS),
        examples=(
            "troth ui",
            "curl localhost:8001/session -H 'X-Troth-UI: 1' -d '{\"token\": \"troth_…\"}' -c jar",
        ),
    ),
    Endpoint(
        name="showSession",
        group="Sessions",
        method="GET",
        path="/session",
        summary="Show who is signed in",
        handler=show_session,
        any_scope=True,
        successes=(Success(200, "The session, or other credentials.", SessionObject),),
        examples=("curl localhost:8001/session -H 'X-Troth-UI: 1' -b jar",),
    ),
    Endpoint(
        name="closeSession",
        group="Sessions",
        method="DELETE",
        path="/session",
        summary="Sign out",
        handler=close_session,
        any_scope=True,
        successes=(Success(204, "The session has ended, with its streams."),),
        examples=(
            "curl -X DELETE localhost:8001/session -H 'X-Troth-UI: 1' -H 'X-Troth-CSRF: …' -b jar",
        ),
    ),
    Endpoint(
        name="makeSessionCode",
        group="Sessions",
        method="POST",
        path="/admin/session-code",
        summary="Make a code that signs a browser in once",
        description=(
            "Within a minute. The session has the rights of what made the code; the operator's may "
            "do what an open server allows, too."
        ),
        handler=make_session_code,
        scope=Scope.ADMIN,
        successes=(Success(201, "The code.", SessionCodeObject),),
        refusals=(Code.SESSION_FORBIDDEN,),
        examples=("troth ui --no-browser",),
    ),
)
