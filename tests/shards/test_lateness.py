"""The histogram of timers' lateness: what is counted, and what is nobody's lateness."""

import trio
from trio.testing import MockClock

from troth.core.commands import CreatePromise

from .stage import EPOCH_MS, stage


async def test_timers_in_time_are_counted_and_those_armed_too_late_are_not(
    autojump_clock: MockClock,
) -> None:
    async with stage(direct=True) as s:
        await s.shards.ask(CreatePromise("past", EPOCH_MS - 60_000))
        await s.shards.ask(CreatePromise("soon", EPOCH_MS + 570))
        await trio.sleep(1)

        statistics = s.shards.statistics().shards[0]
        assert statistics.timers_fired_count == 2
        assert s.shards.lateness.cumulative()[0] == s.shards.lateness.count == 1
