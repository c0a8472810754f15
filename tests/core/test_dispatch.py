"""Which messages go out, and when (rest.md 5.3 and 5.4, decisions.md 1), case by case.

`System` checks the general rules after every step; these tests say what exactly happens.
"""

import time
from itertools import count

import pytest

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.deciding import Options
from troth.core.limits import DISPATCH_LIMIT_COUNT, INTEGER_MAX
from troth.core.machine import Machine
from troth.core.model import ClaimRequest, PromiseState
from troth.core.replies import TaskMessage
from troth.core.state.apply import replay

from .system import System

GROUP = "poll://g"
WAITING_COUNT = 100_000


@pytest.fixture
def system() -> System:
    """One shard at time 0; a message not claimed within 100 ms goes out again."""
    return System(1, Options(task_claim_timeout_ms=100))


def create(system: System, promise_id: str, **tags: str) -> None:
    """A promise, without timeout."""
    names = {f"resonate:{name}": value for name, value in tags.items()}
    system.ask(c.CreatePromise(promise_id, INTEGER_MAX, tags=names))


def resolve(system: System, promise_id: str) -> None:
    """Complete a promise."""
    system.ask(c.CompletePromise(promise_id, PromiseState.RESOLVED))


def wait(system: System, root_id: str, *leaf_ids: str, timeout: int = INTEGER_MAX) -> None:
    """Let a root wait for leaves, which are created too."""
    for leaf_id in leaf_ids:
        create(system, leaf_id)
        system.ask(c.CreateCallback(leaf_id, root_id, timeout, GROUP))


def work(system: System, task_id: str, counter: int = 1) -> None:
    """Claim and complete a task."""
    assert system.ask(c.ClaimTask(task_id, counter, "w", 1_000)).code == 20100
    assert system.ask(c.CompleteTask(task_id, counter)).code == 20100


def sent(system: System) -> list[tuple[str, int]]:
    """The messages that went out since the last look: task and counter."""
    messages = [(message.task.id, message.task.counter) for message in system.sent]
    system.sent.clear()
    return messages


def test_a_new_task_goes_out_at_once(system: System) -> None:
    create(system, "r", invoke=GROUP)

    assert sent(system) == [("__invoke:r", 1)]


def test_a_task_that_is_born_claimed_is_not_sent(system: System) -> None:
    system.ask(
        c.CreatePromise(
            "r", INTEGER_MAX, tags={"resonate:invoke": GROUP}, claim=ClaimRequest("w", 50)
        )
    )
    assert sent(system) == []

    system.let_time_pass(50)
    assert sent(system) == [("__invoke:r", 2)]


def test_tasks_of_a_root_go_out_one_at_a_time_the_oldest_first(system: System) -> None:
    create(system, "r", invoke=GROUP)
    wait(system, "r", "z", "y", "x")
    for leaf in ("y", "x", "z"):
        resolve(system, leaf)
    assert sent(system) == [("__invoke:r", 1)]

    for task_id, following in (
        ("__invoke:r", "__resume:r:y"),
        ("__resume:r:y", "__resume:r:x"),
        ("__resume:r:x", "__resume:r:z"),
    ):
        system.report_sent(task_id, 1)
        assert sent(system) == [], "enqueued: still in flight"
        work(system, task_id)
        assert sent(system) == [(following, 1)]


def test_roots_do_not_wait_for_each_other(system: System) -> None:
    create(system, "r", invoke=GROUP)
    create(system, "s", invoke=GROUP)

    assert sent(system) == [("__invoke:r", 1), ("__invoke:s", 1)]


def test_a_task_that_cannot_be_sent_steps_aside_and_comes_back_in_its_place(system: System) -> None:
    create(system, "r", invoke=GROUP)
    wait(system, "r", "x", "y")
    resolve(system, "x")
    resolve(system, "y")
    system.report_not_sent("__invoke:r", 1)
    assert sent(system) == [("__invoke:r", 1), ("__resume:r:x", 1)]

    system.report_retry("__invoke:r", 1)
    assert sent(system) == [], "another task of the root is being sent"
    system.report_sent("__resume:r:x", 1)
    work(system, "__resume:r:x")
    assert sent(system) == [("__invoke:r", 1)], "older than the resume for y"


def test_a_lone_task_that_cannot_be_sent_waits_for_the_retry(system: System) -> None:
    create(system, "r", invoke=GROUP)
    system.report_not_sent("__invoke:r", 1)
    assert sent(system) == [("__invoke:r", 1)]

    system.let_time_pass(1_000_000)
    assert sent(system) == []
    system.report_retry("__invoke:r", 1)
    assert sent(system) == [("__invoke:r", 1)]


def test_a_message_not_claimed_in_time_goes_out_again_with_the_next_counter(system: System) -> None:
    create(system, "r", invoke=GROUP)
    system.report_sent("__invoke:r", 1)
    system.let_time_pass(99)
    assert sent(system) == [("__invoke:r", 1)]

    system.let_time_pass(100)
    assert sent(system) == [("__invoke:r", 2)]
    assert system.ask(c.ClaimTask("__invoke:r", 1, "w", 10)).code == 40307
    assert system.ask(c.ClaimTask("__invoke:r", 2, "w", 10)).code == 20100


def test_a_lease_that_runs_out_or_is_given_back_goes_out_again(system: System) -> None:
    create(system, "r", invoke=GROUP)
    system.ask(c.ClaimTask("__invoke:r", 1, "w", 10))
    system.let_time_pass(10)
    assert sent(system) == [("__invoke:r", 1), ("__invoke:r", 2)]

    system.ask(c.ClaimTask("__invoke:r", 2, "w", 10))
    system.ask(c.DropTask("__invoke:r", 2))
    assert sent(system) == [("__invoke:r", 3)]


def test_a_late_report_about_an_earlier_message_changes_nothing(system: System) -> None:
    create(system, "r", invoke=GROUP)
    system.ask(c.ClaimTask("__invoke:r", 1, "w", 10))
    system.let_time_pass(10)
    assert sent(system) == [("__invoke:r", 1), ("__invoke:r", 2)]

    for report in (system.report_sent, system.report_not_sent, system.report_retry):
        report("__invoke:r", 1)
    assert system.delivering == {"__invoke:r": 2}
    assert sent(system) == []


def test_a_claim_before_the_report_wins(system: System) -> None:
    """A message may arrive before the server knows that it was sent."""
    create(system, "r", invoke=GROUP)
    assert system.ask(c.ClaimTask("__invoke:r", 1, "w", 10)).code == 20100
    assert system.withdrawn == ["__invoke:r"]

    system.report_sent("__invoke:r", 1)
    assert system.ask(c.CompleteTask("__invoke:r", 1)).code == 20100


def test_a_delayed_task_waits_and_lets_younger_ones_go_first(system: System) -> None:
    create(system, "r", invoke=GROUP, delay="500")
    wait(system, "r", "x")
    resolve(system, "x")
    assert sent(system) == [("__resume:r:x", 1)]
    work(system, "__resume:r:x")

    system.let_time_pass(499)
    assert sent(system) == []
    system.let_time_pass(500)
    assert sent(system) == [("__invoke:r", 1)]


def test_a_delay_that_is_over_or_no_number_does_not_delay(system: System) -> None:
    system.let_time_pass(500)
    create(system, "r", invoke=GROUP, delay="500")
    create(system, "s", invoke=GROUP, delay="tomorrow")
    create(system, "t", invoke=GROUP, delay="-1")
    create(system, "u", invoke=GROUP, delay="٣٣٣٣")

    assert [task_id for task_id, _ in sent(system)] == [f"__invoke:{one}" for one in "rstu"]


def test_nothing_is_left_of_the_delay_of_a_task_that_ended(system: System) -> None:
    create(system, "r", invoke=GROUP, delay="500000")
    resolve(system, "r")

    assert system.timers == [{}]


def test_a_delayed_task_may_be_claimed_and_waits_again_when_given_back(system: System) -> None:
    create(system, "r", invoke=GROUP, delay="500")
    assert system.ask(c.ClaimTask("__invoke:r", 1, "w", 10)).code == 20100
    system.let_time_pass(499)
    assert sent(system) == []

    system.let_time_pass(500)
    assert sent(system) == [("__invoke:r", 2)]


def test_notifications_go_out_side_by_side_whatever_their_root_does(system: System) -> None:
    create(system, "r", invoke=GROUP)
    for name in ("b", "a"):
        system.ask(c.CreateSubscription("r", name, INTEGER_MAX, GROUP))
    wait(system, "s", "x")
    system.ask(c.CreateCallback("r", "s", INTEGER_MAX, GROUP))
    resolve(system, "x")
    assert sent(system) == [("__invoke:r", 1), ("__resume:s:x", 1)]

    resolve(system, "r")
    assert sent(system) == [("__notify:r:a", 1), ("__notify:r:b", 1)]


def test_a_notification_is_tried_until_it_is_delivered_once(system: System) -> None:
    create(system, "r")
    system.ask(c.CreateSubscription("r", "a", 1_000, GROUP))
    resolve(system, "r")
    system.report_not_sent("__notify:r:a", 1)
    system.report_retry("__notify:r:a", 1)
    system.report_sent("__notify:r:a", 1)
    assert sent(system) == [("__notify:r:a", 1)] * 2

    system.let_time_pass(2_000)
    reply = system.ask(c.CompleteTask("__notify:r:a", 1))
    assert reply.task is not None
    assert (reply.task.state, reply.task.completed_on) == ("completed", None)
    assert sent(system) == []


def test_a_notification_carries_its_completed_promise(system: System) -> None:
    create(system, "r")
    system.ask(c.CreateSubscription("r", "a", INTEGER_MAX, GROUP))
    resolve(system, "r")

    (message,) = system.sent
    assert message.promise is not None
    assert message.promise.state is PromiseState.RESOLVED


@pytest.mark.parametrize("timeout", [-1, 0])
def test_a_task_whose_time_is_over_is_never_sent(system: System, timeout: int) -> None:
    """rest.md 4.3: without a timeout, the task of a callback is timed out at once."""
    wait(system, "r", "x", timeout=timeout)
    system.ask(c.CreateSubscription("x", "a", timeout, GROUP))
    resolve(system, "x")
    system.let_time_pass(10)

    assert sent(system) == []
    assert [task.state for task in system.tasks()] == ["timedout", "timedout"]
    assert [task.completed_on for task in system.tasks()] == [timeout, timeout]


def test_a_message_under_way_is_withdrawn_when_its_task_ends(system: System) -> None:
    create(system, "r", invoke=GROUP)
    create(system, "s", invoke=GROUP)
    wait(system, "t", "x", timeout=100)
    resolve(system, "x")
    system.report_not_sent("__invoke:s", 1)

    resolve(system, "r")
    resolve(system, "s")
    system.let_time_pass(100)
    assert system.withdrawn == ["__invoke:r", "__invoke:s", "__resume:t:x"]
    assert (system.delivering, system.stalled) == ({}, {})


def test_a_task_may_be_claimed_out_of_turn(system: System) -> None:
    """rest.md 5.3: claiming does not enforce the order; nothing is sent until all are done."""
    create(system, "r", invoke=GROUP)
    wait(system, "r", "x", "y")
    resolve(system, "x")
    resolve(system, "y")
    assert sent(system) == [("__invoke:r", 1)]
    assert system.ask(c.ClaimTask("__invoke:r", 1, "w", 1_000)).code == 20100
    work(system, "__resume:r:x")
    assert sent(system) == []

    assert system.ask(c.CompleteTask("__invoke:r", 1)).code == 20100
    assert sent(system) == [("__resume:r:y", 1)]


def test_after_a_restart_what_was_not_reported_is_sent_again(system: System) -> None:
    create(system, "r", invoke=GROUP)
    create(system, "s", invoke=GROUP)
    create(system, "t", invoke=GROUP, delay="500")
    system.ask(c.CreateSubscription("u", "a", INTEGER_MAX, GROUP))
    create(system, "u")
    system.ask(c.CreateSubscription("u", "a", INTEGER_MAX, GROUP))
    resolve(system, "u")
    system.report_sent("__invoke:r", 1)
    system.report_not_sent("__invoke:s", 1)

    restarted = system.restarted()
    assert sorted(sent(restarted)) == [("__invoke:s", 1), ("__notify:u:a", 1)]
    restarted.let_time_pass(500)
    assert sent(restarted) == [("__invoke:r", 2), ("__invoke:t", 1)]


def test_after_a_start_waiting_tasks_are_offered_a_hundred_in_a_step() -> None:
    before, machine = (Machine(0, lambda _: 0, count(1).__next__) for _ in range(2))
    tasks_count = 2 * DISPATCH_LIMIT_COUNT + 50
    for number in range(tasks_count):
        command = c.CreatePromise(f"p{number}", INTEGER_MAX, tags={"resonate:invoke": GROUP})
        for record in before.step(command, 0).records:
            replay(machine.state, record)

    step = machine.start(1)
    sends = list(step.sends)
    while step.has_more:
        assert len(step.sends) == DISPATCH_LIMIT_COUNT
        step = machine.step(c.GoOn(), 1)
        sends += step.sends
    assert len(step.sends) == 50
    offered = [message.task.root_id for message in sends if isinstance(message, TaskMessage)]
    assert offered == [f"p{number}" for number in range(tasks_count)]


@pytest.mark.slow
def test_no_step_takes_long_however_many_workflow_tasks_and_listeners_wait() -> None:
    """After a start all of them are looked at, a hundred in a step: the rest is not copied."""
    machine = Machine(0, lambda _: 0, count(1).__next__)
    for number in range(WAITING_COUNT):
        tags = {"resonate:target": "poll://any@g"}
        machine.step(w.EnsurePromise(f"p{number}", INTEGER_MAX, tags=tags), 0)
        machine.state.workflows[f"p{number}"].sending = False
    unblocks = {f"poll://any@g/{number}": 0 for number in range(WAITING_COUNT)}
    machine.state.unblocks["p0"] = unblocks

    machine.start(1)
    longest_s = 0.0
    steps_count = WAITING_COUNT // DISPATCH_LIMIT_COUNT - 1
    for number in range(steps_count):
        began_s = time.thread_time()
        step = machine.step(c.GoOn(), 1)
        longest_s = max(longest_s, time.thread_time() - began_s)
        assert len(step.sends) == 2 * DISPATCH_LIMIT_COUNT
        assert step.has_more == (number < steps_count - 1)
    assert longest_s < 0.004
