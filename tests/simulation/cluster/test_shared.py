"""The simulation of nodes that share groups, each with a stream and an owner: some seeds."""

import pytest

from tests.helpers.seeds import RUNS_ALL, seeds
from tests.simulation.plan import Plan, plan_of
from tests.simulation.simulation import simulate
from tests.simulation.totals import Totals

STEPS_COUNT = 400 if RUNS_ALL else 60
NODES_COUNT = 3
GROUPS_COUNT = 4


pytestmark = pytest.mark.usefixtures("silence")


def _plan(seed: int) -> Plan:
    return plan_of(seed, STEPS_COUNT, groups_count=GROUPS_COUNT, nodes_count=NODES_COUNT)


@pytest.mark.seeds
@pytest.mark.slow
@pytest.mark.parametrize("block", seeds(0, 1, 60))
def test_nodes_that_share_groups_keep_their_promises(block: int) -> None:
    totals = Totals()
    totals.add(simulate(_plan(block)))

    assert totals.sums["lives"] >= GROUPS_COUNT
    assert totals.sums["states of followers compared"] > 10
    assert totals.sums["operations with an explanation"] > 100
