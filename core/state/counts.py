"""How many promises and tasks of a shard are in each state, as `apply` counts them.

Whatever changes a state says so here, live and on replay alike, so the numbers are exact at any
moment and cost the same with one promise and with millions. Checkpoints keep them (`ShardHeader`).

Entities of clients are counted apart from the server's own. A function task is a promise and its
leased task, so it is in two of the tables; packages of builds are in none.
"""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from troth.core.catalog import EXECUTION_PREFIX, RESERVED_PREFIX
from troth.core.model import PENDING, Promise, PromiseState, TaskState
from troth.core.workflows import FULFILLED, WorkflowState


def _promises() -> dict[PromiseState, int]:
    return dict.fromkeys(PromiseState, 0)


def _tasks() -> dict[TaskState, int]:
    return dict.fromkeys(TaskState, 0)


def _workflows() -> dict[WorkflowState, int]:
    return dict.fromkeys(WorkflowState, 0)


class Counts(Struct, gc=False):
    """Counts by state: promises, REST's tasks and the envelope protocol's, all of clients.

    `functions` counts function tasks by the states of their promises, `function_leases` by those of
    the tasks that nodes claim.
    """

    promises: dict[PromiseState, int]
    tasks: dict[TaskState, int]
    workflows: dict[WorkflowState, int]
    functions: dict[PromiseState, int]
    function_leases: dict[TaskState, int]

    @classmethod
    def zero(cls) -> "Counts":
        """Return the counts of an empty shard."""
        return cls(_promises(), _tasks(), _workflows(), _promises(), _tasks())

    def copy(self) -> "Counts":
        """Return a copy, which later changes do not touch."""
        return Counts(
            dict(self.promises),
            dict(self.tasks),
            dict(self.workflows),
            dict(self.functions),
            dict(self.function_leases),
        )

    def add(self, other: "Counts") -> None:
        """Add the counts of another shard."""
        for state, count in other.promises.items():
            self.promises[state] += count
        for task_state, count in other.tasks.items():
            self.tasks[task_state] += count
        for workflow_state, count in other.workflows.items():
            self.workflows[workflow_state] += count
        for state, count in other.functions.items():
            self.functions[state] += count
        for task_state, count in other.function_leases.items():
            self.function_leases[task_state] += count

    def numbers(self) -> tuple[int, ...]:
        """Return all counts, in an order that is always the same."""
        return (
            *self.promises.values(),
            *self.tasks.values(),
            *self.workflows.values(),
            *self.functions.values(),
            *self.function_leases.values(),
        )

    @classmethod
    def of_numbers(cls, numbers: Iterable[int]) -> "Counts":
        """Return the counts that have these numbers, or whose sums these are."""
        each = iter(numbers)
        made = cls.zero()
        tables: tuple[dict[Any, int], ...] = (
            made.promises,
            made.tasks,
            made.workflows,
            made.functions,
            made.function_leases,
        )
        for table in tables:
            for state in table:
                table[state] = next(each)
        return made

    @property
    def unfinished_tasks_count(self) -> int:
        """Return how many leased tasks are not finished."""
        return sum(
            table[state]
            for table in (self.tasks, self.function_leases)
            for state in (TaskState.INIT, TaskState.ENQUEUED, TaskState.CLAIMED)
        )

    # Promises

    def _promises_like(self, promise_id: str) -> dict[PromiseState, int] | None:
        if not promise_id.startswith(RESERVED_PREFIX):
            return self.promises
        return self.functions if promise_id.startswith(EXECUTION_PREFIX) else None

    def promise_added(self, promise_id: str, state: PromiseState) -> None:
        """Count a promise that is new."""
        table = self._promises_like(promise_id)
        if table is not None:
            table[state] += 1

    def promise_completed(self, promise_id: str, state: PromiseState) -> None:
        """Count that a pending promise has completed."""
        table = self._promises_like(promise_id)
        if table is not None:
            table[PENDING] -= 1
            table[state] += 1

    def completed_added(self, promise: Promise) -> None:
        """Count a promise that was completed when it came, with what is left of its task."""
        self.promise_added(promise.id, promise.state)
        if promise.task_version is not None:
            self.workflows[FULFILLED] += 1

    def promise_deleted(self, promise: Promise) -> None:
        """Count that a completed promise is gone, with what was left of its task."""
        table = self._promises_like(promise.id)
        if table is not None:
            table[promise.state] -= 1
        if promise.task_version is not None:
            self.workflows[FULFILLED] -= 1

    # Tasks

    def tasks_like(self, root_id: str) -> dict[TaskState, int]:
        """Return where a task with this root is counted, to be changed with its state."""
        return self.function_leases if root_id.startswith(RESERVED_PREFIX) else self.tasks

    def workflow_moved(self, was: WorkflowState, state: WorkflowState) -> None:
        """Count that the state of a workflow task has changed."""
        self.workflows[was] -= 1
        self.workflows[state] += 1
