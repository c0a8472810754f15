"""What a workflow that runs again would read stays until the workflow may go (envelope.md 11.9)."""

from dataclasses import dataclass, field

import pytest

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.codes import Code
from troth.core.deciding import Options
from troth.core.limits import INTEGER_MAX, LINEAGE_LIMIT_COUNT, RETENTION_RECHECK_MS
from troth.core.model import PromiseState
from troth.core.retention_rules import RetentionRule

from .system import System

RESOLVED = PromiseState.RESOLVED
AGE_MS = 100


@dataclass
class LineageSystem(System):
    """Resolved promises go after a while."""

    options: Options = field(
        default_factory=lambda: Options(retention=(RetentionRule((RESOLVED,), AGE_MS),))
    )

    def left(self, delay_ms: int) -> set[str]:
        """Which promises are left after that time."""
        self.now += delay_ms
        for index in range(self.shard_count):
            reply = self.tell(index, c.Retain(1_000, 10_000)).reply
            assert reply.retained is not None
        return {promise.id for promise in self.promises()}


@pytest.fixture(params=[1, 4])
def system(request: pytest.FixtureRequest) -> LineageSystem:
    """One shard, or four, at time 0."""
    return LineageSystem(request.param)


def make(system: System, promise_id: str, origin: str, *, is_done: bool = True) -> None:
    """A promise that comes from another one."""
    tags = {"resonate:origin": origin}
    system.ask(w.EnsurePromise(promise_id, INTEGER_MAX, tags=tags))
    if is_done:
        system.ask(w.SettlePromise(promise_id, RESOLVED))


def test_a_child_stays_while_its_origin_runs(system: LineageSystem) -> None:
    make(system, "r", "r", is_done=False)
    make(system, "r:1", "r")
    make(system, "other", "other")
    assert system.left(AGE_MS) == {"r", "r:1"}

    system.ask(w.SettlePromise("r", RESOLVED))
    assert system.left(AGE_MS - 1) == {"r", "r:1"}
    assert system.left(RETENTION_RECHECK_MS) == set()


def test_origins_are_followed_up_to_the_root(system: LineageSystem) -> None:
    """Some clients name the nearest function that was called from afar."""
    make(system, "r", "r", is_done=False)
    make(system, "r.1", "r")
    make(system, "r.1.0", "r.1")
    make(system, "r.1.0.0", "r.1.0")
    assert system.left(AGE_MS) == {"r", "r.1", "r.1.0", "r.1.0.0"}
    system.ask(w.SettlePromise("r", RESOLVED))
    assert system.left(AGE_MS + RETENTION_RECHECK_MS) == set()


def test_a_missing_origin_and_a_circle_keep_nothing(system: LineageSystem) -> None:
    make(system, "a", "none")
    make(system, "b", "c")
    make(system, "c", "b")
    assert system.left(AGE_MS) == set()


def test_a_child_of_what_no_rule_reaches_stays(system: LineageSystem) -> None:
    make(system, "r", "r", is_done=False)
    make(system, "r:1", "r")
    system.ask(w.SettlePromise("r", PromiseState.REJECTED))
    assert system.left(10 * RETENTION_RECHECK_MS) == {"r", "r:1"}


def test_a_lineage_longer_than_is_looked_at_stays() -> None:
    system = LineageSystem(1)
    for level in range(LINEAGE_LIMIT_COUNT + 2):
        make(system, f"p{level}", f"p{max(level - 1, 0)}")
    left = system.left(AGE_MS)
    assert f"p{LINEAGE_LIMIT_COUNT + 1}" in left


def test_rests_roots_keep_their_lineage_too(system: LineageSystem) -> None:
    system.ask(c.CreatePromise("r", INTEGER_MAX))
    system.ask(c.CreatePromise("r.1", INTEGER_MAX, tags={"resonate:root": "r"}))
    system.ask(c.CompletePromise("r.1", RESOLVED))
    assert system.left(AGE_MS) == {"r", "r.1"}


def test_an_id_that_comes_back_fits_no_old_worker(system: LineageSystem) -> None:
    tags = {"resonate:target": "poll://any@g"}
    create = w.CreateWorkflow("r", INTEGER_MAX, "p", 60_000, tags=tags)
    assert system.ask(create).code is Code.OK
    system.ask(w.FulfillWorkflow("r", 1, RESOLVED))
    assert system.left(AGE_MS) == set()

    again = system.ask(create)
    assert again.workflow is not None
    assert again.workflow.version > 1
    assert system.ask(w.FulfillWorkflow("r", 1, RESOLVED)).code is Code.WORKFLOW_VERSION


def test_a_deleted_promise_takes_its_listeners_messages_with_it(system: LineageSystem) -> None:
    system.ask(w.EnsurePromise("a", INTEGER_MAX))
    system.ask(w.RegisterListener("a", "poll://uni@g/1"))
    system.ask(w.SettlePromise("a", RESOLVED))
    assert list(system.workflows.unblocks) == [("a", "poll://uni@g/1")]
    assert system.left(AGE_MS) == set()
    assert system.workflows.unblocks == {}
