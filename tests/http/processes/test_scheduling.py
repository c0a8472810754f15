"""How the scheduler is told to treat the processes of one server."""

import contextlib
import os
from pathlib import Path

import pytest

from tests.cli.supervising.running import until
from tests.helpers.scheduling import choose, policy_after
from tests.helpers.server import ServerProcess
from troth.http.processes.scheduling import interrupt_no_others


def test_who_wakes_waits_for_a_core_instead_of_taking_it() -> None:
    assert policy_after(interrupt_no_others) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "of this thread alone"


def test_a_policy_that_was_chosen_stays() -> None:
    assert policy_after(choose(os.SCHED_IDLE), interrupt_no_others) == os.SCHED_IDLE


def test_a_system_that_refuses_goes_on_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_setscheduler", refuse)
        assert policy_after(interrupt_no_others) == os.SCHED_OTHER
    with monkeypatch.context() as patch:
        patch.delattr(os, "SCHED_BATCH")
        patch.setattr(os, "sched_getscheduler", refuse)
        interrupt_no_others()


def test_all_threads_of_several_processes_wait_and_a_process_alone_is_as_any_other(
    shared_processes: ServerProcess, shared_server: ServerProcess
) -> None:
    def policies() -> list[set[int]]:
        return [_policies_of(process) for process in shared_processes.serving_ids()]

    # One that a busy machine has had killed comes back, and begins as any program does.
    until(lambda: policies() == [{os.SCHED_BATCH}] * 3, "all wait for a core")
    assert _policies_of(shared_processes.process_id) == {os.SCHED_OTHER}
    assert _policies_of(shared_server.process_id) == {os.SCHED_OTHER}


def _policies_of(process: int) -> set[int]:
    """Return the policies of a process's threads; of one that ends meanwhile, none."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                found.add(os.sched_getscheduler(int(thread.name)))
    return found
