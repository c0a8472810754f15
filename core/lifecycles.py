"""The life cycles of promises, tasks and workflow tasks, as tables.

Rules of this file: every transition of a life cycle is here and nowhere else; the tables hold no
conditions on time, because a deadline that has passed is applied before a command is looked at; and
the tables are data, from which `/docs` draws its diagrams. Sources: rest.md 2.2, 2.3, 5.2, 5.6,
5.7; envelope.md 5 for workflow tasks.
"""

from enum import StrEnum
from typing import NamedTuple

from .codes import Code
from .model import PromiseState, TaskState
from .workflows import ACQUIRED, FULFILLED, HALTED, SUSPENDED, WAITING, WorkflowState

PENDING = PromiseState.PENDING
RESOLVED = PromiseState.RESOLVED
REJECTED = PromiseState.REJECTED
CANCELED = PromiseState.REJECTED_CANCELED
TIMEDOUT = PromiseState.REJECTED_TIMEDOUT

FINAL_STATES = (RESOLVED, REJECTED, CANCELED, TIMEDOUT)
"""The states in which a promise never changes again."""

COMPLETION_STATES = (RESOLVED, REJECTED, CANCELED)
"""The states that a client may ask for."""

COMPLETED_CODE = {
    RESOLVED: Code.PROMISE_RESOLVED,
    REJECTED: Code.PROMISE_REJECTED,
    CANCELED: Code.PROMISE_CANCELED,
    TIMEDOUT: Code.PROMISE_TIMEDOUT,
}
"""How a completed promise refuses to be completed again."""


def _create_table() -> dict[tuple[PromiseState, bool, bool], Code]:
    table = {}
    for strict in (False, True):
        for state in PromiseState:
            table[state, False, strict] = Code.PROMISE_EXISTS
        table[PENDING, True, strict] = Code.OK
    for state in FINAL_STATES:
        table[state, True, False] = Code.OK
        table[state, True, True] = Code.PROMISE_EXISTS
    return table


CREATE_EXISTING = _create_table()
"""(state of the promise that exists, keys match, strict) -> reply. An absent one is created."""


def _complete_table() -> dict[tuple[PromiseState, bool, bool, bool], Code]:
    table = {}
    for matches in (False, True):
        for same in (False, True):
            for strict in (False, True):
                table[PENDING, matches, same, strict] = Code.CREATED
                for state in COMPLETION_STATES:
                    allowed = matches and (same or not strict)
                    table[state, matches, same, strict] = (
                        Code.OK if allowed else COMPLETED_CODE[state]
                    )
                table[TIMEDOUT, matches, same, strict] = (
                    Code.PROMISE_TIMEDOUT if strict else Code.OK
                )
    return table


COMPLETE = _complete_table()
"""(state, keys match, asked for the state it has, strict) -> reply. CREATED means: completes
now."""


class TaskEvent(StrEnum):
    """What can happen to a task."""

    SEND = "sent to its receiver"
    DELIVER = "notification delivered"
    CLAIM = "claim"
    COMPLETE = "complete"
    DROP = "drop"
    EXPIRE = "lease ran out"
    TIME_OUT = "timeout passed"
    ROOT_COMPLETE = "root promise completed"


class TaskStep(NamedTuple):
    """Where an event leads: the next state (None: unchanged) and the reply to a client."""

    state: TaskState | None
    code: Code


_INIT, _ENQUEUED, _CLAIMED = TaskState.INIT, TaskState.ENQUEUED, TaskState.CLAIMED
_COMPLETED, _TIMEDOUT = TaskState.COMPLETED, TaskState.TIMEDOUT

TASK: dict[tuple[TaskState, TaskEvent], TaskStep] = {
    (_INIT, TaskEvent.SEND): TaskStep(_ENQUEUED, Code.OK),
    (_INIT, TaskEvent.DELIVER): TaskStep(_COMPLETED, Code.OK),
    (_INIT, TaskEvent.CLAIM): TaskStep(_CLAIMED, Code.CREATED),
    (_INIT, TaskEvent.COMPLETE): TaskStep(None, Code.TASK_STATE),
    (_INIT, TaskEvent.DROP): TaskStep(None, Code.OK),
    (_INIT, TaskEvent.TIME_OUT): TaskStep(_TIMEDOUT, Code.OK),
    (_INIT, TaskEvent.ROOT_COMPLETE): TaskStep(_COMPLETED, Code.OK),
    (_ENQUEUED, TaskEvent.CLAIM): TaskStep(_CLAIMED, Code.CREATED),
    (_ENQUEUED, TaskEvent.COMPLETE): TaskStep(None, Code.TASK_STATE),
    (_ENQUEUED, TaskEvent.DROP): TaskStep(None, Code.OK),
    (_ENQUEUED, TaskEvent.EXPIRE): TaskStep(_INIT, Code.OK),
    (_ENQUEUED, TaskEvent.TIME_OUT): TaskStep(_TIMEDOUT, Code.OK),
    (_ENQUEUED, TaskEvent.ROOT_COMPLETE): TaskStep(_COMPLETED, Code.OK),
    (_CLAIMED, TaskEvent.CLAIM): TaskStep(None, Code.TASK_CLAIMED),
    (_CLAIMED, TaskEvent.COMPLETE): TaskStep(_COMPLETED, Code.CREATED),
    (_CLAIMED, TaskEvent.DROP): TaskStep(_INIT, Code.CREATED),
    (_CLAIMED, TaskEvent.EXPIRE): TaskStep(_INIT, Code.OK),
    (_CLAIMED, TaskEvent.TIME_OUT): TaskStep(_TIMEDOUT, Code.OK),
    (_CLAIMED, TaskEvent.ROOT_COMPLETE): TaskStep(_COMPLETED, Code.OK),
    (_COMPLETED, TaskEvent.CLAIM): TaskStep(None, Code.TASK_COMPLETED),
    (_COMPLETED, TaskEvent.COMPLETE): TaskStep(None, Code.OK),
    (_COMPLETED, TaskEvent.DROP): TaskStep(None, Code.OK),
    (_TIMEDOUT, TaskEvent.CLAIM): TaskStep(None, Code.TASK_COMPLETED),
    (_TIMEDOUT, TaskEvent.COMPLETE): TaskStep(None, Code.OK),
    (_TIMEDOUT, TaskEvent.DROP): TaskStep(None, Code.OK),
}
"""(state, event) -> step. A pair that is not here cannot happen (a late send report is ignored).

CLAIM, COMPLETE and DROP from the states that allow them also compare the counter; a task with
another counter answers TASK_COUNTER and stays as it is.
"""


class WorkflowEvent(StrEnum):
    """What can happen to a workflow task."""

    CREATE = "task.create"
    ACQUIRE = "task.acquire"
    SUSPEND = "task.suspend"
    FENCE = "task.fence"
    FULFILL = "task.fulfill"
    RELEASE = "task.release"
    HALT = "task.halt"
    CONTINUE = "task.continue"
    SETTLE = "own promise settled"
    WAKE = "awaited promise settled"
    EXPIRE = "lease ended"


class WorkflowStep(NamedTuple):
    """Where an event leads: the next state (None: unchanged) and the reply to a client."""

    state: WorkflowState | None
    code: Code


def _workflow_table() -> dict[tuple[WorkflowState, WorkflowEvent], WorkflowStep]:
    refused = WorkflowStep(None, Code.WORKFLOW_STATE)
    table = {(state, event): refused for state in WorkflowState for event in WorkflowEvent}
    unchanged = WorkflowStep(None, Code.OK)
    for place, state in {
        (WAITING, WorkflowEvent.CREATE): ACQUIRED,
        (WAITING, WorkflowEvent.ACQUIRE): ACQUIRED,
        (ACQUIRED, WorkflowEvent.SUSPEND): SUSPENDED,
        (ACQUIRED, WorkflowEvent.FULFILL): FULFILLED,
        (ACQUIRED, WorkflowEvent.RELEASE): WAITING,
        (ACQUIRED, WorkflowEvent.EXPIRE): WAITING,
        (HALTED, WorkflowEvent.CONTINUE): WAITING,
        (SUSPENDED, WorkflowEvent.WAKE): WAITING,
        (WAITING, WorkflowEvent.HALT): HALTED,
        (ACQUIRED, WorkflowEvent.HALT): HALTED,
        (SUSPENDED, WorkflowEvent.HALT): HALTED,
        (WAITING, WorkflowEvent.SETTLE): FULFILLED,
        (ACQUIRED, WorkflowEvent.SETTLE): FULFILLED,
        (SUSPENDED, WorkflowEvent.SETTLE): FULFILLED,
        (HALTED, WorkflowEvent.SETTLE): FULFILLED,
    }.items():
        table[place] = WorkflowStep(state, Code.OK)
    for place in (
        (FULFILLED, WorkflowEvent.CREATE),
        (ACQUIRED, WorkflowEvent.FENCE),
        (HALTED, WorkflowEvent.HALT),
        (WAITING, WorkflowEvent.WAKE),
        (ACQUIRED, WorkflowEvent.WAKE),
        (HALTED, WorkflowEvent.WAKE),
    ):
        table[place] = unchanged
    for impossible in (
        *((FULFILLED, event) for event in (WorkflowEvent.SETTLE, WorkflowEvent.WAKE)),
        *((state, WorkflowEvent.EXPIRE) for state in WorkflowState if state is not ACQUIRED),
    ):
        del table[impossible]
    return table


WORKFLOW = _workflow_table()
"""(state, event) -> step. A pair that is not here cannot happen.

ACQUIRE, SUSPEND, FENCE, FULFILL and RELEASE from the states that allow them also compare the
version. SUSPEND leaves a task as it is when one of what it awaits has settled already. WAKE counts
a resume.
"""
