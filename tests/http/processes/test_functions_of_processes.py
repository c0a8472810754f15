"""Function tasks, nodes, builds and bulk jobs of a server of three processes."""

import io
import json
import secrets
import time
import uuid
import zipfile
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

import pytest

from tests.http.processes.tenancy import Connection, Tenancy

SCOPES = (
    *("functions:read", "functions:write", "tasks:read", "tasks:write", "node"),
    *("promises:read", "promises:write"),
)


def package() -> bytes:
    """Return a function's code."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("handler.js", "exports.handle = () => 1")
    return made.getvalue()


PACKAGE = package()


@dataclass
class NodeStream:
    """A node's stream on a connection of its own."""

    connection: Connection
    answer: HTTPResponse

    def order(self, kind: str) -> Any:
        """Return the next order of a kind."""
        for _ in range(200):
            line = self.answer.readline()
            assert line, "the stream has ended"
            if line.startswith(b"data: "):
                order = json.loads(line[6:])
                if order["type"] == kind:
                    return order
        raise AssertionError(f"there was no {kind}")


class Workplace:
    """An account with a function of code, and a node."""

    def __init__(self, tenancy: Tenancy, place: int) -> None:
        self.tenancy = tenancy
        name = f"account-{secrets.token_hex(4)}"
        assert tenancy.admin(place, "POST", "/admin/accounts", {"name": name})[0] == 201
        self.token_id, self.secret = tenancy.new_token(place, name, *SCOPES)
        self.node_id = str(uuid.uuid4())

    def ask(self, place: int, method: str, path: str, body: object = None, **headers: str) -> Any:
        """Ask on a connection, as the account; return the status and the body."""
        connection = self.tenancy.connections[place]
        return connection.ask(method, path, body, Authorization=f"Bearer {self.secret}", **headers)

    def function(self) -> str:
        """Make a function with a build that has succeeded."""
        status, made = self.ask(
            3, "POST", "/v1/function", {"name": "f", "type": "CODE", "lang": "JS"}
        )
        assert status == 201, made
        function_id = made["id"]
        status, build = self.ask(
            4, "POST", f"/v1/build/{function_id}", PACKAGE, Content_Type="application/zip"
        )
        assert status == 201, build
        for _ in range(600):
            status, shown = self.ask(5, "GET", f"/v1/build/{build['id']}")
            if shown["status"] != "PENDING":
                break
            time.sleep(0.05)
        assert shown["status"] == "SUCCESS"
        return str(function_id)

    def open_stream(self, place: int) -> NodeStream:
        """Open the node's stream on a connection that is then its own."""
        connection = self.tenancy.connections[place]
        path = f"/v1/node/{self.node_id}/work"
        connection.send("GET", path, Authorization=f"Bearer {self.secret}")
        answer = connection.http.getresponse()
        assert answer.status == 200
        return NodeStream(connection, answer)


def test_function_tasks_with_node_and_client_at_any_process(tenancy: Tenancy) -> None:
    work = Workplace(tenancy, 0)
    function_id = work.function()
    status, _ = work.ask(1, "POST", f"/v1/node/{work.node_id}", {"languages": ["JS"], "slots": 20})
    assert status == 201
    stream = work.open_stream(11)
    assert stream.order("hello")["bodyLimitBytes"]
    for place in range(6):
        status, made = work.ask(place, "POST", f"/v1/task/{function_id}", {"a": place})
        assert status == 201, made
        task = stream.order("run")["task"]
        assert task["id"] == made["id"]
        status, assigned = work.ask(
            (place + 1) % 6, "POST", f"/v1/node/{work.node_id}/assign", task
        )
        assert (status, assigned["functionId"]) == (201, function_id)
        build_path = f"/v1/build/{assigned['buildId']}/archive"
        assert work.ask((place + 2) % 6, "GET", build_path) == (200, PACKAGE)
        report = {"running": [task]}
        status, told = work.ask(place, "POST", f"/v1/node/{work.node_id}/report", report)
        assert (status, told["stop"]) == (200, [])
        # Who waits for the result is connected somewhere else than who sends it.
        waiting = tenancy.connections[6 + place % 4]
        path = f"/v1/task/{made['id']}/result?wait=30"
        waiting.send("GET", path, Authorization=f"Bearer {work.secret}")
        result = f"/v1/node/{work.node_id}/result/{task['id']}/{task['counter']}"
        status, _ = work.ask(
            (place + 3) % 6,
            "POST",
            result,
            b'{"b": 1}',
            Troth_Status="200",
            Troth_Headers="W1siQ29udGVudC1UeXBlIiwgImFwcGxpY2F0aW9uL2pzb24iXV0=",
        )
        assert status == 201
        assert waiting.receive()[:2] == (200, {"b": 1})
    status, rows = work.ask(2, "GET", "/v1/task/list")
    assert (status, len(rows)) == (200, 6)


def test_a_canceled_task_is_told_to_its_node(tenancy: Tenancy) -> None:
    work = Workplace(tenancy, 1)
    function_id = work.function()
    body = {"languages": ["JS"], "slots": 1}
    assert work.ask(2, "POST", f"/v1/node/{work.node_id}", body)[0] == 201
    stream = work.open_stream(10)
    for place in range(4):  # there is one slot, so each end was heard
        _, made = work.ask(place, "POST", f"/v1/task/{function_id}")
        task = stream.order("run")["task"]
        status, _ = work.ask(place + 1, "POST", f"/v1/node/{work.node_id}/assign", task)
        assert status == 201
        assert work.ask(place + 2, "DELETE", f"/v1/task/{made['id']}")[0] == 204
        assert stream.order("cancel")["task"] == task


def test_a_stream_of_a_node_ends_with_its_token(tenancy: Tenancy) -> None:
    work = Workplace(tenancy, 2)
    assert work.ask(2, "POST", f"/v1/node/{work.node_id}", {"languages": ["JS"]})[0] == 201
    stream = work.open_stream(9)
    stream.order("hello")
    assert tenancy.admin(1, "DELETE", f"/admin/tokens/{work.token_id}")[0] == 204
    with pytest.raises(AssertionError, match="has ended"):
        stream.order("run")


def test_a_bulk_job_begun_through_any_process(tenancy: Tenancy) -> None:
    work = Workplace(tenancy, 0)
    for place in range(4):
        prefix = f"bulk-{secrets.token_hex(4)}"
        for number in range(24):
            body = {"id": f"{prefix}-{number}x", "timeout": 4_102_444_800_000}
            assert work.ask(number % 8, "POST", "/promises", body)[0] == 201
        job = {"action": "cancel", "filter": {"id": f"{prefix}*"}}
        status, made = work.ask(place, "POST", "/bulk", job)
        assert status == 201, made
        for _ in range(600):
            status, shown = work.ask(place + 1, "GET", f"/bulk/{made['id']}")
            if shown["state"] != "running":
                break
            time.sleep(0.05)
        assert (shown["state"], shown["done"]) == ("finished", 24), shown
        for number in range(24):
            _, promise = work.ask(number % 8, "GET", f"/promises/{prefix}-{number}x")
            assert promise["state"] == "REJECTED_CANCELED"


def test_a_connection_that_closes_ends_a_stream_at_its_home(tenancy: Tenancy) -> None:
    """A node that comes again is given what it was given before."""
    work = Workplace(tenancy, 2)
    function_id = work.function()
    assert work.ask(2, "POST", f"/v1/node/{work.node_id}", {"languages": ["JS"]})[0] == 201
    for _ in range(4):
        with closing(Connection(tenancy.server).http) as http:
            path = f"/v1/node/{work.node_id}/work"
            http.request("GET", path, headers={"Authorization": f"Bearer {work.secret}"})
            assert http.getresponse().status == 200
    _, made = work.ask(0, "POST", f"/v1/task/{function_id}")
    stream = work.open_stream(8)
    assert stream.order("run")["task"]["id"] == made["id"]
