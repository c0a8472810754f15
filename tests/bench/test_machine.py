"""How the load is kept from disturbing the server that it measures."""

import os

from tests.helpers.scheduling import choose, policy_after
from troth.bench.machine import interrupt_no_server


def test_load_waits_for_a_core_unless_a_policy_was_chosen_for_it() -> None:
    assert policy_after(choose(os.SCHED_OTHER), interrupt_no_server) == os.SCHED_BATCH
    assert policy_after(choose(os.SCHED_IDLE), interrupt_no_server) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "of that thread alone"
