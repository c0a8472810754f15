"""Random commands about functions among all the others: `Drive`, with more to do."""

from collections import Counter

from troth.core import commands as c
from troth.core.catalog import Account, Capabilities, Entry, FunctionKind, Label, is_reserved
from troth.core.codes import Code
from troth.core.executions import Execution, ExecutionPlan
from troth.core.grammar import task_ids
from troth.core.limits import INTEGER_MAX
from troth.core.model import Fence, Promise, PromiseState, Value

from .drive import KEYS, Drive
from .function_model import FunctionModel
from .model import EXECUTION_FIELDS, view

TASK_IDS = tuple(f"troth:task/{number}" for number in range(5))
PACKAGE_IDS = ("troth:archive/1", "troth:archive/2", "troth:archive/3")
NODES = ("n1", "n2")
ENTRIES: tuple[Entry, ...] = (
    Account("x", 1, 5, "Anna"),
    Label("x", 1, 6, "a1", "red"),
    Label("y", 1, 7, "a2", "blue"),
)
PLANS = tuple(
    ExecutionPlan(
        account_id, function_id, FunctionKind.HTTP, Capabilities(timeout_s), url="http://x"
    )
    for account_id, function_id, timeout_s in (("a1", "f1", 0), ("a1", "f2", 1), ("a2", "f3", 90))
)
RESULTS = (
    Value({"troth:status": "200", "troth:headers": "[]"}, "aGk="),
    Value({"troth:status": "500", "troth:error": "oh"}),
)


class FunctionDrive(Drive):
    """A random run with function tasks, packages and the catalog in it.

    As behind the API, no command of clients names what is reserved.
    """

    model_type = FunctionModel
    last_finish: c.FinishExecution | None = None
    model: FunctionModel

    def command(self) -> c.Command:
        """Every other command is about functions."""
        if self.random.random() < 0.4:
            return super().command()
        return self.random.choice(
            (
                *(self.create_execution,) * 3,
                *(self.node_command,) * 8,
                self.cancel_or_read,
                self.entry,
                self.entry,
                self.package,
            )
        )()

    def ask(self, command: c.Command) -> Code:
        """Sometimes packages go instead."""
        if self.random.random() < 0.02:
            self.delete_package()
        return super().ask(command)

    def delete_package(self) -> None:
        """Delete a package, there or not."""
        package_id = self.random.choice(PACKAGE_IDS)
        count = self.model.promises.pop(package_id, None) is not None
        command = c.DeletePromises((package_id, package_id + "?"))
        reply = self.system.tell(self.system.shard_of(package_id), command).reply
        assert reply.count == count
        self.events["package deleted" if count else "no package"] += 1

    def promise_id(self) -> str:
        """None of ours."""
        while is_reserved(promise_id := super().promise_id()):
            pass
        return promise_id

    def fence(self) -> Fence | None:
        """None of ours."""
        while (fence := super().fence()) is not None and ":troth:" in fence.task_id:
            pass
        return fence

    def task_command(self) -> c.Command:
        """None of ours."""
        while ":troth:" in getattr(command := super().task_command(), "id", ""):
            pass
        return command

    def may_be_late(self, kind: c.TimerKind, identifier: str) -> bool:
        """Nobody waits for a function task, except by asking for it."""
        return kind is c.EXECUTION_TIMER or super().may_be_late(kind, identifier)

    def create_execution(self) -> c.Command:
        """A function task, mostly with time enough."""
        random = self.random
        timeout = self.timeout() if random.random() < 0.4 else INTEGER_MAX
        promise_id = random.choice(TASK_IDS) if random.random() < 0.6 else self.fresh_id()
        plan, key = random.choice(PLANS), random.choice(KEYS)
        return c.CreateExecution(promise_id, timeout, plan, self.value(), key)

    def fresh_id(self) -> str:
        """A function task's id that is probably new."""
        return f"troth:task/n{self.random.randint(0, 200)}"

    def node_command(self) -> c.Command:
        """A node says something, often what is true."""
        random = self.random
        if self.last_finish is not None and random.random() < 0.05:
            return self.last_finish  # the answer was lost
        task_id, counter, node_id = self.node_task()
        kind = random.choice(("assign", "assign", "report", "report", "return", "finish"))
        if kind == "assign":
            lease_ms = random.choice((0, 30, 60, 200, 5_000, 10_000, 100_000))
            return c.AssignExecution(task_id, counter, node_id, lease_ms)
        if kind == "report":
            return c.ReportExecution(task_id, counter, node_id, random.choice((None, 10, 99)))
        if kind == "return":
            return c.ReturnExecution(task_id, counter, node_id)
        state = random.choice((PromiseState.RESOLVED, PromiseState.REJECTED))
        result = random.choice(RESULTS)
        self.last_finish = c.FinishExecution(task_id, counter, node_id, state, result)
        return self.last_finish

    def node_task(self) -> tuple[str, int, str]:
        """An invoke task, its counter and who has it; sometimes made up, or finished."""
        random, model = self.random, self.model
        promise_id = random.choice((*TASK_IDS, "troth:archive/1", "a"))
        if model.executions and random.random() < 0.8:
            promise_id = random.choice(sorted(model.executions))
        task_id = task_ids.invoke_id(promise_id)
        task = model.tasks.get(task_id)
        counter = (1 if task is None else task.counter) - random.choice((0, 0, 0, 0, 1))
        execution = model.executions.get(promise_id)
        node_id = random.choice(NODES)
        if execution is not None and execution.node_id and random.random() < 0.9:
            node_id = execution.node_id
        if execution is None and task is not None and random.random() < 0.7:
            promise = model.promises[promise_id]
            node_id = (promise.value.headers or {}).get("troth:node", node_id)
        return random.choice((*[task_id] * 20, promise_id, "nonsense")), counter, node_id

    def cancel_or_read(self) -> c.Command:
        """Mostly a read."""
        promise_id = self.random.choice((*TASK_IDS, "troth:archive/1", "a"))
        if self.random.random() < 0.3:
            return c.CancelExecution(promise_id)
        return c.ReadExecution(promise_id)

    def entry(self) -> c.Command:
        """Something about the catalog."""
        random = self.random
        entry = random.choice(ENTRIES)
        kind = random.choice(("create", "read", "replace", "replace", "delete"))
        if kind == "create":
            return c.CreateEntry(entry)
        if kind == "read":
            return c.ReadEntry(entry.id)
        there = self.model.entries.get(entry.id)
        revision = (1 if there is None else there.revision) + random.choice((0, 0, 0, 1))
        if kind == "delete":
            return c.DeleteEntry(entry.id, revision)
        name = random.choice(("one", "two"))
        if isinstance(entry, Account):
            return c.ReplaceEntry(Account(entry.id, revision + 1, 5, name))
        return c.ReplaceEntry(Label(entry.id, revision + 1, 6, random.choice(("a1", "a2")), name))

    def package(self) -> c.Command:
        """An package."""
        return c.StorePackage(
            self.random.choice(PACKAGE_IDS), self.random.choice(("eA==", "eA==", "eQ=="))
        )

    def endings(self) -> Counter[tuple[str, str]]:
        """How function tasks have ended: the promise's state and the status."""
        return Counter(
            (promise.state, promise.value.headers["troth:status"])
            for promise in self.model.promises.values()
            if promise.value.headers is not None and "troth:status" in promise.value.headers
        )

    def search(self) -> None:
        """Search promises, function tasks and entries."""
        super().search()
        random, system = self.random, self.system
        account_id = random.choice(("a1", "a2"))
        function_id = random.choice((None, "f1", "f3"))
        limit_count, scan_count = random.choice(((1, 1), (1, 3), (3, 2), (100, 100)))
        found: list[tuple[Promise, Execution | None]] = []
        for index in range(system.shard_count):
            before: int | None = INTEGER_MAX
            while before is not None:
                search = c.SearchExecutions(
                    account_id, function_id, limit_count, before, scan_count
                )
                page = system.tell(index, search).reply.executions
                assert page is not None
                assert len(page.executions) <= limit_count
                found.extend(page.executions)
                before = page.next_before
        found.sort(key=lambda row: -row[0].serial)
        expected = self.model.tasks_of(account_id, function_id)
        assert [promise.id for promise, _ in found] == expected
        for promise, execution in found:
            assert promise.value.data is None
            there = self.model.executions.get(promise.id)
            assert (execution and view(execution, EXECUTION_FIELDS)) == (
                there and view(there, EXECUTION_FIELDS)
            )
        for kind in (Account, Label):
            listed = [
                one
                for index in range(system.shard_count)
                for one in system.tell(index, c.ListEntries(kind, account_id)).reply.entries
            ]
            assert {one.id for one in listed} == {
                one.id
                for one in self.model.entries.values()
                if isinstance(one, kind) and account_id in (one.id, getattr(one, "account_id", ""))
            }
