"""Leases at their ends, also after an absence of the server."""

from troth.core import commands as c
from troth.core.codes import Code
from troth.core.commands import PROMISE_TIMER, TASK_TIMER
from troth.core.model import ClaimRequest, PromiseState, TaskState

from .system import System


def test_a_lease_that_an_absence_stretches_to_its_promises_end_is_ended_by_that() -> None:
    """The timer of the lease is left over; it looks, changes nothing, and is not set again."""
    system = System(1)
    claim = ClaimRequest("w", 100)
    system.ask(c.CreatePromise("p", 1_000, tags={"resonate:invoke": "poll://g"}, claim=claim))
    (task,) = system.tasks()
    system.now = 950
    system.resume_time()
    assert system.timers[0] == {(TASK_TIMER, task.id): 100, (PROMISE_TIMER, "p"): 1_000}

    system.fire(TASK_TIMER, task.id, 0)
    assert system.timers[0] == {(PROMISE_TIMER, "p"): 1_000}
    assert [one.state for one in system.tasks()] == [TaskState.CLAIMED]

    system.let_time_pass(1_000)
    assert [one.state for one in system.tasks()] == [TaskState.COMPLETED]
    assert [one.state for one in system.promises()] == [PromiseState.REJECTED_TIMEDOUT]


def test_a_lock_is_free_at_the_moment_at_which_it_ends() -> None:
    """A client that asks then gets it, also if the timer has not been looked at yet."""
    system = System(1)
    system.ask(c.AcquireLock("l", "one", "w", 100))
    system.now = 99
    assert system.ask(c.AcquireLock("l", "another", "v", 100)).code is Code.LOCK_HELD

    system.now = 100
    assert system.ask(c.AcquireLock("l", "another", "v", 100)).code is Code.CREATED
