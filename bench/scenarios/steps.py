"""The work of a plain HTTP worker, seen by the one who asked for it: a step, and a workflow.

A connection is a caller with a subscription and the worker that serves it, with one stream for the
messages to both. So an operation takes what it takes between two programs, and the generator needs
no program of its own for either.
"""

import json
from collections.abc import Generator
from typing import Any, Final

from troth.bench.wire import Requests
from troth.bench.workload import FAR_AWAY_MS, Workload

from .base import MESSAGE, Line, Operation, RequestStep, Scenario, Template, step

WORKFLOW_STEPS_COUNT: Final = 3
"""How many steps a workflow has, each a durable promise."""
_TTL_MS: Final = 60_000
_NUMBER_DIGITS: Final = 5
"""So many digits has the number of a worker, so that all addresses have the same length."""


class WorkerStep(Scenario):
    """A promise that a worker completes, and its caller is told."""

    name = "step"
    summary = "a step by a worker: create, subscribe, message, claim, complete, message"
    steps: tuple[RequestStep, ...] = (
        *(step("create", 201), step("subscribe", 201)),
        *(step("claim", 201), step("complete", 201)),
    )
    uses_streams = True

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        self._length = len(self.new_id())
        self._value = {"data": self.payload()}
        end = {"state": "RESOLVED", "value": self._value}
        self._complete = self.template("PATCH", "/promises/%ID%", end)
        self._for_lines: dict[int, tuple[Template, Template, Template]] = {}

    def template(self, method: str, path: str, body: dict[str, Any]) -> Template:
        """Return a request in which `%ID%` is filled in."""
        text = json.dumps(body, separators=(",", ":"))
        return Template(self.requests, method, path, text, self._length)

    def stream_path(self, line: Line) -> str:
        """Return the stream of a connection: that of a caller and of a worker."""
        group = f"{self.workload.run}-{self.workload.process}"
        return f"/{group}/{line.number:0{_NUMBER_DIGITS}d}"

    def _templates(self, line: Line) -> tuple[Template, Template, Template]:
        """Return the requests that name the address of a connection's stream."""
        found = self._for_lines.get(line.number)
        if found is None:
            address = f"poll:/{self.stream_path(line)}"
            promise = {
                "id": "%ID%",
                "timeout": FAR_AWAY_MS,
                "param": self._value,
                "tags": {"resonate:invoke": address},
            }
            wish = {"id": "caller", "timeout": FAR_AWAY_MS, "recv": address}
            claim = {
                "id": "__invoke:%ID%",
                "counter": 1,
                "processId": address,
                "ttl": _TTL_MS,
            }
            found = self._for_lines[line.number] = (
                self.template("POST", "/promises", promise),
                self.template("POST", "/promises/subscribe/%ID%", wish),
                self.template("POST", "/tasks/claim", claim),
            )
        return found

    def operation(self, line: Line) -> Operation:
        """Return four requests and two messages.

        `delivery` is the time from the create to the message at the worker, `notify` that from the
        completion to the message at the caller.
        """
        create, subscribe, claim = self._templates(line)
        identifier = self.new_id()
        yield 0, create.fill(identifier)
        yield 1, subscribe.fill(identifier)
        yield from self._message("invoke", identifier)
        line.measure("delivery", line.message_ns - line.started_ns)
        yield 2, claim.fill(identifier)
        yield from self.work(identifier)
        yield 3, self._complete.fill(identifier)
        completed_ns = line.sent_ns
        yield from self._message("notify", identifier)
        line.measure("notify", line.message_ns - completed_ns)

    def work(self, identifier: str) -> Operation:  # noqa: ARG002  a workflow's need it
        """Do what the worker does before it completes the promise."""
        yield from ()

    def _message(self, kind: str, identifier: str) -> Generator[tuple[int, bytes], bytes, None]:
        """Wait for a message about a promise; one of an operation that was given up may be late."""
        about = f'"{identifier}"'.encode()
        while True:
            text = yield MESSAGE, b""
            if about in text and json.loads(text)["type"] == kind:
                return


class WorkerWorkflow(WorkerStep):
    """A step whose worker does three things, and makes the result of each durable."""

    name = "workflow"
    summary = f"a step whose worker creates and completes {WORKFLOW_STEPS_COUNT} promises in it"
    steps = (*WorkerStep.steps, step("create step", 201), step("complete step", 201))

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        end = {"state": "RESOLVED", "value": self._value}
        self._steps = []
        for number in range(1, WORKFLOW_STEPS_COUNT + 1):
            part = {"id": f"%ID%.{number}", "timeout": FAR_AWAY_MS, "param": self._value}
            self._steps.append(
                (
                    self.template("POST", "/promises", part),
                    self.template("PATCH", f"/promises/%ID%.{number}", end),
                )
            )

    def work(self, identifier: str) -> Operation:
        """Create and complete a promise for each of the steps."""
        for create, complete in self._steps:
            yield 4, create.fill(identifier)
            yield 5, complete.fill(identifier)
