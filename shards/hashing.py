"""Which shard an id lives in, and whose id decides where a command goes.

`shard = xxh3_64(id as UTF-8) mod shard_count` (design.md 4). The count is fixed when a data
directory is made, because this function must give the same answer forever.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import xxhash

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.grammar import task_ids

_hash = xxhash.xxh3_64_intdigest
_of_id = attrgetter("id")


def shard_of(identifier: str, shard_count: int) -> int:
    """Return the index of the shard that an id lives in."""
    return _hash(identifier.encode()) % shard_count


def _of_task(command: Any) -> str:
    """Return the id whose shard a task lives in: that of its root promise."""
    return task_ids.home(command.id)


HOMES: dict[type[c.Command], Callable[[Any], str]] = {
    c.CreatePromise: _of_id,
    c.ReadPromise: _of_id,
    c.CompletePromise: _of_id,
    c.ImportPromise: lambda command: command.promise.id,
    c.CreateCallback: lambda command: command.promise_id,
    c.CreateSubscription: lambda command: command.promise_id,
    c.ClaimTask: _of_task,
    c.CompleteTask: _of_task,
    c.DropTask: _of_task,
    c.TaskSent: _of_task,
    c.TaskNotSent: _of_task,
    c.RetryTask: _of_task,
    c.CreateSchedule: _of_id,
    c.ReadSchedule: _of_id,
    c.UpdateSchedule: _of_id,
    c.PauseSchedule: _of_id,
    c.ResumeSchedule: _of_id,
    c.DeleteSchedule: _of_id,
    c.DeletePromise: _of_id,
    c.AcquireLock: lambda command: command.resource_id,
    c.ReleaseLock: lambda command: command.resource_id,
    c.CreateEntry: lambda command: command.entry.id,
    c.ReadEntry: _of_id,
    c.ReplaceEntry: lambda command: command.entry.id,
    c.DeleteEntry: _of_id,
    c.StorePackage: _of_id,
    c.CreateExecution: _of_id,
    c.ReadExecution: _of_id,
    c.CancelExecution: _of_id,
    c.AssignExecution: _of_task,
    c.ReportExecution: _of_task,
    c.ReturnExecution: _of_task,
    c.FinishExecution: _of_task,
    w.EnsurePromise: _of_id,
    w.SettlePromise: _of_id,
    w.RegisterAwait: lambda command: command.awaited,
    w.RegisterListener: lambda command: command.awaited,
    w.EnsureSchedule: _of_id,
    w.ReadWorkflow: _of_id,
    w.CreateWorkflow: _of_id,
    w.AcquireWorkflow: _of_id,
    w.SuspendWorkflow: _of_id,
    w.FulfillWorkflow: _of_id,
    w.ReleaseWorkflow: _of_id,
    w.HaltWorkflow: _of_id,
    w.ContinueWorkflow: _of_id,
    w.ExecuteSent: _of_id,
    w.ExecuteNotSent: _of_id,
    w.RetryExecute: _of_id,
    w.UnblockSent: _of_id,
    w.RetryUnblock: _of_id,
}


def home_of(command: c.Command) -> str:
    """Return the id whose shard carries out this command.

    Raises KeyError for commands that go to many shards or to a known one.
    """
    return HOMES[type(command)](command)
