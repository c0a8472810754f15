"""Lists of tasks by what they are, and all tasks of one promise, finished ones too."""

import pytest
from trio.testing import MockClock

from tests.shards.stage import EPOCH_MS, FAR_MS, WORKER, Stage, settle, stage
from tests.shards.test_checkpointer import Disk, life
from tests.shards.test_functions import create, task_of
from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.grammar import task_ids
from troth.core.model import EMPTY_VALUE
from troth.shards.surveys.rows import FINISHED, UNFINISHED, TaskFamily
from troth.shards.surveys.surveys import Surveys
from troth.shards.surveys.tasks import TaskQuery

from .world import resolve, surveys_of

FLOW = {"resonate:target": WORKER}
INVOKE = {"resonate:invoke": WORKER}
ALL = UNFINISHED | FINISHED


async def listed(s: Stage, query: TaskQuery) -> list[str]:
    return [row.id for row in (await surveys_of(s.shards).tasks(query, 100, None)).rows]


async def of_promise(
    surveys: Surveys, promise_id: str, query: TaskQuery, limit_count: int = 100
) -> list[tuple[str, str]]:
    """The tasks of a promise and their states, page by page."""
    found: list[tuple[str, str]] = []
    positions: list[int] | None = [0]
    while positions is not None:
        page = await surveys.tasks_of(promise_id, query, limit_count, positions[0])
        assert len(page.rows) <= limit_count
        found += [(row.id, row.state) for row in page.rows]
        positions = page.positions
    return found


async def test_tasks_are_found_by_what_they_are(mock_clock: MockClock) -> None:
    """A function task is shown to its account alone, and to no token with a prefix."""
    async with stage(2, direct=True) as s:
        for name, tags in (("a", INVOKE), ("b", INVOKE), ("c", FLOW)):
            await s.shards.ask(w.EnsurePromise(name, FAR_MS, EMPTY_VALUE, tags))
        a, b = task_ids.invoke_id("a"), task_ids.invoke_id("b")
        await s.shards.ask(c.ClaimTask(a, 1, "worker", 60_000))
        await s.shards.ask(create(1))

        assert await listed(s, TaskQuery(frozenset({"claimed"}))) == [a]
        assert await listed(s, TaskQuery(UNFINISHED, process_id="worker")) == [a]
        assert set(await listed(s, TaskQuery(UNFINISHED))) == {a, b, "c"}
        envelope = frozenset({TaskFamily.ENVELOPE})
        assert await listed(s, TaskQuery(UNFINISHED, envelope)) == ["c"]
        rest = frozenset({TaskFamily.REST})
        assert await listed(s, TaskQuery(UNFINISHED, rest, id_prefix="b")) == [b]
        function = frozenset({TaskFamily.FUNCTION})
        own = TaskQuery(UNFINISHED, function, account_id="acc")
        assert await listed(s, own) == [task_of(1)]
        for other in (
            TaskQuery(UNFINISHED, function),
            TaskQuery(UNFINISHED, function, account_id="other"),
            TaskQuery(UNFINISHED, function, account_id="acc", id_prefix="troth"),
        ):
            assert await listed(s, other) == []
            surveys = surveys_of(s.shards)
            assert await of_promise(surveys, "troth:task/1", other) == []
        assert len(await of_promise(surveys, "troth:task/1", own)) == 1
        assert await surveys.account_of("troth:task/1") == "acc"


@pytest.mark.parametrize("limit_count", [1, 2, 100])
async def test_all_tasks_of_a_promise_are_listed_in_the_order_of_creation(
    limit_count: int, autojump_clock: MockClock
) -> None:
    """Of both protocols, wherever they are: what has left memory first."""
    async with life(Disk()) as one:
        shards = one.shards
        await shards.ask(w.EnsurePromise("root", FAR_MS, EMPTY_VALUE, FLOW))
        names = [f"leaf{number}" for number in range(4)]
        for name in names:
            await shards.ask(c.CreatePromise(name, FAR_MS))
            await shards.ask(c.CreateCallback(name, "root", FAR_MS, WORKER))
        resumed = [task_ids.resume_id("root", name) for name in names]
        await resolve(shards, *names[:2])
        await settle()
        await shards.ask(c.ClaimTask(resumed[0], 1, "worker", 60_000))
        assert (await shards.ask(c.CompleteTask(resumed[0], 1))).code.status < 300
        await one.checkpointer.checkpoint()
        await resolve(shards, *names[2:])
        await settle()
        surveys = surveys_of(shards)
        expected = [
            ("root", "pending"),
            (resumed[0], "completed"),
            *((name, "init") for name in resumed[1:]),
        ]
        found = await of_promise(surveys, "root", TaskQuery(ALL), limit_count)
        assert found == expected
        newest = TaskQuery(ALL, newest_first=True)
        assert await of_promise(surveys, "root", newest, limit_count) == expected[::-1]
        await resolve(shards, "root")
        found = await of_promise(surveys, "root", TaskQuery(FINISHED), limit_count)
        assert [state for _, state in found] == ["fulfilled", *["completed"] * 4]
        await one.checkpointer.checkpoint()
        assert await of_promise(surveys, "root", TaskQuery(FINISHED), limit_count) == found
        row = await surveys.task("root")
        assert row is not None
        assert (row.family, row.state) == (TaskFamily.ENVELOPE, "fulfilled")


async def test_a_promise_without_a_task_is_no_task(mock_clock: MockClock) -> None:
    async with stage(2, direct=True) as s:
        surveys = surveys_of(s.shards)
        await s.shards.ask(c.CreatePromise("plain", FAR_MS))
        assert await surveys.task("plain") is None
        assert await surveys.task("nothing") is None
        assert await surveys.waiters("nothing") is None
        assert await surveys.tree("nothing", 10, None) is None
        assert await of_promise(surveys, "plain", TaskQuery(ALL)) == []


async def test_a_workflow_that_ends_while_its_page_is_made_is_passed_over(
    autojump_clock: MockClock,
) -> None:
    """And the tasks around it are shown once each."""
    async with life(Disk()) as one:
        surveys = surveys_of(one.shards)
        names = [f"w{number}" for number in range(6)]
        for name in names:
            await one.shards.ask(w.EnsurePromise(name, FAR_MS, EMPTY_VALUE, FLOW))
        first = await surveys.tasks(TaskQuery(UNFINISHED), 2, None)
        await resolve(one.shards, *names[1::2])
        await one.checkpointer.checkpoint()
        rest = await surveys.tasks(TaskQuery(UNFINISHED), 100, first.positions)
        seen = [row.id for row in (*first.rows, *rest.rows)]
        assert len(seen) == len(set(seen))
        assert set(names[::2]) <= set(seen)
        assert {row.id for row in rest.rows} <= set(names[::2])


async def test_a_task_says_when_its_message_is_sent_again(mock_clock: MockClock) -> None:
    async with stage(1, direct=True) as s:
        later = {"resonate:delay": str(EPOCH_MS + 5_000)}
        await s.shards.ask(c.CreatePromise("later", FAR_MS, tags=INVOKE | later))
        row = await surveys_of(s.shards).task(task_ids.invoke_id("later"))
        assert row is not None
        assert (row.not_before, row.until) == (EPOCH_MS + 5_000, None)
