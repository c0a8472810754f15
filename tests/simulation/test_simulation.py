"""A few seeds of the simulation, and its own promises: repeatable, and able to fail."""

from dataclasses import fields, replace
from typing import Any

import pytest

from troth.core.machine import Machine
from troth.shards.shard import Shard, Turn

from .chances import Chances, parse_chances
from .simulation import SimulationFailed, simulate


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_the_server_keeps_its_promises(seed: int) -> None:
    outcome = simulate(seed, reboots_after_disk_failure=seed % 2 == 0)

    assert outcome.lives_count > 2
    assert outcome.answers_count > 100
    assert {"MessageReceived", "ScheduleFired", "TaskReleased"} <= outcome.records.keys()


@pytest.mark.slow
def test_a_seed_is_one_run() -> None:
    first, second, other = simulate(100), simulate(100), simulate(101)

    assert first == second
    assert first.trace_hash != other.trace_hash


@pytest.mark.slow
def test_every_chance_is_a_fault_that_strikes() -> None:
    """With a chance of nothing a fault never strikes, so that all faults have a chance."""
    peaceful = Chances(**{field.name: 0 for field in fields(Chances)})
    outcome = simulate(7, chances=replace(peaceful, mean_pause_s=4, change_pace=1))

    # The last power cut is none of them.
    assert (outcome.lives_count, outcome.power_cuts_count, outcome.disk_failures_count) == (2, 1, 0)
    assert simulate(7, chances=replace(peaceful, mean_pause_s=4, kill=1)).lives_count > 5


def test_chances_are_given_by_name() -> None:
    assert parse_chances(["kill=0", "answer_is_lost=0.5"]) == Chances(kill=0, answer_is_lost=0.5)
    with pytest.raises(ValueError, match="'kil' is no chance"):
        parse_chances(["kil=0"])


def _fails(seeds: int) -> str:
    """The complaint of the first of some seeds that fails."""
    for seed in range(seeds):
        try:
            simulate(seed)
        except SimulationFailed as failure:
            return str(failure)
    return ""


@pytest.mark.slow
def test_answers_before_the_disk_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(self: Shard, turn: Turn) -> None:
        early = Turn(answers=turn.answers)
        turn.answers = []
        real(self, turn)
        self._let_go(early)

    real = Shard._commit
    monkeypatch.setattr(Shard, "_commit", hasty)

    assert "is lost" in _fails(10)


@pytest.mark.slow
def test_tasks_forgotten_in_a_crash_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: Machine, now_ms: int) -> Any:
        roots, self.state.roots = self.state.roots, {}
        step = real(self, now_ms)
        self.state.roots = roots
        return step

    real = Machine.start
    monkeypatch.setattr(Machine, "start", forgetful)
    monkeypatch.setattr("tests.simulation.simulation.CALM_LIMIT_S", 60)

    assert "not done" in _fails(5)


@pytest.mark.slow
def test_messages_not_sent_again_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: Machine, now_ms: int) -> Any:
        outbox, self.state.outbox = self.state.outbox, {}
        step = real(self, now_ms)
        self.state.outbox = outbox
        return step

    real = Machine.start
    monkeypatch.setattr(Machine, "start", forgetful)
    monkeypatch.setattr("tests.simulation.simulation.CALM_LIMIT_S", 60)

    assert "not done" in _fails(10)


@pytest.mark.parametrize("seed", range(40, 46))
def test_the_server_keeps_its_promises_with_checkpoints(seed: int) -> None:
    """Half of the runs trim the log; in the others it is checked as a whole at the end."""
    outcome = simulate(
        seed,
        reboots_after_disk_failure=seed % 4 < 2,
        makes_checkpoints=True,
        trims_log=seed % 2 == 0,
    )
    assert outcome.checkpoints_count > 10
    assert outcome.lives_count > 5
