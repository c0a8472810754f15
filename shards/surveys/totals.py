"""Sums over all shards, for metrics: added up in slices, so that many shards hold no request up."""

from dataclasses import dataclass, field
from typing import Final

from troth.core.buckets import Buckets
from troth.core.state.activity import Activity
from troth.core.state.counts import Counts
from troth.shards.lateness import BOUNDS_S
from troth.shards.shards import Shards

from .pace import Pace

_SHARDS_PER_LOOK_COUNT: Final = 16


@dataclass(slots=True)
class ShardTotals:
    """What the shards of a server have and have done, all together.

    `mailbox_largest_count` is the fullest mailbox, which is the next to refuse a command.
    """

    counts: Counts = field(default_factory=Counts.zero)
    activity: Activity = field(default_factory=Activity.zero)
    lateness: Buckets = field(default_factory=lambda: Buckets(BOUNDS_S))
    shards_count: int = 0
    mailbox_count: int = 0
    mailbox_largest_count: int = 0
    commands_count: int = 0
    refused_count: int = 0
    turns_count: int = 0
    timers_count: int = 0
    timers_fired_count: int = 0
    promises_in_memory_count: int = 0
    tasks_in_memory_count: int = 0
    callbacks_count: int = 0
    schedules_count: int = 0
    locks_count: int = 0
    outbox_count: int = 0
    entries_count: int = 0


_SUMMED: Final = (
    *("mailbox_count", "commands_count", "refused_count", "turns_count", "timers_count"),
    *("timers_fired_count", "promises_in_memory_count", "tasks_in_memory_count"),
    *("callbacks_count", "schedules_count", "locks_count", "outbox_count", "entries_count"),
)


async def add_up(shards: Shards, pace: Pace) -> ShardTotals:
    """Return the sums of this moment; a shard that is looked at later may have gone on."""
    totals = ShardTotals()
    for number, one in enumerate(shards.each()):
        state = one.machine.state
        statistics = one.statistics()
        for name in _SUMMED:
            setattr(totals, name, getattr(totals, name) + getattr(statistics, name))
        totals.mailbox_largest_count = max(totals.mailbox_largest_count, statistics.mailbox_count)
        totals.counts.add(state.counts)
        totals.activity.add(state.activity)
        totals.lateness.merge(one.lateness)
        totals.shards_count += 1
        if not number % _SHARDS_PER_LOOK_COUNT:
            await pace.rest()
    return totals
