"""Which row of the endpoint table a request means. Works on the raw path, decoded exactly once.

A path template has literal segments, `{name}` for one segment and `{name...}` for any number of
characters, slashes included, none at all included. A template may end in `{name...}/{last}`: then
the last slash separates the two. More literal characters win over fewer, so POST /promises/task
is not the promise `task`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from troth.core.codes import Code

from .decoding import percent_decode
from .errors import ApiError

if TYPE_CHECKING:
    from .endpoints import Endpoint

_PARAMETER = re.compile(r"\{(\w+)(\.\.\.)?\}")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


@dataclass(frozen=True, slots=True)
class Match:
    """An endpoint and the decoded values of its path parameters."""

    endpoint: "Endpoint"
    values: Mapping[str, str]


_NO_VALUES: Mapping[str, str] = {}


class Router:
    """All endpoints of one port."""

    def __init__(self, endpoints: "Sequence[Endpoint]") -> None:
        """Compile the templates. Two rows for one method and template are a mistake."""
        self._exact: dict[str, dict[str, Endpoint]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Endpoint]]] = []
        by_template: dict[str, dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            methods = by_template.setdefault(endpoint.path, {})
            assert endpoint.method not in methods, f"{endpoint.method} {endpoint.path} twice"
            methods[endpoint.method] = endpoint
        for template in sorted(by_template, key=_literal_count, reverse=True):
            if "{" in template:
                self._patterns.append((_compile(template), by_template[template]))
            else:
                self._exact[template] = by_template[template]

    def match(self, method: str, raw_path: bytes) -> Match:
        """Find the endpoint. Raises ApiError: 400 bad escape, 404, or 405 with `Allow`."""
        path = decode_path(raw_path)
        methods = self._exact.get(path)
        if methods is not None and method in methods:
            return Match(methods[method], _NO_VALUES)
        allowed = set(methods or ())
        for pattern, candidates in self._patterns:
            found = pattern.fullmatch(path)
            if found is not None:
                if method in candidates:
                    return Match(candidates[method], found.groupdict())
                allowed.update(candidates)
        if allowed:
            allow = ", ".join(sorted({*allowed, "OPTIONS"})).encode()
            raise ApiError(Code.METHOD_NOT_ALLOWED, headers=[(b"allow", allow)])
        raise ApiError(Code.PATH_NOT_FOUND)


def decode_path(raw_path: bytes) -> str:
    """The path of a request target, decoded once. Raises ApiError (400)."""
    if not raw_path.startswith(b"/"):
        # `GET http://host/path`, as proxies ask.
        raw_path = _ABSOLUTE.sub(b"", raw_path, count=1) or b"/"
    return percent_decode(raw_path, "path")


def _literal_count(template: str) -> int:
    return len(_PARAMETER.sub("", template))


def _compile(template: str) -> re.Pattern[str]:
    parts = []
    end = 0
    for parameter in _PARAMETER.finditer(template):
        parts.append(re.escape(template[end : parameter.start()]))
        parts.append(f"(?P<{parameter[1]}>{'.*' if parameter[2] else '[^/]*'})")
        end = parameter.end()
    parts.append(re.escape(template[end:]))
    return re.compile("".join(parts), re.DOTALL)
