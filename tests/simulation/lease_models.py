"""Models of tasks and locks whose leases run out, as those of whole simulations do.

Those in `linearizability.py` are stricter, and need clients that never let a lease run out. What
the server does by itself is allowed here wherever its time may have come.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from troth.core.codes import Code
from troth.core.commands import AcquireLock, ClaimTask, Command, CompleteTask, ReleaseLock
from troth.core.replies import Reply

from .linearizability import Operation


@dataclass(frozen=True)
class TaskKnown:
    """What is known of a task: the last counter that was claimed, and whether it is finished."""

    claimed_counter: int = 0
    is_finished: bool = False


Tasks = tuple[tuple[str, TaskKnown], ...]


class LeasedTaskModel:
    """The tasks of one root. A lease may be lost at any time; then the counter has grown."""

    def partition(self, operation: Operation[Command, Reply]) -> Hashable:
        command = operation.input
        assert isinstance(command, ClaimTask | CompleteTask)
        return command.id.split(":")[1]

    def initial(self) -> Tasks:
        return ()

    def equal(self, left: Tasks, right: Tasks) -> bool:
        return left == right

    def step(
        self,
        state: Tasks,
        input: Command,  # noqa: A002
        output: Reply | None,
    ) -> tuple[bool, Tasks]:
        assert isinstance(input, ClaimTask | CompleteTask)
        tasks = dict(state)
        known = tasks.get(input.id, TaskKnown())
        if isinstance(input, ClaimTask):
            right, after = self._claim(known, input.counter, output)
        else:
            right, after = self._complete(known, input.counter, output)
        tasks[input.id] = after
        return right, tuple(sorted(tasks.items(), key=lambda item: item[0]))

    def _claim(
        self, known: TaskKnown, counter: int, output: Reply | None
    ) -> tuple[bool, TaskKnown]:
        is_free = not known.is_finished and counter > known.claimed_counter
        if output is None or output.code is Code.CREATED:
            after = TaskKnown(counter) if is_free else known
            return output is None or is_free, after
        if output.code is Code.TASK_CLAIMED:
            return known.claimed_counter > 0 and not known.is_finished, known
        if output.code is Code.TASK_COMPLETED:
            return True, TaskKnown(known.claimed_counter, is_finished=True)
        return output.code in (Code.TASK_COUNTER, Code.TASK_NOT_FOUND), known

    def _complete(
        self, known: TaskKnown, counter: int, output: Reply | None
    ) -> tuple[bool, TaskKnown]:
        is_held = not known.is_finished and counter == known.claimed_counter
        finished = TaskKnown(known.claimed_counter, is_finished=True)
        if output is None or output.code is Code.CREATED:
            return output is None or is_held, finished if is_held else known
        if output.code is Code.OK:
            return True, finished  # its promise may have ended, and the task with it
        return output.code in (Code.TASK_COUNTER, Code.TASK_STATE, Code.TASK_NOT_FOUND), known


@dataclass(frozen=True)
class TimedLock:
    """A call about a lock, and between which times of the server it was carried out."""

    command: AcquireLock | ReleaseLock
    asked_ms: int
    answered_ms: int


LockOperation = Operation[TimedLock, Reply]


# So long before a power cut, that a lock's time was over may not be on disk yet.
UNSYNCED_MS = 10_000


@dataclass(frozen=True)
class Absence:
    """The server was away from `since_ms` on, and came back between the next two times.

    Whatever is held then has its full time again; also what was over on its clock by at most
    `unsynced_ms`, which is more where that clock was set forward meanwhile.
    """

    since_ms: int
    resumed_from_ms: int
    resumed_until_ms: int
    unsynced_ms: int = UNSYNCED_MS


@dataclass(frozen=True)
class Held:
    """A lock that is held; `until_ms` is None if nobody knows until when."""

    execution_id: str
    until_ms: int | None
    ttl_ms: int = 0

    def may_be_over(self, at_ms: int, absences: Sequence[Absence] = ()) -> bool:
        """Whether it may have run out by then."""
        if self.until_ms is None:
            return True
        least_ms = self.until_ms
        for absence in absences:
            if self.until_ms - self.ttl_ms < absence.since_ms < least_ms:
                least_ms = max(least_ms, absence.resumed_from_ms + self.ttl_ms)
        return least_ms <= at_ms

    def may_run(self, at_ms: int, absences: Sequence[Absence] = ()) -> bool:
        """Whether it may not have run out by then."""
        if self.until_ms is None:
            return True
        most_ms = self.until_ms
        for absence in absences:
            if absence.since_ms < most_ms + absence.unsynced_ms:
                most_ms = max(most_ms, absence.resumed_until_ms + self.ttl_ms)
        return most_ms > at_ms


class LeasedLockModel:
    """A lock with a lease, that nobody renews by heartbeats."""

    def __init__(self, absences: Sequence[Absence] = ()) -> None:
        self._absences = absences

    def partition(self, operation: LockOperation) -> Hashable:
        return operation.input.command.resource_id

    def initial(self) -> Held | None:
        return None

    def equal(self, left: Held | None, right: Held | None) -> bool:
        return left == right

    def step(
        self,
        state: Held | None,
        input: TimedLock,  # noqa: A002
        output: Reply | None,
    ) -> tuple[bool, Held | None]:
        command = input.command
        is_own = state is not None and state.execution_id == command.execution_id
        if isinstance(command, ReleaseLock):
            if output is None:
                return True, None if is_own else state
            if output.code is Code.NO_CONTENT:
                return is_own, None
            is_gone = not is_own or (
                state is not None and state.may_be_over(input.answered_ms, self._absences)
            )
            return output.code is Code.LOCK_NOT_FOUND and is_gone, state
        if output is None:
            return True, Held(command.execution_id, None, command.ttl)
        if output.lock is not None and output.code is Code.CREATED:
            granted_ms = output.lock.expires_at - command.ttl
            is_free = state is None or is_own or state.may_be_over(granted_ms, self._absences)
            return is_free, Held(command.execution_id, output.lock.expires_at, command.ttl)
        is_held = state is not None and not is_own
        still = state is not None and state.may_run(input.asked_ms, self._absences)
        return output.code is Code.LOCK_HELD and is_held and still, state
