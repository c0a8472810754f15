"""Function tasks and the catalog over all shards: asked together, told when durable, kept."""

from pathlib import Path

import trio
from trio.testing import MockClock

from troth.core import commands as c
from troth.core.catalog import Account, Capabilities, FunctionKind, Label, package_id
from troth.core.codes import Code
from troth.core.executions import ExecutionPlan, Usage
from troth.core.grammar import task_ids
from troth.core.model import PromiseState, Value
from troth.core.replies import ExecuteMessage
from troth.shards.outgoing import OutgoingRoutes
from troth.shards.storage import DirectoryStorage

from .stage import EPOCH_MS, FAR_MS, WORKER, Outgoing, Stage, make_shards, settle, stage

DAY = EPOCH_MS // 86_400_000
RESULT = Value({"troth:status": "200"}, "aGk=")


def plan(account_id: str = "acc", function_id: str = "fun") -> ExecutionPlan:
    return ExecutionPlan(account_id, function_id, FunctionKind.CODE, Capabilities(10))


def create(number: int, what: ExecutionPlan | None = None) -> c.CreateExecution:
    return c.CreateExecution(f"troth:task/{number}", FAR_MS, what or plan(), RESULT)


def task_of(number: int) -> str:
    return task_ids.invoke_id(f"troth:task/{number}")


def finish(number: int) -> c.FinishExecution:
    return c.FinishExecution(task_of(number), 1, "n", PromiseState.RESOLVED, RESULT)


async def test_entries_of_all_shards_are_listed_the_oldest_first() -> None:
    labels = [Label(f"l{number}", 1, 100 - number // 2, "acc", "x") for number in range(12)]
    async with stage(4, direct=True) as s:
        for label in labels:
            await s.shards.ask(c.CreateEntry(label))
        await s.shards.ask(c.CreateEntry(Label("other's", 1, 1, "other", "x")))
        await s.shards.ask(c.CreateEntry(Account("acc", 1, 1, "me")))

        expected = sorted(labels, key=lambda one: (one.created_on, one.id))
        assert await s.shards.list_entries(Label, "acc") == expected
        assert len(await s.shards.list_entries(Label, None)) == 13
        assert await s.shards.list_entries(Account, None) == [Account("acc", 1, 1, "me")]
        assert sum(one.entries_count for one in s.shards.statistics().shards) == 14


async def test_a_list_waits_until_what_it_shows_is_durable() -> None:
    async with stage(2) as s:
        s.ask(c.CreateEntry(Account("acc", 1, 1, "me")))
        await settle()
        found: list[Account] = []

        async def look() -> None:
            found.extend(await s.shards.list_entries(Account, None))

        s.nursery.start_soon(look)
        await settle()
        assert found == []
        await s.write_all()
        assert found == [Account("acc", 1, 1, "me")]


async def test_function_tasks_of_all_shards_are_found_in_pages() -> None:
    async with stage(4, direct=True) as s:
        for number in range(25):
            await s.shards.ask(create(number, plan(function_id=f"f{number % 2}")))
        await s.shards.ask(create(99, plan("other")))
        for number in (3, 4):
            await s.shards.ask(c.CancelExecution(f"troth:task/{number}"))

        found = []
        before: int | None = None
        while True:
            page, before = await s.shards.search_executions("acc", None, 4, before)
            found += page
            if before is None:
                break
        assert [one.id for one, _ in found] == [f"troth:task/{n}" for n in range(24, -1, -1)]
        ended = {one.id for one, execution in found if execution is None}
        assert ended == {"troth:task/3", "troth:task/4"}
        page, _ = await s.shards.search_executions("acc", "f0", 100, None)
        assert [one.id for one, _ in page] == [f"troth:task/{n}" for n in range(24, -1, -2)]
        assert await s.shards.search_executions("nobody", None, 100, None) == ([], None)


async def test_use_is_added_up_over_all_shards(mock_clock: MockClock) -> None:
    async with stage(4, direct=True) as s:
        for number in range(20):
            await s.shards.ask(create(number, plan(function_id=f"f{number % 2}")))
        await s.shards.ask(create(99, plan("other", "g")))
        for number in (2, 4, 5):
            await s.shards.ask(c.CancelExecution(f"troth:task/{number}"))

        assert await s.shards.usage("acc") == {
            "f0": Usage("f0", "acc", 10, 2, {DAY: 10}),
            "f1": Usage("f1", "acc", 10, 1, {DAY: 10}),
        }
        assert set(await s.shards.usage(None)) == {"f0", "f1", "g"}


async def test_archives_are_deleted_wherever_they_are() -> None:
    async with stage(4, direct=True) as s:
        ids = [package_id(f"b{number}") for number in range(9)]
        for identifier in ids:
            await s.shards.ask(c.StorePackage(identifier, "eA=="))

        assert await s.shards.delete_packages([]) == 0
        assert await s.shards.delete_packages([*ids[:5], package_id("none")]) == 5
        replies = [await s.shards.ask(c.ReadPromise(one)) for one in ids]
        codes = [reply.code for reply in replies]
        assert codes == [Code.PROMISE_NOT_FOUND] * 5 + [Code.OK] * 4


async def assign(s: Stage, number: int) -> None:
    await s.call(c.AssignExecution(task_of(number), 1, "n", 10_000))


async def test_that_a_function_task_has_finished_is_told_once_it_is_durable() -> None:
    async with stage(2) as s:
        for number in range(2):
            await s.call(create(number))
            await assign(s, number)
        s.outgoing.events.clear()
        s.ask(finish(0))
        s.ask(c.CreatePromise("p", FAR_MS))
        s.ask(c.CompletePromise("p", PromiseState.RESOLVED))
        await settle()
        assert s.outgoing.events == []
        await s.write_all()
        assert s.outgoing.events == [("finished", "troth:task/0")]


async def test_that_time_has_ended_one_is_told_too(autojump_clock: MockClock) -> None:
    """Also when nothing asks for it: there is no answer that it could leave with."""
    async with stage(1, direct=True) as s:
        await s.shards.ask(create(0))
        await s.shards.ask(c.AssignExecution(task_of(0), 1, "n", 60_000))
        s.outgoing.events.clear()
        await trio.sleep(14.999)
        assert s.outgoing.events == []
        await trio.sleep(0.002)
        assert s.outgoing.events == [("finished", "troth:task/0")]


async def test_messages_go_to_whom_they_concern() -> None:
    delivery, placement = Outgoing(), Outgoing()
    shards = make_shards(1, OutgoingRoutes(delivery, placement))
    async with stage(1, shards=shards) as s:
        await s.call(create(0))
        tags = {"resonate:invoke": WORKER}
        await s.call(c.CreatePromise("p", FAR_MS, tags=tags))
        await assign(s, 0)
        await s.call(c.CompletePromise("p", PromiseState.RESOLVED))
        await s.call(finish(0))
        assert placement.events == [
            ("send", task_of(0), 1),
            ("withdraw", task_of(0)),
            ("finished", "troth:task/0"),
        ]
        ours = task_ids.invoke_id("p")
        assert delivery.events == [("send", ours, 1), ("withdraw", ours)]


async def test_all_of_it_survives_checkpoints_and_restarts(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """Three lives: the second begins with the log, the third with a checkpoint."""
    shown = []
    for life in range(3):
        storage = DirectoryStorage(tmp_path / "data", 2)
        outgoing = Outgoing()
        shards = make_shards(2, outgoing)
        shards.recover(storage)
        checkpointer = shards.make_checkpointer(storage, interval_ms=10**9, log_bytes=10**9)
        assert checkpointer is not None
        async with trio.open_nursery() as nursery:
            await nursery.start(shards.run, storage.make_writer)
            if life == 0:
                for number in range(4):
                    await shards.ask(create(number))
                for number in (1, 2):
                    await shards.ask(c.AssignExecution(task_of(number), 1, "n", 10**9))
                await shards.ask(finish(1))
                await shards.ask(c.CreateEntry(Account("acc", 1, 1, "me")))
                await shards.ask(c.StorePackage(package_id("b"), "eA=="))
            if life == 1:
                await checkpointer.checkpoint()
            archive = await shards.ask(c.ReadPromise(package_id("b")))
            held = [(one.promise_id, task.counter) for one, task in shards.assigned_executions()]
            assert held == [("troth:task/2", 1)]
            shown.append(
                (
                    await shards.search_executions("acc", "fun", 100, None),
                    await shards.list_entries(Account, None),
                    await shards.usage(None),
                    archive.promise,
                )
            )
            promises, _ = await shards.search_promises("*", tuple(PromiseState), {}, 100, None)
            assert promises == []
            nursery.cancel_scope.cancel()
        storage.close()
        sent = {event[1] for event in outgoing.events if event[0] == "send"}
        assert sent >= {task_of(0), task_of(3)}, "what waits for a node is offered again"
    assert shown[0] == shown[1] == shown[2]


def test_messages_go_where_they_belong() -> None:
    """Of executions to placement, all others to delivery, which hears of no end."""
    delivery, placement = Outgoing(), Outgoing()
    delivery._note = lambda *event: delivery.events.append(event)  # type: ignore[method-assign]
    placement._note = lambda *event: placement.events.append(event)  # type: ignore[method-assign]
    routes = OutgoingRoutes(delivery, placement)
    routes.send(ExecuteMessage("flow", 1, WORKER))
    for name in (task_of(1), "__invoke:p"):
        routes.withdraw(name)
    routes.finished(["troth:task/1"])
    assert placement.events == [("withdraw", task_of(1)), ("finished", "troth:task/1")]
    sent, withdrawn = delivery.events
    assert sent[0] == "send"
    assert withdrawn == ("withdraw", "__invoke:p")
