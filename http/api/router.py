"""Finding the row of the endpoint table for a request. Works on the raw path, decoded only once.

A path template has literal segments, `{name}` for one segment and `{name...}` for any number of
characters, slashes included, none at all included. A template may end in `{name...}/{last}`: then
the last slash separates the two. More literal characters win over fewer, so POST /promises/task
is not the promise `task`. An escaped slash (`%2F`) separates nothing where that gives a match, so
that `/poll/team%2Fa/worker` is the group `team/a`; else it is as good as a plain one.

Where there is GET, there is HEAD, but for links that change something.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from msgspec import Struct

from troth.core.codes import Code
from troth.http.wire.decoding import percent_decode
from troth.http.wire.errors import ApiError

if TYPE_CHECKING:
    from .rows import Endpoint

_PARAMETER = re.compile(r"\{(\w+)(\.\.\.)?\}")
_LAST = re.compile(r"([^{}]*)\{(\w+)\.\.\.\}")
_ESCAPED_SLASH = re.compile(rb"%2[Ff]")
_SLASH = "\udc2f"  # stands for an escaped slash; no path that can be decoded has it
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


class Match(Struct, frozen=True):
    """An endpoint and the decoded values of its path parameters."""

    endpoint: "Endpoint"
    values: Mapping[str, str]


_NO_VALUES: Mapping[str, str] = {}


class _Template:
    """A path template with parameters, and its endpoints by method."""

    def __init__(self, template: str, methods: "dict[str, Endpoint]") -> None:
        self.methods = methods
        self._first = _first_segment(template)
        self._pattern = _compile(template)
        # Most templates are something fixed and then an id: those need no regular expression.
        last = _LAST.fullmatch(template)
        self._fixed: str | None = None if last is None else last[1]
        self._name: str = "" if last is None else last[2]

    def may_begin(self, first: str | None) -> bool:
        """Return whether a path may have this first segment (None: one that no template names)."""
        return self._first == first or "{" in self._first

    def name_behind(self, beginning: str) -> str:
        """Return the name of the parameter that is all that follows, or else an empty text."""
        return self._name if self._fixed == beginning else ""

    def match(self, path: str) -> Mapping[str, str] | None:
        """Return the values of the parameters, or None if the path is another."""
        fixed = self._fixed
        if fixed is not None:
            return {self._name: path[len(fixed) :]} if path.startswith(fixed) else None
        found = self._pattern.fullmatch(path)
        return None if found is None else found.groupdict()


class Router:
    """All endpoints of one port."""

    def __init__(self, endpoints: "Sequence[Endpoint]") -> None:
        """Compile the templates. Two rows for one method and template are a mistake."""
        self._exact: dict[str, dict[str, Endpoint]] = {}
        # What is asked for most, found without decoding; a path may be spelled otherwise, though.
        self._as_written: dict[tuple[str, bytes], Match] = {}
        self._templates: list[_Template] = []
        # The templates that paths with a certain first segment may match, in the same order; and of
        # these, those that have a certain method.
        self._templates_of: dict[str, list[_Template]] = {}
        self._templates_with: dict[tuple[str, str], list[_Template]] = {}
        self._templates_by_bytes: dict[tuple[bytes, str], list[_Template]] = {}
        by_template: dict[str, dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            methods = by_template.setdefault(endpoint.path, {})
            assert endpoint.method not in methods, f"{endpoint.method} {endpoint.path} twice"
            methods[endpoint.method] = endpoint
            if endpoint.has_head:
                methods["HEAD"] = endpoint
        for template in sorted(by_template, key=_literal_count, reverse=True):
            if "{" not in template:
                self._exact[template] = by_template[template]
                for method, endpoint in by_template[template].items():
                    self._as_written[method, template.encode()] = Match(endpoint, _NO_VALUES)
                continue
            self._templates.append(_Template(template, by_template[template]))
        for first in {_first_segment(template) for template in by_template}:
            possible = [template for template in self._templates if template.may_begin(first)]
            self._templates_of[first] = possible
            for method in {method for template in possible for method in template.methods}:
                having = [template for template in possible if method in template.methods]
                self._templates_with[first, method] = having
                self._templates_by_bytes[first.encode(), method] = having
        # Of these the only ones, with nothing fixed behind them, by what paths begin with.
        self._alone: dict[tuple[str, bytes], tuple[Endpoint, str]] = {}
        for (first, method), having in self._templates_with.items():
            beginning = f"/{first}/"
            name = having[0].name_behind(beginning)
            exact = [path for path, methods in self._exact.items() if method in methods]
            if name and len(having) == 1 and not any(one.startswith(beginning) for one in exact):
                self._alone[method, beginning.encode()] = having[0].methods[method], name
        self.allow = _listed({name for methods in by_template.values() for name in methods})
        """What the header `Allow` says of the whole server."""
        self._templates_of_others = [
            template for template in self._templates if template.may_begin(None)
        ]

    def match(self, method: str, raw_path: bytes) -> Match:
        """Find the endpoint. Raises ApiError: 400 bad escape, 404, or 405 with `Allow`."""
        # Nearly always: nothing to decode, and no choice.
        start = raw_path.find(b"/", 1) + 1
        alone = self._alone.get((method, raw_path[:start]))
        if alone is not None and b"%" not in raw_path and raw_path.isascii():
            return Match(alone[0], {alone[1]: raw_path[start:].decode()})
        found = self._as_written.get((method, raw_path))
        if found is not None:
            return found
        if b"%" not in raw_path and raw_path.isascii() and raw_path.startswith(b"/"):
            # Nothing to decode, and no template without parameters has this path.
            templates = self._templates_by_bytes.get((raw_path.split(b"/", 2)[1], method))
            if templates is not None:
                path = raw_path.decode("ascii")
                for template in templates:
                    values = template.match(path)
                    if values is not None:
                        return Match(template.methods[method], values)
        path = decode_path(raw_path)
        methods = self._exact.get(path)
        if methods is not None and method in methods:
            return Match(methods[method], _NO_VALUES)
        if b"%2" in raw_path and _ESCAPED_SLASH.search(raw_path) is not None:
            parts = _ESCAPED_SLASH.split(_without_authority(raw_path))
            found = self._match_template(
                method, _SLASH.join(percent_decode(part, "path") for part in parts)
            )
            if found is not None:
                values = {name: text.replace(_SLASH, "/") for name, text in found.values.items()}
                return Match(found.endpoint, values)
        found = self._match_template(method, path)
        if found is not None:
            return found
        allowed = set(methods or ())
        for template in self._templates_of.get(_first_of(path), self._templates_of_others):
            if template.match(path) is not None:
                allowed.update(template.methods)
        if allowed:
            raise ApiError(Code.METHOD_NOT_ALLOWED, headers=[(b"allow", _listed(allowed))])
        raise ApiError(Code.PATH_NOT_FOUND)

    def without_slash(self, method: str, raw_path: bytes) -> bytes | None:
        """Return the relative path of the page that this path with a final slash means, or None."""
        path = decode_path(raw_path)
        methods = self._exact.get(path[:-1]) if path.endswith("/") and path != "//" else None
        if methods is None or method not in {"GET", "HEAD"} or method not in methods:
            return None
        return b"../" + quote(path.split("/")[-2]).encode()

    def _match_template(self, method: str, path: str) -> Match | None:
        templates = self._templates_with.get((_first_of(path), method))
        if templates is None:
            return self._match_any(method, path)
        for template in templates:
            values = template.match(path)
            if values is not None:
                return Match(template.methods[method], values)
        return None

    def _match_any(self, method: str, path: str) -> Match | None:
        """Look at all templates that the path's first segment may begin."""
        for template in self._templates_of.get(_first_of(path), self._templates_of_others):
            values = template.match(path)
            if values is not None and method in template.methods:
                return Match(template.methods[method], values)
        return None


def decode_path(raw_path: bytes) -> str:
    """Return the path of a request target, decoded once. Raises ApiError (400)."""
    return percent_decode(_without_authority(raw_path), "path")


def _without_authority(raw_path: bytes) -> bytes:
    if raw_path.startswith(b"/"):
        return raw_path
    # `GET http://host/path`, as proxies ask.
    return _ABSOLUTE.sub(b"", raw_path, count=1) or b"/"


def _first_of(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else ""


def _listed(methods: Collection[str]) -> bytes:
    """Return what the header `Allow` says of methods."""
    return ", ".join(sorted({*methods, "OPTIONS"})).encode()


def _first_segment(template: str) -> str:
    return template.split("/")[1]


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
