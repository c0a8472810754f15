"""Heartbeats of a process that may name only some ids: nothing else of it is kept alive."""

from troth.core import commands as c
from troth.core.limits import INTEGER_MAX
from troth.core.model import ClaimRequest, TaskState

from .system import System

PROCESS = "w"


def test_only_tasks_within_the_prefix_keep_their_leases() -> None:
    system = System(1)
    for promise_id in ("mine/1", "mine/2", "yours/1"):
        tags = {"resonate:invoke": "poll://g"}
        claim = ClaimRequest(PROCESS, 100)
        system.ask(c.CreatePromise(promise_id, INTEGER_MAX, tags=tags, claim=claim))
    system.let_time_pass(60)
    assert system.ask(c.HeartbeatTasks(PROCESS, "mine/")).count == 2
    assert system.ask(c.HeartbeatTasks(PROCESS, "nobodys/")).count == 0

    system.let_time_pass(120)
    for one in (system, system.restarted()):
        held = {task.id for task in one.tasks() if task.state is TaskState.CLAIMED}
        assert held == {"__invoke:mine/1", "__invoke:mine/2"}
    assert system.ask(c.HeartbeatTasks(PROCESS)).count == 2


def test_only_locks_within_the_prefix_are_kept() -> None:
    system = System(1)
    for resource_id in ("mine/1", "mine/2", "yours/1"):
        system.ask(c.AcquireLock(resource_id, "e", PROCESS, 100))
    system.let_time_pass(60)
    assert system.ask(c.HeartbeatLocks(PROCESS, "mine/")).count == 2
    assert system.ask(c.HeartbeatLocks(PROCESS, "nobodys/")).count == 0

    system.let_time_pass(120)
    for one in (system, system.restarted()):
        assert set(one.machines[0].state.locks) == {"mine/1", "mine/2"}
    assert system.ask(c.HeartbeatLocks(PROCESS)).count == 2


def test_the_leases_of_other_processes_are_not_kept() -> None:
    system = System(1)
    for process in (PROCESS, "another"):
        tags = {"resonate:invoke": "poll://g"}
        claim = ClaimRequest(process, 100)
        system.ask(c.CreatePromise(f"p/{process}", INTEGER_MAX, tags=tags, claim=claim))
        system.ask(c.AcquireLock(f"l/{process}", "e", process, 100))
    system.let_time_pass(60)
    assert system.ask(c.HeartbeatTasks(PROCESS)).count == 1
    assert system.ask(c.HeartbeatLocks(PROCESS)).count == 1

    system.let_time_pass(120)
    for one in (system, system.restarted()):
        held = {task.id for task in one.tasks() if task.state is TaskState.CLAIMED}
        assert held == {f"__invoke:p/{PROCESS}"}
        assert set(one.machines[0].state.locks) == {f"l/{PROCESS}"}
