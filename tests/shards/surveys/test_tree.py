"""Trees of calls: what was finished and left memory is in them, and what was deleted is not."""

import pytest
from trio.testing import MockClock

from tests.shards.stage import EPOCH_MS, FAR_MS, WORKER, id_in, stage
from tests.shards.test_checkpointer import SHARD_COUNT, Disk, life
from troth.core.commands import CreatePromise, DeletePromise
from troth.core.model import PENDING, REJECTED_TIMEDOUT
from troth.shards.shards import Shards
from troth.shards.surveys import tree as trees
from troth.shards.surveys.pace import Pace
from troth.shards.surveys.rows import Reason

from .world import resolve, surveys_of


async def drawn(shards: Shards, root: str, prefix: str = "") -> list[tuple[str, str | None, int]]:
    """The tree as (id, parent, depth)."""
    found = await surveys_of(shards).tree(root, 100, None, prefix)
    assert found is not None
    return [(call.promise.id, call.parent_id, call.depth) for call in found.calls]


async def test_calls_that_have_left_memory_are_found_by_ids_and_tags(
    autojump_clock: MockClock,
) -> None:
    """One that was deleted since, or that a prefix hides, is not shown."""
    async with life(Disk()) as one:
        shards = one.shards
        root = id_in(0, SHARD_COUNT, "root")
        tagged = [id_in(index, SHARD_COUNT, f"tagged{index}") for index in range(SHARD_COUNT)]
        of_root = {"resonate:root": root, "resonate:parent": root}
        below = [f"{root}.1", f"{root}.2", f"{root}.2.1", f"{root}.3"]
        for name in (root, *below):
            await shards.ask(CreatePromise(name, FAR_MS))
        for name in (*tagged, f"{root}x"):
            await shards.ask(CreatePromise(name, FAR_MS, tags=of_root))
        await resolve(shards, root, *below[:3], *tagged, f"{root}x")
        await one.checkpointer.checkpoint()
        for name in (below[0], tagged[2]):
            assert (await shards.ask(DeletePromise(name))).code.status == 204
        # One that is made again is not shown as it was.
        await shards.ask(CreatePromise(tagged[2], FAR_MS, tags=of_root))

        found = await drawn(shards, root)

        expected = {(name, root, 1) for name in (below[1], below[3], *tagged, f"{root}x")}
        assert set(found) == expected | {(root, None, 0), (below[2], below[1], 2)}
        assert len(found) == len(set(found))
        assert {name for name, _, _ in await drawn(shards, root, root)} == {
            root,
            f"{root}x",
            *below[1:],
        }


async def test_a_call_of_a_finished_promise_outside_is_not_in_the_tree(
    autojump_clock: MockClock,
) -> None:
    """Whether that promise is in memory or not; with it gone, the root is who it belongs to."""
    async with life(Disk()) as one:
        shards = one.shards
        await shards.ask(CreatePromise("b", FAR_MS))
        await shards.ask(CreatePromise("b:c", FAR_MS, tags={"resonate:origin": "a"}))
        await shards.ask(CreatePromise("a", FAR_MS))
        assert await drawn(shards, "a") == [("a", None, 0)]
        await resolve(shards, "b")
        await one.checkpointer.checkpoint()
        assert await drawn(shards, "a") == [("a", None, 0)]
        assert (await shards.ask(DeletePromise("b"))).code.status == 204
        assert await drawn(shards, "a") == [("a", None, 0), ("b:c", "a", 1)]


async def test_a_call_shows_that_its_time_is_over_and_what_others_wait_for(
    mock_clock: MockClock,
) -> None:
    """Before the server has carried the timeout out."""
    async with stage(1, direct=True) as s:
        await s.shards.ask(CreatePromise("o", FAR_MS))
        await s.shards.ask(CreatePromise("o.late", EPOCH_MS + 1_000))
        await s.shards.ask(CreatePromise("o.sent", FAR_MS, tags={"resonate:invoke": WORKER}))
        s.shards.freeze_timers(True)
        mock_clock.jump(2)
        found = await surveys_of(s.shards).tree("o", 100, None)
        assert found is not None
        _, late, sent = found.calls
        assert late.promise.state is REJECTED_TIMEDOUT
        assert late.promise.completed_on == EPOCH_MS + 1_000
        assert late.tasks == ()
        assert sent.promise.state is PENDING
        assert [task.promise_id for task in sent.tasks] == ["o.sent"]
        assert sent.cause is not None
        assert sent.cause.reason is Reason.NO_LISTENER


async def test_a_tree_that_takes_too_long_says_that_it_is_cut(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(1, direct=True) as s:
        for name in ("o", "o.1", "o.2", "o.3"):
            await s.shards.ask(CreatePromise(name, FAR_MS))
        with monkeypatch.context() as patch:
            patch.setattr(trees, "CANDIDATES_LIMIT_COUNT", 2)
            found = await surveys_of(s.shards).tree("o", 100, None)
            assert found is not None
            assert (len(found.calls), found.is_cut) == (3, True)
        found = await surveys_of(s.shards).tree("o", 100, None)
        assert found is not None
        assert (len(found.calls), found.is_cut) == (4, False)
        monkeypatch.setattr(Pace, "is_spent", True)
        found = await surveys_of(s.shards).tree("o", 100, None)
        assert found is not None
        assert (len(found.calls), found.is_cut) == (1, True)


async def test_a_tree_is_shown_down_to_a_level_and_up_to_a_number(mock_clock: MockClock) -> None:
    async with stage(2, direct=True) as s:
        for name in ("o", "o.1", "o.1.1", "o.2"):
            await s.shards.ask(CreatePromise(name, FAR_MS))
        for depth, shown in ((0, 1), (1, 3), (2, 4)):
            found = await surveys_of(s.shards).tree("o", 100, depth)
            assert found is not None
            assert (len(found.calls), found.is_cut) == (shown, False)
        found = await surveys_of(s.shards).tree("o", 2, None)
        assert found is not None
        assert ([call.promise.id for call in found.calls], found.is_cut) == (["o", "o.1"], True)


async def test_a_promise_that_several_name_is_looked_for_once(mock_clock: MockClock) -> None:
    """Its own parents are unknown, so what names it belongs to the root."""
    async with stage(2, direct=True) as s:
        await s.shards.ask(CreatePromise("o", FAR_MS))
        for name in ("a", "b"):
            tags = {"resonate:root": "o", "resonate:parent": "missing"}
            await s.shards.ask(CreatePromise(name, FAR_MS, tags=tags))
        found = await drawn(s.shards, "o")
        assert [(name, parent) for name, parent, _ in found] == [
            ("o", None),
            ("a", "o"),
            ("b", "o"),
        ]


async def test_what_another_process_asks_about_is_told_as_it_stands(
    mock_clock: MockClock,
) -> None:
    """A pending promise with its tasks and cause, a completed one alone, none for none."""
    async with stage(1, direct=True) as s:
        await s.shards.ask(CreatePromise("p", FAR_MS, tags={"resonate:invoke": WORKER}))
        await s.shards.ask(CreatePromise("done", FAR_MS))
        await resolve(s.shards, "done")
        surveys = surveys_of(s.shards)
        pending, done, nothing = await surveys.found(["p", "done", "none"])
        assert pending is not None
        assert [task.promise_id for task in pending.tasks] == ["p"]
        assert pending.cause is not None
        assert done is not None
        assert (done.promise.id, done.tasks, done.cause) == ("done", (), None)
        assert nothing is None
        assert await surveys.existing(["p", "none"]) == [True, False]
        assert await surveys.why("none") is None
