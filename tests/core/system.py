"""Real machines wired together by the simplest possible router, with every rule checked.

`System` stands in for `troth.shards`: a dict of deadlines instead of a timing wheel, queues between
shards that a test empties when it likes, a list instead of a log. After every step it checks what
must hold whatever was asked:

- a timer is armed for exactly the things that have a deadline, at that deadline;
- a message goes out only for a task that may go, the oldest of its root, one of a root at a time;
- no task that may go is forgotten; what delivery holds is what the machine thinks it holds;
- tasks move only along `lifecycles.TASK` (`transitions` collects the rows that were used).
"""

import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.twins.handed_over import handing_over
from tests.twins.memory_store import MemoryStore
from troth.core import commands as c
from troth.core import records as r
from troth.core.codes import Code
from troth.core.deciding import Options
from troth.core.lifecycles import TASK, TaskEvent
from troth.core.limits import INTEGER_MAX
from troth.core.machine import Machine, Step
from troth.core.model import (
    Fence,
    Promise,
    PromiseState,
    Schedule,
    Task,
    TaskKind,
    TaskState,
    replace,
)
from troth.core.replies import Reply, TaskMessage
from troth.core.state import checkpointing, eviction
from troth.core.state.apply import replay
from troth.core.state.captures import Capture
from troth.core.state.shard_state import ShardState, TimerKey
from troth.persistence.checkpoints import rows
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.shards.hashing import home_of

from .dumps import cold_rows
from .folds import Folds
from .model import (
    CALLBACK_FIELDS,
    EXECUTION_FIELDS,
    LOCK_FIELDS,
    PROMISE_FIELDS,
    SCHEDULE_FIELDS,
    TASK_FIELDS,
    View,
    view,
)
from .rearming import rearming
from .task_events import EVENT_OF_COMMAND, EVENT_OF_RECORD
from .views import envelope_view, lease_of, transit_view, usage_view
from .workflow_delivery import WorkflowDelivery

RANK = {
    c.PROMISE_TIMER: 0,
    c.EXECUTION_TIMER: 0,
    c.TASK_TIMER: 1,
    c.LOCK_TIMER: 2,
}
CAPTURED_COUNT = 2  # of a slice of a capture
WORKFLOWS = (c.WORKFLOW_TIMER, c.UNBLOCK_TIMER)
ACTIVE = (TaskState.ENQUEUED, TaskState.CLAIMED)
DATA_ID = b"the tests' data."
DECODER = rows.RowDecoder()
Log = list[list[tuple[int, bytes]]]  # of each step, with their shards


@dataclass
class System:
    """Machines, their timers, the messages between them and with the workers."""

    shard_count: int
    options: Options = field(default_factory=Options)
    log: Log = field(default_factory=list)
    now: int = 0
    store: MemoryStore | None = None

    def __post_init__(self) -> None:
        self.serial = 0
        self.folds = Folds()
        self.machines = [
            Machine(
                index,
                self.shard_of,
                self._next_serial,
                self.options,
                self._holds,
                neighbor=self._neighbor,
            )
            for index in range(self.shard_count)
        ]
        self.timers: list[dict[TimerKey, int]] = [{} for _ in self.machines]
        self.posts: dict[tuple[int, int], deque[c.Receive]] = {}
        self.acknowledgments: list[tuple[int, c.Acknowledge]] = []
        self.delivering: dict[str, int] = {}
        self.stalled: dict[str, int] = {}
        self.sent: list[TaskMessage] = []
        self.withdrawn: list[str] = []
        self.workflows = WorkflowDelivery(lambda at, command: self.tell(self.shard_of(at), command))
        self._reporting: str | None = None
        self.transitions: set[tuple[TaskState, TaskEvent]] = set()
        self.states: dict[str, TaskState] = {}
        self.captures: list[Capture] = []
        self.capturing: checkpointing.Capturing | None = None
        self.checkpoints = None if self.store is None else self._load(self.store)
        self.sequences = [0] * self.shard_count
        for step in self.log:
            for shard, body in step:
                self.sequences[shard] += 1
                if not self.checkpoints or self.sequences[shard] > self._covered(shard):
                    replay(self.machines[shard].state, r.decode(body))
        self.serial = max(machine.state.largest_serial for machine in self.machines)
        self.states = {task.id: task.state for task in self.tasks()}

    def restarted(self, step_count: int | None = None) -> "System":
        """The server after a crash that kept the first `step_count` steps (default: all)."""
        log = list(self.log[:step_count])
        after = type(self)(self.shard_count, self.options, log, self.now, self.store)
        after.start()
        return after

    def start(self) -> None:
        """Let the machines begin after a replay."""
        for index, machine in enumerate(self.machines):
            step = machine.start(self.now)
            for promise_id, timeout in zip(*step.pending, strict=True):
                self.timers[index][c.PROMISE_TIMER, promise_id] = timeout
            self._take(index, step, is_checked=step.again is None)
            if step.again is not None:
                self.tell(index, step.again)

    # Checkpoints: `capture` every shard, then `write_checkpoint`, `renew`, and `evict` each

    def _load(self, store: MemoryStore) -> Checkpoints:
        checkpoints = Checkpoints(store, DATA_ID, self.shard_count, handing_over(store))
        checkpoints.verify()
        for machine in self.machines:
            state = machine.state
            state.cold = checkpoints.reader.shards[state.index]
            state.tracks_changes = True
            if (loaded := checkpoints.load(state.index)) is not None:
                checkpointing.load(state, loaded)
        return checkpoints

    def _covered(self, shard: int) -> int:
        assert self.checkpoints is not None
        return self.checkpoints.covered_sequence(shard)

    def capture(self, index: int) -> None:
        """Collect what changed in a shard."""
        while not self.capture_some(index):
            pass

    def capture_some(self, index: int) -> bool:
        """Do that in slices, of which this is one; whether it was the last."""
        state = self.machines[index].state
        self.capturing = self.capturing or checkpointing.Capturing(state, CAPTURED_COUNT)
        if not self.capturing.is_nearly_done:
            self.capturing.read_some()
            return False
        captured = self.capturing.finish(self.sequences[index], sum(self.sequences))
        self.captures, self.capturing = [*self.captures, captured], None
        return True

    def write_checkpoint(self) -> None:
        """Commit what was captured of all shards."""
        assert self.checkpoints is not None
        assert len(self.captures) == self.shard_count
        self.checkpoints.write(self.captures)

    def renew(self) -> None:
        """Let cold reads see it."""
        assert self.checkpoints is not None
        self.checkpoints.renew()

    def evict(self) -> int:
        """Drop what the oldest capture holds and is finished; how many entities."""
        capture = self.captures.pop(0)
        return sum(eviction.evict(self.machines[capture.header.shard].state, capture))

    # What a machine needs of the others

    def shard_of(self, identifier: str) -> int:
        """Which machine an id lives in."""
        return zlib.crc32(identifier.encode()) % self.shard_count

    def _neighbor(self, identifier: str) -> Machine:
        return self.machines[self.shard_of(identifier)]

    def _next_serial(self) -> int:
        self.serial += 1
        return self.serial

    def _holds(self, fence: Fence, now_ms: int) -> bool:
        home = home_of(c.ClaimTask(fence.task_id, 0, "", 0))
        return self.machines[self.shard_of(home)].task_is_held(fence, now_ms)

    # Steps

    def tell(self, index: int, command: c.Command) -> Step:
        """Step one machine."""
        machine = self.machines[index]
        machine.timers_may_be_late = any(end <= self.now for end in self.timers[index].values())
        step = machine.step(command, self.now)
        whole = Step(step.reply, step.records, [])
        while step.again is not None:
            self._take(index, step, is_checked=False)
            step = machine.step(step.again, self.now)
            whole = Step(step.reply, [*whole.records, *step.records], [])
        self._note_transitions(command, whole)
        self._take(index, step)
        self.folds.after_step(machine.state)
        return step

    def _take(self, index: int, step: Step, *, is_checked: bool = True) -> None:
        if step.records:
            self.log.append([(index, r.encode(record)) for record in step.records])
            self.sequences[index] += len(step.records)
        for promise in step.promise_timers:
            if promise.state is PromiseState.PENDING:
                self.timers[index][c.PROMISE_TIMER, promise.id] = promise.timeout
            else:
                self.timers[index].pop((c.PROMISE_TIMER, promise.id), None)
        for key, deadline in step.timers:
            if deadline is None:
                self.timers[index].pop(key, None)
            else:
                self.timers[index][key] = deadline
        for task_id in step.withdrawals:
            if not task_id.startswith("__"):
                assert self.workflows.withdraw(task_id), f"{task_id}: delivery does not have it"
                continue
            held = self.delivering.pop(task_id, None), self.stalled.pop(task_id, None)
            assert any(held) or self._reporting == task_id, f"{task_id}: delivery does not have it"
            self.withdrawn.append(task_id)
        for target, post in step.posts:
            self.posts.setdefault((index, target), deque()).append(post)
        if step.received is not None:
            self.acknowledgments.append((step.received[0], c.Acknowledge(index, step.received[1])))
        for message in step.sends:
            if not isinstance(message, TaskMessage):
                self.workflows.take(message, self.machines[index].state, self.now)
                continue
            self._check_send(message)
            self.delivering[message.task.id] = message.task.counter
            self.stalled.pop(message.task.id, None)
            self.sent.append(message)
        if step.has_more:
            self.tell(index, c.GoOn())
        elif is_checked:
            self._check(index)

    def _check(self, index: int) -> None:
        self._check_timers(index)
        self._check_delivery(index)
        self.workflows.check(self.machines[index].state, self.timers[index], self.now)

    def resume_time(self, was_set_back: bool = False) -> None:
        """Time goes on after an absence; or `now` was set back."""
        for index, machine in enumerate(self.machines):
            self._take(index, machine.step(c.ResumeTime(was_set_back), self.now), is_checked=False)
            for command in rearming(self.timers[index]) if was_set_back else ():
                self._take(index, machine.step(command, self.now), is_checked=False)
        for index in range(self.shard_count):
            self._check(index)

    def ask(self, command: c.Command) -> Reply:
        """A client's command, with its way through the shards as in `troth.shards`."""
        if isinstance(command, c.HeartbeatTasks | c.HeartbeatLocks):
            replies = [self.tell(index, command).reply for index in range(self.shard_count)]
            return Reply(Code.OK, count=sum(reply.count for reply in replies))
        reply = self.tell(self.shard_of(home_of(command)), command).reply
        if reply.claimed is not None and reply.claimed.kind is TaskKind.RESUME:
            leaf = self.ask(c.ReadPromise(reply.claimed.leaf_id)).promise
            reply = replace(reply, claimed=replace(reply.claimed, leaf=leaf))
        return reply

    def search(
        self,
        pattern: str,
        states: tuple[PromiseState, ...],
        tags: dict[str, str],
        limit_count: int,
        scan_count: int,
    ) -> list[Promise]:
        """All matches of all shards, read in pages as small as asked for."""
        found: list[Promise] = []
        for index in range(self.shard_count):
            before: int | None = INTEGER_MAX
            while before is not None:
                search = c.SearchPromises(pattern, states, tags, limit_count, before, scan_count)
                page = self.tell(index, search).reply.promises
                assert page is not None
                assert len(page.promises) <= limit_count
                assert page.next_before is None or page.next_before < before, "no progress"
                found.extend(page.promises)
                before = page.next_before
        return sorted(found, key=lambda promise: -promise.serial)

    def search_schedules(
        self, pattern: str, tags: dict[str, str], limit_count: int, scan_count: int
    ) -> list[Schedule]:
        """As `search`."""
        found: list[Schedule] = []
        for index in range(self.shard_count):
            before: int | None = INTEGER_MAX
            while before is not None:
                search = c.SearchSchedules(pattern, tags, limit_count, before, scan_count)
                page = self.tell(index, search).reply.schedules
                assert page is not None
                assert len(page.schedules) <= limit_count
                found.extend(page.schedules)
                before = page.next_before
        return sorted(found, key=lambda schedule: -schedule.serial)

    # Delivery's reports

    def report_sent(self, task_id: str, counter: int) -> None:
        """The message has arrived."""
        if self.delivering.get(task_id) == counter:
            del self.delivering[task_id]
        self._report(c.TaskSent(task_id, counter))

    def report_not_sent(self, task_id: str, counter: int) -> None:
        """Sending failed; delivery keeps it."""
        if self.delivering.get(task_id) == counter:
            self.stalled[task_id] = self.delivering.pop(task_id)
        self._report(c.TaskNotSent(task_id, counter))

    def report_retry(self, task_id: str, counter: int) -> None:
        """The back-off is over: delivery lets go of it, and is given it again in time."""
        if self.stalled.get(task_id) == counter:
            del self.stalled[task_id]
        self._report(c.RetryTask(task_id, counter))

    def _report(self, command: c.TaskSent | c.TaskNotSent | c.RetryTask) -> None:
        self._reporting = command.id
        self.tell(self.shard_of(home_of(command)), command)
        self._reporting = None

    # Timers and messages between shards

    def due(self, until: int) -> list[tuple[int, int, str, c.TimerKind, int]]:
        """The timers up to a time, in the order of the model."""
        return sorted(
            (deadline, RANK.get(kind, 3), identifier, kind, index)
            for index, timers in enumerate(self.timers)
            for (kind, identifier), deadline in timers.items()
            if deadline <= until
        )

    def fire(self, kind: c.TimerKind, identifier: str, index: int) -> None:
        """Let one timer go off."""
        del self.timers[index][kind, identifier]
        self.tell(index, c.Expire(kind, identifier))

    def fire_due(self) -> None:
        """Fire every timer whose time has come."""
        while due := self.due(self.now):
            _, _, identifier, kind, index = due[0]
            self.fire(kind, identifier, index)

    def let_time_pass(self, until: int) -> None:
        """Fire every timer at its own time, and deliver between shards at once."""
        while due := self.due(until):
            deadline, _, identifier, kind, index = due[0]
            self.now = max(self.now, deadline)
            self.fire(kind, identifier, index)
            self.deliver_all()
        self.now = until

    def deliver(self, source: int, target: int) -> c.Receive:
        """Deliver the oldest message from one shard to another."""
        message = self.posts[source, target].popleft()
        if not self.posts[source, target]:
            del self.posts[source, target]
        self.tell(target, message)
        return message

    def deliver_all(self) -> None:
        """Deliver and acknowledge everything."""
        while self.posts or self.acknowledgments:
            for source, target in list(self.posts):
                self.deliver(source, target)
            while self.acknowledgments:
                self.tell(*self.acknowledgments.pop(0))

    # Views

    def tasks(self) -> list[Task]:
        """All tasks, wherever they are."""
        found = [task for machine in self.machines for task in machine.state.tasks.values()]
        for state, key, value in self._cold_rows(rows.TASKS):
            task = DECODER.task(rows.TASKS, key, value)
            if task.id not in state.tasks and state.find_task(task.id) is not None:
                found.append(task)
        return found

    def promises(self) -> list[Promise]:
        """All promises, wherever they are."""
        found = [one for machine in self.machines for one in machine.state.promises.values()]
        for state, key, value in self._cold_rows(rows.PROMISES):
            promise = DECODER.promise(rows.PROMISES, key, value)
            if promise.id not in state.promises and state.find_promise(promise.id) is not None:
                found.append(promise)
        return found

    def _cold_rows(self, table: str) -> Iterator[tuple[ShardState, bytes, bytes]]:
        return cold_rows(self.checkpoints, [machine.state for machine in self.machines], table)

    def everything(self) -> View:
        """All that is true now, as the model's `everything`."""
        states, promises = [machine.state for machine in self.machines], self.promises()
        schedules = [one for state in states for one in state.schedules.values()]
        callbacks = [
            one for state in states for group in state.callbacks.values() for one in group.values()
        ]
        locks = [
            replace(one, expires_at=state.end_of_lock(one))
            for state in states
            for one in state.locks.values()
        ]
        return {
            "promises": [
                view(one, PROMISE_FIELDS) for one in sorted(promises, key=lambda one: one.serial)
            ],
            "callbacks": {one.id: view(one, CALLBACK_FIELDS) for one in callbacks},
            "tasks": {one.id: view(one, TASK_FIELDS) for one in self.tasks()},
            "leases": {
                one.id: lease_of(state, one)
                for state in states
                for one in state.tasks.values()
                if one.state in ACTIVE
            },
            "locks": {one.resource_id: view(one, LOCK_FIELDS) for one in locks},
            "schedules": [
                view(one, SCHEDULE_FIELDS) for one in sorted(schedules, key=lambda one: one.serial)
            ],
            "transit": transit_view(states),
            "entries": {name: one for state in states for name, one in state.entries.by_id.items()},
            "executions": {
                name: view(one, EXECUTION_FIELDS)
                for state in states
                for name, one in state.executions.items()
            },
            "usage": usage_view(one for state in states for one in state.usage.values()),
            **envelope_view(states, promises),
        }

    # Checks

    def _check_timers(self, index: int) -> None:
        state = self.machines[index].state
        expected, covered = dict[TimerKey, int](), dict[TimerKey, int]()
        for promise in state.promises.values():
            if promise.state is PromiseState.PENDING:
                expected[c.PROMISE_TIMER, promise.id] = promise.timeout
        for task in state.tasks.values():
            if (deadline := state.deadline_of(task)) is not None:
                is_covered = task.kind is TaskKind.INVOKE and deadline == task.timeout
                (covered if is_covered else expected)[c.TASK_TIMER, task.id] = deadline
        for lock in state.locks.values():
            expected[c.LOCK_TIMER, lock.resource_id] = state.end_of_lock(lock)
        for schedule in state.schedules.values():
            if schedule.due_on is not None:
                expected[c.SCHEDULE_TIMER, schedule.id] = schedule.due_on
        for execution in state.executions.values():
            if (ends_on := state.end_of_execution(execution)) is not None:
                expected[c.EXECUTION_TIMER, execution.promise_id] = ends_on
        armed = {key: time for key, time in self.timers[index].items() if key[0] not in WORKFLOWS}
        if state.lease_floor.resumed_on:  # those of leases that now last as long as their promises
            armed = {key: time for key, time in armed.items() if covered.get(key, time) <= time}
        for key in [key for key in armed if key[0] is c.DELAY_TIMER]:
            task = state.tasks[key[1]]
            assert task.state is TaskState.INIT, f"a delay timer is left over: {task}"
            assert armed.pop(key) == task.not_before
        # A deadline that has come is allowed to be on its way.
        fired = {key for key in expected.keys() - armed.keys() if expected[key] <= self.now}
        # Timers of leases may come too early: they look again.
        early = {
            key
            for key, time in armed.items()
            if key[0] is not c.PROMISE_TIMER and time < expected.get(key, time)
        }
        for key in early:
            assert key[0] is not c.SCHEDULE_TIMER
            assert state.lease_floor.resumed_on > 0
            armed[key] = expected[key]
        assert armed == {key: time for key, time in expected.items() if key not in fired}

    def _check_send(self, message: TaskMessage) -> None:
        task = self._task(message.task.id)
        assert task.state is TaskState.INIT
        assert task.sending
        assert task.id not in self.delivering, "given to delivery twice"
        assert task.timeout > self.now, "sent after its timeout"
        if task.kind is TaskKind.NOTIFY:
            assert message.promise is not None
            assert message.promise.state is not PromiseState.PENDING
            return
        assert (task.not_before or 0) <= self.now, "sent before its delay is over"
        for other in self._siblings(task):
            assert other.state not in ACTIVE, "two tasks of a root in flight"
            assert other.id not in self.delivering, "two tasks of a root being sent"
            assert not (self._may_go(other) and other.sequence < task.sequence), "not the oldest"

    def _check_delivery(self, index: int) -> None:
        tasks = self.machines[index].state.tasks.values()
        for task in tasks:
            assert task.sending == (task.id in self.delivering), task
            assert task.stalled == (task.id in self.stalled), task
            if task.sending or task.stalled:
                held = self.delivering.get(task.id) or self.stalled[task.id]
                assert task.state is TaskState.INIT
                assert task.counter == held
        for task in tasks:
            if self._may_go(task) and not task.sending:
                assert task.kind is not TaskKind.NOTIFY, f"forgotten: {task}"
                siblings = self._siblings(task)
                in_flight = any(one.state in ACTIVE or one.sending for one in siblings)
                # A delay that is over is noticed when its timer fires.
                key = (c.DELAY_TIMER, task.id)
                is_due = any(key in timers for timers in self.timers)
                assert in_flight or is_due, f"forgotten: {task}"

    def _may_go(self, task: Task) -> bool:
        return (
            task.state is TaskState.INIT
            and not task.stalled
            and task.timeout > self.now
            and (task.not_before or 0) <= self.now
        )

    def _siblings(self, task: Task) -> list[Task]:
        return [
            other
            for other in self.tasks()
            if other.root_id == task.root_id and other.kind is not TaskKind.NOTIFY and other != task
        ]

    def _task(self, task_id: str) -> Task:
        (found,) = (task for task in self.tasks() if task.id == task_id)
        return found

    def _note_transitions(self, command: c.Command, step: Step) -> None:
        """Follow every task along the life cycle's table, by the records of a step."""
        states = self.states
        for number, record in enumerate(step.records):
            event = EVENT_OF_RECORD.get(type(record))
            if isinstance(command, c.HeartbeatTasks) and event is TaskEvent.CLAIM:
                event = None  # some of a process's tasks are renewed by claiming them again
            elif isinstance(record, r.TaskReleased):
                is_drop = isinstance(command, c.DropTask) and step.reply.code is Code.CREATED
                is_last = number == len(step.records) - 1
                event = TaskEvent.DROP if is_drop and is_last else TaskEvent.EXPIRE
            if event is not None:
                self._move(record.id, event)  # type: ignore[union-attr]
            elif isinstance(record, r.PromiseCompleted):
                for task_id in self._ended_by(record.id):
                    self._move(task_id, TaskEvent.ROOT_COMPLETE)
            elif isinstance(record, r.CompletionContinued):
                for task_id in record.tasks:
                    self._move(task_id, TaskEvent.ROOT_COMPLETE)
        for task in self.tasks():
            expected = states.setdefault(task.id, task.state)
            assert expected is task.state, f"{task} should be {expected}"
        event = EVENT_OF_COMMAND.get(type(command))
        if event is not None and command.id in states and step.reply.code is not Code.CREATED:  # type: ignore[attr-defined]
            row = states[command.id], event  # type: ignore[attr-defined]
            refused = step.reply.code is Code.TASK_COUNTER and TASK[row].state is not None
            assert refused or step.reply.code is TASK[row].code
            self.transitions.add(row)

    def _ended_by(self, root_id: str) -> list[str]:
        """The unfinished tasks, of before this step, that end with this root."""
        return [
            task.id
            for task in self.tasks()
            if task.root_id == root_id
            and task.kind is not TaskKind.NOTIFY
            and self.states.get(task.id) in (TaskState.INIT, *ACTIVE)
        ]

    def _move(self, task_id: str, event: TaskEvent) -> None:
        row = self.states[task_id], event
        assert row in TASK, f"{task_id}: {row} is not in the life cycle"
        state = TASK[row].state
        assert state is not None
        self.states[task_id] = state
        self.transitions.add(row)
