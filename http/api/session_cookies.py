"""Cookies of sessions: how they are set, and when they count.

A browser sends a cookie without being asked, so a page of another site must not be able to use it.
It counts only

- without `Authorization`, which is all that is looked at otherwise;
- if a page of this server sent the request: browsers say so (`Sec-Fetch-Site: same-origin`), to
  https and this machine. To others they say nothing; then it takes the header `X-Troth-UI`, which
  no page of another site can send without asking first, and for streams, which can have no
  headers, the cookie's own `SameSite=Strict` is enough;
- for all but GET and HEAD, with the session's `X-Troth-CSRF`.

It never counts for links that change something, nor for streams that take messages away from
others: those are for workers and nodes.

The cookie's name has the port of the server's URL, since browsers keep cookies by host alone.
"""

import hmac
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from troth.core.codes import Code
from troth.http.identity.sessions import Sessions
from troth.http.wire.errors import ApiError
from troth.http.wire.principals import Principal
from troth.http.wire.requests import Request

CSRF_HEADER: Final = b"x-troth-csrf"
UI_HEADER: Final = b"x-troth-ui"

_NAME: Final = "troth_session"
_COOKIES_LIMIT_COUNT: Final = 8
_READING_METHODS: Final = frozenset({"GET", "HEAD"})


class SessionUse(Enum):
    """Whether a session's cookie counts for an endpoint."""

    IGNORED = auto()
    """It is not looked at."""
    REFUSED = auto()
    COUNTS = auto()
    COUNTS_FOR_STREAM = auto()


class SessionCookie(NamedTuple):
    """The cookie of one server: its name, and what follows its content."""

    name: bytes
    attributes: bytes

    def set(self, secret: str) -> tuple[bytes, bytes]:
        """Return the header that gives a browser its cookie."""
        return b"set-cookie", b"%b=%b%b" % (self.name, secret.encode(), self.attributes)

    def cleared(self) -> tuple[bytes, bytes]:
        """Return the header that takes the cookie back."""
        return b"set-cookie", b"%b=; Max-Age=0%b" % (self.name, self.attributes)

    def secrets_in(self, headers: Mapping[bytes, bytes]) -> Iterator[str]:
        """Yield what the request's cookies of this name hold: a few at most."""
        given = headers.get(b"cookie")
        if given is None:
            return
        count = 0
        for part in given.split(b";"):
            name, _, content = part.strip(b" ").partition(b"=")
            if name == self.name and content and content.isascii():
                yield content.decode()
                count += 1
                if count == _COOKIES_LIMIT_COUNT:
                    return


def cookie_of(url: str, base_path: str) -> SessionCookie:
    """Return the cookie of a server that is reached at a URL, and below a path of its host."""
    parts = urlsplit(url)
    is_secure = parts.scheme == "https"
    name = _NAME if parts.port is None else f"{_NAME}_{parts.port}"
    if is_secure and base_path == "/":
        name = f"__Host-{name}"  # only this host can set it, for all of it
    secure = "; Secure" if is_secure else ""
    attributes = f"; Path={base_path}; HttpOnly; SameSite=Strict{secure}"
    return SessionCookie(name.encode(), attributes.encode())


def is_of_own_page(request: Request, *, is_stream: bool = False) -> bool:
    """Return whether a page of this server sent the request."""
    site = request.headers.get(b"sec-fetch-site")
    if site is not None:
        return site == b"same-origin"
    return is_stream or request.headers.get(UI_HEADER) == b"1"


def principal_of_session(
    sessions: Sessions, cookie: SessionCookie, request: Request, use: SessionUse
) -> Principal | None:
    """Return whose session a request without other credentials came with; None for none.

    Raises ApiError: 401 if the session has ended, 403 if it does not count.
    """
    if use is SessionUse.IGNORED or b"cookie" not in request.headers:
        return None
    given = list(cookie.secrets_in(request.headers))
    is_stream = use is SessionUse.COUNTS_FOR_STREAM
    if not given or not is_of_own_page(request, is_stream=is_stream):
        return None
    if use is SessionUse.REFUSED:
        raise ApiError(Code.SESSION_FORBIDDEN)
    found = (sessions.find(secret) for secret in given)
    session = next((one for one in found if one is not None), None)
    if session is None:
        raise ApiError(Code.SESSION_ENDED, headers=[cookie.cleared()])
    if request.method not in _READING_METHODS:
        token = request.headers.get(CSRF_HEADER, b"")
        if not hmac.compare_digest(token, session.csrf.encode()):
            raise ApiError(Code.CSRF_MISSING)
    return session.principal
