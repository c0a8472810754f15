"""What is counted while the server runs is what has happened since its start, and no replay."""

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.helpers.scanned_counts import scan
from tests.helpers.seeds import seeds
from troth.core import commands as c
from troth.core import records as r
from troth.core.buckets import Buckets
from troth.core.catalog import is_reserved
from troth.core.deciding import Options
from troth.core.model import ClaimRequest, PromiseState, TaskState, Trace
from troth.core.state.activity import (
    LABELS_LIMIT_COUNT,
    OTHER,
    WAITS_LIMIT_COUNT,
    Activity,
    AttemptOutcome,
    Deleter,
    Firing,
    note_trace,
)
from troth.core.workflow_commands import (
    AcquireWorkflow,
    EnsurePromise,
    FulfillWorkflow,
    HaltWorkflow,
    ReleaseWorkflow,
    SuspendWorkflow,
)
from troth.core.workflows import WorkflowState

from .drive import Drive
from .function_drive import FunctionDrive
from .system import System
from .workflow_drive import WorkflowDrive

NEVER = 10**15
GROUP = "poll://any@g"
SAMPLED = Trace(f"00-{'a' * 32}-{'b' * 16}-01")


def started(shard_count: int = 1, options: Options | None = None) -> System:
    """An empty server at 1 s after 1970 that has started."""
    system = System(shard_count, options or Options(), now=1_000)
    system.start()
    return system


def of(system: System) -> Activity:
    """What its first machine counts, which others may share."""
    return system.machines[0].activity


def leases_of(activity: Activity) -> tuple[int, float]:
    """How many leases of known length have ended, and how long they were, in ms."""
    together = Buckets.together(list(activity.leases.values()))
    return together.count, together.sum


def live_records(system: System, steps_count: int) -> Iterator[r.Record]:
    """What was written after so many steps."""
    for step in system.log[steps_count:]:
        for _, body in step:
            yield r.decode(body)


def claimed_count(system: System) -> int:
    return sum(
        counted
        for machine in system.machines
        for counted in (
            machine.state.counts.tasks[TaskState.CLAIMED],
            machine.state.counts.function_leases[TaskState.CLAIMED],
            machine.state.counts.workflows[WorkflowState.ACQUIRED],
        )
    )


def promises_count(system: System) -> int:
    view = None if system.checkpoints is None else system.checkpoints.reader.view
    return sum(sum(scan(one.state, view).promises.values()) for one in system.machines)


@pytest.mark.slow
@pytest.mark.seeds
@pytest.mark.parametrize("makes_checkpoints", [False, True])
@pytest.mark.parametrize("kind", [Drive, FunctionDrive, WorkflowDrive])
@pytest.mark.parametrize("seed", seeds(950, 1, 4))
def test_counts_equal_a_scan(
    kind: type[Drive], seed: int, makes_checkpoints: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After random commands and crashes: of what is there, and what was written since the start."""
    at_start: dict[int, tuple[int, int, int]] = {}
    start = System.start

    def noting_start(system: System) -> None:
        at_start[id(system)] = promises_count(system), claimed_count(system), len(system.log)
        for machine in system.machines:
            machine.activity = of(system)
        start(system)

    monkeypatch.setattr(System, "start", noting_start)
    drive = kind(seed, 3, is_lazy=False, makes_checkpoints=makes_checkpoints)
    drive.system.start()
    for _ in range(20):
        drive.run(10)
        assert_counted(drive.system, *at_start[id(drive.system)])
    assert len(at_start) > 1, "it was restarted"


def assert_counted(
    system: System, before_count: int, claimed_before_count: int, steps_count: int
) -> None:
    """What was counted is what a scan finds."""
    activity = of(system)
    completed: Counter[PromiseState] = Counter()
    deleted_count = 0
    for record in live_records(system, steps_count):
        if isinstance(record, r.PromiseCompleted | r.CompletionBegun):
            completed[record.state] += not is_reserved(record.id)
        elif isinstance(record, r.PromisesDeleted):
            deleted_count += sum(not is_reserved(one) for one in record.ids)
    assert activity.created_count == promises_count(system) - before_count + deleted_count
    assert {
        state: buckets.count for state, buckets in activity.durations.items() if buckets.count
    } == {state: count for state, count in completed.items() if count}
    assert sum(activity.deleted.values()) == deleted_count
    assert activity.claims_count == (
        sum(map(activity.attempts_count, AttemptOutcome))
        + claimed_count(system)
        - claimed_before_count
    )
    assert all(activity.completed_otherwise(state) >= 0 for state in PromiseState)


def test_promises_are_counted_by_who_completed_them() -> None:
    system = started()
    for name in "abc":
        system.ask(c.CreatePromise(name, 5_000, trace=SAMPLED if name == "a" else None))
    system.now = 3_500
    system.ask(c.CompletePromise("a", PromiseState.REJECTED))
    system.now = 6_000
    system.fire_due()
    activity = of(system)
    assert activity.created_count == 3
    assert activity.timed_out[PromiseState.REJECTED_TIMEDOUT] == 2
    assert activity.completed_otherwise(PromiseState.REJECTED) == 1
    assert activity.completed_otherwise(PromiseState.REJECTED_TIMEDOUT) == 0
    durations = activity.durations[PromiseState.REJECTED]
    assert (durations.count, durations.sum) == (1, 2_500)
    assert list(durations.examples.values()) == [(2_500, "a" * 32)]
    assert activity.durations[PromiseState.REJECTED_TIMEDOUT].examples == {}


def test_a_replay_counts_nothing() -> None:
    system = started()
    system.ask(c.CreatePromise("a", NEVER, tags={"resonate:invoke": GROUP}))
    system.ask(c.ClaimTask("__invoke:a", 1, "w", 9_000))
    system.ask(c.CompletePromise("a", PromiseState.RESOLVED))
    assert of(system).completed_count == 1
    again = of(system.restarted())
    assert (again.created_count, again.completed_count, again.claims_count) == (0, 0, 0)
    assert again.attempts_count(AttemptOutcome.COMPLETED) == 0


def test_histograms_against_own_clock() -> None:
    """How long a task waits and is held, through a claim, a drop, a lost lease and a result."""
    system = started()
    of(system).label_of = lambda receiver: "g" if receiver == GROUP else OTHER
    system.ask(c.CreatePromise("a", NEVER, tags={"resonate:invoke": GROUP}))
    system.now += 2_000
    system.ask(c.ClaimTask("__invoke:a", 1, "w", 60_000))
    system.now += 500
    system.ask(c.DropTask("__invoke:a", 1))
    system.now += 4_000
    system.ask(c.ClaimTask("__invoke:a", 2, "w", 10_000))
    system.now += 9_000
    system.ask(c.HeartbeatTasks("w"))
    system.now += 11_000  # it ran out a second ago
    system.fire_due()
    system.ask(c.ClaimTask("__invoke:a", 3, "w", 10_000))
    system.now += 3_000
    system.ask(c.CompletePromise("a", PromiseState.RESOLVED))

    activity = of(system)
    waits = activity.waits["g"]
    assert (waits.count, waits.sum) == (3, 2_000 + 4_000 + 1_000)
    assert activity.waits[OTHER].count == 0
    assert leases_of(activity) == (3, 500 + 19_000 + 3_000)
    assert {outcome.value: activity.attempts_count(outcome) for outcome in AttemptOutcome} == {
        "completed": 1,
        "dropped": 1,
        "expired": 1,
        "released": 0,
    }
    durations = activity.durations[PromiseState.RESOLVED]
    assert (durations.count, durations.sum) == (1, 2_000 + 500 + 4_000 + 20_000 + 3_000)


def test_histograms_of_workflows_against_own_clock() -> None:
    system = started()
    tags = {"resonate:target": GROUP}
    system.ask(EnsurePromise("w", NEVER, tags=tags, trace=SAMPLED))
    system.ask(EnsurePromise("awaited", NEVER))
    system.now += 2_000
    system.ask(AcquireWorkflow("w", 0, "p", 60_000))
    system.now += 100
    system.ask(SuspendWorkflow("w", 1, ("awaited",)))
    system.now += 50_000
    system.ask(c.CompletePromise("awaited", PromiseState.RESOLVED))
    system.now += 3_000
    system.ask(AcquireWorkflow("w", 1, "p", 60_000))
    system.ask(ReleaseWorkflow("w", 2))
    system.ask(AcquireWorkflow("w", 2, "p", 60_000))
    system.now += 400
    system.ask(FulfillWorkflow("w", 3, PromiseState.RESOLVED))
    activity = of(system)
    waits = activity.waits[OTHER]
    assert (waits.count, waits.sum) == (3, 2_000 + 3_000 + 0)
    assert {trace_id for _, trace_id in waits.examples.values()} == {"a" * 32}
    assert leases_of(activity) == (3, 100 + 0 + 400)
    assert activity.attempts_count(AttemptOutcome.COMPLETED) == 2
    assert activity.attempts_count(AttemptOutcome.RELEASED) == 1


def test_an_attempt_that_an_operator_or_the_deadline_ends_is_one() -> None:
    system = started()
    for name in ("halted", "late"):
        system.ask(EnsurePromise(name, 9_000, tags={"resonate:target": GROUP}))
        system.ask(AcquireWorkflow(name, 0, "p", 60_000))
    system.ask(HaltWorkflow("halted"))
    system.now = 9_000
    system.fire_due()
    activity = of(system)
    assert activity.attempts_count(AttemptOutcome.RELEASED) == 1
    assert activity.attempts_count(AttemptOutcome.EXPIRED) == 1


def test_a_task_that_is_born_claimed_has_not_waited() -> None:
    system = started()
    tags = {"resonate:invoke": GROUP}
    system.ask(c.CreatePromise("a", NEVER, tags=tags, claim=ClaimRequest("w", 9_000)))
    system.now += 700
    system.ask(c.CompleteTask("__invoke:a", 1))
    activity = of(system)
    assert (activity.claims_count, activity.waits[OTHER].count) == (1, 0)
    assert leases_of(activity) == (1, 700)


def test_how_long_a_lease_was_held_is_unknown_after_a_restart() -> None:
    system = started()
    system.ask(c.CreatePromise("a", NEVER, tags={"resonate:invoke": GROUP}))
    system.ask(c.ClaimTask("__invoke:a", 1, "w", 60_000))
    system = System(1, Options(), system.log, system.now)
    system.machines[0].state.tasks["__invoke:a"].since = None  # as a checkpoint gives it back
    system.start()
    system.ask(c.CompleteTask("__invoke:a", 1))
    assert of(system).attempts_count(AttemptOutcome.COMPLETED) == 1
    assert leases_of(of(system)) == (0, 0)


def test_runs_of_schedules_are_counted_with_their_lateness() -> None:
    system = started()
    system.ask(c.CreateSchedule("s", "* * * * *", "p{{.timestamp}}", 9_000))
    system.ask(c.CreatePromise("p120000", NEVER))
    for at in (60_250, 120_000):
        system.now = at
        system.fire_due()
    activity = of(system)
    assert activity.fired[Firing.CREATED] == activity.fired[Firing.EXISTED] == 1
    assert (activity.lateness.count, activity.lateness.sum) == (2, 250)
    assert (activity.created_count, activity.scheduled_count) == (2, 1)
    system.now = 60_000 * 5_000
    system.fire_due()
    assert activity.fired[Firing.MISSED] == 1


def test_deleted_promises_are_counted_by_who_deleted_them() -> None:
    system = started()
    system.ask(c.CreatePromise("a", NEVER))
    system.ask(c.CompletePromise("a", PromiseState.RESOLVED))
    system.ask(c.DeletePromise("a"))
    assert of(system).deleted == {Deleter.CLIENT: 1, Deleter.RETENTION: 0, Deleter.BULK: 0}


def test_receivers_have_few_histograms() -> None:
    activity = Activity()
    activity.label_of = str
    for number in range(LABELS_LIMIT_COUNT + 100):
        activity.find_waits(f"r{number}").add(50)
        activity.find_waits({"type": number}).add(70)
    assert len(activity.waits) == WAITS_LIMIT_COUNT
    assert activity.claims_count == 2 * (LABELS_LIMIT_COUNT + 100)
    assert activity.waits_of["r3"] is activity.waits["r3"], "its label is remembered"
    assert len(activity.waits_of) == LABELS_LIMIT_COUNT


@pytest.mark.parametrize(
    "text",
    [
        f"00-{'a' * 32}-{'b' * 16}-00",
        f'00-{"a" * 30}"\n-{"b" * 16}-01',
        f"00-{'A' * 32}-{'b' * 16}-01",
        "x",
    ],
)
def test_what_is_no_sampled_trace_is_no_example(text: str) -> None:
    buckets = Buckets((1, 2))
    note_trace(buckets, 1, Trace(text))
    assert buckets.examples == {}
