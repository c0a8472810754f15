"""Sums over shards that are remembered, against those of all shards at this moment."""

from tests.simulation.memory import check_sums
from troth.core import commands as c
from troth.core.model import PromiseState
from troth.shards.known_sums import KnownSums
from troth.shards.shard import Shard
from troth.shards.surveys.pace import Pace
from troth.shards.surveys.totals import RunningTotals, each

from .stage import FAR_MS, stage
from .test_checkpointer import Disk, life, play, script

SHARD_COUNT = 8


async def test_quiet_shards_are_not_read_again() -> None:
    read: list[int] = []

    def number_of(shard: Shard) -> tuple[int]:
        read.append(shard.index)
        return (shard.sequence,)

    async with stage(SHARD_COUNT, direct=True) as world:
        shards = world.shards.each()
        known = KnownSums(shards, lambda shard: shard.sequence, number_of, (0,))
        assert known.look() == (0,)
        assert read == list(range(SHARD_COUNT))
        read.clear()
        await world.shards.ask(c.CreatePromise("a", FAR_MS))
        assert known.look(0, SHARD_COUNT // 2) in ((0,), (1,))
        assert known.look() == known.look() == (1,)
    assert read == [world.shards.shard_of("a")]


async def test_remembered_sums_are_those_of_this_moment() -> None:
    """Through commands of all kinds, and checkpoints after which things leave memory."""
    async with life(Disk()) as one:
        totals = RunningTotals(one.shards)
        for step in script():
            await play(one, [step])
            check_sums(one.shards, totals.known)
        found = await totals.add_up(Pace())
        assert found.sums.promises_count == found.counts.promises[PromiseState.RESOLVED] + 2
        assert found.sums.promises_count > found.sums.promises_in_memory_count
        assert found.shards_count == len(one.shards.each())


async def test_a_full_mailbox_is_seen_where_no_turn_is_run() -> None:
    async with stage(2, mailbox_limit_count=3) as world:
        totals = RunningTotals(world.shards)
        before = await totals.add_up(Pace())
        shard = world.shards.each()[1]
        for number in range(3):
            shard.tell(c.ReadPromise(str(number)))
        found = await totals.add_up(Pace())
        assert (before.mailbox_largest_count, found.mailbox_largest_count) == (0, 3)
        assert found.sums.mailbox_count == 3


async def test_each_shard_alone_adds_up_to_all(mock_clock: object) -> None:
    """What metrics show of shards one by one, and of all together."""
    async with stage(3, direct=True) as s:
        for number in range(7):
            await s.shards.ask(c.CreatePromise(f"p{number}", FAR_MS))
        alone = await each(s.shards, Pace())
        together = await RunningTotals(s.shards).add_up(Pace())
        assert [name for name, _ in alone] == ["0", "1", "2"]
        assert [one.shards_count for _, one in alone] == [1, 1, 1]
        promises = [one.sums.promises_count for _, one in alone]
        assert sum(promises) == together.sums.promises_count == 7
        commands = [one.busiest_commands_count for _, one in alone]
        assert max(commands) == together.busiest_commands_count
        for kind in together.counts.promises:
            assert together.counts.promises[kind] == sum(
                one.counts.promises[kind] for _, one in alone
            )
