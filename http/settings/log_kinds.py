"""Kinds of settings about a log that is not in the data directory. Passwords are never shown."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .kinds import Listen, ListenAddress, SettingKind, SettingRefused, web_host

NATS_SCHEMES: Final = ("nats://", "tls://")
_LOG_SCHEMES: Final = ("postgresql://", *NATS_SCHEMES)


@dataclass(frozen=True)
class LogUrl(SettingKind):
    """What keeps the log instead of the data directory, or none."""

    # A password may be in it.
    secret = True

    @property
    def allowed(self) -> str:
        return f"none or a connection string that begins with {', '.join(_LOG_SCHEMES)}"

    @property
    def placeholder(self) -> str:
        return "none|URL"

    def from_text(self, text: str) -> str | None:
        if text == "none":
            return None
        if not text.startswith(_LOG_SCHEMES) or "\0" in text:
            raise SettingRefused(self.allowed)
        return text

    def show(self, value: object) -> str:
        if value is None:
            return "none"
        return _without_secrets(str(value))


@dataclass(frozen=True)
class NatsMonitor(SettingKind):
    """Where NATS servers say how they are set up, or none."""

    # A password may be in it.
    secret = True

    @property
    def allowed(self) -> str:
        return (
            "none, URLs that begin with http:// or https:// with commas in between, or one that "
            "begins with nats:// or tls://, of a user of the system account"
        )

    @property
    def placeholder(self) -> str:
        return "none|URL[,URL]"

    def from_text(self, text: str) -> str | None:
        if text == "none":
            return None
        is_system = text.startswith(NATS_SCHEMES)
        if not is_system and any(web_host(one) is None for one in text.split(",")):
            raise SettingRefused(self.allowed)
        return text

    def show(self, value: object) -> str:
        if value is None:
            return "none"
        return ",".join(map(_without_secrets, str(value).split(",")))


@dataclass(frozen=True)
class NodeAddress(Listen):
    """A `host:port` to listen on, by which others reach it too."""

    @property
    def allowed(self) -> str:
        return (
            "host:port, such as one.example:8003, by which other nodes reach this one: 0.0.0.0 or "
            "[::] would tell them nothing"
        )

    def from_text(self, text: str) -> ListenAddress:
        address = super().from_text(text)
        try:
            is_all = ipaddress.ip_address(address.host).is_unspecified
        except ValueError:
            return address  # a name
        if is_all:
            raise SettingRefused(self.allowed)
        return address


@dataclass(frozen=True)
class FilePath(SettingKind):
    """A path to a file. Relative: to where the server was started."""

    @property
    def allowed(self) -> str:
        return "a path to a file, without NUL characters"

    @property
    def placeholder(self) -> str:
        return "FILE"

    def from_text(self, text: str) -> Path:
        if not text or "\0" in text:
            raise SettingRefused(self.allowed)
        return Path(text)


def _without_secrets(url: str) -> str:
    """Return a URL without user, password and parameters."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
