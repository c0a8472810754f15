"""What clients do: each scenario is one kind of operation, made of one or more requests.

An operation is a generator. It yields `(step, request)` and is sent the body of the answer; the
status was checked before against the step's. `PREPARE` as step: the request is not measured, and
the operation's clock starts after it. `MESSAGE` as step (without request) waits for the next
message of the lane's stream and is sent that. When the generator returns, the operation is done.
"""

import base64
import bisect
import dataclasses
import itertools
import json
import random
from collections.abc import Callable, Generator
from typing import Any, ClassVar, Final, NamedTuple, Protocol

from .wire import Requests
from .workload import FAR_AWAY_MS, Workload

PREPARE: Final = -1
MESSAGE: Final = -2
DELIVERY_TIMEOUT_MS: Final = 5_000
"""A resume that nobody claims is not sent again after this."""

TEAMS: Final = 10
"""How many values the tag `team` of promises to search has."""
SPREAD_STEPS: Final = 1000
"""Time-outs that are spread are so many different ones."""

Operation = Generator[tuple[int, bytes], bytes, None]


class RequestStep(NamedTuple):
    """One request of an operation: its name in reports and the statuses that mean success."""

    name: str
    statuses: frozenset[int]


class Line(Protocol):
    """What an operation may ask of the connection it runs on."""

    number: int
    started_ns: int
    """When the operation was to start."""
    sent_ns: int
    """When its last request was sent."""
    message_ns: int
    """When the last message of the stream came."""

    def measure(self, name: str, duration_ns: int) -> None:
        """Report a duration under a name of its own."""


class Preparation(NamedTuple):
    """What must be on the server before a scenario starts: operations of another scenario."""

    scenario: str
    operations_count: int
    tagged: bool = False


def step(name: str, *statuses: int) -> RequestStep:
    """Return a step that succeeds with these statuses."""
    return RequestStep(name, frozenset(statuses))


class Scenario:
    """The base of all: one object a load process, shared by its connections."""

    name: ClassVar[str]
    summary: ClassVar[str]
    steps: tuple[RequestStep, ...]
    uses_streams: ClassVar[bool] = False
    prepares: ClassVar[bool] = False
    """Whether operations have requests that are not measured: then throughput says little."""
    writes: ClassVar[bool] = True
    """Whether every operation leaves something on the disk."""

    def __init__(self, workload: Workload, requests: Requests) -> None:
        self.workload = workload
        self.requests = requests
        self.source = random.Random(workload.seed * 1009 + workload.process)  # noqa: S311
        self._numbers = itertools.count()
        self._prefix = f"{workload.run}-{workload.process}-"

    @classmethod
    def preparations(cls, workload: Workload) -> list[Preparation]:  # noqa: ARG003
        """Return what is to be created first."""
        return []

    def operation(self, line: Line) -> Operation:
        """Begin one operation."""
        raise NotImplementedError

    def stream_path(self, line: Line) -> str | None:  # noqa: ARG002
        """`/{group}/{id}` of the stream that a connection needs beside it; None: none."""
        return None

    def new_id(self) -> str:
        """Return an unused id; all have the same length."""
        number = next(self._numbers)
        if self.workload.distribution == "sequential":
            return f"{self._prefix}{number:010d}"
        return f"{self._prefix}{self.source.getrandbits(96):024x}"

    def key(self) -> Callable[[], int]:
        """Return a function that chooses among `keys` things."""
        return _chooser(self.workload, self.source)

    def payload(self) -> str:
        """Base64 of as many bytes as the payload has."""
        return base64.b64encode(self.source.randbytes(self.workload.payload_bytes)).decode()


def _chooser(workload: Workload, source: random.Random) -> Callable[[], int]:
    count = workload.keys
    if workload.distribution == "sequential":
        numbers = itertools.cycle(range(count))
        return lambda: next(numbers)
    if workload.distribution == "uniform":
        return lambda: source.randrange(count)
    shares = list(itertools.accumulate(1 / rank for rank in range(1, count + 1)))
    return lambda: bisect.bisect_left(shares, source.random() * shares[-1])


class Template:
    """A request in which only an id changes, always of the same length: made once, filled often."""

    def __init__(self, requests: Requests, method: str, path: str, body: str, id_length: int):
        """The id goes where path or body has `%ID%`."""
        placeholder = "%ID%"
        length = len(body.encode())
        length += body.count(placeholder) * (id_length - len(placeholder))
        head = requests.head(method, path, length).decode()
        self._parts = [part.encode() for part in (head + body).split(placeholder)]

    def fill(self, identifier: str) -> bytes:
        """Return the request for one id."""
        return identifier.encode().join(self._parts)


class Create(Scenario):
    """Create promises, each durable before it is answered."""

    name = "create"
    summary = "create a promise"
    steps: tuple[RequestStep, ...] = (step("create", 201),)

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        body: dict[str, Any] = {"id": "%ID%", "timeout": workload.timeout_ms}
        if workload.payload_bytes:
            body["param"] = {"data": self.payload()}
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
    """The whole life of a task, with the worker's stream beside the connection."""

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
    summary = "heartbeats of --holders processes, each of which holds a task"
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


class Mixed(Scenario):
    """Operations of several scenarios, by weight."""

    name = "mixed"
    summary = "operations of several scenarios (by default: reads, creates, locks, searches)"
    writes = False  # not every one
    default_mix: ClassVar[dict[str, float]] = {
        "read": 40,
        "create": 30,
        "create-complete": 15,
        "locks": 10,
        "search": 5,
    }

    def __init__(self, workload: Workload, requests: Requests) -> None:
        super().__init__(workload, requests)
        mix = workload.mix or self.default_mix
        self._parts: list[tuple[Scenario, int]] = []
        steps: list[RequestStep] = []
        for number, name in enumerate(mix):
            # Each part counts its ids from 0, so each needs ids that begin differently.
            own = dataclasses.replace(workload, run=f"{workload.run}m{number}", mix={})
            part = SCENARIOS[name](own, requests)
            self._parts.append((part, len(steps)))
            steps += [RequestStep(f"{name}: {one.name}", one.statuses) for one in part.steps]
        self.steps = tuple(steps)
        self._shares = list(itertools.accumulate(mix.values()))

    @classmethod
    def preparations(cls, workload: Workload) -> list[Preparation]:
        """Return what any part needs, once."""
        mix = workload.mix or cls.default_mix
        wanted = [one for name in mix for one in SCENARIOS[name].preparations(workload)]
        return list(dict.fromkeys(wanted))

    def operation(self, line: Line) -> Operation:
        """Return one operation of one of the scenarios."""
        chosen = bisect.bisect_left(self._shares, self.source.random() * self._shares[-1])
        part, offset = self._parts[chosen]
        inner = part.operation(line)
        answer = None
        while True:
            try:
                number, request = inner.send(answer) if answer is not None else next(inner)
            except StopIteration:
                return
            answer = yield (number + offset if number >= 0 else number), request


SCENARIOS: Final[dict[str, type[Scenario]]] = {
    kind.name: kind
    for kind in (
        *(Create, CreateComplete, Read, Tasks, FanOut, Searches, Locks, Heartbeats, Schedules),
        *(Mixed, Claims, Echo),
    )
}
"""Every scenario by name."""

PUBLIC: Final = tuple(name for name in SCENARIOS if name not in {"claimed", "echo"})
"""Those that users ask for; the others serve them."""

MIXABLE: Final = tuple(
    name for name in PUBLIC if name != "mixed" and not SCENARIOS[name].uses_streams
)
"""Those that a mix may contain: those that need no stream beside the connection."""
