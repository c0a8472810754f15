"""What comes due next, of all that has a deadline, and to whom it is shown."""

import pytest
from trio.testing import MockClock

from tests.shards.stage import EPOCH_MS, FAR_MS, WORKER, Stage, id_in, stage
from tests.shards.test_functions import create, task_of
from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.codes import Code
from troth.core.grammar import task_ids
from troth.core.model import EMPTY_VALUE
from troth.shards.surveys import timers
from troth.shards.surveys.rows import Due
from troth.shards.surveys.timers import NEVER_MS, Place

from .world import surveys_of

FLOW = {"resonate:target": WORKER}


async def dues(
    s: Stage, *, prefix: str = "", account: str = "", limit_count: int = 100
) -> list[Due]:
    """All pages of what comes due before the end of time."""
    found: list[Due] = []
    after: Place | None = None
    has_more = True
    while has_more:
        page, has_more = await surveys_of(s.shards).timers(
            2**62, limit_count, after, prefix, account
        )
        assert len(page) <= limit_count
        found += page
        after = found[-1].place if found else None
    return found


async def whats(s: Stage, *, prefix: str = "", account: str = "") -> set[tuple[str, str]]:
    return {(due.what, due.id) for due in await dues(s, prefix=prefix, account=account)}


async def test_what_happens_to_tasks_is_said_by_name(mock_clock: MockClock) -> None:
    """A lease ends, a task is offered again unless it is claimed, a delay is over."""
    async with stage(2, direct=True) as s:
        invoke = {"resonate:invoke": WORKER}
        later = {"resonate:delay": str(EPOCH_MS + 5_000)}
        for name, tags in (
            ("leased", invoke),
            ("sent", invoke),
            ("later", {**invoke, **later}),
            ("flow", FLOW),
            ("sent-flow", FLOW),
            ("later-flow", {**FLOW, **later}),
        ):
            await s.shards.ask(w.EnsurePromise(name, FAR_MS, EMPTY_VALUE, tags))
        leased, sent, delayed = map(task_ids.invoke_id, ("leased", "sent", "later"))
        claimed = await s.shards.ask(c.ClaimTask(leased, 1, "worker", 60_000))
        assert claimed.code is Code.CREATED
        s.shards.tell(c.TaskSent(sent, 1))
        await s.shards.ask(w.AcquireWorkflow("flow", 0, "worker", 60_000))
        s.shards.tell(w.ExecuteSent("sent-flow", 0))
        s.shards.run_turn()
        found = await whats(s)
        assert {one for one in found if one[0] != "timeout"} == {
            ("lease", leased),
            ("claim", sent),
            ("delay", delayed),
            ("lease", "flow"),
            ("claim", "sent-flow"),
            ("delay", "later-flow"),
        }


async def test_a_function_task_is_shown_to_its_account_alone(mock_clock: MockClock) -> None:
    """Its timeout as well as the end of the time that it may run."""
    async with stage(1, direct=True) as s:
        await s.shards.ask(create(1))
        await s.shards.ask(c.AssignExecution(task_of(1), 1, "node", 10_000))
        own = await dues(s, account="acc")
        assert ("timeout", "troth:task/1") in {(due.what, due.id) for due in own}
        (runs,) = [due for due in own if due.what == "function"]
        assert runs.promise_id == "troth:task/1"
        assert EPOCH_MS < runs.at < FAR_MS
        assert await dues(s) == []
        assert await dues(s, account="other") == []
        assert await dues(s, account="acc", prefix="troth") == []


async def test_locks_and_schedules_are_shown_to_who_may_see_their_ids(
    mock_clock: MockClock,
) -> None:
    async with stage(2, direct=True) as s:
        for prefix in ("a/", "b/"):
            lock = c.AcquireLock(f"{prefix}lock", "execution", "worker", 60_000)
            await s.shards.ask(lock)
            await s.shards.ask(c.CreateSchedule(f"{prefix}daily", "0 0 * * *", "x", 1_000))
            await s.shards.ask(c.CreatePromise(f"{prefix}p", FAR_MS))
        assert await whats(s, prefix="a/") == {
            ("lock", "a/lock"),
            ("schedule", "a/daily"),
            ("timeout", "a/p"),
        }


@pytest.mark.parametrize("limit_count", [1, 3, 50])
async def test_pages_of_very_many_deadlines_have_each_once(
    limit_count: int, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though no more than some of them are kept while a page is made."""
    monkeypatch.setattr(timers, "LOOK_COUNT", 2)
    async with stage(2, direct=True) as s:
        names = [id_in(number % 2, 2, f"p{number}") for number in range(60)]
        for number, name in enumerate(names):
            await s.shards.ask(c.CreatePromise(name, FAR_MS - number))
        await s.shards.ask(c.CreatePromise("never", 2**63 - 1))
        found = await dues(s, limit_count=limit_count)
        assert [due.id for due in found] == names[::-1]
        assert all(due.at <= NEVER_MS for due in found)
