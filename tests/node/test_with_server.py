"""A node with a real server: functions from upload to result, over restarts of either."""

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.server import ServerProcess
from tests.helpers.tokens import Client
from tests.helpers.users import UID_BASE

from .fake_server import Code, javascript, python, wait_until
from .node_process import NodeProcess

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Functions:
    """An account on a server, with a node of its own."""

    server: ServerProcess
    client: Client
    directory: Path

    def node(self, name: str, *arguments: str) -> NodeProcess:
        """A node of the account, not started yet; each has users of its own."""
        uid_base = UID_BASE + 1_000 * (int(name) if name.isdecimal() else 0)
        directory = self.directory / f"node-{name}"
        more = ("--uid-base", str(uid_base), *arguments)
        return NodeProcess(directory, self.server, *more, token=self.client.secret)

    def function(self, code: Code, **capabilities: Any) -> str:
        """Create a function of some code; its id."""
        body = {"name": "f", "type": "CODE", "lang": code.language, "capabilities": capabilities}
        function_id = self.client.json("POST", "/v1/function", body)["id"]
        build_id = self.client.build(function_id, code.archive)
        assert self.client.checked(build_id)["status"] == "SUCCESS"
        return str(function_id)

    def create(self, function_id: str, body: bytes = b"") -> str:
        """Create a task; its id."""
        status, answer = self.client.send("POST", f"/v1/task/{function_id}", raw=body)
        assert status == 201, answer
        return str(json.loads(answer)["id"])

    def result(self, task_id: str) -> tuple[int, bytes]:
        """Wait for a task's result: status and body."""
        return self.client.send("GET", f"/v1/task/{task_id}/result?wait=60")

    def task(self, task_id: str) -> Any:
        """What the server says about a task."""
        return self.client.json("GET", f"/v1/task/{task_id}")

    def connected(self) -> list[Any]:
        """The nodes that can be given tasks."""
        return [one for one in self.client.json("GET", "/v1/node/list") if one["available"]]


def operator_of(server: ServerProcess) -> Client:
    """Whoever runs a server."""
    return Client(server, (server.data / "admin.key").read_text().strip())


@pytest.fixture
def functions(server: ServerProcess, tmp_path: Path) -> Functions:
    """An account on a server of the test's own."""
    return functions_of(server, tmp_path)


def functions_of(server: ServerProcess, directory: Path) -> Functions:
    """An account on a server that has none yet; its nodes are in a directory."""
    operator = operator_of(server)
    operator.json("POST", "/admin/accounts", {"name": "a"})
    kinds = ("functions:read", "functions:write", "tasks:read", "tasks:write", "node")
    made = operator.json("POST", "/admin/tokens", {"account": "a", "scopes": kinds})
    return Functions(server, Client(server, made["token"]), directory)


ECHO = python("def handle(request):\n    return {'Body': request.Body, 'StatusCode': 202}\n")
SLOW = python(
    "import time\ndef handle(request):\n    time.sleep(float(request.Body))\n    return 'done'\n"
)


@pytest.mark.newest
def test_functions_run_from_upload_to_result(functions: Functions) -> None:
    echo = functions.function(ECHO)
    script = functions.function(javascript("exports.handle = (r) => ({got: r.Query})"))
    broken = functions.function(python("def handle(request):\n    raise ValueError('bad luck')\n"))
    loop = functions.function(python("def handle(request):\n    while True: pass\n"), timeout=10)
    with functions.node("0", "--slots", "2") as node:
        # Before there is a node: it waits.
        first = functions.create(echo, b"early")
        assert functions.result(first) == (202, b"early"), node.log()

        looping = functions.create(loop)
        assert functions.result(functions.create(script))[1] == b'{"got":{}}'
        status, body = functions.result(functions.create(broken))
        assert (status, json.loads(body)["error"]) == (
            500,
            {"type": "ValueError", "message": "bad luck"},
        )
        assert functions.result(looping)[0] == 504
        finished = functions.task(first)
        assert finished["progress"] == 100
        assert finished["node"] in node.log()


def test_a_server_that_is_killed_gets_the_result_afterwards(functions: Functions) -> None:
    slow = functions.function(SLOW)
    with functions.node("0"):
        task = functions.create(slow, b"4")
        wait_until(lambda: functions.task(task)["node"] != "")
        functions.server.restart()

        assert functions.result(task) == (200, b"done")


def test_another_node_takes_over_from_one_that_is_killed(functions: Functions) -> None:
    slow = functions.function(SLOW, timeout=60)
    with functions.node("0") as first, functions.node("1") as second:
        wait_until(lambda: len(functions.connected()) == 2)
        task = functions.create(slow, b"1.5")
        wait_until(lambda: functions.task(task)["node"] != "")
        holder = functions.task(task)["node"]
        victim, other = (first, second) if holder in first.log() else (second, first)
        victim.signal(signal.SIGKILL)

        wait_until(lambda: functions.task(task)["finished"] != "")
        assert functions.result(task) == (200, b"done")
        assert functions.task(task)["node"] in other.log()


def test_a_node_that_stops_gives_its_task_to_another_at_once(functions: Functions) -> None:
    slow = functions.function(SLOW, timeout=60)
    with functions.node("0", "--grace", "100ms") as first:
        task = functions.create(slow, b"3")
        wait_until(lambda: functions.task(task)["node"] != "")
        with functions.node("1"):
            wait_until(lambda: len(functions.connected()) == 2)
            first.signal(signal.SIGTERM)
            assert first.wait() == 0

            assert functions.result(task) == (200, b"done")


def test_a_canceled_task_ends_on_its_node(functions: Functions) -> None:
    slow = functions.function(SLOW, timeout=60)
    with functions.node("0") as node:
        task = functions.create(slow, b"60")
        wait_until(lambda: functions.task(task)["node"] != "")
        assert functions.client.send("DELETE", f"/v1/task/{task}")[0] < 300
        wait_until(lambda: "a task is ended" in node.events())

        assert functions.result(functions.create(slow, b"0")) == (200, b"done")


def test_a_revoked_token_ends_the_node(functions: Functions) -> None:
    operator = operator_of(functions.server)
    with functions.node("0") as node:
        wait_until(lambda: len(functions.connected()) == 1)
        (account,) = operator.json("GET", "/admin/accounts")
        operator.json("PATCH", f"/admin/accounts/{account['id']}", {"disabled": True})

        assert node.wait() == 1
        assert "refuses this node: 401" in node.log()
