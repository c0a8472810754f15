"""Slices of bulk jobs: how much one does, what it leaves alone, and what a crash leaves."""

from typing import Any

import pytest

from tests.twins.memory_store import MemoryStore
from troth.core import commands as c
from troth.core import records as r
from troth.core.bulk import (
    BulkAction,
    BulkCounts,
    BulkFilter,
    BulkJob,
    BulkPart,
    BulkReport,
    BulkState,
    BulkSubject,
)
from troth.core.codes import Code
from troth.core.deciding import DecisionContext
from troth.core.limits import BULK_EFFECTS_COUNT, COMPLETION_SLICE_COUNT, INTEGER_MAX
from troth.core.model import PromiseState, Value, replace

from .system import System

FAR_MS = INTEGER_MAX
PENDING = (PromiseState.PENDING.value,)
ALL = tuple(state.value for state in PromiseState)
NOW_MS = 5_000


def system_of(*ids: str, shard_count: int = 1) -> System:
    """A server that has these promises."""
    system = System(shard_count, now=NOW_MS)
    create(system, *ids)
    return system


def create(
    system: System, *ids: str, timeout: int = FAR_MS, tags: dict[str, str] | None = None
) -> None:
    for name in ids:
        system.ask(c.CreatePromise(name, timeout, tags=tags))


def start(system: System, pattern: str = "*", **fields: Any) -> BulkJob:
    """A job that cancels what is pending, unless told otherwise."""
    job = BulkJob(
        *("j", 1, system.now, "", "anna", BulkSubject.PROMISES, BulkAction.CANCEL),
        *(BulkFilter(pattern, PENDING), {"id": pattern}, 1_000, (system.serial,)),
    )
    job = replace(job, **fields)
    assert system.ask(c.CreateEntry(job)).code is Code.CREATED
    return job


def run(
    system: System, index: int = 0, limit_count: int = 50, *, passes_over: bool = False
) -> BulkReport:
    """Carry out a slice."""
    report = system.tell(index, c.RunBulk("j", limit_count, 1_000, passes_over)).reply.bulk
    assert report is not None
    return report


def states(system: System) -> dict[str, str]:
    return {one.id: one.state.value for one in system.promises()}


def test_a_slice_is_one_batch_of_the_log() -> None:
    """So a crash leaves what was done and how far the job is, or neither."""
    system = system_of("a", "b", "c")
    start(system)
    steps_count = len(system.log)
    report = run(system, limit_count=2)
    (step,) = system.log[steps_count:]
    records = [r.decode(body) for _, body in step]
    assert [type(one) for one in records] == [
        *(r.PromiseCompleted, r.PromiseCompleted, r.BulkAdvanced)
    ]
    assert report.counts == BulkCounts(2)
    for kept_count in (steps_count, steps_count + 1):
        after = system.restarted(kept_count)
        while run(after).places is not None:
            pass
        assert set(states(after).values()) == {"REJECTED_CANCELED"}
        assert after.machines[0].state.bulk_parts["j"] == BulkPart(None, BulkCounts(3))


def test_what_is_made_later_is_left_alone() -> None:
    """Whatever the clock says: it is set back between the job's start and the next create."""
    system = system_of("a", "b")
    start(system)
    system.now -= 3_000
    create(system, "c")
    assert run(system).places is None
    assert states(system)["c"] == "PENDING"
    assert states(system)["a"] == states(system)["b"] == "REJECTED_CANCELED"


def test_what_has_completed_since_the_start_was_pending_then() -> None:
    """A job on resolved promises does not reach what is resolved while it runs."""
    system = system_of("a", "b")
    system.ask(c.CompletePromise("a", PromiseState.RESOLVED))
    resolved = (PromiseState.RESOLVED.value,)
    start(system, filter=BulkFilter("*", resolved))
    system.now += 1
    system.ask(c.CompletePromise("b", PromiseState.RESOLVED))
    assert run(system).counts == BulkCounts(skipped={"completed": 1})


def test_a_timeout_that_has_passed_comes_first() -> None:
    system = system_of("a")
    create(system, "short", timeout=NOW_MS + 10)
    start(system, filter=BulkFilter("*", ALL))
    system.now += 10
    assert run(system).counts == BulkCounts(1, skipped={"completed": 1})
    assert states(system) == {"a": "REJECTED_CANCELED", "short": "REJECTED_TIMEDOUT"}


def test_a_prefix_and_an_exact_id_bound_what_is_touched() -> None:
    system = system_of("a/1", "a/2", "b/1", shard_count=4)
    start(system, "*1", id_prefix="a/")
    for index in range(4):
        assert run(system, index).places is None
    assert states(system) == {"a/1": "REJECTED_CANCELED", "a/2": "PENDING", "b/1": "PENDING"}
    system = system_of("a", "b", shard_count=4)
    start(system, "b")
    counts = [run(system, index).counts.done_count for index in range(4)]
    assert sorted(counts) == [0, 0, 0, 1]
    assert states(system) == {"a": "PENDING", "b": "REJECTED_CANCELED"}


def test_promises_get_the_value_and_wake_who_waits() -> None:
    """As single completions do, also those that go on in slices of their own."""
    value = Value({"why": "x"}, "aGk=")
    system = system_of("a", "root")
    waiters_count = COMPLETION_SLICE_COUNT + 10
    for number in range(waiters_count):
        name = f"s{number}"
        system.ask(c.CreateSubscription("a", name, FAR_MS, "poll://any@g"))
    start(system, "a", value=value, action=BulkAction.RESOLVE)
    assert run(system).counts == BulkCounts(1)
    promise = system.machines[0].state.promises["a"]
    assert (promise.state, promise.value, promise.key_for_complete) == (
        *(PromiseState.RESOLVED, value, None),
    )
    assert len(system.tasks()) == waiters_count
    assert not system.machines[0].state.callbacks
    assert not system.machines[0].state.completions


def test_a_slice_ends_when_enough_hangs_on_what_it_completes() -> None:
    """Much more would take too long for one step."""
    ids = [f"p{number:02}" for number in range(20)]
    system = system_of(*ids)
    for name in ids:
        for number in range(10):
            system.ask(c.CreateSubscription(name, f"s{number}", FAR_MS, "poll://any@g"))
    start(system)
    report = run(system)
    assert report.acts_count == BULK_EFFECTS_COUNT // 10
    assert report.places is not None
    assert run(system).acts_count == 20 - report.acts_count


def test_what_fails_costs_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect with one promise stops neither the others nor the server."""
    system = system_of("a", "b", "c")
    create(system, "short", timeout=NOW_MS + 10)
    start(system)
    system.now += 10  # a timeout is settled in the same step
    complete = DecisionContext.complete

    def failing(context: DecisionContext, record: r.PromiseCompleted) -> Any:
        if record.id == "b":
            raise ZeroDivisionError
        return complete(context, record)

    monkeypatch.setattr(DecisionContext, "complete", failing)
    report = run(system)
    assert report.counts == BulkCounts(1), "c is done, and the slice ends before b"
    with pytest.raises(ZeroDivisionError):
        run(system)
    assert system.machines[0].is_clean
    report = run(system, passes_over=True)
    assert report.counts == BulkCounts(1, 1)
    assert run(system).counts == BulkCounts(2, 1)
    assert states(system)["b"] == "PENDING"
    assert states(system)["a"] == states(system)["c"] == "REJECTED_CANCELED"


def test_an_error_with_the_first_is_raised_when_nothing_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the look at the shard has settled a timeout: then that is all the slice does."""
    system = system_of("b")
    create(system, "short", timeout=NOW_MS + 10)
    start(system)
    system.now += 10
    complete = DecisionContext.complete

    def failing(context: DecisionContext, record: r.PromiseCompleted) -> Any:
        if record.id == "b":
            raise ZeroDivisionError
        return complete(context, record)

    monkeypatch.setattr(DecisionContext, "complete", failing)
    report = run(system)
    assert report.counts == BulkCounts()
    assert report.places is not None
    with pytest.raises(ZeroDivisionError):
        run(system)
    assert system.machines[0].is_clean


def test_a_job_that_has_ended_does_nothing() -> None:
    system = system_of("a")
    job = start(system)
    stopped = replace(job, revision=2, state=BulkState.STOPPED)
    system.ask(c.ReplaceEntry(stopped))
    for command in (c.RunBulk("j", 1, 1), c.CountBulk("j", (9,), 1), c.RunBulk("x", 1, 1)):
        assert system.tell(0, command).reply.code is Code.BULK_ENDED
    assert states(system) == {"a": "PENDING"}


def test_progress_that_is_noted_again_counts_once() -> None:
    """Its answer may have been lost between two processes."""
    system = system_of("a")
    start(system)
    for _ in range(2):
        report = system.tell(0, c.AdvanceBulk("j", (7, 9), BulkCounts(3))).reply.bulk
        assert report is not None
        assert (report.places, report.counts) == ((7, 9), BulkCounts(3))
    report = system.tell(0, c.AdvanceBulk("j", None, BulkCounts(1))).reply.bulk
    assert report is not None
    assert report.counts == BulkCounts(4)


def test_a_shard_forgets_its_part_once() -> None:
    system = system_of("a")
    start(system)
    run(system)
    assert set(dict(system.tell(0, c.ReadBulk()).reply.bulk_parts)) == {"j"}
    assert len(system.tell(0, c.CloseBulk("j")).records) == 1
    assert system.tell(0, c.CloseBulk("j")).records == []
    assert system.tell(0, c.ReadBulk()).reply.bulk_parts == ()


def deleting(system: System, pattern: str = "*") -> BulkJob:
    """A job that deletes whatever may go."""
    return start(system, action=BulkAction.DELETE, filter=BulkFilter(pattern, ALL))


def test_what_may_go_is_deleted_and_the_rest_is_passed_over() -> None:
    """As when a client deletes a single one."""
    system = system_of("done", "pending", "told", "flow")
    create(system, "flow.1", tags={"resonate:origin": "flow"})
    create(system, "flow.1.1", tags={"resonate:origin": "flow.1"})
    system.ask(c.CreateSubscription("told", "s", FAR_MS, "poll://any@g"))
    for name in ("done", "told", "flow.1", "flow.1.1"):
        system.ask(c.CompletePromise(name, PromiseState.RESOLVED))
    job = deleting(system)
    skipped = {"originPending": 2, "pending": 2, "inUse": 1}
    counted = system.tell(0, c.CountBulk(job.id, job.start, 1_000)).reply.bulk
    assert counted is not None
    assert counted.counts == BulkCounts(1, 0, skipped)
    assert run(system).counts == counted.counts
    assert set(states(system)) == {"pending", "told", "flow", "flow.1", "flow.1.1"}
    system.ask(c.CompletePromise("flow", PromiseState.RESOLVED))
    system.ask(c.CreateEntry(replace(job, id="j2")))
    again = system.tell(0, c.RunBulk("j2", 50, 1_000)).reply.bulk
    assert again is not None
    assert again.counts == BulkCounts(3, 0, {"pending": 1, "inUse": 1})


def test_a_deletion_waits_while_a_completion_is_under_way() -> None:
    """Its tasks may be about any promise; then nothing is passed over for that."""
    system = system_of("done", "large")
    system.ask(c.CompletePromise("done", PromiseState.RESOLVED))
    for number in range(COMPLETION_SLICE_COUNT + 1):
        system.ask(c.CreateSubscription("large", f"s{number}", FAR_MS, "poll://any@g"))
    job = deleting(system, "done")
    machine = system.machines[0]
    begun = machine.step(c.CompletePromise("large", PromiseState.RESOLVED), system.now)
    assert begun.again is not None
    waiting = machine.step(c.RunBulk("j", 50, 1_000), system.now).reply.bulk
    assert waiting == BulkReport(job.start, BulkCounts())
    counting = machine.step(c.CountBulk("j", job.start, 1_000), system.now).reply.bulk
    assert counting == BulkReport(job.start, BulkCounts())
    while begun.again is not None:
        begun = machine.step(begun.again, system.now)
    after = machine.step(c.RunBulk("j", 50, 1_000), system.now).reply.bulk
    assert after is not None
    assert after.counts == BulkCounts(1)


def test_schedules_are_paused_resumed_and_deleted() -> None:
    system = System(1, now=NOW_MS)
    for name in ("a/1", "a/2", "b/1"):
        made = "b.{{.timestamp}}" if name == "a/2" else "{{.id}}.{{.timestamp}}"
        system.ask(c.CreateSchedule(name, "* * * * *", made, 60_000))
    given: dict[str, Any] = {
        "subject": BulkSubject.SCHEDULES,
        "filter": BulkFilter("*"),
        "id_prefix": "a/",
    }
    found = system.machines[0].state.schedules

    def paused() -> set[str]:
        return {one.id for one in found.values() if one.paused_on is not None}

    start(system, action=BulkAction.PAUSE, **given)
    system.ask(c.CreateSchedule("a/3", "* * * * *", "{{.id}}", 60_000))
    assert run(system).counts == BulkCounts(2)
    assert paused() == {"a/1", "a/2"}
    jobs = ((BulkAction.PAUSE, 1, {"paused": 2}), (BulkAction.RESUME, 2, {"forbidden": 1}))
    for number, (action, done_count, skipped) in enumerate(jobs):
        job = start(system, id=f"n{number}", action=action, **given)
        report = system.tell(0, c.RunBulk(job.id, 50, 1_000)).reply.bulk
        assert report is not None
        assert report.counts == BulkCounts(done_count, 0, skipped)
    assert paused() == {"a/2"}
    again = start(system, id="again", action=BulkAction.RESUME, **given)
    report = system.tell(0, c.RunBulk(again.id, 50, 1_000)).reply.bulk
    assert report is not None
    assert report.counts == BulkCounts(0, 0, {"notPaused": 2, "forbidden": 1})
    start(system, id="end", action=BulkAction.DELETE, **given)
    system.tell(0, c.RunBulk("end", 50, 1_000))
    assert set(found) == {"b/1"}


def test_a_checkpoint_keeps_how_far_a_shard_is() -> None:
    """The log before it is gone then."""
    system = System(1, now=NOW_MS, store=MemoryStore())
    create(system, "a", "b", "c")
    start(system)
    run(system, limit_count=2)
    system.capture(0)
    system.write_checkpoint()
    system.renew()
    system.evict()
    after = system.restarted()
    assert after.machines[0].state.bulk_parts["j"].counts == BulkCounts(2)
    assert run(after).counts == BulkCounts(3)
    assert set(states(after).values()) == {"REJECTED_CANCELED"}
