"""From a run that fails to a smaller one that fails in the same way.

What can be left out of a run has a name: a kind of clients, a fault, one occurrence of a fault;
and a run can have fewer steps. Leaving something out changes what comes after it, so each candidate
is simply run: it counts if it fails with the same kind of complaint. In the end two runs of what is
left must be the same, down to the hash of their traces.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from .clients import Clients
from .faults import TABLE
from .plan import Plan
from .simulation import SimulationFailed, simulate

TRIES_COUNT = 120
"""Each try is a run. Most failures are small after half of these."""


@dataclass(frozen=True)
class Shrunk:
    """The smallest failing run that was found. `is_repeatable`: two runs of it were the same."""

    failure: SimulationFailed
    is_repeatable: bool
    tries_count: int

    def __str__(self) -> str:
        """What a person needs to go on: how to run it, what happened, what is wrong."""
        again = "twice the same" if self.is_repeatable else "NOT REPEATABLE: look for unseeded luck"
        return (
            f"shrunk in {self.tries_count} runs, {again}:\n"
            f"    python -m tests.simulation {self.failure.plan}\n"
            f"faults left: {', '.join(self.failure.struck) or 'none'}\n"
            f"{self.failure}"
        )


def kind_of(complaint: str) -> str:
    """A complaint without what differs from run to run: ids, numbers, other complaints."""
    first = complaint.partition("\n")[0]
    return re.sub(r"\S*[\d/:_]\S*|\[.*\]|\{.*\}", "…", first)[:60]


def shrink(failure: SimulationFailed, tries_count: int = TRIES_COUNT) -> Shrunk:
    """Look for the smallest run that fails as this one did."""
    search = _Search(failure, tries_count)
    search.without_each([f"client:{kind}" for kind in Clients.KINDS])
    search.fewer_steps()
    search.without_each(name for name in TABLE if search.has_struck(name))
    search.without_halves(lambda: list(search.best.struck))
    search.fewer_steps()
    return Shrunk(search.best, search.is_repeatable(), search.tries_count)


class _Search:
    def __init__(self, failure: SimulationFailed, limit_count: int) -> None:
        self.best = failure
        self.tries_count = 0
        self._kind = kind_of(failure.complaint)
        self._limit_count = limit_count

    def has_struck(self, name: str) -> bool:
        """Whether a fault has happened in the smallest run so far."""
        return any(one.startswith(f"{name}#") for one in self.best.struck)

    def _fails(self, plan: Plan) -> bool:
        """Try a run; if it fails in the same way, it is the best so far."""
        if self.tries_count >= self._limit_count:
            return False
        self.tries_count += 1
        failure = _run(plan)
        if failure is None or kind_of(failure.complaint) != self._kind:
            return False
        self.best = failure
        return True

    def _fails_without(self, names: Iterable[str]) -> bool:
        plan = self.best.plan
        return self._fails(replace(plan, without=plan.without | frozenset(names)))

    def without_each(self, names: Iterable[str]) -> None:
        """Leave out one after the other what is not needed."""
        for name in list(names):
            if self.has_struck(name) or name.startswith("client:"):
                self._fails_without([name])

    def without_halves(self, names: Callable[[], list[str]]) -> None:
        """Leave out occurrences of faults: halves, then quarters, down to single ones."""
        size = max(1, len(names()) // 2)
        while True:
            for start in range(0, len(names()), size):
                part = names()[start : start + size]
                if part:
                    self._fails_without(part)
            if size == 1 or self.tries_count >= self._limit_count:
                return
            size = max(1, size // 2)

    def fewer_steps(self) -> None:
        """Halve the run's length as long as it still fails."""
        while self.best.plan.steps_count > 10 and self._fails(
            replace(self.best.plan, steps_count=self.best.plan.steps_count // 2)
        ):
            pass

    def is_repeatable(self) -> bool:
        """Whether two more runs of the best one are the same as it."""
        again = [_run(self.best.plan) for _ in range(2)]
        return all(
            one is not None
            and (one.trace_hash, one.complaint) == (self.best.trace_hash, self.best.complaint)
            for one in again
        )


def _run(plan: Plan) -> SimulationFailed | None:
    try:
        simulate(plan)
    except SimulationFailed as failure:
        return failure
    return None
