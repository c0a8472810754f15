"""A clock that is set back: each timer is looked at again in slices, and others come in between."""

import pytest
import trio.lowlevel

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.limits import REARM_SLICE_COUNT
from troth.core.model import PENDING, ClaimRequest, PromiseState
from troth.core.workflows import ACQUIRED, WAITING
from troth.shards.passes import Pass
from troth.shards.rearming import WheelKey
from troth.shards.shards import Shards
from troth.shards.wheel import DEADLINE_MAX_MS

from .passing import ask_all, pass_time, running, set_back, until
from .stage import EPOCH_MS

BACK_MS = 3_600_000
TTL_MS = 60_000
COUNT = 30 * REARM_SLICE_COUNT
OTHERS_COUNT = 12
FAR_MS = EPOCH_MS + 10**9
TARGET = {"resonate:target": "poll://any@g"}
INVOKE = {"resonate:invoke": "poll://any@g"}
CLAIM = ClaimRequest("x", TTL_MS)


@pytest.fixture(autouse=True)
def _no_time_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass has time for one slice only."""
    monkeypatch.setattr(Pass, "has_time_for_own", lambda _: False)


async def make_everything(shards: Shards) -> None:
    """Make what has timers, of every kind, and what waits to be sent."""
    for number in range(COUNT):
        await ask_all(
            shards,
            [
                c.CreatePromise(f"p{number}", FAR_MS + number),
                c.CreatePromise(f"held{number}", FAR_MS, tags=INVOKE, claim=CLAIM),
                # Its lease would last as long as itself, so it has no timer of its own.
                c.CreatePromise(f"brief{number}", EPOCH_MS + 1_000, tags=INVOKE, claim=CLAIM),
                c.CreatePromise(f"sent{number}", FAR_MS, tags=INVOKE),
                c.CreatePromise(
                    f"later{number}",
                    FAR_MS,
                    tags=INVOKE | {"resonate:delay": str(EPOCH_MS + TTL_MS)},
                ),
                c.AcquireLock(f"l{number}", "e", "x", TTL_MS),
                c.CreateSchedule(f"s{number}", "0 0 * * *", f"s{number}.{{{{.timestamp}}}}", 9),
                w.CreateWorkflow(f"w{number}", FAR_MS, "x", TTL_MS, tags=TARGET),
                w.EnsurePromise(f"w{number}.waiting", FAR_MS, tags=TARGET),
            ],
        )
        shards.tell(c.TaskSent(f"__invoke:sent{number}", 1))
    await ask_all(shards, [w.RegisterListener("p0", "poll://any@g/1")])
    await ask_all(shards, [w.SettlePromise("p0", PromiseState.RESOLVED)])
    await until(lambda: shards.is_quiet)


def armed(shards: Shards) -> dict[WheelKey, int]:
    """All timers that are set."""
    return {
        key: deadline_ms
        for index in range(len(shards.each()))
        for parts in shards.deadlines(index, DEADLINE_MAX_MS)
        for part in parts
        for key, deadline_ms in part.items()
    }


def needed(shards: Shards) -> dict[WheelKey, int]:
    """All timers that the rows ask for."""
    found: dict[WheelKey, int] = {}
    for shard in shards.each():
        found |= {
            one.id: one.timeout
            for one in shard.machine.state.promises.values()
            if one.state is PENDING
        }
        for key, deadline_ms in shard.machine.deadlines():
            if deadline_ms is not None:
                found[key] = deadline_ms
    return found


async def finished(shards: Shards) -> None:
    """Wait until all timers have been looked at."""
    while any(one.is_rearming for one in shards.each()):
        await trio.lowlevel.checkpoint()
    await until(lambda: not any(one._due for one in shards.each()))


def check(shards: Shards, now_ms: int) -> None:
    """No timer is missing, and no lease lasts longer than one that begins now."""
    found, wanted = armed(shards), needed(shards)
    assert {key: one for key, one in found.items() if key in wanted} == wanted
    others = {one.id: one for state in shards.states() for one in state.workflows.values()}
    for key in found.keys() - wanted.keys():
        # These timers follow from no row alone.
        if key[0] is c.DELAY_TIMER:
            assert found[key] == EPOCH_MS + TTL_MS
        else:
            assert key[0] is c.WORKFLOW_TIMER
            assert others[key[1]].state is WAITING
    for state in (one.machine.state for one in shards.each()):
        for held in state.claimed.values():
            assert all(task.expires_at == now_ms + TTL_MS for task in held.values())
        assert all(one.expires_at == now_ms + TTL_MS for one in state.locks.values())
        workflows = [one for one in state.workflows.values() if one.state is ACQUIRED]
        assert all(one.expires_at == now_ms + TTL_MS for one in workflows)


@pytest.mark.parametrize("shard_count", [1, 4])
async def test_every_timer_is_set_again(shard_count: int) -> None:
    async with running(shard_count) as shards:
        await make_everything(shards)
        set_back(shards, BACK_MS)
        await finished(shards)
        check(shards, EPOCH_MS - BACK_MS)
        state = shards.states()
        assert sum(len(held) for one in state for held in one.claimed.values()) == 2 * COUNT


async def test_others_come_in_between() -> None:
    """They complete, delete and create again what has not been looked at, and renew leases.

    The clock is set back once more before all is done.
    """
    async with running(1) as shards:
        await make_everything(shards)
        set_back(shards, BACK_MS)
        await trio.lowlevel.checkpoint()
        assert shards.each()[0].is_rearming
        for number in range(1, OTHERS_COUNT):
            name = f"p{number}"
            await ask_all(shards, [c.CompletePromise(name, PromiseState.RESOLVED)])
            if number % 3:
                (reply,) = await shards.ask_each([c.DeletePromise(name)])
                assert reply.code.status < 300
                # The same deadline as before, or another one.
                await ask_all(shards, [c.CreatePromise(name, FAR_MS + number * (number % 3 - 1))])
            assert await shards.renew_workflows("x", [(f"w{number}", 1)]) == 1
            if number == OTHERS_COUNT // 2:
                assert shards.each()[0].is_rearming
                set_back(shards, BACK_MS)
        assert shards.each()[0].is_rearming
        await finished(shards)
        check(shards, EPOCH_MS - 2 * BACK_MS)


async def test_leases_end_in_their_time() -> None:
    """The timers that were set again fire."""
    async with running(4) as shards:
        await make_everything(shards)
        set_back(shards, BACK_MS)
        await finished(shards)
        pass_time(shards, TTL_MS - 1)
        await until(lambda: shards.is_quiet)
        assert sum(len(state.locks) for state in shards.states()) == COUNT
        pass_time(shards, 1)
        await until(lambda: not any(state.locks or state.claimed for state in shards.states()))
        states = [one.state for state in shards.states() for one in state.workflows.values()]
        assert ACQUIRED not in states
