"""What concurrent clients of a real server saw while it was killed, for the checker of histories.

Threads make the requests of `tests/simulation/test_linearizability.py` over HTTP; their times are
those of one monotonic clock. A request that got no answer, or one that says 5xx, may have been
carried out or not; one that could not even connect was never made.
"""

import base64
import contextlib
import http.client
import json
import threading
import time
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from tests.helpers.server import ServerProcess
from tests.simulation.linearizability import Operation
from tests.simulation.test_linearizability import (
    History,
    Requests,
    some_lock_request,
    some_request,
    some_task_request,
)
from troth.core.codes import Code
from troth.core.commands import (
    AcquireLock,
    ClaimTask,
    Command,
    CompletePromise,
    CompleteTask,
    CreatePromise,
    DropTask,
    ReadPromise,
    ReleaseLock,
)
from troth.core.model import Promise, PromiseState, Value
from troth.core.replies import Reply

from .support import FAR_MS, NO_ANSWER

KINDS: Final[dict[str, Requests]] = {
    "promises": some_request,
    "locks": some_lock_request,
    "tasks": some_task_request,
}
CLIENTS_COUNT: Final = 4
REQUESTS_EACH_COUNT: Final = 24
"""So many requests of a client are about the same objects; then come new ones."""

SUCCESSES: Final = {200: Code.OK, 201: Code.CREATED, 204: Code.NO_CONTENT}
TASK_VERBS: Final = {ClaimTask: "claim", CompleteTask: "complete", DropTask: "drop"}


NOTHING_DONE: Final = {Code.STARTING, Code.SHUTTING_DOWN, Code.OVERLOADED, Code.OUT_OF_REACH}
"""What a server says that has not done what it was asked."""


class Refused(Exception):
    """The server does not serve just now: nothing was done."""


class Recorder:
    """Clients of one server, and what they saw, by kind of object."""

    def __init__(self, server: ServerProcess, seed: int) -> None:
        self.histories: dict[str, History] = {kind: [] for kind in KINDS}
        self._server = server
        self._seed = seed
        self._ended = threading.Event()

    def run(self, kills_count: int) -> None:
        """Let the clients work while the server is killed and started again."""
        random = Random(f"{self._seed}/kills")
        clients = [
            threading.Thread(target=self._client, args=(number,), name=f"client {number}")
            for number in range(CLIENTS_COUNT)
        ]
        for client in clients:
            client.start()
        try:
            for _ in range(kills_count):
                time.sleep(random.uniform(0.2, 0.6))
                self._server.restart()
            time.sleep(0.3)
        finally:
            self._ended.set()
            for client in clients:
                client.join()

    def _client(self, number: int) -> None:
        random = Random(f"{self._seed}/{number}")
        made_count = 0
        while not self._ended.is_set():
            kind = random.choice(list(KINDS))
            suffix = f"{kind}-{made_count // REQUESTS_EACH_COUNT}"
            command = renamed(KINDS[kind](random, f"{number}/{made_count}"), suffix)
            operation = attempted(urlsplit(self._server.url).netloc, command, timeout_s=5)
            if operation is None:
                time.sleep(0.02)  # nobody listens: the server is being started again
                continue
            made_count += 1
            self.histories[kind].append(operation)


def attempted(place: str, command: Command, timeout_s: float) -> Operation[Command, Reply] | None:
    """Ask the server at `HOST:PORT`; None if it has certainly not done it."""
    connection = http.client.HTTPConnection(place, timeout=timeout_s)
    with contextlib.closing(connection):
        try:
            connection.connect()
        except OSError:
            return None
        called = time.monotonic()
        try:
            reply = asked(connection, command)
        except NO_ANSWER:
            reply = None
        except Refused:
            return None
        if reply is None:
            return Operation(called, command)
        return Operation(called, command, time.monotonic(), reply)


def renamed(command: Command, suffix: str) -> Command:
    """The same about other objects."""
    field = "resource_id" if isinstance(command, AcquireLock | ReleaseLock) else "id"
    made: Command = msgspec.structs.replace(
        command, **{field: f"{getattr(command, field)}-{suffix}"}
    )
    return made


def asked(connection: http.client.HTTPConnection, command: Command) -> Reply | None:
    """The server's reply; None if it says 5xx. Raises what is in NO_ANSWER, and Refused."""
    method, path, body, headers = as_request(command)
    content = None if body is None else json.dumps(body).encode()
    connection.request(method, path, content, headers)
    response = connection.getresponse()
    answer = response.read()
    made: Any = json.loads(answer) if answer else {}
    if response.status >= 500:
        if response.status == 503 and made["error"]["code"] in NOTHING_DONE:
            raise Refused
        return None
    if response.status >= 400:
        return Reply(Code(made["error"]["code"]))
    promise = as_promise(made) if "state" in made else None
    return Reply(SUCCESSES[response.status], promise=promise)


def as_request(command: Command) -> tuple[str, str, object, dict[str, str]]:
    """Method, path, body and headers. Nothing that is asked for ever ends by itself."""
    headers = {}
    if isinstance(command, CreatePromise | CompletePromise):
        if command.idempotency_key is not None:
            headers["Idempotency-Key"] = command.idempotency_key
        headers["Strict"] = str(command.strict).lower()
    if isinstance(command, ReadPromise):
        return "GET", f"/promises/{command.id}", None, headers
    if isinstance(command, CreatePromise):
        body = {"id": command.id, "timeout": FAR_MS, "tags": command.tags}
        return "POST", "/promises", body, headers
    if isinstance(command, CompletePromise):
        data = base64.b64encode((command.value.data or "").encode()).decode()
        body = {"state": command.state.value, "value": {"data": data}}
        return "PATCH", f"/promises/{command.id}", body, headers
    if isinstance(command, AcquireLock | ReleaseLock):
        lock = {"resourceId": command.resource_id, "executionId": command.execution_id}
        if isinstance(command, ReleaseLock):
            return "POST", "/locks/release", lock, headers
        lease = {"processId": command.process_id, "ttl": FAR_MS}
        return "POST", "/locks/acquire", lock | lease, headers
    assert isinstance(command, ClaimTask | CompleteTask | DropTask)
    task: dict[str, object] = {"id": command.id, "counter": command.counter}
    if isinstance(command, ClaimTask):
        task |= {"processId": command.process_id, "ttl": FAR_MS}
    return "POST", f"/tasks/{TASK_VERBS[type(command)]}", task, headers


def as_promise(made: Any) -> Promise:
    """As much of a promise as the checker looks at."""
    data = made["value"].get("data")
    value = Value(data=None if data is None else base64.b64decode(data).decode())
    return Promise(made["id"], 1, PromiseState(made["state"]), FAR_MS, 0, value=value)
