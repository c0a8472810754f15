"""What a URL of a log in NATS says: servers, who asks, and the name of the log."""

import re
import ssl
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from .stream import StreamRefused

SCHEMES: Final = ("nats", "tls")
NAME_DEFAULT: Final = "troth"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PORT: Final = 4222
_FILES: Final = ("credentials", "tls_ca", "tls_cert", "tls_key")


@dataclass(frozen=True)
class JetStreamUrl:
    """A URL such as `nats://user:password@one,two:4223/NAME?credentials=FILE`.

    `shown` is it without secrets, `options` are what nats-py's client is told besides `servers`.
    """

    servers: tuple[str, ...]
    name: str
    shown: str
    options: dict[str, Any] = field(default_factory=dict, repr=False)


def read_jetstream_url(url: str) -> JetStreamUrl:
    """Read a URL. Raises StreamRefused if it is not one, or a file that it names is not usable."""
    try:
        parts = urlsplit(url)
        queried = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
    except ValueError as error:
        raise _refused(str(error)) from error
    who, _, hosts = parts.netloc.rpartition("@")
    if parts.scheme not in SCHEMES or not hosts:
        raise _refused("it names no server")
    name = parts.path.strip("/") or NAME_DEFAULT
    if not _NAME.fullmatch(name):
        raise _refused("a log's name has letters, digits, _ and -, at most 64")
    files: dict[str, str] = {}
    for key, value in queried:
        if key not in _FILES:
            raise _refused(f"{key} is not one of {', '.join(_FILES)}")
        files[key] = value
    options: dict[str, Any] = {}
    user, separator, password = who.partition(":")
    if separator:
        options.update(user=unquote(user), password=unquote(password))
    elif user:
        options["token"] = unquote(user)
    if "credentials" in files:
        options["user_credentials"] = _readable(files["credentials"])
    if parts.scheme == "tls" or any(key.startswith("tls") for key in files):
        options["tls"] = _tls(files)
    servers = tuple(_server(host, parts.scheme) for host in hosts.split(","))
    return JetStreamUrl(servers, name, f"{parts.scheme}://{hosts}/{name}", options)


def _server(host: str, scheme: str) -> str:
    """Return the URL of one server. Raises StreamRefused."""
    try:
        parts = urlsplit(f"{scheme}://{host}")
        if not parts.hostname:
            raise _refused("a server has no name")
        port = parts.port or _PORT
    except ValueError as error:
        raise _refused(str(error)) from error
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{name}:{port}"


def _readable(path: str) -> str:
    """Return the path of a file that can be read. Raises StreamRefused."""
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise StreamRefused(f"The file of credentials in log cannot be read: {error}.") from error


def _tls(files: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.get("tls_ca"))
        if "tls_cert" in files:
            context.load_cert_chain(files["tls_cert"], files.get("tls_key"))
    except OSError as error:
        raise StreamRefused(f"The files for TLS in log cannot be used: {error}.") from error
    return context


def _refused(problem: str) -> StreamRefused:
    return StreamRefused(
        f"The URL of the log cannot be read: {problem}. Give one such as nats://host:4222/NAME."
    )
