"""Replies: what a shard answers to a command. Plain values; the API's JSON is made in `http/`."""

from msgspec import Struct

from .bulk import BulkPart, BulkReport
from .catalog import Entry
from .codes import Code
from .commands import Slice
from .executions import Execution, Usage
from .model import Callback, Lock, Promise, Schedule, Task, TaskKind, Trace
from .workflows import WorkflowView


class PromisePage(Struct, frozen=True, array_like=True, gc=False):
    """One shard's part of a page of promises, newest first.

    `next_before` is the serial to continue below, None when the shard has no more.
    """

    promises: tuple[Promise, ...]
    next_before: int | None


class SchedulePage(Struct, frozen=True, array_like=True, gc=False):
    """One shard's part of a page of schedules; see PromisePage."""

    schedules: tuple[Schedule, ...]
    next_before: int | None


class Claimed(Struct, frozen=True, array_like=True, gc=False):
    """What a successful claim hands over: the task's kind and the promises that it is about.

    `root` (and `leaf`, for resume tasks) are None where no such promise exists.
    """

    kind: TaskKind
    root_id: str
    leaf_id: str
    root: Promise | None = None
    leaf: Promise | None = None


class Retained(Struct, frozen=True, array_like=True, gc=False):
    """What one slice of retention did, or would do.

    `deleted_counts` has one number a rule; `waiting_count` promises were due but something
    unfinished was about them. `following` is where to go on, None when nothing is left for now.
    """

    deleted_counts: tuple[int, ...]
    waiting_count: int
    following: Slice | None


class ExecutionPage(Struct, frozen=True, array_like=True, gc=False):
    """One shard's part of a page of executions; see PromisePage.

    With each promise comes its execution, None if it is finished.
    """

    executions: tuple[tuple[Promise, Execution | None], ...]
    next_before: int | None


class WorkflowPage(Struct, frozen=True, array_like=True, gc=False):
    """One shard's part of a page of workflow tasks; see PromisePage."""

    workflows: tuple[WorkflowView, ...]
    next_before: int | None


class Reply(Struct, frozen=True, array_like=True, gc=False):
    """The answer to one command: a code, and what goes with it.

    Refusals carry the code alone. `task` is a copy that later changes do not touch. `preload` are
    promises of the branch of a workflow task's promise, as of this moment; none may be given.
    """

    code: Code
    promise: Promise | None = None
    task: Task | None = None
    callback: Callback | None = None
    schedule: Schedule | None = None
    lock: Lock | None = None
    claimed: Claimed | None = None
    promises: PromisePage | None = None
    schedules: SchedulePage | None = None
    retained: Retained | None = None
    count: int = 0
    entry: Entry | None = None
    entries: tuple[Entry, ...] = ()
    execution: Execution | None = None
    executions: ExecutionPage | None = None
    usage: tuple[Usage, ...] = ()
    workflow: WorkflowView | None = None
    workflows: WorkflowPage | None = None
    preload: tuple[Promise, ...] = ()
    bulk: BulkReport | None = None
    bulk_parts: tuple[tuple[str, BulkPart], ...] = ()
    codes: tuple[Code, ...] = ()


class TaskMessage(Struct, frozen=True, array_like=True, gc=False, tag=True):
    """A message to be delivered: the task as it is now; for notify, with its promise."""

    task: Task
    promise: Promise | None = None


class ExecuteMessage(Struct, frozen=True, array_like=True, gc=False, tag=True):
    """A message to be delivered: a worker at `target` may claim the workflow task."""

    id: str
    version: int
    target: str
    trace: Trace | None = None


class UnblockMessage(Struct, frozen=True, array_like=True, gc=False, tag=True):
    """A message to be delivered: the promise that `address` listens to has settled."""

    promise: Promise
    address: str


Message = TaskMessage | ExecuteMessage | UnblockMessage
"""What delivery brings to workers and listeners."""
