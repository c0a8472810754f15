"""Is there one order of all operations that explains every answer and respects real time?

A checker after Wing and Gong with Lowe's memory of configurations, in the shape of porcupine: a
`Model` says how one object behaves when its operations come one after the other, and `check` looks
for an order in which a concurrent history could have happened. An operation without an answer may
take effect at any moment after its call, or never.

`PromiseModel` is written from the API's specification and shares no code with the server.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from troth.core.codes import Code
from troth.core.commands import (
    AcquireLock,
    ClaimTask,
    Command,
    CompletePromise,
    CompleteTask,
    CreatePromise,
    DeletePromise,
    DropTask,
    ReadPromise,
    ReleaseLock,
)
from troth.core.model import PromiseState
from troth.core.replies import Reply
from troth.core.workflow_commands import (
    CreateWorkflow,
    EnsurePromise,
    FulfillWorkflow,
    SettlePromise,
)

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


PromiseCommand = (
    *(CreatePromise, CompletePromise, ReadPromise, DeletePromise),
    *(EnsurePromise, SettlePromise, FulfillWorkflow, CreateWorkflow),
)
"""What creates, ends, reads and deletes promises, through either API."""


@dataclass(frozen=True)
class Known:
    """A promise as the model knows it."""

    state: PromiseState
    create_key: str | None
    complete_key: str | None = None
    data: str | None = None


_REFUSALS = {
    PromiseState.RESOLVED: Code.PROMISE_RESOLVED,
    PromiseState.REJECTED: Code.PROMISE_REJECTED,
    PromiseState.REJECTED_CANCELED: Code.PROMISE_CANCELED,
}


_STAYS = (Code.PROMISE_IN_USE, Code.ORIGIN_PENDING)
"""Why a completed promise is not deleted yet: something that this model does not know."""


class PromiseModel:
    """A promise that nobody lets time out: created once, completed once, until it is deleted."""

    def partition(self, operation: Operation[Command, Reply]) -> Hashable:
        command = operation.input
        assert isinstance(command, PromiseCommand)
        return command.id

    def initial(self) -> Known | None:
        return None

    def equal(self, left: Known | None, right: Known | None) -> bool:
        return left == right

    def step(
        self,
        state: Known | None,
        input: Command,  # noqa: A002
        output: Reply | None,
    ) -> tuple[bool, Known | None]:
        code, after = self._expected(state, input)
        if output is None:
            return True, after
        if isinstance(input, DeletePromise) and output.code in _STAYS:
            return state is not None and state.state is not PromiseState.PENDING, state
        if output.code is Code.TASK_FENCED:
            return getattr(input, "fence", None) is not None, state
        if output.code in (Code.TASK_NOT_FOUND, Code.WORKFLOW_STATE, Code.WORKFLOW_VERSION):
            is_guarded = isinstance(input, FulfillWorkflow | CreateWorkflow)
            return is_guarded or getattr(input, "fence", None) is not None, state
        if output.code is not code:
            return False, state
        if code.status >= 300 or after is None:
            return True, after
        shown = output.promise
        right = shown is not None and (shown.state, shown.value.data) == (after.state, after.data)
        return right, after

    def _expected(self, state: Known | None, command: Command) -> tuple[Code, Known | None]:
        if isinstance(command, EnsurePromise | CreateWorkflow):
            return Code.OK, state or Known(PromiseState.PENDING, None)
        if isinstance(command, CreatePromise):
            if state is None:
                return Code.CREATED, Known(PromiseState.PENDING, command.idempotency_key)
            matches = state.create_key is not None and state.create_key == command.idempotency_key
            pending = state.state is PromiseState.PENDING
            allowed = matches and (pending or not command.strict)
            return (Code.OK if allowed else Code.PROMISE_EXISTS), state
        if state is None:
            return Code.PROMISE_NOT_FOUND, None
        if isinstance(command, ReadPromise):
            return Code.OK, state
        if isinstance(command, DeletePromise):
            is_pending = state.state is PromiseState.PENDING
            return (Code.PROMISE_PENDING, state) if is_pending else (Code.NO_CONTENT, None)
        if isinstance(command, SettlePromise | FulfillWorkflow):
            if state.state is not PromiseState.PENDING:
                return Code.OK, state
            return Code.OK, Known(command.state, state.create_key, None, command.value.data)
        assert isinstance(command, CompletePromise)
        if state.state is PromiseState.PENDING:
            return Code.CREATED, Known(
                command.state, state.create_key, command.idempotency_key, command.value.data
            )
        matches = state.complete_key is not None and state.complete_key == command.idempotency_key
        allowed = matches and (not command.strict or state.state is command.state)
        return (Code.OK if allowed else _REFUSALS[state.state]), state


class LockModel:
    """A lock whose lease never runs out: who holds it, if anybody does."""

    def partition(self, operation: Operation[Command, Reply]) -> Hashable:
        command = operation.input
        assert isinstance(command, AcquireLock | ReleaseLock)
        return command.resource_id

    def initial(self) -> str | None:
        return None

    def equal(self, left: str | None, right: str | None) -> bool:
        return left == right

    def step(
        self,
        state: str | None,
        input: Command,  # noqa: A002
        output: Reply | None,
    ) -> tuple[bool, str | None]:
        if isinstance(input, AcquireLock):
            is_free = state in (None, input.execution_id)
            code = Code.CREATED if is_free else Code.LOCK_HELD
            after = input.execution_id if is_free else state
        else:
            assert isinstance(input, ReleaseLock)
            is_own = state == input.execution_id
            code = Code.NO_CONTENT if is_own else Code.LOCK_NOT_FOUND
            after = None if is_own else state
        return output is None or output.code is code, after


@dataclass(frozen=True)
class Root:
    """A root promise and its invoke task, which nobody is sent and whose lease never runs out."""

    is_pending: bool = True
    is_claimed: bool = False
    is_over: bool = False
    counter: int = 1


class RootModel:
    """The task of a root promise: claimed by one at a time, over when the promise or it is.

    Requests on its behalf make a promise each, as long as it is claimed.
    """

    def partition(self, operation: Operation[Command, Reply]) -> Hashable:
        command = operation.input
        assert isinstance(
            command, CreatePromise | CompletePromise | ClaimTask | CompleteTask | DropTask
        )
        fence = getattr(command, "fence", None)
        name = command.id if fence is None else fence.task_id
        return name.removeprefix("__invoke:")

    def initial(self) -> Root | None:
        return None

    def equal(self, left: Root | None, right: Root | None) -> bool:
        return left == right

    def step(
        self,
        state: Root | None,
        input: Command,  # noqa: A002
        output: Reply | None,
    ) -> tuple[bool, Root | None]:
        code, after = self._expected(state, input)
        return output is None or output.code is code, after

    def _expected(self, state: Root | None, command: Command) -> tuple[Code, Root | None]:
        if isinstance(command, CreatePromise) and command.fence is not None:
            holds = state is not None and state.is_claimed
            is_held = holds and state is not None and command.fence.counter == state.counter
            return (Code.CREATED if is_held else Code.TASK_FENCED), state
        if isinstance(command, CreatePromise):
            return (Code.CREATED, Root()) if state is None else (Code.PROMISE_EXISTS, state)
        if isinstance(command, CompletePromise):
            if state is None:
                return Code.PROMISE_NOT_FOUND, None
            if not state.is_pending:
                return Code.PROMISE_RESOLVED, state
            return Code.CREATED, replace(state, is_pending=False, is_claimed=False, is_over=True)
        if state is None:
            return Code.TASK_NOT_FOUND, None
        assert isinstance(command, ClaimTask | CompleteTask | DropTask)
        is_current = command.counter == state.counter
        if isinstance(command, ClaimTask):
            return self._claimed(state, is_current)
        if state.is_over and isinstance(command, CompleteTask):
            return Code.OK, state
        if not state.is_claimed:
            return (Code.OK if isinstance(command, DropTask) else Code.TASK_STATE), state
        if not is_current:
            return Code.TASK_COUNTER, state
        if isinstance(command, CompleteTask):
            return Code.CREATED, replace(state, is_claimed=False, is_over=True)
        return Code.CREATED, replace(state, is_claimed=False, counter=state.counter + 1)

    def _claimed(self, state: Root, is_current: bool) -> tuple[Code, Root]:
        if state.is_claimed:
            return Code.TASK_CLAIMED, state
        if state.is_over:
            return Code.TASK_COMPLETED, state
        if not is_current:
            return Code.TASK_COUNTER, state
        return Code.CREATED, replace(state, is_claimed=True)
