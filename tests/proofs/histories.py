"""Proof: what many clients see of a real server that is killed has one explanation.

    python -m tests.proofs.histories --lives 20 --seed 1

Clients race for the same few promises, locks and tasks while the server is killed with `kill -9`
and started again. Everything they ask and hear is one history, over all lives; the checker of
`tests/simulation/linearizability.py` looks for one order of all operations that explains every
answer. A request without an answer may have been carried out or not.
"""

import argparse
import base64
import tempfile
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.helpers.server import ServerProcess
from tests.proofs.support import FAR_MS, NO_ANSWER, Client
from tests.simulation.linear_models import LockModel, LockOperation, PromiseModel, TaskModel
from tests.simulation.linear_models import TimedLock as Timed
from tests.simulation.linearizability import Operation, check
from troth.core.codes import Code
from troth.core.commands import (
    AcquireLock,
    ClaimTask,
    Command,
    CompletePromise,
    CompleteTask,
    CreatePromise,
    ReadPromise,
    ReleaseLock,
)
from troth.core.model import Lock, Promise, PromiseState, TaskKind, Value
from troth.core.replies import Claimed, Reply

CLIENTS_COUNT: Final = 6
OPERATIONS_PER_OBJECT_COUNT: Final = 60
"""About; many more would only make the search slow."""

ARGUMENTS: Final = (
    *("--shards", "3"),
    *("--segment-bytes", "65536"),
    *("--checkpoint-interval-ms", "100"),
)
NOTHING_DONE: Final = (Code.SHUTTING_DOWN, Code.STARTING, Code.OVERLOADED)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as HTTP has it, and as the models do."""

    command: Command
    method: str
    path: str
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()


def read_reply(asked: Asked, status: int, answer: Any) -> Reply:
    """An answer in the models' words."""
    if status >= 400:
        return Reply(Code(answer["error"]["code"]))
    code = Code(status * 100)
    match asked.command:
        case CreatePromise() | CompletePromise() | ReadPromise():
            value = Value(data=answer["value"].get("data"))
            state = PromiseState(answer["state"])
            return Reply(code, promise=Promise(answer["id"], 0, state, 0, 0, value=value))
        case AcquireLock() as command:
            lock = Lock(
                command.resource_id,
                command.execution_id,
                command.process_id,
                command.ttl,
                answer["expiresAt"],
            )
            return Reply(code, lock=lock)
        case ClaimTask() as command:
            return Reply(code, claimed=Claimed(TaskKind.INVOKE, command.id, command.id))
    return Reply(code)


class History:
    """What all clients asked and heard, over all lives of the server."""

    def __init__(self) -> None:
        self.promises: list[Operation[Command, Reply]] = []
        self.tasks: list[Operation[Command, Reply]] = []
        self.locks: list[LockOperation] = []
        self.unknown_count = 0
        self._lock = threading.Lock()

    @property
    def operations_count(self) -> int:
        """How many operations there are."""
        return len(self.promises) + len(self.tasks) + len(self.locks)

    def add(
        self, command: Command, called: float, returned: float, asked_ms: int, reply: Reply | None
    ) -> None:
        """Note one call; `reply` is None if nobody knows its outcome."""
        with self._lock:
            self.unknown_count += reply is None
            if isinstance(command, AcquireLock | ReleaseLock):
                timed = Timed(command, asked_ms, _now_ms())
                self.locks.append(Operation(called, timed, returned, reply))
            elif isinstance(command, ClaimTask | CompleteTask):
                self.tasks.append(Operation(called, command, returned, reply))
            else:
                self.promises.append(Operation(called, command, returned, reply))

    def unexplained(self) -> list[Hashable]:
        """The objects whose history no order explains."""
        return [
            *check(PromiseModel(), self.promises),
            *check(TaskModel(), self.tasks),
            *check(LockModel(), self.locks),
        ]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class _Client:
    """One client in one life of the server."""

    def __init__(self, name: str, history: History, random: Random) -> None:
        self._name = name
        self._history = history
        self._random = random
        self._asked_count = 0

    def run(self, url: str) -> None:
        """Ask until the server goes."""
        with Client(url) as http:
            while self._ask(http, self._something()):
                self._asked_count += 1

    def _ask(self, http: Client, asked: Asked) -> bool:
        called, asked_ms = time.monotonic(), _now_ms()
        try:
            status, answer = http.call(asked.method, asked.path, asked.body, dict(asked.headers))
        except ConnectionRefusedError:
            return False  # it never heard of it
        except NO_ANSWER:
            self._history.add(asked.command, called, float("inf"), asked_ms, None)
            return False
        reply = read_reply(asked, status, answer)
        if reply.code in NOTHING_DONE:
            return False
        self._history.add(asked.command, called, time.monotonic(), asked_ms, reply)
        return True

    def _something(self) -> Asked:
        """A request on one of the objects that others ask about now, or did before a crash."""
        place = self._history.operations_count // OPERATIONS_PER_OBJECT_COUNT
        place = max(0, place - self._random.choice((0, 0, 0, 0, 1, 2, 8)))
        return self._random.choice((self._promise, self._promise, self._lock, self._task))(place)

    def _promise(self, place: int) -> Asked:
        name, luck = f"p{place}", self._random.random()
        keys = self._random.choice(((), (("Idempotency-Key", "k"),)))
        key = "k" if keys else None
        if luck < 0.3:
            body = {"id": name, "timeout": FAR_MS}
            command = CreatePromise(name, FAR_MS, idempotency_key=key)
            return Asked(command, "POST", "/promises", body, keys)
        if luck < 0.5:
            state = self._random.choice((PromiseState.RESOLVED, PromiseState.REJECTED))
            data = base64.b64encode(f"{self._name} {self._asked_count}".encode()).decode()
            complete = CompletePromise(name, state, Value(data=data), idempotency_key=key)
            body = {"state": state.value, "value": {"data": data}}
            return Asked(complete, "PATCH", f"/promises/{name}", body, keys)
        return Asked(ReadPromise(name), "GET", f"/promises/{name}")

    def _lock(self, place: int) -> Asked:
        name = f"l{place}"
        if self._random.random() < 0.5:
            ttl_ms = self._random.choice((5, 50, 5_000))
            body: dict[str, Any] = {"resourceId": name, "executionId": self._name}
            acquire = AcquireLock(name, self._name, self._name, ttl_ms)
            body |= {"processId": self._name, "ttl": ttl_ms}
            return Asked(acquire, "POST", "/locks/acquire", body)
        body = {"resourceId": name, "executionId": self._name}
        return Asked(ReleaseLock(name, self._name), "POST", "/locks/release", body)

    def _task(self, place: int) -> Asked:
        root = f"t{place}"
        name, luck = f"__invoke:{root}", self._random.random()
        counter = self._random.randint(1, 3)
        if luck < 0.3:
            body: dict[str, Any] = {"id": root, "timeout": FAR_MS}
            body["tags"] = {"resonate:invoke": "poll://any@nobody"}
            keys = (("Idempotency-Key", "k"),)
            command = CreatePromise(root, FAR_MS, idempotency_key="k")
            return Asked(command, "POST", "/promises", body, keys)
        body = {"id": name, "counter": counter}
        if luck < 0.7:
            ttl_ms = self._random.choice((5, 5_000))
            claim = ClaimTask(name, counter, self._name, ttl_ms)
            body |= {"processId": self._name, "ttl": ttl_ms}
            return Asked(claim, "POST", "/tasks/claim", body)
        return Asked(CompleteTask(name, counter), "POST", "/tasks/complete", body)


def record(
    directory: Path, seed: int, lives_count: int, say: Callable[[str], object] = print
) -> History:
    """Load a server and kill it, again and again; what its clients saw."""
    random, history = Random(seed), History()
    with ServerProcess(directory, *ARGUMENTS) as server:
        for life in range(lives_count):
            clients = [
                threading.Thread(
                    target=_Client(f"c{life}-{number}", history, Random(random.random())).run,
                    args=(server.url,),
                )
                for number in range(CLIENTS_COUNT)
            ]
            for client in clients:
                client.start()
            time.sleep(random.uniform(0.2, 1.0))
            server.kill9()
            for client in clients:
                client.join(20)
                assert not client.is_alive(), "somebody got neither an answer nor an end"
            say(
                f"life {life + 1}: {history.operations_count} operations, "
                f"{history.unknown_count} of unknown outcome"
            )
            server.start()
    return history


def main() -> None:
    """Record and judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.proofs.histories", description=__doc__)
    parser.add_argument("--lives", type=int, default=20, help="how often it is killed (20)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (1)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        history = record(Path(directory), arguments.seed, arguments.lives)
    unexplained = history.unexplained()
    assert not unexplained, f"no order explains what was seen of {unexplained}"
    print(f"all {history.operations_count} operations have an explanation")


if __name__ == "__main__":
    main()
