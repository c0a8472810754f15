"""Authentication and authorization: the one function that every way in uses first.

While the server has neither users (setting `basic_auth`) nor accounts, the promise API needs no
credentials; `/v1` always needs a token, and what is for administrators the operator's key. An
address is no credential: behind a proxy all clients have that of this machine. Otherwise every
endpoint that is not public needs one of these in the header `Authorization`:

- `Bearer TOKEN`, or the token alone;
- `Basic`, with a user's name and password, or with a token as the password (the user name is not
  looked at) or as the user name of an empty password: for clients that can do nothing else;
- the operator's key, instead of a token.

Without `Authorization`, the cookie of a browser's session may count (`session_cookies.py`).

Whatever is wrong with credentials, the answer is the same, and takes the same time. Too many
failures from one address: see `attempts.py`.
"""

import base64
import binascii
import contextlib
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import trio

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.identity.credentials import Credentials
from troth.http.wire.decoding import header_text
from troth.http.wire.errors import ApiError
from troth.http.wire.principals import ACCOUNT_SCOPES, ANONYMOUS, Principal
from troth.http.wire.requests import Request

from .context import Api
from .session_cookies import SessionUse, principal_of_session

_REALM: Final = b'realm="Authorization Required"'
_CHALLENGE: Final = (
    b"www-authenticate",
    b"Basic " + _REALM + b', charset="UTF-8", Bearer ' + _REALM,
)
_ADMIN_HINT: Final = (
    "This concerns the whole server, so it always needs credentials: `Authorization: Bearer` with "
    "the operator's key, which is in the file `admin.key` of the server's data directory, or with "
    "a token of the scope `admin`."
)


class Guarded(Protocol):
    """A guarded thing: an endpoint, or one of several operations behind one."""

    @property
    def scope(self) -> Scope | None:
        """The scope that a token must have."""
        ...

    @property
    def or_scope(self) -> Scope | None:
        """The scope that is sufficient instead, if there is one."""
        ...

    @property
    def any_scope(self) -> bool:
        """Return whether any credentials suffice, and none while the server is open."""
        ...

    @property
    def session_use(self) -> SessionUse:
        """Return whether a session's cookie counts."""
        ...

    @property
    def is_open(self) -> bool:
        """Return whether it is open while the server has neither users nor accounts."""
        ...


def authenticate(
    api: Api, request: Request, endpoint: Guarded, authorization: bytes | None = None
) -> Principal:
    """Say who sent a request for what is not public, if they may.

    `authorization` is what to judge where the request has no header of that name. Raises ApiError:
    401 for strangers, 403 if they may not, 429 after too many failures, 503 while it is not known
    yet who has an account.
    """
    if endpoint.is_open and api.credentials.is_open:
        return ANONYMOUS
    # Noted before it is judged: the request log says who was refused.
    principal = request.principal = _identified(api, request, endpoint, authorization)
    _refuse_unless_allowed(principal, endpoint)
    return principal


def _identified(
    api: Api, request: Request, endpoint: Guarded, authorization: bytes | None
) -> Principal:
    credentials = api.credentials
    authorization = request.headers.get(b"authorization") or authorization
    if authorization:
        principal = _bearer_of(credentials, request.peer, authorization)
    else:
        principal = principal_of_session(
            credentials.sessions, api.session_cookie, request, endpoint.session_use
        )
        if principal is None and endpoint.any_scope and credentials.is_open:
            return ANONYMOUS
    if principal is not None:
        return principal
    _refuse_while_starting(credentials, has_some=bool(authorization))
    if authorization:
        credentials.attempts.failed(request.peer)
    raise unauthorized(_ADMIN_HINT if endpoint.scope is Scope.ADMIN else None)


def _refuse_while_starting(credentials: Credentials, *, has_some: bool) -> None:
    """Raise ApiError (503) while it is not known who has an account."""
    if not credentials.is_loaded and (has_some or not credentials.has_users):
        raise credentials.unknown()


def identified_by(api: Api, request: Request, secret: str, user: str, password: str) -> Principal:
    """Return the principal of a token, or of a user with a password, that a body has.

    Failures count as those of `Authorization`. Raises ApiError: 401, 429, 503.
    """
    credentials = api.credentials
    principal = _principal_of(credentials, request.peer, secret, user, password)
    if principal is None:
        _refuse_while_starting(credentials, has_some=True)
        credentials.attempts.failed(request.peer)
        raise unauthorized()
    return principal


def unauthorized(message: str | None = None) -> ApiError:
    return ApiError(Code.UNAUTHORIZED, message=message, headers=[_CHALLENGE])


@contextlib.contextmanager
def while_let_in(credentials: Credentials, principal: Principal) -> Iterator[None]:
    """Wait in the block, for as long as the token that a request came with works.

    When it is revoked, disabled or has expired, the wait is canceled. Raises ApiError (401) then.
    """
    if not principal.may_end:
        yield
        return
    remaining_ms = credentials.remaining_ms(principal)
    with trio.CancelScope() as scope:
        if remaining_ms is not None:
            scope.deadline = trio.current_time() + remaining_ms / 1000
        forget = credentials.watch(principal, scope.cancel)
        try:
            yield
        finally:
            forget()
    # It may have stopped working in the very moment in which the wait was over.
    if scope.cancel_called or credentials.remaining_ms(principal) == 0:
        raise unauthorized()


def is_known(credentials: Credentials, headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request comes with credentials that work.

    Nothing is counted, nothing refused.
    """
    authorization = headers.get(b"authorization")
    if not authorization:
        return False
    try:
        return _bearer_of(credentials, None, authorization) is not None
    except ApiError:
        return False


def refuse_stranger(api: Api, request: Request) -> None:
    """Raise ApiError (401), and count it, if a request's header has credentials that do not work.

    On an open server they count for nothing.
    """
    credentials = api.credentials
    if not (credentials.is_open or is_known(credentials, request.headers)):
        credentials.attempts.failed(request.peer)
        raise unauthorized()


def _bearer_of(
    credentials: Credentials, peer: str | None, authorization: bytes
) -> Principal | None:
    """Return the principal of the credentials. Raises ApiError (429)."""
    scheme, separator, rest = authorization.partition(b" ")
    name = scheme.lower()
    if name == b"basic" and separator:
        user, password = _decoded(rest)
        secret = password or user
    else:
        user = password = ""
        secret = _text(rest.strip(b" ") if name == b"bearer" and separator else authorization)
    return _principal_of(credentials, peer, secret, user, password)


def _principal_of(
    credentials: Credentials, peer: str | None, secret: str, user: str, password: str
) -> Principal | None:
    """Return whose a token is, or else a user with a password. Raises ApiError (429)."""
    # Before the wait: these cannot be guessed, and functions that guess share their node's address.
    principal = credentials.operator(secret) or credentials.bearer(secret)
    if principal is not None:
        return principal
    wait_ms = credentials.attempts.wait_ms(peer)
    if wait_ms:
        credentials.attempts.refused(peer)
        seconds = str(-(-wait_ms // 1000)).encode()
        raise ApiError(Code.TOO_MANY_ATTEMPTS, headers=[(b"retry-after", seconds)])
    return credentials.user(user, password) if user else None


def _decoded(encoded: bytes) -> tuple[str, str]:
    """Return user and password; both empty, which match no user, if they cannot be read."""
    try:
        decoded = header_text(base64.b64decode(encoded.strip(b" "), validate=True))
    except binascii.Error:
        return "", ""
    user, _, password = decoded.partition(":")
    return user, password


def _text(secret: bytes) -> str:
    """Return the credentials as text; empty, which match no one, if they are not text."""
    return secret.decode() if secret.isascii() else ""


def _refuse_unless_allowed(principal: Principal, endpoint: Guarded) -> None:
    if endpoint.any_scope:
        return
    scope = endpoint.scope
    if endpoint.or_scope is not None and endpoint.or_scope in principal.scopes:
        scope = endpoint.or_scope
    if scope is None or scope not in principal.scopes:
        missing = "" if scope is None else f" the scope `{scope.value}`"
        message = f"The request's credentials lack{missing}, which this needs."
        raise ApiError(Code.FORBIDDEN_SCOPE, message=message)
    if scope in ACCOUNT_SCOPES and not principal.account_id:
        message = (
            "Users of the setting `basic_auth` have no account. This needs a token, which "
            "belongs to one."
        )
        raise ApiError(Code.FORBIDDEN_SCOPE, message=message)
