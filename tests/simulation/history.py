"""Who asked what when, and what the answer was: histories for the checker of linearizability."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from itertools import count

from troth.core.codes import Code
from troth.core.commands import (
    AcquireLock,
    ClaimTask,
    Command,
    CompletePromise,
    CompleteTask,
    CreateCallback,
    CreatePromise,
    CreateSubscription,
    DeletePromise,
    ReadPromise,
    ReleaseLock,
)
from troth.core.replies import Reply
from troth.core.workflow_commands import (
    CreateWorkflow,
    EnsurePromise,
    FulfillWorkflow,
    SettlePromise,
)
from troth.persistence.placement import by_id

from .lease_models import Absence, LeasedLockModel, LeasedTaskModel, LockOperation, TimedLock
from .linearizability import Operation, PromiseModel, check
from .workflow_models import WorkflowModel, is_about_workflows

TIMELESS = ("race/", "job/", "parent/", "flow/", "deleted/")
"""Promises that nobody lets time out, but for timers."""


class Call:
    """One call under way."""

    def __init__(self) -> None:
        self.reply: Reply | None = None
        self.answered_ms = 0

    def answered(self, reply: Reply, now_ms: int) -> None:
        """The caller was told this, at this time of the server."""
        self.reply = reply
        self.answered_ms = now_ms


class History:
    """All calls of a run that the models know."""

    def __init__(self, groups: tuple[int, ...] = (0,)) -> None:
        """Note nothing yet. `groups` has the group of each shard; each has its own absences."""
        self.promises: list[Operation[Command, Reply]] = []
        self.tasks: list[Operation[Command, Reply]] = []
        self.locks: list[LockOperation] = []
        self.workflows: list[Operation[Command, Reply]] = []
        self.absences: list[list[Absence]] = [[] for _ in range(max(groups) + 1)]
        self._groups = groups
        self._times = count()

    @contextmanager
    def call(self, command: Command, asked_ms: int) -> Iterator[Call]:
        """Note a call from beginning to end; without `answered`, nobody knows its outcome."""
        call, called = Call(), next(self._times)
        try:
            yield call
        finally:
            returned = float("inf") if call.reply is None else next(self._times)
            self._note(command, called, returned, call, asked_ms)

    def _note(
        self, command: Command, called: float, returned: float, call: Call, asked_ms: int
    ) -> None:
        reply = call.reply
        if is_about_workflows(command):
            self.workflows.append(Operation(called, command, returned, reply))
        match command:
            case (
                CreatePromise()
                | CompletePromise()
                | ReadPromise()
                | DeletePromise()
                | EnsurePromise()
                | SettlePromise()
                | FulfillWorkflow()
                | CreateWorkflow()
            ):
                if command.id.startswith(TIMELESS) and not command.id.endswith("/timer"):
                    self.promises.append(Operation(called, command, returned, reply))
            case CreateCallback() | CreateSubscription():
                if reply is not None and reply.promise is not None:
                    # It shows its promise as it is: as good as a read.
                    read = ReadPromise(command.promise_id)
                    shown = Reply(Code.OK, promise=reply.promise)
                    if read.id.startswith(TIMELESS):
                        self.promises.append(Operation(called, read, returned, shown))
            case ClaimTask() | CompleteTask():
                self.tasks.append(Operation(called, command, returned, reply))
            case AcquireLock() | ReleaseLock():
                timed = TimedLock(command, asked_ms, call.answered_ms)
                self.locks.append(Operation(called, timed, returned, reply))

    @property
    def operations_count(self) -> int:
        """How many operations the models judge."""
        return len(self.promises) + len(self.tasks) + len(self.locks) + len(self.workflows)

    def unexplained(self) -> list[str]:
        """The promises, tasks' roots and locks whose history has no explanation."""
        workflows = WorkflowModel(has_links=len(self.absences) > 1)
        return [
            *(f"promise {one}" for one in check(PromiseModel(), self.promises)),
            *(f"root {one}" for one in check(LeasedTaskModel(), self.tasks)),
            *(f"workflow {one}" for one in check(workflows, self.workflows)),
            *(f"lock {one}" for one in self._unexplained_locks()),
        ]

    def _unexplained_locks(self) -> Iterator[Hashable]:
        """The same for locks: they last longer by the absences of their groups."""
        for group, absences in enumerate(self.absences):
            yield from check(
                LeasedLockModel(absences),
                [one for one in self.locks if self._group_of(one) == group],
            )

    def _group_of(self, operation: LockOperation) -> int:
        shard = by_id(len(self._groups))(operation.input.command.resource_id)
        return self._groups[shard]
