"""What surveys find, as plain values: tasks of all kinds, who waits, deadlines, calls, causes."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from troth.core.model import Lock, Promise, PromiseState


class TaskFamily(StrEnum):
    """Whose task it is: the REST API's, the envelope protocol's, or of a function."""

    REST = "rest"
    ENVELOPE = "envelope"
    FUNCTION = "function"


class Sending(Struct, frozen=True):
    """What delivery knows of a message: failed attempts, and when the next one is, in ms."""

    failed_count: int = 0
    error: str | None = None
    next_try_on: int | None = None


class TaskRow(Struct, frozen=True):
    """A task of any kind. `counter` is its fence: the counter, or the version.

    `until` is the end of its lease or of the time to claim it; `sends_count` counts the messages
    that have reached a worker since the server's start. `promise` is the one whose work it is, if
    that is in memory, as all pending ones are.
    """

    id: str
    family: TaskFamily
    kind: str
    state: str
    promise_id: str
    receiver: str
    counter: int
    created_on: int | None
    timeout: int
    leaf_id: str | None = None
    process_id: str | None = None
    until: int | None = None
    not_before: int | None = None
    sends_count: int = 0
    sending: Sending = Sending()
    resumes: int = 0
    completed_on: int | None = None
    promise: Promise | None = None


class SeenWaiter(Struct, frozen=True):
    """Who waits for a promise: `kind` is callback, subscription, await or listener.

    `promise_id` is what goes on then, for callbacks and awaits; `receiver` who is told.
    """

    kind: str
    id: str
    promise_id: str | None
    receiver: str
    timeout: int | None = None
    created_on: int | None = None


class Due(Struct, frozen=True):
    """A deadline: what happens, to what, and when in ms. `promise_id` is the promise it is about,
    if it is about one."""

    at: int
    what: str
    id: str
    promise_id: str | None = None

    @property
    def place(self) -> tuple[int, str, str]:
        """Its place in the order of deadlines."""
        return self.at, self.what, self.id


class TreeCall(Struct, frozen=True):
    """A promise in a tree of calls; while it is pending, with its tasks and what they wait for."""

    promise: Promise
    parent_id: str | None
    depth: int
    tasks: tuple[TaskRow, ...] = ()
    cause: "Cause | None" = None


class Tree(Struct, frozen=True):
    """A tree of calls, parents first. `is_cut` says that there may be more below the root."""

    calls: tuple[TreeCall, ...]
    is_cut: bool


class Reason(StrEnum):
    """Why a pending promise has not completed."""

    COMPLETED = "completed"
    HIDDEN = "hidden"
    CIRCLE = "circle"
    UNDELIVERABLE = "undeliverable"
    NO_LISTENER = "no-listener"
    NOT_CONNECTED = "not-connected"
    OTHER_PROTOCOL = "other-protocol"
    RECEIVER_FAILS = "receiver-fails"
    NO_NODE = "no-node"
    ACCOUNT_DISABLED = "account-disabled"
    HOLDER_GONE = "holder-gone"
    HALTED = "halted"
    LISTENERS_FULL = "listeners-full"
    NODES_BUSY = "nodes-busy"
    CALL_WAITS = "call-waits"
    NO_TASK = "no-task"
    TOO_MANY = "too-many"
    DELAYED = "delayed"
    SLEEPS = "sleeps"
    SENT = "sent"
    SENDING = "sending"
    HELD = "held"
    RUNS = "runs"


RANK: Mapping[Reason, int] = {reason: place for place, reason in enumerate(Reason)}
"""Of several things that a promise waits for, the one with the lowest rank is told."""


class Cause(Struct, frozen=True):
    """What keeps one promise from completing. `at` is when that may change automatically,
    in ms.

    `task` is the task concerned. `listeners_count` connections listen where its message goes;
    `connected_groups` are the groups that workers do listen to. `is_connected` says whether the
    holder has a stream open, None where that cannot be known; `heard_on` when it was heard from.
    """

    promise_id: str
    reason: Reason
    since: int | None = None
    at: int | None = None
    what: str = ""
    task: TaskRow | None = None
    group: str | None = None
    connection_id: str | None = None
    listeners_count: int = 0
    connected_groups: tuple[str, ...] = ()
    is_connected: bool | None = None
    heard_on: int | None = None
    detail: str = ""


class FarPromise(Struct, frozen=True):
    """A promise of another group that is in memory there; while it is pending, with its tasks.

    It waits for `cause`, or for the promises in `awaited`.
    """

    promise: Promise
    tasks: tuple[TaskRow, ...] = ()
    cause: Cause | None = None
    awaited: tuple[str, ...] = ()


class FarBelow(Struct, frozen=True):
    """Promises of other groups that may be below a root; if it `is_cut`, there may be more."""

    promises: tuple[Promise, ...] = ()
    is_cut: bool = False


class FarPromises(Protocol):
    """What is known of promises of other groups for one answer.

    What is not known is asked for before the answer is made again.
    """

    def find(self, promise_id: str) -> FarPromise | None:
        """Return a promise, as far as is known."""
        ...  # pragma: no cover

    def resumed_by(self, root_id: str) -> tuple[str, ...]:
        """Return the promises of other groups whose completion resumes a root."""
        ...  # pragma: no cover

    def exists(self, promise_id: str) -> bool:
        """Return whether there is such a promise, in memory or not."""
        ...  # pragma: no cover

    def below(self, root: Promise) -> FarBelow:
        """Return the promises of other groups that may be below a root in a tree of calls."""
        ...  # pragma: no cover


class WhyLink(Struct, frozen=True):
    """A step from a promise to what it waits for: `how` is awaits or part of."""

    id: str
    how: str


class Why(Struct, frozen=True):
    """Why a promise has not completed: the way from it to the deepest cause, and that cause."""

    promise: Promise
    links: tuple[WhyLink, ...]
    cause: Cause
    awaited: tuple[str, ...]
    awaited_count: int
    next: Due | None


class LockRow(Struct, frozen=True):
    """A lock, and when its lease ends in ms."""

    lock: Lock
    ends_on: int


UNFINISHED = frozenset(
    {"init", "enqueued", "claimed", "stalled", "pending", "acquired", "suspended", "halted"}
)
"""The states of tasks that are not finished, of all kinds."""

FINISHED = frozenset({"completed", "timedout", "fulfilled"})


def effective_state(promise: Promise, now_ms: int) -> PromiseState:
    """Return a promise's state, with a timeout that has passed and was not applied yet."""
    if promise.completed_on is None and promise.timeout <= now_ms:
        return promise.timed_out_state
    return promise.state
