"""Which shard an id lives in, and whose id decides where a command goes.

`shard = xxh3_64(id as UTF-8) mod shard_count` (design.md 4). The count is fixed when a data
directory is made, because this function must give the same answer for ever.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import xxhash

from troth.core import commands as c
from troth.core import task_ids

_hash = xxhash.xxh3_64_intdigest
_of_id = attrgetter("id")


def shard_of(identifier: str, shard_count: int) -> int:
    """The index of the shard that an id lives in."""
    return _hash(identifier.encode()) % shard_count


def _of_task(task_id: str) -> str:
    """A task lives with its root promise; an id that names no task may be looked up anywhere."""
    name = task_ids.parse(task_id)
    return name.root if name is not None else task_id


_HOME: dict[type[c.Command], Callable[[Any], str]] = {
    c.CreatePromise: _of_id,
    c.ReadPromise: _of_id,
    c.CompletePromise: _of_id,
    c.ImportPromise: lambda command: command.promise.id,
    c.CreateCallback: lambda command: command.promise_id,
    c.CreateSubscription: lambda command: command.promise_id,
    c.ClaimTask: lambda command: _of_task(command.id),
    c.CompleteTask: lambda command: _of_task(command.id),
    c.DropTask: lambda command: _of_task(command.id),
    c.TaskSent: lambda command: _of_task(command.id),
    c.TaskNotSent: lambda command: _of_task(command.id),
    c.RetryTask: lambda command: _of_task(command.id),
    c.CreateSchedule: _of_id,
    c.ReadSchedule: _of_id,
    c.DeleteSchedule: _of_id,
    c.AcquireLock: lambda command: command.resource_id,
    c.ReleaseLock: lambda command: command.resource_id,
    c.CreateEntry: lambda command: command.entry.id,
    c.ReadEntry: lambda command: command.id,
    c.ReplaceEntry: lambda command: command.entry.id,
    c.DeleteEntry: lambda command: command.id,
    c.StoreArchive: lambda command: command.id,
    c.CreateExecution: lambda command: command.id,
    c.ReadExecution: lambda command: command.id,
    c.CancelExecution: lambda command: command.id,
    c.AssignExecution: lambda command: _of_task(command.id),
    c.ReportExecution: lambda command: _of_task(command.id),
    c.ReturnExecution: lambda command: _of_task(command.id),
    c.FinishExecution: lambda command: _of_task(command.id),
}


def home_of(command: c.Command) -> str:
    """The id whose shard carries out this command.

    Raises KeyError for commands that go to many shards or to a known one.
    """
    return _HOME[type(command)](command)
