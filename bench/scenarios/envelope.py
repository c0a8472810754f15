"""The operations of clients of the envelope protocol: what current Resonate SDKs send.

All are requests of `POST /`. Only `EnvelopeTasks` waits for the messages of its worker's stream: a
server does the same for the others, and the generator has less to do.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from troth.bench.wire import Requests
from troth.bench.workload import FAR_AWAY_MS, Workload

from .base import MESSAGE, Line, Operation, Scenario, Template, step

_TTL_MS = 60_000
# Tasks are claimed here as soon as they may be; no worker listens for them.
_TARGET = "poll://any@bench"
_NUMBER_DIGITS = 5
"""So many digits has the number of a worker, so that all addresses have the same length."""


def envelope(kind: str, data: Mapping[str, Any]) -> str:
    """Return a request as SDKs send it."""
    head = {"corrId": "sr-1732000000000", "version": "2026-04-01"}
    return json.dumps({"kind": kind, "head": head, "data": data}, separators=(",", ":"))


class _Envelopes(Scenario):
    """The base of these: operations whose requests differ in an id only."""

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        self._payload = self.payload()
        self._id_length = len(self.new_id())

    def template(self, kind: str, **data: Any) -> Template:
        """Return a request in which `%ID%` is filled in."""
        return Template(self.requests, "POST", "/", envelope(kind, data), self._id_length)

    def new(self, promise_id: str, *, has_task: bool) -> dict[str, Any]:
        """Return what a promise is made of, with the lineage tags that SDKs give it."""
        tags = {
            "resonate:origin": "%ID%",
            "resonate:branch": promise_id if has_task else "%ID%",
            "resonate:parent": "%ID%",
            "resonate:scope": "global" if has_task else "local",
        }
        if has_task:
            tags["resonate:target"] = _TARGET
        param = {"data": self._payload} if self._payload else {}
        return {"id": promise_id, "timeoutAt": FAR_AWAY_MS, "param": param, "tags": tags}

    def end(self, promise_id: str) -> dict[str, Any]:
        """Return how a promise ends."""
        return {"id": promise_id, "state": "resolved", "value": {"data": self._payload}}

    def fulfill(self, promise_id: str, version: int) -> Template:
        """Return the request that ends a task."""
        action = {"kind": "promise.settle", "head": {}, "data": self.end(promise_id)}
        return self.template("task.fulfill", id=promise_id, version=version, action=action)

    def acquire(self, promise_id: str, version: int) -> Template:
        """Return the request that takes a task."""
        return self.template(
            "task.acquire", id=promise_id, version=version, pid="bench", ttl=_TTL_MS
        )


class EnvelopeCreate(_Envelopes):
    """Create promises, each durable before it is answered."""

    name = "envelope-create"
    summary = "create a promise through the envelope protocol"
    steps = (step("create", 200),)

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        # As little as `create` sends, so that the two can be compared.
        data: dict[str, Any] = {"id": "%ID%", "timeoutAt": FAR_AWAY_MS}
        if self._payload:
            data["param"] = {"data": self._payload}
        self._create = self.template("promise.create", **data)

    def operation(self, line: Line) -> Operation:  # noqa: ARG002
        """Return one request."""
        yield 0, self._create.fill(self.new_id())


class Hello(_Envelopes):
    """A workflow of one function, run where it was called."""

    name = "hello"
    summary = "a workflow without steps: task.create, fulfill"
    steps = (step("create", 200), step("fulfill", 200))

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        action = {"kind": "promise.create", "head": {}, "data": self.new("%ID%", has_task=True)}
        self._create = self.template("task.create", pid="bench", ttl=_TTL_MS, action=action)
        self._fulfill = self.fulfill("%ID%", 1)

    def operation(self, line: Line) -> Operation:  # noqa: ARG002
        """Return two requests."""
        identifier = self.new_id()
        yield 0, self._create.fill(identifier)
        yield 1, self._fulfill.fill(identifier)


class RemoteCall(_Envelopes):
    """A workflow that calls a function somewhere else, and waits for it."""

    name = "rpc"
    summary = "a workflow that calls another: create, acquire, fence, suspend, … fulfill"
    steps = (
        *(step("create", 200), step("acquire", 200), step("fence", 200), step("suspend", 200)),
        *(step("acquire callee", 200), step("fulfill callee", 200)),
        *(step("acquire again", 200), step("fulfill", 200)),
    )

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        callee = "%ID%.1"
        call = {"kind": "promise.create", "head": {}, "data": self.new(callee, has_task=True)}
        awaiting = {"kind": "promise.register_callback", "head": {}}
        awaiting["data"] = {"awaited": callee, "awaiter": "%ID%"}
        self._requests = (
            self.template("promise.create", **self.new("%ID%", has_task=True)),
            self.acquire("%ID%", 0),
            self.template("task.fence", id="%ID%", version=1, action=call),
            self.template("task.suspend", id="%ID%", version=1, actions=[awaiting]),
            self.acquire(callee, 0),
            self.fulfill(callee, 1),
            self.acquire("%ID%", 1),
            self.fulfill("%ID%", 2),
        )

    def operation(self, line: Line) -> Operation:  # noqa: ARG002
        """Make eight requests, one after the other, of the caller and the called worker."""
        identifier = self.new_id()
        for number, request in enumerate(self._requests):
            yield number, request.fill(identifier)


class EnvelopeTasks(_Envelopes):
    """The whole life of a task of the envelope protocol, with the worker's stream next to it."""

    name = "envelope-tasks"
    summary = "a task's cycle through the envelope protocol: create, message, acquire, fulfill"
    steps = (step("create", 200), step("acquire", 200), step("fulfill", 200))
    uses_streams = True
    streams_at_api = True

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        self._acquire = self.acquire("%ID%", 0)
        self._fulfill = self.fulfill("%ID%", 1)
        self._creates: dict[int, Template] = {}

    def stream_path(self, line: Line) -> str:
        """Return the stream of one worker; each connection is a worker."""
        return f"/{self._group()}/{line.number:0{_NUMBER_DIGITS}d}"

    def _group(self) -> str:
        return f"{self.workload.run}-{self.workload.process}"

    def _create_for(self, line: Line) -> Template:
        """Return the request for a task of this line's worker."""
        if line.number not in self._creates:
            promise = self.new("%ID%", has_task=True)
            worker = f"{self._group()}/{line.number:0{_NUMBER_DIGITS}d}"
            promise["tags"]["resonate:target"] = f"poll://uni@{worker}"
            self._creates[line.number] = self.template("promise.create", **promise)
        return self._creates[line.number]

    def operation(self, line: Line) -> Operation:
        """Return three requests and a message.

        `delivery` is the time from the create to the message, `delivery after the answer` that from
        the answer to the message: 0 where both have come together.
        """
        identifier = self.new_id()
        yield 0, self._create_for(line).fill(identifier)
        answered_ns = time.perf_counter_ns()
        while True:
            message = json.loads((yield MESSAGE, b""))
            # A message of an operation that was given up may come late.
            if message["kind"] == "execute" and message["data"]["task"]["id"] == identifier:
                break
        line.measure("delivery", line.message_ns - line.started_ns)
        line.measure("delivery after the answer", max(0, line.message_ns - answered_ns))
        yield 1, self._acquire.fill(identifier)
        yield 2, self._fulfill.fill(identifier)


class Suspend(_Envelopes):
    """A workflow that asks a person and waits: only its promises, its task and a callback stay."""

    name = "suspend"
    summary = "a workflow that suspends until a client completes a promise, and stays so"
    steps = (step("create", 200), step("fence", 200), step("suspend", 200))

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        question = "%ID%.1"
        action = {"kind": "promise.create", "head": {}, "data": self.new("%ID%", has_task=True)}
        # A question has no parameter.
        asked = {**self.new(question, has_task=False), "param": {}}
        asking = {"kind": "promise.create", "head": {}, "data": asked}
        awaiting = {"kind": "promise.register_callback", "head": {}}
        awaiting["data"] = {"awaited": question, "awaiter": "%ID%"}
        self._requests = (
            self.template("task.create", pid="bench", ttl=_TTL_MS, action=action),
            self.template("task.fence", id="%ID%", version=1, action=asking),
            self.template("task.suspend", id="%ID%", version=1, actions=[awaiting]),
        )

    def operation(self, line: Line) -> Operation:  # noqa: ARG002
        """Return three requests."""
        identifier = self.new_id()
        for number, request in enumerate(self._requests):
            yield number, request.fill(identifier)
