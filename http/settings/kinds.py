"""The kinds of value a setting can have: how each is read, what it allows, how it is shown.

A setting may come from a TOML file (already typed), or from the environment or the command line
(text). Each kind reads both forms, gives the same value for the same meaning, and refuses
everything else with `SettingRefused`, whose text says what is allowed. No kind looks at another
setting; rules between settings live in `settings`.
"""

import ipaddress
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from troth.core.grammar.addresses import Address, Undeliverable, resolve
from troth.core.grammar.cron import CronRefused, parse

Given = TypeVar("Given")

_INTEGER: Final = re.compile(r"-?[0-9]+(_[0-9]+)*")
# Longer texts cannot be within any range below; refusing them early keeps int() off hostile input.
_INTEGER_TEXT_LIMIT_COUNT: Final = 32
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_NODE_NAME: Final = re.compile(r"[A-Za-z0-9._:/-]{1,200}")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_FALSE: Final = frozenset({"false", "0", "no", "off"})


class SettingRefused(ValueError):
    """A value that a kind refuses. The text says what is allowed."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """A host (name or IP address, no brackets) and a port to listen on; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return the form it is written in: `host:port`, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Return whether only this machine can reach it; of names, only `localhost` counts."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class SettingKind(ABC):
    """How a setting's values are read and shown."""

    secret = False
    """Whether values may hold passwords: such values are never shown, not even when refused."""

    @property
    @abstractmethod
    def allowed(self) -> str:
        """The allowed values, as the end of a sentence that begins with "must be"."""

    @property
    @abstractmethod
    def placeholder(self) -> str:
        """The placeholder of the value in the command's help, such as `NUMBER`."""

    @abstractmethod
    def from_text(self, text: str) -> object:
        """Return the value written as text, or `SettingRefused`."""

    def from_toml(self, value: object) -> object:
        """Return the value as it came out of a TOML file, or `SettingRefused`."""
        if isinstance(value, str):
            return self.from_text(value)
        raise SettingRefused(self.allowed)

    def show(self, value: object) -> str:
        """Return the value as a person would write it; nothing secret."""
        return str(value)


@dataclass(frozen=True)
class Number(SettingKind):
    """A whole number within a range, both ends allowed."""

    minimum: int
    maximum: int

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.minimum} to {self.maximum}"

    @property
    def placeholder(self) -> str:
        return "NUMBER"

    def from_text(self, text: str) -> int:
        if len(text) > _INTEGER_TEXT_LIMIT_COUNT or _INTEGER.fullmatch(text) is None:
            raise SettingRefused(self.allowed)
        return self._within(int(text))

    def from_toml(self, value: object) -> int:
        # bool is a subclass of int, but `true` is not a number to the author of the file.
        if isinstance(value, bool) or not isinstance(value, int):
            raise SettingRefused(self.allowed)
        return self._within(value)

    def _within(self, value: int) -> int:
        if not self.minimum <= value <= self.maximum:
            raise SettingRefused(self.allowed)
        return value


@dataclass(frozen=True)
class Switch(SettingKind):
    """On or off."""

    @property
    def allowed(self) -> str:
        return "true or false"

    @property
    def placeholder(self) -> str:
        return ""

    def from_text(self, text: str) -> bool:
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise SettingRefused(self.allowed)

    def from_toml(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise SettingRefused(self.allowed)

    def show(self, value: object) -> str:
        return "true" if value else "false"


@dataclass(frozen=True)
class OneOf(SettingKind):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return " or ".join(self.words)

    @property
    def placeholder(self) -> str:
        return "|".join(self.words)

    def from_text(self, text: str) -> str:
        if text in self.words:
            return text
        raise SettingRefused(self.allowed)


@dataclass(frozen=True)
class WordOr(SettingKind):
    """A word with a meaning of its own, or a value of another kind."""

    words: Mapping[str, object]
    kind: SettingKind

    @property
    def allowed(self) -> str:
        return " or ".join((*self.words, self.kind.allowed))

    @property
    def placeholder(self) -> str:
        return "|".join((*self.words, self.kind.placeholder))

    def from_text(self, text: str) -> object:
        return self._read(text, self.kind.from_text)

    def from_toml(self, value: object) -> object:
        return self._read(value, self.kind.from_toml)

    def _read(self, given: Given, otherwise: Callable[[Given], object]) -> object:
        if isinstance(given, str) and given in self.words:
            return self.words[given]
        try:
            return otherwise(given)
        except SettingRefused as refusal:
            raise SettingRefused(self.allowed) from refusal

    def show(self, value: object) -> str:
        for word, meaning in self.words.items():
            if value == meaning and type(value) is type(meaning):
                return word
        return self.kind.show(value)


@dataclass(frozen=True)
class DirectoryPath(SettingKind):
    """A path to a directory, which need not exist. Relative: to where the server was started."""

    @property
    def allowed(self) -> str:
        return "a path to a directory, without NUL characters"

    @property
    def placeholder(self) -> str:
        return "DIRECTORY"

    def from_text(self, text: str) -> Path:
        if not text or "\0" in text:
            raise SettingRefused(self.allowed)
        return Path(text)


@dataclass(frozen=True)
class Listen(SettingKind):
    """A `host:port` to listen on."""

    @property
    def allowed(self) -> str:
        return "host:port, such as 127.0.0.1:8001 or [::1]:8001, with a port from 0 to 65535"

    @property
    def placeholder(self) -> str:
        return "HOST:PORT"

    def from_text(self, text: str) -> ListenAddress:
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", text)
        if match is None or int(match[3]) > 65535:
            raise SettingRefused(self.allowed)
        if match[1] is not None:
            try:
                ipaddress.IPv6Address(match[1])
            except ValueError as refusal:
                raise SettingRefused(self.allowed) from refusal
        return ListenAddress(match[1] or match[2], int(match[3]))


@dataclass(frozen=True)
class BaseUrl(SettingKind):
    """An absolute http(s) URL that paths are appended to."""

    @property
    def allowed(self) -> str:
        return "an http:// or https:// URL without a query, a fragment or a slash at the end"

    @property
    def placeholder(self) -> str:
        return "URL"

    def from_text(self, text: str) -> str:
        if web_host(text) is None or text.endswith("/") or re.search(r"[?#]", text):
            raise SettingRefused(self.allowed)
        return text


@dataclass(frozen=True)
class TimeZone(SettingKind):
    """The name of a time zone in the IANA database."""

    @property
    def allowed(self) -> str:
        return "the name of a time zone, such as Europe/Vienna"

    @property
    def placeholder(self) -> str:
        return "ZONE"

    def from_text(self, text: str) -> str:
        try:
            ZoneInfo(text)
        # An unknown name is a KeyError, an impossible one a ValueError, a folder an OSError.
        except (KeyError, ValueError, OSError) as refusal:
            raise SettingRefused(self.allowed) from refusal
        return text


@dataclass(frozen=True)
class CronExpression(SettingKind):
    """When something is done again and again."""

    @property
    def allowed(self) -> str:
        return "a cron expression, such as 0 3 * * * or @hourly"

    @property
    def placeholder(self) -> str:
        return "CRON"

    def from_text(self, text: str) -> str:
        try:
            parse(text)
        except CronRefused as refusal:
            raise SettingRefused(f"{self.allowed} ({refusal})") from refusal
        return text


@dataclass(frozen=True)
class _NameList(SettingKind):
    """A list of names. As text: separated by commas."""

    def from_text(self, text: str) -> tuple[str, ...]:
        return self._checked([part.strip() for part in text.split(",")] if text else [])

    def from_toml(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise SettingRefused(self.allowed)
        return self._checked(value)

    @abstractmethod
    def _checked(self, names: list[str]) -> tuple[str, ...]:
        """Return the names as they are kept. Raises SettingRefused."""

    def show(self, value: object) -> str:
        return ",".join(value) if isinstance(value, tuple) and value else "none"


@dataclass(frozen=True)
class Origins(_NameList):
    """A list of web origins, or `*` for all of them. As text: separated by commas."""

    @property
    def allowed(self) -> str:
        return "a list of origins such as https://example.com (scheme, host, port; no path), or *"

    @property
    def placeholder(self) -> str:
        return "ORIGIN,…"

    def _checked(self, names: list[str]) -> tuple[str, ...]:
        for origin in names:
            parts = _split_url(origin)
            if origin != "*" and (parts is None or origin != f"{parts[0]}://{parts[1]}"):
                raise SettingRefused(self.allowed)
        if "*" in names and len(names) > 1:
            raise SettingRefused(self.allowed)
        return tuple(names)


@dataclass(frozen=True)
class HostNames(_NameList):
    """A list of host names, without ports. As text: separated by commas. Read in lower case."""

    @property
    def allowed(self) -> str:
        return "a list of host names such as troth.example.com, without scheme, port or path"

    @property
    def placeholder(self) -> str:
        return "NAME,…"

    def _checked(self, names: list[str]) -> tuple[str, ...]:
        for name in names:
            if _HOST_NAME.fullmatch(name) is None:
                raise SettingRefused(self.allowed)
        return tuple(name.lower().removesuffix(".") for name in names)


@dataclass(frozen=True)
class TagNames(_NameList):
    """A list of names of tags. As text: separated by commas."""

    @property
    def allowed(self) -> str:
        return "a list of names of tags, separated by commas"

    @property
    def placeholder(self) -> str:
        return "TAG,…"

    def _checked(self, names: list[str]) -> tuple[str, ...]:
        if not all(names):
            raise SettingRefused(self.allowed)
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class TraceUrl(SettingKind):
    """An http(s) URL with a place for the id of a trace."""

    @property
    def allowed(self) -> str:
        return "an http:// or https:// URL with {trace_id} in it once, behind the host"

    @property
    def placeholder(self) -> str:
        return "URL"

    def from_text(self, text: str) -> str:
        host = web_host(text)
        if host is None or "{" in host or text.count("{trace_id}") != 1:
            raise SettingRefused(self.allowed)
        return text


@dataclass(frozen=True)
class NodeName(SettingKind):
    """The name of a server among several."""

    @property
    def allowed(self) -> str:
        return "a name of letters, digits and ._:/- with at most 200 characters"

    @property
    def placeholder(self) -> str:
        return "NAME"

    def from_text(self, text: str) -> str:
        if not _NODE_NAME.fullmatch(text):
            raise SettingRefused(self.allowed)
        return text


@dataclass(frozen=True)
class Users(SettingKind):
    """Users and their passwords: a TOML table, or as text `user=password,user2=password2`."""

    secret = True

    @property
    def allowed(self) -> str:
        return (
            'user=password pairs, in a file as a table such as { user = "password" }; '
            "at least one, no name empty or with a colon, no password empty"
        )

    @property
    def placeholder(self) -> str:
        return "USER=PASSWORD,…"

    def from_text(self, text: str) -> dict[str, str]:
        return self._checked(_pairs(text, self.allowed))

    def from_toml(self, value: object) -> dict[str, str]:
        if not isinstance(value, dict):
            raise SettingRefused(self.allowed)
        return self._checked(value)

    def _checked(self, users: Mapping[str, object]) -> dict[str, str]:
        if not users:
            # From a secret that was not there: without users, the server would be open.
            raise SettingRefused(self.allowed)
        checked = {}
        for user, password in users.items():
            # HTTP Basic separates name and password by the first colon, so a name cannot hold one.
            if not user or ":" in user or not isinstance(password, str) or not password:
                raise SettingRefused(self.allowed)
            checked[user] = password
        return checked

    def show(self, value: object) -> str:
        return _names_only(value, "passwords")


@dataclass(frozen=True)
class Targets(SettingKind):
    """Names for receivers of messages, each with an address: a URL or a table of `type` and `data`.

    As text: `name=url,name2=url2`, or a JSON object. Read into addresses that a sender can use.
    """

    # An address may carry headers or a URL with a token in it.
    secret = True

    @property
    def allowed(self) -> str:
        return 'names, each with a URL (poll://…, http://…) or a table {type = "…", data = {…}}'

    @property
    def placeholder(self) -> str:
        return "NAME=URL,…"

    def from_text(self, text: str) -> dict[str, Address]:
        if not text.lstrip().startswith("{"):
            return self._checked(_pairs(text, self.allowed))
        try:
            return self.from_toml(json.loads(text))
        except (ValueError, RecursionError) as refusal:
            raise SettingRefused(self.allowed) from refusal

    def from_toml(self, value: object) -> dict[str, Address]:
        if not isinstance(value, dict):
            raise SettingRefused(self.allowed)
        return self._checked(value)

    def _checked(self, targets: Mapping[str, object]) -> dict[str, Address]:
        addresses = {}
        for name, receiver in targets.items():
            address = resolve(receiver, {}, is_configured=True)
            if not name or isinstance(address, Undeliverable):
                raise SettingRefused(self.allowed)
            addresses[name] = address
        return addresses

    def show(self, value: object) -> str:
        return _names_only(value, "addresses")


def _split_url(text: str) -> tuple[str, str] | None:
    """Return a URL's scheme and host part, or None if it is not a valid URL."""
    if re.search(r"[\x00-\x20\x7f]", text):
        return None
    try:
        parts = urlsplit(text)
        # Reading the port makes urlsplit check it.
        _ = parts.port
    except ValueError:
        return None
    return parts.scheme, parts.netloc


def web_host(text: str) -> str | None:
    """Return the host part of an http(s) URL that has one, or None."""
    parts = _split_url(text)
    return parts[1] or None if parts is not None and parts[0] in {"http", "https"} else None


def _pairs(text: str, allowed: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in text.split(",") if text else []:
        name, separator, value = part.partition("=")
        if not separator or name.strip() in pairs:
            raise SettingRefused(allowed)
        pairs[name.strip()] = value
    return pairs


def _names_only(value: object, hidden: str) -> str:
    if not isinstance(value, Mapping) or not value:
        return "none"
    return f"{', '.join(value)} ({hidden} not shown)"
