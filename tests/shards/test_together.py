"""What looks at things now and then wakes up together: once, not once for each."""

import pytest
import trio
from trio.testing import MockClock

from troth.shards.together import shared_end_s


async def test_those_with_the_same_delay_end_together(autojump_clock: MockClock) -> None:
    ends = set()

    async def sleep(start_s: float) -> None:
        await trio.sleep(start_s)
        began_s = trio.current_time()
        end_s = shared_end_s(2.0)
        assert began_s < end_s <= began_s + 2.0
        await trio.sleep_until(end_s)
        ends.add(trio.current_time())

    async with trio.open_nursery() as nursery:
        for start_s in (0.0, 0.1, 1.0, 1.9, 1.999):
            nursery.start_soon(sleep, start_s)

    assert ends == {autojump_clock.current_time()} == {2.0}


@pytest.mark.parametrize("delay_s", [0.1, 0.25, 0.3, 1.0, 7.7, 10.0])
async def test_the_end_is_always_ahead_and_never_too_far(
    delay_s: float, autojump_clock: MockClock
) -> None:
    for _ in range(2_000):
        now_s = autojump_clock.current_time()
        end_s = shared_end_s(delay_s)
        assert now_s < end_s <= now_s + delay_s + 1e-9
        await trio.sleep_until(end_s)
