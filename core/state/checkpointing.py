"""Taking a shard's state out of memory and back: capture, evict, load.

`capture` collects what changed since the last capture; when the checkpoint with it is on disk,
`evict` drops the completed promises and finished tasks that it holds and that have not changed
since; after a restart `load` brings back what is live. A replay of the records that follow the
captured sequence then gives the state at the crash.
"""

from collections.abc import Iterator
from typing import Final

from troth.core.leases import LeaseFloor
from troth.core.model import (
    CLAIMED,
    NOTIFY,
    PENDING,
    Task,
)
from troth.core.workflows import Await, Listener, WorkflowTask

from .captures import Capture, Loaded, ShardHeader
from .completions import add_callback
from .shard_state import ACTIVE, Root, ShardState

EVICTION_SLICE_COUNT: Final = 500
"""How many entities leave memory at a time; it takes about a millisecond."""


def capture(state: ShardState, sequence: int, position: int) -> Capture:
    """Collect the changes; the state notes new ones from here on.

    `sequence` is the shard sequence of the last record applied, `position` a log sequence that
    is not before it.
    """
    changes, state.changes = state.changes, type(state.changes)()
    callbacks = state.callbacks
    tasks: dict[str, Task | None] = {}
    for task_id in changes.tasks:
        task = state.tasks.get(task_id)
        tasks[task_id] = _row(task) if task is not None else None
    # The rows of who waits count places, which the header says.
    awaits = {pair: _await_row(state, *pair) for pair in changes.awaits}
    listeners = {pair: _listener_row(state, *pair) for pair in changes.listeners}
    return Capture(
        header(state, sequence, position),
        {name: state.promises.get(name) for name in changes.promises},
        tasks,
        {name: callbacks.get(of, {}).get(name) for name, of in changes.callbacks.items()},
        {name: state.schedules.get(name) for name in changes.schedules},
        {name: state.locks.get(name) for name in changes.locks},
        {key: state.outbox.get(key[0], {}).get(key[1]) for key in changes.outbox},
        frozenset(changes.deleted_promises),
        frozenset(changes.deleted_tasks),
        {name: state.entries.by_id.get(name) for name in changes.entries},
        {name: state.executions.get(name) for name in changes.executions},
        {name: state.usage.get(name) for name in changes.usage},
        {name: _workflow_row(state.workflows.get(name)) for name in changes.workflows},
        awaits,
        listeners,
    )


def _row(task: Task) -> Task:
    """Return a copy without the dispatcher's notes."""
    row = task.copy()
    row.queued = row.sending = row.stalled = False
    row.sends_count = 0
    return row


def _workflow_row(task: WorkflowTask | None) -> WorkflowTask | None:
    return None if task is None else task.row()


def _await_row(state: ShardState, awaited: str, awaiter: str) -> Await | None:
    """Return a pair's row, with its place in the order of registration, or None if gone."""
    if not state.awaits.has(awaited, awaiter):
        return None
    state.waiting_place += 1
    return Await(awaited, awaiter, state.waiting_place)


def _listener_row(state: ShardState, promise_id: str, address: str) -> Listener | None:
    """Return the same for a listener, or for its message after its promise has settled."""
    settled_at = state.unblocks.get(promise_id, {}).get(address)
    if settled_at is None and not state.listeners.has(promise_id, address):
        return None
    state.waiting_place += 1
    return Listener(promise_id, address, state.waiting_place, settled_at)


def header(state: ShardState, sequence: int, position: int) -> ShardHeader:
    """Return the shard's header as it is now."""
    live_tasks_count = sum(len(root.tasks) for root in state.roots.values())
    return ShardHeader(
        state.index,
        sequence,
        position,
        state.task_sequence,
        state.largest_serial,
        dict(state.inbox),
        dict(state.outbox_sequence),
        state.promises_count,
        state.tasks_count,
        state.pending_count,
        live_tasks_count + len(state.notifications),
        sum(len(waiting) for waiting in state.callbacks.values()),
        len(state.schedules),
        len(state.locks),
        sum(len(messages) for messages in state.outbox.values()),
        state.task_counter_floor,
        len(state.entries),
        len(state.executions),
        len(state.usage),
        len(state.workflows),
        state.awaits.count,
        state.listeners.count + sum(len(addresses) for addresses in state.unblocks.values()),
        state.workflow_floor,
        state.waiting_place,
        state.has_workflows,
        state.lease_floor.resumed_on,
        state.lease_floor.claims_end_on,
        state.counts.copy(),
        dict(state.completions),
        dict(state.bulk_parts),
    )


def evict(state: ShardState, written: Capture) -> Iterator[int]:
    """Drop what is finished and was written, in slices; how many left memory with each.

    Between two slices the state is whole and may change. What was deleted before the capture is no
    longer in the cold store, and need not be hidden.
    """
    retention = state.retention
    state.hidden_promises -= written.deleted_promises - state.changes.deleted_promises
    state.hidden_tasks -= written.deleted_tasks - state.changes.deleted_tasks
    count = 0
    for name, promise in written.promises.items():
        if promise is None or promise.state is PENDING:
            continue
        if state.promises.get(name) is promise:
            state.forget_promise(promise)
            if retention is not None:
                retention.goes_cold(promise)
            count += 1
            if count == EVICTION_SLICE_COUNT:
                yield count
                count = 0
    for name, row in written.tasks.items():
        if row is None or not row.is_final or name in state.changes.tasks:
            continue
        task = state.tasks.get(name)
        if task is not None and task.is_final:
            state.forget_task(task)
            count += 1
            if count == EVICTION_SLICE_COUNT:
                yield count
                count = 0
    yield count


def load(state: ShardState, loaded: Loaded) -> None:
    """Bring an empty state to what a checkpoint says is live."""
    top = loaded.header
    state.task_sequence = top.task_sequence
    state.task_counter_floor = top.task_counter_floor
    state.workflow_floor = top.workflow_floor
    state.waiting_place = top.waiting_place
    state.has_workflows = top.has_workflows
    state.lease_floor = LeaseFloor(top.leases_resumed_on, top.claims_end_on)
    state.completions = dict(top.completions)
    state.bulk_parts = dict(top.bulk_parts)
    state.largest_serial = top.largest_serial
    state.inbox = dict(top.inbox)
    state.outbox_sequence = dict(top.outbox_sequence)
    state.counts = loaded.counts
    state.promises_count = top.promises_count
    state.tasks_count = top.tasks_count
    for promise in sorted(loaded.promises, key=lambda row: row.serial):
        state.promises[promise.id] = promise
        state.index_promise(promise)
        state.pending_count += 1
    for callback in loaded.callbacks:
        add_callback(state, callback)
    for task in sorted(loaded.tasks, key=lambda row: row.sequence):
        _load_task(state, task)
    for schedule in sorted(loaded.schedules, key=lambda row: row.serial):
        state.schedules[schedule.id] = schedule
        state.schedule_index.append(schedule.serial, schedule.id)
    for lock in loaded.locks:
        state.locks[lock.resource_id] = lock
        state.locks_of.setdefault(lock.process_id, {})[lock.resource_id] = None
    for (target, sequence), message in sorted(loaded.outbox.items(), key=lambda item: item[0]):
        state.outbox.setdefault(target, {})[sequence] = message
    for entry in loaded.entries:
        state.entries.put(entry)
    state.executions.update({one.promise_id: one for one in loaded.executions})
    state.usage.update({one.function_id: one for one in loaded.usage})
    # In the order of creation, which lists of tasks go by.
    in_order = sorted(loaded.workflows, key=lambda row: state.promises[row.id].serial)
    for workflow in in_order:
        state.workflows[workflow.id] = workflow
        state.workflow_index.append(state.promises[workflow.id].serial, workflow.id)
    for pair in sorted(loaded.awaits, key=lambda row: row.place):
        state.awaits.add(pair.awaited, pair.awaiter)
    for one in sorted(loaded.listeners, key=lambda row: row.place):
        if one.settled_at is None:
            state.listeners.add(one.promise_id, one.address)
        else:
            state.unblocks.setdefault(one.promise_id, {})[one.address] = one.settled_at


def _load_task(state: ShardState, task: Task) -> None:
    state.tasks[task.id] = task
    state.task_index.append(task.sequence, task.id)
    state.task_notes.began(task)
    if task.kind is NOTIFY:
        state.notifications[task.id] = task
    else:
        root = state.roots.get(task.root_id)
        if root is None:
            root = state.roots[task.root_id] = Root({})
        root.tasks[task.id] = task
        if task.state in ACTIVE:
            root.active_count += 1
        else:
            root.push(task)
    if task.state is CLAIMED:
        assert task.process_id is not None, "a claimed task has a holder"
        state.claimed.setdefault(task.process_id, {})[task.id] = task
