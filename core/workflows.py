"""Workflow tasks: the tasks of the envelope protocol, one for each promise that has a target.

A promise with the tag `resonate:target` has a workflow task under its own id, whichever API made
it. It is no `Task` of the REST API and never becomes one: its version rises with each claim, and it
can be suspended until other promises settle. What happens to it is the table WORKFLOW in
`lifecycles.py`.

Only tasks of pending promises are kept. What is left of a fulfilled one is its version, which its
promise remembers (`Promise.task_version`).
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from .codes import Code


class WorkflowState(StrEnum):
    """The states of a workflow task, spelled as in the envelope protocol."""

    PENDING = "pending"
    ACQUIRED = "acquired"
    SUSPENDED = "suspended"
    HALTED = "halted"
    FULFILLED = "fulfilled"


WAITING: Final = WorkflowState.PENDING
ACQUIRED: Final = WorkflowState.ACQUIRED
SUSPENDED: Final = WorkflowState.SUSPENDED
HALTED: Final = WorkflowState.HALTED
FULFILLED: Final = WorkflowState.FULFILLED


class WorkflowTask(Struct, array_like=True, gc=False):
    """The task of a pending promise with a target; `id` is the promise's.

    `resumes` counts the awaited promises that settled since the last claim. `pid`, `ttl`,
    `expires_at` and `claim_id` say who holds it, how, until when, and by which request, while it is
    acquired. Before `not_before` it is not sent. `awaited` are the promises that will wake it.

    The last eight fields are the dispatcher's notes and not part of the state: `sending` (given to
    delivery), `stalled` (its last send failed; delivery will ask for it again), `unclaimed` (its
    message has reached a worker), `backs_off` (to be sent a while later), `is_fresh` (claimed since
    the server's start), `idle_count` (how often in a row it was released without progress),
    `sends_count` (how often its message arrived since the server's start), `since` (when it was
    claimed, or else ready again, since then; in ms).
    """

    id: str
    state: WorkflowState
    version: int = 0
    resumes: int = 0
    pid: str | None = None
    ttl: int = 0
    expires_at: int = 0
    claim_id: str | None = None
    not_before: int | None = None
    awaited: tuple[str, ...] | None = None
    sending: bool = False
    stalled: bool = False
    unclaimed: bool = False
    backs_off: bool = False
    is_fresh: bool = False
    idle_count: int = 0
    sends_count: int = 0
    since: int | None = None

    def row(self) -> "WorkflowTask":
        """Return a copy for a checkpoint, without the notes, which later changes do not touch."""
        return WorkflowTask(
            self.id,
            self.state,
            self.version,
            self.resumes,
            self.pid,
            self.ttl,
            self.expires_at,
            self.claim_id,
            self.not_before,
            self.awaited or None,
        )


class NamedBeat(Struct, frozen=True, eq=False):
    """A heartbeat at a time that names workflow tasks, by their versions."""

    at: int
    versions: dict[str, int]


class WorkflowView(Struct, frozen=True, gc=False):
    """A workflow task as clients see it. `pid` and `ttl` are None unless it is acquired.

    `serial` is its promise's place in the order of creation.
    """

    id: str
    state: WorkflowState
    version: int
    resumes: int = 0
    ttl: int | None = None
    pid: str | None = None
    serial: int = 0

    @property
    def size(self) -> int:
        """The approximate number of characters it has, apart from what all have."""
        return len(self.id) + len(self.pid or "")


class WorkflowFence(Struct, frozen=True, gc=False):
    """The task on whose behalf a request is made (`task.fence`), and the version it was claimed at.

    `judged` is what its group has said, if that was asked: OK, and it keeps it so in the meantime,
    or why it is not held.
    """

    id: str
    version: int
    judged: Code | None = None


class WorkflowLease(Struct, frozen=True, array_like=True, gc=False):
    """Who holds a task, and until when. `claim_id` recognizes the request if it comes again."""

    pid: str
    ttl: int
    expires_at: int
    claim_id: str | None = None


class WorkflowSeed(Struct, frozen=True, array_like=True, gc=False):
    """The workflow task that is created together with a promise: born acquired with a lease."""

    not_before: int | None = None
    lease: WorkflowLease | None = None


class Await(Struct, frozen=True, array_like=True, gc=False):
    """A row of a checkpoint: `awaiter` is woken when `awaited` settles. `place` is its place in
    the order of registration."""

    awaited: str
    awaiter: str
    place: int


class Listener(Struct, frozen=True, array_like=True, gc=False):
    """A row of a checkpoint: the promise's end is to be told to `address`.

    `settled_at` is None while the promise is pending; afterwards the message waits to be delivered.
    """

    promise_id: str
    address: str
    place: int
    settled_at: int | None = None


_EXECUTE: Final = "execute "
_UNBLOCK: Final = "unblock "


def execute_key(workflow_id: str) -> str:
    """Return the name of a task's message in delivery; ids of REST tasks never begin so."""
    return _EXECUTE + workflow_id


def workflow_of(key: str) -> str | None:
    """Return the task that a name of `execute_key` is about; None for any other name."""
    return key.removeprefix(_EXECUTE) if key.startswith(_EXECUTE) else None


def unblock_key(promise_id: str, address: str) -> str:
    """Return the name of a listener's message in delivery."""
    return f"{_UNBLOCK}{len(promise_id)} {promise_id} {address}"


def unblocked_of(key: str) -> tuple[str, str] | None:
    """Return the promise and address of a name of `unblock_key`; None for any other name."""
    if not key.startswith(_UNBLOCK):
        return None
    length, _, rest = key.removeprefix(_UNBLOCK).partition(" ")
    return rest[: int(length)], rest[int(length) + 1 :]
