"""A server of several groups against the same reference as one of one process."""

import pytest
import trio.testing

from tests.helpers.seeds import seeds

from .groups import GroupsHistory, starting
from .pair import DifferenceError, shrunk

SHARD_COUNT = 4
STEPS_COUNT = 250


@pytest.mark.seeds
@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(0, 2, 60))
async def test_several_groups_answer_as_one_process_does(
    seed: int, mock_clock: trio.testing.MockClock
) -> None:
    start = starting(2 + seed % 3)
    async with start(SHARD_COUNT) as wire:
        history = GroupsHistory(seed, wire)
        try:
            await history.run(STEPS_COUNT)
        except DifferenceError as error:
            lines = map(str, await shrunk(history.actions, SHARD_COUNT, start))
            error.add_note("\n".join((f"seed {seed}, made as short as possible:", *lines)))
            raise

    assert history.seen.total() > STEPS_COUNT / 2
