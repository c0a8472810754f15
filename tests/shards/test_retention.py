"""When retention runs, how it makes room for others, and what it says about itself."""

from collections import deque

import pytest
import trio
from trio.testing import MockClock

from troth.core.codes import Code
from troth.core.commands import (
    SLICE_START,
    Command,
    CompletePromise,
    CountRetained,
    CreatePromise,
    ReadPromise,
    Retain,
)
from troth.core.deciding import Options
from troth.core.lifecycles import FINAL_STATES
from troth.core.limits import RETENTION_SLICE_COUNT
from troth.core.model import PromiseState
from troth.core.replies import Reply, Retained
from troth.core.retention_rules import RetentionRule
from troth.shards.clock import TrioClock
from troth.shards.errors import Overloaded, ShardsError, Stopping
from troth.shards.shards import Shards
from troth.shards.storage import MemoryStorage
from troth.shards.upkeep.retention import OVERLOADED_PAUSE_S, PAUSE_FACTOR, Sweeper

from .stage import Outgoing

ALL = RetentionRule(tuple(FINAL_STATES), 0)
TAGGED = RetentionRule((PromiseState.RESOLVED,), 1_000, ("x", "1"))


class FakeShards:
    """Two shards that answer what they are told to, each answer taking 0.02 s."""

    def __init__(self, *answers: Retained | ShardsError) -> None:
        self.own_indexes = range(2)
        self.answers = deque(answers)
        self.asked: list[tuple[float, int, Command]] = []

    async def ask_shard(self, index: int, command: Command) -> Reply:
        self.asked.append((trio.current_time(), index, command))
        await trio.sleep(0.02)
        answer = self.answers.popleft() if self.answers else Retained((0, 0), 0, None)
        if isinstance(answer, ShardsError):
            raise answer
        return Reply(Code.OK, retained=answer)


def sweeper(shards: FakeShards, interval_ms: int = 60_000) -> Sweeper:
    return Sweeper(
        shards,
        (ALL, TAGGED),
        ("all:0s", "resolved:1s:x=1"),
        interval_ms=interval_ms,
        now_ms=lambda: 123,
    )


async def test_a_sweep_rests_longer_than_it_works(autojump_clock: MockClock) -> None:
    more = Retained((3, 1), 0, SLICE_START)
    shards = FakeShards(more, more, Retained((1, 0), 2, None), Retained((0, 5), 0, None))

    outcome = await sweeper(shards).sweep()

    assert (outcome.counts, outcome.waiting_count, outcome.total_count) == ((7, 7), 2, 14)
    assert [index for _, index, _ in shards.asked] == [0, 0, 0, 1]
    pause = shards.asked[1][0] - shards.asked[0][0] - 0.02
    assert pause == pytest.approx(0.02 * PAUSE_FACTOR)


async def test_clients_come_first_when_a_shard_is_overloaded(autojump_clock: MockClock) -> None:
    shards = FakeShards(Overloaded(), Retained((1, 0), 0, None))
    before = trio.current_time()

    outcome = await sweeper(shards).sweep()

    assert outcome.counts == (1, 0)
    assert trio.current_time() - before >= OVERLOADED_PAUSE_S


async def test_it_sweeps_again_and_again_until_the_shards_stop(autojump_clock: MockClock) -> None:
    quiet = Retained((0, 0), 0, None)
    shards = FakeShards(Retained((2, 0), 1, None), quiet, quiet, quiet, Stopping())
    one = sweeper(shards, interval_ms=10_000)

    await one.run()

    assert len(shards.asked) == 5
    assert shards.asked[0][0] >= 10
    statistics = one.statistics()
    assert statistics.sweeps_total_count == 2
    assert statistics.deleted_total_count == (("all:0s", 2), ("resolved:1s:x=1", 0))
    assert statistics.last_sweep_on_ms == 123
    assert statistics.waiting_count == 0


async def test_without_rules_nobody_is_asked(autojump_clock: MockClock) -> None:
    shards = FakeShards()

    await Sweeper(shards, (), (), interval_ms=1, now_ms=lambda: 0).run()

    assert shards.asked == []


async def test_a_dry_run_asks_only_to_count(autojump_clock: MockClock) -> None:
    following = (1, 7, 8)
    one_more = [Retained((0,), 0, None)]
    shards = FakeShards(Retained((1,), 0, following), Retained((2,), 0, None), *one_more)

    outcome = await sweeper(shards).dry_run((TAGGED,))

    assert outcome.counts == (3,)
    commands = [command for _, _, command in shards.asked]
    assert all(isinstance(command, CountRetained) for command in commands)
    assert [command.start for command in commands if isinstance(command, CountRetained)] == [
        SLICE_START,
        following,
        SLICE_START,
    ]


async def test_pages_of_a_search_stay_right_while_promises_are_deleted(
    autojump_clock: MockClock,
) -> None:
    """Whatever is not deleted comes once, in order; nothing comes twice."""
    storage = MemoryStorage(3)
    shards = Shards(
        shard_count=3,
        clock=TrioClock(1_700_000_000_000),
        outgoing=Outgoing(),
        cursor_secret=b"",
        options=Options(retention=(TAGGED,)),
    )
    shards.recover(storage)
    async with trio.open_nursery() as nursery:
        await nursery.start(shards.run, storage.make_writer)
        for number in range(240):
            tags = {"x": str(number % 2)}
            await shards.ask(CreatePromise(f"p{number}", 10**15, tags=tags))
            await shards.ask(CompletePromise(f"p{number}", PromiseState.RESOLVED))
        await trio.sleep(1)
        one = Sweeper(shards, (TAGGED,), ("t",), interval_ms=1_000, now_ms=lambda: 0)
        assert (await one.dry_run()).counts == (120,)
        found: list[str] = []
        before: int | None = None
        slices_count = 0
        while True:
            page, before = await shards.search_promises("*", tuple(FINAL_STATES), {}, 7, before)
            found += [promise.id for promise in page]
            if before is None:
                break
            reply = await shards.ask_shard(slices_count % 3, Retain(5, 20))
            assert reply.retained is not None
            assert sum(reply.retained.deleted_counts) <= 5
            slices_count += 1
        await one.sweep()

        kept = [f"p{number}" for number in reversed(range(0, 240, 2))]
        assert [name for name in found if int(name[1:]) % 2 == 0] == kept
        assert len(set(found)) == len(found)
        assert (await one.dry_run()).counts == (0,)
        assert (await shards.ask(ReadPromise("p1"))).code is Code.PROMISE_NOT_FOUND
        assert sum(one.promises_count for one in shards.statistics().shards) == 120
        nursery.cancel_scope.cancel()


def test_a_slice_is_small() -> None:
    """One slice takes half a millisecond (measured: 11 µs a promise, its tasks looked up too)."""
    assert RETENTION_SLICE_COUNT * 11 <= 1_000
