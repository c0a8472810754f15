"""The counts by state are what a look at every promise and task gives, whatever has happened."""

import pytest

from tests.helpers.scanned_counts import scan
from tests.helpers.seeds import seeds
from tests.twins.memory_store import MemoryStore
from troth.core import commands as c
from troth.core.deciding import Options
from troth.core.lifecycles import FINAL_STATES
from troth.core.model import PromiseState, TaskState
from troth.core.retention_rules import RetentionRule
from troth.core.state.counts import Counts
from troth.core.workflow_commands import EnsurePromise
from troth.core.workflows import WorkflowState

from .drive import Drive
from .function_drive import FunctionDrive
from .system import System
from .workflow_drive import WorkflowDrive


def assert_counts_equal_scan(system: System) -> None:
    """Each shard's counts are exact."""
    view = None if system.checkpoints is None else system.checkpoints.reader.view
    for machine in system.machines:
        assert machine.state.counts == scan(machine.state, view)


@pytest.mark.slow
@pytest.mark.seeds
@pytest.mark.parametrize("makes_checkpoints", [False, True])
@pytest.mark.parametrize("kind", [Drive, FunctionDrive, WorkflowDrive])
@pytest.mark.parametrize("seed", seeds(900, 2, 4))
def test_counts_equal_scan(kind: type[Drive], seed: int, makes_checkpoints: bool) -> None:
    """After random commands, checkpoints, crashes between their steps, and replays."""
    drive = kind(seed, 3, is_lazy=False, makes_checkpoints=makes_checkpoints)
    for _ in range(6):
        drive.run(40)
        live = drive.system
        assert_counts_equal_scan(live)
        assert_counts_equal_scan(System(3, live.options, live.log, live.now))
        assert_counts_equal_scan(System(3, live.options, live.log, live.now, live.store))


def mixed_system(options: Options | None = None) -> System:
    """One shard with promises and tasks in several states; all but one was checkpointed."""
    system = System(1, options or Options(), now=1_000, store=MemoryStore())
    invoke = {"resonate:invoke": "poll://g"}
    system.ask(c.CreatePromise("a", 10**15, tags=invoke))
    system.ask(c.CreatePromise("b", 10**15, tags=invoke))
    system.ask(EnsurePromise("c", 10**15, tags={"resonate:target": "poll://any@g"}))
    system.ask(EnsurePromise("d", 10**15, tags={"resonate:target": "poll://any@g"}))
    system.ask(c.ClaimTask("__invoke:b", 1, "w", 10**9))
    for name in ("a", "c"):
        system.ask(c.CompletePromise(name, PromiseState.RESOLVED))
    system.capture(0)
    system.write_checkpoint()
    system.renew()
    system.evict()
    system.ask(c.CreatePromise("e", 2_000))
    return system


def test_each_state_is_counted() -> None:
    """Of promises and both kinds of tasks, also after a restart from checkpoint and log."""
    live = mixed_system()
    for system in (live, System(1, live.options, live.log, live.now, live.store)):
        counts = system.machines[0].state.counts
        assert {state.name: count for state, count in counts.promises.items() if count} == {
            "PENDING": 3,
            "RESOLVED": 2,
        }
        assert {state.value: count for state, count in counts.tasks.items() if count} == {
            "claimed": 1,
            "completed": 1,
        }
        assert {state.value: count for state, count in counts.workflows.items() if count} == {
            "pending": 1,
            "fulfilled": 1,
        }
        assert_counts_equal_scan(system)


def test_retention_takes_what_it_deletes_out_of_the_counts() -> None:
    """Promises and tasks that are in the checkpoint only, live and in a replay."""
    rule = RetentionRule(FINAL_STATES, 0)
    live = mixed_system(Options(retention=(rule,)))
    live.now = 5_000
    live.fire_due()
    retained = live.tell(0, c.Retain(100, 100)).reply.retained
    assert retained is not None
    assert sum(retained.deleted_counts) >= 2
    for system in (live, System(1, live.options, live.log, live.now, live.store)):
        counts = system.machines[0].state.counts
        assert counts.promises[PromiseState.RESOLVED] == 0
        assert counts.tasks[TaskState.COMPLETED] == 0
        assert counts.workflows[WorkflowState.FULFILLED] == 0
        assert_counts_equal_scan(system)


def test_counts_of_shards_add_up() -> None:
    """No state is left out of the sum."""
    one = mixed_system().machines[0].state.counts
    total = one.copy()
    total.add(one)
    for name in Counts.__struct_fields__:
        assert getattr(total, name) == {
            state: 2 * count for state, count in getattr(one, name).items()
        }
    assert one == mixed_system().machines[0].state.counts, "the other is not touched"
