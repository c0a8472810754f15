"""What each record does to a shard's state, live and on replay alike (invariant I2 of design.md).

Most of it is methods of `ShardState`. Here are the table, and what needs more than the state alone:
the end of a lease also concerns the execution, if it is one, and messages are of many kinds.
"""

from collections.abc import Callable
from typing import Any

from troth.core import records as r
from troth.core import workflow_records as w
from troth.core.model import INIT, replace

from . import bulk, completions, creations, deletions, executions, imports, leases, locks, workflows
from .shard_state import ShardState


def task_released(state: ShardState, record: r.TaskReleased) -> None:
    """Apply the record: the task goes out again; its earlier holder is refused from now on."""
    task = state.tasks[record.id]
    if task.root_id in state.executions:
        executions.lease_ended(state, task.root_id)
    task.counter += 1
    state.move(task, INIT)
    state.clear_lease(task)


def schedule_fired(state: ShardState, record: r.ScheduleFired) -> None:
    """Apply the record: the schedule goes on; its promise is made here or asked for elsewhere."""
    schedule = state.schedules[record.id]
    state.set_schedule(
        replace(schedule, last_run_time=record.run_time, next_run_time=record.next_run_time)
    )
    target = state.shard_of(record.promise.id)
    if target != state.index:
        state.post(target, record.promise)
    else:
        _message_applied(state, record.promise, record.serial, record.at)


def message_received(state: ShardState, record: r.MessageReceived) -> None:
    """Apply the record: the message has its effect here, and never again."""
    assert record.sequence > state.inbox.get(record.source, 0), "a message is applied once"
    state.inbox[record.source] = record.sequence
    _message_applied(state, record.message, record.serial, record.at)


def _message_applied(state: ShardState, message: r.ShardMessage, serial: int, at: int) -> None:
    match message:
        case r.ResumeMessage():
            state.add_callback_task(message.callback, message.created_on)
        case r.PromiseMessage():
            state.create_from_message(message, serial, at)
        case w.WorkflowMessage():
            workflows.workflow_received(state, message, serial)
        case w.AwaitMessage():
            workflows.await_received(state, message, at)
        case w.AwaitDroppedMessage():
            workflows.await_dropped(state, message)
        case w.WakeMessage():
            workflows.wake(state, message.awaiter, message.awaited, at)


def entry_written(state: ShardState, record: r.EntryWritten) -> None:
    """Apply the record: the entry is as it says."""
    state.entries.put(record.entry)
    if state.tracks_changes:
        state.changes.entries.add(record.entry.id)


def entry_deleted(state: ShardState, record: r.EntryDeleted) -> None:
    """Apply the record: the entry is gone."""
    state.entries.drop(record.id)
    if state.tracks_changes:
        state.changes.entries.add(record.id)


APPLY: dict[type[Any], Callable[[ShardState, Any], None]] = {
    r.PromiseCreated: creations.promise_created,
    r.PromiseCompleted: completions.promise_completed,
    r.CompletionBegun: completions.completion_begun,
    r.CompletionContinued: completions.completion_continued,
    r.PromisesDeleted: deletions.promises_deleted,
    r.PromiseImported: imports.promise_imported,
    r.CallbackCreated: completions.callback_created,
    r.TaskEnqueued: ShardState.task_enqueued,
    r.TaskDelivered: ShardState.task_delivered,
    r.TaskClaimed: ShardState.task_claimed,
    r.TaskReleased: task_released,
    r.TaskCompleted: ShardState.task_completed,
    r.TaskTimedOut: ShardState.task_timed_out,
    r.TasksRenewed: ShardState.tasks_renewed,
    r.ScheduleCreated: ShardState.schedule_created,
    r.ScheduleDeleted: ShardState.schedule_deleted,
    r.ScheduleFired: schedule_fired,
    r.ScheduleChanged: ShardState.schedule_changed,
    r.ScheduleSkipped: ShardState.schedule_skipped,
    r.LockAcquired: locks.lock_acquired,
    r.LockReleased: locks.lock_released,
    r.LocksRenewed: locks.locks_renewed,
    r.LeasesRestarted: leases.leases_restarted,
    r.MessageReceived: message_received,
    r.MessagesAcknowledged: ShardState.messages_acknowledged,
    r.EntryWritten: entry_written,
    r.EntryDeleted: entry_deleted,
    r.ExecutionCreated: executions.execution_created,
    r.ExecutionAssigned: executions.execution_assigned,
    r.ExecutionReported: executions.execution_reported,
    r.ExecutionReturned: executions.execution_returned,
    r.BulkAdvanced: bulk.bulk_advanced,
    r.BulkClosed: bulk.bulk_closed,
    w.WorkflowCreated: workflows.workflow_created,
    w.WorkflowImported: workflows.workflow_imported,
    w.WorkflowAcquired: workflows.workflow_acquired,
    w.WorkflowsRenewed: workflows.workflows_renewed,
    w.WorkflowReleased: workflows.workflow_released,
    w.WorkflowSuspended: workflows.workflow_suspended,
    w.WorkflowResumesCleared: workflows.workflow_resumes_cleared,
    w.WorkflowHalted: workflows.workflow_halted,
    w.WorkflowContinued: workflows.workflow_continued,
    w.WorkflowWoken: workflows.workflow_woken,
    w.AwaitRegistered: workflows.await_registered,
    w.ListenerRegistered: workflows.listener_registered,
    w.ListenerTold: workflows.listener_told,
}
"""By type of record: what makes it true."""


def replay(state: ShardState, record: r.Record) -> None:
    """Apply a record read from the log, without notes."""
    APPLY[type(record)](state, record)
    state.promise_timers.clear()
    state.unpacked.clear()
    state.timers.clear()
    state.touched_roots.clear()
    state.new_notifications.clear()
    state.withdrawals.clear()
    state.messages.clear()
    state.finished.clear()
    state.touched_workflows.clear()
    state.later_roots.clear()
    state.later_workflows.clear()
    state.new_unblocks.clear()
    state.begun_completions.clear()
