"""A node's life: registration, its stream, leases, interruptions, and its end."""

import contextlib
import hashlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .fake_server import TOKEN, WAIT_S, Code, FakeServer, python, wait_until
from .node_process import MODES, NodeProcess

pytestmark = pytest.mark.slow

GOOD = python("def handle(request):\n    return 'well'\n")
SLOW = python(
    "import time\ndef handle(request):\n    time.sleep(float(request.Body))\n    return 'done'\n"
)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server of the test's own."""
    with FakeServer() as fake:
        yield fake


@contextlib.contextmanager
def running(directory: Path, server: FakeServer, *arguments: str) -> Iterator[NodeProcess]:
    """A node that is connected."""
    with NodeProcess(directory / "node", server, *arguments) as node:
        assert server.connected.wait(WAIT_S), node.log()
        yield node


def test_it_registers_what_it_was_told(tmp_path: Path, server: FakeServer) -> None:
    arguments = (
        *("--slots", "3", "--cpu", "5", "--memory", "77", "--latency", "9"),
        *("--privileged", "--shared", "--description", "in the cellar"),
    )
    with running(tmp_path, server, *arguments):
        assert server.registrations == [
            {
                "description": "in the cellar",
                "languages": ["PY", "JS"],
                "cpuCount": 5,
                "memSize": 77,
                "networkLatency": 9,
                "privileged": True,
                "slots": 3,
                "shared": True,
            }
        ]


def test_it_is_the_same_node_after_a_restart(tmp_path: Path, server: FakeServer) -> None:
    with running(tmp_path, server) as node:
        assert server.run(GOOD).body == b"well"
        first = (tmp_path / "node" / "node-id").read_text()
        node.signal(signal.SIGTERM)
        assert node.wait() == 0
        server.connected.clear()
        node.start()
        assert server.connected.wait(WAIT_S)

        assert str(uuid.UUID(first.strip())) in node.log()
        assert (tmp_path / "node" / "node-id").read_text() == first
        assert server.run(GOOD).body == b"well"
        assert server.fetched_count == 1


def test_a_directory_has_one_node(tmp_path: Path, server: FakeServer) -> None:
    with running(tmp_path, server) as node:
        second = NodeProcess(node.directory, server)
        second.log_path = tmp_path / "second.log"
        with second:
            assert second.wait() == 1
            assert "another node uses the directory" in second.log()


def test_a_wrong_token_ends_it_with_a_word(tmp_path: Path, server: FakeServer) -> None:
    node = NodeProcess(tmp_path / "node", server, token="troth_another-token-of-the-tests")
    node.start()

    assert node.wait() == 1
    assert "refuses this node: 401" in node.log()
    assert "Is the token right" in node.log()
    assert "another-token" not in node.log()


def test_a_token_without_the_scope_ends_it_with_a_word(tmp_path: Path, server: FakeServer) -> None:
    server.refuse["work"] = 403
    node = NodeProcess(tmp_path / "node", server)
    node.start()

    assert node.wait() == 1
    assert "scope `node`" in node.log()


def test_it_waits_for_a_server_that_is_not_there(tmp_path: Path, server: FakeServer) -> None:
    server.go_away()
    with NodeProcess(tmp_path / "node", server) as node:
        wait_until(lambda: "not connected" in node.log())
        server.start()
        assert server.connected.wait(WAIT_S)
        assert server.run(GOOD).body == b"well"


def test_a_running_task_survives_a_restart_of_the_server(
    tmp_path: Path, server: FakeServer
) -> None:
    with running(tmp_path, server):
        task = server.offer(SLOW, b"2")
        assert task.assigned.wait(WAIT_S)
        server.go_away()
        server.start()
        assert server.connected.wait(WAIT_S)

        assert task.wait().body == b"done"
        assert len(server.registrations) == 2
        assert server.run(GOOD).body == b"well"


def test_a_result_is_sent_until_it_is_taken(tmp_path: Path, server: FakeServer) -> None:
    server.refuse["result"] = 503
    with running(tmp_path, server) as node:
        task = server.offer(GOOD)
        wait_until(lambda: "asking again" in node.events())
        assert not task.finished.is_set()
        del server.refuse["result"]

        assert task.wait().body == b"well"


def test_a_result_that_is_refused_is_forgotten(tmp_path: Path, server: FakeServer) -> None:
    server.refuse["result"] = 409
    with running(tmp_path, server) as node:
        server.offer(GOOD)
        wait_until(lambda: "a result was not taken" in node.events())
        del server.refuse["result"]

        assert server.run(GOOD).body == b"well"


def test_a_task_that_is_not_assigned_is_forgotten(tmp_path: Path, server: FakeServer) -> None:
    server.refuse["assign"] = 409
    with running(tmp_path, server):
        task = server.offer(GOOD)
        wait_until(lambda: server.refused == ["assign"])
        server.refuse.clear()

        assert server.run(GOOD).body == b"well"
        assert not task.assigned.is_set()


def test_a_lost_lease_ends_the_task(tmp_path: Path, server: FakeServer) -> None:
    server.lease_ms = 2_000
    with running(tmp_path, server) as node:
        task = server.offer(SLOW, b"60", timeout_s=100)
        assert task.assigned.wait(WAIT_S)
        server.refuse["report"] = 503
        wait_until(lambda: "its lease has run out" in node.log())
        del server.refuse["report"]

        assert server.run(GOOD).body == b"well"
        assert not task.finished.is_set()
        assert not task.returned.is_set()


@pytest.mark.parametrize("way", ["cancel", "stop"])
def test_a_canceled_task_ends(tmp_path: Path, server: FakeServer, way: str) -> None:
    with running(tmp_path, server) as node:
        task = server.offer(SLOW, b"60", timeout_s=100)
        assert task.assigned.wait(WAIT_S)
        if way == "cancel":
            server.send({"type": "cancel", "task": task.key})
        else:
            server.stop.append(task.key)
        wait_until(lambda: "a task is ended" in node.events())
        server.stop.clear()

        assert server.run(GOOD).body == b"well"
        assert not task.finished.is_set()


def test_it_runs_no_more_than_its_slots(tmp_path: Path, server: FakeServer) -> None:
    timed = python(
        "import time\n"
        "def handle(request):\n"
        "    begun = time.monotonic()\n"
        "    time.sleep(0.3)\n"
        "    return [begun, time.monotonic()]\n"
    )
    with running(tmp_path, server, "--slots", "2"):
        tasks = [server.offer(timed) for _ in range(5)]
        spans = [task.wait().json() for task in tasks]
    running_counts = [sum(begun <= moment < ended for begun, ended in spans) for moment, _ in spans]
    assert max(running_counts) == 2


def test_the_next_task_does_not_wait_until_the_result_is_taken(
    tmp_path: Path, server: FakeServer
) -> None:
    server.refuse["result"] = 503
    with running(tmp_path, server):
        first, second = [server.offer(GOOD) for _ in range(2)]
        assert second.assigned.wait(WAIT_S)
        assert not first.finished.is_set()
        server.refuse.clear()
        assert first.wait().body == second.wait().body == b"well"


def test_code_is_fetched_until_the_server_gives_it(tmp_path: Path, server: FakeServer) -> None:
    server.refuse["archive"] = 503
    with running(tmp_path, server):
        task = server.offer(GOOD)
        wait_until(lambda: "archive" in server.refused)
        server.refuse.clear()
        assert task.wait().body == b"well"


def test_requests_about_tasks_have_connections_of_their_own(
    tmp_path: Path, server: FakeServer
) -> None:
    large = python("def handle(request):\n    return 'x' * 1_000_000\n")
    with running(tmp_path, server):
        for code in (GOOD, large, GOOD):
            server.run(code)
    node = next(path for _, path in server.asked)
    large_result = f"{node}/result/{2:024x}/1"
    small = ("/exchange", "/report")
    quick, slow = set(), []
    for connection, path in server.asked:
        if path != large_result and any(part in path for part in small):
            quick.add(connection)
        else:
            slow.append(connection)
    # Registered, fetched code twice, sent a large result: each on a connection of its own.
    assert len(slow) == len(set(slow)) == 4
    assert not quick.intersection(slow)
    assert len(quick) <= 2


def test_sigterm_lets_tasks_finish(tmp_path: Path, server: FakeServer) -> None:
    with running(tmp_path, server) as node:
        task = server.offer(SLOW, b"1")
        assert task.assigned.wait(WAIT_S)
        node.signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in node.events())
        late = server.offer(GOOD)

        assert node.wait() == 0
        assert task.wait().body == b"done"
        assert not late.assigned.is_set()
        assert node.function_processes() == []
        assert [*(node.directory / "run").iterdir()] == []


@pytest.mark.parametrize("signals_count", [1, 2])
def test_what_does_not_finish_is_given_back(
    tmp_path: Path, server: FakeServer, signals_count: int
) -> None:
    grace = "300ms" if signals_count == 1 else "60s"
    with running(tmp_path, server, "--grace", grace) as node:
        task = server.offer(SLOW, b"60", timeout_s=100)
        assert task.assigned.wait(WAIT_S)
        for _ in range(signals_count):
            node.signal(signal.SIGTERM)
            wait_until(lambda: "stopping" in node.events())

        assert node.wait() == 0
        assert task.returned.is_set()
        assert not task.finished.is_set()
        assert node.function_processes() == []


@pytest.mark.parametrize("mode", MODES)
def test_functions_do_not_outlive_a_node_that_is_killed(
    tmp_path: Path, server: FakeServer, mode: str
) -> None:
    code = python(
        "import os, time\ndef handle(request):\n"
        "    if os.fork() == 0:\n        os.setsid()\n"
        "    print('forked', flush=True)\n    time.sleep(600)\n"
    )
    with NodeProcess(tmp_path / "node", server, mode=mode) as node:
        assert server.connected.wait(WAIT_S), node.log()
        server.offer(code, timeout_s=100)
        wait_until(lambda: len(node.function_processes()) >= 3)
        node.signal(signal.SIGKILL)
        node.wait()
        # The zygote and the execution end with it, by the kernel; the child, by the guard.
        wait_until(lambda: node.function_processes() == [])
        server.connected.clear()
        node.start()
        assert server.connected.wait(WAIT_S)

        wait_until(lambda: node.function_processes() == [])
        assert server.run(GOOD).body == b"well"


@pytest.mark.parametrize("mode", MODES)
def test_a_node_that_is_started_at_once_after_a_kill_finds_nothing_left(
    tmp_path: Path, server: FakeServer, mode: str
) -> None:
    code = python(
        "import os, subprocess, time\ndef handle(request):\n"
        "    for _ in range(5):\n"
        "        subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "    time.sleep(600)\n"
    )
    with NodeProcess(tmp_path / "node", server, mode=mode) as node:
        assert server.connected.wait(WAIT_S), node.log()
        server.offer(code, timeout_s=100)
        wait_until(lambda: len(node.function_processes()) >= 7)
        # All of its group, as a shell does that is closed.
        os.killpg(node.process_id, signal.SIGKILL)
        node.wait()
        server.connected.clear()
        node.start()
        assert server.connected.wait(WAIT_S), node.log()

        assert node.function_processes() == []
        assert server.run(GOOD).body == b"well"


def test_code_that_is_not_what_was_announced_is_not_run(tmp_path: Path, server: FakeServer) -> None:
    class Changed(Code):
        @property
        def digest(self) -> str:
            return hashlib.sha256(b"another").hexdigest()

    with running(tmp_path, server):
        task = server.run(Changed(GOOD.archive))

        assert (task.status, task.json()["error"]["type"]) == (500, "BadCode")
        assert server.run(Code(b"no zip")).json()["error"]["type"] == "BadCode"
        assert server.run(GOOD).body == b"well"


def test_a_server_that_takes_no_large_results_gets_an_error(
    tmp_path: Path, server: FakeServer
) -> None:
    server.result_limit_bytes = 1_000
    with running(tmp_path, server):
        task = server.run(python("def handle(request):\n    return 'x' * 1001\n"))

        assert (task.status, task.json()["error"]["type"]) == (500, "ResultTooLarge")


def test_without_node_js_it_offers_python_only(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with running(tmp_path, server):
        assert server.registrations[0]["languages"] == ["PY"]


def test_the_token_is_in_no_file_and_no_argument(tmp_path: Path, server: FakeServer) -> None:
    with running(tmp_path, server) as node:
        server.run(GOOD)
        inside = [path for path in node.directory.rglob("*") if path.is_file()]
        assert inside
        assert not any(TOKEN.encode() in path.read_bytes() for path in inside)
        everywhere = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout
        assert TOKEN.encode() not in everywhere
        assert TOKEN not in node.log()


def test_two_nodes_of_root_do_not_share_users(tmp_path: Path, server: FakeServer) -> None:
    with running(tmp_path, server), NodeProcess(tmp_path / "second", server) as second:
        if os.geteuid() == 0:
            assert second.wait() == 1
            assert "--uid-base" in second.log()
        else:
            wait_until(lambda: len(server.registrations) == 2)


def test_a_task_that_comes_along_with_an_answer_is_carried_out(
    tmp_path: Path, server: FakeServer
) -> None:
    with running(tmp_path, server):
        along = [server.offer(GOOD, along=True) for _ in range(3)]
        assert server.run(GOOD).body == b"well"
        for task in along:
            assert task.wait().body == b"well"
        ends = {path.rsplit("/", 1)[-1] for _, path in server.asked}
        assert "assign" not in ends
        assert "result" not in {path.split("/")[-3] for _, path in server.asked}


def test_a_task_that_is_canceled_before_its_answer_comes_is_not_begun(
    tmp_path: Path, server: FakeServer
) -> None:
    with running(tmp_path, server):
        task = server.offer(SLOW, b"0", along=True)
        answer = server.answer

        def cancel_first(method: str, path: str, *more: Any) -> tuple[int, bytes]:
            status, content = answer(method, path, *more)
            if path.endswith("/exchange") and task.assigned.is_set() and not told:
                told.append(task.id)
                server.send({"type": "cancel", "task": task.key})
                # Time for the node to read it; otherwise the task is ended while it runs.
                time.sleep(0.5)
            return status, content

        told: list[str] = []
        server.answer = cancel_first  # type: ignore[assignment, method-assign]
        assert server.run(GOOD).body == b"well"
        assert server.run(GOOD).body == b"well"
        assert told == [task.id]
        assert not task.finished.is_set()


def test_a_stopping_node_has_no_room(tmp_path: Path, server: FakeServer) -> None:
    with running(tmp_path, server) as node:
        task = server.offer(SLOW, b"1")
        assert task.assigned.wait(WAIT_S)
        node.signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in node.events())
        along = server.offer(GOOD, along=True)
        assert task.wait().body == b"done"
        assert node.wait() == 0
        assert server.given == [along]


def test_a_server_without_exchanges_is_asked_one_by_one(tmp_path: Path, server: FakeServer) -> None:
    server.exchange_version = 0
    with running(tmp_path, server):
        tasks = [server.offer(GOOD) for _ in range(3)]
        for task in tasks:
            assert task.wait().body == b"well"
        asked = [path for _, path in server.asked]
        assert not any(path.endswith("/exchange") for path in asked)
        assert sum(path.endswith("/assign") for path in asked) == len(tasks)
