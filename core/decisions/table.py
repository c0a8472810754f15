"""Which function decides what a command does, and which one what a timer that fired does.

Every command and every kind of timer has exactly one. `tests/core/test_decision_table.py` holds the
tables against the commands and the kinds.
"""

from collections.abc import Callable
from typing import Any

from troth.core.commands import (
    DELAY_TIMER,
    LOCK_TIMER,
    PROMISE_TIMER,
    TASK_TIMER,
    Acknowledge,
    AcquireLock,
    AssignExecution,
    CancelExecution,
    ClaimTask,
    Command,
    CompletePromise,
    CompleteTask,
    CountRetained,
    CreateCallback,
    CreateEntry,
    CreateExecution,
    CreatePromise,
    CreateSchedule,
    CreateSubscription,
    DeleteEntry,
    DeletePromises,
    DeleteSchedule,
    DropTask,
    Expire,
    FinishExecution,
    HeartbeatLocks,
    HeartbeatTasks,
    ImportPromise,
    ListEntries,
    ListUsage,
    ReadEntry,
    ReadExecution,
    ReadPromise,
    ReadSchedule,
    Receive,
    ReleaseLock,
    ReplaceEntry,
    ReportExecution,
    Retain,
    RetryTask,
    ReturnExecution,
    SearchExecutions,
    SearchPromises,
    SearchSchedules,
    StorePackage,
    TaskNotSent,
    TaskSent,
    TimerKind,
)
from troth.core.deciding import DONE, DecisionContext
from troth.core.replies import Reply

from . import (
    between_shards,
    entries,
    executions,
    locks,
    packages,
    promises,
    retention,
    schedules,
    tasks,
)

Decision = Callable[[DecisionContext, Any, int], Reply]

EXPIRIES: dict[TimerKind, Callable[[DecisionContext, str, int], None]] = {
    PROMISE_TIMER: promises.expire_promise,
    TASK_TIMER: tasks.expire_task,
    DELAY_TIMER: tasks.end_delay,
    TimerKind.SCHEDULE: schedules.fire,
    LOCK_TIMER: locks.expire_lock,
    TimerKind.EXECUTION: executions.expire_execution,
}
"""By kind of timer: what is done when one has fired."""


def expire(context: DecisionContext, command: Expire, now_ms: int) -> Reply:
    """A timer has fired."""
    EXPIRIES[command.kind](context, command.id, now_ms)
    return DONE


DECISIONS: dict[type[Command], Decision] = {
    CreatePromise: promises.create_promise,
    ReadPromise: promises.read_promise,
    CompletePromise: promises.complete_promise,
    ImportPromise: promises.import_promise,
    CreateCallback: promises.create_callback,
    CreateSubscription: promises.create_subscription,
    SearchPromises: promises.search_promises,
    ClaimTask: tasks.claim_task,
    CompleteTask: tasks.complete_task,
    DropTask: tasks.drop_task,
    HeartbeatTasks: tasks.heartbeat_tasks,
    TaskSent: tasks.task_sent,
    TaskNotSent: tasks.task_not_sent,
    RetryTask: tasks.retry_task,
    CreateSchedule: schedules.create_schedule,
    ReadSchedule: schedules.read_schedule,
    DeleteSchedule: schedules.delete_schedule,
    SearchSchedules: schedules.search_schedules,
    AcquireLock: locks.acquire_lock,
    ReleaseLock: locks.release_lock,
    HeartbeatLocks: locks.heartbeat_locks,
    StorePackage: packages.store_package,
    DeletePromises: packages.delete_promises,
    CreateEntry: entries.create_entry,
    ReadEntry: entries.read_entry,
    ReplaceEntry: entries.replace_entry,
    DeleteEntry: entries.delete_entry,
    ListEntries: entries.list_entries,
    CreateExecution: executions.create_execution,
    ReadExecution: executions.read_execution,
    SearchExecutions: executions.search_executions,
    ListUsage: executions.list_usage,
    AssignExecution: executions.assign_execution,
    ReportExecution: executions.report_execution,
    ReturnExecution: executions.return_execution,
    FinishExecution: executions.finish_execution,
    CancelExecution: executions.cancel_execution,
    Retain: retention.retain,
    CountRetained: retention.count_retained,
    Expire: expire,
    Receive: between_shards.receive,
    Acknowledge: between_shards.acknowledge,
}
"""By type of command: what decides it."""
