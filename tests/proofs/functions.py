"""Proof: every function task ends exactly once, though nodes and the server are killed.

    python -m tests.proofs.functions --tasks 1000 --nodes 4 --seed 1

Real nodes run a Python function that leaves a mark outside before it answers. Meanwhile half of the
nodes are killed with `kill -9`, and so is the server, which starts again on its directory. In the
end every task has ended once, with its own result, which never changes; and no function has run
more often than the kills explain: at most every slot of a killed node, and every task that was in
flight when the server was killed.

The mark is a datagram to a socket of the proof with an abstract name: it has arrived when the call
returns, whatever becomes of the sender then, and tasks need no file of the machine's for it, since
nodes give them private ones.
"""

import argparse
import collections
import itertools
import queue
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, Self

from tests.helpers.server import ServerProcess

from .functions_setup import (
    Caller,
    Crowd,
    NodeProcess,
    make_account,
    running_nodes,
)

SLOTS_COUNT: Final = 2
CREATORS_COUNT: Final = 3
WAITERS_COUNT: Final = 6
BACKLOG_COUNT: Final = 40
"""No more are created than so many that have not ended, so that kills fall between creates too."""
PAGE_COUNT: Final = 200
DURATION_S: Final = 600.0
HANDLER: Final = """
import json, os, socket, time

marks = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

def handle(request):
    task = json.loads(request.Body)
    run = os.urandom(8).hex()
    marks.sendto(f"{request.TaskId} {run}".encode(), "\\x00MARKS")
    time.sleep(task["sleep_ms"] / 1000)
    body = {"n": task["n"], "square": task["n"] ** 2, "run": run}
    return {"StatusCode": 200 + task["n"] % 2, "Body": body}
"""


class Marks:
    """What functions have left behind: for each execution its task, and a random word."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("")  # the kernel chooses an abstract name
        self.name: str = self._socket.getsockname()[1:].decode()
        self.runs: dict[str, list[str]] = collections.defaultdict(list)
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", f"\0{self.name}")
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while (mark := self._socket.recv(200)) != b"end":
            task_id, run = mark.decode().split()
            self.runs[task_id].append(run)

    @property
    def count(self) -> int:
        """How many executions there were."""
        return sum(len(runs) for runs in list(self.runs.values()))


@dataclass(slots=True)
class Report:
    """What a proof has seen."""

    tasks_count: int = 0
    executions_count: int = 0
    explained_count: int = 0
    results_before_kills_count: int = 0
    node_kills_count: int = 0
    server_kills_count: int = 0
    repeated_creates_count: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        """All numbers on one line."""
        numbers = {name: getattr(self, name) for name in self.__slots__}
        return ", ".join(f"{name} {number:.4g}" for name, number in numbers.items())


@dataclass
class Proof:
    """One run of tasks through nodes and kills. Everything random follows from `seed`."""

    directory: Path
    seed: int
    tasks_count: int
    nodes_count: int
    killed_nodes_count: int
    say: Callable[[str], object] = print
    report: Report = field(default_factory=Report)
    _made: dict[int, str] = field(default_factory=dict)
    _ended: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> Report:
        """Run it all. Raises AssertionError for whatever is wrong."""
        random = Random(self.seed)
        begun = time.monotonic()
        with (
            Marks() as marks,
            ServerProcess(self.directory) as server,
            make_account(server, "proof") as owner,
        ):
            function_id = owner.function({"handler.py": HANDLER.replace("MARKS", marks.name)})
            with running_nodes(self.directory, owner, self.nodes_count, SLOTS_COUNT) as nodes:
                crowd = self._start(owner, function_id, random)
                self._kill(server, nodes, owner, crowd, random)
                crowd.join(DURATION_S)
                self._verify(owner, marks)
                self._stop(nodes)
        self.report.seconds = time.monotonic() - begun
        return self.report

    # --- the load ---------------------------------------------------------------------------------

    def _start(self, owner: Caller, function_id: str, random: Random) -> Crowd:
        """Create all tasks, and wait for their results, over several connections."""
        plan = [(n, {"n": n, "sleep_ms": random.randrange(60)}) for n in range(self.tasks_count)]
        numbers = iter(plan)
        waiting: queue.Queue[int | None] = queue.Queue()
        creators = itertools.count(1)

        def create() -> None:
            with Caller(owner.url, owner.secret) as caller:
                while (task := self._next(numbers)) is not None:
                    number, body = task
                    while len(self._made) > len(self._ended) + BACKLOG_COUNT:
                        time.sleep(0.01)
                    self._create(caller, f"/v1/task/{function_id}", number, body)
                    waiting.put(number)
            if next(creators) == CREATORS_COUNT:
                for _ in range(WAITERS_COUNT):
                    waiting.put(None)

        def wait() -> None:
            with Caller(owner.url, owner.secret) as caller:
                while (number := waiting.get()) is not None:
                    self._wait(caller, number)

        crowd = Crowd()
        crowd.start(create, CREATORS_COUNT)
        crowd.start(wait, WAITERS_COUNT)
        return crowd

    def _next(
        self, numbers: Iterator[tuple[int, dict[str, int]]]
    ) -> tuple[int, dict[str, int]] | None:
        with self._lock:
            return next(numbers, None)

    def _create(self, caller: Caller, path: str, number: int, body: dict[str, int]) -> None:
        answer = caller.insist("POST", path, body, {"Idempotency-Key": f"key-{number}"})
        assert answer.status in {200, 201}, answer
        if number % 10 == 0:
            again = caller.insist("POST", path, body, {"Idempotency-Key": f"key-{number}"})
            assert (again.status, again.json) == (200, answer.json)
        with self._lock:
            self.report.repeated_creates_count += answer.status == 200
            self._made[number] = answer.json["id"]

    def _wait(self, caller: Caller, number: int) -> None:
        deadline = time.monotonic() + DURATION_S
        while time.monotonic() < deadline:
            answer = caller.insist("GET", f"/v1/task/{self._made[number]}/result?wait=20")
            if answer.status != 404:
                self._ended[number] = (answer.status, answer.body)
                return
            assert answer.json["error"]["code"] == 40418, answer
        raise AssertionError(f"task {number} does not end")

    # --- the kills --------------------------------------------------------------------------------

    def _kill(
        self,
        server: ServerProcess,
        nodes: list[NodeProcess],
        owner: Caller,
        crowd: Crowd,
        random: Random,
    ) -> None:
        """Kill nodes and the server, each when a share of the tasks has ended."""
        doomed = random.sample(nodes, self.killed_nodes_count)
        turns: list[NodeProcess | None] = [*doomed, None]
        random.shuffle(turns)
        shares = sorted(random.uniform(0.1, 0.7) for _ in turns)
        for share, victim in zip(shares, turns, strict=True):
            while len(self._ended) < share * self.tasks_count and not crowd.has_failed:
                time.sleep(0.002)
            if victim is not None:
                self.say(f"{len(self._ended)} tasks have ended: a node is killed")
                victim.kill9()
                self.report.node_kills_count += 1
                self.report.explained_count += SLOTS_COUNT
                continue
            self.report.results_before_kills_count = len(self._ended)
            self.say(f"{len(self._ended)} tasks have ended: the server is killed")
            server.restart()
            owner.close()
            self.report.server_kills_count += 1
            self.report.explained_count += SLOTS_COUNT * len(nodes)
        for victim in doomed:
            victim.wait_until_harmless()

    # --- what must be so --------------------------------------------------------------------------

    def _verify(self, owner: Caller, marks: Marks) -> None:
        assert len(set(self._made.values())) == self.tasks_count
        for number, task_id in self._made.items():
            answer = owner.send("GET", f"/v1/task/{task_id}/result")
            assert answer.status == 200 + number % 2, (number, answer)
            assert (answer.status, answer.body) == self._ended[number], "a result has changed"
            body = answer.json
            assert (body["n"], body["square"]) == (number, number**2)
            assert body["run"] in marks.runs[task_id], "the result of no execution"
            task = owner.send("GET", f"/v1/task/{task_id}").json
            assert task["progress"] == 100, task
            assert int(task["issued"]) <= int(task["assigned"]) <= int(task["finished"]), task
        self._verify_list(owner)
        assert set(marks.runs) == set(self._made.values()), "something else has run"
        self.report.tasks_count = self.tasks_count
        self.report.executions_count = marks.count
        assert marks.count <= self.tasks_count + self.report.explained_count, self.report

    def _verify_list(self, owner: Caller) -> None:
        rows = []
        for page in itertools.count(1):
            found = owner.send("GET", f"/v1/task/list?page={page}&limit={PAGE_COUNT}").json
            rows += found
            if len(found) < PAGE_COUNT:
                break
        numbers = {task_id: number for number, task_id in self._made.items()}
        assert len(rows) == self.tasks_count
        assert {row["id"] for row in rows} == set(numbers)
        for row in rows:
            assert (row["progress"], row["status"]) == (100, 200 + numbers[row["id"]] % 2)

    def _stop(self, nodes: list[NodeProcess]) -> None:
        """Those that were not killed stop in order, and leave nothing running."""
        alive = [node for node in nodes if node.is_running]
        assert len(alive) == self.nodes_count - self.killed_nodes_count
        for node in alive:
            assert node.terminate() == 0, node.log()
            node.wait_until_harmless()


def main() -> None:
    """Run the proof from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    killed_count = arguments.nodes // 2
    with tempfile.TemporaryDirectory(prefix="troth-functions-") as directory:
        # Functions run as other users, which must get to their code.
        Path(directory).chmod(0o755)
        report = Proof(
            Path(directory), arguments.seed, arguments.tasks, arguments.nodes, killed_count
        ).run()
    print(f"every task ended once: {report}")


if __name__ == "__main__":
    main()
