"""What connects a server with others: its ports, who may use them, the proxy before it."""

import os
import socket
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import httpx

from troth.cli.connection.answers import RequestRefused, ServerUnreachable
from troth.cli.connection.client import ApiClient
from troth.cli.operator_session import server_at
from troth.http.identity.operator_key import FILE_NAME
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings

from .findings import Finding, failure, note, ok, warning

_PROXY_VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 — read, not listened on
_TIMEOUT_S: Final = 5.0
_ODD_ID: Final = "troth-doctor%2F%2Fnothing"


def examine_ports(settings: Settings) -> Iterator[Finding]:
    """Say whether the ports are free, or a Troth server has them already."""
    named = {"listen": settings.listen, "poll_listen": settings.poll_listen}
    for name, address in named.items():
        if address is None or address.port == 0:
            continue
        subject = f"port {address.port}"
        problem = _problem_of(address)
        if problem is None:
            yield ok(subject, f"{address} is free")
        elif server_at(f"http://{_local(address)}") is not None:
            yield note(subject, f"a Troth server answers at {address}")
        else:
            yield failure(
                subject, f"{address}: {problem}", f"choose another: --{name.replace('_', '-')}"
            )


def _problem_of(address: ListenAddress) -> str | None:
    """Return why an address cannot be listened on; None if it can."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, place in found:
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(place)
                tried.listen(1)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _local(address: ListenAddress) -> ListenAddress:
    return ListenAddress(_ANY.get(address.host, address.host), address.port)


def examine_access(settings: Settings) -> Iterator[Finding]:
    """Say who could use the server."""
    name = settings.exposed
    has_key = (settings.data / FILE_NAME).exists()
    if settings.allow_anonymous:
        yield warning(
            "access",
            "allow_anonymous is set: every program that reaches the port may do everything",
            "create accounts (`troth account add NAME`) and remove the setting",
        )
    elif name is None:
        yield ok("access", "only programs on this machine, or with a password")
    elif has_key:
        yield note(
            "access",
            f"other machines can connect ({name}); the server starts only if there is an account",
            "`troth account list` shows whether there is one",
        )
    else:
        yield failure(
            "access",
            f"other machines can connect ({name}), and there is no account",
            f"troth account add NAME --data {settings.data}",
        )


def examine_proxies(settings: Settings) -> Iterator[Finding]:
    """Say what stands between clients and the server, and whether it lets everything through."""
    environment = {name.upper(): text for name, text in os.environ.items()}
    for name in _PROXY_VARIABLES:
        if environment.get(name):
            yield note(
                "proxies",
                f"{name} is set: commands reach other machines through it, and pushes do not",
                "put the server's host into NO_PROXY if that is not meant",
            )
    if settings.url is None:
        yield note(
            "url",
            "not set: links in messages begin with the address that the server listens on",
            "set it (--url) if workers run on other machines, or behind a proxy",
        )
        return
    yield from _examine_url(settings.url)


def _examine_url(url: str) -> Iterator[Finding]:
    """Ask the server as clients do, through whatever stands before it."""
    if urlsplit(url).scheme == "http" and urlsplit(url).hostname not in {"localhost", "127.0.0.1"}:
        yield warning(
            "url", f"{url} is not encrypted", "tokens travel in the open: use a proxy with TLS"
        )
    try:
        with ApiClient(url, None, None) as client:
            client.ask("GET", "/ping")
    except RequestRefused as refusal:
        yield failure(
            "url", f"{url}/ping: {refusal.message.splitlines()[0]}", "is it the proxy that says so?"
        )
        return
    except ServerUnreachable as error:
        yield warning("url", f"{error.message.splitlines()[0]}", "start the server, and look again")
        return
    yield from _examine_paths(url)


def _examine_paths(url: str) -> Iterator[Finding]:
    """Ask for a promise whose id has slashes: a proxy that decodes paths would ask for another."""
    try:
        answer = httpx.get(f"{url}/promises/{_ODD_ID}", timeout=_TIMEOUT_S, follow_redirects=False)
    except httpx.HTTPError as error:
        yield failure("url", f"{url}: {error}", "is it the proxy that does this?")
        return
    is_ours = answer.headers.get("content-type", "").startswith("application/json")
    if not is_ours or answer.status_code not in {401, 403, 404, 503}:
        yield failure(
            "url",
            f"a path with %2F is answered with {answer.status_code}, and not by Troth",
            "the proxy must hand on paths as they come: see deploy/proxies/",
        )
    else:
        yield ok("url", f"{url} leads to a Troth server, and paths arrive as they are")
