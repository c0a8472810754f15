"""The state of one shard, and how most records change it.

Rules of this file: state changes only by `APPLY` (`apply.py`) and what it calls, live and on replay
alike (invariant I2 of design.md); nothing here reads a clock or decides anything a client asked
for; in addition to the state there are *notes*, which are rebuilt after a replay: timers to change,
roots and notifications that the dispatcher should look at, messages that may leave the shard.
"""

from collections import deque
from collections.abc import Callable

from troth.core import records as r
from troth.core.bulk import BulkPart
from troth.core.catalog import RESERVED_PREFIX, is_reserved
from troth.core.commands import (
    DELAY_TIMER,
    SCHEDULE_TIMER,
    TASK_TIMER,
    WORKFLOW_TIMER,
    TimerKind,
)
from troth.core.executions import Execution, Usage
from troth.core.grammar import task_ids
from troth.core.leases import NO_FLOOR, granted_ttl
from troth.core.limits import saturating_add
from troth.core.model import (
    CLAIMED,
    COMPLETED,
    ENQUEUED,
    INIT,
    INVOKE,
    NOTIFY,
    PENDING,
    RESUME,
    TIMEDOUT,
    Callback,
    Lock,
    Promise,
    Schedule,
    Task,
    TaskState,
    replace,
)
from troth.core.retention_rules import Retention
from troth.core.tables.promise_table import PromiseTable
from troth.core.tables.serial_index import SerialIndex
from troth.core.tables.tag_index import TagIndex
from troth.core.workflows import WorkflowTask

from .activity import Activity, AttemptOutcome, first_ready_on
from .beats import Beats, NamedBeats
from .changes import Changes
from .cold import ColdStore, NothingCold
from .counts import Counts
from .entries import Entries
from .outbox import Outbox
from .task_notes import Root, TaskNotes
from .waiting import Waiting

TimerKey = tuple[TimerKind, str]
ACTIVE = (ENQUEUED, CLAIMED)


class ShardState:
    """All promises, callbacks, tasks, schedules and locks of one shard.

    Completed promises and finished tasks may have left memory after a checkpoint; `find_promise`
    and `find_task` look in `cold` too. Everything else is in memory. With `tracks_changes` the ids
    of what changes are collected for the next checkpoint, and what is deleted stays in
    `hidden_promises` and `hidden_tasks` until `cold` no longer has it.
    """

    def __init__(
        self,
        index: int,
        shard_of: Callable[[str], int],
        cold: ColdStore | None = None,
        tracks_changes: bool = False,
    ) -> None:
        self.index = index
        self.shard_of = shard_of
        self.cold: ColdStore = cold or NothingCold()
        self.tracks_changes = tracks_changes
        self.changes = Changes()
        self.hidden_promises: set[str] = set()
        self.hidden_tasks: set[str] = set()
        self.retention: Retention | None = None
        self.task_notes = TaskNotes()
        self.counts = Counts.zero()
        self.activity = Activity()
        self.promises_count = 0
        self.tasks_count = 0
        self.promises = PromiseTable()
        self.promise_index = SerialIndex()
        self.completed: dict[str, dict[str, str] | None] = {}
        """The tags of completed promises that are in memory, in the order of completion."""
        self.unpacked: list[Promise] = []
        """Promises that have just completed, which `pack` makes small."""
        self.tag_index = TagIndex(self.promises.serial_of)
        self.reserved_tag_index = TagIndex(self.promises.serial_of)
        self.callbacks: dict[str, dict[str, Callback]] = {}
        self.callbacks_count = 0
        self.resuming = Waiting()  # roots, and the promises whose callbacks resume them
        self.task_beats = Beats()
        self.lock_beats = Beats()
        self.workflow_beats = NamedBeats()
        self.completions: dict[str, int] = {}  # those under way, each with its time
        self.tasks: dict[str, Task] = {}
        self.task_index = SerialIndex()  # of the tasks in memory, by their sequence
        self.task_sequence = 0
        self.task_counter_floor = 0
        self.lease_floor = NO_FLOOR
        self.roots: dict[str, Root] = {}
        self.notifications: dict[str, Task] = {}
        self.claimed: dict[str, dict[str, Task]] = {}
        self.schedules: dict[str, Schedule] = {}
        self.schedule_index = SerialIndex()
        self.paused_schedules: set[str] = set()
        self.locks: dict[str, Lock] = {}
        self.locks_of: dict[str, dict[str, None]] = {}
        self.outbox = Outbox()
        self.inbox: dict[int, int] = {}
        self.entries = Entries()
        self.bulk_parts: dict[str, BulkPart] = {}  # of jobs that are under way here
        self.executions: dict[str, Execution] = {}
        self.usage: dict[str, Usage] = {}
        self.workflows: dict[str, WorkflowTask] = {}
        self.workflow_index = SerialIndex()  # by their promises' serials
        self.awaits = Waiting()
        self.listeners = Waiting()
        self.unblocks: dict[str, dict[str, int]] = {}
        self.unblocks_count = 0
        self.workflow_floor = 0
        self.waiting_place = 0  # of the newest row of who waits
        self.has_workflows = False
        self.largest_serial = 0
        self.fresh: list[Promise] = []
        """Promises that are in the table, and neither counted nor in an order yet: see `settle`."""
        # Notes for the machine; see the top of this file.
        self.promise_timers: list[Promise] = []
        self.newest: Promise | None = None  # the promise that was created last
        self.timers: list[tuple[TimerKey, int | None]] = []
        self.touched_roots: dict[str, None] = {}
        self.new_notifications: list[Task] = []
        self.touched_workflows: dict[str, None] = {}
        self.later_roots: deque[str] = deque()  # too many to be looked at in one step
        self.later_workflows: deque[str] = deque()
        self.new_unblocks: deque[tuple[str, str]] = deque()
        self.begun_completions: list[str] = []
        self.withdrawals: list[str] = []
        self.messages: list[tuple[int, int, r.ShardMessage]] = []
        self.finished: list[str] = []

    @property
    def pending_count(self) -> int:
        """The number of pending promises: all of them are in memory."""
        return len(self.promises) - len(self.completed)

    def find_promise(self, promise_id: str) -> Promise | None:
        """Return the promise, wherever it is, or None if there is none."""
        promise = self.promises.get(promise_id)
        return self.find_cold_promise(promise_id) if promise is None else promise

    def find_cold_promise(self, promise_id: str) -> Promise | None:
        """Return the promise that is not in memory, or None if there is none."""
        if promise_id in self.hidden_promises:
            return None
        return self.cold.promise(promise_id)

    def find_task(self, task_id: str) -> Task | None:
        """Return the task, wherever it is, or None if there is none."""
        task = self.tasks.get(task_id)
        if task is not None or task_id in self.hidden_tasks:
            return task
        return self.cold.task(task_id)

    # Promises

    def settle(self) -> None:
        """Count the promises that were created since the last time, and note places and timers.

        Until then they can only be found by their ids. So this comes before anything that looks at
        more than that, or changes it; and at the end of a shard's part of a turn.
        """
        fresh, self.fresh = self.fresh, []
        count, last = len(fresh), fresh[-1]
        self.largest_serial = serial = last.serial
        if count == 1:
            ids = [last.id]
            self.promise_index.append(serial, last.id)
        else:
            ids = [promise.id for promise in fresh]
            self.promise_index.extend([promise.serial for promise in fresh], ids)
        self.promises.folded_count += count
        self.promises_count += count
        self.counts.promises[PENDING] += count
        self.activity.created_count += count
        if self.tracks_changes:
            self.changes.promises += ids
        if self.promise_timers:
            self.promise_timers += fresh
        else:
            self.promise_timers = fresh

    def add_promise(self, promise: Promise, seed: r.TaskSeed | None) -> None:
        """Take up a pending promise that is new, with its invoke task if it has one."""
        if self.fresh:
            self.settle()
        self.newest = promise
        promise_id, serial = promise.id, promise.serial
        promises = self.promises
        assert promise_id not in promises.kept, "a promise is created once"
        promises.kept[promise_id] = promise
        self.promises_count += 1
        tag_index = self.tag_index
        if promise_id.startswith(RESERVED_PREFIX):  # such are found by their tags
            self.counts.promise_added(promise_id, PENDING)
            tag_index = self.reserved_tag_index
        else:
            self.counts.promises[PENDING] += 1
            self.activity.created_count += 1
            self.promise_index.append(serial, promise_id)
        if promise.tags is not None:
            tag_index.add(promise_id, serial, promise.tags.items())
        if self.tracks_changes:
            self.changes.promises.append(promise_id)
        self.largest_serial = serial
        self.promise_timers.append(promise)
        if seed is None:
            return
        task = Task(
            task_ids.invoke_id(promise.id),
            INVOKE,
            promise.id,
            promise.id,
            seed.receiver,
            promise.timeout,
            0,
            promise.created_on,
            not_before=seed.not_before,
            trace=promise.trace,
        )
        self._add_task(task)
        if seed.process_id is not None:
            self.activity.born_count += 1
            self._claim(task, seed.process_id, seed.ttl, seed.expires_at)
            task.since = promise.created_on

    def index_promise(self, promise: Promise) -> None:
        """Note where a promise that is now in memory stands in the orders of searches."""
        if not is_reserved(promise.id):  # those are found by their tags
            self.promise_index.append(promise.serial, promise.id)
        if promise.tags is not None:
            index = self.tag_index_of(promise.id)
            index.add(promise.id, promise.serial, promise.tags.items())

    def pack(self) -> None:
        """Make small what has just completed and a checkpoint will write: see `packing.py`."""
        unpacked, self.unpacked = self.unpacked, []
        self.promises.pack(unpacked)

    def tag_index_of(self, promise_id: str) -> TagIndex:
        """Return the index that has the tags of a promise with this id."""
        return self.reserved_tag_index if is_reserved(promise_id) else self.tag_index

    def index_for(self, tags: dict[str, str], *, reserved: bool = False) -> SerialIndex:
        """Return an index that holds every promise in memory with these tags.

        It is of the server's own promises (`reserved`) or of the others; and the smallest there is.
        """
        if reserved:
            return self.reserved_tag_index.smallest(tags)
        if not tags:
            return self.promise_index
        return self.tag_index.smallest(tags)

    def fire(self, callback: Callback, at: int) -> None:
        """Turn a callback into its task; the callback's promise has completed."""
        if callback.kind is RESUME:
            target = self.shard_of(callback.root_id)
            if target != self.index:
                self.post(target, r.ResumeMessage(callback, at))
                return
        self.add_callback_task(callback, at)

    def add_callback_task(self, callback: Callback, at: int) -> None:
        """Add the task that a callback stands for."""
        self._add_task(
            Task(
                callback.id,
                callback.kind,
                callback.root_id,
                callback.promise_id,
                callback.receiver,
                callback.timeout,
                0,
                at,
                trace=callback.trace,
            )
        )

    # Tasks

    def _add_task(self, task: Task) -> None:
        old = self.find_task(task.id)
        if old is None:
            self.tasks_count += 1
            task.counter = self.task_counter_floor + 1
        elif not old.is_final:
            return
        else:
            self.counts.tasks_like(old.root_id)[old.state] -= 1
            if self.tracks_changes:
                self.changes.deleted_tasks.setdefault(old.id, old.sequence)
            task.counter = old.counter + 1  # so that no old message fits the new task
        self.counts.tasks_like(task.root_id)[task.state] += 1
        self.task_sequence = task.sequence = self.task_sequence + 1
        if old is not None and task.id in self.tasks:
            self.forget_task(old)
        self.tasks[task.id] = task
        self.task_index.append(task.sequence, task.id)
        self.task_notes.began(task)
        if task.kind is NOTIFY:
            self.notifications[task.id] = task
            self.new_notifications.append(task)
        else:
            root = self.roots.get(task.root_id)
            if root is None:
                root = self.roots[task.root_id] = Root()
            root.add(task)
            self.queue(task)
        if self.tracks_changes:
            self.changes.tasks.add(task.id)
        if task.kind is not INVOKE:  # such a one ends with its promise, and had no timer before
            self.timers.append(((TASK_TIMER, task.id), task.timeout))

    def forget_task(self, task: Task) -> None:
        """Drop a finished task from memory; a checkpoint has it, or it is to be gone."""
        del self.tasks[task.id]
        self.task_index.discard(task.sequence)
        self.task_notes.left(task)

    def queue(self, task: Task) -> None:
        """Queue a task that may be sent among those of its root."""
        self.touched_roots[task.root_id] = None
        if not task.queued:
            self.roots[task.root_id].push(task)

    def deadline_of(self, task: Task) -> int | None:
        """Return when a task changes without a command, in ms; None if never.

        That is its own deadline, or later: see `leases.py`.
        """
        state = task.state
        if state is CLAIMED:
            end = self.lease_floor.end_of_lease(task.expires_at, task.ttl)
        elif state is ENQUEUED:
            end = self.lease_floor.end_of_claim(task.expires_at)
        else:
            return task.timeout if state is INIT else None
        return end if end < task.timeout else task.timeout

    def timer_of(self, task: Task) -> int | None:
        """Return the deadline that the task needs a timer for, or None if it needs none."""
        deadline = self.deadline_of(task)
        if deadline is not None and task.kind is INVOKE and deadline == task.timeout:
            return None  # its promise has the same timeout, and ends the task
        return deadline

    def arm(self, task: Task) -> None:
        """Note that a task has changed, and set its timer."""
        if self.tracks_changes:
            self.changes.tasks.add(task.id)
        self.timers.append(((TASK_TIMER, task.id), self.timer_of(task)))

    def renew_lease(self, task: Task, expires_at: int) -> None:
        """Change the time until which a claimed task's lease runs."""
        task.expires_at = expires_at
        self.arm(task)

    def move(self, task: Task, state: TaskState) -> None:
        """Change a task's state, with everything that is counted or indexed by it."""
        was, task.state = task.state, state
        counts = self.counts.tasks_like(task.root_id)
        counts[was] -= 1
        counts[state] += 1
        if was is CLAIMED:
            self._forget_claim(task)
        if task.sending or task.stalled:
            self.withdrawals.append(task.id)
            self.settle_send(task)
            task.stalled = False
        if task.not_before is not None and state is not INIT:
            self.timers.append(((DELAY_TIMER, task.id), None))
        if task.kind is NOTIFY:
            if task.is_final:
                self.task_notes.ended(task)
                self.notifications.pop(task.id, None)
            elif state is INIT:
                self.new_notifications.append(task)
        else:
            self._move_in_root(task, was, state)
        self.arm(task)

    def _move_in_root(self, task: Task, was: TaskState, state: TaskState) -> None:
        """Do what a change means for the others of a task's root: one at a time is active."""
        root = self.roots[task.root_id]
        if was in ACTIVE:
            root.active_count -= 1
        if state in ACTIVE:
            root.active_count += 1
            if root.queue is not None and len(root.queue) == 1:
                self._empty_queue(root)
        elif state is INIT:
            self.queue(task)
        else:
            self.task_notes.ended(task)
            root.remove(task)
            if root.count:
                self.touched_roots[task.root_id] = None
            else:
                del self.roots[task.root_id]

    def _empty_queue(self, root: Root) -> None:
        """Drop the queue's only entry if it is no longer true, as that of a task that is claimed.

        Nothing is sent while a task is active, and a list for each would cost memory.
        """
        task_id = root.queue[0][1] if root.queue else ""
        task = root.find(task_id)
        if task is None or task.state is not INIT:
            root.queue = None
            if task is not None:
                task.queued = False

    def settle_send(self, task: Task) -> None:
        """Note that delivery no longer works on this task; what may go now is not looked for."""
        task.sending = False
        root = self.roots.get(task.root_id)
        if root is not None and root.sending == task.id:
            root.sending = None

    def _claim(self, task: Task, process_id: str, ttl: int, expires_at: int) -> None:
        task.ttl = ttl
        task.expires_at = expires_at
        self.move(task, CLAIMED)
        task.process_id = process_id
        self.claimed.setdefault(process_id, {})[task.id] = task

    def _forget_claim(self, task: Task) -> None:
        assert task.process_id is not None, "a claimed task has a holder"
        held = self.claimed[task.process_id]
        del held[task.id]
        if not held:
            del self.claimed[task.process_id]

    def task_enqueued(self, record: r.TaskEnqueued) -> None:
        task = self.tasks[record.id]
        task.expires_at = record.expires_at
        self.move(task, ENQUEUED)

    def task_delivered(self, record: r.TaskDelivered) -> None:
        self.move(self.tasks[record.id], COMPLETED)

    def task_claimed(self, record: r.TaskClaimed) -> None:
        task = self.tasks[record.id]
        if task.state is not CLAIMED:
            at = record.expires_at - record.ttl
            ready_on = task.since
            if ready_on is None:
                created_on = at if task.created_on is None else task.created_on
                ready_on = first_ready_on(created_on, task.not_before)
            self.activity.count_wait(task.receiver, at - ready_on, task.trace)
            task.since = at
        self._claim(task, record.process_id, record.ttl, record.expires_at)

    def clear_lease(self, task: Task) -> None:
        """Forget who held a task, and until when."""
        task.process_id = None
        task.ttl = 0
        task.expires_at = 0

    def task_completed(self, record: r.TaskCompleted) -> None:
        task = self.tasks[record.id]
        task.completed_on = record.at
        self.activity.end_attempt(task, AttemptOutcome.COMPLETED, record.at)
        self.move(task, COMPLETED)
        self.clear_lease(task)

    def task_timed_out(self, record: r.TaskTimedOut) -> None:
        task = self.tasks[record.id]
        task.completed_on = task.timeout
        self.activity.end_attempt(task, AttemptOutcome.EXPIRED, task.timeout)
        self.move(task, TIMEDOUT)
        self.clear_lease(task)

    def tasks_renewed(self, record: r.TasksRenewed) -> None:
        for task in self.claimed.get(record.process_id, {}).values():
            task.expires_at = saturating_add(record.at, task.ttl)
            self.arm(task)

    # Workflow tasks: what records do to them is in `workflows.py`

    def arm_workflow(self, workflow_id: str, deadline_ms: int | None) -> None:
        """Set the timer of a workflow task: the end of its lease, or when it is sent."""
        self.timers.append(((WORKFLOW_TIMER, workflow_id), deadline_ms))

    # Schedules

    def schedule_created(self, record: r.ScheduleCreated) -> None:
        self.set_schedule(record.schedule)
        self.schedule_index.append(record.schedule.serial, record.schedule.id)
        self.largest_serial = max(self.largest_serial, record.schedule.serial)

    def schedule_changed(self, record: r.ScheduleChanged) -> None:
        assert record.schedule.serial == self.schedules[record.schedule.id].serial
        self.set_schedule(record.schedule)

    def schedule_deleted(self, record: r.ScheduleDeleted) -> None:
        schedule = self.schedules.pop(record.id)
        self.paused_schedules.discard(record.id)
        if self.tracks_changes:
            self.changes.schedules.add(record.id)
        self.schedule_index.discard(schedule.serial)
        self.timers.append(((SCHEDULE_TIMER, record.id), None))

    def schedule_skipped(self, record: r.ScheduleSkipped) -> None:
        schedule = self.schedules[record.id]
        self.set_schedule(replace(schedule, next_run_time=record.next_run_time))

    def set_schedule(self, schedule: Schedule) -> None:
        """Store a schedule, replacing its earlier version."""
        self.load_schedule(schedule)
        if self.tracks_changes:
            self.changes.schedules.add(schedule.id)
        self.timers.append(((SCHEDULE_TIMER, schedule.id), schedule.due_on))

    def load_schedule(self, schedule: Schedule) -> None:
        """Put a schedule, new or changed, where it is found."""
        self.schedules[schedule.id] = schedule
        if schedule.paused_on is None:
            self.paused_schedules.discard(schedule.id)
        else:
            self.paused_schedules.add(schedule.id)

    def create_from_message(self, message: r.PromiseMessage, serial: int, at: int) -> None:
        """Create the promise of a schedule's run, unless its id is taken."""
        if self.find_promise(message.id) is not None:
            return  # as on the reference server: the promise stays, the schedule goes on
        promise = Promise(
            message.id,
            serial,
            PENDING,
            message.timeout,
            at,
            message.param,
            message.tags,
            trace=message.trace,
        )
        self.add_promise(promise, message.task)
        self.activity.scheduled_count += 1

    # Ends of leases, later than written after an absence: see `leases.py`

    def end_of_lock(self, lock: Lock) -> int:
        """Return when a lock's lease ends, in ms."""
        return self.lease_floor.end_of_lease(lock.expires_at, lock.ttl)

    def end_of_workflow_lease(self, task: WorkflowTask) -> int:
        """Return when the lease of an acquired workflow task ends, in ms."""
        return self.lease_floor.end_of_lease(task.expires_at, granted_ttl(task.ttl))

    def end_of_execution(self, execution: Execution) -> int | None:
        """Return when the server ends a function task, in ms; None while it is queued."""
        ends_on = execution.ends_on
        if ends_on is None:
            return None
        return self.lease_floor.end_of_lease(ends_on, execution.time_ms)

    # Messages between shards

    def post(self, target: int, message: r.ShardMessage) -> None:
        """Put a message for another shard into the outbox."""
        sequence = self.outbox.post(target, message)
        if self.tracks_changes:
            self.changes.outbox.add((target, sequence))
        self.messages.append((target, sequence, message))

    def messages_acknowledged(self, record: r.MessagesAcknowledged) -> None:
        target = record.target
        gone = self.outbox.acknowledge(target, record.sequence)
        if self.tracks_changes:
            self.changes.outbox.update((target, sequence) for sequence in gone)
