"""Records of the envelope protocol: what happens to workflow tasks, and who waits for promises.

See `records.py` for the rules. The end of a task has no record of its own: applying
PromiseCompleted to a promise with a workflow task fulfills the task, wakes those that await the
promise (in other shards through the outbox) and turns its listeners into messages.
"""

from msgspec import Struct

from .model import Trace, Value
from .workflows import WorkflowLease, WorkflowSeed


class WorkflowCreated(Struct, frozen=True, array_like=True, gc=False, tag="workflow-created/1"):
    """A promise with a target exists, PENDING, with its workflow task at version 0.

    If the seed has a lease, the task is acquired at version 1.
    """

    id: str
    serial: int
    timeout: int
    created_on: int
    param: Value
    tags: dict[str, str]
    key_for_create: str | None = None
    trace: Trace | None = None
    seed: WorkflowSeed = WorkflowSeed()


class WorkflowImported(Struct, frozen=True, array_like=True, gc=False, tag="workflow-imported/1"):
    """The pending promise `id`, which the record before this one brought, has a workflow task."""

    id: str
    seed: WorkflowSeed
    at: int


class WorkflowAcquired(Struct, frozen=True, array_like=True, gc=False, tag="workflow-acquired/1"):
    """A process has the task's lease, at the next version."""

    id: str
    lease: WorkflowLease


class WorkflowsRenewed(Struct, frozen=True, array_like=True, gc=False, tag="workflows-renewed/1"):
    """The leases of these tasks run again from `at`."""

    ids: list[str]
    at: int


class WorkflowReleased(Struct, frozen=True, array_like=True, gc=False, tag="workflow-released/1"):
    """The task is to be sent again, at the same version: given back, or its lease ended."""

    id: str
    at: int
    has_expired: bool = False


class WorkflowSuspended(Struct, frozen=True, array_like=True, gc=False, tag="workflow-suspended/1"):
    """The task waits until one of these promises settles. In other shards messages tell them."""

    id: str
    awaited: list[str]
    at: int


class WorkflowResumesCleared(
    Struct, frozen=True, array_like=True, gc=False, tag="workflow-resumes-cleared/1"
):
    """The task's holder has heard of what settled since its claim, and goes on."""

    id: str


class WorkflowHalted(Struct, frozen=True, array_like=True, gc=False, tag="workflow-halted/1"):
    """The task is stopped until it is continued."""

    id: str
    at: int


class WorkflowContinued(Struct, frozen=True, array_like=True, gc=False, tag="workflow-continued/1"):
    """The halted task is to be sent again, at the same version."""

    id: str
    at: int


class WorkflowWoken(Struct, frozen=True, array_like=True, gc=False, tag="workflow-woken/1"):
    """What the task awaits was settled already when it was registered."""

    id: str
    awaited: str
    at: int


class AwaitRegistered(Struct, frozen=True, array_like=True, gc=False, tag="await-registered/1"):
    """`awaiter` is woken when `awaited` settles."""

    awaited: str
    awaiter: str
    at: int


class ListenerRegistered(
    Struct, frozen=True, array_like=True, gc=False, tag="listener-registered/1"
):
    """A message goes to `address` when the promise `id` settles."""

    id: str
    address: str
    at: int


class ListenerTold(Struct, frozen=True, array_like=True, gc=False, tag="listener-told/1"):
    """The message to a listener was delivered, or given up after a long time."""

    id: str
    address: str
    at: int
    was_given_up: bool = False


WorkflowRecord = (
    WorkflowCreated
    | WorkflowImported
    | WorkflowAcquired
    | WorkflowsRenewed
    | WorkflowReleased
    | WorkflowSuspended
    | WorkflowResumesCleared
    | WorkflowHalted
    | WorkflowContinued
    | WorkflowWoken
    | AwaitRegistered
    | ListenerRegistered
    | ListenerTold
)


# Messages between shards.


class WorkflowMessage(Struct, frozen=True, array_like=True, gc=False, tag="workflow/1"):
    """To the promise's shard: a schedule's run creates this promise with a target, unless the id
    is taken."""

    id: str
    timeout: int
    created_on: int
    param: Value
    tags: dict[str, str]
    seed: WorkflowSeed
    trace: Trace | None = None


class AwaitMessage(Struct, frozen=True, array_like=True, gc=False, tag="await/1"):
    """To the awaited promise's shard: wake `awaiter` when it settles, immediately if it has."""

    awaited: str
    awaiter: str


class AwaitDroppedMessage(Struct, frozen=True, array_like=True, gc=False, tag="await-dropped/1"):
    """To the awaited promise's shard: `awaiter` has ended and need not be woken."""

    awaited: str
    awaiter: str


class WakeMessage(Struct, frozen=True, array_like=True, gc=False, tag="wake/1"):
    """To the awaiter's shard: `awaited` has settled."""

    awaiter: str
    awaited: str


WorkflowShardMessage = WorkflowMessage | AwaitMessage | AwaitDroppedMessage | WakeMessage
