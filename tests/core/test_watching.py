"""What counts as a change of a promise, and who is told of it."""

import pytest

from tests.core.system import System
from tests.core.test_records import SAMPLES
from troth.core import commands as c
from troth.core import records as r
from troth.core import workflow_commands as w
from troth.core.codes import Code
from troth.core.deciding import Options
from troth.core.limits import INTEGER_MAX
from troth.core.model import Promise, PromiseState, Value
from troth.core.state.apply import APPLY
from troth.core.state.watching import ABOUT, NOT_ABOUT, Watch


def promise(promise_id: str, tags: dict[str, str] | None = None) -> dict[str, Promise]:
    """A shard that has one promise."""
    return {promise_id: Promise(promise_id, 1, PromiseState.PENDING, 9, 1, tags=tags)}


def claimed(task_id: str) -> r.TaskClaimed:
    return r.TaskClaimed(task_id, "w", 10, 20)


def test_it_is_said_of_every_record_what_it_changes() -> None:
    assert set(ABOUT) | NOT_ABOUT == set(APPLY)
    assert not set(ABOUT) & NOT_ABOUT


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_every_record_about_promises_names_some(sample: r.Record) -> None:
    about = ABOUT.get(type(sample))
    if about is not None:
        assert list(about(sample))
        assert all(isinstance(one, str) for one in about(sample))


def test_a_watched_promise_that_changes_is_told_once() -> None:
    watch = Watch()
    rings: list[int] = []
    watch.ring = lambda: rings.append(1)
    watch.add("a", "")

    watch.note(claimed("__invoke:b"), {})
    assert (watch.take(), rings) == (set(), [])
    watch.note(claimed("__invoke:a"), {})
    watch.note(claimed("__resume:a:b"), {})
    watch.note(r.PromisesDeleted(["x", "a"], [], 0, 1), {})
    assert (watch.take(), rings) == ({("a", "")}, [1])
    assert watch.take() == set()


@pytest.mark.parametrize("tag", ["resonate:root", "resonate:origin"])
def test_a_change_below_is_one_of_the_beginning(tag: str) -> None:
    watch = Watch()
    watch.add("root", "")
    done = r.PromiseCompleted("child", PromiseState.RESOLVED, Value(), None, 5, 5)

    watch.note(done, promise("child", {tag: "root"}))
    assert watch.take() == {("root", "")}
    watch.note(done, promise("child", {"other": "root"}))
    watch.note(done, promise("child"))
    assert watch.take() == set()


def test_a_change_outside_of_the_prefix_is_none() -> None:
    watch = Watch()
    watch.add("a/root", "a/")
    tags = {"resonate:root": "a/root"}

    watch.note(claimed("__invoke:b/1"), promise("b/1", tags))
    assert watch.take() == set()
    watch.note(claimed("__invoke:a/1"), promise("a/1", tags))
    assert watch.take() == {("a/root", "a/")}
    watch.add("a/root", "")
    watch.note(claimed("__invoke:b/1"), promise("b/1", tags))
    assert watch.take() == {("a/root", "")}


@pytest.mark.parametrize("slice_count", [1, 20])
def test_a_promise_that_goes_on_and_the_origin_of_one_that_goes_are_told(slice_count: int) -> None:
    """What a record changes without naming it: tasks of callbacks, awaiters, what was deleted."""
    system = System(1, Options(completion_slice_count=slice_count))
    (machine,) = system.machines
    for one in ("root", "other", "leaf"):
        system.ask(c.CreatePromise(one, INTEGER_MAX))
    for root in ("root", "other"):
        system.ask(c.CreateCallback("leaf", root, INTEGER_MAX, "poll://nobody"))
    system.ask(c.CreatePromise("child", 1, tags={"resonate:origin": "origin"}))
    system.ask(c.CompletePromise("child", PromiseState.RESOLVED))
    for one in ("root", "other", "origin"):
        machine.watch.add(one, "")
    machine.watch.take()

    system.ask(c.CompletePromise("leaf", PromiseState.RESOLVED))
    assert machine.watch.take() == {("root", ""), ("other", "")}
    assert system.ask(c.DeletePromise("child")).code is Code.NO_CONTENT
    assert machine.watch.take() == {("origin", "")}


def test_an_awaiter_that_is_woken_is_told() -> None:
    system = System(1, Options())
    (machine,) = system.machines
    tags = {"resonate:target": "poll://any@g"}
    task = system.ask(w.CreateWorkflow("awaiter", INTEGER_MAX, "w", 60_000, tags=tags)).workflow
    assert task is not None
    system.ask(c.CreatePromise("awaited", INTEGER_MAX))
    system.ask(w.SuspendWorkflow("awaiter", task.version, ("awaited",)))
    machine.watch.add("awaiter", "")
    machine.watch.take()

    system.ask(c.CompletePromise("awaited", PromiseState.RESOLVED))
    assert machine.watch.take() == {("awaiter", "")}


def test_what_is_watched_no_longer_is_forgotten() -> None:
    watch = Watch()
    for prefix in ("", "", "a"):
        watch.add("a", prefix)
    watch.remove("a", "")
    assert watch.ids == {"a": {"": 1, "a": 1}}
    watch.remove("a", "")
    watch.remove("a", "a")
    assert watch.ids == {}
