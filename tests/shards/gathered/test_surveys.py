"""Surveys over groups: lists have every row once and in order, and *why* goes on elsewhere."""

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from tests.shards.mesh.world import World, until, world
from tests.shards.stage import FAR_MS, WORKER, settle
from troth.core.commands import AcquireLock, CompletePromise, CreateCallback, CreatePromise
from troth.core.grammar.targets import resolve_target
from troth.core.model import RESOLVED
from troth.core.workflow_commands import CreateWorkflow, SuspendWorkflow
from troth.shards.delivery.polls import Polls
from troth.shards.errors import OutOfReach
from troth.shards.gathered.surveys import AllSurveys
from troth.shards.surveys import locks as lock_lists
from troth.shards.surveys.locks import LockPlace
from troth.shards.surveys.rows import UNFINISHED, Reason, TaskRow
from troth.shards.surveys.surveys import Surveys
from troth.shards.surveys.tasks import TaskQuery


class NoMessages:
    """Delivery that knows nothing."""

    def look(self, key: str) -> None:  # noqa: ARG002
        return None

    def resolve(self, receiver: object) -> object:  # noqa: ARG002
        return resolve_target(WORKER)

    def retry(self, key: str) -> bool:  # noqa: ARG002
        return False


def surveys(server: World) -> list[AllSurveys]:
    found = []
    for process in server.processes:
        polls = Polls(connections_limit_count=10, buffer_limit_count=10)
        messages = NoMessages()
        now_ms = process.shards.clock.now_ms
        own = Surveys(process.shards, messages, polls, messages, now_ms)  # type: ignore[arg-type]
        place = process.place
        found.append(AllSurveys(process.mesh.calls, place.group_shards, process.shards, own))
    return found


async def tasks_made(server: World, count: int) -> list[str]:
    """Make promises with tasks in all groups; their ids in the order of creation."""
    ids = []
    for number in range(count):
        name = server.id_of(number * 7 % len(server.processes), f"work-{number}")
        await server.call(0, CreatePromise(name, FAR_MS, tags={"resonate:invoke": WORKER}))
        ids.append(name)
        await trio.sleep(0.002)
    return ids


async def all_tasks(one: AllSurveys, query: TaskQuery, limit_count: int) -> list[TaskRow]:
    rows: list[TaskRow] = []
    positions: list[int] | None = None
    while True:
        page = await one.tasks(query, limit_count, positions)
        assert len(page.rows) <= limit_count
        rows += page.rows
        if page.positions is None:
            return rows
        assert page.positions != positions, "no progress"
        positions = page.positions


async def test_pages_of_tasks_have_every_task_once_and_in_order(autojump_clock: MockClock) -> None:
    async with world(3, delay_s=0.002) as server:
        one = surveys(server)[1]
        made = await tasks_made(server, 30)
        for newest_first in (False, True):
            query = TaskQuery(UNFINISHED, newest_first=newest_first)
            for limit_count in (1, 7, 100):
                rows = await all_tasks(one, query, limit_count)
                expected = made[::-1] if newest_first else made
                assert [row.promise_id for row in rows] == expected
        rare = TaskQuery(UNFINISHED, root="work-2*")
        found = await all_tasks(one, rare, 3)
        assert [row.promise_id for row in found] == [x for x in made if x.startswith("work-2")]
        (row,) = await all_tasks(one, TaskQuery(UNFINISHED, root=made[4]), 10)
        assert (await one.task(row.id)) == row
        page = await one.tasks_of(made[4], TaskQuery(UNFINISHED, root=made[4]), 10, 0)
        assert page.rows == [row]
        assert one.task_streams_count == len(await one.newest_tasks())


async def test_pages_of_locks_are_in_order(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(3) as server:
        one = surveys(server)[2]
        names = [server.id_of(n % 3, f"lock-{n:02}") for n in range(17)]
        for name in names:
            await server.call(0, AcquireLock(name, "execution", "worker", 600_000))

        async def all_locks() -> list[str]:
            found: list[str] = []
            place: LockPlace | None = LockPlace()
            while place is not None:
                page = await one.locks("*", "", None, 4, place)
                found += [row.lock.resource_id for row in page.rows]
                place = page.following
            return found

        assert await all_locks() == sorted(names)
        monkeypatch.setattr(lock_lists, "ORDERED_LIMIT_COUNT", 3)
        monkeypatch.setattr("troth.shards.gathered.surveys.ORDERED_LIMIT_COUNT", 3)
        assert sorted(await all_locks()) == sorted(names)
        lock = await one.lock(names[5])
        assert lock is not None
        assert lock.lock.resource_id == names[5]
        assert await one.lock("free") is None


async def test_what_comes_due_is_in_the_order_of_time(autojump_clock: MockClock) -> None:
    async with world(3) as server:
        one = surveys(server)[0]
        ids = [server.id_of(n % 3, f"due-{n}") for n in range(12)]
        for number, name in enumerate(ids):
            await server.call(0, CreatePromise(name, FAR_MS + number * 1_000))
        found: list[str] = []
        after = None
        has_more = True
        while has_more:
            dues, has_more = await one.timers(FAR_MS * 2, 5, after)
            found += [due.id for due in dues]
            after = dues[-1].place
        assert found == ids


async def test_why_follows_a_child_in_another_group(autojump_clock: MockClock) -> None:
    """Through three groups: a task awaits a promise there, whose task awaits another one."""
    async with world(3) as server:
        all_of = surveys(server)
        ids = [server.id_of(group, "step") for group in range(3)]
        for name in ids:
            made = CreateWorkflow(
                name, FAR_MS, tags={"resonate:target": WORKER}, pid="worker", ttl=9_000_000
            )
            reply = await server.call(0, made)
            assert reply.workflow is not None
        for waiting, awaited in pairwise(ids):
            await server.call(0, SuspendWorkflow(waiting, 1, (awaited,)))
        await settle()
        for one in all_of:
            why = await one.why(ids[0])
            assert why is not None
            assert [link.id for link in why.links] == ids[1:]
            assert why.cause.promise_id == ids[2]
            assert why.cause.reason in (Reason.HELD, Reason.HOLDER_GONE)
            assert why.awaited == (ids[1],)
            hidden = await one.why(ids[0], ids[0])
            assert hidden is not None
            assert hidden.cause.reason is Reason.HIDDEN
            assert await one.why("nothing") is None
            assert [w.promise_id for w in await one.waiters(ids[1]) or []] == [ids[0]]


async def test_why_finds_what_resumes_a_root_elsewhere(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        all_of = surveys(server)
        leaf, root = server.id_of(0, "leaf"), server.id_of(1, "root")
        await server.call(0, CreatePromise(leaf, FAR_MS))
        await server.call(0, CreatePromise(root, FAR_MS))
        await server.call(0, CreateCallback(leaf, root, FAR_MS, WORKER))
        await settle()
        for one in all_of:
            why = await one.why(root)
            assert why is not None
            assert [link.id for link in why.links] == [leaf]
            assert why.cause.reason is Reason.NO_TASK


async def test_a_tree_has_the_calls_of_all_groups(autojump_clock: MockClock) -> None:
    async with world(3) as server:
        all_of = surveys(server)
        root = server.id_of(0, "root")
        children = [server.id_of(group, f"child-{group}") for group in range(3)]
        await server.call(0, CreatePromise(root, FAR_MS))
        for name in children:
            tags = {"resonate:root": root, "resonate:parent": root, "resonate:invoke": WORKER}
            await server.call(0, CreatePromise(name, FAR_MS, tags=tags))
            await trio.sleep(0.002)
        await server.call(0, CompletePromise(children[1], RESOLVED))
        for one in all_of:
            tree = await one.tree(root, 100, None)
            assert tree is not None
            assert [call.promise.id for call in tree.calls] == [root, *children]
            assert [len(call.tasks) for call in tree.calls] == [0, 1, 0, 1]
            assert not tree.is_cut


async def test_there_is_no_shorter_list_while_a_group_is_away(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        one = surveys(server)[0]
        server.cut_off(1)
        with trio.fail_after(60):
            await until(lambda: not server.processes[0].mesh.calls.linked)
        with pytest.raises(OutOfReach):
            await one.tasks(TaskQuery(UNFINISHED), 10, None)
        with pytest.raises(OutOfReach):
            await one.timers(FAR_MS, 10, None)
        with pytest.raises(OutOfReach):
            await one.locks("*", "", None, 10, LockPlace())


async def test_a_tree_is_cut_where_another_group_has_more(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Than it can look at for one answer."""
    async with world(2) as server:
        one = surveys(server)[0]
        root = server.id_of(0, "root")
        await server.call(0, CreatePromise(root, FAR_MS))
        for number in range(3):
            name = server.id_of(1, f"child-{number}")
            await server.call(0, CreatePromise(name, FAR_MS, tags={"resonate:root": root}))
        tree = await one.tree(root, 100, None)
        assert tree is not None
        assert (len(tree.calls), tree.is_cut) == (4, False)
        monkeypatch.setattr("troth.shards.surveys.surveys.CANDIDATES_LIMIT_COUNT", 1)
        tree = await one.tree(root, 100, None)
        assert tree is not None
        assert (len(tree.calls), tree.is_cut) == (3, True)


async def test_a_call_belongs_to_a_promise_of_another_group(autojump_clock: MockClock) -> None:
    """It is then not below the root, which is only the beginning of its lineage."""
    async with world(2) as server:
        one = surveys(server)[0]
        root, other = server.id_of(0, "root"), server.id_of(1, "other")
        child = server.id_of(0, "child")
        for name in (root, other):
            await server.call(0, CreatePromise(name, FAR_MS))
        tags = {"resonate:root": root, "resonate:parent": other}
        await server.call(0, CreatePromise(child, FAR_MS, tags=tags))
        tree = await one.tree(root, 100, None)
        assert tree is not None
        assert [call.promise.id for call in tree.calls] == [root]
