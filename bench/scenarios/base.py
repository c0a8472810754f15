"""The work of clients: a scenario is one kind of operation, made of one or more requests.

An operation is a generator. It yields `(step, request)` and is sent the body of the answer; the
status was checked before against the step's. `PREPARE` as step: the request is not measured, and
the operation's clock starts after it. `MESSAGE` as step (without request) waits for the next
message of the lane's stream and is sent that. When the generator returns, the operation is done.
"""

import base64
import bisect
import itertools
import random
from collections.abc import Callable, Generator
from typing import ClassVar, Final, NamedTuple, Protocol

from troth.bench.wire import Requests
from troth.bench.workload import Workload

PREPARE: Final = -1
MESSAGE: Final = -2

Operation = Generator[tuple[int, bytes], bytes, None]


class RequestStep(NamedTuple):
    """One request of an operation: its name in reports and the statuses that mean success."""

    name: str
    statuses: frozenset[int]


class Line(Protocol):
    """The connection that an operation runs on, as the operation sees it."""

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
    """Operations of another scenario that must be done before a scenario starts."""

    scenario: str
    operations_count: int
    tagged: bool = False


def step(name: str, *statuses: int) -> RequestStep:
    """Return a step that succeeds with these statuses."""
    return RequestStep(name, frozenset(statuses))


class Scenario:
    """The base of all scenarios: one object for each load process, shared by its connections."""

    name: ClassVar[str]
    summary: ClassVar[str]
    steps: tuple[RequestStep, ...]
    uses_streams: ClassVar[bool] = False
    streams_at_api: ClassVar[bool] = False
    """Whether these are streams of the envelope protocol, which only the API's address has."""
    prepares: ClassVar[bool] = False
    """Whether some requests of an operation are not measured: then throughput says little."""
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
        """Return what must be created first."""
        return []

    def operation(self, line: Line) -> Operation:
        """Begin one operation."""
        raise NotImplementedError

    def stream_path(self, line: Line) -> str | None:  # noqa: ARG002
        """Return `/{group}/{id}` of the stream that a connection needs as well, or None."""
        return None

    def new_id(self) -> str:
        """Return an unused id; all have the same length."""
        number = next(self._numbers)
        if self.workload.distribution == "sequential":
            return f"{self._prefix}{number:010d}"
        return f"{self._prefix}{self.source.getrandbits(96):024x}"

    def key(self) -> Callable[[], int]:
        """Return a function that chooses a number below the workload's `keys`."""
        return _chooser(self.workload, self.source)

    def payload(self) -> str:
        """Return base64 of as many bytes as the payload has."""
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
        """Initialize. The id goes where path or body has `%ID%`."""
        placeholder = "%ID%"
        length = len(body.encode())
        length += body.count(placeholder) * (id_length - len(placeholder))
        head = requests.head(method, path, length).decode()
        self._parts = [part.encode() for part in (head + body).split(placeholder)]

    def fill(self, identifier: str) -> bytes:
        """Return the request for one id."""
        return identifier.encode().join(self._parts)
