"""A server that needs credentials, and those who listen to its live feed."""

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from tests.helpers.server import ServerProcess
from tests.helpers.tokens import Client

PATIENCE_S: Final = 30.0


class Listener:
    """An open stream."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.answer = answer

    def next(self) -> tuple[str, Any] | None:
        """Wait for the next event; None at the end."""
        name = ""
        deadline = time.monotonic() + PATIENCE_S
        while line := self.answer.readline():
            field, _, text = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = text
            elif field == "data":
                return name, json.loads(text)
            assert time.monotonic() < deadline, "nothing but comments"
        return None

    def wait_for_end(self) -> None:
        """Read on until the server ends the stream."""
        deadline = time.monotonic() + PATIENCE_S
        while self.next() is not None:
            assert time.monotonic() < deadline, "the stream goes on"


@contextmanager
def listening(
    url: str, query: str, headers: Mapping[str, str], status: int = 200
) -> Iterator[Listener]:
    """Ask for a stream; what is answered has this status."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_S)
    try:
        connection.request("GET", f"/events?{query}", headers=dict(headers))
        answer = connection.getresponse()
        assert answer.status == status
        yield Listener(answer)
    finally:
        connection.close()


class Closed:
    """A server with an account, whose operator makes tokens."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.operator = Client(server, (server.data / "admin.key").read_text().strip())
        self.operator.json("POST", "/admin/accounts", {"name": "shop"})

    def token(self, *scopes: str, **more: object) -> tuple[str, dict[str, str]]:
        """Make a token; its id, and the headers of its requests."""
        body = {"account": "shop", "scopes": scopes, **more}
        made = self.operator.json("POST", "/admin/tokens", body)
        return made["id"], {"Authorization": f"Bearer {made['token']}"}
