"""The operations of clients of the REST API."""

import itertools
import json
from typing import Any, Final

from troth.bench.wire import Requests
from troth.bench.workload import FAR_AWAY_MS, Workload

from .base import (
    MESSAGE,
    PREPARE,
    Line,
    Operation,
    Preparation,
    RequestStep,
    Scenario,
    Template,
    step,
)

DELIVERY_TIMEOUT_MS: Final = 5_000
"""A resume that no worker claims is not sent again after this."""

BATCH_COUNT: Final = 100
"""Calls in a batch."""

TEAMS: Final = 10
"""How many values the tag `team` of promises to search has."""
SPREAD_STEPS: Final = 1000
"""Spread timeouts have this many different values."""


class Create(Scenario):
    """Create promises, each durable before it is answered."""

    name = "create"
    summary = "create a promise"
    steps: tuple[RequestStep, ...] = (step("create", 201),)

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        body = self._body("%ID%")
        length = len(self.new_id())
        # Ids of things to read are found by their number: it starts at 0 again.
        self._numbers = itertools.count()
        self._templates = []
        kinds_count = SPREAD_STEPS if workload.spread_ms else TEAMS if workload.tagged else 1
        for kind in range(kinds_count):
            body["timeout"] = workload.timeout_ms + workload.spread_ms * kind // kinds_count
            if workload.tagged:
                body["tags"] = {"team": str(kind % TEAMS), "kind": "bench"}
            text = json.dumps(body, separators=(",", ":"))
            self._templates.append(Template(requests, "POST", "/promises", text, length))
        self._choice = itertools.cycle(self._templates)

    def _body(self, identifier: str) -> dict[str, Any]:
        """Return what a request says of a promise of this id."""
        body: dict[str, Any] = {"id": identifier, "timeout": self.workload.timeout_ms}
        if self.workload.payload_bytes:
            body["param"] = {"data": self.payload()}
        return body

    def request(self) -> tuple[str, bytes]:
        """Return a new id and the request that creates it."""
        identifier = self.new_id()
        return identifier, next(self._choice).fill(identifier)

    def operation(self, line: Line) -> Operation:  # noqa: ARG002
        """Return one request."""
        yield 0, self.request()[1]


class CreateComplete(Create):
    """Create promises and resolve each."""

    name = "create-complete"
    summary = "create a promise, then resolve it"
    steps = (step("create", 201), step("complete", 201))

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        body = json.dumps({"state": "RESOLVED", "value": {"data": self.payload()}})
        self._complete = Template(requests, "PATCH", "/promises/%ID%", body, len(self.new_id()))

    def operation(self, line: Line) -> Operation:  # noqa: ARG002
        """Return two requests, one after the other."""
        identifier, request = self.request()
        yield 0, request
        yield 1, self._complete.fill(identifier)


class CreateBatch(Create):
    """Create promises by batches."""

    name = "batch"
    summary = "create 100 promises by one request to /promises/batch (an operation is the batch)"
    steps = (step("batch", 200),)

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        body = self._body("")
        calls = [{"create": {**body, "id": f"%ID%.{number}"}} for number in range(BATCH_COUNT)]
        text = json.dumps(calls, separators=(",", ":"))
        length = len(self.new_id())
        self._batches = Template(requests, "POST", "/promises/batch", text, length)

    def operation(self, line: Line) -> Operation:  # noqa: ARG002
        """Return one request."""
        yield 0, self._batches.fill(self.new_id())


class Read(Scenario):
    """Read promises that exist."""

    name = "read"
    summary = "read a promise (one of --keys, chosen by --distribution)"
    steps = (step("read", 200),)
    writes = False

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        self._choose = self.key()
        self._template = Template(requests, "GET", f"/promises/{workload.keys_run}-0-%ID%", "", 10)

    @classmethod
    def preparations(cls, workload: Workload) -> list[Preparation]:
        """Return the promises to read."""
        return [Preparation("create", workload.keys, tagged=True)]

    def operation(self, line: Line) -> Operation:  # noqa: ARG002
        """Return one request."""
        yield 0, self._template.fill(f"{self._choose():010d}")


class Searches(Scenario):
    """Search by id pattern and tags."""

    name = "search"
    summary = "search by tags, a page of 10 (among --keys promises)"
    steps = (step("search", 200),)
    writes = False

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        path = f"/promises?id={workload.keys_run}-*&tags[team]={{}}&limit=10"
        self._requests = itertools.cycle(
            [requests.make("GET", path.format(team)) for team in range(TEAMS)]
        )

    @classmethod
    def preparations(cls, workload: Workload) -> list[Preparation]:
        """Return the promises to find."""
        return [Preparation("create", workload.keys, tagged=True)]

    def operation(self, line: Line) -> Operation:  # noqa: ARG002
        """Return one request."""
        yield 0, next(self._requests)


class Tasks(Scenario):
    """The whole life of a task, with the worker's stream next to the connection."""

    name = "tasks"
    summary = "a task's cycle: create, message over the stream, claim, complete"
    steps = (step("create", 201), step("claim", 201), step("complete", 200, 201))
    uses_streams = True

    def stream_path(self, line: Line) -> str:
        """Return the stream of one worker; each connection is a worker."""
        return f"/{self._group()}/{line.number}"

    def _group(self) -> str:
        return f"{self.workload.run}-{self.workload.process}"

    def operation(self, line: Line) -> Operation:
        """Return three requests and a message; the time from create to message is `delivery`."""
        make = self.requests.make
        identifier = self.new_id()
        address = f"poll://{self._group()}/{line.number}"
        promise = {
            "id": identifier,
            "timeout": FAR_AWAY_MS,
            "param": {"data": self.payload()},
            "tags": {"resonate:invoke": address},
        }
        yield 0, make("POST", "/promises", promise)
        task = None
        while task is None:
            message = json.loads((yield MESSAGE, b""))
            # A message of an operation that was given up may come late.
            if identifier in message.get("task", {}).get("id", ""):
                task = message["task"]
        line.measure("delivery", line.message_ns - line.started_ns)
        held = {"id": task["id"], "counter": task["counter"]}
        yield 1, make("POST", "/tasks/claim", {**held, "processId": address, "ttl": 60_000})
        yield 2, make("POST", "/tasks/complete", held)


class FanOut(Scenario):
    """Many wait for one promise, and all of them are told."""

    name = "fan-out"
    summary = "complete a promise that --fan-out others wait for, until all are notified"
    steps = (step("complete", 201),)
    uses_streams = True
    prepares = True

    def stream_path(self, line: Line) -> str:
        """Return the stream of a connection, which gets messages about its own promises."""
        return f"/{self.workload.run}-{self.workload.process}/{line.number}"

    def operation(self, line: Line) -> Operation:
        """Prepare the promise and those that wait; then one request and as many messages."""
        make = self.requests.make
        leaf = self.new_id()
        address = f"poll:/{self.stream_path(line)}"
        answer = yield PREPARE, make("POST", "/promises", {"id": leaf, "timeout": FAR_AWAY_MS})
        until_ms = json.loads(answer).get("createdOn", 0) + DELIVERY_TIMEOUT_MS
        for number in range(self.workload.fan_out):
            callback = {
                "id": "c",
                "promiseId": leaf,
                "rootPromiseId": f"{leaf}-{number}",
                "timeout": until_ms,
                "recv": address,
            }
            yield PREPARE, make("POST", "/callbacks", callback)
        yield 0, make("PATCH", f"/promises/{leaf}", {"state": "RESOLVED"})
        missing = self.workload.fan_out
        while missing:
            message = json.loads((yield MESSAGE, b""))
            missing -= leaf in message.get("task", {}).get("id", "")


class Locks(Scenario):
    """Take a lock and give it back."""

    name = "locks"
    summary = "acquire a lock, then release it"
    steps = (step("acquire", 201), step("release", 204))

    def operation(self, line: Line) -> Operation:  # noqa: ARG002
        """Return two requests."""
        held = {"resourceId": self.new_id(), "executionId": "e"}
        taken = {**held, "processId": "p", "ttl": 60_000}
        yield 0, self.requests.make("POST", "/locks/acquire", taken)
        yield 1, self.requests.make("POST", "/locks/release", held)


class Claims(Scenario):
    """Tasks that are held from the beginning, for heartbeats."""

    name = "claimed"
    summary = "create a promise with a task that is claimed immediately"
    steps = (step("create", 201),)

    def operation(self, line: Line) -> Operation:  # noqa: ARG002
        """Return one request."""
        number = next(self._numbers)
        promise = {
            "id": f"{self._prefix}{number:010d}",
            "timeout": FAR_AWAY_MS,
            "tags": {"resonate:invoke": f"poll://{self.workload.run}/nobody"},
        }
        task = {"processId": f"{self.workload.run}-holder-{number}", "ttl": 3_600_000}
        yield 0, self.requests.make("POST", "/promises/task", {"promise": promise, "task": task})


class Heartbeats(Scenario):
    """Processes say that they are alive."""

    name = "heartbeats"
    summary = "heartbeats of --holders processes that hold a task each"
    steps = (step("heartbeat", 200),)

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        self._requests = itertools.cycle(
            requests.make(
                "POST", "/tasks/heartbeat", {"processId": f"{workload.keys_run}-holder-{number}"}
            )
            for number in range(workload.holders)
        )

    @classmethod
    def preparations(cls, workload: Workload) -> list[Preparation]:
        """Return their tasks."""
        return [Preparation("claimed", workload.holders)]

    def operation(self, line: Line) -> Operation:  # noqa: ARG002
        """Return one request."""
        yield 0, next(self._requests)


class Schedules(Scenario):
    """Schedules come, are read and go."""

    name = "schedules"
    summary = "create a schedule, read it, delete it"
    steps = (step("create", 201), step("read", 200), step("delete", 204))

    def operation(self, line: Line) -> Operation:  # noqa: ARG002
        """Return three requests."""
        identifier = self.new_id()
        schedule = {
            "id": identifier,
            "cron": "0 0 1 1 *",
            "promiseId": "{{.id}}.{{.timestamp}}",
            "promiseTimeout": 60_000,
        }
        yield 0, self.requests.make("POST", "/schedules", schedule)
        yield 1, self.requests.make("GET", f"/schedules/{identifier}")
        yield 2, self.requests.make("DELETE", f"/schedules/{identifier}")


class Echo(Scenario):
    """What the machine, the network and this generator can do at all: see `echo.py`."""

    name = "echo"
    summary = "a request of a create's size to a server that does nothing"
    steps = (step("echo", 200),)

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        self._request = Create(workload, requests).request()[1]

    def operation(self, line: Line) -> Operation:  # noqa: ARG002
        """Return one request."""
        yield 0, self._request
