"""Taking a shard's state out of memory and back: capture and load.

`Capturing` collects what changed since the last capture; when the checkpoint with it is on disk,
`eviction.py` drops what is finished; after a restart `load` brings back what is live. A replay of
the records that follow the captured sequence then gives the state at the crash.

A capture is made in slices, and between two slices the state may change. It is of one moment all
the same: that of its last slice. What changes while it is made is noted as always, and read again,
until what is left fits into a slice.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, final

from troth.core.leases import LeaseFloor
from troth.core.limits import CAPTURE_SLICE_COUNT
from troth.core.model import (
    CLAIMED,
    NOTIFY,
    Task,
)
from troth.core.seeds import shared_receiver
from troth.core.tables.bulk_load import BulkLoad
from troth.core.workflows import Await, Listener, WorkflowTask

from .captures import Capture, Loaded, PairKey, ShardHeader
from .changes import Changes
from .completions import add_callback
from .late_tags import read_tags_later
from .shard_state import ACTIVE, ShardState
from .task_notes import Root

_DOUBLINGS_LIMIT_COUNT: Final = 5


@final
class Capturing:
    """A capture that is being made: `read_some` until `is_nearly_done`, then `finish`.

    Each time that what has changed is read again, slices become twice as large, up to 32 times: so
    a capture comes to an end however much changes in between.
    """

    def __init__(self, state: ShardState, slice_count: int = CAPTURE_SLICE_COUNT) -> None:
        """Begin; nothing is read yet."""
        self._state = state
        self._slice_count = slice_count
        self._doublings_count = 0
        self._rows: dict[str, dict[Any, Any]] = {kind: {} for kind in ("promises", *_READERS)}
        self._deleted_promises: dict[str, int] = {}
        self._deleted_tasks: dict[str, int] = {}
        self._take_changes()

    def _take_changes(self) -> None:
        """Go on with what has changed; the state notes new changes from here on."""
        state = self._state
        changes, state.changes = state.changes, Changes(state.largest_serial)
        self._left_count = changes.count
        self._promise_names = iter(changes.promises)
        self._keys = _keys(changes)
        self._deleted_promises = _joined(self._deleted_promises, changes.deleted_promises)
        self._deleted_tasks = _joined(self._deleted_tasks, changes.deleted_tasks)

    @property
    def is_nearly_done(self) -> bool:
        """Return whether all that is left fits into a slice."""
        left_count = self._left_count + self._state.changes.count
        return left_count <= self._slice_count << self._doublings_count

    def read_some(self) -> None:
        """Read a slice."""
        if not self._left_count:
            self._doublings_count = min(self._doublings_count + 1, _DOUBLINGS_LIMIT_COUNT)
            self._take_changes()
        self._read(self._slice_count << self._doublings_count)

    def _read(self, count: int) -> None:
        state, rows = self._state, self._rows
        if state.unpacked:  # a turn has failed: what is taken must not become another one later
            state.pack()
        # Most of it is promises. They are taken as they are: objects, or bytes.
        names = list(islice(self._promise_names, count))
        rows["promises"].update(zip(names, map(state.promises.kept.get, names), strict=True))
        for kind, key in islice(self._keys, count - len(names)):
            name = key[0] if kind == "callbacks" else key
            rows[kind][name] = _READERS[kind](state, key)
        self._left_count = max(self._left_count - count, 0)

    def finish(self, sequence: int, position: int, time_ms: int = 0) -> Capture:
        """Read what is left; what is captured is the state as it is now.

        `sequence` is the shard sequence of the last record applied, `position` a log sequence that
        is not before it, `time_ms` the shard's time.
        """
        self._read(self._left_count)
        self._take_changes()
        self._read(self._left_count)
        rows: dict[str, Any] = self._rows
        return Capture(
            header(self._state, sequence, position, time_ms),
            deleted_promises=self._deleted_promises,
            deleted_tasks=self._deleted_tasks,
            packed_names=dict(self._state.promises.name_sets.packed),
            **rows,
        )


def _joined(earlier: dict[str, int], later: dict[str, int]) -> dict[str, int]:
    """Return both as one, which may be either of them; the earlier counts."""
    if not earlier:
        return later
    for name, place in later.items():
        earlier.setdefault(name, place)
    return earlier


def capture(state: ShardState, sequence: int, position: int) -> Capture:
    """Collect all changes in one step. See `Capturing.finish`."""
    return Capturing(state).finish(sequence, position)


def everything(state: ShardState) -> Changes:
    """Return what a shard would note if all that it has in memory had just changed."""
    all_of_it = Changes()
    all_of_it.promises = list(state.promises)
    all_of_it.tasks = set(state.tasks)
    all_of_it.callbacks = {
        name: promise_id for promise_id, found in state.callbacks.items() for name in found
    }
    all_of_it.schedules = set(state.schedules)
    all_of_it.locks = set(state.locks)
    all_of_it.outbox = {(target, sequence) for target, sequence, _ in state.outbox}
    all_of_it.entries = set(state.entries.by_id)
    all_of_it.executions = set(state.executions)
    all_of_it.usage = set(state.usage)
    all_of_it.workflows = set(state.workflows)
    all_of_it.awaits = dict.fromkeys(state.awaits.pairs())
    all_of_it.listeners = dict.fromkeys(state.listeners.pairs())
    all_of_it.listeners.update(
        ((promise_id, address), None)
        for promise_id, addresses in state.unblocks.items()
        for address in addresses
    )
    return all_of_it


def _keys(changes: Changes) -> Iterator[tuple[str, Any]]:
    """Yield what else changed, with its kind; of a callback its id and that of its promise."""
    for kind in _READERS:
        of_kind = getattr(changes, kind)
        for key in of_kind.items() if kind == "callbacks" else of_kind:
            yield kind, key


def _task_row(state: ShardState, task_id: str) -> Task | None:
    task = state.tasks.get(task_id)
    return None if task is None else _row(task)


def _row(task: Task) -> Task:
    """Return a copy without the dispatcher's notes."""
    row = task.copy()
    row.queued = row.sending = row.stalled = False
    row.sends_count = 0
    row.since = None
    return row


def _workflow_row(state: ShardState, workflow_id: str) -> WorkflowTask | None:
    task = state.workflows.get(workflow_id)
    return None if task is None else task.row()


def _await_row(state: ShardState, pair: PairKey) -> Await | None:
    """Return a pair's row, with its place in the order of registration, or None if gone."""
    awaited, awaiter = pair
    if not state.awaits.has(awaited, awaiter):
        return None
    state.waiting_place += 1
    return Await(awaited, awaiter, state.waiting_place)


def _listener_row(state: ShardState, pair: PairKey) -> Listener | None:
    """Return the same for a listener, or for its message after its promise has settled."""
    promise_id, address = pair
    settled_at = state.unblocks.get(promise_id, {}).get(address)
    if settled_at is None and not state.listeners.has(promise_id, address):
        return None
    state.waiting_place += 1
    return Listener(promise_id, address, state.waiting_place, settled_at)


_READERS: Final[dict[str, Callable[[ShardState, Any], object]]] = {
    "tasks": _task_row,
    "callbacks": lambda state, key: state.callbacks.get(key[1], {}).get(key[0]),
    "schedules": lambda state, name: state.schedules.get(name),
    "locks": lambda state, name: state.locks.get(name),
    "outbox": lambda state, key: state.outbox.find(*key),
    "entries": lambda state, name: state.entries.by_id.get(name),
    "executions": lambda state, name: state.executions.get(name),
    "usage": lambda state, name: state.usage.get(name),
    "workflows": _workflow_row,
    # The rows of who waits count places, which the header says.
    "awaits": _await_row,
    "listeners": _listener_row,
}
"""How the row of an entity is read as it is now: None if it is gone."""


def header(state: ShardState, sequence: int, position: int, time_ms: int = 0) -> ShardHeader:
    """Return the shard's header as it is now."""
    return ShardHeader(
        state.index,
        sequence,
        position,
        state.task_sequence,
        state.largest_serial,
        dict(state.inbox),
        dict(state.outbox.sequences),
        state.promises_count,
        state.tasks_count,
        state.pending_count,
        state.counts.unfinished_tasks_count,
        state.callbacks_count,
        len(state.schedules),
        len(state.locks),
        len(state.outbox),
        state.task_counter_floor,
        len(state.entries),
        len(state.executions),
        len(state.usage),
        len(state.workflows),
        state.awaits.count,
        state.listeners.count + state.unblocks_count,
        state.workflow_floor,
        state.waiting_place,
        state.has_workflows,
        state.lease_floor.resumed_on,
        state.lease_floor.claims_end_on,
        state.counts.copy(),
        dict(state.completions),
        dict(state.bulk_parts),
        time_ms,
    )


def load(state: ShardState, loaded: Loaded) -> None:
    """Bring an empty state to what a checkpoint says is live. Raises RowUnreadable."""
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
    state.outbox.sequences.update(top.outbox_sequence)
    state.counts.add(loaded.counts)
    state.promises_count = top.promises_count
    state.tasks_count = top.tasks_count
    # They have waited long, and are as before the checkpoint: folded, and equal ids one text.
    pending = BulkLoad(state.promises, state.promise_index, state.reserved_tag_index)
    pending.load(loaded.promises)
    read_tags_later(state)
    named_count = top.live_tasks_count + len(loaded.workflows) + len(loaded.awaits)
    ids = pending.texts() if named_count else {}
    for callback in loaded.callbacks:
        add_callback(state, callback)
    for task in loaded.tasks:
        task.root_id = ids.get(task.root_id, task.root_id)
        task.leaf_id = ids.get(task.leaf_id, task.leaf_id)
        if isinstance(task.receiver, str):
            task.receiver = shared_receiver(task.receiver)
        _load_task(state, task)
    for schedule in sorted(loaded.schedules, key=lambda row: row.serial):
        state.load_schedule(schedule)
        state.schedule_index.append(schedule.serial, schedule.id)
    for lock in loaded.locks:
        state.locks[lock.resource_id] = lock
        state.locks_of.setdefault(lock.process_id, {})[lock.resource_id] = None
    for (target, sequence), message in sorted(loaded.outbox.items(), key=lambda item: item[0]):
        state.outbox.put_back(target, sequence, message)
    for entry in loaded.entries:
        state.entries.put(entry)
    state.executions.update({one.promise_id: one for one in loaded.executions})
    state.usage.update({one.function_id: one for one in loaded.usage})
    # In the order of creation, which lists of tasks go by.
    in_order = sorted(loaded.workflows, key=lambda row: state.promises[row.id].serial)
    for workflow in in_order:
        workflow.id = ids[workflow.id]
        if workflow.awaited is not None:
            workflow.awaited = tuple([ids.get(one, one) for one in workflow.awaited])
        state.workflows[workflow.id] = workflow
        state.workflow_index.append(state.promises[workflow.id].serial, workflow.id)
    for pair in sorted(loaded.awaits, key=lambda row: row.place):
        awaited, awaiter = pair.awaited, pair.awaiter
        state.awaits.add(ids.get(awaited, awaited), ids.get(awaiter, awaiter))
    for one in sorted(loaded.listeners, key=lambda row: row.place):
        if one.settled_at is None:
            state.listeners.add(one.promise_id, one.address)
        else:
            state.unblocks.setdefault(one.promise_id, {})[one.address] = one.settled_at
            state.unblocks_count += 1


def _load_task(state: ShardState, task: Task) -> None:
    state.tasks[task.id] = task
    state.task_index.append(task.sequence, task.id)
    state.task_notes.began(task)
    if task.kind is NOTIFY:
        state.notifications[task.id] = task
    else:
        root = state.roots.get(task.root_id)
        if root is None:
            root = state.roots[task.root_id] = Root()
        root.add(task)
        if task.state in ACTIVE:
            root.active_count += 1
        else:
            root.push(task)
    if task.state is CLAIMED:
        assert task.process_id is not None, "a claimed task has a holder"
        state.claimed.setdefault(task.process_id, {})[task.id] = task
