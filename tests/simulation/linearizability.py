"""Is there one order of all operations that explains every answer and respects real time?

A checker after Wing and Gong with Lowe's memory of configurations, in the shape of porcupine: a
`Model` says how one object behaves when its operations come one after the other, and `check` looks
for an order in which a concurrent history could have happened. An operation without an answer may
take effect at any moment after its call, or never.

The models of promises, tasks and locks are in `linear_models.py`.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Input = TypeVar("Input")
Output = TypeVar("Output")
State = TypeVar("State")


@dataclass(frozen=True)
class Operation(Generic[Input, Output]):
    """One call. Times are any numbers that order events; no answer is `output` None."""

    called: float
    input: Input
    returned: float = float("inf")
    output: Output | None = None


class Model(Protocol[Input, Output, State]):
    """How an object behaves when its operations come one after the other."""

    def partition(self, operation: Operation[Input, Output]) -> Hashable:
        """Which object an operation is about; objects are checked one by one."""
        ...

    def initial(self) -> State:
        """The object before any operation."""
        ...

    def step(self, state: State, input: Input, output: Output | None) -> tuple[bool, State]:  # noqa: A002
        """Whether `output` is right in this state (None always is), and the state afterwards."""
        ...

    def equal(self, left: State, right: State) -> bool:
        """Whether two states are the same."""
        ...


def check(
    model: Model[Input, Output, State], history: Iterable[Operation[Input, Output]]
) -> list[Hashable]:
    """The objects whose history cannot be explained; none if all is well."""
    objects: dict[Hashable, list[Operation[Input, Output]]] = {}
    for operation in history:
        objects.setdefault(model.partition(operation), []).append(operation)
    return [name for name, operations in objects.items() if not _explains(model, operations)]


def _explains(
    model: Model[Input, Output, State], operations: Sequence[Operation[Input, Output]]
) -> bool:
    """Search for an order: depth first, never twice from the same done set and state."""
    operations = sorted(operations, key=lambda operation: operation.called)
    answered = 0
    for place, operation in enumerate(operations):
        if operation.output is not None:
            answered |= 1 << place
    stack: list[tuple[int, State]] = [(0, model.initial())]
    seen: dict[int, list[State]] = {}
    while stack:
        done, state = stack.pop()
        if done & answered == answered:
            return True
        if any(model.equal(state, other) for other in seen.get(done, ())):
            continue
        seen.setdefault(done, []).append(state)
        for place in _next_places(operations, done):
            operation = operations[place]
            right, after = model.step(state, operation.input, operation.output)
            if operation.output is None and model.equal(state, after):
                continue  # whether this happened here makes no difference to anything
            if right:
                stack.append((done | 1 << place, after))
    return False


def _next_places(operations: Sequence[Operation[Input, Output]], done: int) -> list[int]:
    """The operations that may come next: called before the first of the others has returned."""
    waiting = [place for place in range(len(operations)) if not done >> place & 1]
    first_return = min(operations[place].returned for place in waiting)
    return [place for place in waiting if operations[place].called <= first_return]
