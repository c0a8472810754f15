"""Heartbeats in slices: commands that come between two of them find every lease renewed.

The steps are made by hand, so that others come in between.
"""

import pytest

from troth.core import commands as c
from troth.core import records as r
from troth.core import workflow_commands as w
from troth.core.codes import Code
from troth.core.deciding import Options
from troth.core.decisions.workflow_views import guard
from troth.core.limits import INTEGER_MAX
from troth.core.machine import Machine, Step
from troth.core.model import ClaimRequest, Fence, TaskState, replace
from troth.core.workflows import ACQUIRED, WAITING, WorkflowFence

HELD_COUNT = 10
SLICE_COUNT = 3
TTL_MS = 1_000
BEAT_MS = 999
LATE_MS = 1_500
"""After the leases have ended, if they were not renewed at the time of the heartbeat."""


class Held:
    """A shard in which one process holds tasks and locks, all from the time 0.

    The promise number `short` ends with the heartbeat.
    """

    def __init__(self, short: int | None = None) -> None:
        options = Options(heartbeat_slice_count=SLICE_COUNT)
        self.serial = 0
        self.machine = Machine(0, lambda _: 0, self._next_serial, options)
        for number in range(HELD_COUNT):
            self.step(
                0,
                c.CreatePromise(
                    f"p{number}",
                    BEAT_MS if number == short else INTEGER_MAX,
                    tags={"resonate:invoke": "poll://g"},
                    claim=ClaimRequest("w", TTL_MS),
                ),
            )
            self.step(0, c.AcquireLock(f"l{number}", "e", "w", TTL_MS))

    def _next_serial(self) -> int:
        self.serial += 1
        return self.serial

    def step(self, now_ms: int, command: c.Command) -> Step:
        return self.machine.step(command, now_ms)

    def begun(self, command: c.Command) -> c.Command:
        """Make the first step of a heartbeat; return what carries on with it."""
        step = self.step(BEAT_MS, command)
        assert len(step.records) == SLICE_COUNT
        assert step.again is not None
        return step.again

    def finish(self, now_ms: int, again: c.Command | None) -> Step:
        step = None
        while again is not None:
            step = self.step(now_ms, again)
            assert len(step.records) <= SLICE_COUNT
            again = step.again
        assert step is not None
        return step

    def task_ends(self) -> set[int]:
        held = self.machine.state.claimed.get("w", {}).values()
        return {task.expires_at for task in held}

    def lock_ends(self) -> set[int]:
        return {lock.expires_at for lock in self.machine.state.locks.values()}


def test_every_lease_counts_from_the_time_of_the_heartbeat() -> None:
    held = Held()
    tasks, locks = held.begun(c.HeartbeatTasks("w")), held.begun(c.HeartbeatLocks("w"))
    for again in (tasks, locks):
        step = held.finish(LATE_MS, again)
        assert step.reply.code is Code.OK
        assert step.reply.count == HELD_COUNT
    assert held.task_ends() == held.lock_ends() == {BEAT_MS + TTL_MS}


def test_timers_that_come_between_two_slices_end_no_lease() -> None:
    held = Held()
    tasks, locks = held.begun(c.HeartbeatTasks("w")), held.begun(c.HeartbeatLocks("w"))
    for number in range(HELD_COUNT):
        held.step(LATE_MS, c.Expire(c.TASK_TIMER, f"__invoke:p{number}"))
        held.step(LATE_MS, c.Expire(c.LOCK_TIMER, f"l{number}"))
    assert len(held.machine.state.claimed["w"]) == len(held.machine.state.locks) == HELD_COUNT
    assert held.task_ends() == held.lock_ends() == {BEAT_MS + TTL_MS}
    assert held.finish(LATE_MS, tasks).reply.count == HELD_COUNT
    assert held.finish(LATE_MS, locks).reply.count == HELD_COUNT


@pytest.mark.parametrize("place", range(0, HELD_COUNT, SLICE_COUNT))
def test_a_completion_that_begins_within_a_slice_does_not_end_the_heartbeat(place: int) -> None:
    held = Held(short=place)
    machine = held.machine
    machine.options = replace(machine.options, completion_slice_count=1)
    promise_id = f"p{place}"
    for name in ("first", "second", "third"):
        held.step(0, c.CreateSubscription(promise_id, name, INTEGER_MAX, "poll://g"))
    step = held.step(BEAT_MS, c.HeartbeatTasks("w"))
    while step.again is not None:
        step = held.step(LATE_MS, step.again)
    assert step.reply.count == HELD_COUNT - 1
    assert held.task_ends() == {BEAT_MS + TTL_MS}
    assert machine.state.completions == {}
    assert len(machine.state.notifications) == 3
    assert machine.state.task_beats.last("w", promise_id, INTEGER_MAX, TTL_MS) is None


def test_others_find_the_leases_renewed() -> None:
    """A fence holds, a worker may complete its task, and a lock is refused."""
    held = Held()
    held.begun(c.HeartbeatTasks("w"))
    held.begun(c.HeartbeatLocks("w"))
    last = HELD_COUNT - 1
    assert held.machine.task_is_held(Fence(f"__invoke:p{last}", 1), LATE_MS)
    assert not held.machine.task_is_held(Fence(f"__invoke:p{last}", 1), BEAT_MS + TTL_MS)
    asked = held.step(LATE_MS, c.AcquireLock(f"l{last}", "other", "v", TTL_MS))
    assert asked.reply.code is Code.LOCK_HELD
    done = held.step(LATE_MS, c.CompleteTask(f"__invoke:p{last}", 1))
    assert done.reply.code is Code.CREATED


def test_a_lease_that_had_run_out_is_not_revived() -> None:
    held = Held()
    tasks = held.step(TTL_MS, c.HeartbeatTasks("w"))
    locks = held.step(TTL_MS, c.HeartbeatLocks("w"))
    assert held.finish(TTL_MS, tasks.again).reply.count == 0
    assert held.finish(TTL_MS, locks.again).reply.count == 0
    assert held.machine.state.claimed == {}
    assert held.machine.state.locks == {}


def test_what_is_not_within_the_prefix_ends() -> None:
    held = Held()
    tasks = held.begun(c.HeartbeatTasks("w", "p")), held.begun(c.HeartbeatTasks("w", ""))
    held.step(BEAT_MS, c.AcquireLock("other", "e", "w", 1))
    locks = held.begun(c.HeartbeatLocks("w", "l"))
    asked = held.step(LATE_MS, c.AcquireLock("other", "f", "v", TTL_MS))
    assert asked.reply.code is Code.CREATED
    assert held.finish(LATE_MS, locks).reply.count == HELD_COUNT
    for again in tasks:
        assert held.finish(LATE_MS, again).reply.count == HELD_COUNT


@pytest.mark.parametrize("kind", [c.HeartbeatTasks, c.HeartbeatLocks])
def test_nothing_is_noted_when_the_heartbeat_is_over(
    kind: type[c.HeartbeatTasks | c.HeartbeatLocks],
) -> None:
    """A lease that begins to end after that ends as any other."""
    held = Held()
    held.finish(BEAT_MS, held.begun(kind("w")))
    at = BEAT_MS + TTL_MS
    held.step(at, c.Expire(c.TASK_TIMER, "__invoke:p9"))
    held.step(at, c.Expire(c.LOCK_TIMER, "l9"))
    task = held.machine.state.find_task("__invoke:p9")
    assert task is not None
    assert task.state is not TaskState.CLAIMED
    assert "l9" not in held.machine.state.locks


def test_a_step_back_of_the_clock_ends_what_is_under_way() -> None:
    """Every lease begins again then; none is renewed to a time that has not come yet."""
    held = Held()
    tasks, locks = held.begun(c.HeartbeatTasks("w")), held.begun(c.HeartbeatLocks("w"))
    held.step(-9_000, c.ResumeTime(was_set_back=True))
    held.step(-9_000, c.RearmTimers(tuple(key for key, _ in held.machine.deadlines())))
    for again in (tasks, locks):
        assert held.finish(-9_000, again).reply.count == HELD_COUNT
    assert held.task_ends() == held.lock_ends() == {-9_000 + TTL_MS}


def test_the_slices_are_records_like_any_renewals() -> None:
    held = Held()
    step = held.step(BEAT_MS, c.HeartbeatTasks("w"))
    assert [type(record) for record in step.records] == [r.TaskClaimed] * SLICE_COUNT
    step = held.step(BEAT_MS, c.HeartbeatLocks("w"))
    assert [type(record) for record in step.records] == [r.LockAcquired] * SLICE_COUNT


# Workflow tasks, which a heartbeat names


def held_workflows() -> tuple[Held, c.Command]:
    """A process holds workflow tasks, too; the command that renews them."""
    held = Held()
    tasks = tuple((f"w{number}", 1) for number in range(HELD_COUNT))
    for workflow_id, _ in tasks:
        tags = {"resonate:target": "poll://any@g"}
        held.step(0, w.CreateWorkflow(workflow_id, INTEGER_MAX, "w", TTL_MS, tags=tags))
    return held, w.RenewWorkflows("w", (*tasks, ("missing", 1), ("w0", 2)))


def workflow_ends(held: Held) -> set[int]:
    return {one.expires_at for one in held.machine.state.workflows.values()}


def finish_renewals(held: Held, now_ms: int, step: Step) -> Step:
    slices_count = 1
    while step.again is not None:
        step = held.step(now_ms, step.again)
        slices_count += 1
    assert slices_count == -(-(HELD_COUNT + 2) // SLICE_COUNT)
    return step


def test_named_leases_count_from_the_time_of_the_heartbeat() -> None:
    held, renew = held_workflows()
    step = held.step(BEAT_MS, renew)
    assert len(workflow_ends(held)) == 2, "most are to come"
    step = finish_renewals(held, LATE_MS, step)
    assert (step.reply.code, step.reply.count) == (Code.OK, HELD_COUNT)
    assert workflow_ends(held) == {BEAT_MS + TTL_MS}
    last = held.machine.state.workflows[f"w{HELD_COUNT - 1}"]
    assert held.machine.state.workflow_beats.last(last, INTEGER_MAX) is None


def test_whoever_comes_between_two_slices_finds_named_leases_renewed() -> None:
    held, renew = held_workflows()
    step = held.step(BEAT_MS, renew)
    for number in range(5, HELD_COUNT):
        held.step(LATE_MS, c.Expire(c.WORKFLOW_TIMER, f"w{number}"))
    fence = WorkflowFence("w4", 1)
    assert guard(held.machine, fence, LATE_MS) is Code.OK
    assert guard(held.machine, fence, BEAT_MS + TTL_MS) is Code.WORKFLOW_STATE
    refused = held.step(LATE_MS, w.AcquireWorkflow("w3", 1, "other", TTL_MS))
    assert refused.reply.code is Code.WORKFLOW_STATE
    step = finish_renewals(held, LATE_MS, step)
    assert step.reply.count == HELD_COUNT
    assert workflow_ends(held) == {BEAT_MS + TTL_MS}


def test_a_named_lease_that_had_run_out_is_not_revived() -> None:
    held, renew = held_workflows()
    step = finish_renewals(held, TTL_MS, held.step(TTL_MS, renew))
    assert step.reply.count == 0
    assert {one.state for one in held.machine.state.workflows.values()} == {WAITING}


def test_a_lease_ends_that_a_heartbeat_under_way_does_not_name() -> None:
    """Another process's heartbeat, another version, or a task that is not named."""
    held, renew = held_workflows()
    others = tuple((f"w{number}", 2) for number in range(HELD_COUNT))
    held.step(BEAT_MS, w.RenewWorkflows("w", others))
    held.step(BEAT_MS, replace(renew, pid="other"))
    held.step(BEAT_MS, w.RenewWorkflows("w", (*others[:SLICE_COUNT], ("w8", 1))))
    for number in range(HELD_COUNT):
        held.step(LATE_MS, c.Expire(c.WORKFLOW_TIMER, f"w{number}"))
    acquired = [one.id for one in held.machine.state.workflows.values() if one.state is ACQUIRED]
    assert acquired == ["w8"]
    held.step(LATE_MS, c.ResumeTime(was_set_back=True))
    assert held.machine.state.workflow_beats.last(held.machine.state.workflows["w8"], 10**9) is None
