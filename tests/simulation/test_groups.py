"""The simulation of a server with several groups: some seeds, and what it is able to find."""

from dataclasses import replace

import pytest

from tests.helpers.seeds import seeds

from .faults import ONLY_BETWEEN
from .plan import plan_of
from .simulation import simulate
from .totals import Totals

BLOCK_COUNT = 5
STEPS_COUNT = 400


pytestmark = pytest.mark.usefixtures("silence")


@pytest.mark.seeds
@pytest.mark.slow
@pytest.mark.parametrize("block", seeds(0, 1, 60))
def test_several_groups_keep_their_promises(block: int) -> None:
    totals = Totals()
    for seed in range(block * BLOCK_COUNT, (block + 1) * BLOCK_COUNT):
        totals.add(simulate(plan_of(seed, STEPS_COUNT, groups_count=0)))

    assert len(set(ONLY_BETWEEN) - set(totals.never_happened)) >= 4
    assert totals.sums["promises of workflows ended"] > 50
    assert totals.sums["crashes"] > 5
    assert totals.sums["snapshots of several groups"] > 5


@pytest.mark.slow
def test_logs_that_are_never_trimmed_are_right_as_a_whole() -> None:
    outcome = simulate(replace(plan_of(100, STEPS_COUNT, groups_count=3), trims_log=False))

    assert {"MessageReceived", "MessagesAcknowledged", "ScheduleFired"} <= outcome.records.keys()


@pytest.mark.slow
def test_a_seed_of_several_groups_is_one_run() -> None:
    first, second = (simulate(plan_of(101, STEPS_COUNT // 3, groups_count=2)) for _ in range(2))

    assert first == second
