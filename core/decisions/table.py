"""Which function decides what a command does, and which one what a timer that fired does.

Every command and every kind of timer has exactly one. `tests/core/test_decision_table.py` holds the
tables against the commands and the kinds.
"""

from collections.abc import Callable
from typing import Any

from troth.core.commands import (
    DELAY_TIMER,
    EXECUTION_TIMER,
    LOCK_TIMER,
    PROMISE_TIMER,
    SCHEDULE_TIMER,
    TASK_TIMER,
    UNBLOCK_TIMER,
    WORKFLOW_TIMER,
    Acknowledge,
    AcquireLock,
    AdvanceBulk,
    AssignExecution,
    CancelExecution,
    CheckFence,
    ClaimTask,
    CloseBulk,
    Command,
    CompletePromise,
    CompleteTask,
    CountAwaiting,
    CountBulk,
    CountRetained,
    CreateCallback,
    CreateEntry,
    CreateExecution,
    CreatePromise,
    CreateSchedule,
    CreateSubscription,
    DeleteEntry,
    DeletePromise,
    DeletePromises,
    DeleteSchedule,
    DropTask,
    Expire,
    FindBulk,
    FinishExecution,
    GoOn,
    HeartbeatLocks,
    HeartbeatTasks,
    ImportPromise,
    JudgeInUse,
    ListEntries,
    ListUsage,
    PauseSchedule,
    ReadBulk,
    ReadEntry,
    ReadExecution,
    ReadPromise,
    ReadSchedule,
    RearmTimers,
    Receive,
    ReleaseLock,
    ReplaceEntry,
    ReportExecution,
    ResumeSchedule,
    ResumeTime,
    Retain,
    RetryTask,
    ReturnExecution,
    RunBulk,
    SearchExecutions,
    SearchPromises,
    SearchSchedules,
    StorePackage,
    TaskNotSent,
    TaskSent,
    TimerKind,
    UpdateSchedule,
)
from troth.core.continuations import (
    ContinueCompletions,
    ContinueLocksHeartbeat,
    ContinueRenewals,
    ContinueTasksHeartbeat,
)
from troth.core.deciding import DONE, DecisionContext
from troth.core.limits import DISPATCH_LIMIT_COUNT
from troth.core.replies import Reply
from troth.core.schedule_runs import ContinueResume
from troth.core.workflow_commands import (
    AcquireWorkflow,
    CheckWorkflowFence,
    ContinueWorkflow,
    CreateWorkflow,
    EnsurePromise,
    EnsureSchedule,
    ExecuteNotSent,
    ExecuteSent,
    FulfillWorkflow,
    HaltWorkflow,
    JudgeAwaited,
    ReadWorkflow,
    RegisterAwait,
    RegisterListener,
    ReleaseWorkflow,
    RenewWorkflows,
    ResetShard,
    RetryExecute,
    RetryUnblock,
    SearchWorkflows,
    SettlePromise,
    SuspendWorkflow,
    UnblockSent,
)

from . import (
    between_groups,
    between_shards,
    bulk,
    completions,
    deletions,
    entries,
    executions,
    leases,
    locks,
    packages,
    promises,
    rearming,
    reset,
    retention,
    schedules,
    tasks,
    workflow_promises,
    workflows,
)

Decision = Callable[[DecisionContext, Any, int], Reply]

EXPIRIES: dict[TimerKind, Callable[[DecisionContext, str, int], None]] = {
    PROMISE_TIMER: promises.expire_promise,
    TASK_TIMER: tasks.expire_task,
    DELAY_TIMER: tasks.end_delay,
    SCHEDULE_TIMER: schedules.fire,
    LOCK_TIMER: locks.expire_lock,
    EXECUTION_TIMER: executions.expire_execution,
    WORKFLOW_TIMER: workflows.expire_workflow,
    UNBLOCK_TIMER: workflow_promises.expire_unblocks,
}
"""By kind of timer: what is done when one has fired."""


def expire(context: DecisionContext, command: Expire, now_ms: int) -> Reply:
    """Handle a timer that has fired."""
    EXPIRIES[command.kind](context, command.id, now_ms)
    return DONE


def go_on(context: DecisionContext, command: GoOn, now_ms: int) -> Reply:
    """Look at some of the tasks that earlier steps have left; the step itself sends them.

    Listeners that were left are told by any step.
    """
    state = context.state
    for later, touched in (
        (state.later_roots, state.touched_roots),
        (state.later_workflows, state.touched_workflows),
    ):
        for _ in range(min(len(later), DISPATCH_LIMIT_COUNT)):
            touched[later.popleft()] = None
    return DONE


DECISIONS: dict[type[Command], Decision] = {
    CreatePromise: promises.create_promise,
    ReadPromise: promises.read_promise,
    CompletePromise: promises.complete_promise,
    ImportPromise: promises.import_promise,
    DeletePromise: deletions.delete_promise,
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
    UpdateSchedule: schedules.update_schedule,
    PauseSchedule: schedules.pause_schedule,
    ResumeSchedule: schedules.resume_schedule,
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
    EnsurePromise: workflow_promises.ensure_promise,
    SettlePromise: workflow_promises.settle_promise,
    RegisterAwait: workflow_promises.register_await,
    RegisterListener: workflow_promises.register_listener,
    EnsureSchedule: workflow_promises.ensure_schedule,
    UnblockSent: workflow_promises.unblock_sent,
    RetryUnblock: workflow_promises.retry_unblock,
    ResetShard: reset.reset_shard,
    ReadWorkflow: workflows.read_workflow,
    CreateWorkflow: workflows.create_workflow,
    AcquireWorkflow: workflows.acquire_workflow,
    RenewWorkflows: workflows.renew_workflows,
    SuspendWorkflow: workflows.suspend_workflow,
    FulfillWorkflow: workflows.fulfill_workflow,
    ReleaseWorkflow: workflows.release_workflow,
    HaltWorkflow: workflows.halt_workflow,
    ContinueWorkflow: workflows.continue_workflow,
    SearchWorkflows: workflows.search_workflows,
    ExecuteSent: workflows.execute_sent,
    ExecuteNotSent: workflows.execute_not_sent,
    RetryExecute: workflows.retry_execute,
    Retain: retention.retain,
    CountRetained: retention.count_retained,
    CountBulk: bulk.count_bulk,
    FindBulk: bulk.find_bulk,
    RunBulk: bulk.run_bulk,
    AdvanceBulk: bulk.advance_bulk,
    ReadBulk: bulk.read_bulk,
    CloseBulk: bulk.close_bulk,
    Expire: expire,
    GoOn: go_on,
    ResumeTime: leases.resume_time,
    RearmTimers: rearming.rearm_timers,
    ContinueTasksHeartbeat: tasks.continue_heartbeat,
    ContinueLocksHeartbeat: locks.continue_heartbeat,
    ContinueRenewals: workflows.continue_renewals,
    ContinueResume: schedules.continue_resume,
    ContinueCompletions: completions.continue_completions,
    Receive: between_shards.receive,
    Acknowledge: between_shards.acknowledge,
    CheckFence: between_groups.check_fence,
    CheckWorkflowFence: between_groups.check_workflow_fence,
    JudgeAwaited: between_groups.judge_awaited,
    CountAwaiting: between_groups.count_awaiting,
    JudgeInUse: between_groups.judge_in_use,
}
"""By type of command: what decides it."""
