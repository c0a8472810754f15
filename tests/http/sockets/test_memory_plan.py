"""How memory is divided: as the settings say where there is plenty, else less of each."""

from dataclasses import replace

import pytest

from troth.http.settings.settings import Settings
from troth.http.sockets.memory_plan import plan_memory
from troth.http.wire.in_flight import HEADROOM_FACTOR
from troth.persistence.process_memory import MemoryLimits

MIB = 1 << 20


class Limits:
    """A process that has so much left."""

    def __init__(self, left_bytes: int | None) -> None:
        self.left_bytes = left_bytes

    def of(self, monkeypatch: pytest.MonkeyPatch) -> MemoryLimits:
        """The limits that say so."""
        monkeypatch.setattr(MemoryLimits, "headroom_bytes", lambda _: self.left_bytes)
        return MemoryLimits()


@pytest.mark.parametrize("left_bytes", [None, 64 * 1024 * MIB])
def test_where_there_is_plenty_the_settings_hold(
    monkeypatch: pytest.MonkeyPatch, left_bytes: int | None
) -> None:
    settings = Settings()
    plan = plan_memory(settings, Limits(left_bytes).of(monkeypatch))

    assert plan.in_flight_bytes == settings.in_flight_limit_bytes
    assert plan.checkpoint_log_bytes == settings.checkpoint_log_bytes
    assert not plan.is_lowered


@pytest.mark.parametrize("left_mib", [0, 1, 20, 100, 300, 700])
def test_all_parts_together_leave_half_for_the_state(
    monkeypatch: pytest.MonkeyPatch, left_mib: int
) -> None:
    left_bytes = left_mib * MIB
    settings = replace(Settings(), in_memory=True)
    plan = plan_memory(settings, Limits(left_bytes).of(monkeypatch))

    assert plan.is_lowered
    assert plan.reserve_bytes + HEADROOM_FACTOR * plan.in_flight_bytes <= left_bytes * 5 // 8
    assert plan.margin_bytes >= plan.reserve_bytes
    assert plan.margin_bytes <= left_bytes * 5 // 8


def test_a_process_beyond_its_limit_plans_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_memory(Settings(), Limits(-MIB).of(monkeypatch))

    assert (plan.in_flight_bytes, plan.reserve_bytes) == (0, 0)


def test_several_processes_divide_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(Settings(), in_memory=True, body_limit_bytes=MIB)
    for left_bytes in (None, 64 * 1024 * MIB):
        plan = plan_memory(settings, Limits(left_bytes).of(monkeypatch), 4)
        assert plan.in_flight_bytes == settings.in_flight_limit_bytes // 4
    alone = plan_memory(settings, Limits(100 * MIB).of(monkeypatch))
    assert plan_memory(settings, Limits(400 * MIB).of(monkeypatch), 4).reserve_bytes == (
        alone.reserve_bytes
    )
