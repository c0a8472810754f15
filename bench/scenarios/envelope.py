"""The operations of clients of the envelope protocol: what current Resonate SDKs send.

All are requests of `POST /`, and the worker's answers are not waited for on a stream: what a server
does for an operation is the same, and the generator has less to do.
"""

import json
from collections.abc import Mapping
from typing import Any

from troth.bench.wire import Requests
from troth.bench.workload import FAR_AWAY_MS, Workload

from .base import Line, Operation, Scenario, Template, step

_TTL_MS = 60_000
# Tasks are claimed here as soon as they may be; no worker listens for them.
_TARGET = "poll://any@bench"


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
