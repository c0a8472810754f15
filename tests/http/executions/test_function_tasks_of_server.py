"""Function tasks on a real server: its sockets, its two ways in, its restarts, and curl.

A scripted node speaks the protocol over plain sockets, so nothing of ours is on the other side.
"""

import base64
import http.client
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from tests.helpers.server import ServerProcess
from tests.helpers.zips import plain_zip

pytestmark = pytest.mark.slow

NODE = "1a061cfd-df01-4b02-a067-5122c5941e15"
HELLO = {
    "type": "hello",
    "heartbeatMs": 3_000,
    "leaseMs": 10_000,
    "keepAliveMs": 15_000,
    "exchange": 1,
    "bodyLimitBytes": 4 << 20,
    "headLimitBytes": 32 << 10,
}
WAIT_S = 120.0


class Client:
    """Requests to a server with a token, each on a connection of its own."""

    def __init__(self, server: ServerProcess, secret: str) -> None:
        self.server = server
        self.secret = secret
        self.place = urlsplit(server.url)

    def open(self) -> http.client.HTTPConnection:
        """A connection."""
        return http.client.HTTPConnection(str(self.place.hostname), self.place.port, timeout=WAIT_S)

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes, dict[str, str]]:
        """Make a request: status, body, headers with names in lower case."""
        content = raw if raw is not None else None if body is None else json.dumps(body).encode()
        connection = self.open()
        try:
            given = {"Authorization": self.secret, "Content-Type": "application/json"}
            connection.request(method, path, content, {**given, **(headers or {})})
            answer = connection.getresponse()
            named = {name.lower(): text for name, text in answer.getheaders()}
            return answer.status, answer.read(), named
        finally:
            connection.close()

    def json(self, method: str, path: str, body: object = None) -> Any:
        """Make a request that succeeds; what was answered."""
        status, answer, _ = self.send(method, path, body)
        assert status < 300, answer
        return json.loads(answer) if answer else None


def new_client(server: ServerProcess, account: str = "a") -> Client:
    """Create an account and a token that may do everything."""
    operator = Client(server, (Path(server.data) / "admin.key").read_text().strip())
    operator.json("POST", "/admin/accounts", {"name": account})
    scopes = [
        "tasks:read",
        "tasks:write",
        "functions:read",
        "functions:write",
        "node",
        "metrics:read",
    ]
    made = operator.json("POST", "/admin/tokens", {"account": account, "scopes": scopes})
    return Client(server, made["token"])


def code_function(client: Client) -> str:
    """A function with a checked build; its id."""
    made = client.json("POST", "/v1/function", {"name": "f", "type": "CODE", "lang": "PY"})
    function_id: str = made["id"]
    archive = plain_zip({"handler.py": "def handle(request):\n    return 1\n"})
    headers = {"Content-Type": "application/octet-stream"}
    status, answer, _ = client.send(
        "POST", f"/v1/build/{function_id}?arch=amd64", raw=archive, headers=headers
    )
    assert status == 201, answer
    build_id = json.loads(answer)["id"]
    deadline = time.monotonic() + WAIT_S
    while client.json("GET", f"/v1/build/{build_id}")["status"] != "SUCCESS":
        assert time.monotonic() < deadline, "the build is not checked"
        time.sleep(0.05)
    return function_id


class Node:
    """A node's stream, and what it says."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._connection = client.open()
        self._path = f"/v1/node/{NODE}"
        status, answer, _ = client.send("POST", self._path, {"languages": ["PY"]})
        assert status == 201, answer
        self._connection.request(
            "GET", f"{self._path}/work", headers={"Authorization": client.secret}
        )
        self._stream = self._connection.getresponse()
        assert self._stream.status == 200
        assert self.order() == HELLO

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._connection.close()

    def order(self) -> dict[str, Any]:
        """The next order; waits."""
        while True:
            line = self._stream.readline()
            assert line, "the stream has ended"
            if line.startswith(b"data: "):
                order: dict[str, Any] = json.loads(line[6:])
                return order

    def take(self) -> tuple[str, int]:
        """Take on the next task."""
        order = self.order()
        assert order["type"] == "run", order
        assert self._client.send("POST", f"{self._path}/assign", order["task"])[0] == 201
        return order["task"]["id"], order["task"]["counter"]

    def report(self, *running: tuple[str, int]) -> Any:
        """Say what it works on; what to stop."""
        rows = [{"id": task_id, "counter": counter, "progress": 50} for task_id, counter in running]
        return self._client.json("POST", f"{self._path}/report", {"running": rows})["stop"]

    def result(self, task: tuple[str, int], body: bytes) -> int:
        """Post a result; the answer's status."""
        pairs = base64.b64encode(b'[["Content-Type","text/plain"]]').decode()
        headers = {"Troth-Status": "200", "Troth-Headers": pairs}
        path = f"{self._path}/result/{task[0]}/{task[1]}"
        return self._client.send("POST", path, raw=body, headers=headers)[0]


def test_queued_and_running_tasks_outlive_a_kill(server: ServerProcess) -> None:
    client = new_client(server)
    function_id = code_function(client)
    with Node(client) as node:
        running_id = client.json("POST", f"/v1/task/{function_id}", {"n": 1})["id"]
        running = node.take()
        assert running == (running_id, 1)
        queued_ids = [
            client.json("POST", f"/v1/task/{function_id}", {"n": n})["id"] for n in range(3)
        ]
        server.restart()
    with Node(client) as node:
        # It still has its task, so it gets no other; its result counts.
        assert node.report(running) == []
        assert client.json("GET", f"/v1/task/{running_id}")["node"] == NODE
        assert node.result(running, b"first") == 201
        for queued_id in queued_ids:
            task = node.take()
            assert task[0] == queued_id, "in the order of their creation"
            assert node.result(task, b"next") == 201
    assert client.send("GET", f"/v1/task/{running_id}/result")[1] == b"first"
    listed = client.json("GET", "/v1/task/list")
    assert [row["id"] for row in listed] == [*reversed(queued_ids), running_id]
    assert {row["status"] for row in listed} == {200}


def test_a_stop_does_not_wait_for_those_who_wait(server: ServerProcess) -> None:
    client = new_client(server)
    function_id = code_function(client)
    task_id = client.json("POST", f"/v1/task/{function_id}")["id"]
    answers: list[int] = []
    waiting = threading.Thread(
        target=lambda: answers.append(client.send("GET", f"/v1/task/{task_id}/result?wait=60")[0])
    )
    waiting.start()
    deadline = time.monotonic() + WAIT_S
    while b"troth_function_result_waiters 1.0" not in client.send("GET", "/metrics")[1]:
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.05)
    started = time.monotonic()
    assert server.terminate() == 0
    waiting.join(WAIT_S)
    assert answers == [404]
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("way", ["--hot-lane", "--no-hot-lane"])
def test_who_hangs_up_does_not_wait(tmp_path: Path, way: str) -> None:
    """Or a few clients could take all connections and waits there are, without keeping any."""
    with ServerProcess(tmp_path, way) as server:
        client = new_client(server)
        task_id = client.json("POST", f"/v1/task/{code_function(client)}")["id"]

        def wait_for(waiters_count: int) -> None:
            wanted = b"troth_function_result_waiters %d.0" % waiters_count
            deadline = time.monotonic() + WAIT_S
            while wanted not in client.send("GET", "/metrics")[1]:
                assert time.monotonic() < deadline, f"there are not {waiters_count} who wait"
                time.sleep(0.05)

        connection = client.open()
        headers = {"Authorization": f"Bearer {client.secret}"}
        connection.request("GET", f"/v1/task/{task_id}/result?wait=60", headers=headers)
        wait_for(1)
        connection.close()
        wait_for(0)


def test_both_ways_in_give_the_same_answers(tmp_path: Path) -> None:
    answers = []
    for way in ("--hot-lane", "--no-hot-lane"):
        with ServerProcess(tmp_path / way, way) as server:
            client = new_client(server)
            function_id = code_function(client)
            with Node(client) as node:
                ids = {}
                made = client.send("POST", f"/v1/task/{function_id}?a=1", {"b": 2})
                task_id = json.loads(made[1])["id"]
                ids[task_id] = "task"
                seen = [made, client.send("GET", f"/v1/task/{task_id}/result")]
                task = node.take()
                node.result(task, bytes(range(256)))
                seen += [
                    client.send("GET", f"/v1/task/{task_id}/result?wait=1"),
                    client.send("GET", f"/v1/task/{'0' * 24}"),
                    client.send("POST", f"/v1/task/{function_id}", raw=b"{"),
                    client.send("DELETE", f"/v1/task/{task_id}"),
                    client.send("GET", "/v1/task/list?limit=0"),
                    client.send("POST", f"/v1/node/{NODE}/report", {"running": []}),
                    client.send("POST", f"/v1/node/{NODE}/return/{task_id}/1"),
                ]
                answers.append([_comparable(one, task_id, server.url) for one in seen])
    assert answers[0] == answers[1]


def _comparable(
    answer: tuple[int, bytes, dict[str, str]], task_id: str, url: str
) -> tuple[int, bytes, dict[str, str]]:
    status, body, headers = answer
    body = body.replace(task_id.encode(), b"TASK").replace(url.encode(), b"URL")
    if b'"requestId"' in body:
        made = json.loads(body)
        for detail in made["error"]["details"]:
            del detail["metadata"]["requestId"]
        body = json.dumps(made).encode()
    left_out = {"date", "request-id", "content-length"}
    return status, body, {name: text for name, text in headers.items() if name not in left_out}


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_call_that_the_servers_end_has_cut_off_is_made_again(
    tmp_path: Path, *, is_killed: bool
) -> None:
    calls: list[str] = []
    handler = type("Handler", (_Hanging,), {"calls": calls})
    with (
        function_at(handler) as url,
        ServerProcess(tmp_path / "server", "--function-private-networks") as server,
    ):
        client = new_client(server)
        function_id = client.json(
            "POST",
            "/v1/function",
            {"name": "f", "type": "HTTP", "url": url, "capabilities": {"timeout": 60}},
        )["id"]
        task_id = client.json("POST", f"/v1/task/{function_id}")["id"]
        deadline = time.monotonic() + WAIT_S
        while not calls:
            assert time.monotonic() < deadline, "it is not called"
            time.sleep(0.05)
        if is_killed:
            server.kill9()
        else:
            assert server.terminate() == 0
            assert "unexpectedly" not in server.log()
        server.start()
        status, body, _ = client.send("GET", f"/v1/task/{task_id}/result?wait=19")
        assert (status, body) == (200, b"again")
        assert calls == [task_id, task_id]


# --- the seed's examples, with curl ---------------------------------------------------------------


class _Hanging(BaseHTTPRequestHandler):
    """A function that hangs when it is called first, and then answers."""

    calls: list[str]

    def do_POST(self) -> None:
        self.calls.append(self.headers["Troth-Task-Id"])
        if len(self.calls) == 1:
            self.rfile.read()  # until the caller is gone
            return
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"again")

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


class _Greeter(BaseHTTPRequestHandler):
    """A function that answers as the documentation's examples do."""

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        given = json.loads(self.rfile.read(length) or b"null")
        if given is None:
            body = b'"Hello from GreenCloud!"'
            kind = "text/plain"
        else:
            shown = {"Status": "OK", "Active": given["admin"], "Query": self.path.partition("?")[2]}
            body = json.dumps({**shown, "Nodes": ["west", "south"], "Count": 40}).encode()
            kind = "application/json"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def function_at(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A function's URL, as long as the block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}/"
        listening.shutdown()
        thread.join()


def curl(client: Client, method: str, path: str, *more: str) -> tuple[int, str]:
    """What the documentation says to do, done with curl: status and body."""
    finished = subprocess.run(
        [
            *("curl", "-sS", "-X", method, "-w", "\n%{http_code}"),
            *("-H", f"Authorization: {client.secret}"),
            *more,
            client.server.url + path,
        ],
        capture_output=True,
        check=True,
        timeout=WAIT_S,
        text=True,
    )
    body, _, status = finished.stdout.rpartition("\n")
    return int(status), body


EXAMPLE = """{
"name": "John Doe",
"age": 30,
"admin": true,
}"""


def test_the_documentations_examples_as_they_stand(tmp_path: Path) -> None:
    with (
        function_at(_Greeter) as greeter,
        ServerProcess(tmp_path / "server", "--function-private-networks") as server,
    ):
        client = new_client(server)
        made = client.json("POST", "/v1/function", {"name": "f", "type": "HTTP", "url": greeter})
        function_id = made["id"]

        # Create Task
        status, body = curl(
            client,
            "POST",
            f"/v1/task/{function_id}?myParam1=100&myParam2=Green&myParam3=true",
            *("-H", "Content-Type: application/json", "-d", EXAMPLE),
        )
        assert status == 201
        assert list(json.loads(body)) == ["id"]
        task_id = json.loads(body)["id"]
        assert len(bytes.fromhex(task_id)) == 12

        # Result Tasks: JSON
        status, body = curl(client, "GET", f"/v1/task/{task_id}/result?wait=20")
        assert status == 200
        assert json.loads(body) == {
            "Status": "OK",
            "Active": True,
            "Query": "myParam1=100&myParam2=Green&myParam3=true",
            "Nodes": ["west", "south"],
            "Count": 40,
        }

        # Get Task
        status, body = curl(client, "GET", f"/v1/task/{task_id}")
        shown = json.loads(body)
        assert status == 200
        assert list(shown) == [
            *("functionId", "issued", "assigned", "finished"),
            *("progress", "node", "timeout", "capabilities"),
        ]
        assert shown["functionId"] == function_id
        for name in ("issued", "assigned", "finished"):
            assert isinstance(shown[name], str)
            assert abs(int(shown[name]) - time.time()) < 60
        assert shown["progress"] == 100
        assert shown["timeout"] == 10
        assert shown["capabilities"] == {
            "cpuCount": 0,
            "memSize": 0,
            "networkLatency": 0,
            "privileged": False,
        }

        # Without a body, and without a Content-Type. Result Tasks: Text
        status, body = curl(client, "POST", f"/v1/task/{function_id}")
        assert status == 201
        second_id = json.loads(body)["id"]
        status, body = curl(client, "GET", f"/v1/task/{second_id}/result?wait=20")
        assert (status, body) == (200, '"Hello from GreenCloud!"')

        # List Tasks
        status, body = curl(client, "GET", "/v1/task/list")
        assert status == 200
        rows = json.loads(body)
        assert [row["id"] for row in rows] == [second_id, task_id]
        assert [list(row) for row in rows] == [["id", "issued", "progress", "status"]] * 2
        assert [(row["progress"], row["status"]) for row in rows] == [(100, 200)] * 2
        assert all(isinstance(row["issued"], str) for row in rows)
