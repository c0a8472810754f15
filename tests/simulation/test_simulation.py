"""Some seeds of the simulation, and its own promises: repeatable, shrinkable, able to fail."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.twins.simulated_files import SimulatedFile
from troth.core.machine import Machine
from troth.persistence.wal.segmented_log import SegmentedLog
from troth.shards.delivery.delivery import Delivery
from troth.shards.placement.placement import Placement
from troth.shards.shard import Shard
from troth.shards.turns import Turn, Turns
from troth.shards.waiting import Waiter

from .clients import Clients
from .faults import MOMENTS, Faults, parse_chances
from .plan import plan_of
from .shrinking import kind_of, shrink
from .simulation import SimulationFailed, simulate
from .totals import Totals

SEEDS = range(10)
SEARCHED_SEEDS_COUNT = 40
ONE_RUN_STEPS_COUNT = 300

# Crashes would mend what was lost.
NO_CRASHES = {name: 0.0 for name in MOMENTS if name.startswith(("power_cut", "kill", "clean"))}

pytestmark = pytest.mark.usefixtures("silence")


@pytest.mark.slow
def test_the_server_keeps_its_promises_and_every_fault_happens() -> None:
    totals = Totals()
    for seed in SEEDS:
        totals.add(simulate(plan_of(seed)))

    assert totals.never_happened == []
    assert totals.simulated_s > 3 * 3600
    assert totals.sums["crashes"] > 40
    assert totals.sums["checkpoints"] > 100
    assert totals.sums["schedule slots"] > 50
    assert totals.sums["promises deleted by retention"] > 50
    assert totals.sums["function tasks finished"] > 100
    assert totals.sums["promises of workflows ended"] > 200
    assert totals.sums["listeners told"] > 50
    assert totals.sums["bulk jobs ended"] > 50


@pytest.mark.slow
def test_a_log_that_is_never_trimmed_is_right_as_a_whole() -> None:
    kinds: set[str] = set()
    for seed in range(100, 102):
        outcome = simulate(replace(plan_of(seed), trims_log=False))
        kinds |= outcome.records.keys()

    assert {"MessageReceived", "ScheduleFired", "TaskReleased", "PromisesDeleted"} <= kinds
    assert {"ExecutionAssigned", "ExecutionReturned", "LockReleased"} <= kinds


@pytest.mark.slow
def test_a_seed_is_one_run() -> None:
    first, second, other = (simulate(plan_of(seed, ONE_RUN_STEPS_COUNT)) for seed in (0, 0, 1))

    assert first == second
    assert first.trace_hash != other.trace_hash


def test_a_run_without_clients_ends() -> None:
    """Shrinking comes there if a defect needs none."""
    without = frozenset(f"client:{kind}" for kind in Clients.KINDS)

    assert simulate(replace(plan_of(0), without=without)).requests_count < 100


def _first_failure(pace: float | None = None, **chances: float) -> SimulationFailed:
    """The failure of the first seed that fails: which one that is changes with the server.

    `pace` and `chances` make runs in which a defect shows often.
    """
    for seed in range(SEARCHED_SEEDS_COUNT):
        plan = plan_of(seed, chances=tuple(chances.items()))
        try:
            simulate(replace(plan, pace=pace or plan.pace))
        except SimulationFailed as failure:
            return failure
    pytest.fail(f"the planted defect was not found with {SEARCHED_SEEDS_COUNT} seeds")


def test_chances_are_given_by_name() -> None:
    chances = parse_chances(["kill=0", "answer_lost=0.5"])
    faults = Faults(1, chances=(*chances, *((name, 0) for name in MOMENTS)))

    assert chances == (("kill", 0.0), ("answer_lost", 0.5))
    assert faults.moment() is None
    assert 400 < sum(faults.strikes("answer_lost") for _ in range(1000)) < 600
    with pytest.raises(ValueError, match="'kil' is no fault"):
        parse_chances(["kil=0"])


def _without_part(part: str) -> Callable[[Any, int], Any]:
    """A start that forgets a part of the state, for a moment."""
    real = Machine.start

    def forgetful(self: Machine, now_ms: int) -> Any:
        kept = getattr(self.state, part)
        setattr(self.state, part, {})
        step = real(self, now_ms)
        setattr(self.state, part, kept)
        return step

    return forgetful


def _only_for_those_who_wait(real: Any) -> Callable[[Shard, int, Turn], None]:
    """A turn that leaves out requests whose clients have gone."""

    def run_commands(self: Shard, now_ms: int, turn: Turn) -> None:
        kept = [
            one for one in self._mailbox if not (isinstance(one[1], Waiter) and one[1].abandoned)
        ]
        self._mailbox = deque(kept)
        real(self, now_ms, turn)

    return run_commands


def _lets_go_early(part: str) -> Callable[[Turns, Turn], None]:
    """A commit that does not hold back a part of the turn."""
    real = Turns.commit

    def hasty(self: Turns, turn: Turn) -> None:
        early = Turn(**{part: getattr(turn, part)})
        setattr(turn, part, [])
        real(self, turn)
        self._let_go(early)

    return hasty


@pytest.fixture
def _short_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.simulation.CALM_LIMIT_S", 60)


@pytest.mark.slow
def test_a_failure_is_shrunk_and_fails_twice_in_the_same_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The planted defect: a request is not carried out if its client has gone."""

    monkeypatch.setattr(Shard, "run_commands", _only_for_those_who_wait(Shard.run_commands))
    failure = _first_failure(client_vanishes=0.2)

    shrunk = shrink(failure, 20)

    assert shrunk.is_repeatable
    assert kind_of(shrunk.failure.complaint) == kind_of(failure.complaint)
    # Its defect needs neither most of the clients nor many steps.
    assert len(shrunk.failure.plan.without) > len(failure.plan.without)
    assert shrunk.failure.plan.steps_count < failure.plan.steps_count
    assert f"--seed {failure.plan.seed}" in str(shrunk)


@pytest.mark.slow
def test_answers_before_the_disk_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """I1."""
    monkeypatch.setattr(Turns, "commit", _lets_go_early("answers"))

    assert "is not durable" in _first_failure().complaint


@pytest.mark.slow
def test_messages_before_the_disk_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """I1."""
    monkeypatch.setattr(Turns, "commit", _lets_go_early("messages"))

    assert "goes out before it is durable" in _first_failure().complaint


@pytest.mark.slow
def test_a_skipped_sync_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing acknowledged is lost."""

    def forget(_: SimulatedFile) -> None:
        """Say that it is done."""

    def hasty(self: SegmentedLog, batch: Any, expected_sequence: int) -> int:
        with monkeypatch.context() as within:
            within.setattr(SimulatedFile, "sync", forget)
            return real(self, batch, expected_sequence)

    real = SegmentedLog.append
    monkeypatch.setattr(SegmentedLog, "append", hasty)

    # What is lost may be the beginning of a segment too; then the start is refused.
    complaint = _first_failure().complaint
    assert "durable records are lost" in complaint or "is damaged" in complaint


@pytest.mark.slow
@pytest.mark.usefixtures("_short_calm")
def test_tasks_forgotten_in_a_crash_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "start", _without_part("roots"))

    assert "not done" in _first_failure().complaint


@pytest.mark.slow
@pytest.mark.usefixtures("_short_calm")
def test_messages_not_sent_again_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """I6: the outbox is drained in the end, also after a crash between source and target."""
    monkeypatch.setattr(Machine, "start", _without_part("outbox"))

    assert "not done" in _first_failure(pace=100.0, kill_at_await=1.0).complaint


@pytest.mark.slow
def test_requests_of_clients_that_vanish_and_are_not_done_are_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I3."""

    monkeypatch.setattr(Shard, "run_commands", _only_for_those_who_wait(Shard.run_commands))

    assert "was asked for by who went" in _first_failure(client_vanishes=0.2).complaint


@pytest.mark.slow
def test_function_tasks_that_placement_keeps_are_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I5: what is finished leaves memory."""

    def ignore(_: Placement, __: list[str]) -> None:
        """Keep them all."""

    monkeypatch.setattr(Placement, "finished", ignore)

    assert "placement holds" in _first_failure().complaint


@pytest.mark.slow
def test_nodes_with_more_tasks_than_slots_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a start, what still runs is not counted."""

    def ignore(*_: object) -> None:
        """Count nothing."""

    monkeypatch.setattr(Placement, "restore", ignore)

    assert "function tasks in" in _first_failure(pace=1.0, kill=3.0).complaint


@pytest.mark.slow
@pytest.mark.usefixtures("_short_calm")
def test_messages_lost_with_their_connection_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was on a stream that ended goes to another one, without another crash."""

    def ignore(*_: object) -> None:
        """Forget them."""

    monkeypatch.setattr(Delivery, "returned", ignore)

    failure = _first_failure(subscriber_hangs_up=0.2, **NO_CRASHES)

    assert "not done" in failure.complaint


@pytest.mark.slow
def test_mailboxes_without_a_limit_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """I5."""
    monkeypatch.setattr("tests.simulation.server.MAILBOX_LIMIT_COUNT", 0)
    monkeypatch.setattr("troth.shards.shards.MAILBOX_LIMIT_COUNT", 200)

    def unlimited(self: Shard, command: Any, asker: Any, place: int, held: Any) -> None:
        self._mailbox.append((command, asker, place, held))

    monkeypatch.setattr(Shard, "put", unlimited)

    assert "mailbox holds" in _first_failure().complaint
