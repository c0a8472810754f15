"""A deliberately simple model of the API: what every command must answer, and what must be true.

No shards, no records, no indexes, no dispatcher: dicts, loops over everything, and the tables of
rest.md 2 to 9 as changed by decisions.md, written down a second time and in another way than in
`core/`. Time is exact: before a command, every deadline up to now is applied, the earliest first.

What the model cannot know is told to it: which messages have been delivered (`task_sent`), when a
schedule's timer fired (`run_schedule`), and when a message between shards arrived (`arrive`), for
pairs of ids that `is_local` says live apart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from troth.core import commands as c
from troth.core.codes import Code
from troth.core.grammar.addresses import route
from troth.core.model import EMPTY_VALUE, Fence, PromiseState, TaskKind, Value

from .schedule_model import ModelSchedule, next_run

INTEGER_MAX = 2**63 - 1
PROMISE_FIELDS = (
    *("id", "state", "timeout", "created_on", "param", "tags", "key_for_create"),
    *("value", "key_for_complete", "completed_on"),
)
TASK_FIELDS = (
    *("id", "kind", "root_id", "leaf_id", "receiver", "timeout", "created_on", "state"),
    *("counter", "process_id", "completed_on", "not_before"),
)
CALLBACK_FIELDS = ("id", "kind", "promise_id", "root_id", "timeout", "receiver", "created_on")
LOCK_FIELDS = ("resource_id", "execution_id", "process_id", "ttl", "expires_at")
SCHEDULE_FIELDS = (
    *("id", "cron", "promise_id", "promise_timeout", "created_on", "next_run_time"),
    *("description", "tags", "promise_param", "promise_tags", "idempotency_key", "last_run_time"),
    "paused_on",
)
EXECUTION_FIELDS = (
    *("promise_id", "plan", "node_id", "assigned_on", "progress", "lost_nodes_count"),
)
REFUSAL_OF_STATE = {
    "RESOLVED": Code.PROMISE_RESOLVED,
    "REJECTED": Code.PROMISE_REJECTED,
    "REJECTED_CANCELED": Code.PROMISE_CANCELED,
    "REJECTED_TIMEDOUT": Code.PROMISE_TIMEDOUT,
}

View = dict[str, Any]


def view(entity: object, fields: tuple[str, ...]) -> View:
    """An entity of the model or of the server as a dict of what clients can see of it."""
    return {name: getattr(entity, name) for name in fields}


@dataclass
class ModelPromise:
    """A promise."""

    id: str
    timeout: int
    created_on: int
    param: Value
    tags: Mapping[str, str] | None
    key_for_create: str | None
    state: str = "PENDING"
    value: Value = EMPTY_VALUE
    key_for_complete: str | None = None
    completed_on: int | None = None


@dataclass
class ModelCallback:
    """A callback or subscription."""

    id: str
    kind: TaskKind
    promise_id: str
    root_id: str
    timeout: int
    receiver: object
    created_on: int


@dataclass
class ModelTask:
    """A task."""

    id: str
    kind: TaskKind
    root_id: str
    leaf_id: str
    receiver: object
    timeout: int
    created_on: int
    not_before: int | None = None
    state: str = "init"
    counter: int = 1
    process_id: str | None = None
    ttl: int = 0
    expires_at: int = 0
    completed_on: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has reached a final state."""
        return self.state in ("completed", "timedout")

    @property
    def deadlines(self) -> list[int]:
        """When something happens to it by itself."""
        if self.is_over:
            return []
        return [self.timeout] if self.state == "init" else [self.timeout, self.expires_at]


@dataclass
class ModelLock:
    """A lock."""

    resource_id: str
    execution_id: str
    process_id: str
    ttl: int
    expires_at: int


def plus(left: int, right: int) -> int:
    """A sum that stays within 64 bits."""
    return max(-(2**63), min(left + right, INTEGER_MAX))


def escaped(identifier: str) -> str:
    """An id without a colon."""
    return "".join({"%": "%25", ":": "%3A"}.get(letter, letter) for letter in identifier)


@dataclass
class Model:
    """The whole API in one object. `now` is set by `settle`, which comes before everything."""

    is_local: Callable[[str, str], bool]
    claim_timeout_ms: int
    catch_up_count: int
    now: int = 0
    promises: dict[str, ModelPromise] = field(default_factory=dict)
    callbacks: list[ModelCallback] = field(default_factory=list)
    tasks: dict[str, ModelTask] = field(default_factory=dict)
    locks: dict[str, ModelLock] = field(default_factory=dict)
    schedules: dict[str, ModelSchedule] = field(default_factory=dict)
    transit: list[tuple[tuple[str, ...], Callable[["Model"], None]]] = field(default_factory=list)

    # Time

    def deadlines(self) -> list[tuple[int, int, str]]:
        """Everything that will happen by itself: (time, rank among equal times, id)."""
        return [
            *((p.timeout, 0, p.id) for p in self.promises.values() if p.state == "PENDING"),
            *((time, 1, t.id) for t in self.tasks.values() for time in t.deadlines),
            *((lock.expires_at, 2, lock.resource_id) for lock in self.locks.values()),
        ]

    def settle(self, now: int) -> None:
        """Let time pass until `now`."""
        self.now = now
        while due := [entry for entry in self.deadlines() if entry[0] <= now]:
            self.happen(*min(due))

    def resume_time(self, now: int) -> None:
        """Time goes on after an absence, or is another: leases have their full time again."""
        self.now = now
        for task in self.tasks.values():
            if task.state == "claimed":
                task.expires_at = plus(now, task.ttl)
            elif task.state == "enqueued":
                task.expires_at = plus(now, self.claim_timeout_ms)
        for lock in self.locks.values():
            lock.expires_at = plus(now, lock.ttl)

    def follow_clock(self) -> None:
        """The clock may have been set back: next runs come back with it."""
        for schedule in self.schedules.values():
            if schedule.paused_on is None:
                schedule.follow_clock(self.now)

    def happen(self, time: int, rank: int, identifier: str) -> None:
        """Apply one deadline."""
        if rank == 0:
            promise = self.promises[identifier]
            tags = promise.tags or {}
            is_timer = "true" in (tags.get("resonate:timeout"), tags.get("resonate:timer"))
            state = "RESOLVED" if is_timer else "REJECTED_TIMEDOUT"
            self.finish(promise, state, EMPTY_VALUE, None, time)
        elif rank == 1:
            task = self.tasks[identifier]
            if task.timeout == time:
                task.state, task.completed_on = "timedout", task.timeout
                task.process_id = None
            else:
                self.release(task)
        else:
            del self.locks[identifier]

    def release(self, task: ModelTask) -> None:
        """Give a task out anew."""
        task.state, task.process_id, task.counter = "init", None, task.counter + 1

    def finish(
        self, promise: ModelPromise, state: str, value: Value, key: str | None, time: int
    ) -> None:
        """Complete a promise with all that follows (rest.md 2.4)."""
        promise.state, promise.value = state, value
        promise.key_for_complete, promise.completed_on = key, time
        for task in self.tasks.values():
            if task.root_id == promise.id and task.kind != "notify" and not task.is_over:
                task.state, task.completed_on = "completed", self.now
        fired = [one for one in self.callbacks if one.promise_id == promise.id]
        self.callbacks = [one for one in self.callbacks if one.promise_id != promise.id]
        for callback in sorted(fired, key=lambda one: one.id):
            self.fire(callback, self.now)

    def fire(self, callback: ModelCallback, created_on: int) -> None:
        """Make the task that a callback stands for."""

        def create(model: Model) -> None:
            model.tasks[callback.id] = ModelTask(
                callback.id,
                callback.kind,
                callback.root_id,
                callback.promise_id,
                callback.receiver,
                callback.timeout,
                created_on,
            )

        if self.is_local(callback.promise_id, callback.root_id):
            create(self)
        else:
            self.transit.append((("resume", callback.id), create))

    def arrive(self, key: tuple[str, ...]) -> None:
        """A message between shards takes effect."""
        place = [found for found, _ in self.transit].index(key)
        _, effect = self.transit.pop(place)
        effect(self)

    # Promises

    def answer(self, command: c.Command) -> View:
        """What a client must be told. The code, and the parts of the reply that it carries."""
        handler = getattr(self, "do_" + type(command).__name__)
        answer: View = handler(command)
        return answer

    def is_stale(self, fence: Fence | None) -> bool:
        """Whether a request comes from somebody who no longer holds the task it names."""
        if fence is None:
            return False
        task = self.tasks.get(fence.task_id)
        return task is None or task.state != "claimed" or task.counter != fence.counter

    def new_promise(
        self, identifier: str, timeout: int, param: Value, tags: Any, key: str | None
    ) -> ModelPromise:
        """Create a promise and the task that its tags ask for."""
        promise = ModelPromise(identifier, timeout, self.now, param, tags or None, key)
        self.promises[identifier] = promise
        receiver = route(tags["resonate:invoke"]) if "resonate:invoke" in (tags or {}) else None
        if receiver is not None:
            task_id = "__invoke:" + identifier
            delay = tags.get("resonate:delay", "")
            task = ModelTask(
                *(task_id, TaskKind.INVOKE, identifier, identifier, receiver, timeout, self.now)
            )
            task.not_before = int(delay) if delay.isdecimal() else None
            self.tasks[task_id] = task
        return promise

    def do_CreatePromise(self, command: c.CreatePromise) -> View:  # noqa: N802
        """rest.md 2.2 and 3."""
        if self.is_stale(command.fence):
            return {"code": Code.TASK_FENCED}
        promise = self.promises.get(command.id)
        if promise is not None:
            given = command.idempotency_key
            if given is None or given != promise.key_for_create:
                return {"code": Code.PROMISE_EXISTS}
            if command.strict and promise.state != "PENDING":
                return {"code": Code.PROMISE_EXISTS}
            return {"code": Code.OK, "promise": view(promise, PROMISE_FIELDS)}
        tags = command.tags
        task = None
        if command.claim is not None and route((tags or {}).get("resonate:invoke", "1")) is None:
            return {"code": Code.RECEIVER_NOT_FOUND}
        promise = self.new_promise(
            *(command.id, command.timeout, command.param, tags, command.idempotency_key)
        )
        if command.claim is not None:
            task = self.tasks["__invoke:" + command.id]
            self.lease(task, command.claim.process_id, command.claim.ttl)
        answer = {"code": Code.CREATED, "promise": view(promise, PROMISE_FIELDS)}
        return answer if task is None else {**answer, "task": view(task, TASK_FIELDS)}

    def do_ReadPromise(self, command: c.ReadPromise) -> View:  # noqa: N802
        """As it is now, or 404."""
        promise = self.promises.get(command.id)
        if promise is None:
            return {"code": Code.PROMISE_NOT_FOUND}
        return {"code": Code.OK, "promise": view(promise, PROMISE_FIELDS)}

    def do_CompletePromise(self, command: c.CompletePromise) -> View:  # noqa: N802
        """rest.md 2.3."""
        if self.is_stale(command.fence):
            return {"code": Code.TASK_FENCED}
        promise = self.promises.get(command.id)
        if promise is None:
            return {"code": Code.PROMISE_NOT_FOUND}
        code = Code.OK
        key = command.idempotency_key
        if promise.state == "PENDING":
            time = max(self.now, promise.created_on)
            self.finish(promise, command.state.value, command.value, key, time)
            code = Code.CREATED
        elif promise.state == "REJECTED_TIMEDOUT":
            if command.strict:
                return {"code": Code.PROMISE_TIMEDOUT}
        else:
            is_same_state = command.state == promise.state
            matches = key is not None and key == promise.key_for_complete
            if not matches or (command.strict and not is_same_state):
                return {"code": REFUSAL_OF_STATE[promise.state]}
        return {"code": code, "promise": view(promise, PROMISE_FIELDS)}

    def do_CreateCallback(self, command: c.CreateCallback) -> View:  # noqa: N802
        """rest.md 4.2."""
        if command.promise_id == command.root_id:
            return {"code": Code.SAME_ROOT}
        if self.is_stale(command.fence):
            return {"code": Code.TASK_FENCED}
        task_id = f"__resume:{escaped(command.root_id)}:{command.promise_id}"
        return self.wait(task_id, TaskKind.RESUME, command, command.root_id)

    def do_CreateSubscription(self, command: c.CreateSubscription) -> View:  # noqa: N802
        """rest.md 4.2."""
        task_id = f"__notify:{escaped(command.promise_id)}:{command.name}"
        return self.wait(task_id, TaskKind.NOTIFY, command, command.promise_id)

    def wait(self, task_id: str, kind: TaskKind, command: Any, root_id: str) -> View:
        """Register a callback once, while its promise is pending."""
        promise = self.promises.get(command.promise_id)
        if promise is None:
            return {"code": Code.PROMISE_NOT_FOUND}
        shown = view(promise, PROMISE_FIELDS)
        if promise.state != "PENDING" or any(one.id == task_id for one in self.callbacks):
            return {"code": Code.OK, "promise": shown}
        callback = ModelCallback(
            *(task_id, kind, promise.id, root_id, command.timeout, command.receiver, self.now)
        )
        self.callbacks.append(callback)
        return {
            "code": Code.CREATED,
            "promise": shown,
            "callback": view(callback, CALLBACK_FIELDS),
        }

    def search(
        self, regular: Callable[[str], bool], states: tuple[PromiseState, ...], tags: dict[str, str]
    ) -> list[str]:
        """The ids of all promises that match, newest first."""
        return [
            promise.id
            for promise in reversed(self.promises.values())
            if regular(promise.id)
            and promise.state in states
            and tags.items() <= (promise.tags or {}).items()
        ]

    # Tasks

    def lease(self, task: ModelTask, process_id: str, ttl: int) -> None:
        """Let a process have a task."""
        task.state, task.process_id, task.ttl = "claimed", process_id, ttl
        task.expires_at = plus(self.now, ttl)

    def task_sent(self, task_id: str, counter: int) -> None:
        """A message has reached its receiver."""
        task = self.tasks[task_id]
        if task.state == "init" and task.counter == counter:
            if task.kind == "notify":
                task.state = "completed"
            else:
                task.state = "enqueued"
                task.expires_at = plus(self.now, self.claim_timeout_ms)

    def do_ClaimTask(self, command: c.ClaimTask) -> View:  # noqa: N802
        """rest.md 5.6."""
        task = self.tasks.get(command.id)
        if task is None:
            return {"code": Code.TASK_NOT_FOUND}
        if task.state == "claimed":
            return {"code": Code.TASK_CLAIMED}
        if task.is_over:
            return {"code": Code.TASK_COMPLETED}
        if task.counter != command.counter:
            return {"code": Code.TASK_COUNTER}
        self.lease(task, command.process_id, command.ttl)
        root, leaf = self.promises.get(task.root_id), self.promises.get(task.leaf_id)
        return {
            "code": Code.CREATED,
            "kind": task.kind,
            "root_id": task.root_id,
            "leaf_id": task.leaf_id,
            "root": root and view(root, PROMISE_FIELDS),
            "leaf": view(leaf, PROMISE_FIELDS) if leaf and task.kind == "resume" else None,
        }

    def do_CompleteTask(self, command: c.CompleteTask) -> View:  # noqa: N802
        """rest.md 5.7."""
        task = self.tasks.get(command.id)
        if task is None:
            return {"code": Code.TASK_NOT_FOUND}
        code = Code.OK
        if not task.is_over:
            if task.state != "claimed":
                return {"code": Code.TASK_STATE}
            if task.counter != command.counter:
                return {"code": Code.TASK_COUNTER}
            task.state, task.completed_on, task.process_id = "completed", self.now, None
            code = Code.CREATED
        return {"code": code, "task": view(task, TASK_FIELDS)}

    def do_DropTask(self, command: c.DropTask) -> View:  # noqa: N802
        """rest.md 14.2."""
        task = self.tasks.get(command.id)
        if task is None:
            return {"code": Code.TASK_NOT_FOUND}
        if task.state != "claimed":
            return {"code": Code.OK}
        if task.counter != command.counter:
            return {"code": Code.TASK_COUNTER}
        self.release(task)
        return {"code": Code.CREATED}

    def do_HeartbeatTasks(self, command: c.HeartbeatTasks) -> View:  # noqa: N802
        """rest.md 5.8."""
        held = [
            task
            for task in self.tasks.values()
            if task.state == "claimed" and task.process_id == command.process_id
        ]
        for task in held:
            task.expires_at = plus(self.now, task.ttl)
        return {"code": Code.OK, "count": len(held)}

    # Schedules

    def do_CreateSchedule(self, command: c.CreateSchedule) -> View:  # noqa: N802
        """rest.md 8.2."""
        schedule = self.schedules.get(command.id)
        if schedule is not None:
            if command.idempotency_key is None:
                return {"code": Code.SCHEDULE_EXISTS}
            if command.idempotency_key != schedule.idempotency_key:
                return {"code": Code.SCHEDULE_EXISTS}
            return {"code": Code.OK, "schedule": view(schedule, SCHEDULE_FIELDS)}
        schedule = self.new_schedule(
            command, command.description, command.tags or None, command.idempotency_key
        )
        return {"code": Code.CREATED, "schedule": view(schedule, SCHEDULE_FIELDS)}

    def new_schedule(
        self, command: Any, description: str = "", tags: Any = None, key: str | None = None
    ) -> ModelSchedule:
        """Create a schedule."""
        schedule = ModelSchedule(
            *(command.id, command.cron, command.promise_id, command.promise_timeout, self.now),
            next_run(command.cron, self.now),
            *(description, tags, command.promise_param, command.promise_tags or None, key),
        )
        self.schedules[command.id] = schedule
        return schedule

    def do_ReadSchedule(self, command: c.ReadSchedule) -> View:  # noqa: N802
        """As it is, or 404."""
        schedule = self.schedules.get(command.id)
        if schedule is None:
            return {"code": Code.SCHEDULE_NOT_FOUND}
        return {"code": Code.OK, "schedule": view(schedule, SCHEDULE_FIELDS)}

    def change_schedule(self, schedule_id: str, change: Callable[[ModelSchedule], None]) -> View:
        """As it is afterwards, or 404."""
        schedule = self.schedules.get(schedule_id)
        if schedule is None:
            return {"code": Code.SCHEDULE_NOT_FOUND}
        change(schedule)
        return {"code": Code.OK, "schedule": view(schedule, SCHEDULE_FIELDS)}

    def do_UpdateSchedule(self, command: c.UpdateSchedule) -> View:  # noqa: N802
        """What is named changes."""
        return self.change_schedule(command.id, lambda one: one.update(command, self.now))

    def do_PauseSchedule(self, command: c.PauseSchedule) -> View:  # noqa: N802
        """It stands still."""
        return self.change_schedule(command.id, lambda one: one.pause(self.now))

    def do_ResumeSchedule(self, command: c.ResumeSchedule) -> View:  # noqa: N802
        """It goes on."""
        count = command.catch_up_count
        return self.change_schedule(command.id, lambda one: one.resume(count, self.now))

    def do_DeleteSchedule(self, command: c.DeleteSchedule) -> View:  # noqa: N802
        """204 or 404."""
        if self.schedules.pop(command.id, None) is None:
            return {"code": Code.SCHEDULE_NOT_FOUND}
        return {"code": Code.NO_CONTENT}

    def run_schedule(self, schedule_id: str) -> None:
        """Make the promises of all runs up to now; of too many, only the latest."""
        schedule = self.schedules[schedule_id]
        if schedule.paused_on is not None:
            return
        runs, schedule.next_run_time = schedule.missed(self.now)
        for run in runs[-max(self.catch_up_count, 1) :]:
            schedule.last_run_time = run
            self.run_once(schedule, run)

    def run_once(self, schedule: ModelSchedule, run: int) -> None:
        """One run: rest.md 8.3."""
        promise_id = schedule.promise_id.replace("{{.id}}", schedule.id)
        promise_id = promise_id.replace("{{.timestamp}}", str(run))
        tags = dict(schedule.promise_tags or {})
        tags |= {"resonate:schedule": schedule.id, "resonate:invocation": "true"}
        timeout, param = plus(run, schedule.promise_timeout), schedule.promise_param

        def create(model: Model) -> None:
            if promise_id not in model.promises:
                model.new_promise(promise_id, timeout, param, tags, None)

        if self.is_local(schedule.id, promise_id):
            create(self)
        else:
            self.transit.append((("promise", promise_id, schedule.id), create))

    # Locks

    def do_AcquireLock(self, command: c.AcquireLock) -> View:  # noqa: N802
        """rest.md 9."""
        lock = self.locks.get(command.resource_id)
        if lock is not None and lock.execution_id != command.execution_id:
            return {"code": Code.LOCK_HELD, "lock": view(lock, LOCK_FIELDS)}
        lock = ModelLock(
            *(command.resource_id, command.execution_id, command.process_id, command.ttl),
            plus(self.now, command.ttl),
        )
        self.locks[command.resource_id] = lock
        return {"code": Code.CREATED, "lock": view(lock, LOCK_FIELDS)}

    def do_ReleaseLock(self, command: c.ReleaseLock) -> View:  # noqa: N802
        """rest.md 9."""
        lock = self.locks.get(command.resource_id)
        if lock is None or lock.execution_id != command.execution_id:
            return {"code": Code.LOCK_NOT_FOUND}
        del self.locks[command.resource_id]
        return {"code": Code.NO_CONTENT}

    def do_HeartbeatLocks(self, command: c.HeartbeatLocks) -> View:  # noqa: N802
        """rest.md 9."""
        held = [one for one in self.locks.values() if one.process_id == command.process_id]
        for lock in held:
            lock.expires_at = plus(self.now, lock.ttl)
        return {"code": Code.OK, "count": len(held)}

    def functions(self) -> View:
        """What is true of function tasks and the catalog: nothing here; see FunctionModel."""
        return {"entries": {}, "executions": {}, "usage": {}}

    def envelope(self) -> View:
        """What is true of workflow tasks and of who waits: nothing here; see WorkflowModel."""
        return {"workflows": {}, "awaits": [], "listeners": [], "unblocks": []}

    def everything(self) -> View:
        """All that is true now, in a form that compares."""
        return {
            "promises": [view(one, PROMISE_FIELDS) for one in self.promises.values()],
            "callbacks": {one.id: view(one, CALLBACK_FIELDS) for one in self.callbacks},
            "tasks": {one.id: view(one, TASK_FIELDS) for one in self.tasks.values()},
            "leases": {
                one.id: (one.expires_at, one.ttl if one.state == "claimed" else None)
                for one in self.tasks.values()
                if one.state in ("enqueued", "claimed")
            },
            "locks": {one.resource_id: view(one, LOCK_FIELDS) for one in self.locks.values()},
            "schedules": [view(one, SCHEDULE_FIELDS) for one in self.schedules.values()],
            "transit": sorted(key for key, _ in self.transit),
            **self.functions(),
            **self.envelope(),
        }
