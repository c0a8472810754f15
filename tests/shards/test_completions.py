"""A completion that is carried out in slices, in a running shard: who is answered when."""

import pytest
import trio
from trio.testing import MockClock

from troth.core.codes import Code
from troth.core.commands import CompletePromise, CreatePromise, CreateSubscription, ReadPromise
from troth.core.limits import COMPLETION_SLICE_COUNT
from troth.core.model import PromiseState
from troth.shards.errors import StorageFailed
from troth.shards.passes import PASS_LIMIT_S

from .stage import FAR_MS, WORKER, CalledBack, Stage, settle, stage
from .test_passes import COST_S, Passes, make_costly

SLICES_COUNT = 60
COMPLETE = CompletePromise("leaf", PromiseState.RESOLVED)
PER_PASS = round(PASS_LIMIT_S / COST_S)


async def begin(
    s: Stage, monkeypatch: pytest.MonkeyPatch, clock: MockClock
) -> tuple[CalledBack, list[str]]:
    """Complete a promise that many wait for, when each step takes half a millisecond.

    Returns who has asked, and the kinds of commands that are stepped.
    """
    await s.call(CreatePromise("leaf", FAR_MS))
    for number in range(SLICES_COUNT * COMPLETION_SLICE_COUNT):
        command = CreateSubscription("leaf", f"s{number}", FAR_MS, WORKER)
        s.shards.submit(command, None, CalledBack())
        if number % 500 == 499:
            s.shards.run_turn()
    s.shards.run_turn()
    await s.write_all()
    assert len(s.shards.states()[0].callbacks["leaf"]) == SLICES_COUNT * COMPLETION_SLICE_COUNT
    stepped = make_costly(monkeypatch, clock)
    asked = CalledBack()
    await trio.lowlevel.checkpoint()
    s.shards.submit(COMPLETE, None, asked)
    s.shards.run_turn()
    return asked, stepped


async def test_the_client_is_answered_when_it_is_finished_and_others_in_between(
    monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    async with stage(1) as s:
        asked, _ = await begin(s, monkeypatch, mock_clock)
        state = s.shards.states()[0]
        others = CalledBack()
        passes_count = 0
        while state.completions:
            s.shards.submit(ReadPromise("leaf"), None, others)
            s.shards.run_turn()
            s.writer.make_all_durable()
            await trio.lowlevel.checkpoint()
            passes_count += 1
            if state.completions:
                assert not asked.replies
        await s.write_all()

        assert passes_count > 1
        assert len(others.replies) == passes_count
        states = {reply.promise.state for reply in others.replies if reply.promise is not None}
        assert states == {PromiseState.RESOLVED}
        assert [reply.code for reply in asked.replies] == [Code.CREATED]
        assert len(state.tasks) == SLICES_COUNT * COMPLETION_SLICE_COUNT
        assert len(s.outgoing.messages) == SLICES_COUNT * COMPLETION_SLICE_COUNT


async def test_a_pass_carries_out_no_more_than_it_has_time_for(
    monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    async with stage(1) as s:
        _, stepped = await begin(s, monkeypatch, mock_clock)
        passes = Passes(stepped)
        trio.lowlevel.add_instrument(passes)
        while s.shards.states()[0].completions:
            await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(passes)

    # The turn that is shared and the shard's own may each go beyond the budget by a step.
    assert max(passes.counts) <= PER_PASS + 2


async def test_the_client_hears_when_the_log_fails_half_way(
    monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    with pytest.raises(BaseExceptionGroup):  # noqa: PT012
        async with stage(1) as s:
            asked, _ = await begin(s, monkeypatch, mock_clock)
            assert s.shards.states()[0].completions
            s.writer.fail()
            await settle()
    assert not asked.replies
    assert [type(error) for error in asked.errors] == [StorageFailed]
