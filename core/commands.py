"""Commands: everything that can be asked of a shard, as plain values.

The first part is what clients ask for; `home` of each is the id whose hash names its shard. The
second part is internal: timers, delivery reports and messages between shards are commands too,
since nothing else may touch a shard's state.
"""

from typing import Final, NewType

from msgspec import Struct

from .bulk import BulkCounts, Places
from .catalog import Entry
from .executions import ExecutionPlan
from .model import (
    EMPTY_VALUE,
    ClaimRequest,
    Fence,
    Json,
    Promise,
    PromiseState,
    Trace,
    Value,
)
from .records import ShardMessage
from .retention_rules import RetentionRule

TimeRange = tuple[int, int]
"""Times in ms: from the first one on, and before the second."""


class Command(Struct, frozen=True, array_like=True, gc=False, tag=True):
    """Anything a shard can be asked to do. Between processes it is an array that begins with the
    class's name."""


class CreatePromise(Command, frozen=True):
    """Create a promise; with `claim`, also its invoke task, already claimed (rest.md 2.2, 3)."""

    id: str
    timeout: int
    param: Value = EMPTY_VALUE
    tags: dict[str, str] | None = None
    idempotency_key: str | None = None
    strict: bool = False
    trace: Trace | None = None
    fence: Fence | None = None
    claim: ClaimRequest | None = None


class ReadPromise(Command, frozen=True):
    """Read one promise."""

    id: str


class CompletePromise(Command, frozen=True):
    """Complete a promise with one of `lifecycles.COMPLETION_STATES` (rest.md 2.3)."""

    id: str
    state: PromiseState
    value: Value = EMPTY_VALUE
    idempotency_key: str | None = None
    strict: bool = False
    fence: Fence | None = None


class ImportPromise(Command, frozen=True):
    """Take in a promise from another server, just as it is; its serial is given here."""

    promise: Promise


class CreateCallback(Command, frozen=True):
    """Resume `root_id` when `promise_id` completes (rest.md 4)."""

    promise_id: str
    root_id: str
    timeout: int
    receiver: Json
    trace: Trace | None = None
    fence: Fence | None = None


class CreateSubscription(Command, frozen=True):
    """Notify a receiver when `promise_id` completes (rest.md 4)."""

    promise_id: str
    name: str
    timeout: int
    receiver: Json
    trace: Trace | None = None


class SearchPromises(Command, frozen=True):
    """One shard's part of a search: newest first, serials below `before_serial`.

    The shard looks at `scan_count` promises at most and says in the page where to go on. Only ids
    that begin with `id_prefix` are found, and with `created` or `completed` only promises that
    were created or completed in that time. With `oldest_first` the order is the other one, and
    the serials are those above `before_serial`.
    """

    pattern: str
    states: tuple[PromiseState, ...]
    tags: dict[str, str]
    limit_count: int
    before_serial: int
    scan_count: int
    id_prefix: str = ""
    created: TimeRange | None = None
    completed: TimeRange | None = None
    oldest_first: bool = False


class ClaimTask(Command, frozen=True):
    """Take the lease of a task for `ttl` milliseconds (rest.md 5.6)."""

    id: str
    counter: int
    process_id: str
    ttl: int


class CompleteTask(Command, frozen=True):
    """Declare a claimed task done (rest.md 5.7)."""

    id: str
    counter: int


class DropTask(Command, frozen=True):
    """Give a claimed task back immediately (rest.md 14.2)."""

    id: str
    counter: int


class HeartbeatTasks(Command, frozen=True):
    """Renew the leases of all tasks of a process in this shard (rest.md 5.8).

    Only tasks whose root promise's id begins with `id_prefix` are renewed.
    """

    process_id: str
    id_prefix: str = ""


class CreateSchedule(Command, frozen=True):
    """Create a schedule (rest.md 8.2)."""

    id: str
    cron: str
    promise_id: str
    promise_timeout: int
    description: str = ""
    tags: dict[str, str] | None = None
    promise_param: Value = EMPTY_VALUE
    promise_tags: dict[str, str] | None = None
    idempotency_key: str | None = None


class ReadSchedule(Command, frozen=True):
    """Read one schedule."""

    id: str


class UpdateSchedule(Command, frozen=True):
    """Change a schedule; what is None stays. Its runs must begin with `id_prefix`."""

    id: str
    id_prefix: str = ""
    cron: str | None = None
    promise_id: str | None = None
    promise_timeout: int | None = None
    description: str | None = None
    tags: dict[str, str] | None = None
    promise_param: Value | None = None
    promise_tags: dict[str, str] | None = None


class PauseSchedule(Command, frozen=True):
    """Let a schedule make no more promises until it is resumed."""

    id: str


class ResumeSchedule(Command, frozen=True):
    """Let a paused schedule go on; its runs must begin with `id_prefix`.

    Of the runs that it missed, at most `catch_up_count` are made up for; None: as after a downtime.
    """

    id: str
    id_prefix: str = ""
    catch_up_count: int | None = None


class DeleteSchedule(Command, frozen=True):
    """Delete a schedule; the promises it made stay."""

    id: str


class SearchSchedules(Command, frozen=True):
    """One shard's part of a search for schedules; see SearchPromises.

    `promise_tags` are those of the promises that they make.
    """

    pattern: str
    tags: dict[str, str]
    limit_count: int
    before_serial: int
    scan_count: int
    id_prefix: str = ""
    promise_tags: dict[str, str] = {}


class AcquireLock(Command, frozen=True):
    """Take or renew a lock (rest.md 9). The reply says `asked_ttl`, if it is given, not `ttl`."""

    resource_id: str
    execution_id: str
    process_id: str
    ttl: int
    asked_ttl: int | None = None


class ReleaseLock(Command, frozen=True):
    """Give a lock back."""

    resource_id: str
    execution_id: str


class HeartbeatLocks(Command, frozen=True):
    """Renew all locks of a process in this shard whose resources' ids begin with `id_prefix`."""

    process_id: str
    id_prefix: str = ""


class CreateEntry(Command, frozen=True):
    """Add a new entry, of revision 1, to the catalog. Refused if its id is taken."""

    entry: Entry


class ReadEntry(Command, frozen=True):
    """Read one entry of the catalog."""

    id: str


class ReplaceEntry(Command, frozen=True):
    """Replace the entry whose revision is one less; refused if that is not the current one."""

    entry: Entry


class DeleteEntry(Command, frozen=True):
    """Take an entry out of the catalog; refused if it has changed since `revision`."""

    id: str
    revision: int


class ListEntries(Command, frozen=True):
    """One shard's part of the entries of a type, of one account or of all (None)."""

    kind: type[Entry]
    account_id: str | None


class StorePackage(Command, frozen=True):
    """Keep a build's package: a promise that is resolved from its creation."""

    id: str
    data: str


class DeletePromise(Command, frozen=True):
    """Delete a completed promise and its tasks for good."""

    id: str


class DeletePromises(Command, frozen=True):
    """Delete packages of builds that live in this shard; what is not there is passed over."""

    ids: tuple[str, ...]


class CreateExecution(Command, frozen=True):
    """Create an execution: its promise, invoke task and plan. `id` is the promise's.

    `param` is the request: its body as data, and headers `method`, `query`, `headers` (JSON).
    """

    id: str
    timeout: int
    plan: ExecutionPlan
    param: Value = EMPTY_VALUE
    idempotency_key: str | None = None
    trace: Trace | None = None


class ReadExecution(Command, frozen=True):
    """Read an execution: its promise and, while it is pending, its execution."""

    id: str


class SearchExecutions(Command, frozen=True):
    """One shard's part of an account's executions, newest first; see SearchPromises.

    The promises in the page carry no data.
    """

    account_id: str
    function_id: str | None
    limit_count: int
    before_serial: int
    scan_count: int


class ListUsage(Command, frozen=True):
    """One shard's part of how often the functions of an account, or of all (None), were run."""

    account_id: str | None


class AssignExecution(Command, frozen=True):
    """A node claims an execution's lease for `ttl` milliseconds. `id` is the invoke task's."""

    id: str
    counter: int
    node_id: str
    ttl: int


class ReportExecution(Command, frozen=True):
    """Report that the node still works on it: renew the lease, note the progress (None: unchanged).

    Past its time the execution is ended instead (504).
    """

    id: str
    counter: int
    node_id: str
    progress: int | None = None


class ReturnExecution(Command, frozen=True):
    """The node gives an execution back undone; it does not count as lost."""

    id: str
    counter: int
    node_id: str


class FinishExecution(Command, frozen=True):
    """The node has the result: complete the promise, if the node still holds the lease."""

    id: str
    counter: int
    node_id: str
    state: PromiseState
    value: Value


class CancelExecution(Command, frozen=True):
    """End an execution whose result is no longer wanted."""

    id: str


# What follows comes from inside the server.


TimerKind = NewType("TimerKind", str)
"""What a deadline belongs to.

Not an enumeration: the garbage collector looks at each member of one, and so at each key that names
one. There are as many of these as leases.
"""

# See PENDING in model.py.
PROMISE_TIMER: Final = TimerKind("promise")
TASK_TIMER: Final = TimerKind("task")
DELAY_TIMER: Final = TimerKind("task delay")
LOCK_TIMER: Final = TimerKind("lock")
SCHEDULE_TIMER: Final = TimerKind("schedule")
EXECUTION_TIMER: Final = TimerKind("execution")
WORKFLOW_TIMER: Final = TimerKind("workflow")
UNBLOCK_TIMER: Final = TimerKind("unblock")


class Expire(Command, frozen=True):
    """A deadline has come. The shard looks at its state; an outdated timer does nothing."""

    kind: TimerKind
    id: str


class ResumeTime(Command, frozen=True):
    """Time goes on after an absence, or was set: leases have their full time again.

    `was_set_back` says that it is earlier now than it was before. Then all timers are looked at
    again (`RearmTimers`).
    """

    was_set_back: bool = False


class RearmTimers(Command, frozen=True):
    """After the clock was set back, look again at what these timers are about; they are not set."""

    timers: tuple[tuple[TimerKind, str], ...]


class TaskSent(Command, frozen=True):
    """Delivery reports that the message of this task has reached its receiver's connection."""

    id: str
    counter: int


class TaskNotSent(Command, frozen=True):
    """Delivery reports that it could not send; it keeps the task and will ask with RetryTask."""

    id: str
    counter: int


class RetryTask(Command, frozen=True):
    """Delivery's back-off of this task is over, or its receiver has connected."""

    id: str
    counter: int


Slice = tuple[int, int, int]
"""Where a slice of a count begins; the shard that gave it knows what it means."""

SLICE_START: Slice = (0, -1, 0)
"""Where the first slice begins."""


class Retain(Command, frozen=True):
    """Delete what the shard's retention rules reach now: one slice of the work.

    At most `limit_count` promises go, and at most `scan_count` are looked at.
    """

    limit_count: int
    scan_count: int


class CountRetained(Command, frozen=True):
    """Count what retention rules would delete now: one slice of `scan_count` promises."""

    rules: tuple[RetentionRule, ...]
    start: Slice
    scan_count: int


class CountBulk(Command, frozen=True):
    """Count what a bulk job would do in this shard: one slice, which begins at `places`."""

    id: str
    places: Places
    scan_count: int


class FindBulk(Command, frozen=True):
    """Return the completed promises that the next slice of a bulk deletion may delete.

    It begins at `places`, or where this shard is. See CountBulk and RunBulk.
    """

    id: str
    limit_count: int
    scan_count: int
    places: Places | None = None


class RunBulk(Command, frozen=True):
    """Carry out a slice of a bulk job in this shard, for at most `limit_count` things.

    At most `scan_count` things are looked at. If it `passes_over`, the first thing found is counted
    as failed, and nothing is done to it.
    """

    id: str
    limit_count: int
    scan_count: int
    passes_over: bool = False


class AdvanceBulk(Command, frozen=True):
    """Note what was done for a bulk job outside the shards, and where to continue."""

    id: str
    places: Places | None
    counts: BulkCounts


class ReadBulk(Command, frozen=True):
    """Read how far this shard is with each bulk job."""


class CloseBulk(Command, frozen=True):
    """Forget how far this shard is with a bulk job that has ended."""

    id: str


class GoOn(Command, frozen=True):
    """Send further messages: a step that had more than a few left them for the next one."""


class CheckFence(Command, frozen=True):
    """Judge a fence for another group, whose promise the request is about.

    If the task is held, the reply's `count` is for how many ms it stays so at least, if nothing
    happens to it; its group sees to it that nothing does, until the pass is returned.
    """

    fence: Fence
    pass_id: str


class JudgeInUse(Command, frozen=True):
    """Say which promises something unfinished of this shard is about.

    The reply's `codes` are in the same order: PROMISE_IN_USE or OK.
    """

    ids: tuple[str, ...]


class CountAwaiting(Command, frozen=True):
    """Say whether an unfinished task of this shard is about a promise of another group.

    The reply's `count` is 0 if none is.
    """

    promise_id: str


class Receive(Command, frozen=True):
    """A message from another shard's outbox; applied once (design.md I6).

    `sent_ms` is the time of the step that sent it, if that was in another group: the clock there
    may be ahead. 0 if it is not known, as from a node of an earlier version.
    """

    source: int
    sequence: int
    message: ShardMessage
    sent_ms: int = 0


class Acknowledge(Command, frozen=True):
    """Shard `target` has durably applied this shard's messages up to `sequence`."""

    target: int
    sequence: int


CREATING: Final = (
    CreatePromise,
    ImportPromise,
    CreateCallback,
    CreateSubscription,
    CreateSchedule,
    AcquireLock,
    CreateEntry,
    StorePackage,
    CreateExecution,
)
"""What is refused while memory is short: commands that would take more of it for long."""
