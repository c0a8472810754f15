"""Sessions with a real server: streams that end with them, restarts, codes, and names of hosts."""

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from tests.helpers.server import ServerProcess
from tests.helpers.tokens import Client
from tests.http.client import FAR_MS

from .closed_server import PATIENCE_S, Closed, listening

OWN: Final = {"Sec-Fetch-Site": "same-origin"}
HOSTS: Final = (
    *("evil.example", "EVIL.example", "evil.example.", "evil.example:8001", "evil.example:"),
    *("me@evil.example", "127.0.0.1@evil.example", "127.0.0.1.evil.example"),
    *("localhost.evil.example", "[::1].evil.example", "0x7f.0.0.1", "xn--bcher-kva.example"),
)
"""Spellings of names that a stranger could have pointed at this machine."""


class Browser:
    """A browser that is signed in at a server."""

    def __init__(self, url: str, sign_in: Mapping[str, str]) -> None:
        self.url = url
        self.cookie = self.csrf = ""
        status, headers, told = self.ask("POST", "/session", sign_in)
        assert status == 201, told
        self.cookie = headers["set-cookie"].partition(";")[0]
        self.csrf = told["csrf"]

    @property
    def headers(self) -> dict[str, str]:
        """What goes with all that its page asks."""
        return {**OWN, "Cookie": self.cookie, "X-Troth-CSRF": self.csrf}

    def ask(self, method: str, target: str, body: object = None) -> tuple[int, Any, Any]:
        """Make a request; status, headers and content."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_S)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, target, content, self.headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, answer.headers, json.loads(text) if text else None
        finally:
            connection.close()


def test_revoked_token_ends_session_and_stream(closed: Closed) -> None:
    url = closed.server.url
    token_id, headers = closed.token("promises:read", "metrics:read")
    token = headers["Authorization"].removeprefix("Bearer ")
    browser = Browser(url, {"token": token})
    with (
        listening(url, "topics=counters", browser.headers) as listener,
        listening(url, "watch=x", {"Cookie": browser.cookie}) as other,
    ):
        assert listener.next() is not None
        assert closed.operator.send("DELETE", f"/admin/tokens/{token_id}")[0] < 300
        listener.wait_for_end()
        other.wait_for_end()
    status, _, told = browser.ask("GET", "/promises/x")
    assert (status, told["error"]["code"]) == (401, 40101)


def test_signing_out_ends_streams(closed: Closed) -> None:
    _, headers = closed.token("metrics:read")
    token = headers["Authorization"].removeprefix("Bearer ")
    browser = Browser(closed.server.url, {"token": token})
    with listening(closed.server.url, "topics=counters", browser.headers) as listener:
        assert listener.next() is not None
        assert browser.ask("DELETE", "/session")[0] == 204
        listener.wait_for_end()


def test_both_ways_in_treat_sessions_alike(closed: Closed) -> None:
    _, headers = closed.token("promises:read", "promises:write")
    token = headers["Authorization"].removeprefix("Bearer ")
    browser = Browser(closed.server.url, {"token": token})
    body = {"id": "of a session", "timeout": FAR_MS}
    status, created, _ = browser.ask("POST", "/promises", body)
    assert (status, created["cache-control"]) == (201, "no-store")
    status, shown, _ = browser.ask("GET", "/promises/of%20a%20session")
    assert (status, shown["cache-control"]) == (200, "no-store")
    status, refused, told = browser.ask("GET", "/tasks/claim/x/1")
    assert (status, told["error"]["code"]) == (403, 40315)
    browser.csrf = "x"
    status, refused, told = browser.ask("POST", "/promises", body)
    assert (status, told["error"]["code"]) == (403, 40316)
    assert refused["cache-control"] is None


@pytest.mark.slow
def test_session_survives_no_restart_but_says_so(server: ServerProcess) -> None:
    key = (server.data / "admin.key").read_text().strip()
    browser = Browser(server.url, {"token": key})
    assert browser.ask("GET", "/admin/accounts")[0] == 200
    server.restart()
    for target in ("/admin/accounts", "/session", "/whoami"):
        status, headers, told = browser.ask("GET", target)
        assert (status, told["error"]["code"]) == (401, 40101)
        assert "restarted" in json.dumps(told)
        name = browser.cookie.partition("=")[0]
        assert headers["set-cookie"].startswith(f"{name}=; Max-Age=0; ")
    code = Client(server, key).json("POST", "/admin/session-code")["code"]
    again = Browser(server.url, {"code": code})
    assert again.ask("GET", "/session")[2]["who"]["kind"] == "operator"


def asked_with_host(url: str, target: str, host: str) -> int:
    """The status of an answer to a request that is for this host."""
    parts = urlsplit(url)
    assert parts.port is not None
    with socket.create_connection(("127.0.0.1", parts.port), PATIENCE_S) as connection:
        request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        return int(connection.makefile("rb").readline().split()[1])


@pytest.fixture(scope="module", params=["--hot-lane", "--no-hot-lane"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An open server, with the lane and without."""
    with ServerProcess(tmp_path_factory.mktemp("open"), request.param) as server:
        yield server


@pytest.mark.slow
def test_rebinding(opened: ServerProcess) -> None:
    targets = ("/ui/", "/session", "/whoami", "/promises/none", "/events?topics=counters")
    for host in HOSTS:
        for target in targets:
            assert asked_with_host(opened.url, target, host) == 421, (host, target)
        assert asked_with_host(opened.poll_url, "/group/worker", host) == 421, host
    for host in ("127.0.0.1", "localhost:8001", "[::1]", "troth"):
        assert asked_with_host(opened.url, "/ui/", host) == 200, host
        assert asked_with_host(opened.url, "/session", host) == 200, host
