"""Why a promise is pending: the way down to the cause, and where a look at it ends."""

import pytest
from trio.testing import MockClock

from tests.shards.stage import FAR_MS, WORKER, Stage, stage
from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.model import EMPTY_VALUE
from troth.shards.surveys import why as explanations
from troth.shards.surveys.rows import Reason, Why

from .world import resolve, surveys_of

FLOW = {"resonate:target": WORKER}


async def why(s: Stage, promise_id: str, prefix: str = "") -> Why:
    found = await surveys_of(s.shards).why(promise_id, prefix)
    assert found is not None
    return found


def links(found: Why) -> list[tuple[str, str]]:
    return [(link.how, link.id) for link in found.links]


async def started(s: Stage, *ids: str) -> None:
    """Make workflows that a worker has."""
    for name in ids:
        await s.shards.ask(w.CreateWorkflow(name, FAR_MS, "worker", 600_000, tags=FLOW))


async def suspended(s: Stage, waiting: str, *awaited: str) -> None:
    """Let a workflow wait for promises."""
    reply = await s.shards.ask(w.SuspendWorkflow(waiting, 1, awaited))
    assert reply.code.status == 200


async def test_a_promise_that_has_completed_waits_for_nothing(mock_clock: MockClock) -> None:
    async with stage(2, direct=True) as s:
        await s.shards.ask(c.CreatePromise("p", FAR_MS))
        await resolve(s.shards, "p")
        found = await why(s, "p")
        assert (found.cause.reason, found.next) == (Reason.COMPLETED, None)
        assert found.cause.since == found.promise.completed_on


async def test_workflows_that_wait_for_each_other_go_in_a_circle(mock_clock: MockClock) -> None:
    """For one that can still move, the circle is not the cause."""
    async with stage(2, direct=True) as s:
        await started(s, "a", "b", "c", "d")
        await suspended(s, "a", "b")
        await suspended(s, "b", "a")
        found = await why(s, "a")
        assert found.cause.reason is Reason.CIRCLE
        await suspended(s, "d", "c", "d")
        found = await why(s, "d")
        assert (found.cause.reason, links(found)) == (Reason.HOLDER_GONE, [("awaits", "c")])
        await suspended(s, "c", "b", "d")
        assert (await why(s, "d")).cause.reason is Reason.CIRCLE


async def test_two_that_wait_for_the_same_look_at_it_once(mock_clock: MockClock) -> None:
    async with stage(2, direct=True) as s:
        await started(s, "top", "left", "right", "shared")
        await suspended(s, "top", "left", "right")
        await suspended(s, "left", "shared")
        await suspended(s, "right", "shared")
        found = await why(s, "top")
        assert links(found) == [("awaits", "left"), ("awaits", "shared")]
        assert found.awaited == ("left", "right")


async def test_the_cause_that_is_least_likely_to_pass_is_told(mock_clock: MockClock) -> None:
    """Whichever of them is looked at first."""
    async with stage(2, direct=True) as s:
        sleep = {"resonate:timer": "true"}
        for name in ("top", "flow"):
            await started(s, name)
        for name in ("1-sleep", "3-sleep"):
            await s.shards.ask(w.EnsurePromise(name, FAR_MS, EMPTY_VALUE, sleep))
        await s.shards.ask(w.EnsurePromise("2-lost", FAR_MS, EMPTY_VALUE, FLOW))
        await suspended(s, "top", "1-sleep", "2-lost", "3-sleep")
        found = await why(s, "top")
        assert (found.cause.reason, links(found)) == (Reason.NO_LISTENER, [("awaits", "2-lost")])
        assert found.awaited_count == 3


async def test_a_look_at_very_many_ends_and_says_so(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanations, "PROMISES_LIMIT_COUNT", 3)
    async with stage(1, direct=True) as s:
        sleeps = [f"sleep-{number}" for number in range(4)]
        for name in sleeps:
            tags = {"resonate:timer": "true"}
            await s.shards.ask(w.EnsurePromise(name, FAR_MS, EMPTY_VALUE, tags))
        await started(s, "top")
        await suspended(s, "top", *sleeps)
        found = await why(s, "top")
        assert found.cause.reason is Reason.TOO_MANY
        assert found.awaited_count == 4


async def test_a_call_without_a_task_is_part_of_its_parents_work(mock_clock: MockClock) -> None:
    """By its id, over calls between that have none either; the parent's lease is what is next."""
    async with stage(2, direct=True) as s:
        await started(s, "flow")
        for name in ("flow.1.1", "flow.1", "alone.1", "gone"):
            await s.shards.ask(c.CreatePromise(name, FAR_MS))
        found = await why(s, "flow.1.1")
        assert found.cause.reason is Reason.HOLDER_GONE
        assert links(found) == [("part of", "flow.1"), ("part of", "flow")]
        assert found.next is not None
        assert (found.next.what, found.next.id) == ("lease", "flow")
        # Whose parent there is not, or whose parent has completed, waits for nobody's task.
        assert (await why(s, "alone.1")).cause.reason is Reason.NO_TASK
        await s.shards.ask(c.CreatePromise("of-gone", FAR_MS, tags={"resonate:parent": "gone"}))
        await resolve(s.shards, "gone")
        found = await why(s, "of-gone")
        assert (found.cause.reason, links(found)) == (Reason.NO_TASK, [])


async def test_a_call_whose_parent_waits_for_it_has_nobody_to_complete_it(
    mock_clock: MockClock,
) -> None:
    async with stage(2, direct=True) as s:
        await started(s, "flow")
        await s.shards.ask(c.CreatePromise("flow.1", FAR_MS))
        await suspended(s, "flow", "flow.1")
        for name in ("flow", "flow.1"):
            found = await why(s, name)
            assert (found.cause.promise_id, found.cause.reason) == ("flow.1", Reason.NO_TASK)


async def test_a_parent_that_may_not_be_seen_is_not_shown(mock_clock: MockClock) -> None:
    async with stage(2, direct=True) as s:
        await started(s, "secret")
        await s.shards.ask(c.CreatePromise("my", FAR_MS, tags={"resonate:parent": "secret"}))
        found = await why(s, "my", "my")
        assert (found.cause.reason, links(found)) == (Reason.NO_TASK, [])
        assert (await why(s, "my")).cause.reason is Reason.HOLDER_GONE


async def test_parents_are_followed_only_so_far(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanations, "PARENTS_LIMIT_COUNT", 2)
    async with stage(2, direct=True) as s:
        await started(s, "p")
        for name in ("p.1", "p.1.1", "p.1.1.1"):
            await s.shards.ask(c.CreatePromise(name, FAR_MS))
        found = await why(s, "p.1.1.1")
        assert (found.cause.promise_id, found.cause.reason) == ("p.1.1.1", Reason.NO_TASK)
        assert (await why(s, "p.1")).cause.reason is Reason.HOLDER_GONE
