"""Workflow tasks case by case (envelope.md 5 to 7). `System` checks the general rules."""

import pytest

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.codes import Code
from troth.core.limits import (
    COMPLETION_SLICE_COUNT,
    INTEGER_MAX,
    LEASE_LEAST_MS,
    UNBLOCK_LIMIT_MS,
    WORKFLOW_RETRY_MS,
)
from troth.core.model import PromiseState, Value
from troth.core.replies import ExecuteMessage, Reply, UnblockMessage
from troth.core.workflows import WorkflowFence, WorkflowState, execute_key

from .system import System

GROUP = "poll://any@g"
TARGET = {"resonate:target": GROUP}
LONG_MS = 60_000
RESOLVED, TIMEDOUT = PromiseState.RESOLVED, PromiseState.REJECTED_TIMEDOUT


@pytest.fixture(params=[1, 4])
def system(request: pytest.FixtureRequest) -> System:
    """One shard, or four, at time 0."""
    return System(request.param)


def ensure(system: System, promise_id: str, timeout: int = INTEGER_MAX, **tags: str) -> Reply:
    """A promise; `target=True` gives it a task."""
    names = {f"resonate:{name}": value for name, value in tags.items()}
    return system.ask(w.EnsurePromise(promise_id, timeout, tags=names or None))


def run(system: System, workflow_id: str, pid: str = "p", ttl: int = LONG_MS) -> Reply:
    """A workflow that begins here."""
    return system.ask(w.CreateWorkflow(workflow_id, INTEGER_MAX, pid, ttl, tags=TARGET))


def acquire(system: System, workflow_id: str, version: int, ttl: int = LONG_MS) -> Reply:
    """A claim."""
    return system.ask(w.AcquireWorkflow(workflow_id, version, "p", ttl))


def settle(system: System, promise_id: str) -> Reply:
    """A promise ends."""
    reply = system.ask(w.SettlePromise(promise_id, RESOLVED))
    system.deliver_all()
    return reply


def suspend(system: System, workflow_id: str, version: int, *awaited: str) -> Code:
    """A workflow waits."""
    code = system.ask(w.SuspendWorkflow(workflow_id, version, awaited)).code
    system.deliver_all()
    return code


def seen(system: System, workflow_id: str) -> tuple[str, int, int]:
    """State, version, resumes."""
    workflow = system.ask(w.ReadWorkflow(workflow_id)).workflow
    assert workflow is not None
    return workflow.state.value, workflow.version, workflow.resumes


def sent(system: System) -> list[tuple[str, int | str]]:
    """The messages that went out since the last look."""
    found: list[tuple[str, int | str]] = []
    for message in system.workflows.sent:
        if isinstance(message, ExecuteMessage):
            found.append((message.id, message.version))
        else:
            found.append((message.promise.id, message.address))
    system.workflows.sent.clear()
    return found


def test_a_promise_with_a_target_goes_out_and_is_fulfilled(system: System) -> None:
    created = ensure(system, "r", target=GROUP)
    assert created.code == Code.OK
    assert seen(system, "r") == ("pending", 0, 0)
    assert sent(system) == [("r", 0)]

    reply = acquire(system, "r", 0)
    assert reply.workflow is not None
    assert (reply.workflow.pid, reply.workflow.ttl) == ("p", LONG_MS)
    assert seen(system, "r") == ("acquired", 1, 0)

    done = system.ask(w.FulfillWorkflow("r", 1, RESOLVED, Value(None, "x")))
    assert done.promise is not None
    assert (done.promise.state, done.promise.value.data) == (RESOLVED, "x")
    assert seen(system, "r") == ("fulfilled", 1, 0)
    assert system.ask(w.FulfillWorkflow("r", 1, RESOLVED)).code == Code.WORKFLOW_STATE
    assert sent(system) == []


def test_a_promise_through_rest_has_the_same_task(system: System) -> None:
    system.ask(c.CreatePromise("r", INTEGER_MAX, tags={**TARGET, "resonate:invoke": "poll://x"}))
    assert sent(system) == [("r", 0)]
    assert system.sent == []
    assert acquire(system, "r", 0).code == Code.OK

    system.ask(c.CompletePromise("r", RESOLVED))
    assert seen(system, "r") == ("fulfilled", 1, 0)


def test_what_ends_at_its_timeout_is_made_ended(system: System) -> None:
    system.now = 1_000
    reply = ensure(system, "r", 900, target=GROUP)
    assert reply.promise is not None
    assert reply.promise.state is TIMEDOUT
    assert (reply.promise.created_on, reply.promise.completed_on) == (900, 900)
    assert seen(system, "r") == ("fulfilled", 0, 0)
    assert sent(system) == []


def test_a_claim_needs_the_version(system: System) -> None:
    run(system, "r")
    assert acquire(system, "r", 1).code == Code.WORKFLOW_STATE
    assert system.ask(w.ReleaseWorkflow("r", 2)).code == Code.WORKFLOW_VERSION
    assert system.ask(w.ReleaseWorkflow("r", 1)).code == Code.OK
    assert sent(system) == [("r", 1)]
    assert acquire(system, "r", 0).code == Code.WORKFLOW_VERSION
    assert acquire(system, "r", 1).code == Code.OK
    assert acquire(system, "none", 0).code == Code.TASK_NOT_FOUND


def test_a_suspended_task_is_woken_once(system: System) -> None:
    run(system, "r")
    for child in ("a", "b"):
        ensure(system, child)
    assert suspend(system, "r", 1, "a", "b", "a") == Code.OK
    assert seen(system, "r") == ("suspended", 1, 0)
    settle(system, "a")
    assert seen(system, "r") == ("pending", 1, 1)
    assert sent(system) == [("r", 1)]
    settle(system, "b")
    assert seen(system, "r") == ("pending", 1, 2)
    assert sent(system) == []
    acquire(system, "r", 1)
    assert seen(system, "r") == ("acquired", 2, 0)


def test_a_task_does_not_wait_for_what_has_settled(system: System) -> None:
    run(system, "r")
    ensure(system, "a")
    ensure(system, "b")
    settle(system, "a")
    assert suspend(system, "r", 1, "b", "a") == Code.AWAITED_SETTLED
    settle(system, "b")
    assert seen(system, "r") == ("acquired", 1, 0)
    assert suspend(system, "r", 1, "a", "none") == Code.AWAITED_NOT_FOUND


def test_what_is_past_its_deadline_has_settled_before_any_timer_says_so(system: System) -> None:
    run(system, "r")
    ensure(system, "a", 100)
    ensure(system, "b")
    system.now = 100
    assert suspend(system, "r", 1, "b", "a") == Code.AWAITED_SETTLED
    assert suspend(system, "r", 1, "a") == Code.AWAITED_SETTLED


def test_what_settles_for_a_task_that_is_held_is_counted_and_no_more(system: System) -> None:
    run(system, "r")
    for child in ("a", "b", "c"):
        ensure(system, child)
    assert suspend(system, "r", 1, "a", "b", "c") == Code.OK
    settle(system, "a")
    acquire(system, "r", 1)
    sent(system)
    settle(system, "b")
    assert seen(system, "r") == ("acquired", 2, 1)
    system.ask(w.HaltWorkflow("r"))
    settle(system, "c")
    assert seen(system, "r") == ("halted", 2, 2)
    assert sent(system) == []


def test_a_promise_that_settles_before_it_hears_of_the_waiter_wakes_it(system: System) -> None:
    run(system, "r")
    ensure(system, "a")
    system.ask(w.SuspendWorkflow("r", 1, ("a",)))
    system.ask(w.SettlePromise("a", RESOLVED))
    system.deliver_all()
    assert seen(system, "r") == ("pending", 1, 1)


def test_an_awaiter_beyond_its_deadline_is_not_woken(system: System) -> None:
    ensure(system, "r", 100, target=GROUP)
    acquire(system, "r", 0)
    ensure(system, "a", 100)
    sent(system)
    assert suspend(system, "r", 1, "a") == Code.OK
    system.now = 100
    system.fire_due()
    system.deliver_all()
    assert seen(system, "r") == ("fulfilled", 1, 0)
    assert sent(system) == []


def test_an_ended_task_leaves_no_awaits_behind(system: System) -> None:
    run(system, "r")
    ensure(system, "a")
    ensure(system, "b")
    assert suspend(system, "r", 1, "a", "b") == Code.OK
    settle(system, "r")
    system.deliver_all()
    assert all(machine.state.awaits.count == 0 for machine in system.machines)


def test_a_fence_is_checked_with_the_action(system: System) -> None:
    run(system, "r")
    fence = WorkflowFence("r", 1)
    assert system.ask(w.EnsurePromise("a", INTEGER_MAX, fence=fence)).code == Code.OK
    assert system.ask(w.SettlePromise("a", RESOLVED, fence=fence)).code == Code.OK
    assert system.ask(w.SettlePromise("none", RESOLVED, fence=fence)).code == Code.PROMISE_NOT_FOUND
    late = WorkflowFence("r", 2)
    assert system.ask(w.EnsurePromise("b", INTEGER_MAX, fence=late)).code == Code.WORKFLOW_VERSION
    nobody = WorkflowFence("none", 1)
    assert system.ask(w.EnsurePromise("b", INTEGER_MAX, fence=nobody)).code == Code.TASK_NOT_FOUND
    system.now = LONG_MS
    assert system.ask(w.EnsurePromise("b", INTEGER_MAX, fence=fence)).code == Code.WORKFLOW_STATE
    assert system.ask(c.ReadPromise("b")).code == Code.PROMISE_NOT_FOUND


def test_what_is_asked_again_is_answered_as_it_was_under_the_fence(
    system: System,
) -> None:
    """Its answer was lost with a link. To say "refused" would say that nothing was done."""
    run(system, "r")
    fence = WorkflowFence("r", 1)
    system.ask(w.EnsurePromise("a", INTEGER_MAX, fence=fence))
    system.ask(w.EnsurePromise("pending", INTEGER_MAX, fence=fence))
    system.ask(w.SettlePromise("a", RESOLVED, fence=fence))
    system.now = LONG_MS
    for done in (
        w.EnsurePromise("a", INTEGER_MAX, fence=fence, is_again=True),
        w.SettlePromise("a", RESOLVED, fence=fence, is_again=True),
    ):
        reply = system.ask(done)
        assert reply.code == Code.OK
        assert reply.promise is not None
        assert reply.promise.state is RESOLVED
    for not_done in (
        w.EnsurePromise("b", INTEGER_MAX, fence=fence, is_again=True),
        w.SettlePromise("pending", RESOLVED, fence=fence, is_again=True),
        w.EnsurePromise("a", INTEGER_MAX, fence=fence),
    ):
        assert system.ask(not_done).code == Code.WORKFLOW_STATE
    assert system.ask(c.ReadPromise("b")).code == Code.PROMISE_NOT_FOUND


def test_a_fence_ends_with_the_deadline_of_its_task(system: System) -> None:
    ensure(system, "r", 100, target=GROUP)
    acquire(system, "r", 0)
    fence = WorkflowFence("r", 1)
    system.now = 99
    assert system.ask(w.EnsurePromise("a", INTEGER_MAX, fence=fence)).code == Code.OK
    system.now = 100
    for child in ("a", "b", "c", "d"):
        reply = system.ask(w.EnsurePromise(child, INTEGER_MAX, fence=fence))
        assert reply.code == Code.WORKFLOW_STATE


def test_a_lease_ends_and_the_task_goes_out_at_the_same_version(system: System) -> None:
    run(system, "r", ttl=1)
    system.let_time_pass(LEASE_LEAST_MS - 1)
    assert seen(system, "r") == ("acquired", 1, 0)
    system.let_time_pass(LEASE_LEAST_MS)
    assert seen(system, "r") == ("pending", 1, 0)
    assert sent(system) == [("r", 1)]


def test_heartbeats_of_many_tasks_keep_those_that_are_held(system: System) -> None:
    for one in ("a", "b", "c"):
        run(system, one, ttl=1_000)
    run(system, "d", "q", ttl=1_000)
    system.now = 900
    for index in range(system.shard_count):
        tasks = tuple(
            (one, version)
            for one, version in (("a", 1), ("b", 2), ("c", 1), ("d", 1), ("none", 1))
            if system.shard_of(one) == index
        )
        system.tell(index, w.RenewWorkflows("p", tasks))
    system.let_time_pass(1_000)
    states = [seen(system, one)[0] for one in ("a", "b", "c", "d")]
    assert states == ["acquired", "pending", "acquired", "pending"]


def test_halt_and_continue(system: System) -> None:
    run(system, "r")
    assert system.ask(w.ContinueWorkflow("r")).code == Code.WORKFLOW_STATE
    assert system.ask(w.HaltWorkflow("r")).code == Code.OK
    assert system.ask(w.HaltWorkflow("r")).code == Code.OK
    assert system.ask(w.FulfillWorkflow("r", 1, RESOLVED)).code == Code.WORKFLOW_STATE
    assert seen(system, "r") == ("halted", 1, 0)
    assert system.ask(w.ContinueWorkflow("r")).code == Code.OK
    assert sent(system) == [("r", 1)]
    settle(system, "r")
    assert system.ask(w.HaltWorkflow("r")).code == Code.WORKFLOW_STATE
    assert system.ask(w.HaltWorkflow("none")).code == Code.TASK_NOT_FOUND


def test_a_message_that_nobody_claims_goes_out_again(system: System) -> None:
    ensure(system, "r", target=GROUP)
    system.workflows.report_sent("r")
    system.let_time_pass(WORKFLOW_RETRY_MS - 1)
    assert sent(system) == [("r", 0)]
    system.let_time_pass(WORKFLOW_RETRY_MS)
    assert sent(system) == [("r", 0)]


def test_a_message_to_a_worker_that_is_gone_goes_out_again(system: System) -> None:
    ensure(system, "r", target=GROUP)
    system.workflows.report_sent("r")
    system.workflows.report_retry("r")
    assert sent(system) == [("r", 0), ("r", 0)]


def test_a_task_that_is_given_back_again_and_again_waits(system: System) -> None:
    run(system, "r")
    times = []
    for version in range(1, 10):
        released_ms = system.now
        system.ask(w.ReleaseWorkflow("r", version))
        while not sent(system):
            system.let_time_pass(min(time for time, *_ in system.due(INTEGER_MAX)))
        times.append(system.now - released_ms)
        acquire(system, "r", version)
    assert times == [0, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
    system.ask(w.EnsurePromise("a", INTEGER_MAX, fence=WorkflowFence("r", 10)))
    system.ask(w.ReleaseWorkflow("r", 10))
    assert sent(system) == [("r", 10)]


def test_a_timers_task_is_never_sent(system: System) -> None:
    ensure(system, "t", 100, target=GROUP, timer="true")
    assert seen(system, "t") == ("pending", 0, 0)
    system.let_time_pass(100)
    reply = system.ask(c.ReadPromise("t"))
    assert reply.promise is not None
    assert reply.promise.state is RESOLVED
    assert sent(system) == []


def test_a_delayed_task_goes_out_later(system: System) -> None:
    ensure(system, "r", 100, target=GROUP, delay="60")
    assert sent(system) == []
    system.let_time_pass(59)
    assert sent(system) == []
    system.let_time_pass(60)
    assert sent(system) == [("r", 0)]


def test_listeners_are_told_once_and_kept_until_then(system: System) -> None:
    ensure(system, "r")
    for address in ("poll://uni@g/1", "http://h/", "poll://uni@g/1"):
        assert system.ask(w.RegisterListener("r", address)).code == Code.OK
    settle(system, "r")
    assert sent(system) == [("r", "poll://uni@g/1"), ("r", "http://h/")]
    system.workflows.report_unblocked("r", "http://h/")
    system = system.restarted()
    assert sent(system) == [("r", "poll://uni@g/1")]
    system.let_time_pass(UNBLOCK_LIMIT_MS)
    assert sent(system.restarted()) == []
    assert system.ask(w.RegisterListener("r", "poll://uni@g/2")).code == Code.OK
    assert sent(system) == []


def test_a_claim_whose_answer_was_lost_in_a_restart_is_answered_again(system: System) -> None:
    claim = w.AcquireWorkflow("r", 0, "p", LONG_MS, "sr-1")
    ensure(system, "r", target=GROUP)
    assert system.ask(claim).code == Code.OK
    assert system.ask(claim).code == Code.WORKFLOW_STATE
    system = system.restarted()
    again = system.ask(claim)
    assert again.workflow is not None
    assert (again.workflow.state, again.workflow.version) == (WorkflowState.ACQUIRED, 1)
    other = w.AcquireWorkflow("r", 0, "p", LONG_MS, "sr-2")
    assert system.ask(other).code == Code.WORKFLOW_STATE


def test_a_run_whose_answer_was_lost_in_a_restart_is_answered_again(system: System) -> None:
    create = w.CreateWorkflow("r", INTEGER_MAX, "p", LONG_MS, tags=TARGET, claim_id="sr-1")
    assert system.ask(create).code == Code.OK
    assert system.ask(create).code == Code.WORKFLOW_STATE
    system = system.restarted()
    assert system.ask(create).code == Code.OK
    assert system.ask(w.AcquireWorkflow("r", 0, "p", 1, "sr-1")).code == Code.WORKFLOW_STATE


def test_everything_goes_on_after_a_restart(system: System) -> None:
    run(system, "r")
    ensure(system, "a")
    ensure(system, "s", target=GROUP)
    assert suspend(system, "r", 1, "a") == Code.OK
    system.workflows.sent.clear()
    system = system.restarted()
    assert sent(system) == [("s", 0)]
    settle(system, "a")
    assert sent(system) == [("r", 1)]


def test_a_callback_alone_wakes_a_task(system: System) -> None:
    run(system, "r")
    ensure(system, "a")
    ensure(system, "b")
    assert system.ask(w.RegisterAwait("none", "r")).code == Code.PROMISE_NOT_FOUND
    assert system.ask(w.RegisterAwait("a", "none")).code == Code.AWAITER_UNUSABLE
    assert system.ask(w.RegisterAwait("a", "b")).code == Code.AWAITER_UNUSABLE
    assert system.ask(w.RegisterAwait("a", "r")).code == Code.OK
    assert suspend(system, "r", 1, "b") == Code.OK
    settle(system, "a")
    assert seen(system, "r") == ("pending", 1, 1)
    system.ask(w.RegisterAwait("a", "r"))
    system.deliver_all()
    assert seen(system, "r") == ("pending", 1, 2)


def test_a_schedule_makes_workflows(system: System) -> None:
    make = w.EnsureSchedule("s", "* * * * *", "{{.id}}.{{.timestamp}}", 1_000, Value(), TARGET)
    assert system.ask(make).code == Code.OK
    assert system.ask(make).code == Code.OK
    system.let_time_pass(60_000)
    promise_id = "s.60000"
    assert sent(system) == [(promise_id, 0)]
    promise = system.ask(c.ReadPromise(promise_id)).promise
    assert promise is not None
    assert promise.created_on == 60_000
    lineage = dict.fromkeys(("origin", "branch", "parent", "prefix"), promise_id)
    assert promise.tags == {
        **TARGET,
        "resonate:schedule": "s",
        **{f"resonate:{name}": value for name, value in lineage.items()},
    }


def test_a_search_finds_tasks_in_a_state(system: System) -> None:
    run(system, "a")
    ensure(system, "b", target=GROUP)
    ensure(system, "c")
    run(system, "d")
    settle(system, "d")

    def search(state: WorkflowState | None, limit_count: int) -> list[str]:
        found: list[str] = []
        for index in range(system.shard_count):
            before: int | None = INTEGER_MAX
            while before is not None:
                command = w.SearchWorkflows(state, limit_count, before, 2)
                page = system.tell(index, command).reply.workflows
                assert page is not None
                assert len(page.workflows) <= limit_count
                found += [one.id for one in page.workflows]
                before = page.next_before
        return sorted(found)

    assert search(None, 1) == ["a", "b", "d"]
    assert search(WorkflowState.ACQUIRED, 5) == ["a"]
    assert search(WorkflowState.FULFILLED, 1) == ["d"]
    assert search(WorkflowState.HALTED, 1) == []


def test_a_promise_that_many_wait_for_is_told_in_slices(system: System) -> None:
    ensure(system, "a")
    workflow_ids = [f"w{number}" for number in range(4 * COMPLETION_SLICE_COUNT)]
    for workflow_id in workflow_ids:
        run(system, workflow_id)
        system.ask(w.SuspendWorkflow(workflow_id, 1, ("a",)))
        system.ask(w.RegisterListener("a", f"poll://uni@g/{workflow_id}"))
    system.deliver_all()
    index = system.shard_of("a")
    command: c.Command | None = w.SettlePromise("a", RESOLVED)
    steps_count = 0
    while command is not None:
        step = system.machines[index].step(command, system.now)
        steps_count += 1
        assert len(step.sends) + len(step.posts) <= 2 * COMPLETION_SLICE_COUNT
        command = step.again
        system._take(index, step, is_checked=command is None)
    assert steps_count == 1 + 2 * len(workflow_ids) // COMPLETION_SLICE_COUNT
    system.deliver_all()
    assert sorted(one for one, version in sent(system) if version == 1) == sorted(workflow_ids)
    assert len(system.workflows.unblocks) == len(workflow_ids)


def test_a_message_is_what_the_protocol_says(system: System) -> None:
    ensure(system, "r", target=GROUP)
    system.ask(w.RegisterListener("r", "poll://uni@g/1"))
    settle(system, "r")
    execute, unblock = system.workflows.sent
    assert execute == ExecuteMessage("r", 0, GROUP)
    assert isinstance(unblock, UnblockMessage)
    assert unblock.promise.state is RESOLVED


def test_the_message_of_a_workflow_that_ends_is_withdrawn() -> None:
    system = System(1)
    system.ask(w.EnsurePromise("a", INTEGER_MAX, tags=TARGET))

    step = system.tell(0, w.SettlePromise("a", RESOLVED))

    assert list(step.withdrawals) == [execute_key("a")]
