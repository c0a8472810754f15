"""Histories of workflows' tasks, made by hand: right ones are explained, broken ones are not."""

import pytest

from troth.core.codes import Code
from troth.core.commands import Command, CreatePromise, ReadPromise
from troth.core.model import Promise, PromiseState, Value
from troth.core.replies import Reply
from troth.core.workflow_commands import (
    AcquireWorkflow,
    EnsurePromise,
    FulfillWorkflow,
    ReleaseWorkflow,
    SettlePromise,
    SuspendWorkflow,
)
from troth.core.workflows import ACQUIRED, WorkflowFence, WorkflowView

from .linearizability import Operation, PromiseModel, check
from .workflow_models import WorkflowModel

History = list[Operation[Command, Reply]]
RESOLVED = PromiseState.RESOLVED
PAIR = (0.0, 1.0)


def acquire(place: int, version: int, pid: str, code: Code = Code.OK) -> Operation[Command, Reply]:
    view = WorkflowView("w", ACQUIRED, version + 1) if code is Code.OK else None
    command = AcquireWorkflow("w", version, pid, 10, f"claim of {pid}")
    return Operation(2 * place, command, 2 * place + 1, Reply(code, workflow=view))


def done(place: int, command: Command, code: Code = Code.OK) -> Operation[Command, Reply]:
    return Operation(2 * place, command, 2 * place + 1, Reply(code))


def fenced(version: int) -> Command:
    return EnsurePromise("child", 10, fence=WorkflowFence("w", version))


SETTLE_NONE = SettlePromise("none", RESOLVED, Value(), WorkflowFence("w", 1))
LOST_CLAIM = Operation[Command, Reply](0, AcquireWorkflow("w", 0, "a", 10, "claim of a"))

RIGHT: dict[str, History] = {
    "claimed, given back, claimed": [
        acquire(0, 0, "a"),
        done(1, ReleaseWorkflow("w", 1)),
        acquire(2, 1, "b"),
    ],
    "a lease is lost": [
        acquire(0, 0, "a"),
        acquire(1, 1, "b"),
        done(2, fenced(1), Code.WORKFLOW_VERSION),
    ],
    "the answer to a claim is lost": [LOST_CLAIM, done(1, fenced(1)), acquire(2, 0, "a")],
    "suspended, and somebody else goes on": [
        acquire(0, 0, "a"),
        done(1, SuspendWorkflow("w", 1, ("x",))),
        acquire(2, 1, "b"),
        done(3, FulfillWorkflow("w", 2, RESOLVED)),
        done(4, fenced(2), Code.WORKFLOW_STATE),
    ],
    "a child is not there": [
        acquire(0, 0, "a"),
        done(1, SETTLE_NONE, Code.PROMISE_NOT_FOUND),
    ],
}

BROKEN: dict[str, History] = {
    "one version claimed by two": [acquire(0, 0, "a"), acquire(1, 0, "b")],
    "an old holder writes": [acquire(0, 0, "a"), acquire(1, 1, "b"), done(2, fenced(1))],
    "a holder writes after it has suspended": [
        acquire(0, 0, "a"),
        done(1, SuspendWorkflow("w", 1, ("x",))),
        done(2, fenced(1)),
    ],
    "a holder writes after it has given back": [
        acquire(0, 0, "a"),
        done(1, ReleaseWorkflow("w", 1)),
        done(2, fenced(1)),
    ],
    "a holder writes after it was refused": [
        acquire(0, 0, "a"),
        done(1, fenced(1), Code.WORKFLOW_STATE),
        done(2, fenced(1)),
    ],
    "a holder settles after the end": [
        acquire(0, 0, "a"),
        done(1, FulfillWorkflow("w", 1, RESOLVED)),
        done(2, FulfillWorkflow("w", 1, RESOLVED)),
    ],
    "claimed after the end": [
        acquire(0, 0, "a"),
        done(1, FulfillWorkflow("w", 1, RESOLVED)),
        acquire(2, 1, "b"),
    ],
    "refused as another version, which it is not": [
        acquire(0, 0, "a"),
        done(1, fenced(1), Code.WORKFLOW_VERSION),
    ],
    "somebody writes who never claimed": [done(0, fenced(1))],
    "claimed again with another name": [LOST_CLAIM, done(1, fenced(1)), acquire(2, 0, "b")],
    "gone": [acquire(0, 0, "a"), done(1, fenced(1), Code.TASK_NOT_FOUND)],
}


# What a link asks again

SUSPENDED: History = [acquire(0, 0, "a"), done(1, fenced(1)), done(2, SuspendWorkflow("w", 1, ()))]


def other_child(version: int) -> Command:
    return EnsurePromise("other child", 10, fence=WorkflowFence("w", version))


def test_what_a_link_asks_again_may_be_answered_as_it_was_done() -> None:
    again = [*SUSPENDED, done(3, fenced(1))]
    assert check(WorkflowModel(has_links=True), again) == []
    assert check(WorkflowModel(), again) == ["w"], "without links nobody asks again"
    assert check(WorkflowModel(has_links=True), [*again, acquire(4, 1, "b")]) == []
    new = [*SUSPENDED, done(3, other_child(1))]
    assert check(WorkflowModel(has_links=True), new) == ["w"], "it was not done before"
    settled = Reply(Code.OK, promise=Promise("none", 1, RESOLVED, 10, 0, value=Value(data="b")))
    by_another = Operation[Command, Reply](6, SETTLE_NONE, 7, settled)
    assert check(WorkflowModel(has_links=True), [*SUSPENDED, by_another]) == []
    by_itself = Operation[Command, Reply](
        6, SETTLE_NONE, 7, Reply(Code.OK, promise=Promise("none", 1, RESOLVED, 10, 0))
    )
    assert check(WorkflowModel(has_links=True), [*SUSPENDED, by_itself]) == ["w"]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_history_is_explained(name: str) -> None:
    assert check(WorkflowModel(), RIGHT[name]) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_history_is_rejected(name: str) -> None:
    assert check(WorkflowModel(), BROKEN[name]) == ["w"]


# Promises, through both APIs


def shown(state: PromiseState, data: str | None) -> Promise:
    return Promise("p", 1, state, 10, 0, value=Value(data=data))


def answered(
    place: int, command: Command, code: Code, promise: Promise
) -> Operation[Command, Reply]:
    return Operation(2 * place, command, 2 * place + 1, Reply(code, promise=promise))


PENDING, ENDED = shown(PromiseState.PENDING, None), shown(RESOLVED, "1")
CREATE, SETTLE = EnsurePromise("p", 10), SettlePromise("p", RESOLVED, Value(data="1"))
OTHER = SettlePromise("p", RESOLVED, Value(data="2"))


def test_an_id_is_the_key_of_the_envelope_protocol() -> None:
    history: History = [
        answered(0, CREATE, Code.OK, PENDING),
        answered(1, CREATE, Code.OK, PENDING),
        Operation(4, CreatePromise("p", 10, idempotency_key="k"), 5, Reply(Code.PROMISE_EXISTS)),
        answered(3, SETTLE, Code.OK, ENDED),
        answered(4, OTHER, Code.OK, ENDED),
        answered(5, ReadPromise("p"), Code.OK, ENDED),
    ]
    assert check(PromiseModel(), history) == []


def test_a_fulfilled_promise_is_settled_by_its_holder() -> None:
    fulfill = FulfillWorkflow("p", 1, RESOLVED, Value(data="1"))
    history: History = [answered(0, CREATE, Code.OK, PENDING), answered(1, fulfill, Code.OK, ENDED)]
    read = answered(2, ReadPromise("p"), Code.OK, ENDED)
    assert check(PromiseModel(), [*history, read]) == []
    late = answered(2, SETTLE, Code.OK, shown(RESOLVED, "2"))
    assert check(PromiseModel(), [*history, late]) == ["p"]


@pytest.mark.parametrize(
    "broken",
    [
        [answered(0, CREATE, Code.OK, PENDING), answered(1, OTHER, Code.OK, ENDED)],
        [
            answered(0, CREATE, Code.OK, PENDING),
            answered(1, SETTLE, Code.OK, ENDED),
            answered(2, CREATE, Code.OK, PENDING),
        ],
        [answered(0, SETTLE, Code.OK, ENDED)],
    ],
)
def test_a_broken_history_of_a_promise_is_rejected(broken: History) -> None:
    assert check(PromiseModel(), broken) == ["p"]
