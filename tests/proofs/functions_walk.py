"""What two accounts have on one server, and every request under `/v1` that names such things.

`requests` is a table by operation; the tests that use it fail if the server's own description has
an operation that the table does not have, so a new endpoint is walked or noticed.
"""

import contextlib
import json
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, NamedTuple, Self

from tests.helpers.server import ServerProcess

from .functions_setup import (
    ZIP,
    Answer,
    Caller,
    connection_to,
    wait_until,
    zipped,
)
from .support import NO_ANSWER

HANDLER: Final = {"handler.py": "def handle(request):\n    return 1\n"}
RESULT: Final = {"Troth-Status": "200", "Content-Type": "application/octet-stream"}
REPORT_INTERVAL_S: Final = 1.0
RUN_LIMIT_S: Final = 300
"""A task that runs must not come to its end by itself, however busy the machine is."""
_LEFT_OUT: Final = frozenset({"date", "request-id", "content-length"})


class Request(NamedTuple):
    """One request."""

    method: str
    path: str
    body: object = None
    headers: dict[str, str] | None = None

    def sent_by(self, caller: Caller) -> Answer:
        """The answer to it."""
        return caller.send(*self)


@dataclass(frozen=True)
class Things:
    """Ids of one of everything; of tasks one that has ended, one that runs, one that waits."""

    function: str
    build: str
    tag: str
    node: str
    ended: str
    running: str
    waiting: str

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks."""
        return self.ended, self.running, self.waiting

    def hidden(self, text: str) -> str:
        """A text with each id replaced by its kind."""
        for one in fields(self):
            text = text.replace(getattr(self, one.name), f"<{one.name}>")
        return text


def random_things() -> Things:
    """Ids like others, of nothing."""
    names = [one.name for one in fields(Things) if one.name != "node"]
    return Things(node=str(uuid.uuid4()), **{name: secrets.token_hex(12) for name in names})


def requests(of: Things) -> dict[str, list[Request]]:
    """By operation, every request that names one of these things, or could show them."""
    function, node = f"/v1/function/{of.function}", f"/v1/node/{of.node}"
    tag, build = f"/v1/tag/{of.tag}", f"/v1/build/{of.build}"
    new = {"name": "new", "type": "CODE", "lang": "PY"}
    counted = [{"id": task, "counter": 1} for task in of.tasks]
    return {
        "createFunction": [Request("POST", "/v1/function", {**new, "tag": [of.tag]})],
        "listFunctions": [
            Request("GET", "/v1/function/list"),
            Request("GET", f"/v1/function/list?tag={of.tag}"),
        ],
        "readFunction": [Request("GET", function)],
        "changeFunction": [Request("PATCH", function, {"name": "taken"})],
        "deleteFunction": [Request("DELETE", function)],
        "togglePause": [Request("POST", f"{function}/togglePause")],
        "readCapabilities": [Request("GET", f"{function}/capabilities")],
        "changeCapabilities": [Request("POST", f"{function}/capabilities", {"timeout": 99})],
        "createTag": [Request("POST", "/v1/tag", {"name": "new"})],
        "listTags": [Request("GET", "/v1/tag/list")],
        "changeTag": [Request("PATCH", tag, {"name": "taken"})],
        "deleteTag": [Request("DELETE", tag)],
        "showUsage": [Request("GET", "/v1/metrics")],
        "createBuild": [Request("POST", f"/v1/build/{of.function}", zipped(HANDLER), ZIP)],
        "listBuilds": [
            Request("GET", "/v1/build/list"),
            Request("GET", f"/v1/build/list?functionId={of.function}"),
        ],
        "readBuild": [Request("GET", build)],
        "readArchive": [Request("GET", f"{build}/archive")],
        "createFunctionTask": [
            Request("POST", f"/v1/task/{of.function}", {"x": 1}),
            Request("POST", f"/v1/task/{of.function}", None, {"Idempotency-Key": "key"}),
        ],
        "readFunctionTask": [Request("GET", f"/v1/task/{task}") for task in of.tasks],
        "listFunctionTasks": [
            Request("GET", "/v1/task/list"),
            Request("GET", f"/v1/task/list?functionId={of.function}"),
        ],
        "readFunctionTaskResult": [
            Request("GET", f"/v1/task/{task}/result{query}")
            for task in of.tasks
            for query in ("", "?wait=5")
        ],
        "cancelFunctionTask": [Request("DELETE", f"/v1/task/{task}") for task in of.tasks],
        "registerNode": [Request("POST", node, {"languages": ["PY"]})],
        "listNodes": [Request("GET", "/v1/node/list")],
        "changeNode": [
            Request("PATCH", node),
            Request("PATCH", node, {"disabled": True, "draining": True}),
        ],
        "deleteNode": [Request("DELETE", node)],
        "streamWork": [Request("GET", f"{node}/work")],
        "assignTask": [Request("POST", f"{node}/assign", one) for one in counted],
        "reportWork": [Request("POST", f"{node}/report", {"running": counted})],
        "returnTask": [Request("POST", f"{node}/return/{task}/1") for task in of.tasks],
        "exchangeWork": [
            Request("POST", f"{node}/exchange", {"results": [{**one, "status": 200}]})
            for one in counted
        ]
        + [Request("POST", f"{node}/exchange", {"assign": [one]}) for one in counted],
        "takeResult": [
            Request("POST", f"{node}/result/{task}/1", b"taken", RESULT) for task in of.tasks
        ],
    }


SHOWING: Final = frozenset(
    {"listFunctions", "listTags", "listBuilds", "listFunctionTasks", "listNodes", "showUsage"}
)
"""Operations that name nothing, or in the query: they show the asker's own, 200."""
MAKING: Final = frozenset({"createTag"})
"""Operations that name nothing and make something."""
SEVERAL: Final = frozenset({"reportWork", "exchangeWork"})
"""Operations about several tasks: 200, and the answer says what becomes of each."""
NODE_WORK: Final = SEVERAL | {"assignTask", "returnTask", "takeResult"}
"""Operations that name a node and a task."""


def described(server: ServerProcess, prefix: str) -> dict[str, dict[str, Any]]:
    """The operations below a path, by name, as the server describes them; with the scopes each
    is content with, and whether it needs credentials at all.
    """
    document = server.request("GET", "/openapi.json")[1]
    return {
        operation["operationId"]: {
            "method": method.upper(),
            "path": path,
            "scopes": {
                scope for way in operation.get("security", []) for scope in way.get("bearer", [])
            },
        }
        for path, operations in document["paths"].items()
        if path.startswith(prefix)
        for method, operation in operations.items()
    }


def comparable(answer: Answer, things: Things) -> tuple[int, dict[str, str], str]:
    """An answer without the ids, and without what differs each time."""
    headers = {name: text for name, text in answer.headers.items() if name not in _LEFT_OUT}
    text = answer.body.decode(errors="replace")
    with contextlib.suppress(ValueError):
        # Not everything is JSON.
        made = json.loads(text)
        if "error" in made:
            for detail in made["error"]["details"]:
                detail["metadata"].pop("requestId", None)
        elif "oldestWaitingSeconds" in made:
            del made["oldestWaitingSeconds"]
        text = json.dumps(made)
    return answer.status, headers, things.hidden(text)


class WorkStream:
    """The work stream of a node that does what a test says, read in a thread."""

    def __init__(self, caller: Caller, path: str) -> None:
        """Open it. `path` may be that of any stream of server-sent events."""
        self._connection = connection_to(caller.url)
        self._connection.request("GET", path, headers={"Authorization": f"Bearer {caller.secret}"})
        self._stream = self._connection.getresponse()
        assert self._stream.status == 200, self._stream.read()
        self.orders: list[dict[str, Any]] = []
        self.ended_at: float | None = None
        """When the server has stopped it, by the monotonic clock."""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(*NO_ANSWER, ValueError):
            # It is over, for whatever reason.
            while line := self._stream.readline():
                if line.startswith(b"data: "):
                    self.orders.append(json.loads(line[6:]))
        self.ended_at = time.monotonic()

    def close(self) -> None:
        """Hang up."""
        if self._connection.sock is not None:
            with contextlib.suppress(OSError):
                # Who is reading it is told; closing alone would leave it waiting.
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._stream.close()
        self._connection.close()


@dataclass
class Household:
    """An account that has one of everything, and a node with one slot that does as it is told."""

    caller: Caller
    things: Things
    stream: WorkStream
    _seen: dict[str, Answer] = field(default_factory=dict)

    @classmethod
    def make(cls, caller: Caller) -> Self:
        """Make it all: three tasks, of which one has ended and one runs."""
        node = str(uuid.uuid4())
        path = f"/v1/node/{node}"
        assert caller.send("POST", path, {"languages": ["PY"]}).status == 201
        stream = WorkStream(caller, f"{path}/work")
        tag = caller.make("/v1/tag", {"name": "tag"})
        function = caller.function(HANDLER, tag=[tag], capabilities={"timeout": RUN_LIMIT_S})
        build = caller.send("GET", "/v1/build/list").json["results"][0]["id"]
        tasks = [caller.make(f"/v1/task/{function}", {"n": number}) for number in range(3)]
        things = Things(function, build, tag, node, *tasks)
        made = cls(caller, things, stream)
        made.take(tasks[0])
        assert made.finish(tasks[0]).status == 201
        made.take(tasks[1])
        return made

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Keep the task that runs for as long as the block takes, on a connection of its own.

        On a busy machine, requests that look at everything can take longer than its lease.
        """
        is_over = threading.Event()

        def report() -> None:
            with Caller(self.caller.url, self.caller.secret) as caller:
                while not is_over.wait(REPORT_INTERVAL_S):
                    caller.send("POST", self._report_path, self._report)

        thread = threading.Thread(target=report)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    @property
    def _report_path(self) -> str:
        return f"/v1/node/{self.things.node}/report"

    @property
    def _report(self) -> dict[str, Any]:
        return {"running": [{"id": self.things.running, "counter": 1}]}

    def take(self, task: str) -> None:
        """Wait until the node is to run a task, and take it on."""
        run = {"type": "run", "task": {"id": task, "counter": 1}}
        wait_until(lambda: run in self.stream.orders, "the node is given a task")
        answer = self.caller.send("POST", f"/v1/node/{self.things.node}/assign", run["task"])
        assert answer.status == 201, answer

    def finish(self, task: str) -> Answer:
        """Say how a task has ended."""
        path = f"/v1/node/{self.things.node}/result/{task}/1"
        return self.caller.send("POST", path, b"done", RESULT)

    def assert_untouched(self) -> None:
        """Fail if anything has changed since the last time; says that the task still runs."""
        answer = self.caller.send("POST", self._report_path, self._report)
        assert answer.json == {"stop": []}, f"the task was taken away: {answer}"
        seen = {path: self.caller.send("GET", path) for path in self._paths()}
        for path, answer in self._seen.items():
            assert comparable(answer, self.things) == comparable(seen[path], self.things), path
        self._seen = seen
        orders = [order["type"] for order in self.stream.orders]
        assert orders == ["hello", "run", "run"]

    def _paths(self) -> Iterator[str]:
        yield "/v1/metrics"
        for kind in ("function", "tag", "build", "node", "task"):
            yield f"/v1/{kind}/list"
        yield f"/v1/function/{self.things.function}"
        yield f"/v1/build/{self.things.build}"
        yield f"/v1/build/{self.things.build}/archive"
        for task in self.things.tasks:
            yield f"/v1/task/{task}"
            yield f"/v1/task/{task}/result"

    def with_tasks_of(self, other: Things) -> Things:
        """The own things, but somebody else's tasks."""
        return replace(self.things, ended=other.ended, running=other.running, waiting=other.waiting)
