"""One budget of time for a whole pass of the loop: what comes due together takes turns with others.

The work's duration is simulated: each command that is stepped moves the mock clock.
"""

import contextlib
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from troth.core.codes import Code
from troth.core.commands import (
    ClaimTask,
    Command,
    CompletePromise,
    CreateCallback,
    CreatePromise,
    CreateSubscription,
    ReadPromise,
)
from troth.core.limits import SLICE_COUNT, WHEEL_SLICE_COUNT
from troth.core.machine import Machine, Step
from troth.core.model import PromiseState
from troth.core.replies import Message, Reply
from troth.core.workflow_commands import CreateWorkflow
from troth.shards.errors import StorageFailed
from troth.shards.held import HeldMessages
from troth.shards.passes import CLIENTS_LIMIT_S, OWN_LIMIT_S, PASS_LIMIT_S
from troth.shards.rearming import WheelKey
from troth.shards.shards import SHARDS_PER_LOOK_COUNT
from troth.shards.wheel import TimingWheel

from .stage import EPOCH_MS, FAR_MS, WORKER, CalledBack, Stage, id_in, settle, stage

COST_S = 0.0005
PER_PASS = round(PASS_LIMIT_S / COST_S)


class Passes(trio.abc.Instrument):
    """How many commands were stepped in each pass of the loop."""

    def __init__(self, stepped: list[str]) -> None:
        self.counts: list[int] = []
        self._stepped = stepped
        self._before_count = len(stepped)

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's name and arguments
        count = len(self._stepped)
        self.counts.append(count - self._before_count)
        self._before_count = count


@pytest.fixture
def costly(monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock) -> list[str]:
    """See `make_costly`."""
    return make_costly(monkeypatch, mock_clock)


def make_costly(monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock) -> list[str]:
    """Let each step take half a millisecond; the kinds of commands that were stepped.

    Only a test that asks for the mock clock itself runs by it.
    """
    stepped: list[str] = []
    carry_out: Callable[[Machine, Command, int], Step | Reply] = Machine.carry_out

    def slow_step(self: Machine, command: Command, now_ms: int) -> Step | Reply:
        assert trio.lowlevel.current_clock() is mock_clock, "the test names no mock_clock"
        mock_clock.jump(COST_S)
        stepped.append(type(command).__name__)
        return carry_out(self, command, now_ms)

    monkeypatch.setattr(Machine, "carry_out", slow_step)
    return stepped


async def test_timers_of_all_shards_share_a_pass(costly: list[str], mock_clock: MockClock) -> None:
    """Each shard still gets on by a slice, so the most is the budget and a slice a shard."""
    async with stage(4, direct=True) as s:
        for number in range(400):
            await s.shards.ask(CreatePromise(f"p{number}", EPOCH_MS + 1_000_000))
        mock_clock.jump(1_000)
        costly.clear()
        passes = Passes(costly)
        trio.lowlevel.add_instrument(passes)
        while costly.count("Expire") < 400:
            await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(passes)

    assert max(passes.counts) <= PER_PASS + 4 * SLICE_COUNT
    assert sum(passes.counts) >= 300


async def test_the_wheel_hands_over_what_the_pass_has_time_for(
    monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    """A deadline is moved and taken; here each slice of that takes a millisecond."""
    count = 14 * WHEEL_SLICE_COUNT
    taken: list[str] = []
    take_due = TimingWheel.take_due

    def slow_take_due(
        self: TimingWheel[WheelKey], now_ms: int, limit_count: int
    ) -> list[tuple[WheelKey, int]]:
        mock_clock.jump(0.001)
        taken.append("")
        return take_due(self, now_ms, limit_count)

    async with stage(1, direct=True) as s:
        for first in range(0, count, WHEEL_SLICE_COUNT):
            names = [f"p{number}" for number in range(first, first + WHEEL_SLICE_COUNT)]
            await s.shards.ask_each([CreatePromise(name, EPOCH_MS + 100_000) for name in names])
        monkeypatch.setattr(TimingWheel, "take_due", slow_take_due)
        passes = Passes(taken)
        trio.lowlevel.add_instrument(passes)
        mock_clock.jump(100)
        (state,) = s.shards.states()
        while state.pending_count:
            await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(passes)

    assert max(passes.counts) <= 1_000 * PASS_LIMIT_S + 1
    assert len(taken) >= 2 * count / WHEEL_SLICE_COUNT


async def test_clients_come_before_what_is_internal_and_leave_it_a_part(
    costly: list[str], mock_clock: MockClock
) -> None:
    """A client's command does not wait behind a thousand reports, nor the other way round."""
    async with stage(1, direct=True) as s:
        await s.shards.ask(CreatePromise("p", FAR_MS))
        costly.clear()
        for _ in range(300):
            s.shards.tell(ReadPromise("internal"))
        asker = CalledBack()
        for _ in range(100):
            s.shards.submit(CreatePromise("q", FAR_MS), None, asker)
        s.shards.run_turn()  # one: the shards' own tasks get theirs when this one waits

        clients_count = round(CLIENTS_LIMIT_S / COST_S)
        assert costly[:SLICE_COUNT] == ["CreatePromise"] * SLICE_COUNT
        assert costly.count("CreatePromise") <= clients_count + SLICE_COUNT
        assert costly.count("ReadPromise") >= SLICE_COUNT
        assert len(costly) <= PER_PASS + 2 * SLICE_COUNT
        while len(costly) < 400:
            await trio.lowlevel.checkpoint()
        assert len(asker.replies) == 100


async def test_a_turn_of_many_shards_ends_with_the_pass(
    costly: list[str], mock_clock: MockClock
) -> None:
    """What shards send each other goes on in the next pass."""
    async with stage(8, direct=True) as s:
        for index in range(8):
            for number in range(40):
                s.shards.tell(ReadPromise(id_in(index, 8, f"p{number}")))
        passes = Passes(costly)
        trio.lowlevel.add_instrument(passes)
        while len(costly) < 320:
            await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(passes)

    # A shard may get on twice: with the turn, and with its actor.
    assert max(passes.counts) <= PER_PASS + 2 * 8 * SLICE_COUNT


async def test_what_a_turn_has_no_time_for_goes_on_as_a_turn(
    costly: list[str], mock_clock: MockClock
) -> None:
    """The shards that it does not come to share the next ones: none has its own, at once."""
    async with stage(16, direct=True) as s:
        await settle()  # an actor that has not begun yet would take its part by itself
        asker = CalledBack()
        for index in range(16):
            for number in range(SLICE_COUNT):
                command = CreatePromise(id_in(index, 16, f"p{number}"), FAR_MS)
                s.shards.submit(command, None, asker)
        passes = Passes(costly)
        trio.lowlevel.add_instrument(passes)
        await trio.lowlevel.checkpoint()
        s.shards.run_turn()
        while len(asker.replies) < 16 * SLICE_COUNT:
            await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(passes)

    assert max(passes.counts) <= SHARDS_PER_LOOK_COUNT * SLICE_COUNT


async def test_what_one_completion_sends_goes_out_in_passes(mock_clock: MockClock) -> None:
    """Handing a message to delivery takes its time, too; here a millisecond each."""
    async with stage(1) as s:
        await s.call(CreatePromise("leaf", FAR_MS))
        for number in range(60):
            await s.call(CreateSubscription("leaf", f"s{number}", FAR_MS, WORKER))
        make_sending_slow(s, mock_clock)
        asked = s.ask(CompletePromise("leaf", PromiseState.RESOLVED))
        await settle()
        sent: list[str] = []
        passes = Passes(sent)
        trio.lowlevel.add_instrument(passes)
        s.writer.make_all_durable()
        for _ in range(30):
            sent.extend([""] * (len(s.outgoing.messages) - len(sent)))
            await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(passes)

    assert asked.is_done
    assert len(s.outgoing.messages) == 60
    assert max(passes.counts) <= 1_000 * PASS_LIMIT_S + 3 * SLICE_COUNT


def make_sending_slow(s: Stage, clock: MockClock) -> list[str]:
    """Let it take a millisecond to hand a message to delivery; one entry for each that was."""
    send = s.outgoing.send
    sent: list[str] = []

    def slow_send(message: Message) -> None:
        clock.jump(0.001)
        sent.append("")
        send(message)

    s.outgoing.send = slow_send  # type: ignore[method-assign]
    return sent


async def complete_much(s: Stage, name: str, held: HeldMessages | None = None) -> None:
    """Complete a promise that sixty wait for, durably."""
    await s.call(CreatePromise(name, FAR_MS))
    for number in range(60):
        await s.call(CreateCallback(name, f"{name}{number}", FAR_MS, WORKER))
    asked = s.ask(CompletePromise(name, PromiseState.RESOLVED), held)
    await settle()
    s.writer.make_all_durable()
    await settle()
    assert asked.is_done


async def test_what_one_answer_releases_goes_out_in_passes(mock_clock: MockClock) -> None:
    """The messages of a request wait for its answer to be written: all sixty of them."""
    async with stage(1) as s:
        held = s.held()
        await complete_much(s, "leaf", held)
        assert not s.outgoing.messages
        sent = make_sending_slow(s, mock_clock)
        await trio.lowlevel.checkpoint()
        passes = Passes(sent)
        trio.lowlevel.add_instrument(passes)
        held.release()
        assert not s.shards.is_quiet
        while len(sent) < 60:
            await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(passes)

    names = [message.task.id for message in s.outgoing.messages]
    assert names == [f"__resume:leaf{number}:leaf" for number in range(60)]
    assert max(passes.counts) <= 1_000 * PASS_LIMIT_S


async def test_what_was_released_and_is_not_wanted_any_more_is_not_sent(
    mock_clock: MockClock,
) -> None:
    async with stage(1) as s:
        held = s.held()
        await complete_much(s, "leaf", held)
        make_sending_slow(s, mock_clock)
        held.release()
        asker = CalledBack()
        s.shards.submit(ClaimTask("__resume:leaf59:leaf", 1, "x", 10_000), None, asker)
        s.shards.run_turn()
        s.writer.make_all_durable()
        assert [reply.code for reply in asker.replies] == [Code.CREATED]
        while not s.shards.is_quiet:
            await trio.lowlevel.checkpoint()
    assert len(s.outgoing.messages) == 59


async def test_answers_do_not_wait_for_the_messages_of_earlier_turns(
    mock_clock: MockClock,
) -> None:
    """A client whose request came later is answered while many messages are left to be sent."""
    async with stage(1) as s:
        await s.call(CreatePromise("leaf", FAR_MS))
        for number in range(60):
            await s.call(CreateSubscription("leaf", f"s{number}", FAR_MS, WORKER))
        sent = make_sending_slow(s, mock_clock)
        asked = [s.ask(CompletePromise("leaf", PromiseState.RESOLVED))]
        await settle()
        asked += [s.ask(CreatePromise(f"p{number}", FAR_MS)) for number in range(3)]
        await settle()
        s.writer.make_all_durable()
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert all(one.is_done for one in asked)
        assert 0 < len(sent) < 60
        while not s.shards.is_quiet:
            await trio.lowlevel.checkpoint()
    assert len(sent) == 60


async def test_clients_have_their_part_after_what_is_internal(
    costly: list[str], mock_clock: MockClock
) -> None:
    """Trio decides who is first in a pass."""
    async with stage(1, direct=True) as s:
        await s.shards.ask(CreatePromise("p", FAR_MS))
        costly.clear()
        for _ in range(300):
            s.shards.tell(ReadPromise("internal"))
        await trio.lowlevel.checkpoint()
        s.shards.run_turn()
        internal_count = len(costly)
        asker = CalledBack()
        for _ in range(100):
            s.shards.submit(CreatePromise("q", FAR_MS), None, asker)
        s.shards.run_turn()

        own_count = round(OWN_LIMIT_S / COST_S)
        assert own_count <= internal_count <= own_count + 2 * SLICE_COUNT
        assert costly.count("CreatePromise") >= round(CLIENTS_LIMIT_S / COST_S)
        assert len(costly) <= PER_PASS + 3 * SLICE_COUNT


async def many_renewals(s: Stage, costly: list[str]) -> tuple[list[int], list[int]]:
    """A heartbeat names forty tasks of four shards; what it counts, and the steps of passes."""
    names = [f"w{number}" for number in range(40)]
    for name in names:
        await s.call(CreateWorkflow(name, FAR_MS, "x", 10_000, tags={"resonate:target": WORKER}))
    renewed: list[int] = []

    async def renew() -> None:
        with contextlib.suppress(StorageFailed):
            renewed.append(await s.shards.renew_workflows("x", [(name, 1) for name in names]))

    costly.clear()
    passes = Passes(costly)
    trio.lowlevel.add_instrument(passes)
    s.nursery.start_soon(renew)
    for _ in range(60):
        await trio.lowlevel.checkpoint()
    assert costly.count("RenewWorkflows") >= len(names) / 2
    trio.lowlevel.remove_instrument(passes)
    return renewed, passes.counts


async def test_a_heartbeat_of_very_many_tasks_comes_in_passes(
    costly: list[str], mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("troth.shards.gathering.RENEWALS_SLICE_COUNT", 2)
    async with stage(4) as s:
        renewed, counts = await many_renewals(s, costly)
        assert max(counts) <= 2 * 2  # those of two slices may fall into one pass
        assert renewed == []
        await s.write_all()
        assert renewed == [40]


async def test_a_heartbeat_of_very_many_tasks_fails_with_the_log(
    costly: list[str], mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("troth.shards.gathering.RENEWALS_SLICE_COUNT", 2)
    with pytest.raises(BaseExceptionGroup):  # noqa: PT012
        async with stage(4) as s:
            renewed, _ = await many_renewals(s, costly)
            s.writer.fail()
            await settle()
    assert renewed == []
