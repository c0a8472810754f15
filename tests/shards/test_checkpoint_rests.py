"""How a checkpoint shares the event loop with what clients ask."""

from typing import Any

import pytest
import trio

from .test_checkpointer import Disk, fill, life


class OtherPasses:
    """A pass that is over at each look; at each look at the count others had more."""

    is_over = True

    def __init__(self, between_count: int) -> None:
        self._between_count = between_count
        self._count = 0

    @property
    def passes_count(self) -> int:
        self._count += self._between_count
        return self._count


@pytest.mark.parametrize(
    ("between_count", "is_last", "least_s", "most_s"),
    [(9, False, 0.1, 0.3), (1, False, 0.01, 0.03), (9, True, 0, 0)],
)
async def test_it_rests_between_slices_while_others_want_the_loop(
    autojump_clock: object, between_count: int, is_last: bool, least_s: float, most_s: float
) -> None:
    """But hardly where nothing else goes on, and not at a stop."""
    async with life(Disk()) as one:
        await fill(one.shards, 3_000)
        passes: Any = OtherPasses(between_count)
        one.checkpointer._pass = passes
        before_s = trio.current_time()
        await one.checkpointer.checkpoint(is_last=is_last)
        assert least_s <= trio.current_time() - before_s <= most_s
        assert (one.checkpointer.statistics().evicted_count == 3_000) is not is_last
