"""The simulation of several nodes with one log in a stream: some seeds."""

import pytest

from tests.helpers.seeds import RUNS_ALL, seeds
from tests.simulation.plan import plan_of
from tests.simulation.simulation import simulate
from tests.simulation.totals import Totals

BLOCK_COUNT = 2
STEPS_COUNT = 400 if RUNS_ALL else 200
NODES_COUNT = 3


pytestmark = pytest.mark.usefixtures("silence")


@pytest.mark.seeds
@pytest.mark.slow
@pytest.mark.parametrize("block", seeds(0, 1, 60))
def test_nodes_on_one_stream_keep_their_promises(block: int) -> None:
    totals = Totals()
    for seed in range(block * BLOCK_COUNT, (block + 1) * BLOCK_COUNT):
        totals.add(simulate(plan_of(seed, STEPS_COUNT, nodes_count=NODES_COUNT)))

    assert totals.sums["lives"] > BLOCK_COUNT
    assert totals.sums["states of followers compared"] > 10
    assert totals.sums["promises of workflows ended"] > 10


def test_a_seed_of_several_nodes_is_one_run() -> None:
    first, second = (simulate(plan_of(8, 60, nodes_count=NODES_COUNT)) for _ in range(2))

    assert first == second
