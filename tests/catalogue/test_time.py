"""The catalogue's entries about clocks, timers and schedules."""

import pytest
import trio.testing

from tests.core import test_cron, test_machine
from tests.core.system import System
from tests.model.wire import START_MS, running
from tests.shards.stage import Outgoing, make_shards, stage
from troth.core import commands as c
from troth.core import records as r
from troth.core.codes import Code
from troth.core.deciding import Options
from troth.core.grammar.cron import parse
from troth.core.model import ClaimRequest, PromiseState, TaskState
from troth.shards.clock import (
    FORWARD_LIMIT_MS,
    IDLE_TICK_MS,
    QUIET_TICK_MS,
    STAND_STILL_LIMIT_MS,
    TICK_MS,
    SystemClock,
)

FAR_MS = 10**15
HOUR_MS, DAY_MS, YEAR_MS = 3_600_000, 86_400_000, 365 * 86_400_000
ROUTED = {"resonate:invoke": "poll://g"}


def test_clock_back_1_h() -> None:
    """ "clock back 1 h / forward 1 y / DST switch / leap day for cron": the server's time goes too.

    A small step back is none: time stands still until the wall clock has caught up.
    """
    wall_ms = monotonic_ms = START_MS
    clock = SystemClock(lambda: wall_ms, lambda: monotonic_ms)
    wall_ms -= STAND_STILL_LIMIT_MS
    assert (clock.now_ms(), clock.jumps_count) == (START_MS, 0)
    wall_ms += STAND_STILL_LIMIT_MS + 5
    assert (clock.now_ms(), clock.jumps_count) == (START_MS + 5, 0)
    wall_ms -= HOUR_MS
    assert (clock.now_ms(), clock.set_backs_count) == (START_MS + 5 - HOUR_MS, 1)
    assert clock.last_step_ms == -HOUR_MS
    wall_ms += 1
    assert (clock.now_ms(), clock.jumps_count) == (START_MS + 6 - HOUR_MS, 1)


@pytest.mark.parametrize("start_ms", [0, START_MS])
def test_a_step_forward_is_told_from_an_idle_hour(start_ms: int) -> None:
    """ "a wrong clock for five seconds": also one that starts in 1970 and is set right later."""
    wall_ms = monotonic_ms = start_ms
    clock = SystemClock(lambda: wall_ms, lambda: monotonic_ms)
    wall_ms, monotonic_ms = wall_ms + HOUR_MS, monotonic_ms + HOUR_MS
    assert (clock.now_ms(), clock.jumps_count) == (start_ms + HOUR_MS, 0)
    wall_ms += FORWARD_LIMIT_MS
    assert (clock.now_ms(), clock.jumps_count) == (wall_ms, 0)
    wall_ms += 56 * YEAR_MS
    assert (clock.now_ms(), clock.jumps_count, clock.set_backs_count) == (wall_ms, 1, 0)
    assert clock.last_step_ms == 56 * YEAR_MS


async def test_a_loop_that_stands_still_is_noticed(mock_clock: trio.testing.MockClock) -> None:
    """ "a server that was away takes its workers' leases": SIGSTOP, a suspended machine."""
    monotonic_ms = 0
    clock = SystemClock(lambda: START_MS, lambda: monotonic_ms)
    jumps: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run, lambda: jumps.append(clock.jumps_count))
        await trio.testing.wait_all_tasks_blocked()
        for gap_ms, expected in ((TICK_MS, []), (250, []), (251, [1]), (TICK_MS, [1])):
            monotonic_ms += gap_ms
            mock_clock.jump(TICK_MS / 1_000)
            await trio.testing.wait_all_tasks_blocked()
            assert jumps == expected, gap_ms
        nursery.cancel_scope.cancel()


class Looks:
    """A clock under `run`, whose monotonic time and trio's are moved together or apart."""

    def __init__(self, mock_clock: trio.testing.MockClock) -> None:
        self._trio_clock = mock_clock
        self._monotonic_ms = 0
        self.wall_ms = START_MS
        self.looks_count = 0
        self.leases_run = False
        self.jumps: list[int] = []
        self.clock = SystemClock(self._look, lambda: self._monotonic_ms)

    def _look(self) -> int:
        self.looks_count += 1
        return self.wall_ms

    async def run(self) -> None:
        """Run the clock."""
        noted = self.jumps.append
        await self.clock.run(lambda: noted(self.clock.jumps_count), lambda: self.leases_run)

    async def settle(self) -> None:
        """Let the clock do what it can."""
        await trio.testing.wait_all_tasks_blocked()

    async def let_pass(self, passed_ms: int, *, slept_ms: int | None = None) -> None:
        """Let time pass; the loop sleeps for `slept_ms` of it, all of it if None, and is away."""
        self._monotonic_ms += passed_ms
        self.wall_ms += passed_ms
        self._trio_clock.jump((passed_ms if slept_ms is None else slept_ms) / 1_000)
        await self.settle()


async def test_a_loop_without_leases_looks_seldom(mock_clock: trio.testing.MockClock) -> None:
    """A server that only waits sleeps; a first lease is not shortened by what it misses."""
    looks = Looks(mock_clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looks.run)
        await looks.settle()
        # Less than this may be the time that it slept.
        for gap_ms, begins, expected in (
            (250 + IDLE_TICK_MS, False, []),
            (251 + IDLE_TICK_MS, False, [1]),
            (251, True, [1, 2]),
        ):
            looks.clock.now_ms()  # somebody asks, and the loop looks again soon
            await looks.settle()
            looks.leases_run = begins
            await looks.let_pass(gap_ms, slept_ms=IDLE_TICK_MS)
            assert looks.jumps == expected, gap_ms
        nursery.cancel_scope.cancel()


async def test_a_clock_that_nobody_asks_looks_each_second(
    mock_clock: trio.testing.MockClock,
) -> None:
    """A server that only waits wakes up once a second for its clock, and never lies about it."""
    looks = Looks(mock_clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looks.run)
        await looks.let_pass(QUIET_TICK_MS)
        before_count = looks.looks_count
        for _ in range(10):
            await looks.let_pass(QUIET_TICK_MS - 1)
            await looks.let_pass(1)
        assert looks.looks_count - before_count == 10
        # It may have slept; then it was away for certain.
        await looks.let_pass(250 + QUIET_TICK_MS, slept_ms=QUIET_TICK_MS)
        assert looks.jumps == []
        await looks.let_pass(251 + QUIET_TICK_MS, slept_ms=QUIET_TICK_MS)
        assert looks.jumps == [1]
        # A clock that is set is noticed within a second.
        looks.wall_ms += 2 * FORWARD_LIMIT_MS
        await looks.let_pass(QUIET_TICK_MS)
        assert looks.jumps == [1, 2]
        nursery.cancel_scope.cancel()


async def test_a_thread_may_ask_a_quiet_clock(mock_clock: trio.testing.MockClock) -> None:
    """A snapshot asks for the time in its thread: that begins no lease and wakes nothing."""
    looks = Looks(mock_clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looks.run)
        await looks.let_pass(QUIET_TICK_MS)
        assert await trio.to_thread.run_sync(looks.clock.now_ms) == looks.wall_ms
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("quiet_ms", [1, 150, QUIET_TICK_MS - 1])
async def test_a_first_lease_wakes_the_clock(
    mock_clock: trio.testing.MockClock, quiet_ms: int
) -> None:
    """Whoever begins a lease asks for the time: from then on an absence of 251 ms is noticed."""
    looks = Looks(mock_clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looks.run)
        await looks.let_pass(QUIET_TICK_MS)
        await looks.let_pass(quiet_ms)
        assert looks.clock.now_ms() == looks.wall_ms
        looks.leases_run = True
        await looks.settle()
        await looks.let_pass(251, slept_ms=TICK_MS)
        assert looks.jumps == [1]
        nursery.cancel_scope.cancel()


async def test_shards_follow_a_clock_that_is_set(autojump_clock: trio.testing.MockClock) -> None:
    """ "a wrong clock for five seconds": with shards, their wheels and the log.

    A promise ends at its timeout by the clock that was put right, a lock in its time, and a
    schedule that was made while the clock was a day ahead runs within the minute, not a day late.
    """
    offset_ms = START_MS

    def wall_ms() -> int:
        return offset_ms + round(trio.current_time() * 1_000)

    clock = SystemClock(wall_ms, lambda: round(trio.current_time() * 1_000))
    shards = make_shards(2, Outgoing(), clock=clock)
    async with stage(2, direct=True, shards=shards) as s:
        await s.shards.ask(c.CreatePromise("before", START_MS + HOUR_MS))
        offset_ms += DAY_MS
        s.shards.clock_jumped()
        await s.shards.ask(c.AcquireLock("r", "e", "w", 2_000))
        await s.shards.ask(c.CreateSchedule("s", "* * * * *", "ran", FAR_MS))
        await trio.sleep(5)
        await s.shards.ask(c.AcquireLock("r", "e", "w", 2_000))
        offset_ms -= DAY_MS
        s.shards.clock_jumped()
        before = await s.shards.ask(c.ReadPromise("before"))
        await s.shards.ask(c.CreatePromise("after", wall_ms() + HOUR_MS))
        assert (await s.shards.ask(c.AcquireLock("r", "other", "x", 1))).code is Code.LOCK_HELD
        await trio.sleep(2.1)
        assert (await s.shards.ask(c.AcquireLock("r", "other", "x", 1))).code is Code.CREATED
        await trio.sleep(HOUR_MS / 1_000 - 3)
        pending = await s.shards.ask(c.ReadPromise("after"))
        assert (await s.shards.ask(c.ReadPromise("ran"))).promise is not None
        await trio.sleep(3)
        ended = await s.shards.ask(c.ReadPromise("after"))

    assert before.promise is not None
    assert before.promise.state is PromiseState.REJECTED_TIMEDOUT
    assert pending.promise is not None
    assert pending.promise.state is PromiseState.PENDING
    assert ended.promise is not None
    assert ended.promise.state is PromiseState.REJECTED_TIMEDOUT
    assert sum(shard.timers_fired_count for shard in s.shards.statistics().shards) >= 3


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


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_wrong_clock_for_five_seconds(is_restarted: bool) -> None:
    """ "a wrong clock for five seconds": a day ahead, and back again.

    What ended in the meantime stays so. New promises are pending until their timeout, leases and
    locks end in their time, and a schedule's next run is the next second's, also after a restart.
    """
    system = System(1, Options(time_zone="UTC"), now=START_MS)
    system.ask(c.CreatePromise("before", START_MS + HOUR_MS))
    system.ask(c.CreateSchedule("s", "* * * * * *", "s.{{.timestamp}}", FAR_MS))
    system.now = START_MS + DAY_MS
    system.resume_time()
    system.fire_due()
    system.ask(c.AcquireLock("r", "e", "w", 2_000))
    claim = ClaimRequest("w", 2_000)
    system.ask(c.CreatePromise("ahead", START_MS + 2 * DAY_MS, tags=ROUTED, claim=claim))
    system.ask(c.CreatePromise("sent", FAR_MS, tags=ROUTED))
    system.report_sent("__invoke:sent", 1)
    system.now = back_ms = START_MS + 5_000
    if is_restarted:
        system = system.restarted()
    else:
        system.resume_time(was_set_back=True)
    system.fire_due()
    system.ask(c.CreatePromise("after", back_ms + HOUR_MS))

    before = system.ask(c.ReadPromise("before")).promise
    after = system.ask(c.ReadPromise("after")).promise
    assert before is not None
    assert before.state is PromiseState.REJECTED_TIMEDOUT
    assert after is not None
    assert after.state is PromiseState.PENDING
    schedule = system.machines[0].state.schedules["s"]
    assert schedule.next_run_time == back_ms + 1_000
    ended = system.ask(c.CompletePromise("ahead", PromiseState.RESOLVED)).promise
    assert ended is not None
    assert ended.completed_on == ended.created_on == START_MS + DAY_MS
    system.let_time_pass(back_ms + 2_000)
    assert system.ask(c.AcquireLock("r", "other", "x", 1)).code is Code.CREATED
    assert schedule.next_run_time is not None
    assert f"s.{back_ms + 2_000}" in system.machines[0].state.promises
    system.let_time_pass(back_ms + 10_000)
    assert system.delivering["__invoke:sent"] == 2


def test_a_run_that_a_wrong_clock_has_made_is_not_made_again() -> None:
    """ "a wrong clock for five seconds": the schedule comes to it again, and finds its promise."""
    system = System(1, Options(time_zone="UTC"), now=START_MS)
    system.ask(c.CreateSchedule("s", "* * * * * *", "s.{{.timestamp}}", FAR_MS))
    system.let_time_pass(START_MS + 7_000)
    system.now = START_MS + 1_500
    system.resume_time(was_set_back=True)
    system.let_time_pass(START_MS + 8_000)

    made = [one for one in system.promises() if one.id.startswith("s.")]
    assert [one.id for one in made] == [f"s.{START_MS + 1_000 * n}" for n in range(1, 9)]
    assert made[6].created_on == START_MS + 7_000


def test_a_schedule_keeps_its_time_when_the_clock_is_set_back() -> None:
    """ "a wrong clock for five seconds": the next run is the same, and its timer is not lost."""
    system = System(1, Options(time_zone="UTC"), now=START_MS)
    system.ask(c.CreateSchedule("s", "0 0 * * *", "s.{{.timestamp}}", FAR_MS))
    next_run_time = system.machines[0].state.schedules["s"].next_run_time
    assert next_run_time is not None
    system.now = START_MS - 6_000
    system.resume_time(was_set_back=True)
    system.let_time_pass(next_run_time)
    assert [one.id for one in system.promises()] == [f"s.{next_run_time}"]


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
    """ "timer due during downtime": promises and schedules at once on the start.

    Leases have their full time again: see `test_leases.py`.
    """
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
    assert (task.state, task.counter) == (TaskState.CLAIMED, 1)
    assert list(state.locks) == ["r"]
    runs = [name for name in state.promises if name.startswith("s.")]
    assert runs == [f"s.{START_MS + 1_000}", f"s.{START_MS + 2_000}"]
    after.let_time_pass(START_MS + 2_510)
    assert after.delivering["__invoke:leased"] == 2
    assert state.locks == {}


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
