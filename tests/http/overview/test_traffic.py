"""GET /workers and GET /queues: who takes work, and what waits for whom."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.server import ServerProcess
from tests.http.admin.test_accounts import secret_of
from tests.http.client import FAR_MS, NOW_MS, running
from troth.core.codes import Code
from troth.shards.delivery.dialects import Dialect

PATIENCE_S = 60.0


async def test_streams_are_listed_in_pages_with_what_they_hold() -> None:
    async with running() as world:
        for number in (2, 1, 3):
            stream = world.api.polls.connect("g", f"w{number}", Dialect.REST)
            stream.peer, stream.since_ms = "10.0.0.1", NOW_MS
        world.api.polls.connect("a", "w1")
        await world.create("p", tags={"resonate:invoke": "poll://any@nowhere"})
        task = {"id": "__invoke:p", "counter": 1, "processId": "w1", "ttl": 60_000}
        assert (await world.send("POST", "/tasks/claim", task)).status == 201

        first = (await world.send("GET", "/workers?limit=3")).json
        rest = (await world.send("GET", f"/workers?cursor={first['cursor']}")).json

        assert [(row["group"], row["id"]) for row in first["workers"]] == [
            ("a", "w1"),
            ("g", "w1"),
            ("g", "w2"),
        ]
        assert first["workers"][1] == {
            "group": "g",
            "id": "w1",
            "protocol": "rest",
            "address": "10.0.0.1",
            "since": NOW_MS,
            "waiting": 0,
            "delivered": 0,
            "leases": 1,
        }
        assert first["workers"][2]["leases"] == 0
        assert [row["id"] for row in rest["workers"]] == ["w3"]
        assert rest["cursor"] is None


async def test_the_leases_of_envelope_workers_count_too() -> None:
    async with running() as world:
        world.api.polls.connect("g", "w1", Dialect.ENVELOPE)
        await world.create("p", tags={"resonate:target": "poll://any@g"})
        envelope = {
            "kind": "task.acquire",
            "head": {"corrId": "1", "version": "2026-04-01"},
            "data": {"id": "p", "version": 0, "pid": "w1", "ttl": 60_000},
        }
        acquired = await world.send("POST", "/", envelope)
        assert acquired.status == 200, acquired.body

        (row,) = (await world.send("GET", "/workers")).json["workers"]
        assert (row["protocol"], row["leases"]) == ("envelope", 1)


async def test_a_token_with_a_prefix_sees_its_groups_only() -> None:
    async with running() as world:
        for group in ("b/g", "c/g"):
            world.api.polls.connect(group, "w")
        scopes = ("metrics:read", "promises:read")
        headers = await secret_of(world, *scopes, idPrefix="b/")
        shown = (await world.send("GET", "/workers", headers=headers)).json
        queues = (await world.send("GET", "/queues", headers=headers)).json

        assert [row["group"] for row in shown["workers"]] == ["b/g"]
        assert [row["receiver"] for row in queues["queues"]] == ["poll://b/g"]
        lacking = await secret_of(world, "promises:read")
        for path in ("/workers", "/queues"):
            answer = await world.send("GET", path, headers=lacking)
            assert answer.code == Code.FORBIDDEN_SCOPE


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=x"])
async def test_wrong_pages_are_refused(query: str) -> None:
    async with running() as world:
        assert (await world.send("GET", f"/workers?{query}")).code == Code.INVALID


class _Failing(BaseHTTPRequestHandler):
    """A receiver that refuses everything."""

    def do_POST(self) -> None:
        self.send_response(500)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@contextlib.contextmanager
def failing_receiver() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Failing) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{receiver.server_port}"
        receiver.shutdown()
        thread.join()


def when(server: ServerProcess, path: str, condition: Any) -> Any:
    """Ask until an answer is as it must be; the answer."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        status, found = server.request("GET", path)
        assert status == 200, found
        if condition(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


async def test_a_token_with_a_prefix_retries_only_its_groups() -> None:
    async with running() as world:
        headers = await secret_of(world, "promises:write", idPrefix="a")
        for receiver, status in (
            ("poll://ab", 200),
            ("poll://b", 403),
            ("https://a.example", 403),
            ("undeliverable", 403),
        ):
            body = {"receiver": receiver}
            answer = await world.send("POST", "/queues/retry", body, headers)
            assert answer.status == status, receiver
        body = {"receiver": "poll://ab"}
        assert answer.status == 403
        answer = await world.send("POST", "/queues/retry", body, headers)
        assert answer.json == {"receiver": "poll://ab", "retried": 0}
        assert (await world.send("POST", "/queues/retry", {}, headers)).status == 400


async def test_the_statistics_of_all_are_not_for_a_token_of_some() -> None:
    async with running() as world:
        limited = await secret_of(world, "metrics:read", idPrefix="a")
        answer = await world.send("GET", "/statistics", headers=limited)
        assert (answer.status, answer.code) == (403, Code.FORBIDDEN_PREFIX)
        every = await secret_of(world, "metrics:read")
        assert (await world.send("GET", "/statistics", headers=every)).status == 200


@pytest.mark.slow
def test_workers_queues_and_failures_of_a_real_server(tmp_path: Path) -> None:
    with (
        ServerProcess(tmp_path, "--task-retry-first-ms", "1000") as server,
        failing_receiver() as url,
    ):
        for promise_id, receiver in (("push", f"{url}/x"), ("poll", "poll://any@away")):
            tags = {"resonate:invoke": receiver}
            body = {"id": promise_id, "timeout": FAR_MS, "tags": tags}
            assert server.request("POST", "/promises", body)[0] == 201

        def has_failed(found: Any) -> bool:
            rows = {row["receiver"]: row for row in found["queues"]}
            return "lastError" in rows.get(url, {}) and "poll://away" in rows

        found = when(server, "/queues", has_failed)
        rows = {row["receiver"]: row for row in found["queues"]}
        failing, away = rows[url], rows["poll://away"]

        assert failing["health"] == "failing"
        assert "500" in failing["lastError"]
        assert failing["failingSince"] <= time.time() * 1000 + 1000
        assert failing["stalled"] + failing["waiting"] + failing["inFlight"] == 1
        assert (away["health"], away["workers"], away["stalled"]) == ("no-workers", 0, 1)
        assert away["oldestOn"] is not None
        retried = server.request("POST", "/queues/retry", {"receiver": url})
        assert retried == (200, {"receiver": url, "retried": failing["stalled"]})
        noted = when(server, "/failures?kind=sending", lambda one: one["failures"])
        assert noted["failures"][0]["id"] == "__invoke:push"
        assert noted["failures"][0]["about"] == url

        host, port = server.url.removeprefix("http://").split(":")
        stream = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
        stream.request("GET", "/poll/away/w1")
        assert stream.getresponse().status == 200
        listed = when(server, "/workers", lambda one: _delivered(one) == 1)
        (worker,) = listed["workers"]
        assert (worker["group"], worker["id"], worker["protocol"]) == ("away", "w1", None)
        assert worker["address"] == "127.0.0.1"
        assert when(server, "/queues", lambda one: _stalled(one, "poll://away") == 0)
        assert isinstance(stream.sock, socket.socket)
        stream.close()


def _delivered(found: Any) -> int:
    return sum(row["delivered"] for row in found["workers"])


def _stalled(found: Any, receiver: str) -> int:
    return sum(row["stalled"] for row in found["queues"] if row["receiver"] == receiver)
