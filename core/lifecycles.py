"""The life cycles of promises and tasks, as tables.

Rules of this file: every transition of a life cycle is here and nowhere else; the tables hold no
conditions on time, because a deadline that has passed is applied before a command is looked at; and
the tables are data, from which `/docs` draws its diagrams. Sources: rest.md 2.2, 2.3, 5.2, 5.6,
5.7.
"""

from enum import StrEnum
from typing import NamedTuple

from .codes import Code
from .model import PromiseState, TaskState

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
