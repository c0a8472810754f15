"""The numbers that shards give for metrics."""

from dataclasses import dataclass
from typing import NamedTuple

from .committer import CommitterStatistics


class ShardStatistics(NamedTuple):
    """Counts of one shard, now and since the start: of all shards they add up."""

    mailbox_count: int
    commands_count: int
    refused_count: int
    turns_count: int
    timers_count: int
    timers_fired_count: int
    promises_count: int
    promises_in_memory_count: int
    callbacks_count: int
    tasks_count: int
    tasks_in_memory_count: int
    schedules_count: int
    schedules_paused_count: int
    locks_count: int
    outbox_count: int
    entries_count: int


@dataclass(frozen=True, slots=True)
class ShardsStatistics:
    """The committer's counters and those of every shard, by index."""

    committer: CommitterStatistics
    shards: tuple[ShardStatistics, ...]
