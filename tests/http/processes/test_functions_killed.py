"""Process 0, which places all function tasks, is killed while a node works on them.

What runs goes on, and what waits is placed again: none is lost, and none runs twice, since the node
lives. It is full at all times, so a placement that forgot what it has would give it too much.
"""

import json
import os
import queue
import secrets
import signal
import threading
import time
from collections import Counter
from contextlib import closing
from typing import Any, Final

from tests.http.processes.tenancy import Connection, Tenancy

from .test_ends_of_processes import is_ready, process_ids, until
from .test_functions_of_processes import NodeStream, Workplace

SLOTS_COUNT: Final = 3
TASKS_COUNT: Final = 24
RUN_S: Final = 0.3
REPORT_S: Final = 1.0
PAUSE_S: Final = 0.05
LONG_S: Final = 90.0


class Node:
    """A node that runs tasks, and connects again whenever its stream has ended."""

    def __init__(self, work: Workplace) -> None:
        self._work = work
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self.runs: Counter[str] = Counter()
        """How often each task was run, by its id."""
        self.running: dict[tuple[str, int], Any] = {}
        self.most_count = self._busy_count = 0
        self.streams_count = 0
        self.problems: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=act) for act in (self._listen, self._report)]

    def __enter__(self) -> "Node":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        tenancy = self._work.tenancy
        connection = Connection(tenancy.server)
        with closing(connection.http):  # its stream ends with its token
            path = f"/admin/tokens/{self._work.token_id}"
            connection.ask("DELETE", path, Authorization=f"Bearer {tenancy.key}")
        for thread in self._threads:
            thread.join(LONG_S)

    def ask(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        """Ask for as long as it takes; 503 and lost connections are passing."""
        ends_s = time.monotonic() + LONG_S
        while time.monotonic() < ends_s:
            try:
                with closing(Connection(self._work.tenancy.server).http) as http:
                    sent = body if isinstance(body, bytes) else json.dumps(body)
                    named = {name.replace("_", "-"): text for name, text in headers.items()}
                    authorization = {"Authorization": f"Bearer {self._work.secret}"}
                    kind = {"Content-Type": "application/json"}
                    http.request("POST", path, sent, {**kind, **authorization, **named})
                    answer = http.getresponse()
                    content = answer.read()
                    if answer.status != 503:
                        return answer.status, json.loads(content) if content else None
            except OSError:
                pass  # it was connected to the one that was killed
            time.sleep(PAUSE_S)
        raise AssertionError(f"asked {path} in vain")

    def _listen(self) -> None:
        while not self._is_over.is_set():
            try:
                self._take_orders()
            except (OSError, AssertionError):
                time.sleep(PAUSE_S)

    def _take_orders(self) -> None:
        work = self._work
        connection = Connection(work.tenancy.server)
        with closing(connection.http):
            path = f"/v1/node/{work.node_id}/work"
            connection.send("GET", path, Authorization=f"Bearer {work.secret}")
            answer = connection.http.getresponse()
            if answer.status != 200:
                raise OSError(answer.status)
            self.streams_count += 1
            stream = NodeStream(connection, answer)
            while not self._is_over.is_set():
                task = stream.order("run")["task"]
                threading.Thread(target=self._run, args=(task,)).start()

    def _run(self, task: Any) -> None:
        key = task["id"], task["counter"]
        status, body = self.ask(f"/v1/node/{self._work.node_id}/assign", task)
        if status != 201:
            return  # it was given to this node again, or has ended
        with self._lock:
            if key in self.running:
                return
            self.running[key] = task
            self.runs[task["id"]] += 1
            self._busy_count += 1
            self.most_count = max(self.most_count, self._busy_count)
        time.sleep(RUN_S)
        with self._lock:
            self._busy_count -= 1
        result = f"/v1/node/{self._work.node_id}/result/{task['id']}/{task['counter']}"
        headers = {
            "Troth_Status": "200",
            "Troth_Headers": "W1siQ29udGVudC1UeXBlIiwgImFwcGxpY2F0aW9uL2pzb24iXV0=",
        }
        status, body = self.ask(result, json.dumps({"id": task["id"]}).encode(), **headers)
        if status not in (200, 201):
            self.problems.put(f"{task}: {status} {body}")
        with self._lock:
            del self.running[key]

    def _report(self) -> None:
        while not self._is_over.wait(REPORT_S):
            with self._lock:
                running = list(self.running.values())
            self.ask(f"/v1/node/{self._work.node_id}/report", {"running": running})


def test_what_runs_goes_on_when_process_0_is_killed(tenancy: Tenancy) -> None:
    server = tenancy.server
    work = Workplace(tenancy, 0)
    function_id = work.function()
    body = {"languages": ["JS"], "slots": SLOTS_COUNT}
    assert work.ask(1, "POST", f"/v1/node/{work.node_id}", body)[0] == 201
    with Node(work) as node:
        ids = []
        for number in range(TASKS_COUNT):
            if number in (TASKS_COUNT // 3, 2 * TASKS_COUNT // 3):
                until(lambda: len(node.running) == SLOTS_COUNT, "the node is full")
                os.kill(process_ids(server)[0], signal.SIGKILL)
            status, made = node.ask(
                f"/v1/task/{function_id}", {}, Idempotency_Key=secrets.token_hex(8)
            )
            assert status in (200, 201), made
            ids.append(made["id"])
        until(lambda: is_ready(server), "all are ready")
        until(lambda: len(node.runs) == TASKS_COUNT and not node.running, "all have run")
        with closing(Connection(server).http) as http:
            for one in ids:
                headers = {"Authorization": f"Bearer {work.secret}"}
                http.request("GET", f"/v1/task/{one}/result?wait=10", headers=headers)
                answer = http.getresponse()
                assert (answer.status, json.loads(answer.read())) == (200, {"id": one})
    assert node.problems.empty(), node.problems.get()
    assert set(node.runs) == set(ids)
    assert set(node.runs.values()) == {1}, node.runs
    assert node.most_count <= SLOTS_COUNT
    assert node.streams_count >= 2  # the second may be killed before the node is back
