"""Requests to a real server by somebody with a token."""

import json
import time
import urllib.error
import urllib.request
from typing import Any

from .server import ServerProcess


class Client:
    """Requests to a server with a token, or with the operator's key."""

    def __init__(self, server: ServerProcess, secret: str) -> None:
        self._server = server
        self.secret = secret

    def send(
        self, method: str, path: str, body: object = None, *, raw: bytes | None = None
    ) -> tuple[int, bytes]:
        """Make a request; status and body."""
        content = raw if raw is not None else None if body is None else json.dumps(body).encode()
        kind = "application/octet-stream" if raw is not None else "application/json"
        request = urllib.request.Request(
            self._server.url + path,
            content,
            {"Authorization": self.secret, "Content-Type": kind},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def json(self, method: str, path: str, body: object = None) -> Any:
        """Make a request that succeeds; what was answered."""
        status, answer = self.send(method, path, body)
        assert status < 300, answer
        return json.loads(answer)

    def build(self, function_id: str, archive: bytes) -> str:
        """Upload an archive; the build's id."""
        status, answer = self.send("POST", f"/v1/build/{function_id}?arch=amd64", raw=archive)
        assert status == 201, answer
        identifier: str = json.loads(answer)["id"]
        return identifier

    def checked(self, build_id: str) -> Any:
        """Wait until a build is checked; the build."""
        deadline = time.monotonic() + 120
        while (build := self.json("GET", f"/v1/build/{build_id}"))["status"] == "PENDING":
            assert time.monotonic() < deadline, "the build is not checked"
            time.sleep(0.05)
        return build


def new_client(server: ServerProcess, account: str) -> Client:
    """Create an account and a token for functions."""
    operator = Client(server, (server.data / "admin.key").read_text().strip())
    operator.json("POST", "/admin/accounts", {"name": account})
    scopes = ["functions:read", "functions:write", "tasks:read", "tasks:write", "node"]
    made = operator.json("POST", "/admin/tokens", {"account": account, "scopes": scopes})
    return Client(server, made["token"])
