"""Actions that run later: their order, whatever is canceled before, and what a step costs."""

import gc
import random
import time

import pytest
import trio.testing

from troth.shards.alarms import Alarm, Alarms

LIMIT_S = 0.01
"""What a pass may take; moving some entries takes a tenth of a millisecond."""


@pytest.mark.parametrize("seed", range(5))
async def test_what_is_not_canceled_goes_off_in_order(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Also while a heap moves, which it does several times."""
    print("seed", seed)
    chance = random.Random(seed)
    alarms = Alarms()
    done: list[int] = []
    waiting: dict[int, tuple[float, Alarm]] = {}
    expected: list[int] = []

    def set_one(number: int) -> None:
        delay_ms = chance.uniform(1, 10_000)
        alarm = alarms.call_after(delay_ms, lambda: done.append(number))
        waiting[number] = (alarm.due, alarm)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarms.run)
        for number in range(4_000):
            set_one(number)
            if number > 1_000:
                for victim in chance.sample(sorted(waiting), chance.choice((0, 1, 2))):
                    waiting.pop(victim)[1].cancel()
            if number % 500 == 0:
                await trio.sleep(0.3)
                now_s = trio.current_time()
                gone = sorted(one for one in waiting if waiting[one][0] <= now_s)
                expected += sorted(gone, key=lambda one: waiting[one][0])
                for one in gone:
                    del waiting[one]
                assert done == expected
                assert len(alarms) == len(waiting)
        await trio.sleep(20)
        nursery.cancel_scope.cancel()

    assert done == expected + sorted(waiting, key=lambda one: waiting[one][0])
    assert len(alarms) == 0


async def test_canceled_alarms_are_not_kept() -> None:
    """All but a few of the alarms are canceled: so few entries are left."""
    alarms = Alarms()
    made = [alarms.call_after(1_000 + number, print) for number in range(10_000)]
    for alarm in made[10:]:
        alarm.cancel()
        alarm.cancel()  # has no effect

    assert len(alarms) == 10
    assert len(alarms._heap) + len(alarms._old_heap) < 200


@pytest.mark.own_core
async def test_no_step_grows_with_what_is_set() -> None:
    """All alarms are canceled in any order; it took 85 ms at once for each 100,000 of them."""
    alarms = Alarms()
    made = [alarms.call_after(30_000, print) for _ in range(200_000)]
    random.Random(7).shuffle(made)
    longest_s = 0.0
    gc.disable()
    try:
        for alarm in made:
            before_s = time.thread_time()
            alarm.cancel()
            longest_s = max(longest_s, time.thread_time() - before_s)
    finally:
        gc.enable()

    assert len(alarms) == 0
    assert longest_s < LIMIT_S
