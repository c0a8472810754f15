"""The model's part about function tasks, the catalog and archives.

As in `model.py`: dicts and the rules of decisions.md 2, written down a second time. What ends a
function task is one of: the node's result, a cancel, too much time on a node (504), too many nodes
lost (502), or the promise's own timeout (504).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from troth.core import commands as c
from troth.core.catalog import Entry, is_reserved
from troth.core.codes import Code
from troth.core.executions import ExecutionPlan
from troth.core.model import PromiseState, TaskKind, Value

from .model import (
    EXECUTION_FIELDS,
    INTEGER_MAX,
    PROMISE_FIELDS,
    TASK_FIELDS,
    Model,
    ModelPromise,
    ModelTask,
    View,
    view,
)

GRACE_MS = 5_000
LOST_NODES_MOST = 3
DAY_MS = 24 * 60 * 60 * 1000
STATUS_OF_STATE = {
    "RESOLVED": "200",
    "REJECTED": "500",
    "REJECTED_CANCELED": "410",
    "REJECTED_TIMEDOUT": "504",
}


@dataclass
class ModelExecution:
    """An unfinished function task."""

    promise_id: str
    plan: ExecutionPlan
    node_id: str = ""
    assigned_on: int | None = None
    progress: int = 0
    lost_nodes_count: int = 0
    counts_from: int | None = None


@dataclass
class FunctionModel(Model):
    """The model with everything around functions."""

    entries: dict[str, Entry] = field(default_factory=dict)
    executions: dict[str, ModelExecution] = field(default_factory=dict)
    created: list[tuple[str, int]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)

    # Time

    def deadlines(self) -> list[tuple[int, int, str]]:
        """With those of what nodes have: they come before what happens to tasks."""
        return [
            *super().deadlines(),
            *(
                (self.ends_on(one), 0, one.promise_id)
                for one in self.executions.values()
                if one.assigned_on is not None
            ),
        ]

    def ends_on(self, execution: ModelExecution) -> int:
        """When it has had all the time that it may take."""
        assert execution.counts_from is not None
        return execution.counts_from + execution.plan.capabilities.timeout_s * 1000 + GRACE_MS

    def resume_time(self, now: int) -> None:
        """Nodes have their full time again, and were assigned nothing in the future."""
        super().resume_time(now)
        for execution in self.executions.values():
            if execution.assigned_on is not None:
                execution.counts_from = now
                execution.assigned_on = min(execution.assigned_on, now)

    def happen(self, time: int, rank: int, identifier: str) -> None:
        """A function task may have been on its node for too long."""
        promise = self.promises.get(identifier)
        if rank == 0 and promise is not None and promise.timeout != time:
            text = "the function took longer than it may"
            value = Value({"troth:status": "504", "troth:error": text})
            self.finish(promise, "REJECTED", value, None, time)
        else:
            super().happen(time, rank, identifier)

    def release(self, task: ModelTask) -> None:
        """A lease that ran out: the node is lost."""
        lapsed_on = task.expires_at
        super().release(task)
        execution = self.executions.get(task.root_id)
        if execution is not None and execution.assigned_on is not None:
            self.unassign(execution)
            execution.lost_nodes_count += 1
            if execution.lost_nodes_count > LOST_NODES_MOST:
                text = "the nodes that ran the function were lost, one after the other"
                value = Value({"troth:status": "502", "troth:error": text})
                self.finish(self.promises[task.root_id], "REJECTED", value, None, lapsed_on)

    def unassign(self, execution: ModelExecution) -> None:
        """No node has it."""
        execution.node_id, execution.assigned_on, execution.progress = "", None, 0

    def finish(
        self, promise: ModelPromise, state: str, value: Value, key: str | None, time: int
    ) -> None:
        """What was known of a function task goes into the value's headers."""
        execution = self.executions.pop(promise.id, None)
        if execution is not None:
            self.finished.append(execution.plan.function_id)
            headers = {"troth:status": STATUS_OF_STATE[state]}
            headers |= value.headers or {}
            if execution.node_id:
                headers["troth:node"] = execution.node_id
                headers["troth:assigned"] = str(execution.assigned_on)
            if execution.lost_nodes_count:
                headers["troth:lost-nodes"] = str(execution.lost_nodes_count)
            value = Value(headers, value.data)
        super().finish(promise, state, value, key, time)

    # The catalog

    def do_CreateEntry(self, command: c.CreateEntry) -> View:  # noqa: N802
        """Once."""
        if command.entry.id in self.entries:
            return {"code": Code.ENTRY_EXISTS}
        self.entries[command.entry.id] = command.entry
        return {"code": Code.CREATED, "entry": command.entry}

    def do_ReadEntry(self, command: c.ReadEntry) -> View:  # noqa: N802
        """As it is."""
        if command.id not in self.entries:
            return {"code": Code.ENTRY_NOT_FOUND}
        return {"code": Code.OK, "entry": self.entries[command.id]}

    def do_ReplaceEntry(self, command: c.ReplaceEntry) -> View:  # noqa: N802
        """Only what follows on the revision that is there."""
        new = command.entry
        old = self.entries.get(new.id)
        if old is None:
            return {"code": Code.ENTRY_NOT_FOUND}
        if old.revision != new.revision - 1 or type(old) is not type(new):
            return {"code": Code.ENTRY_CHANGED}
        self.entries[new.id] = new
        return {"code": Code.OK, "entry": new}

    def do_DeleteEntry(self, command: c.DeleteEntry) -> View:  # noqa: N802
        """Only the revision that is there."""
        old = self.entries.get(command.id)
        if old is None:
            return {"code": Code.ENTRY_NOT_FOUND}
        if old.revision != command.revision:
            return {"code": Code.ENTRY_CHANGED}
        del self.entries[command.id]
        return {"code": Code.NO_CONTENT, "entry": old}

    # Archives

    def do_StorePackage(self, command: c.StorePackage) -> View:  # noqa: N802
        """A promise that is resolved at once; the same again is fine."""
        promise = self.promises.get(command.id)
        if promise is None:
            promise = ModelPromise(command.id, INTEGER_MAX, self.now, Value(), None, None)
            promise.state, promise.completed_on = "RESOLVED", self.now
            promise.value = Value(None, command.data)
            self.promises[command.id] = promise
            return {"code": Code.CREATED, "promise": view(promise, PROMISE_FIELDS)}
        if promise.value.data != command.data:
            return {"code": Code.PROMISE_EXISTS}
        return {"code": Code.OK, "promise": view(promise, PROMISE_FIELDS)}

    # Function tasks

    def do_CreateExecution(self, command: c.CreateExecution) -> View:  # noqa: N802
        """A promise with an invoke task for placement."""
        promise = self.promises.get(command.id)
        plan = command.plan
        if promise is not None:
            key = command.idempotency_key
            if key is None or key != promise.key_for_create:
                return {"code": Code.PROMISE_EXISTS}
            return {"code": Code.OK, **self.both(command.id)}
        tags = {"troth:account": plan.account_id, "troth:function": plan.function_id}
        self.new_promise(
            *(command.id, command.timeout, command.param, tags, command.idempotency_key)
        )
        receiver = {
            "type": "function",
            "data": [
                *(plan.account_id, plan.function_id, plan.kind.value),
                [plan.capabilities.timeout_s, 0, 0, 0, False],
                *(plan.language, plan.build_id, plan.url),
            ],
        }
        task_id = "__invoke:" + command.id
        self.tasks[task_id] = ModelTask(
            *(task_id, TaskKind.INVOKE, command.id, command.id, receiver, command.timeout, self.now)
        )
        self.executions[command.id] = ModelExecution(command.id, plan)
        self.created.append((plan.function_id, self.now // DAY_MS))
        return {"code": Code.CREATED, **self.both(command.id)}

    def both(self, promise_id: str) -> View:
        """A function task's promise and, if it is unfinished, its execution."""
        shown = {"promise": view(self.promises[promise_id], PROMISE_FIELDS)}
        execution = self.executions.get(promise_id)
        if execution is not None:
            shown["execution"] = view(execution, EXECUTION_FIELDS)
        return shown

    def do_ReadExecution(self, command: c.ReadExecution) -> View:  # noqa: N802
        """As it is now."""
        if not self.is_function_task(command.id):
            return {"code": Code.EXECUTION_NOT_FOUND}
        return {"code": Code.OK, **self.both(command.id)}

    def is_function_task(self, promise_id: str) -> bool:
        """Whether there is such a function task."""
        return promise_id.startswith("troth:task/") and promise_id in self.promises

    def refusal(self, task_id: str, counter: int, node_id: str) -> Code | None:
        """Why a node may not speak of a function task; None if it may."""
        promise_id = task_id.removeprefix("__invoke:")
        if not self.is_function_task(promise_id) or promise_id == task_id:
            return Code.EXECUTION_NOT_FOUND
        execution = self.executions.get(promise_id)
        if execution is None:
            return Code.EXECUTION_FINISHED
        task = self.tasks[task_id]
        if (task.state, task.counter, execution.node_id) != ("claimed", counter, node_id):
            return Code.EXECUTION_NOT_HELD
        return None

    def do_AssignExecution(self, command: c.AssignExecution) -> View:  # noqa: N802
        """Claimed as by anybody; asking again for what one holds is fine."""
        code = self.refusal(command.id, command.counter, command.node_id)
        if code in (Code.EXECUTION_NOT_FOUND, Code.EXECUTION_FINISHED):
            return {"code": code}
        task = self.tasks[command.id]
        if code is None:
            shown = {"code": Code.OK, **self.both(task.root_id)}
            return {**shown, "task": view(task, TASK_FIELDS)}
        if task.state == "claimed":
            return {"code": Code.TASK_CLAIMED}
        if task.counter != command.counter:
            return {"code": Code.TASK_COUNTER}
        self.lease(task, "troth:node/" + command.node_id, command.ttl)
        execution = self.executions[task.root_id]
        execution.node_id, execution.assigned_on = command.node_id, self.now
        execution.counts_from = self.now
        shown = {"code": Code.CREATED, **self.both(task.root_id)}
        return {**shown, "task": view(task, TASK_FIELDS)}

    def do_ReportExecution(self, command: c.ReportExecution) -> View:  # noqa: N802
        """The lease runs anew."""
        code = self.refusal(command.id, command.counter, command.node_id)
        if code is not None:
            return {"code": code}
        task = self.tasks[command.id]
        self.lease(task, "troth:node/" + command.node_id, task.ttl)
        if command.progress is not None:
            self.executions[task.root_id].progress = command.progress
        return {"code": Code.OK, **self.both(task.root_id)}

    def do_ReturnExecution(self, command: c.ReturnExecution) -> View:  # noqa: N802
        """Given out anew, and nobody is lost."""
        code = self.refusal(command.id, command.counter, command.node_id)
        if code is not None:
            return {"code": code}
        task = self.tasks[command.id]
        shown = self.both(task.root_id)
        self.unassign(self.executions[task.root_id])
        self.release(task)
        return {"code": Code.NO_CONTENT, **shown}

    def do_FinishExecution(self, command: c.FinishExecution) -> View:  # noqa: N802
        """Once; the very same again is fine."""
        code = self.refusal(command.id, command.counter, command.node_id)
        promise_id = command.id.removeprefix("__invoke:")
        if code is Code.EXECUTION_FINISHED:
            promise = self.promises[promise_id]
            headers = promise.value.headers or {}
            same = (
                promise.state == command.state
                and promise.value.data == command.value.data
                and all(headers.get(k) == v for k, v in (command.value.headers or {}).items())
                and headers.get("troth:node") == command.node_id
                and self.tasks[command.id].counter == command.counter
            )
            if same:
                return {"code": Code.OK, **self.both(promise_id)}
        if code is not None:
            return {"code": code}
        return self.end(promise_id, command.state, command.value)

    def do_CancelExecution(self, command: c.CancelExecution) -> View:  # noqa: N802
        """Once; again is fine."""
        if not self.is_function_task(command.id):
            return {"code": Code.EXECUTION_NOT_FOUND}
        if command.id in self.executions:
            value = Value({"troth:status": "410", "troth:error": "the task was canceled"})
            return self.end(command.id, PromiseState.REJECTED_CANCELED, value)
        if self.promises[command.id].state != "REJECTED_CANCELED":
            return {"code": Code.EXECUTION_FINISHED}
        return {"code": Code.OK, **self.both(command.id)}

    def end(self, promise_id: str, state: PromiseState, value: Value) -> View:
        """Finish it; the answer has the execution as it was."""
        execution = view(self.executions[promise_id], EXECUTION_FIELDS)
        promise = self.promises[promise_id]
        self.finish(promise, state.value, value, None, max(self.now, promise.created_on))
        return {"code": Code.CREATED, **self.both(promise_id), "execution": execution}

    # Looking

    def tasks_of(self, account_id: str, function_id: str | None) -> list[str]:
        """The promises of an account's function tasks, newest first."""
        return [
            promise.id
            for promise in reversed(self.promises.values())
            if self.is_function_task(promise.id)
            and promise.tags is not None
            and promise.tags["troth:account"] == account_id
            and function_id in (None, promise.tags["troth:function"])
        ]

    def search(
        self, regular: Callable[[str], bool], states: tuple[PromiseState, ...], tags: dict[str, str]
    ) -> list[str]:
        """What is reserved for the server is not shown."""
        return [one for one in super().search(regular, states, tags) if not is_reserved(one)]

    def functions(self) -> View:
        """All that is true of them."""
        usage = {}
        for function_id in dict.fromkeys(name for name, _ in self.created):
            days = [day for name, day in self.created if name == function_id]
            finished_count = self.finished.count(function_id)
            by_day = {day: days.count(day) for day in set(days)}
            usage[function_id] = (len(days), finished_count, by_day)
        return {
            "entries": self.entries,
            "executions": {
                name: view(one, EXECUTION_FIELDS) for name, one in self.executions.items()
            },
            "usage": usage,
        }
