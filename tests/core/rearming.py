"""What becomes of timers when the clock is set back, as in `troth.shards.rearming`."""

from troth.core import commands as c
from troth.core.state.shard_state import TimerKey

SLICE_COUNT = 2


def rearming(timers: dict[TimerKey, int]) -> list[c.RearmTimers]:
    """Take all timers; return the commands that look at them again, in slices."""
    keys = list(timers)
    timers.clear()
    return [
        c.RearmTimers(tuple(keys[first : first + SLICE_COUNT]))
        for first in range(0, len(keys), SLICE_COUNT)
    ]
