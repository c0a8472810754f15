"""The catalogue's entries about clocks, timers and schedules."""

import time

import pytest
import trio.testing

from tests.core import test_cron, test_machine
from tests.core.system import System
from tests.model.wire import START_MS, running
from troth.core import commands as c
from troth.core import records as r
from troth.core.deciding import Options
from troth.core.grammar.cron import parse
from troth.core.model import ClaimRequest, PromiseState, TaskState
from troth.shards.clock import SystemClock

FAR_MS = 10**15
HOUR_MS, YEAR_MS = 3_600_000, 365 * 86_400_000
ROUTED = {"resonate:invoke": "poll://g"}


def test_clock_back_1_h(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "clock back 1 h / forward 1 y / DST switch / leap day for cron": time stands still then.

    No deadline comes twice, none comes late by more than the hour, and time goes on afterwards.
    """
    machine_ms = START_MS
    monkeypatch.setattr(time, "time_ns", lambda: machine_ms * 1_000_000)
    clock = SystemClock()
    assert clock.now_ms() == START_MS
    machine_ms -= HOUR_MS
    assert clock.now_ms() == START_MS
    machine_ms += HOUR_MS + 5
    assert clock.now_ms() == START_MS + 5


def test_clock_back_over_a_restart() -> None:
    """ "clock back 1 h / forward 1 y / DST switch / leap day for cron": what had ended stays so."""
    system = System(1, now=START_MS)
    system.ask(c.CreatePromise("p", START_MS + 10))
    system.let_time_pass(START_MS + 20)
    system.now -= HOUR_MS
    after = system.restarted()
    reply = after.ask(c.ReadPromise("p"))

    assert reply.promise is not None
    assert reply.promise.state is PromiseState.REJECTED_TIMEDOUT
    assert reply.promise.completed_on == START_MS + 10


async def test_clock_forward_1_y(mock_clock: trio.testing.MockClock) -> None:
    """ "clock back 1 h / forward 1 y / DST switch / leap day for cron": all that is due happens,

    with the times that were promised, and what is not due does not.
    """
    async with running(4) as wire:
        for name, timeout in (("due", START_MS + 10), ("not due", START_MS + 2 * YEAR_MS)):
            await wire.ask("create promise", {"id": name, "timeout": timeout, "tags": ROUTED})
        lock = {"resourceId": "r", "executionId": "e", "processId": "w", "ttl": 10}
        await wire.ask("acquire lock", lock)
        await wire.pass_time(START_MS + YEAR_MS)
        due = await wire.ask("read promise", {"id": "due"})
        other = await wire.ask("read promise", {"id": "not due"})
        taken = await wire.ask("acquire lock", lock | {"executionId": "another"})

        assert due.body is not None
        assert (due.body["state"], due.body["completedOn"]) == ("REJECTED_TIMEDOUT", START_MS + 10)
        assert other.body is not None
        assert other.body["state"] == "PENDING"
        assert taken.code == 20100
        assert list(wire.under_way()) == [("__invoke:not due", 1)]


def test_dst_switch_for_cron() -> None:
    """ "clock back 1 h / forward 1 y / DST switch / leap day for cron": spring and autumn."""
    test_cron.test_a_time_that_is_skipped_in_spring_does_not_fire()
    test_cron.test_a_time_in_the_repeated_hour_in_autumn_fires_twice()
    test_cron.test_a_day_without_midnight_fires_at_noon()


@pytest.mark.parametrize(
    ("after_ms", "expected_ms"),
    [
        (1_709_078_400_000, 1_709_164_800_000),  # 2024-02-28: tomorrow
        (1_709_164_800_000, 1_835_395_200_000),  # 2024-02-29: four years on
        (3_981_312_000_000, None),  # 2096-02-29: 2100 has none, so none within five years
    ],
)
def test_leap_day_for_cron(after_ms: int, expected_ms: int | None) -> None:
    """ "clock back 1 h / forward 1 y / DST switch / leap day for cron": 29 February.

    As on the reference server, what does not come within five years never comes (rest.md 8.1).
    """
    assert parse("0 0 29 2 *", "UTC").next_after_ms(after_ms) == expected_ms


def test_timer_due_during_downtime() -> None:
    """ "timer due during downtime": promises, leases, locks and schedules, at once on the start."""
    system = System(1, Options(time_zone="UTC"), now=START_MS)
    claim = ClaimRequest("w", 10)
    system.ask(c.CreatePromise("ends", START_MS + 10))
    system.ask(c.CreatePromise("leased", FAR_MS, tags=ROUTED, claim=claim))
    system.ask(c.AcquireLock("r", "e", "w", 10))
    system.ask(c.CreateSchedule("s", "* * * * * *", "s.{{.timestamp}}", FAR_MS))
    system.now += 2_500
    after = system.restarted()
    after.fire_due()
    state = after.machines[0].state

    assert state.promises["ends"].state is PromiseState.REJECTED_TIMEDOUT
    assert state.promises["ends"].completed_on == START_MS + 10
    task = state.tasks["__invoke:leased"]
    assert (task.state, task.counter) == (TaskState.INIT, 2)
    assert after.delivering["__invoke:leased"] == 2
    assert state.locks == {}
    runs = [name for name in state.promises if name.startswith("s.")]
    assert runs == [f"s.{START_MS + 1_000}", f"s.{START_MS + 2_000}"]


@pytest.mark.parametrize("first", ["task", "root", "heartbeat", "client completes the root"])
def test_two_timers_same_instant_order(first: str) -> None:
    """ "two timers same instant order": the root's comes first, whoever looks first."""
    expected = (TaskState.COMPLETED, 1, 100, "w")
    test_machine.test_deadlines_take_effect_in_their_order_whoever_looks_first(
        lease_until=10, task_timeout=10, root_timeout=10, expected=expected, first=first
    )


def test_schedule_slot_fired_twice_crash_between_create_and_advance() -> None:
    """ "schedule slot fired twice (crash between create and advance)": they are one record.

    The log is cut after every step of a run, and the rest of the time passes then.
    """
    system = System(3, Options(time_zone="UTC"), now=START_MS)
    system.ask(c.CreateSchedule("s", "* * * * * *", "s.{{.timestamp}}", FAR_MS))
    system.let_time_pass(START_MS + 5_000)
    expected = [f"s.{START_MS + 1_000 * number}" for number in range(1, 6)]
    for step_count in range(1, len(system.log) + 1):
        after = system.restarted(step_count)
        after.deliver_all()
        after.fire_due()
        after.deliver_all()
        made = [r.decode(body) for step in after.log for _, body in step]
        fired = [record.run_time for record in made if isinstance(record, r.ScheduleFired)]

        assert sorted(one.id for one in after.promises()) == expected
        assert fired == sorted(set(fired)), "a slot was fired twice"


def test_catch_up_storm_1_year_of_minutes() -> None:
    """ "catch-up storm (1 year of minutes)": the latest thousand, in order, and no others."""
    runs, skipped = test_machine.due_schedule("* * * * *", YEAR_MS, 1_000)

    assert len(runs) == 1_000
    assert runs == list(range(YEAR_MS - 999 * 60_000, YEAR_MS + 1, 60_000))
    assert skipped == [f"60000-{runs[0]}"]
    test_cron.test_the_latest_of_a_year_of_minutes_are_found_quickly()
