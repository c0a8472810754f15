"""Sums over all shards, for metrics: added up in slices, so that many shards hold no request up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from troth.core.state.counts import Counts
from troth.shards.shard import Shard, ShardStatistics
from troth.shards.shards import Shards

from .pace import Pace

_SHARDS_PER_LOOK_COUNT: Final = 128


@dataclass(frozen=True, slots=True)
class ShardTotals:
    """What some shards of a server have and have done, all together.

    `mailbox_largest_count` is the fullest mailbox, which is the next to refuse a command.
    """

    counts: Counts
    sums: ShardStatistics
    mailbox_largest_count: int
    shards_count: int


def _together(parts: Sequence[ShardTotals]) -> ShardTotals:
    return ShardTotals(
        Counts.total([one.counts for one in parts]),
        ShardStatistics(*map(sum, zip(*[one.sums for one in parts], strict=True))),
        max(one.mailbox_largest_count for one in parts),
        sum(one.shards_count for one in parts),
    )


def _of(one: Shard) -> ShardTotals:
    statistics = one.statistics()
    return ShardTotals(one.machine.state.counts, statistics, statistics.mailbox_count, 1)


async def add_up(shards: Shards, pace: Pace) -> ShardTotals:
    """Return the sums of this moment; a shard that is looked at later may have gone on."""
    parts = []
    every = shards.each()
    for first in range(0, len(every), _SHARDS_PER_LOOK_COUNT):
        some = every[first : first + _SHARDS_PER_LOOK_COUNT]
        parts.append(_together([_of(one) for one in some]))
        await pace.rest()
    return _together(parts)


async def each(shards: Shards, pace: Pace) -> list[tuple[str, ShardTotals]]:
    """Return the same for each shard alone, with its number."""
    totals = []
    for number, one in enumerate(shards.each()):
        totals.append((str(number), _together([_of(one)])))
        if not number % _SHARDS_PER_LOOK_COUNT:
            await pace.rest()
    return totals
