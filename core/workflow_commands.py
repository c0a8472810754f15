"""Commands of the envelope protocol, as plain values; see `commands.py`.

The caller that makes one has checked its fields: ids are not empty, states are those a client may
ask for, addresses and delays are well-formed, an awaiter is not what it awaits. `fence` is that of
a request within `task.fence`; None otherwise.
"""

from .codes import Code
from .commands import Command
from .model import EMPTY_VALUE, PromiseState, Trace, Value
from .workflows import WorkflowFence, WorkflowState


class EnsurePromise(Command, frozen=True):
    """Create a promise unless its id exists; answer the stored one either way.

    Past its timeout it is stored settled, as of its timeout. One that `is_again` asked, since the
    answer was lost, is answered the stored promise though its fence does not hold any more.
    """

    id: str
    timeout: int
    param: Value = EMPTY_VALUE
    tags: dict[str, str] | None = None
    fence: WorkflowFence | None = None
    trace: Trace | None = None
    is_again: bool = False


class SettlePromise(Command, frozen=True):
    """Settle a promise with one of `lifecycles.COMPLETION_STATES`, unless it is settled already.

    The stored promise is answered either way. `is_again` is as in EnsurePromise.
    """

    id: str
    state: PromiseState
    value: Value = EMPTY_VALUE
    fence: WorkflowFence | None = None
    is_again: bool = False


class RegisterAwait(Command, frozen=True):
    """Wake the task of `awaiter` when `awaited` settles (`promise.register_callback`).

    If it `is_judged`, the awaiter's group was asked: `awaiter_state` is the state of its task, None
    if it has none.
    """

    awaited: str
    awaiter: str
    is_judged: bool = False
    awaiter_state: WorkflowState | None = None


class RegisterListener(Command, frozen=True):
    """Send a message to `address` when `awaited` settles; once per address."""

    awaited: str
    address: str


class ReadWorkflow(Command, frozen=True):
    """Read a workflow task."""

    id: str


class CreateWorkflow(Command, frozen=True):
    """Create a promise with its task and acquire that, or acquire the pending task there is.

    `tags` name a target and no delay. `claim_id` is the request's `corrId`, if it had one.
    """

    id: str
    timeout: int
    pid: str
    ttl: int
    param: Value = EMPTY_VALUE
    tags: dict[str, str] | None = None
    claim_id: str | None = None
    trace: Trace | None = None


class AcquireWorkflow(Command, frozen=True):
    """Take the lease of a pending task for `ttl` milliseconds. `claim_id`: see CreateWorkflow."""

    id: str
    version: int
    pid: str
    ttl: int
    claim_id: str | None = None


class SuspendWorkflow(Command, frozen=True):
    """Give an acquired task up until one of the awaited promises settles; `id` is not among them.

    If one is settled already, the task stays acquired and the reply says so. `judged` has what
    other groups have said of the promises that live there; see `JudgeAwaited`.
    """

    id: str
    version: int
    awaited: tuple[str, ...]
    judged: dict[str, Code] | None = None


class FulfillWorkflow(Command, frozen=True):
    """Settle the promise of an acquired task, with one of `lifecycles.COMPLETION_STATES`."""

    id: str
    version: int
    state: PromiseState
    value: Value = EMPTY_VALUE


class ReleaseWorkflow(Command, frozen=True):
    """Give an acquired task back; it goes out again at the same version."""

    id: str
    version: int


class RenewWorkflows(Command, frozen=True):
    """Renew the leases of tasks of this shard, given as (id, version).

    Tasks that are not acquired at that version by this process are passed over.
    """

    pid: str
    tasks: tuple[tuple[str, int], ...]


class HaltWorkflow(Command, frozen=True):
    """Stop a task until ContinueWorkflow; its holder is fenced off."""

    id: str


class ContinueWorkflow(Command, frozen=True):
    """Let a halted task go out again."""

    id: str


class SearchWorkflows(Command, frozen=True):
    """One shard's part of a search for workflow tasks, newest first; see SearchPromises.

    None as `state` finds all. Only ids that begin with `id_prefix` are found.
    """

    state: WorkflowState | None
    limit_count: int
    before_serial: int
    scan_count: int
    id_prefix: str = ""


class EnsureSchedule(Command, frozen=True):
    """Create a schedule unless its id exists; answer the stored one either way.

    The caller has checked the cron expression and the template.
    """

    id: str
    cron: str
    promise_id: str
    promise_timeout: int
    promise_param: Value = EMPTY_VALUE
    promise_tags: dict[str, str] | None = None


class ResetShard(Command, frozen=True):
    """Make everything of this shard be gone: for tests, which begin again at version 0."""


# What follows comes from inside the server.


class CheckWorkflowFence(Command, frozen=True):
    """Judge a fence for another group; see `commands.CheckFence`."""

    fence: WorkflowFence
    pass_id: str


class JudgeAwaited(Command, frozen=True):
    """Judge promises of this shard that `awaiter`, of another group, is about to wait for.

    The reply has a code for each: OK while it is pending and one more may wait.
    """

    ids: tuple[str, ...]
    awaiter: str


class ExecuteSent(Command, frozen=True):
    """Delivery reports that a task's message has reached a worker's connection."""

    id: str
    version: int


class ExecuteNotSent(Command, frozen=True):
    """Delivery reports that it could not send; it keeps the task and will ask with RetryExecute."""

    id: str
    version: int


class RetryExecute(Command, frozen=True):
    """Delivery's back-off is over, the receiver has connected, or the worker's connection ended
    before it claimed the task."""

    id: str
    version: int


class RetryUnblock(Command, frozen=True):
    """Delivery's back-off is over, or the listener has connected."""

    id: str
    address: str


class UnblockSent(Command, frozen=True):
    """Delivery reports that a listener was told that the promise `id` has settled."""

    id: str
    address: str
