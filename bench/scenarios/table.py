"""All scenarios by name, and the one that is made of others."""

import bisect
import dataclasses
import itertools
from typing import ClassVar, Final

from troth.bench.wire import Requests
from troth.bench.workload import Workload

from .base import Line, Operation, Preparation, RequestStep, Scenario
from .envelope import EnvelopeCreate, EnvelopeTasks, Hello, RemoteCall, Suspend
from .rest import (
    Claims,
    Create,
    CreateBatch,
    CreateComplete,
    Echo,
    FanOut,
    Heartbeats,
    Locks,
    Read,
    Schedules,
    Searches,
    Tasks,
)
from .steps import WorkerStep, WorkerWorkflow


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
        *(
            Create,
            CreateBatch,
            CreateComplete,
            Read,
            Tasks,
            WorkerStep,
            WorkerWorkflow,
            FanOut,
            Searches,
            Locks,
            Heartbeats,
            Schedules,
        ),
        *(EnvelopeCreate, EnvelopeTasks, Hello, RemoteCall, Suspend, Mixed, Claims, Echo),
    )
}
"""Every scenario by name."""

PUBLIC: Final = tuple(name for name in SCENARIOS if name not in {"claimed", "echo"})
"""Those that users ask for; the others serve them."""

MIXABLE: Final = tuple(
    name for name in PUBLIC if name != "mixed" and not SCENARIOS[name].uses_streams
)
"""Those that a mix may contain: those that need no stream in addition to the connection."""

SETS: Final = {"envelope": ("create", "envelope-create", "hello", "rpc")}
"""Scenarios that are asked for together, by the name of the set. That of the envelope protocol has
creates through REST at the same time."""
