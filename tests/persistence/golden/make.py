"""Makes the golden data directory of a release, with a checkpoint and a log that goes on from it.

    python -m tests.persistence.golden.make tests/persistence/golden/version_2_format_5

Run it once for a release whose formats are new, and never again for the same name: the test beside
it opens what older releases wrote. `expected.json` says what must be found.
"""

import json
import sys
from pathlib import Path
from typing import Any

import trio
import trio.testing

from tests.shards.stage import FAR_MS, WORKER, Outgoing, make_shards
from troth.core import catalog, records
from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.executions import ExecutionPlan
from troth.core.grammar import task_ids
from troth.core.model import PromiseState, Value
from troth.core.workflows import WorkflowFence
from troth.shards.shards import Shards
from troth.shards.storage import DirectoryStorage

ALL = tuple(PromiseState)
SHARD_COUNT = 4


async def describe(shards: Shards) -> dict[str, Any]:
    """Everything that a release must find again, as JSON."""
    promises, before = [], None
    while True:
        page, before = await shards.search_promises("*", ALL, {}, 3, before)
        promises += page
        if before is None:
            break
    tagged, _ = await shards.search_promises("*", ALL, {"kind": "order"}, 100, None)
    schedules, _ = await shards.search_schedules("*", {}, 100, None)
    states = [shard.machine.state for shard in shards._shards]
    task_ids = [f"__invoke:{promise.id}" for promise in promises]
    tasks = [
        state.find_task(name)
        for name in task_ids
        for state in states
        if state.find_task(name) is not None
    ]
    found = {
        "promises": promises,
        "tagged": [promise.id for promise in tagged],
        "schedules": schedules,
        "tasks": tasks,
        "callbacks": [
            [one for waiting in state.callbacks.values() for one in waiting.values()]
            for state in states
        ],
        "locks": [list(state.locks.values()) for state in states],
        "counts": [[state.promises_count, state.tasks_count] for state in states],
    }
    functions = await describe_functions(shards)
    if any(functions.values()):
        found |= functions
    workflows = describe_workflows(shards)
    if any(workflows.values()):
        found |= workflows
    described: dict[str, Any] = json.loads(records.encode(found))
    for task in [*described["tasks"], *described.get("function tasks", [])]:
        del task[-5:]  # the server's notes, which are no part of the state
    for workflow in described.get("workflows", []):
        del workflow[-2:]  # how often it was sent, and since when it is ready or claimed
    for promise in [*described["promises"], *described.get("reserved", [])]:
        del promise[12 + (promise[-1] is not None) :]  # formats 1 and 2 know no workflow tasks
    for lock in [one for locks in described["locks"] for one in locks]:
        del lock[5:]  # formats 1 and 2 know no fencing tokens
    for schedule in described["schedules"]:
        assert schedule.pop() is None, "none is paused"
    return described


def describe_workflows(shards: Shards) -> dict[str, Any]:
    """What there is since format 3: tasks of the envelope protocol, and who waits."""
    states = [shard.machine.state for shard in shards._shards]
    return {
        "workflows": [one.row() for state in states for _, one in sorted(state.workflows.items())],
        "awaits": [sorted(state.awaits.pairs()) for state in states if state.awaits.count],
        "listeners": [sorted(state.listeners.pairs()) for state in states if state.listeners.count],
        "unblocks": [sorted(state.unblocks.items()) for state in states if state.unblocks],
    }


async def describe_functions(shards: Shards) -> dict[str, Any]:
    """What there is since format 2: the catalog and function tasks."""
    entries = [
        one
        for kind in (catalog.Account, catalog.Function, catalog.Build)
        for one in await shards.list_entries(kind, None)
    ]
    tasks, _ = await shards.search_executions("account", None, 100, None)
    states = [shard.machine.state for shard in shards._shards]
    promise_ids = [promise.id for promise, _ in tasks]
    promise_ids += [catalog.package_id(name) for name in ("covered", "tail")]
    return {
        "entries": entries,
        "executions": [execution for _, execution in tasks],
        "reserved": [
            promise
            for name in promise_ids
            for state in states
            if (promise := state.find_promise(name)) is not None
        ],
        "function tasks": [
            task
            for promise, _ in tasks
            for state in states
            if (task := state.find_task(task_ids.invoke_id(promise.id))) is not None
        ],
        "usage": await shards.usage(None),
    }


async def write(shards: Shards, name: str) -> None:
    """Something of every kind."""
    content = Value({"content-type": "text/plain"}, "aGVsbG8=")
    tags = {"kind": "order", "schlüssel": "⏰" * 40}
    for number in range(20):
        identifier = f"{name}/{number}/" + "x" * (100 * number)
        invoke = {"resonate:invoke": WORKER} if number % 3 == 0 else {}
        await shards.ask(c.CreatePromise(identifier, FAR_MS, content, {**tags, **invoke}, "key"))
        if number % 2 == 0:
            state = ALL[1 + number // 2 % 3]
            await shards.ask(c.CompletePromise(identifier, state, content, "done"))
    root, leaf = f"{name}/1/" + "x" * 100, f"{name}/3/" + "x" * 300
    await shards.ask(c.CreateCallback(leaf, root, FAR_MS, WORKER))
    await shards.ask(c.CreateSubscription(root, "s", FAR_MS, WORKER))
    await shards.ask(c.ClaimTask(f"__invoke:{leaf}", 1, "worker", 10**11))
    await shards.ask(c.AcquireLock(f"{name}/resource", "execution", "worker", 10**11))
    await shards.ask(c.CreateSchedule(f"{name}/schedule", "0 0 0 1 1 *", "p.{{.timestamp}}", 9))


async def write_functions(shards: Shards, name: str) -> None:
    """A catalog, and function tasks in all their states."""
    demands = catalog.Capabilities(30, 2, 512, 100, True)
    function = catalog.Function(
        *(f"{name} function", 1, 5, "account", "ünï", catalog.FunctionKind.CODE, "words"),
        *(("label",), catalog.Language.PYTHON, None, f"{name} build", True, demands),
    )
    build = catalog.Build(
        *(f"{name} build", 1, 6, "account", function.id, catalog.BuildStatus.SUCCESS, "00", 9),
        *("amd64", (catalog.BuildStep(catalog.BuildStatus.PENDING, 6),), ("a line",)),
    )
    for entry in (catalog.Account(f"{name} account", 1, 4, name), function, build):
        await shards.ask(c.CreateEntry(entry))
    await shards.ask(c.ReplaceEntry(catalog.Account(f"{name} account", 2, 4, name, True)))
    await shards.ask(c.CreateEntry(catalog.Label(f"{name} gone", 1, 7, "account", "red")))
    await shards.ask(c.DeleteEntry(f"{name} gone", 1))
    await shards.ask(c.StorePackage(catalog.package_id(name), "UEsDBA=="))
    plan = ExecutionPlan(
        *("account", function.id, catalog.FunctionKind.CODE, demands),
        *(catalog.Language.PYTHON, build.id),
    )
    request = Value({"method": "POST", "query": "a=1", "headers": "[]"}, "aGVsbG8=")
    for number in range(5):
        identifier = catalog.execution_promise_id(f"{name} {number}")
        task_id = task_ids.invoke_id(identifier)
        await shards.ask(c.CreateExecution(identifier, FAR_MS, plan, request, "key"))
        if number > 0:
            await shards.ask(c.AssignExecution(task_id, 1, "node", 10**11))
        if number == 1:
            await shards.ask(c.ReportExecution(task_id, 1, "node", 75))
        if number == 2:
            await shards.ask(c.ReturnExecution(task_id, 1, "node"))
        if number == 3:
            result = Value({"troth:status": "201", "troth:headers": "[]"}, "aGk=")
            await shards.ask(c.FinishExecution(task_id, 1, "node", PromiseState.RESOLVED, result))
        if number == 4:
            await shards.ask(c.CancelExecution(identifier))


async def write_workflows(shards: Shards, name: str) -> None:
    """Workflow tasks in all their states, and who waits for what, over all shards."""
    tags = {"resonate:target": "poll://any@g", "resonate:origin": name, "ünï": "⏰"}
    content = Value({"content-type": "text/plain"}, "aGVsbG8=")
    made = [f"{name}:{number}/" + "x" * (100 * number) for number in range(8)]
    for identifier in made:
        create = w.CreateWorkflow(identifier, FAR_MS, "pid", 10**11, content, tags, "sr-1")
        await shards.ask(create)
    children = tuple(f"{name}:0:{number}" for number in range(6))
    for child in children:
        await shards.ask(w.EnsurePromise(child, FAR_MS, fence=WorkflowFence(made[0], 1)))
        await shards.ask(w.RegisterListener(child, f"poll://uni@{name}/1"))
        await shards.ask(w.RegisterListener(child, "http://127.0.0.1:1/x"))
    await shards.ask(w.SuspendWorkflow(made[0], 1, children))
    await shards.ask(w.SuspendWorkflow(made[1], 1, children[:2]))
    await shards.ask(w.SuspendWorkflow(made[2], 1, children[2:]))
    await shards.ask(w.SettlePromise(children[0], PromiseState.RESOLVED, content))
    await shards.ask(w.ReleaseWorkflow(made[3], 1))
    await shards.ask(w.HaltWorkflow(made[4]))
    await shards.ask(w.FulfillWorkflow(made[5], 1, PromiseState.REJECTED, content))
    await shards.renew_workflows("pid", [(made[6], 1), (made[7], 1)])
    await shards.ask(w.RegisterAwait(children[1], made[7]))
    await shards.ask(w.UnblockSent(children[0], "http://127.0.0.1:1/x"))
    await shards.ask(w.EnsurePromise(f"{name}:late", 1, content, tags))


async def make(path: Path) -> None:
    """Write the directory and `expected.json`."""
    path.mkdir(parents=True)  # noqa: ASYNC240  nothing else runs here
    storage = DirectoryStorage(path / "data", SHARD_COUNT, segment_bytes=65536)
    shards = make_shards(SHARD_COUNT, Outgoing())
    shards.recover(storage)
    checkpointer = shards.make_checkpointer(storage, interval_ms=10**9, log_bytes=10**9)
    assert checkpointer is not None
    async with trio.open_nursery() as nursery:
        await nursery.start(shards.run, storage.make_writer)
        await write(shards, "covered")
        await write_functions(shards, "covered")
        await write_workflows(shards, "covered")
        for state in shards.states():
            while state.promises.fold_some(state.promise_index, state.largest_serial):
                pass
        await checkpointer.checkpoint()
        await write(shards, "tail")
        await write_functions(shards, "tail")
        await write_workflows(shards, "tail")
        await shards.stop()
        shards._stopping = False
        expected = await describe(shards)
        nursery.cancel_scope.cancel()
    storage.close()
    (path / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    trio.run(make, Path(sys.argv[1]), clock=trio.testing.MockClock())
