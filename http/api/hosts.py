"""The names of this server: what `Host` may say while no credentials are required.

The owner of a name in public DNS can make it resolve to this machine, and a browser then treats
their page as one of this server's own (DNS rebinding). While the server is open, such a page could
do everything. So a request is refused (421) if its `Host` could be a stranger's name: one that has
a dot, is not an IP address, does not end in what cannot be registered in public DNS
(`_PRIVATE_ENDINGS`), and is not this server's own (settings `listen`, `poll_listen`, `url`,
`hosts`). With accounts or users any name is accepted: a browser does not add their credentials for
such a page.

A request without `Host` names no server: HTTP/1.0 has none, HTTP/1.1 without one is refused before.
"""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from troth.core.codes import Code
from troth.http.settings.settings import Settings
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Request

_PRIVATE_ENDINGS: Final = (
    ".cluster.local",
    ".home.arpa",
    ".internal",
    ".lan",
    ".local",
    ".localhost",
    ".svc",
)
"""Endings that cannot be registered, as used by networks, compose files and Kubernetes."""

_FAMILIAR_LIMIT_COUNT: Final = 256
_SHOWN_LIMIT_COUNT: Final = 100
_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[^\]]*)?)\]|([^\s:@/?#\[\]]*))(?::[0-9]*)?")
_AUTHORITY: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")


class Hosts:
    """The names of one server.

    `familiar` has values of `Host` that were found good, so that most requests need no closer look.
    """

    def __init__(self, settings: Settings) -> None:
        """Take the names that the settings give the server."""
        url = settings.url
        named = [address.host for address in (settings.listen, settings.poll_listen) if address]
        self._own_origin = None if url is None else _origin_of(url)
        self._configured = frozenset(settings.hosts)
        named += [urlsplit(url).hostname or ""] if url is not None else []
        self._names = self._configured | {_plain(name) for name in named}
        self.familiar: set[bytes | None] = {None}

    def refuse_stranger(self, request: Request) -> None:
        """Raise ApiError (421) if a request is meant for what could be a stranger's name."""
        host = request.headers.get(b"host")
        given = [] if host is None else [host]
        # `GET http://name/path`: that name counts (RFC 9112, 3.2.2), and the header is there too.
        target = _AUTHORITY.match(request.raw_path)
        if target is not None:
            given.append(target[1])
        for authority in given:
            name = host_of(authority)
            if not self.is_own(name):
                shown = ascii(authority[:_SHOWN_LIMIT_COUNT].decode("latin-1"))
                message = (
                    f"The request is for the host {shown}, a name that a stranger could have "
                    "pointed at this machine. If it is this server's, add it to the setting "
                    "`hosts`."
                )
                raise ApiError(Code.MISDIRECTED, message=message)
        if len(self.familiar) < _FAMILIAR_LIMIT_COUNT:
            self.familiar.add(host)

    def is_own(self, name: str | None) -> bool:
        """Return whether a name (as `host_of` says) cannot be a stranger's."""
        if name is None:
            return False
        if "." not in name or name in self._names or name.endswith(_PRIVATE_ENDINGS):
            return True
        try:
            ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            return False
        return True

    def is_same_origin(self, origin: bytes, host: bytes | None) -> bool:
        """Return whether a page of an origin is this server's own; browsers name it then, too.

        Either it is what the request is for, or, behind a proxy that sends another `Host`, what the
        settings `url` or `hosts` call this server.
        """
        scheme, separator, authority = origin.lower().partition(b"://")
        if not separator:
            return False  # `null`, as of pages in a sandbox
        if host is not None and authority == host.lower():
            return True
        if scheme not in (b"http", b"https"):
            return False
        if origin.lower() == self._own_origin:
            return True
        return authority.decode("latin-1") in self._configured


def host_of(authority: bytes) -> str | None:
    """Return the host in what `Host` or a URL names: lower case, without user, port and brackets.

    None if there is none that is surely what others take for it.
    """
    found = _HOST.fullmatch(authority.rpartition(b"@")[2].decode("latin-1").strip())
    return None if found is None else _plain(found[1] or found[2] or "")


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _origin_of(url: str) -> bytes:
    """Return the origin of pages under a URL, as browsers write it."""
    parts = urlsplit(url)
    default_port = {"http": 80, "https": 443}.get(parts.scheme)
    host = parts.hostname or ""
    bracketed = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, default_port) else f":{parts.port}"
    return f"{parts.scheme}://{bracketed}{port}".lower().encode()
