"""Whose id decides where a command goes, and which shard that is: `persistence/placement.py`."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.grammar import task_ids
from troth.persistence.placement import (
    DEFAULT_RULE,
    PlacementRule,
    ShardOf,
    by_id,
    by_rule,
    of_named,
)

_of_id = attrgetter("id")


def shard_of(identifier: str, shard_count: int, rule: PlacementRule = DEFAULT_RULE) -> int:
    """Return the index of the shard that a promise lives in."""
    return by_rule(rule, shard_count)(identifier)


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
    c.CheckFence: lambda command: task_ids.home(command.fence.task_id),
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
    w.CheckWorkflowFence: lambda command: command.fence.id,
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


BY_WHOLE_ID: Final = frozenset(
    {
        *(c.CreateSchedule, c.ReadSchedule, c.UpdateSchedule, c.PauseSchedule, c.ResumeSchedule),
        *(c.DeleteSchedule, w.EnsureSchedule),
        *(c.AcquireLock, c.ReleaseLock),
        *(c.CreateEntry, c.ReadEntry, c.ReplaceEntry, c.DeleteEntry),
    }
)
"""The commands about what goes by its whole id under any rule: schedules, locks, entries."""


def home_of(command: c.Command) -> str:
    """Return the id whose shard carries out this command.

    Raises KeyError for commands that go to many shards or to a known one.
    """
    return HOMES[type(command)](command)


class Homes:
    """Where ids and commands go under one placement rule, with a number of shards.

    `of_promise` finds the shard of a promise's id, `of_name` that of a lock, a schedule or an
    entry. `of_command` has what finds the shard of each type of command; types that go to many
    shards or to a known one are not in it.
    """

    __slots__ = ("of_command", "of_name", "of_promise")

    def __init__(self, rule: PlacementRule, shard_count: int) -> None:
        self.of_promise = by_rule(rule, shard_count)
        self.of_name = by_id(shard_count)
        self.of_command: dict[type[c.Command], Callable[[Any], int]] = {
            kind: _finder(home, self.of_name if kind in BY_WHOLE_ID else self.of_promise)
            for kind, home in HOMES.items()
        }
        of_promise = of_named(rule, shard_count)
        for kind, home in HOMES.items():
            if home is _of_id and kind not in BY_WHOLE_ID:  # most: without a call between
                self.of_command[kind] = of_promise


def _finder(home: Callable[[Any], str], shard_of: ShardOf) -> Callable[[Any], int]:
    """Return what finds the shard of one type of command."""
    if home is _of_id:
        return lambda command: shard_of(command.id)
    if home is _of_task:
        task_home = task_ids.home
        return lambda command: shard_of(task_home(command.id))
    return lambda command: shard_of(home(command))
