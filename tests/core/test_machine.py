"""The machine's own promises: late timers change nothing, failed steps leave nothing behind.

And the single cases in which the state machine was once wrong.
"""

from typing import Any

import pytest

from troth.core import commands as c
from troth.core import lifecycles
from troth.core import records as r
from troth.core.codes import Code
from troth.core.deciding import Options, RunsSkipped
from troth.core.grammar.cron import Cron
from troth.core.limits import INTEGER_MAX, MISSED_SLICE_COUNT, SCHEDULE_BATCH_COUNT
from troth.core.machine import Machine
from troth.core.model import Callback, ClaimRequest, Fence, PromiseState, Task, TaskKind, TaskState
from troth.core.state.shard_state import TimerKey

from .system import System

GROUP = "poll://g"
NEVER = INTEGER_MAX


def alone(options: Options | None = None) -> Machine:
    """One machine of two shards; ids that begin with `far` live in the other."""
    serials = iter(range(1, 10**6))
    return Machine(0, lambda one: int(one.startswith("far")), lambda: next(serials), options)


def resume(sequence: int) -> c.Receive:
    """A message that resumes root `r`."""
    callback = Callback(f"__resume:r:l{sequence}", TaskKind.RESUME, "l", "r", NEVER, GROUP, 0)
    return c.Receive(1, sequence, r.ResumeMessage(callback, 0))


def task_with_two_deadlines(lease_until: int, task_timeout: int, root_timeout: int) -> System:
    """A claimed resume task, at time 0."""
    system = System(1)
    system.ask(c.CreatePromise("leaf", NEVER))
    system.ask(c.CreatePromise("root", root_timeout))
    system.ask(c.CreateCallback("leaf", "root", task_timeout, GROUP))
    system.ask(c.CompletePromise("leaf", PromiseState.RESOLVED))
    system.ask(c.ClaimTask("__resume:root:leaf", 1, "w", lease_until))
    return system


def outcome(system: System) -> tuple[TaskState, int, int | None, str | None]:
    """What has become of that task."""
    task = system.machines[0].state.tasks["__resume:root:leaf"]
    return task.state, task.counter, task.completed_on, task.process_id


@pytest.mark.parametrize(
    ("lease_until", "task_timeout", "root_timeout", "expected"),
    [
        (10, 20, 30, (TaskState.TIMEDOUT, 2, 20, None)),
        (10, 30, 20, (TaskState.COMPLETED, 2, 100, None)),
        (20, 10, 30, (TaskState.TIMEDOUT, 1, 10, None)),
        (20, 30, 10, (TaskState.COMPLETED, 1, 100, "w")),
        (30, 10, 20, (TaskState.TIMEDOUT, 1, 10, None)),
        (30, 20, 10, (TaskState.COMPLETED, 1, 100, "w")),
        (10, 10, 10, (TaskState.COMPLETED, 1, 100, "w")),
        (10, 10, 30, (TaskState.TIMEDOUT, 1, 10, None)),
        (10, 200, 300, (TaskState.INIT, 2, None, None)),
    ],
)
@pytest.mark.parametrize("first", ["task", "root", "heartbeat", "client completes the root"])
def test_deadlines_take_effect_in_their_order_whoever_looks_first(
    lease_until: int,
    task_timeout: int,
    root_timeout: int,
    expected: tuple[TaskState, int, int | None, str | None],
    first: str,
) -> None:
    """Everything is late at 100; what happened in between does not depend on who notices."""
    system = task_with_two_deadlines(lease_until, task_timeout, root_timeout)
    system.now = 100
    if first == "task":
        system.ask(c.ClaimTask("__resume:root:leaf", 99, "w", 1))
    elif first == "root":
        system.ask(c.ReadPromise("root"))
    elif first == "heartbeat":
        assert system.ask(c.HeartbeatTasks("w")).count == 0
    elif root_timeout <= 100:
        system.ask(c.CompletePromise("root", PromiseState.RESOLVED))
    system.fire_due()

    assert outcome(system) == expected


def test_a_lease_that_is_over_is_not_counted_as_held_when_its_root_completes() -> None:
    system = task_with_two_deadlines(10, NEVER, NEVER)
    system.now = 10
    system.ask(c.CompletePromise("root", PromiseState.RESOLVED))

    assert outcome(system) == (TaskState.COMPLETED, 2, 10, None)


def test_a_message_whose_step_failed_is_not_acknowledged_by_the_next_step() -> None:
    machine = alone()
    machine.step(resume(1), 0)
    with pytest.raises(AssertionError, match="none left out"):
        machine.step(resume(3), 0)
    assert machine.is_clean

    assert machine.step(c.ReadPromise("p"), 0).received is None
    assert machine.step(resume(2), 0).received == (1, 2)
    assert machine.step(resume(3), 0).received == (1, 3)


def test_a_message_that_was_applied_is_acknowledged_again_and_changes_nothing() -> None:
    machine = alone()
    machine.step(resume(1), 0)
    again = machine.step(resume(1), 0)

    assert (again.records, again.received) == ([], (1, 1))


def test_an_acknowledgement_forgets_only_what_it_covers() -> None:
    machine = alone()
    for leaf in ("a", "b", "c"):
        machine.step(c.CreatePromise(leaf, NEVER), 0)
        machine.step(c.CreateCallback(leaf, "far", NEVER, GROUP), 0)
        machine.step(c.CompletePromise(leaf, PromiseState.RESOLVED), 0)
    outbox = machine.state.outbox
    assert [number for _, number, _ in outbox] == [1, 2, 3]

    machine.step(c.Acknowledge(1, 2), 0)
    assert [number for _, number, _ in outbox] == [3]
    assert [outbox.resumes_for(leaf) for leaf in ("a", "b", "c")] == [False, False, True]
    assert machine.step(c.Acknowledge(1, 2), 0).records == []
    machine.step(c.Acknowledge(1, 3), 0)
    assert list(outbox) == []
    assert not outbox.resumes_for("c")


def test_a_step_changes_state_only_through_its_records() -> None:
    """Reports about sends are notes: nothing of them is written but what they lead to."""
    machine = alone()
    machine.step(c.CreatePromise("p", NEVER, tags={"resonate:invoke": GROUP}), 0)

    assert machine.step(c.TaskNotSent("__invoke:p", 1), 0).records == []
    retried = machine.step(c.RetryTask("__invoke:p", 1), 0)
    assert (retried.records, len(retried.sends)) == ([], 1)
    assert len(machine.step(c.TaskSent("__invoke:p", 1), 0).records) == 1


def test_what_left_the_machine_does_not_change_any_more() -> None:
    machine = alone()
    tags = {"resonate:invoke": GROUP}
    created = machine.step(c.CreatePromise("p", NEVER, tags=tags, claim=ClaimRequest("w", 50)), 0)
    machine.step(c.DropTask("__invoke:p", 1), 0)

    assert isinstance(created.reply.task, Task)
    assert (created.reply.task.counter, created.reply.task.process_id) == (1, "w")


@pytest.mark.parametrize(
    ("now", "expected"), [(0, True), (9, True), (10, False), (20, False), (30, False)]
)
def test_a_task_is_held_exactly_as_long_as_its_lease_and_its_root_last(
    now: int, expected: bool
) -> None:
    """Whether or not anybody has looked at the deadline yet; and asking changes nothing."""
    for lease_until, root_timeout in ((10, NEVER), (NEVER, 10)):
        system = task_with_two_deadlines(lease_until, NEVER, root_timeout)
        fence = Fence("__resume:root:leaf", 1)
        before = outcome(system)
        machine = system.machines[0]
        assert machine.task_is_held(fence, now) is expected
        assert not machine.task_is_held(Fence("__resume:root:leaf", 2), now)
        assert outcome(system) == before


# Schedules


def due_schedule(
    cron: str, until: int, catch_up_count: int | None, slice_count: int = MISSED_SLICE_COUNT
) -> tuple[list[int], list[str]]:
    """The instants of the promises of a schedule that was down from 0 on; what was skipped."""
    machine = alone(
        Options(time_zone="UTC", catch_up_count=catch_up_count, missed_slice_count=slice_count)
    )
    created = machine.step(c.CreateSchedule("s", cron, "s.{{.timestamp}}", 0), 0)
    skipped: list[RunsSkipped] = []
    timers: dict[TimerKey, int | None] = dict(created.timers)
    key = (c.SCHEDULE_TIMER, "s")
    while (timers.get(key) or NEVER) <= until:
        step = machine.step(c.Expire(*key), until)
        timers.update(step.timers)
        skipped.extend(step.skipped)
    runs = [int(promise_id.removeprefix("s.")) for promise_id in machine.state.promises]
    return runs, [f"{one.first_ms}-{one.resumed_at_ms}" for one in skipped]


@pytest.mark.parametrize("slice_count", [1, 2, 20])
@pytest.mark.parametrize(
    ("cron", "until", "catch_up_count", "runs", "skipped"),
    [
        ("@every 10s", 9_999, 3, [], []),
        ("@every 10s", 10_000, 3, [10_000], []),
        ("@every 10s", 39_999, 3, [10_000, 20_000, 30_000], []),
        ("@every 10s", 45_000, 3, [20_000, 30_000, 40_000], ["10000-20000"]),
        ("@every 10s", 95_000, 1, [90_000], ["10000-90000"]),
        ("@every 10s", 95_000, 0, [], ["10000-100000"]),
        ("@every 10s", 45_000, None, [10_000, 20_000, 30_000, 40_000], []),
        ("*/10 * * * * *", 45_000, 3, [20_000, 30_000, 40_000], ["10000-20000"]),
        ("*/10 * * * * *", 95_000, 0, [], ["10000-100000"]),
    ],
)
def test_missed_runs_are_made_up_for_on_the_schedules_own_grid(
    cron: str,
    until: int,
    catch_up_count: int | None,
    runs: list[int],
    skipped: list[str],
    slice_count: int,
) -> None:
    assert due_schedule(cron, until, catch_up_count, slice_count) == (runs, skipped)


def test_many_missed_runs_are_made_up_for_in_slices() -> None:
    count = 2 * SCHEDULE_BATCH_COUNT + 1
    runs, skipped = due_schedule("@every 1s", count * 1_000, None)

    assert runs == [1_000 * number for number in range(1, count + 1)]
    assert skipped == []


@pytest.mark.parametrize("missed_count", [SCHEDULE_BATCH_COUNT, SCHEDULE_BATCH_COUNT + 1])
def test_the_rule_counts_again_when_all_missed_runs_have_been_made_up_for(
    missed_count: int,
) -> None:
    """Miss just as many runs as one call makes, and later more than are made up for."""
    machine = alone(Options(time_zone="UTC", catch_up_count=missed_count))
    machine.step(c.CreateSchedule("s", "@every 1s", "s.{{.timestamp}}", 0), 0)
    later = 10 * missed_count * 1_000
    skipped: list[RunsSkipped] = []
    for now_ms in (missed_count * 1_000, later):
        while (machine.state.schedules["s"].next_run_time or NEVER) <= now_ms:
            skipped.extend(machine.step(c.Expire(c.SCHEDULE_TIMER, "s"), now_ms).skipped)

    assert len(machine.state.promises) == 2 * missed_count
    assert [one.resumed_at_ms for one in skipped] == [later - (missed_count - 1) * 1_000]


def looked_for(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs are looked for in cron expressions, each time."""
    counts: list[int] = []
    for kind in Cron.__subclasses__():
        own = kind.latest_between_ms

        def noting_own(
            self: Cron, after_ms: int, until_ms: int, count: int, own: Any = own
        ) -> list[int]:
            counts.append(count)
            found: list[int] = own(self, after_ms, until_ms, count)
            return found

        monkeypatch.setattr(kind, "latest_between_ms", noting_own)
    return counts


def test_a_step_looks_for_few_missed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = looked_for(monkeypatch)
    runs, skipped = due_schedule("* * * * * *", 5_000_000, 1_000)

    assert (len(runs), runs[0], runs[-1]) == (1_000, 4_001_000, 5_000_000)
    assert skipped == ["1000-4001000"]
    assert (max(counts), sum(counts)) == (MISSED_SLICE_COUNT, 1_000)


def missing() -> Machine:
    """A machine with a schedule that was paused from 0 on, and would have run every second."""
    machine = alone(Options(time_zone="UTC"))
    machine.step(c.CreateSchedule("s", "* * * * * *", "s.{{.timestamp}}", 0), 0)
    machine.step(c.PauseSchedule("s"), 0)
    return machine


def test_resuming_counts_what_was_missed_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is answered by the last of them; until then the schedule is paused."""
    counts = looked_for(monkeypatch)
    machine = missing()
    step = machine.step(c.ResumeSchedule("s", "", 100), 500_000)
    while step.again is not None:
        assert step.records == []
        assert machine.state.schedules["s"].paused_on == 0
        step = machine.step(step.again, 500_000)

    assert step.reply.schedule is not None
    assert step.reply.schedule.next_run_time == 401_000
    assert [(one.first_ms, one.resumed_at_ms) for one in step.skipped] == [(1_000, 401_000)]
    assert (max(counts), sum(counts)) == (MISSED_SLICE_COUNT, 100)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (c.DeleteSchedule("s"), Code.SCHEDULE_NOT_FOUND),
        (c.ResumeSchedule("s"), Code.OK),
        (c.UpdateSchedule("s", description="another"), Code.OK),
    ],
)
def test_what_changes_while_missed_runs_are_counted_counts(change: c.Command, code: Code) -> None:
    machine = missing()
    step = machine.step(c.ResumeSchedule("s", "", 100), 500_000)
    machine.step(change, 500_000)
    while step.again is not None:
        step = machine.step(step.again, 500_000)

    assert step.reply.code is code
    schedule = step.reply.schedule
    if isinstance(change, c.ResumeSchedule):
        assert schedule is not None
        assert schedule.next_run_time == 1_000, "the other one resumed it, with all that it missed"
    elif schedule is not None:
        assert (schedule.description, schedule.next_run_time) == ("another", 401_000)


# The tables themselves


def test_nothing_leads_out_of_a_final_state() -> None:
    finals = (TaskState.COMPLETED, TaskState.TIMEDOUT)

    for (state, _), step in lifecycles.TASK.items():
        assert step.state != state
        assert state not in finals or step.state is None


def test_the_tables_of_promises_answer_every_case() -> None:
    both = (False, True)
    assert set(lifecycles.CREATE_EXISTING) == {
        (state, matches, strict) for state in PromiseState for matches in both for strict in both
    }
    assert set(lifecycles.COMPLETE) == {
        (state, matches, same, strict)
        for state in PromiseState
        for matches in both
        for same in both
        for strict in both
    }
    assert set(lifecycles.CREATE_EXISTING.values()) == {Code.OK, Code.PROMISE_EXISTS}


def test_a_promise_takes_only_so_many_callbacks() -> None:
    machine = Machine(
        0, lambda _: 0, iter(range(1, 100)).__next__, Options(callbacks_limit_count=2)
    )
    machine.step(c.CreatePromise("p", 1_000), 0)
    codes = [
        machine.step(c.CreateSubscription("p", name, 1_000, "poll://g"), 0).reply.code
        for name in ("a", "b", "c", "a")
    ]

    assert codes == [Code.CREATED, Code.CREATED, Code.TOO_MANY_CALLBACKS, Code.OK]
