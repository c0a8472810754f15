"""What must be true of every record that becomes durable, and of all that leaves the server.

`Watch` sees each record when the log says that it is durable, and before anybody is told. It keeps
a *shadow*: the state that a replay of exactly these records gives. So each record is checked
against the state before it, and each answer and message against what is on disk at that moment:

| rule | where |
|---|---|
| I1 nothing leaves before what it rests on is durable | `answered`, `sending` |
| I2 state is the replay of the log, after every crash; nothing acknowledged is lost | `recovered` |
| I5 queues and memory are bounded | `check_memory` (`memory.py`) |
| I6 every message between shards takes effect once, in order, after its cause | `_message` |
| what a message leads to has no time below that of what has led to it | `_message` |
| rest.md 13: transitions, claims, locks, callbacks, deliveries | `_CHECKS`, `sending`, `stepped` |
| every instant of a schedule fires once, in order | `_schedule_fired` |
| no counter of a task is claimed twice | `_task_claimed` |
| a bulk job does what it counts, and nothing to what was made later | `_bulk_advanced` |
| only what rules name or a client asked for is deleted, nothing in use | `_promises_deleted` |
| what is done for a task of another group is done while that is held | `fenced` |

Ids and counters are remembered beyond what the shadow holds: so "never again" can be tested.
"""

from collections.abc import Callable, Iterable
from typing import Any

from troth.core import records as r
from troth.core import workflow_records as w
from troth.core.bulk import BulkAction, BulkJob, BulkSubject
from troth.core.grammar import task_ids
from troth.core.grammar.cron import parse
from troth.core.grammar.task_ids import invoke_id
from troth.core.lineage import origin_of
from troth.core.machine import Machine, Step
from troth.core.model import Fence, Promise, PromiseState, Task, TaskKind, TaskState
from troth.core.replies import ExecuteMessage, Message, Reply, TaskMessage, UnblockMessage
from troth.core.retention_rules import RetentionRule, due_rule
from troth.core.state.apply import replay
from troth.core.state.shard_state import ShardState
from troth.core.workflows import (
    ACQUIRED,
    HALTED,
    SUSPENDED,
    WAITING,
    WorkflowFence,
    WorkflowState,
    WorkflowTask,
    WorkflowView,
)
from troth.persistence.placement import groups_by_shard
from troth.persistence.wal.log import LogRecord
from troth.shards.hashing import shard_of

from .ledger import BrokenPromise, require
from .sent_times import SentTimes

PENDING = PromiseState.PENDING
UNDER_WAY = (TaskState.ENQUEUED, TaskState.CLAIMED)


class Watch:
    """All records of a run, and the state that the durable ones amount to."""

    def __init__(
        self,
        shard_count: int,
        rules: tuple[RetentionRule, ...] = (),
        group_shards: tuple[int, ...] = (),
    ) -> None:
        """Without `group_shards` there is one group."""
        groups = groups_by_shard(group_shards or (shard_count,))
        self.shadow = [
            ShardState(index, lambda name: shard_of(name, shard_count))
            for index in range(shard_count)
        ]
        self.durable_counts = [0] * (groups[-1] + 1)
        self.deleted: set[str] = set()
        self.deleted_tasks: set[str] = set()
        self.unwanted: set[str] = set()  # what clients have asked to be deleted
        self.slots_count = 0
        self._shard_count = shard_count
        self._rules = rules
        self._groups = groups
        self._logs: list[list[LogRecord]] = [[] for _ in self.durable_counts]
        self._callbacks: set[str] = set()
        self._claims: set[tuple[str, int]] = set()
        self._locks: set[tuple[str, str]] = set()
        self._fired: set[tuple[str, int]] = set()
        self.told: set[tuple[str, str]] = set()
        self._at = 0
        self._sent = SentTimes()
        self.broken: BrokenPromise | None = None
        self.machines: dict[int, Machine] = {}
        """Those of all shards whose processes run."""

    # The log

    @property
    def durable_count(self) -> int:
        """How many records are durable."""
        return sum(self.durable_counts)

    def appended(self, entries: list[LogRecord], group: int = 0) -> None:
        """A group's shards have handed these to its committer."""
        self._logs[group] += entries

    def log_of(self, group: int) -> list[LogRecord]:
        """All that a group has appended."""
        return self._logs[group]

    def durable(self, position: int, group: int = 0) -> None:
        """A group's log is durable up to here. Raises BrokenPromise."""
        log, durable_count = self._logs[group], self.durable_counts[group]
        require(position <= len(log), "something is durable that nobody has appended")
        for entry in log[durable_count:position]:
            require(self._groups[entry.shard] == group, f"group {group} writes for {entry.shard}")
            self.check(entry.shard, r.decode(entry.body))
        self.durable_counts[group] = max(durable_count, position)

    def check(self, shard: int, record: r.Record) -> None:
        """Check one record against the state before it, then apply it. Raises BrokenPromise."""
        state = self.shadow[shard]
        rule = _CHECKS.get(type(record))
        if rule is not None:
            rule(self, state, record)
        sent = dict(state.outbox.sequences)
        replay(state, record)
        self._sent.note(shard, record, sent, state.outbox.sequences)

    def recovered(
        self, next_sequence: int, found: list[tuple[int, LogRecord]], group: int = 0
    ) -> None:
        """A crash has left a group's log like this; `found` is what is not trimmed."""
        log, durable_count = self._logs[group], self.durable_counts[group]
        require(
            next_sequence > durable_count,
            f"{durable_count + 1 - next_sequence} durable records are lost",
        )
        require(next_sequence - 1 <= len(log), "there are records that nobody has appended")
        for sequence, entry in found:
            expected = log[sequence - 1]
            require(entry == expected, f"record {sequence} is {entry} and was {expected}")
        del log[next_sequence - 1 :]
        self.durable(next_sequence - 1, group)

    # What leaves

    def answered(self, reply: Reply) -> None:
        """A reply is about to leave: what it shows must be durable."""
        if reply.promise is not None:
            self._shown(reply.promise)
        if reply.callback is not None:
            require(reply.callback.id in self._callbacks, f"{reply.callback.id} is not durable")
        if reply.lock is not None:
            held = (reply.lock.resource_id, reply.lock.execution_id)
            require(held in self._locks, f"lock {held} is not durable")
        if reply.claimed is not None:
            for promise in (reply.claimed.root, reply.claimed.leaf):
                if promise is not None:
                    self._shown(promise)
        if reply.workflow is not None:
            self._workflow_shown(reply.workflow)
        if reply.task is not None and not reply.task.id.startswith("__notify:"):
            self._task_shown(reply.task)

    def began(self, machines: Iterable[Machine]) -> None:
        """A process runs, with these machines."""
        self.machines |= {machine.state.index: machine for machine in machines}

    def ended(self, machines: Iterable[Machine]) -> None:
        """A process runs no more."""
        for machine in machines:
            del self.machines[machine.state.index]

    def fenced(self, fence: Fence | WorkflowFence) -> None:
        """A request is carried out for a task of another group: that holds it at this moment."""
        if isinstance(fence, Fence):
            state = self._state_now(task_ids.home(fence.task_id))
            task = state.tasks.get(fence.task_id)
            is_held = task is not None and task.state is TaskState.CLAIMED
            counter = 0 if task is None else task.counter
            require(
                is_held and counter == fence.counter,
                f"something was done for {fence.task_id}/{fence.counter}, which is not held",
            )
            return
        workflow = self._state_now(fence.id).workflows.get(fence.id)
        require(
            workflow is not None
            and workflow.state is ACQUIRED
            and workflow.version == fence.version,
            f"something was done for {fence.id}/{fence.version}, which is not held",
        )

    def _state_now(self, promise_id: str) -> ShardState:
        """The state of a promise's shard at this moment, durable or not."""
        shard = shard_of(promise_id, self._shard_count)
        machine = self.machines.get(shard)
        return self.shadow[shard] if machine is None else machine.state

    def is_with_node(self, promise_id: str, counter: int, node_id: str) -> bool:
        """Whether a node has an execution, durably."""
        state = self.shadow[shard_of(promise_id, self._shard_count)]
        execution, task = state.executions.get(promise_id), state.tasks.get(invoke_id(promise_id))
        if execution is None or task is None or task.state is not TaskState.CLAIMED:
            return False
        return execution.node_id == node_id and task.counter == counter

    def stepped(self, state: ShardState, step: Step) -> None:
        """A machine has decided to send: of each root one task at most may be under way."""
        for message in step.sends:
            if not isinstance(message, TaskMessage) or message.task.kind is TaskKind.NOTIFY:
                continue
            task = message.task
            others = [
                other.id
                for other in state.roots[task.root_id].tasks
                if (other.state in UNDER_WAY or other.sending) and other.id != task.id
            ]
            require(not others, f"{task.id} goes out while {others} is under way")

    def _shown(self, promise: Promise) -> None:
        if promise.id in self.deleted:
            return
        durable = self._promise(promise.id)
        require(durable is not None, f"{promise.id} was shown and is not durable")
        assert durable is not None
        if promise.state is not PENDING:
            require(
                (durable.state, durable.value) == (promise.state, promise.value),
                f"{promise.id} was shown as {promise.state} and is durable as {durable.state}",
            )

    def _task_shown(self, task: Task) -> None:
        durable = self._task(task.id, task.root_id)
        require(
            durable is not None
            and (durable.counter >= task.counter)
            and (durable.is_final or not task.is_final),
            f"{task.id}/{task.counter} was shown as {task.state} and is not durable",
        )

    def _workflow_shown(self, shown: WorkflowView) -> None:
        if shown.id in self.deleted:
            return
        durable = self._version(shown.id)
        require(
            durable is not None and durable >= shown.version,
            f"{shown.id}/{shown.version} was shown as {shown.state} and is not durable",
        )

    def _version(self, workflow_id: str) -> int | None:
        """The durable version of a workflow's task, also if it is fulfilled."""
        state = self.shadow[shard_of(workflow_id, self._shard_count)]
        task = state.workflows.get(workflow_id)
        if task is not None:
            return task.version
        promise = state.promises.get(workflow_id)
        return None if promise is None else promise.task_version

    def sending(self, message: Message) -> None:
        """A message is handed to delivery or placement: its cause must be durable."""
        if isinstance(message, ExecuteMessage):
            version = self._version(message.id)
            require(
                version is not None and version >= message.version,
                f"{message.id}/{message.version} goes out before it is durable",
            )
            return
        if isinstance(message, UnblockMessage):
            promise = self._promise(message.promise.id)
            require(
                message.promise.id in self.deleted
                or (promise is not None and promise.state is not PENDING),
                f"{message.address} is told of {message.promise.id}, which has not ended",
            )
            return
        task = message.task
        if task.root_id in self.deleted:
            return
        durable = self._task(task.id, task.root_id)
        require(
            durable is not None and durable.counter >= task.counter,
            f"{task.id}/{task.counter} goes out before it is durable",
        )
        if task.kind is TaskKind.NOTIFY:
            promise = self._promise(task.root_id)
            require(
                promise is not None and promise.state is not PENDING,
                f"{task.id} tells of {task.root_id}, which has not ended",
            )

    def is_durable(self, promise_id: str) -> bool:
        """Whether a promise is on disk, or was and is deleted."""
        return promise_id in self.deleted or self._promise(promise_id) is not None

    def _promise(self, identifier: str) -> Promise | None:
        return self.shadow[shard_of(identifier, self._shard_count)].promises.get(identifier)

    def _is_far(self, identifier: str, state: ShardState) -> bool:
        """Whether a promise lives in another group than a shard's."""
        home = shard_of(identifier, self._shard_count)
        return self._groups[home] != self._groups[state.index]

    def _task(self, task_id: str, root_id: str) -> Task | None:
        return self.shadow[shard_of(root_id, self._shard_count)].tasks.get(task_id)

    # Records. Each check sees the state before its record.

    def _promise_created(
        self, state: ShardState, record: r.PromiseCreated | w.WorkflowCreated
    ) -> None:
        require(record.id not in state.promises, f"{record.id} was made twice")
        self._at = max(self._at, record.created_on)

    def _promise_completed(
        self, state: ShardState, record: r.PromiseCompleted | r.CompletionBegun
    ) -> None:
        promise = state.promises.get(record.id)
        require(promise is not None, f"{record.id} ended and was never made")
        assert promise is not None
        require(promise.state is PENDING, f"{record.id} ended twice")
        self._at = max(self._at, record.at)
        if record.completed_on < promise.timeout:
            require(
                record.state is not PromiseState.REJECTED_TIMEDOUT, f"{record.id} ended too early"
            )
        else:
            require(
                record.state is promise.timed_out_state,
                f"{record.id} ended as {record.state} after its timeout",
            )

    def _completion_continued(self, state: ShardState, record: r.CompletionContinued) -> None:
        name = record.id
        require(name in state.completions, f"{name}: its completion goes on and was not under way")
        root = state.roots.get(name)
        for task_id in record.tasks:
            require(root is not None and root.find(task_id) is not None, f"{task_id} ended twice")
        for callback_id in record.callbacks:
            require(callback_id in state.callbacks.get(name, {}), f"{callback_id} fired twice")
        for awaiter in record.awaiters:
            require(state.awaits.has(name, awaiter), f"{awaiter} was woken twice by {name}")
        for address in record.listeners:
            require(state.listeners.has(name, address), f"{address} is told of {name} twice")

    def _bulk_advanced(self, state: ShardState, record: r.BulkAdvanced) -> None:
        home = self.shadow[shard_of(record.id, self._shard_count)]
        job = home.entries.by_id[record.id]
        assert isinstance(job, BulkJob)
        if job.subject is BulkSubject.TASKS:
            return
        done: list[Promise] = []
        if job.action is BulkAction.DELETE:
            done_count = self.deleted_of(job, state.index)
        else:
            done = [one for one in state.promises.values() if one.value.data == job.id]
            done_count = len(done)
        later = [one.id for one in done if one.serial >= job.start_in(state.index)[0]]
        require(not later, f"{job.id} touches {later}, which are later")
        part = state.bulk_parts.get(job.id)
        before_count = 0 if part is None else part.counts.done_count
        require(
            before_count + record.counts.done_count == done_count,
            f"{job.id} counts {before_count} and {record.counts}, and {done_count} are done",
        )

    def deleted_of(self, job: BulkJob, shard: int) -> int:
        """How many promises of a shard have been deleted by a job: nobody else deletes those."""
        prefix = job.filter.pattern.removesuffix("*")
        return sum(
            one.startswith(prefix) and shard_of(one, self._shard_count) == shard
            for one in self.deleted
        )

    def _promises_deleted(self, state: ShardState, record: r.PromisesDeleted) -> None:
        require(not state.completions, f"{record.ids} were deleted; tasks are still to come")
        for identifier in record.ids:
            promise = state.promises.get(identifier)
            require(
                promise is not None
                and promise.state is not PENDING
                and (
                    identifier in self.unwanted
                    or due_rule(self._rules, promise, record.at) is not None
                ),
                f"{identifier} was deleted, and no rule says so",
            )
        for task_id in record.task_ids:
            task = state.tasks.get(task_id)
            require(task is None or task.is_final, f"{task_id} was deleted unfinished")
        gone = set(record.ids)
        for other in self.shadow:
            for task in other.tasks.values():
                require(
                    task.is_final or not gone & {task.root_id, task.leaf_id},
                    f"{task.id} is about what was deleted: {record.ids}",
                )
        for identifier in record.ids:
            promise = state.promises[identifier]
            origin_id = origin_of(promise.tags)
            origin = None if origin_id is None else self._promise(origin_id)
            require(
                origin is None or origin.state is not PENDING or origin_id in self.deleted,
                f"{identifier} was deleted before {origin_id}, from which it stems",
            )
        self.deleted.update(record.ids)
        self.deleted_tasks.update(record.task_ids)

    def _callback_created(self, state: ShardState, record: r.CallbackCreated) -> None:
        callback = record.callback
        promise = state.promises.get(callback.promise_id)
        require(
            promise is not None and promise.state is PENDING,
            f"{callback.id} waits for what has ended",
        )
        known = state.callbacks.get(callback.promise_id, {})
        require(callback.id not in known, f"{callback.id} was made twice")
        self._callbacks.add(callback.id)

    def _task_enqueued(self, state: ShardState, record: r.TaskEnqueued) -> None:
        task = state.tasks[record.id]
        require(task.state is TaskState.INIT, f"{task.id} goes out while it is {task.state}")
        root = state.promises.get(task.root_id)
        if task.kind is TaskKind.INVOKE and root is not None:
            require(root.state is PENDING, f"{task.id} goes out after its promise ended")

    def _task_claimed(self, state: ShardState, record: r.TaskClaimed) -> None:
        task = state.tasks[record.id]
        if task.state is TaskState.CLAIMED and record.process_id == task.process_id:
            self._task_renewed(state, task, record)
            return
        require(
            task.state in (TaskState.INIT, TaskState.ENQUEUED),
            f"{task.id} was claimed while it was {task.state}",
        )
        claim = (task.id, task.counter)
        require(claim not in self._claims, f"{task.id}/{task.counter} was claimed twice")
        self._claims.add(claim)

    def _task_renewed(self, state: ShardState, task: Task, record: r.TaskClaimed) -> None:
        """A slice of a heartbeat: it renews as of the time when the heartbeat came."""
        beaten_on = record.expires_at - record.ttl
        end_ms = state.deadline_of(task)
        require(
            record.ttl == task.ttl and record.expires_at > task.expires_at,
            f"{task.id} was claimed while it was {task.state}",
        )
        require(end_ms is not None and end_ms > beaten_on, f"the lease of {task.id} came back")

    def _task_completed(self, state: ShardState, record: r.TaskCompleted) -> None:
        task = state.tasks[record.id]
        require(task.state is TaskState.CLAIMED, f"{task.id} completed while {task.state}")

    def _task_released(self, state: ShardState, record: r.TaskReleased) -> None:
        task = state.tasks[record.id]
        require(task.state in UNDER_WAY, f"{task.id} was released while {task.state}")

    def _lock_acquired(self, state: ShardState, record: r.LockAcquired) -> None:
        lock = record.lock
        held = state.locks.get(lock.resource_id)
        require(
            held is None or held.execution_id == lock.execution_id,
            f"{lock.resource_id} was taken from {held}",
        )
        self._locks.add((lock.resource_id, lock.execution_id))

    def _lock_released(self, state: ShardState, record: r.LockReleased) -> None:
        require(record.resource_id in state.locks, f"{record.resource_id} was freed twice")

    def _schedule_fired(self, state: ShardState, record: r.ScheduleFired) -> None:
        schedule = state.schedules[record.id]
        slot = (record.id, record.run_time)
        require(slot not in self._fired, f"{record.id} fired twice at {record.run_time}")
        require(schedule.paused_on is None, f"{record.id} fired although it is paused")
        require(
            record.run_time == schedule.next_run_time,
            f"{record.id} fired at {record.run_time}, not at {schedule.next_run_time}",
        )
        require(record.run_time <= record.at, f"{record.id} fired too early")
        following = parse(schedule.cron).next_after_ms(record.run_time)
        require(record.next_run_time == following, f"{record.id} leaves out {following}")
        self._fired.add(slot)
        self.slots_count += 1

    def _message(self, state: ShardState, record: r.MessageReceived) -> None:
        last = state.inbox.get(record.source, 0)
        require(
            record.sequence == last + 1,
            f"shard {state.index} applied message {record.sequence} after {last}",
        )
        sent = self.shadow[record.source].outbox.find(state.index, record.sequence)
        require(
            sent == record.message,
            f"shard {state.index} applied a message that {record.source} has not sent",
        )
        told_ms = self._sent.take(record.source, state.index, record.sequence)
        place = f"shard {state.index} applied at {record.at} what {record.source}"
        require(record.at >= told_ms, f"{place} sent at {told_ms}")

    def _acknowledged(self, state: ShardState, record: r.MessagesAcknowledged) -> None:
        done = self.shadow[record.target].inbox.get(state.index, 0)
        require(record.sequence <= done, "an outbox forgot what its target has not applied")

    # Workflow tasks. What a decision saw of other shards is earlier in the log, so durable, too.

    def _workflow(
        self, state: ShardState, workflow_id: str, *states: WorkflowState
    ) -> WorkflowTask:
        task = state.workflows.get(workflow_id)
        require(task is not None, f"{workflow_id} has no task, or it is fulfilled")
        assert task is not None
        require(task.state in states, f"{workflow_id} was {task.state}, not {' or '.join(states)}")
        return task

    def _workflow_acquired(self, state: ShardState, record: w.WorkflowAcquired) -> None:
        task = self._workflow(state, record.id, WAITING)
        claim = (record.id, task.version + 1)
        require(claim not in self._claims, f"{record.id}/{claim[1]} was claimed twice")
        self._claims.add(claim)

    def _workflow_released(self, state: ShardState, record: w.WorkflowReleased) -> None:
        task = self._workflow(state, record.id, ACQUIRED)
        if record.has_expired:
            end_ms = state.end_of_workflow_lease(task)
            require(end_ms <= record.at, f"the lease of {record.id} ended too early")

    def _workflows_renewed(self, state: ShardState, record: w.WorkflowsRenewed) -> None:
        for workflow_id in record.ids:
            task = self._workflow(state, workflow_id, ACQUIRED)
            end_ms = state.end_of_workflow_lease(task)
            require(end_ms > record.at, f"the lease of {workflow_id} came back")

    def _workflow_suspended(self, state: ShardState, record: w.WorkflowSuspended) -> None:
        self._workflow(state, record.id, ACQUIRED)
        for awaited in record.awaited:
            promise = self._promise(awaited)
            if self._is_far(awaited, state):
                # It was pending when that group was asked, and may have ended since: then the
                # task is woken by a message.
                is_known = promise is not None or awaited in self.deleted
                require(is_known, f"{record.id} waits for {awaited}, which nobody has made")
                continue
            require(
                promise is not None and promise.state is PENDING and promise.timeout > record.at,
                f"{record.id} waits for {awaited}, which has ended",
            )

    def _workflow_halted(self, state: ShardState, record: w.WorkflowHalted) -> None:
        self._workflow(state, record.id, WAITING, ACQUIRED, SUSPENDED)

    def _workflow_continued(self, state: ShardState, record: w.WorkflowContinued) -> None:
        self._workflow(state, record.id, HALTED)

    def _listener_registered(self, state: ShardState, record: w.ListenerRegistered) -> None:
        promise = state.promises.get(record.id)
        require(
            promise is not None and promise.state is PENDING,
            f"{record.address} listens to {record.id}, which has ended",
        )

    def _listener_told(self, state: ShardState, record: w.ListenerTold) -> None:
        require(
            record.address in state.unblocks.get(record.id, ()),
            f"{record.address} was told of {record.id} twice, or too early",
        )
        require(not record.was_given_up, f"{record.address} was given up")
        self.told.add((record.id, record.address))


_CHECKS: dict[type[Any], Callable[[Watch, ShardState, Any], None]] = {
    r.PromiseCreated: Watch._promise_created,
    w.WorkflowCreated: Watch._promise_created,
    w.WorkflowAcquired: Watch._workflow_acquired,
    w.WorkflowReleased: Watch._workflow_released,
    w.WorkflowsRenewed: Watch._workflows_renewed,
    w.WorkflowSuspended: Watch._workflow_suspended,
    w.WorkflowHalted: Watch._workflow_halted,
    w.WorkflowContinued: Watch._workflow_continued,
    w.ListenerRegistered: Watch._listener_registered,
    w.ListenerTold: Watch._listener_told,
    r.PromiseCompleted: Watch._promise_completed,
    r.BulkAdvanced: Watch._bulk_advanced,
    r.CompletionBegun: Watch._promise_completed,
    r.CompletionContinued: Watch._completion_continued,
    r.PromisesDeleted: Watch._promises_deleted,
    r.CallbackCreated: Watch._callback_created,
    r.TaskEnqueued: Watch._task_enqueued,
    r.TaskClaimed: Watch._task_claimed,
    r.TaskCompleted: Watch._task_completed,
    r.TaskReleased: Watch._task_released,
    r.LockAcquired: Watch._lock_acquired,
    r.LockReleased: Watch._lock_released,
    r.ScheduleFired: Watch._schedule_fired,
    r.MessageReceived: Watch._message,
    r.MessagesAcknowledged: Watch._acknowledged,
}

__all__ = ["BrokenPromise", "Watch"]
