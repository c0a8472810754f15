"""Promises from another server: taken in as they are, once, and the same after a crash."""

import pytest

from troth.core import commands as c
from troth.core.codes import Code
from troth.core.limits import INTEGER_MAX
from troth.core.model import Promise, PromiseState, TaskState, Value, replace

from .system import System

PENDING = Promise(
    "p",
    900,
    PromiseState.PENDING,
    INTEGER_MAX,
    5,
    Value({"h": "1"}, "AA=="),
    {"resonate:invoke": "poll://g"},
    "k",
)
RESOLVED = replace(
    PENDING,
    state=PromiseState.RESOLVED,
    value=Value(None, "AQ=="),
    key_for_complete="l",
    completed_on=7,
)


def take_in(system: System, promise: Promise) -> Code:
    return system.ask(c.ImportPromise(promise)).code


@pytest.mark.parametrize("promise", [PENDING, RESOLVED], ids=lambda one: one.state)
def test_it_is_taken_in_as_it_is_but_for_its_place_in_the_order(promise: Promise) -> None:
    system = System(2)
    system.ask(c.CreatePromise("here before", INTEGER_MAX))

    assert take_in(system, promise) is Code.CREATED
    for one in (system, system.restarted()):
        kept = one.ask(c.ReadPromise("p")).promise
        assert kept is not None
        assert kept == replace(promise, serial=kept.serial)
        assert [found.id for found in one.promises()] == ["here before", "p"]


@pytest.mark.parametrize("promise", [PENDING, RESOLVED], ids=lambda one: one.state)
def test_taken_in_again_nothing_is_done(promise: Promise) -> None:
    system = System(1)
    take_in(system, promise)
    before = system.everything()

    assert take_in(system, promise) is Code.OK
    assert system.everything() == before


def test_one_that_is_pending_has_its_task_and_its_timeout() -> None:
    system = System(1)
    take_in(system, replace(PENDING, timeout=50))
    (task,) = system.tasks()
    assert (task.id, task.state, task.counter) == ("__invoke:p", TaskState.INIT, 1)

    system.let_time_pass(50)
    promise = system.ask(c.ReadPromise("p")).promise
    assert promise is not None
    assert promise.state is PromiseState.REJECTED_TIMEDOUT


def test_one_that_has_ended_has_no_task() -> None:
    system = System(1)
    take_in(system, RESOLVED)

    assert system.tasks() == []


def test_one_that_was_completed_here_since_is_the_same_still() -> None:
    system = System(1)
    take_in(system, PENDING)
    system.ask(c.CompletePromise("p", PromiseState.REJECTED, Value(None, "Ag==")))

    assert take_in(system, PENDING) is Code.OK
    kept = system.ask(c.ReadPromise("p")).promise
    assert kept is not None
    assert kept.value.data == "Ag=="


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (PENDING, replace(PENDING, param=Value(None, "BB=="))),
        (PENDING, replace(PENDING, timeout=10**15)),
        (PENDING, RESOLVED),
        (RESOLVED, replace(RESOLVED, value=Value(None, "Ag=="))),
        (RESOLVED, replace(RESOLVED, state=PromiseState.REJECTED)),
        (RESOLVED, replace(RESOLVED, key_for_create=None)),
    ],
)
def test_another_promise_of_the_same_id_is_not_replaced(first: Promise, second: Promise) -> None:
    system = System(1)
    take_in(system, first)
    before = system.everything()

    assert take_in(system, second) is Code.PROMISE_EXISTS
    assert system.everything() == before
