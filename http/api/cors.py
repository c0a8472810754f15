"""Cross-origin requests: which web pages may call the API from a browser (rest.md 0.8).

A page of another site may not open links that change something, and a page of another origin may
not write unless its origin is configured: a browser sends simple
requests without asking first, so any page in it could otherwise make promises here (and through
them have this server send requests). Beyond that nothing happens unless origins are configured.
Then every request from another origin is refused, preflights are answered without credentials, and
answers carry what a browser needs, including the lists of methods and headers that the reference
server forgot.
"""

import re
from collections.abc import Mapping, Sequence

from troth.core.codes import Code
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Response

from .hosts import Hosts

_METHODS = b"GET, HEAD, POST, PATCH, DELETE, OPTIONS"
_REQUEST_HEADERS = (
    b"Authorization, Content-Type, Idempotency-Key, Request-Id, Strict, Task-Counter, Task-Id, "
    b"traceparent, tracestate"
)
_OWN_SITES = frozenset({b"same-origin", b"none"})  # the latter: a user typed the address
_ORIGIN = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_EXPOSED = b"Fencing-Token, Request-Id, Resonate-Version, Retry-After"
_PREFLIGHT_AGE_SECONDS = b"600"


class Cors:
    """The rule for one server. `origins` is the setting `cors_allow_origin`; `*` means any.

    `is_off` says that no origins are configured: then no answer gets a header from here.
    """

    def __init__(self, origins: Sequence[str], hosts: Hosts) -> None:
        """Take the configured origins, and what says which are this server's own."""
        self._hosts = hosts
        self.is_off = not origins
        self._any = "*" in origins
        self._origins = frozenset(origin.encode().lower() for origin in origins)

    def headers(self, request_headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """Return what to add to the answer.

        Raises ApiError (403) for an origin that is not allowed.
        """
        origin = request_headers.get(b"origin")
        if not self._origins:
            return []
        vary = [] if self._any else [(b"vary", b"Origin")]
        if origin is None or self._is_same(origin, request_headers):
            return vary
        if not self._any and origin.lower() not in self._origins:
            raise ApiError(Code.ORIGIN_FORBIDDEN, headers=vary)
        allowed = b"*" if self._any else origin
        return [
            (b"access-control-allow-origin", allowed),
            (b"access-control-expose-headers", _EXPOSED),
            *vary,
        ]

    def refuse_foreign(self, method: str, request_headers: Mapping[bytes, bytes]) -> None:
        """Raise ApiError (403) for a request from a page of an origin that is not allowed."""
        self._refuse_foreign_write(method, request_headers)
        self.headers(request_headers)

    def refuse_cross_site(self, request_headers: Mapping[bytes, bytes]) -> None:
        """Raise ApiError (403) if a page of another site has opened a link that changes something.

        Such a page can do that with an image. Browsers say whose page it is, in one way or another;
        programs say nothing.
        """
        origin = request_headers.get(b"origin")
        site = request_headers.get(b"sec-fetch-site")
        if origin is not None:
            is_own = origin.lower() in self._origins or self._is_same(origin, request_headers)
        elif site is not None:
            is_own = site.lower() in _OWN_SITES
        else:
            page = _ORIGIN.match(request_headers.get(b"referer", b""))
            is_own = page is None or self._is_same(page[0], request_headers)
        if not is_own and not self._any:
            raise ApiError(Code.ORIGIN_FORBIDDEN)

    def _refuse_foreign_write(self, method: str, request_headers: Mapping[bytes, bytes]) -> None:
        origin = request_headers.get(b"origin")
        if origin is None or method in {"GET", "HEAD"} or self._any:
            return
        if origin.lower() not in self._origins and not self._is_same(origin, request_headers):
            raise ApiError(Code.ORIGIN_FORBIDDEN)

    def preflight(self, method: str, request_headers: Mapping[bytes, bytes]) -> Response | None:
        """Return the answer to an OPTIONS request from another origin, or None if this is none."""
        if method != "OPTIONS" or not self._origins or b"origin" not in request_headers:
            return None
        headers = self.headers(request_headers)
        headers += [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", _PREFLIGHT_AGE_SECONDS),
            (b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers"),
        ]
        return Response(204, headers=headers)

    def _is_same(self, origin: bytes, request_headers: Mapping[bytes, bytes]) -> bool:
        return self._hosts.is_same_origin(origin, request_headers.get(b"host"))
