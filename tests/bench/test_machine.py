"""How the load is kept from disturbing the server that it measures."""

import os
import threading

from troth.bench.machine import interrupt_no_server


def _policy_after(chosen: int) -> int:
    """Return the policy of a thread that had this one, and is a part of the load."""
    found: list[int] = []

    def run() -> None:
        os.sched_setscheduler(0, chosen, os.sched_param(0))
        interrupt_no_server()
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_load_waits_for_a_core_unless_a_policy_was_chosen_for_it() -> None:
    assert _policy_after(os.SCHED_OTHER) == os.SCHED_BATCH
    assert _policy_after(os.SCHED_IDLE) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "of that thread alone"
