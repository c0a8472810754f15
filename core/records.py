"""Records: the facts a shard writes to the log. State changes only by applying them.

Each record type carries its name and version as its tag, for example `promise-created/1`. A record
is written as one JSON array, the tag first, then its fields in order. Rules for later versions:

* a field may be added at the end with a default; then old records still read;
* anything else is a new tag, and the old one stays readable and keeps its meaning;
* what applying a record does beyond its fields (completing a promise completes its tasks and turns
  its callbacks into tasks) belongs to the meaning of its tag, so a change of that is a new tag too.

`encode` and `decode` raise nothing of their own: `decode` raises one of `UNREADABLE_JSON` for
bytes that are not a record, which the log's checksums make a defect and not an accident.
"""

import msgspec
from msgspec import Struct

from .bulk import BulkCounts, Places
from .catalog import Entry
from .executions import ExecutionPlan
from .json_bytes import encoder
from .model import Callback, Lock, Promise, PromiseState, Schedule, Trace, Value
from .workflow_records import WorkflowMessage, WorkflowRecord, WorkflowShardMessage


class ResumeMessage(Struct, frozen=True, array_like=True, gc=False, tag="resume/1"):
    """To the root's shard: create the task that resumes the root."""

    callback: Callback
    created_on: int


class TaskSeed(Struct, frozen=True, array_like=True, gc=False):
    """The invoke task that is created together with a promise.

    With a `process_id` it is born claimed until `expires_at`.
    """

    receiver: object
    process_id: str | None = None
    ttl: int = 0
    expires_at: int = 0
    not_before: int | None = None


class PromiseMessage(Struct, frozen=True, array_like=True, gc=False, tag="promise/1"):
    """To the promise's shard: a schedule creates this promise, unless the id is taken.

    `task` says what its tags meant when the schedule fired, so that a later release which reads
    tags in another way still reads this log in the same.
    """

    id: str
    timeout: int
    param: Value
    tags: dict[str, str]
    task: TaskSeed | None = None
    trace: Trace | None = None


ShardMessage = ResumeMessage | PromiseMessage | WorkflowShardMessage


class PromiseCreated(Struct, frozen=True, array_like=True, gc=False, tag="promise-created/1"):
    """A promise exists, PENDING."""

    id: str
    serial: int
    timeout: int
    created_on: int
    param: Value
    tags: dict[str, str] | None
    key_for_create: str | None
    trace: Trace | None
    task: TaskSeed | None


class PromiseCompleted(Struct, frozen=True, array_like=True, gc=False, tag="promise-completed/1"):
    """A promise reached a final state. `at` is when the server did it.

    Applying it completes the unfinished tasks of this root, turns the promise's callbacks into
    tasks (in other shards through the outbox) and forgets the callbacks (rest.md 2.4). See also
    `workflow_records.py`.
    """

    id: str
    state: PromiseState
    value: Value
    key_for_complete: str | None
    completed_on: int
    at: int


class CompletionBegun(Struct, frozen=True, array_like=True, gc=False, tag="completion-begun/1"):
    """A promise reached a final state, and more hangs on it than one step may carry out.

    Means the same as PromiseCompleted, but that its tasks, callbacks, awaiters and listeners stay
    as they are: records CompletionContinued carry out what the completion means for them.
    """

    id: str
    state: PromiseState
    value: Value
    key_for_complete: str | None
    completed_on: int
    at: int


class CompletionContinued(
    Struct, frozen=True, array_like=True, gc=False, tag="completion-continued/1"
):
    """A completion that was begun has had its effect on these.

    Applying it completes the `tasks` of this root, turns the `callbacks` into tasks, wakes the
    `awaiters` and turns the `listeners` into messages, as of the time of CompletionBegun. When
    nothing is left, the completion is finished.
    """

    id: str
    tasks: list[str]
    callbacks: list[str]
    awaiters: list[str]
    listeners: list[str]


class PromiseImported(Struct, frozen=True, array_like=True, gc=False, tag="promise-imported/1"):
    """A promise came from another server, in any state, with its times and keys.

    `task` is the invoke task of a pending one. Completed ones make no tasks and wake no waiters.
    """

    promise: Promise
    task: TaskSeed | None
    at: int


class PromisesDeleted(Struct, frozen=True, array_like=True, gc=False, tag="promises-deleted/1"):
    """Completed promises are gone for good, and so are the finished tasks whose root they were.

    From here on new tasks of the shard count from above `task_counter`, which none of the deleted
    ones exceeded: an id that comes back never repeats what a late worker may hold. Likewise new
    workflow tasks begin at `workflow_version`.
    """

    ids: list[str]
    task_ids: list[str]
    task_counter: int
    at: int
    workflow_version: int = 0


class CallbackCreated(Struct, frozen=True, array_like=True, gc=False, tag="callback-created/1"):
    """A task waits for a promise, or a receiver subscribes to it."""

    callback: Callback


class TaskEnqueued(Struct, frozen=True, array_like=True, gc=False, tag="task-enqueued/1"):
    """The task's message was sent; unless claimed by `expires_at`, it goes out again."""

    id: str
    expires_at: int


class TaskDelivered(Struct, frozen=True, array_like=True, gc=False, tag="task-delivered/1"):
    """A notification was delivered; its task is completed, without a completion time."""

    id: str


class TaskClaimed(Struct, frozen=True, array_like=True, gc=False, tag="task-claimed/1"):
    """A process has the task's lease."""

    id: str
    process_id: str
    ttl: int
    expires_at: int


class TaskReleased(Struct, frozen=True, array_like=True, gc=False, tag="task-released/1"):
    """The task is to be given out again, with the next counter."""

    id: str


class TaskCompleted(Struct, frozen=True, array_like=True, gc=False, tag="task-completed/1"):
    """The task's holder has completed it."""

    id: str
    at: int


class TaskTimedOut(Struct, frozen=True, array_like=True, gc=False, tag="task-timed-out/1"):
    """The task's own timeout passed."""

    id: str


class TasksRenewed(Struct, frozen=True, array_like=True, gc=False, tag="tasks-renewed/1"):
    """All leases of a process on tasks of this shard start again from `at`."""

    process_id: str
    at: int


class ScheduleCreated(Struct, frozen=True, array_like=True, gc=False, tag="schedule-created/1"):
    """A schedule exists."""

    schedule: Schedule


class ScheduleChanged(Struct, frozen=True, array_like=True, gc=False, tag="schedule-changed/1"):
    """A schedule is as this says: a client has changed, paused or resumed it."""

    schedule: Schedule


class ScheduleDeleted(Struct, frozen=True, array_like=True, gc=False, tag="schedule-deleted/1"):
    """A schedule is gone."""

    id: str


class ScheduleFired(Struct, frozen=True, array_like=True, gc=False, tag="schedule-fired/1"):
    """A schedule's instant `run_time` has come and it asks for its promise.

    `serial` is the promise's, if the promise lives in this shard.
    """

    id: str
    run_time: int
    next_run_time: int | None
    promise: PromiseMessage | WorkflowMessage
    serial: int
    at: int


class ScheduleSkipped(Struct, frozen=True, array_like=True, gc=False, tag="schedule-skipped/1"):
    """Runs missed during a downtime are left out up to `next_run_time`."""

    id: str
    next_run_time: int | None


class LockAcquired(Struct, frozen=True, array_like=True, gc=False, tag="lock-acquired/1"):
    """A lock is held."""

    lock: Lock


class LockReleased(Struct, frozen=True, array_like=True, gc=False, tag="lock-released/1"):
    """A lock is free, given back or expired."""

    resource_id: str


class LocksRenewed(Struct, frozen=True, array_like=True, gc=False, tag="locks-renewed/1"):
    """All locks of a process in this shard start again from `at`."""

    process_id: str
    at: int


class LeasesRestarted(Struct, frozen=True, array_like=True, gc=False, tag="leases-restarted/1"):
    """From `at` on every lease of this shard has its full time again (`leases.py`).

    Messages that were sent and not claimed have `claim_timeout_ms` from `at`. If the clock
    `was_set_back`, leases that would end later than their full time from `at` end then, and
    function tasks that were assigned later count as assigned at `at`.
    """

    at: int
    claim_timeout_ms: int
    was_set_back: bool = False


class MessageReceived(Struct, frozen=True, array_like=True, gc=False, tag="message-received/1"):
    """A message from another shard took effect. `serial` is that of the promise it creates."""

    source: int
    sequence: int
    message: ShardMessage
    serial: int
    at: int


class MessagesAcknowledged(
    Struct, frozen=True, array_like=True, gc=False, tag="messages-acknowledged/1"
):
    """The outbox to `target` is done up to `sequence`."""

    target: int
    sequence: int


class EntryWritten(Struct, frozen=True, array_like=True, tag="entry-written/1"):
    """An entry of the catalog was created, or replaced its earlier revision."""

    entry: Entry
    at: int


class EntryDeleted(Struct, frozen=True, array_like=True, tag="entry-deleted/1"):
    """An entry of the catalog is gone."""

    id: str
    at: int


class ExecutionCreated(Struct, frozen=True, array_like=True, tag="execution-created/1"):
    """The pending promise `id` is an execution; the record before this one created it.

    Applying PromiseCompleted to it ends the execution: what is known of it goes into the headers of
    the promise's value.
    """

    id: str
    plan: ExecutionPlan
    at: int


class ExecutionAssigned(Struct, frozen=True, array_like=True, tag="execution-assigned/1"):
    """A node has claimed the execution `id` (a promise's); TaskClaimed says until when.

    Applying TaskReleased to its task from here on means that the node is lost.
    """

    id: str
    node_id: str
    at: int


class ExecutionReported(Struct, frozen=True, array_like=True, tag="execution-reported/1"):
    """The node works on the execution: the lease of its task starts again from `at`."""

    id: str
    at: int
    progress: int | None = None


class ExecutionReturned(Struct, frozen=True, array_like=True, tag="execution-returned/1"):
    """The node does not work on the execution any more; TaskReleased follows."""

    id: str
    at: int


class BulkAdvanced(Struct, frozen=True, array_like=True, gc=False, tag="bulk-advanced/1"):
    """A shard has come further with a bulk job: so much more was done, and it continues there.

    `places` is None when nothing is left. What was done is in the records before this one.
    """

    id: str
    places: Places | None
    counts: BulkCounts
    at: int


class BulkClosed(Struct, frozen=True, array_like=True, gc=False, tag="bulk-closed/1"):
    """A bulk job has ended, and how far the shard was is of no use any more."""

    id: str
    at: int


Record = (
    PromiseCreated
    | PromiseCompleted
    | CompletionBegun
    | CompletionContinued
    | PromisesDeleted
    | PromiseImported
    | CallbackCreated
    | TaskEnqueued
    | TaskDelivered
    | TaskClaimed
    | TaskReleased
    | TaskCompleted
    | TaskTimedOut
    | TasksRenewed
    | ScheduleCreated
    | ScheduleChanged
    | ScheduleDeleted
    | ScheduleFired
    | ScheduleSkipped
    | LockAcquired
    | LockReleased
    | LocksRenewed
    | LeasesRestarted
    | MessageReceived
    | MessagesAcknowledged
    | EntryWritten
    | EntryDeleted
    | ExecutionCreated
    | ExecutionAssigned
    | ExecutionReported
    | ExecutionReturned
    | BulkAdvanced
    | BulkClosed
    | WorkflowRecord
)

encode = encoder()
"""A record (or any entity) as the bytes that go into the log."""

_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def decode(body: bytes) -> Record:
    """Read a record back from the log."""
    return _decoder.decode(body)
