"""The entities: promises, callbacks, tasks, schedules and locks, as plain data.

Promises, callbacks, schedules and locks are frozen: a change replaces the object, so a reply can
hold one without copying it. Tasks change often and are mutable; code that hands one out copies it.
All times are milliseconds since the Unix epoch, all durations milliseconds, as in the API.

None can be part of a cycle, so the garbage collector need not look at them (`gc=False`): there may
be millions, and code that waits for it waits for all of them.
"""

from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

Json = object  # any JSON value, decoded


class PromiseState(StrEnum):
    """The states of a promise, spelled as in the API. All but PENDING are final."""

    PENDING = "PENDING"
    RESOLVED = "RESOLVED"
    REJECTED = "REJECTED"
    REJECTED_CANCELED = "REJECTED_CANCELED"
    REJECTED_TIMEDOUT = "REJECTED_TIMEDOUT"


# Members of enums by themselves, for what is done for every command: looking one up in its class
# takes 0.1 us and more (CPython 3.11).
PENDING: Final = PromiseState.PENDING
RESOLVED: Final = PromiseState.RESOLVED
REJECTED_TIMEDOUT: Final = PromiseState.REJECTED_TIMEDOUT


class TaskState(StrEnum):
    """The states of a task (rest.md 5.2)."""

    INIT = "init"
    ENQUEUED = "enqueued"
    CLAIMED = "claimed"
    COMPLETED = "completed"
    TIMEDOUT = "timedout"


INIT: Final = TaskState.INIT
ENQUEUED: Final = TaskState.ENQUEUED
CLAIMED: Final = TaskState.CLAIMED
COMPLETED: Final = TaskState.COMPLETED
TIMEDOUT: Final = TaskState.TIMEDOUT


class TaskKind(StrEnum):
    """What a task asks of its receiver."""

    INVOKE = "invoke"
    RESUME = "resume"
    NOTIFY = "notify"


INVOKE: Final = TaskKind.INVOKE
RESUME: Final = TaskKind.RESUME
NOTIFY: Final = TaskKind.NOTIFY

TAG_TIMEOUT = "resonate:timeout"
TAG_INVOKE = "resonate:invoke"
TAG_DELAY = "resonate:delay"
TAG_SCHEDULE = "resonate:schedule"
TAG_INVOCATION = "resonate:invocation"
TAG_TARGET = "resonate:target"
TAG_TIMER = "resonate:timer"
TAG_BRANCH = "resonate:branch"
TAG_ORIGIN = "resonate:origin"
TAG_ROOT = "resonate:root"
TAG_PARENT = "resonate:parent"
TAG_PREFIX = "resonate:prefix"


class Value(Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """A promise's param or value. `data` is standard base64, as it came and as it goes out."""

    headers: dict[str, str] | None = None
    data: str | None = None

    @property
    def size(self) -> int:
        """The approximate number of characters it has."""
        data, headers = self.data, self.headers
        return (0 if data is None else len(data)) + (_size(headers) if headers else 0)


def _size(entries: dict[str, str] | None) -> int:
    return sum([len(key) + len(text) for key, text in entries.items()]) if entries else 0


EMPTY_VALUE = Value()


class Trace(Struct, frozen=True, array_like=True, gc=False):
    """W3C trace context of the request that created something; handed on with its messages."""

    traceparent: str
    tracestate: str = ""


class Promise(Struct, frozen=True, array_like=True, gc=False):
    """A write-once record. `serial` orders all promises of the process by creation.

    `task_version` is the version of its workflow task, once it is completed; None if it had none.
    """

    id: str
    serial: int
    state: PromiseState
    timeout: int
    created_on: int
    param: Value = EMPTY_VALUE
    tags: dict[str, str] | None = None
    key_for_create: str | None = None
    value: Value = EMPTY_VALUE
    key_for_complete: str | None = None
    completed_on: int | None = None
    trace: Trace | None = None
    task_version: int | None = None

    @property
    def timed_out_state(self) -> PromiseState:
        """The state this promise takes when its timeout passes (rest.md 2.1, envelope.md 11.3)."""
        tags = self.tags
        if tags is not None and (tags.get(TAG_TIMEOUT) == "true" or tags.get(TAG_TIMER) == "true"):
            return RESOLVED
        return REJECTED_TIMEDOUT

    @property
    def size(self) -> int:
        """The approximate number of characters it has, apart from what all promises have."""
        size = _size(self.tags)
        if self.param is not EMPTY_VALUE:
            size += self.param.size
        return size if self.value is EMPTY_VALUE else size + self.value.size

    @property
    def ended_on(self) -> int:
        """The time its age counts from: the promise's completion, but not before it existed.

        A promise may be created with a timeout long past, and is then completed as of that time.
        """
        assert self.completed_on is not None, "a pending promise has not ended"
        return max(self.completed_on, self.created_on)


class Callback(Struct, frozen=True, array_like=True, gc=False):
    """A wish to be told when `promise_id` completes: to resume a root, or to notify.

    `id` is the id of the task that the completion will create.
    """

    id: str
    kind: TaskKind
    promise_id: str
    root_id: str
    timeout: int
    receiver: Json
    created_on: int
    trace: Trace | None = None


class Task(Struct, array_like=True, gc=False):
    """A unit of work for a receiver, leased to one process at a time.

    `counter` is the fence: it grows each time the task is given out again. `expires_at` is when a
    message not claimed, or a lease not renewed, is given up. `sequence` orders the tasks of a
    shard.

    The last five fields are notes and not part of the state: `queued` (waits in its root's queue),
    `sending` (given to delivery), `stalled` (its last send failed; delivery will ask for it again),
    `sends_count` (how often its message arrived since the server's start), `since` (when it was
    claimed, or else ready again, since then; in ms).
    """

    id: str
    kind: TaskKind
    root_id: str
    leaf_id: str
    receiver: Json
    timeout: int
    sequence: int
    created_on: int | None
    state: TaskState = INIT
    counter: int = 1
    process_id: str | None = None
    ttl: int = 0
    expires_at: int = 0
    completed_on: int | None = None
    not_before: int | None = None
    trace: Trace | None = None
    queued: bool = False
    sending: bool = False
    stalled: bool = False
    sends_count: int = 0
    since: int | None = None

    @property
    def is_final(self) -> bool:
        """Return whether nothing more can happen to this task."""
        state = self.state
        return state is COMPLETED or state is TIMEDOUT

    @property
    def deadline(self) -> int | None:
        """Return when this task changes without a command; None if never."""
        state, timeout = self.state, self.timeout
        if state is INIT:
            return timeout
        if state is COMPLETED or state is TIMEDOUT:
            return None
        return self.expires_at if self.expires_at < timeout else timeout

    def copy(self) -> "Task":
        """Return a copy for a reply or a message, which later changes do not touch."""
        return replace(self)


class Lock(Struct, frozen=True, array_like=True, gc=False):
    """A leased lock on `resource_id`.

    `fencing_token` is larger than that of every earlier holder and stays while an execution holds
    the lock. 0 for locks that were acquired before there were tokens.
    """

    resource_id: str
    execution_id: str
    process_id: str
    ttl: int
    expires_at: int
    fencing_token: int = 0


class Schedule(Struct, frozen=True, array_like=True, gc=False):
    """A recipe that creates a promise at each instant of its cron expression.

    `next_run_time` is None for an expression that never matches again. While a schedule is paused,
    since `paused_on`, it is the first run that is missed.
    """

    id: str
    serial: int
    cron: str
    promise_id: str
    promise_timeout: int
    created_on: int
    next_run_time: int | None
    description: str = ""
    tags: dict[str, str] | None = None
    promise_param: Value = EMPTY_VALUE
    promise_tags: dict[str, str] | None = None
    idempotency_key: str | None = None
    last_run_time: int | None = None
    paused_on: int | None = None

    @property
    def due_on(self) -> int | None:
        """Return when it fires next, in ms; None if it never does, or is paused."""
        return self.next_run_time if self.paused_on is None else None

    @property
    def size(self) -> int:
        """The approximate number of characters it has, apart from what all schedules have."""
        return self.promise_param.size + _size(self.tags) + _size(self.promise_tags)


class Fence(Struct, frozen=True):
    """The task on whose behalf a request is made (headers `Task-Id` and `Task-Counter`).

    `judged` is whether it is held, if its group has been asked, which keeps it so in the meantime.
    """

    task_id: str
    counter: int
    judged: bool | None = None


class ClaimRequest(Struct, frozen=True):
    """Who claims a task, and for how long at a time."""

    process_id: str
    ttl: int


replace = msgspec.structs.replace
