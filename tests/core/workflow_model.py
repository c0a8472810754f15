"""The simple model, with workflow tasks in it (envelope.md 5 and 6).

As `model.py`, written from the specification and in another way than `core/`: a task is an entry of
a dictionary, who waits for what is a list of pairs. `restart` tells the model that the server has
begun again, which claims depend on.
"""

from dataclasses import dataclass, field
from typing import Any

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.codes import Code
from troth.core.model import EMPTY_VALUE, Value
from troth.core.workflows import WorkflowFence

from .model import (
    PROMISE_FIELDS,
    SCHEDULE_FIELDS,
    Model,
    ModelPromise,
    View,
    plus,
    view,
)
from .schedule_model import ModelSchedule

LEASE_LEAST_MS = 500
LINEAGE = ("resonate:origin", "resonate:branch", "resonate:parent", "resonate:prefix")


@dataclass
class ModelWorkflow:
    """A workflow task; `awaited` is what it is waiting for, as far as it knows."""

    id: str
    state: str = "pending"
    version: int = 0
    resumes: int = 0
    pid: str | None = None
    ttl: int = 0
    expires_at: int = 0
    claim: tuple[object, ...] = ()
    is_fresh: bool = False
    awaited: list[str] = field(default_factory=list)

    def give_up(self, state: str) -> None:
        """Nobody holds it any more."""
        self.state, self.pid, self.ttl, self.expires_at, self.claim = state, None, 0, 0, ()

    @property
    def shown(self) -> View:
        """What clients see."""
        is_held = self.state == "acquired"
        return {
            "id": self.id,
            "state": self.state,
            "version": self.version,
            "resumes": self.resumes,
            "pid": self.pid if is_held else None,
            "ttl": self.ttl if is_held else None,
        }


@dataclass
class WorkflowModel(Model):
    """The whole API with both kinds of tasks. `waiting_limit` is how many may await a promise."""

    waiting_limit: int = 10_000
    workflows: dict[str, ModelWorkflow] = field(default_factory=dict)
    awaits: list[tuple[str, str]] = field(default_factory=list)
    listeners: list[tuple[str, str]] = field(default_factory=list)
    unblocks: list[tuple[str, str]] = field(default_factory=list)

    def resume_time(self, now: int) -> None:
        """Whoever holds a task has its full time again."""
        super().resume_time(now)
        for one in self.workflows.values():
            if one.state == "acquired":
                one.expires_at = plus(now, max(one.ttl, LEASE_LEAST_MS))

    def restart(self) -> None:
        """The server has begun again."""
        for one in self.workflows.values():
            one.is_fresh = False

    # Time and ends

    def deadlines(self) -> list[tuple[int, int, str]]:
        """Leases end, too."""
        held = [one for one in self.workflows.values() if one.state == "acquired"]
        return [*super().deadlines(), *((one.expires_at, 3, one.id) for one in held)]

    def happen(self, time: int, rank: int, identifier: str) -> None:
        """A lease ends: the task waits for a worker again."""
        if rank == 3:
            self.workflows[identifier].give_up("pending")
        else:
            super().happen(time, rank, identifier)

    def finish(
        self, promise: ModelPromise, state: str, value: Value, key: str | None, time: int
    ) -> None:
        """The settle chain: its own task, who awaits it, who listens."""
        super().finish(promise, state, value, key, time)
        own = self.workflows.get(promise.id)
        if own is not None:
            own.give_up("fulfilled")
            own.resumes = 0
            for awaited in own.awaited:
                self.drop(awaited, own.id)
            own.awaited = []
        waiting = [pair for pair in self.awaits if pair[0] == promise.id]
        self.awaits = [pair for pair in self.awaits if pair[0] != promise.id]
        for awaited, awaiter in waiting:
            self.tell(awaiter, awaited)
        self.unblocks += [pair for pair in self.listeners if pair[0] == promise.id]
        self.listeners = [pair for pair in self.listeners if pair[0] != promise.id]

    def drop(self, awaited: str, awaiter: str) -> None:
        """A task that has ended need not be woken."""

        def forget(model: Model) -> None:
            assert isinstance(model, WorkflowModel)
            model.awaits = [pair for pair in model.awaits if pair != (awaited, awaiter)]

        self.across(awaiter, awaited, ("dropped", awaited, awaiter), forget)

    def tell(self, awaiter: str, awaited: str) -> None:
        """What a task awaits has ended."""

        def wake(model: Model) -> None:
            assert isinstance(model, WorkflowModel)
            model.wake(awaiter, awaited)

        self.across(awaited, awaiter, ("wake", awaiter, awaited), wake)

    def across(self, source: str, target: str, key: tuple[str, ...], effect: Any) -> None:
        """Let something happen where the target lives: at once, or when a message arrives."""
        if self.is_local(source, target):
            effect(self)
        else:
            self.transit.append((key, effect))

    def wake(self, awaiter: str, awaited: str) -> None:
        """The row "awaited one settles" of the table."""
        task = self.workflows.get(awaiter)
        if task is None or task.state == "fulfilled":
            return
        task.awaited = [one for one in task.awaited if one != awaited]
        if self.promises[awaiter].timeout <= self.now:
            return
        if task.state == "suspended":
            task.state, task.resumes = "pending", 1
        else:
            task.resumes += 1

    # Promises

    def new_promise(
        self, identifier: str, timeout: int, param: Value, tags: Any, key: str | None
    ) -> ModelPromise:
        """A target makes a workflow task, and then no other."""
        if "resonate:target" not in (tags or {}):
            return super().new_promise(identifier, timeout, param, tags, key)
        promise = super().new_promise(identifier, timeout, param, None, key)
        promise.tags = tags
        self.workflows[identifier] = ModelWorkflow(identifier)
        return promise

    def run_once(self, schedule: ModelSchedule, run: int) -> None:
        """A run with a target makes a workflow that began at its instant."""
        if "resonate:target" not in (schedule.promise_tags or {}):
            super().run_once(schedule, run)
            return
        promise_id = schedule.promise_id.replace("{{.id}}", schedule.id)
        promise_id = promise_id.replace("{{.timestamp}}", str(run))
        tags = {**(schedule.promise_tags or {}), "resonate:schedule": schedule.id}
        tags |= dict.fromkeys(LINEAGE, promise_id)
        timeout = plus(run, schedule.promise_timeout)

        def create(model: Model) -> None:
            if promise_id not in model.promises:
                made = model.new_promise(promise_id, timeout, schedule.promise_param, tags, None)
                made.created_on = run

        self.across(schedule.id, promise_id, ("promise", promise_id, schedule.id), create)

    def do_CreatePromise(self, command: c.CreatePromise) -> View:  # noqa: N802
        """REST's claim at creation is of an invoke task, which a target leaves no place for."""
        is_new = command.id not in self.promises and not self.is_stale(command.fence)
        has_target = "resonate:target" in (command.tags or {})
        if is_new and has_target and command.claim is not None:
            return {"code": Code.RECEIVER_NOT_FOUND}
        return super().do_CreatePromise(command)

    def guard(self, fence: WorkflowFence | None) -> Code:
        """Whether the request comes from the holder of the task it names."""
        if fence is None:
            return Code.OK
        return self.held(fence.id, fence.version)

    def held(self, identifier: str, version: int) -> Code:
        """Whether a task is held at a version."""
        task = self.workflows.get(identifier)
        if task is None:
            return Code.TASK_NOT_FOUND
        if task.state != "acquired":
            return Code.WORKFLOW_STATE
        return Code.OK if task.version == version else Code.WORKFLOW_VERSION

    def made(self, identifier: str, timeout: int, param: Value, tags: Any) -> ModelPromise:
        """A promise of the envelope protocol: beyond its deadline it is made ended."""
        now = self.now
        self.now = min(now, timeout)
        promise = self.new_promise(identifier, timeout, param, tags, None)
        self.now = now
        if timeout <= now:
            tags = tags or {}
            is_timer = "true" in (tags.get("resonate:timeout"), tags.get("resonate:timer"))
            state = "RESOLVED" if is_timer else "REJECTED_TIMEDOUT"
            self.finish(promise, state, EMPTY_VALUE, None, timeout)
        return promise

    def do_EnsurePromise(self, command: w.EnsurePromise) -> View:  # noqa: N802
        """promise.create."""
        code = self.guard(command.fence)
        if code is not Code.OK:
            return {"code": code}
        promise = self.promises.get(command.id)
        if promise is None:
            promise = self.made(command.id, command.timeout, command.param, command.tags)
        return {"code": Code.OK, "promise": view(promise, PROMISE_FIELDS)}

    def do_SettlePromise(self, command: w.SettlePromise) -> View:  # noqa: N802
        """promise.settle."""
        code = self.guard(command.fence)
        if code is not Code.OK:
            return {"code": code}
        promise = self.promises.get(command.id)
        if promise is None:
            return {"code": Code.PROMISE_NOT_FOUND}
        if promise.state == "PENDING":
            self.finish(promise, command.state.value, command.value, None, self.now)
        return {"code": Code.OK, "promise": view(promise, PROMISE_FIELDS)}

    def do_RegisterAwait(self, command: w.RegisterAwait) -> View:  # noqa: N802
        """promise.register_callback."""
        promise = self.promises.get(command.awaited)
        if promise is None:
            return {"code": Code.PROMISE_NOT_FOUND}
        task = self.workflows.get(command.awaiter)
        if task is None:
            return {"code": Code.AWAITER_UNUSABLE}
        pair = (command.awaited, command.awaiter)
        if task.state != "fulfilled":
            if promise.state != "PENDING":
                self.tell(command.awaiter, command.awaited)
            elif self.is_full(*pair):
                return {"code": Code.TOO_MANY_WAITING}
            elif pair not in self.awaits:
                self.awaits.append(pair)
                if self.is_local(*pair) and command.awaited not in task.awaited:
                    task.awaited.append(command.awaited)
        return {"code": Code.OK, "promise": view(promise, PROMISE_FIELDS)}

    def is_full(self, awaited: str, awaiter: str) -> bool:
        """Whether one more cannot wait."""
        count = sum(pair[0] == awaited for pair in self.awaits)
        return count >= self.waiting_limit and (awaited, awaiter) not in self.awaits

    def do_RegisterListener(self, command: w.RegisterListener) -> View:  # noqa: N802
        """promise.register_listener."""
        promise = self.promises.get(command.awaited)
        if promise is None:
            return {"code": Code.PROMISE_NOT_FOUND}
        pair = (command.awaited, command.address)
        if promise.state == "PENDING" and pair not in self.listeners:
            if sum(one[0] == command.awaited for one in self.listeners) >= self.waiting_limit:
                return {"code": Code.TOO_MANY_WAITING}
            self.listeners.append(pair)
        return {"code": Code.OK, "promise": view(promise, PROMISE_FIELDS)}

    def do_EnsureSchedule(self, command: w.EnsureSchedule) -> View:  # noqa: N802
        """schedule.create."""
        schedule = self.schedules.get(command.id)
        if schedule is None:
            schedule = self.new_schedule(command)
        return {"code": Code.OK, "schedule": view(schedule, SCHEDULE_FIELDS)}

    # Tasks

    def shown(self, task: ModelWorkflow) -> View:
        """A claim's answer."""
        promise = view(self.promises[task.id], PROMISE_FIELDS)
        return {"code": Code.OK, "workflow": task.shown, "promise": promise}

    def claim(self, task: ModelWorkflow, command: Any, claim: tuple[object, ...]) -> View:
        """Somebody gets the task."""
        task.state, task.version, task.resumes = "acquired", task.version + 1, 0
        task.pid, task.ttl, task.claim, task.is_fresh = command.pid, command.ttl, claim, True
        task.expires_at = plus(self.now, max(command.ttl, LEASE_LEAST_MS))
        return self.shown(task)

    def is_same(self, task: ModelWorkflow, claim: tuple[object, ...]) -> bool:
        """Whether this is the claim whose answer a restart has swallowed."""
        return (
            task.state == "acquired"
            and not task.is_fresh
            and task.claim == claim
            and claim[-1] is not None
        )

    def do_ReadWorkflow(self, command: w.ReadWorkflow) -> View:  # noqa: N802
        """task.get."""
        task = self.workflows.get(command.id)
        if task is None:
            return {"code": Code.TASK_NOT_FOUND}
        return {"code": Code.OK, "workflow": task.shown}

    def do_CreateWorkflow(self, command: w.CreateWorkflow) -> View:  # noqa: N802
        """task.create."""
        claim = ("create", command.pid, command.claim_id)
        if command.id not in self.promises:
            self.made(command.id, command.timeout, command.param, command.tags)
        task = self.workflows.get(command.id)
        if task is None:
            return {"code": Code.NO_WORKFLOW_TASK}
        if task.state == "fulfilled" or self.is_same(task, claim):
            return self.shown(task)
        if task.state != "pending":
            return {"code": Code.WORKFLOW_STATE}
        return self.claim(task, command, claim)

    def do_AcquireWorkflow(self, command: w.AcquireWorkflow) -> View:  # noqa: N802
        """task.acquire."""
        task = self.workflows.get(command.id)
        if task is None:
            return {"code": Code.TASK_NOT_FOUND}
        claim = ("acquire", command.pid, command.claim_id)
        if task.version == command.version + 1 and self.is_same(task, claim):
            return self.shown(task)
        if task.state != "pending":
            return {"code": Code.WORKFLOW_STATE}
        if task.version != command.version:
            return {"code": Code.WORKFLOW_VERSION}
        return self.claim(task, command, claim)

    def do_SuspendWorkflow(self, command: w.SuspendWorkflow) -> View:  # noqa: N802
        """task.suspend."""
        code = self.held(command.id, command.version)
        if code is not Code.OK:
            return {"code": code}
        one_has_ended = False
        for awaited in command.awaited:
            promise = self.promises.get(awaited)
            if promise is None:
                return {"code": Code.AWAITED_NOT_FOUND}
            if promise.state != "PENDING":
                one_has_ended = True
            elif self.is_full(awaited, command.id):
                return {"code": Code.TOO_MANY_WAITING}
        task = self.workflows[command.id]
        task.resumes = 0
        if one_has_ended:
            return {"code": Code.AWAITED_SETTLED}
        task.give_up("suspended")
        for awaited in command.awaited:
            if awaited not in task.awaited:
                task.awaited.append(awaited)
                self.register(awaited, command.id)
        return {"code": Code.OK}

    def register(self, awaited: str, awaiter: str) -> None:
        """Let a promise know who awaits it; it may have ended when it hears of that."""

        def note(model: Model) -> None:
            assert isinstance(model, WorkflowModel)
            if model.promises[awaited].state != "PENDING":
                model.tell(awaiter, awaited)
            elif (awaited, awaiter) not in model.awaits:
                model.awaits.append((awaited, awaiter))

        self.across(awaiter, awaited, ("await", awaited, awaiter), note)

    def do_FulfillWorkflow(self, command: w.FulfillWorkflow) -> View:  # noqa: N802
        """task.fulfill."""
        code = self.held(command.id, command.version)
        if code is not Code.OK:
            return {"code": code}
        promise = self.promises[command.id]
        self.finish(promise, command.state.value, command.value, None, self.now)
        return {"code": Code.OK, "promise": view(promise, PROMISE_FIELDS)}

    def do_ReleaseWorkflow(self, command: w.ReleaseWorkflow) -> View:  # noqa: N802
        """task.release."""
        code = self.held(command.id, command.version)
        if code is Code.OK:
            self.workflows[command.id].give_up("pending")
        return {"code": code}

    def do_RenewWorkflows(self, command: w.RenewWorkflows) -> View:  # noqa: N802
        """task.heartbeat."""
        held = [
            self.workflows[identifier]
            for identifier, version in dict.fromkeys(command.tasks)
            if self.held(identifier, version) is Code.OK
            and self.workflows[identifier].pid == command.pid
        ]
        for task in held:
            task.expires_at = plus(self.now, max(task.ttl, LEASE_LEAST_MS))
        return {"code": Code.OK, "count": len(held)}

    def do_HaltWorkflow(self, command: w.HaltWorkflow) -> View:  # noqa: N802
        """task.halt."""
        task = self.workflows.get(command.id)
        if task is None:
            return {"code": Code.TASK_NOT_FOUND}
        if task.state == "fulfilled":
            return {"code": Code.WORKFLOW_STATE}
        task.give_up("halted")
        return {"code": Code.OK}

    def do_ContinueWorkflow(self, command: w.ContinueWorkflow) -> View:  # noqa: N802
        """task.continue."""
        task = self.workflows.get(command.id)
        if task is None:
            return {"code": Code.TASK_NOT_FOUND}
        if task.state != "halted":
            return {"code": Code.WORKFLOW_STATE}
        task.state = "pending"
        return {"code": Code.OK}

    def search_workflows(self, state: str | None) -> list[str]:
        """The ids of all tasks in a state, newest first."""
        return [
            identifier
            for identifier in reversed(self.promises)
            if identifier in self.workflows and state in (None, self.workflows[identifier].state)
        ]

    def envelope(self) -> View:
        """All that is true of workflow tasks and of who waits."""
        return {
            "workflows": {
                one.id: {**one.shown, "expires_at": one.expires_at, "awaited": sorted(one.awaited)}
                for one in self.workflows.values()
            },
            "awaits": sorted(self.awaits),
            "listeners": sorted(self.listeners),
            "unblocks": sorted(self.unblocks),
        }
