"""The catalogue's entries about trust: who may call, who may be called, what is believed.

Asked over real sockets, of a server with the hot lane and of one without: both must hold alike.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from tests.helpers.server import ServerProcess
from tests.proofs.wire import Answer, Wire

FAR_MS: Final = 4_102_444_800_000
WAYS: Final = ("--hot-lane", "--no-hot-lane")


class Caller:
    """Requests on connections of their own; `poll` ones to the poll port."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server

    @property
    def key(self) -> dict[str, str]:
        """The header that shows the operator's key."""
        return {"Authorization": (self.server.data / "admin.key").read_text().strip()}

    def send(
        self,
        method: str,
        target: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        host: str = "127.0.0.1",
        poll: bool = False,
        is_stream: bool = False,
    ) -> Answer:
        """Send a request; the answer. Of a stream, only the head."""
        content = b"" if body is None else body if isinstance(body, bytes) else _json(body)
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {text}" for name, text in (headers or {}).items()]
        if content:
            lines.append(f"Content-Length: {len(content)}")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        with Wire(self.server.poll_url if poll else self.server.url) as wire:
            wire.send(head + content)
            return wire.answer(without_body=is_stream or method == "HEAD")


def _json(body: object) -> bytes:
    return json.dumps(body).encode()


@pytest.fixture(scope="module", params=WAYS)
def caller(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """A caller of an open server, which stays open."""
    with ServerProcess(tmp_path_factory.mktemp("open"), request.param) as server:
        yield Caller(server)


def test_a_strangers_name_for_this_machine(caller: Caller) -> None:
    """ "any name that resolves to loopback may read and write the open server": it may not."""
    promise = {"id": "rebound", "timeout": FAR_MS}
    page = {"Origin": "http://evil.example:8001"}
    for _ in range(2):
        answer = caller.send("POST", "/promises", promise, page, host="evil.example:8001")
        assert (answer.status, answer.code) == (421, 42100)
    assert caller.send("GET", "/promises/rebound").status == 404
    assert caller.send("GET", "http://evil.example/promises/rebound").status == 421
    assert caller.send("GET", "/g/worker", host="evil.example", poll=True).status == 421
    assert caller.send("GET", "/poll/g/worker", host="evil.example").status == 421
    assert caller.send("GET", "/", host="evil.example").status == 421
    assert caller.send("GET", "/ready", host="evil.example").status == 200
    for host in ("localhost:8001", "troth", "[::1]:8001", "troth.default.svc.cluster.local"):
        assert caller.send("GET", "/promises/rebound", host=host).status == 404
    with Wire(caller.server.url) as wire:
        wire.send(b"GET /promises/rebound HTTP/1.0\r\n\r\n")
        assert wire.answer().status == 404
    with Wire(caller.server.url) as wire:
        wire.send(b"GET /promises/rebound HTTP/1.1\r\n\r\n")
        assert wire.answer().status == 400


def test_a_proxy_on_this_machine(caller: Caller) -> None:
    """ "a proxy on the same machine makes the world local": an address is no credential."""
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    for method, target, body in (
        ("POST", "/admin/accounts", {"name": "mallory"}),
        ("POST", "/admin/snapshot", None),
        ("POST", "/admin/retention", {"dryRun": False}),
        ("POST", "/admin/import", {"promises": []}),
        ("GET", "/admin/audit", None),
    ):
        for headers in ({}, forwarded, {"Authorization": "Bearer guess"}):
            answer = caller.send(method, target, body, headers)
            assert (answer.status, answer.code) == (401, 40100), target
    assert caller.send("GET", "/promises/none").status == 404  # it is still open
    assert caller.send("GET", "/admin/audit", headers=caller.key).json == []
