"""A server of three processes with an account, and connections to all of them."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.helpers.server import ServerProcess

SHARDS_COUNT = 6
CONNECTIONS_COUNT = 12
"""Enough that each process has some."""


class Connection:
    """A connection, which one process has accepted."""

    def __init__(self, server: ServerProcess) -> None:
        parts = urlsplit(server.url)
        assert parts.hostname is not None
        self.http = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)

    def send(self, method: str, path: str, body: object = None, **headers: str) -> None:
        """Send a request."""
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body)
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        self.http.request(method, path, sent, {"Content-Type": "application/json", **named})

    def receive(self) -> tuple[int, Any, str]:
        """Return the status, the body and the cookie of an answer."""
        answer = self.http.getresponse()
        content = answer.read()
        cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
        is_json = (answer.getheader("Content-Type") or "").startswith("application/json")
        return answer.status, json.loads(content) if content and is_json else content, cookie

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Send a request; return status and body."""
        self.send(method, path, body, **headers)
        return self.receive()[:2]


@dataclass
class Tenancy:
    """A server with an account, and its operator."""

    server: ServerProcess
    key: str
    connections: list[Connection] = field(default_factory=list)

    def admin(self, place: int, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Ask as the operator."""
        return self.connections[place].ask(method, path, body, Authorization=f"Bearer {self.key}")

    def new_token(self, place: int, account: str, *scopes: str) -> tuple[str, str]:
        """Make a token; return its id and its text."""
        body = {"account": account, "scopes": list(scopes) or ["promises:read"]}
        status, made = self.admin(place, "POST", "/admin/tokens", body)
        assert status == 201, made
        return made["id"], made["token"]

    def statuses(self, **headers: str) -> set[int]:
        """Return what all connections are answered."""
        return {one.ask("GET", "/whoami", **headers)[0] for one in self.connections}


@contextmanager
def tenancy_of(server: ServerProcess) -> Iterator[Tenancy]:
    """Connect, and make an account if there is none."""
    made = Tenancy(server, (server.data / "admin.key").read_text().strip())
    made.connections = [Connection(server) for _ in range(CONNECTIONS_COUNT)]
    made.admin(0, "POST", "/admin/accounts", {"name": "billing"})
    yield made
    for one in made.connections:
        one.http.close()
