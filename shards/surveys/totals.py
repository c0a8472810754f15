"""Sums over all shards, for metrics: added up in slices, so that many shards hold no request up."""

from dataclasses import dataclass
from typing import Final

from troth.core.state.counts import Counts
from troth.shards.known_sums import KnownSums
from troth.shards.shard import Shard
from troth.shards.shard_numbers import ShardStatistics
from troth.shards.shards import Shards

from .pace import Pace

_SHARDS_PER_LOOK_COUNT: Final = 128


@dataclass(frozen=True, slots=True)
class ShardTotals:
    """What some shards of a server have and have done, all together.

    `mailbox_largest_count` is the fullest mailbox, which is the next to refuse a command;
    `busiest_commands_count` is of the shard that has carried out most.
    """

    counts: Counts
    sums: ShardStatistics
    mailbox_largest_count: int
    busiest_commands_count: int
    shards_count: int


class RunningTotals:
    """The sums over all shards of a server; `known` is what it remembers of them."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        zero = ShardStatistics(*[0] * len(ShardStatistics._fields))
        self.known = KnownSums(shards.each(), Shard.mark, Shard.statistics, zero)

    async def add_up(self, pace: Pace) -> ShardTotals:
        """Return the sums of this moment; a shard that is looked at later may have gone on."""
        known = self.known.known
        sums: tuple[int, ...] = ()
        for first in range(0, len(known), _SHARDS_PER_LOOK_COUNT):
            sums = self.known.look(first, first + _SHARDS_PER_LOOK_COUNT)
            await pace.rest()
        largest_count = max([one.mailbox_count for one in known])
        busiest_count = max([one.commands_count for one in known])
        counts = self._shards.counts()
        return ShardTotals(counts, ShardStatistics(*sums), largest_count, busiest_count, len(known))


async def each(shards: Shards, pace: Pace) -> list[tuple[str, ShardTotals]]:
    """Return the same for each shard alone, with its number."""
    totals = []
    for number, one in enumerate(shards.each()):
        statistics = one.statistics()
        counts = one.machine.state.counts
        done_count = statistics.commands_count
        of_one = ShardTotals(counts, statistics, statistics.mailbox_count, done_count, 1)
        totals.append((str(number), of_one))
        if not number % _SHARDS_PER_LOOK_COUNT:
            await pace.rest()
    return totals
