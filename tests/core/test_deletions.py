"""Deleting a promise because a client wants it to go: what is refused, and what is left of it.

The random runs are those of retention, against the same model, without rules: there is nothing that
only a server with rules knows.
"""

from collections import Counter

import pytest

from tests.twins.memory_store import MemoryStore
from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.codes import Code
from troth.core.deciding import Options
from troth.core.limits import INTEGER_MAX
from troth.core.model import PromiseState, TaskKind, replace

from .drive import OPTIONS
from .test_retention import RetainingDrive, RetainingSystem

RESOLVED = PromiseState.RESOLVED
INVOKE = {"resonate:invoke": "poll://g"}


class DeletingDrive(RetainingDrive):
    """A random run in which clients delete."""

    def __init__(self, seed: int, shard_count: int, makes_checkpoints: bool) -> None:
        super().__init__(seed, shard_count, makes_checkpoints)
        store = MemoryStore() if makes_checkpoints else None
        slice_count = (1, 2, OPTIONS.completion_slice_count)[seed % 3]
        options = replace(OPTIONS, completion_slice_count=slice_count)
        self.system = RetainingSystem(shard_count, options, now=self.system.now, store=store)

    def one_thing(self) -> None:
        """One random thing; often a deletion, or somebody who slept through one."""
        chance = self.random.random()
        if chance < 0.2:
            self.delete_one()
            self.compare()
        elif chance < 0.25 and self.gone:
            self.come_back()
        else:
            self.note_reuse()
            super(RetainingDrive, self).one_thing()

    def delete_one(self) -> None:
        """Delete a promise that may be there; what is answered follows from the model."""
        self.settle_all()
        model = self.model
        there = [one.id for one in model.promises.values() if one.state != "PENDING"]
        ids = there if there and self.random.random() < 0.8 else [self.promise_id()]
        promise_id = self.random.choice(ids)
        promise = model.promises.get(promise_id)
        if promise is None:
            expected = Code.PROMISE_NOT_FOUND
        elif promise.state == "PENDING":
            expected = Code.PROMISE_PENDING
        elif (
            model.is_held(promise_id)
            or promise_id in self.unacknowledged()
            or any(machine.state.completions for machine in self.system.machines)
        ):
            expected = Code.PROMISE_IN_USE
        else:
            expected = Code.NO_CONTENT
        code = self.system.ask(c.DeletePromise(promise_id)).code
        assert code is expected, promise_id
        if code is Code.NO_CONTENT:
            self.delete(promise_id)
        self.events[code.name] += 1


@pytest.mark.parametrize("makes_checkpoints", [False, True])
@pytest.mark.parametrize("shard_count", [1, 3])
def test_random_deletions_are_as_the_model_says(shard_count: int, makes_checkpoints: bool) -> None:
    """And a replay of the log comes to the same; nothing that was deleted fits what follows."""
    events: Counter[str] = Counter()
    for seed in range(740, 752):
        drive = DeletingDrive(seed, shard_count, makes_checkpoints)
        try:
            drive.run(200)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        events += drive.events
        live = drive.system
        replayed = RetainingSystem(shard_count, live.options, live.log, live.now)
        assert replayed.everything() == live.everything()
        if live.checkpoints is not None:
            live.checkpoints.verify()
    codes = (Code.PROMISE_NOT_FOUND, Code.PROMISE_PENDING, Code.PROMISE_IN_USE, Code.NO_CONTENT)
    for name in (*(code.name for code in codes), "reused", "came back", "task id reused"):
        assert events[name], (name, events)


@pytest.fixture(params=[1, 4])
def system(request: pytest.FixtureRequest) -> RetainingSystem:
    """One shard, or four, at time 0, without rules of retention."""
    return RetainingSystem(request.param, Options())


def delete(system: RetainingSystem, promise_id: str) -> Code:
    """Try to delete a promise."""
    return system.ask(c.DeletePromise(promise_id)).code


def test_a_promise_goes_with_its_tasks_of_every_kind(system: RetainingSystem) -> None:
    system.ask(c.CreatePromise("p", INTEGER_MAX, tags=INVOKE))
    system.ask(c.CreatePromise("leaf", INTEGER_MAX))
    system.ask(c.CreateSubscription("p", "s", INTEGER_MAX, "poll://g"))
    system.ask(c.CreateCallback("leaf", "p", INTEGER_MAX, "poll://g"))
    system.ask(c.CompletePromise("leaf", RESOLVED))
    system.deliver_all()
    assert delete(system, "leaf") is Code.PROMISE_IN_USE
    system.ask(c.CompletePromise("p", RESOLVED))
    system.deliver_all()
    assert {task.kind for task in system.tasks()} == set(TaskKind)
    assert delete(system, "p") is Code.PROMISE_IN_USE  # the notification is on its way
    system.report_sent(*next(iter(system.delivering.items())))

    assert delete(system, "p") is Code.NO_CONTENT
    assert system.tasks() == []
    assert [one.id for one in system.promises()] == ["leaf"]
    assert delete(system, "p") is Code.PROMISE_NOT_FOUND
    system.ask(c.CreatePromise("p", INTEGER_MAX, tags=INVOKE))
    (task,) = system.tasks()
    assert task.counter > 1
    assert system.ask(c.ClaimTask(task.id, 1, "w", 1_000)).code is Code.TASK_COUNTER


def test_what_a_workflow_has_made_stays_while_it_runs(system: RetainingSystem) -> None:
    """Up to the beginning of the lineage, over what lies between and has completed."""
    system.ask(c.CreatePromise("root", 1_000))
    for name, origin in (("root.1", "root"), ("root.1.0", "root.1")):
        system.ask(w.EnsurePromise(name, INTEGER_MAX, tags={"resonate:origin": origin}))
        system.ask(w.SettlePromise(name, RESOLVED))
    assert delete(system, "root.1") is Code.ORIGIN_PENDING
    assert delete(system, "root.1.0") is Code.ORIGIN_PENDING
    system.now = 1_000  # whichever timer is first, the root has timed out
    assert delete(system, "root.1.0") is Code.NO_CONTENT
    assert delete(system, "root.1") is Code.NO_CONTENT


def test_a_promise_stays_until_its_listeners_were_told(system: RetainingSystem) -> None:
    system.ask(w.EnsurePromise("a", INTEGER_MAX))
    system.ask(w.RegisterListener("a", "poll://uni@g/1"))
    system.ask(w.SettlePromise("a", RESOLVED))
    assert delete(system, "a") is Code.PROMISE_IN_USE
    system.ask(w.UnblockSent("a", "poll://uni@g/1"))
    assert delete(system, "a") is Code.NO_CONTENT


def test_an_id_that_comes_back_fits_no_old_worker(system: RetainingSystem) -> None:
    tags = {"resonate:target": "poll://any@g"}
    create = w.CreateWorkflow("r", INTEGER_MAX, "p", 60_000, tags=tags)
    assert system.ask(create).code is Code.OK
    system.ask(w.FulfillWorkflow("r", 1, RESOLVED))
    assert delete(system, "r") is Code.NO_CONTENT
    again = system.ask(create)
    assert again.workflow is not None
    assert again.workflow.version > 1
    assert system.ask(w.FulfillWorkflow("r", 1, RESOLVED)).code is Code.WORKFLOW_VERSION


def test_a_pending_promise_that_is_due_has_timed_out(system: RetainingSystem) -> None:
    system.ask(c.CreatePromise("p", 10))
    assert delete(system, "p") is Code.PROMISE_PENDING
    system.now = 10
    assert delete(system, "p") is Code.NO_CONTENT
