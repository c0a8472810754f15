"""Checkpoints between all the random things of a run change nothing that anybody can see.

`Drive` compares each answer with the model's; here its runs also capture, write, evict and reload,
step by step between everything else, and crash between those steps. What is then in memory is
compared with what the log alone gives.
"""

import itertools
from collections import Counter
from itertools import chain
from typing import Any

import pytest

from tests.helpers.seeds import seeds
from tests.twins.memory_store import MemoryStore
from troth.core import commands as c
from troth.core import records as r
from troth.core.catalog import is_reserved
from troth.core.limits import INTEGER_MAX
from troth.core.model import PromiseState, Task, TaskState
from troth.core.state import eviction
from troth.core.state.apply import replay
from troth.core.state.late_tags import read_tags
from troth.core.state.shard_state import ShardState

from .drive import Drive
from .dumps import waiting
from .function_drive import FunctionDrive
from .system import System
from .workflow_drive import WorkflowDrive

FINAL = tuple(state for state in PromiseState if state is not PromiseState.PENDING)


def is_live(task: Task) -> bool:
    """Whether it must be in memory."""
    return not task.is_final


def is_waiting(task: Task | None) -> bool:
    """Whether it must be in its root's queue; entries of others may be left there."""
    return task is not None and task.state is TaskState.INIT


def without_notes(task: Task) -> Task:
    """A copy without what is not part of the state."""
    row = task.copy()
    row.queued = row.sending = row.stalled = False
    row.sends_count = 0
    row.since = None
    return row


def live_view(state: ShardState) -> dict[str, Any]:
    """What must be in memory after a start, whether it came from a checkpoint or from the log."""
    return {
        "pending": {
            name: one for name, one in state.promises.items() if one.state is PromiseState.PENDING
        },
        "pending count": state.pending_count,
        "counts": state.counts,
        "promises count": state.promises_count,
        "tasks count": state.tasks_count,
        "callbacks": state.callbacks,
        "tasks": {name: without_notes(one) for name, one in state.tasks.items() if is_live(one)},
        "task sequence": state.task_sequence,
        "largest serial": state.largest_serial,
        "roots": {
            name: (
                root.active_count,
                {task.id for task in root.tasks},
                {name for _, name in root.queue or () if is_waiting(root.find(name))},
            )
            for name, root in state.roots.items()
        },
        "notifications": set(state.notifications),
        "claimed": {name: set(tasks) for name, tasks in state.claimed.items()},
        "schedules": state.schedules,
        "locks": state.locks,
        "locks of": {name: set(held) for name, held in state.locks_of.items()},
        "outbox": sorted(state.outbox, key=lambda one: one[:2]),
        "outbox sequence": state.outbox.sequences,
        "inbox": state.inbox,
        "entries": state.entries.by_id,
        "executions": state.executions,
        "usage": state.usage,
        "workflows": {name: one.row() for name, one in state.workflows.items()},
        "awaits": waiting(state.awaits),
        "listeners": waiting(state.listeners),
        "unblocks": {name: list(addresses.items()) for name, addresses in state.unblocks.items()},
        "workflow floor": state.workflow_floor,
        "completions": state.completions,
    }


def entries(state: ShardState) -> dict[str, Any]:
    """What the indexes in memory name."""
    while read_tags(state):
        pass
    tags: dict[tuple[str, str], set[str]] = {}
    for tag, index in chain(state.tag_index.items(), state.reserved_tag_index.items()):
        tags.setdefault(tag, set()).update(index.ids())
    return {
        "all": {name for _, name in state.promise_index.below(INTEGER_MAX, INTEGER_MAX) if name},
        "tags": tags,
    }


@pytest.mark.slow
@pytest.mark.seeds
@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize("shard_count", [1, 3])
@pytest.mark.parametrize("seed", seeds(400, 2, 6))
@pytest.mark.parametrize("kind", [Drive, FunctionDrive, WorkflowDrive])
def test_checkpoints_change_nothing_that_can_be_seen(
    kind: type[Drive], seed: int, shard_count: int, is_lazy: bool
) -> None:
    """Random runs with checkpoints and crashes in them answer as the model does."""
    drive = kind(seed, shard_count, is_lazy, makes_checkpoints=True)
    for _ in range(5):
        drive.run(50)
        live = drive.system
        from_log = System(shard_count, live.options, live.log, live.now)
        from_checkpoint = System(shard_count, live.options, live.log, live.now, live.store)
        assert from_log.everything() == from_checkpoint.everything(), f"seed {seed}"
        for here, there in zip(from_log.machines, from_checkpoint.machines, strict=True):
            assert live_view(here.state) == live_view(there.state), f"seed {seed}"
        for machine in (*live.machines, *from_checkpoint.machines):
            state = machine.state
            tags = {
                tag: {one.id for one in state.promises.values() if tag in (one.tags or {}).items()}
                for one in state.promises.values()
                for tag in (one.tags or {}).items()
            }
            clients = {name for name in state.promises if not is_reserved(name)}
            assert entries(state) == {"all": clients, "tags": tags}, f"seed {seed}"
            final = {name for name, one in state.promises.items() if one.state in FINAL}
            assert set(state.completed) == final


@pytest.mark.slow
def test_the_runs_reach_every_step() -> None:
    """The runs above really evict and crash at every step."""
    events: Counter[str] = Counter()
    for seed in range(420, 432):
        drive = Drive(seed, 2, is_lazy=False, makes_checkpoints=True)
        drive.run(250)
        events += drive.events
    assert events["slice"] >= 50, events
    for name in ("slice", "capture", "write", "renew", "evict"):
        assert events[f"crash after {name}"] >= 2, events
    assert events["evicted"] >= 60, events


def small_system() -> System:
    """One shard with a completed promise, a pending one and a task whose root has ended."""
    system = System(1, now=1_000, store=MemoryStore())
    tags = {"resonate:invoke": "poll://g", "x": "1"}
    system.ask(c.CreatePromise("done", 10**15, tags=tags))
    system.ask(c.CompletePromise("done", PromiseState.RESOLVED))
    system.ask(c.CreatePromise("waits", 10**15, tags={"x": "1"}))
    return system


def test_what_is_finished_leaves_memory_and_is_found_all_the_same() -> None:
    """Only the pending promise stays; reads, creates, completions and tasks see the other one."""
    system = small_system()
    state = system.machines[0].state
    before = system.everything()
    system.capture(0)
    system.write_checkpoint()
    system.renew()
    assert system.evict() == 2
    assert list(state.promises) == ["waits"]
    assert state.tasks == {}
    assert state.completed == {}
    assert state.promises_count == 2
    assert state.tasks_count == 1
    assert system.everything() == before
    assert system.ask(c.ReadPromise("done")).code.name == "OK"
    assert system.ask(c.CreatePromise("done", 5)).code.name == "PROMISE_EXISTS"
    assert system.ask(c.ClaimTask("__invoke:done", 1, "w", 10)).code.status >= 400


def test_what_changed_after_its_capture_stays() -> None:
    """A promise captured pending and completed since is not dropped with the old capture."""
    system = small_system()
    state = system.machines[0].state
    system.capture(0)
    system.ask(c.CompletePromise("waits", PromiseState.REJECTED))
    system.write_checkpoint()
    system.renew()
    system.evict()
    assert list(state.promises) == ["waits"]
    assert state.changes.promises == ["waits"]
    assert system.restarted().everything() == system.everything()


def test_a_promise_is_noted_once_unless_it_was_captured_in_between() -> None:
    """Created and completed since the last capture it is one row, and one look at it."""
    system = System(1, now=1_000, store=MemoryStore())
    for name in ("before", "after"):
        system.ask(c.CreatePromise(name, 10**15))
        if name == "before":
            system.capture(0)
    changes = system.machines[0].state.changes
    for name in ("before", "after"):
        system.ask(c.CompletePromise(name, PromiseState.RESOLVED))
    assert changes.promises == ["after", "before"]
    system.write_checkpoint()
    system.renew()
    system.evict()
    assert len(system.machines[0].state.completed) == 2
    assert system.restarted().everything() == system.everything()
    system.capture(0)
    system.write_checkpoint()
    system.renew()
    assert system.evict() == 2
    assert system.restarted().everything() == system.everything()


def test_a_capture_in_slices_is_of_the_moment_of_its_last() -> None:
    """What was read before and has changed, come or gone since is as it is then."""
    system = System(1, now=1_000, store=MemoryStore())
    for number in range(10):
        system.ask(c.CreatePromise(f"p{number}", 10**15, tags={"resonate:invoke": "poll://g"}))
    state = system.machines[0].state
    for change in (
        c.CompletePromise("p0", PromiseState.RESOLVED),
        c.CompletePromise("p9", PromiseState.REJECTED),
        c.CreatePromise("q", 10**15),
        c.ClaimTask("__invoke:p1", 1, "w", 10**9),
        c.AcquireLock("l", "e", "w", 10**9),
    ):
        assert not system.capture_some(0)
        system.ask(change)
    while not system.capture_some(0):
        pass
    header = system.captures[0].header
    assert header.sequence == system.sequences[0]
    assert header.live_promises_count == state.pending_count
    assert state.changes.count == 0
    system.write_checkpoint()
    from_log = System(1, log=system.log, now=system.now)
    from_checkpoint = System(1, log=system.log, now=system.now, store=system.store)
    assert from_log.everything() == from_checkpoint.everything() == system.everything()


def test_what_is_deleted_while_a_capture_is_made_is_gone_from_the_store() -> None:
    """Also if something was deleted before, and the id is in use again."""
    system = small_system()
    for name in ("first", "second"):
        system.ask(c.CreatePromise(name, 10**15))
        system.ask(c.CompletePromise(name, PromiseState.RESOLVED))
    system.capture(0)
    system.write_checkpoint()
    system.renew()
    system.evict()
    state = system.machines[0].state
    replay(state, r.PromisesDeleted(["first"], [], 1, 2_000))
    for number in range(10):
        system.ask(c.CreatePromise(f"p{number}", 10**15))
    assert not system.capture_some(0)
    replay(state, r.PromisesDeleted(["second"], [], 1, 2_000))
    system.ask(c.CreatePromise("second", 10**15))
    while not system.capture_some(0):
        pass
    captured = system.captures[0]
    assert set(captured.deleted_promises) == {"first", "second"}
    assert captured.promises["first"] is None
    assert captured.promises["second"] is state.promises.kept["second"]
    system.write_checkpoint()
    system.renew()
    assert state.hidden_promises == {"first", "second"}
    system.evict()
    assert state.hidden_promises == set()
    assert [one.id for one in system.search("*", FINAL, {}, 100, 100)] == ["done"]


def test_a_capture_ends_however_much_changes_in_between() -> None:
    """More than a slice changes between any two."""
    system = System(1, now=1_000, store=MemoryStore())
    slices_count = 0
    for number in itertools.count():
        for place in range(20):
            system.ask(c.AcquireLock(f"l{place}", "e", "w", 10**9))
        if system.capture_some(0):
            break
        slices_count = number + 1
    assert 1 < slices_count < 60


def test_a_promise_that_is_moving_is_found_once() -> None:
    """Between the renewal and the eviction a promise is in two places."""
    system = small_system()
    system.capture(0)
    system.write_checkpoint()
    system.renew()
    for states in (tuple(PromiseState), FINAL):
        found = system.search("*", states, {"x": "1"}, 10, 100)
        names = [promise.id for promise in found]
        assert names == ["waits", "done"][-len(names) :]
        assert len(names) == (2 if states is not FINAL else 1)
    assert [one.id for one in system.search("*", FINAL, {}, 1, 1)] == ["done"]


def test_forgetting_comes_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """No slice is larger than the limit, and the state is whole between two."""
    monkeypatch.setattr(eviction, "EVICTION_SLICE_COUNT", 3)
    system = System(1, now=1_000, store=MemoryStore())
    for number in range(10):
        system.ask(c.CreatePromise(f"p{number}", 10**15))
        system.ask(c.CompletePromise(f"p{number}", PromiseState.RESOLVED))
    system.capture(0)
    system.write_checkpoint()
    system.renew()
    state = system.machines[0].state
    sizes = []
    for count in eviction.evict(state, system.captures[0]):
        sizes.append(count)
        assert len(state.promises) == 10 - sum(sizes)
        assert len(system.search("*", FINAL, {}, 3, 5)) == 10
    assert sizes == [3, 3, 3, 1]


def test_many_completed_promises_in_memory_are_searched_by_index() -> None:
    """Beyond what one look may cost, pages come from the index; they hold the same promises."""
    system = System(1, now=1_000)
    for number in range(40):
        tags = {"x": str(number % 2)}
        system.ask(c.CreatePromise(f"p{number}", 10**15, tags=tags))
        if number % 4:
            system.ask(c.CompletePromise(f"p{number}", PromiseState.RESOLVED))
    expected = [f"p{number}" for number in reversed(range(40)) if number % 4]
    assert [one.id for one in system.search("*", FINAL, {}, 3, 7)] == expected
    assert [one.id for one in system.search("*", FINAL, {}, 100, 1000)] == expected
    odd = [name for name in expected if int(name[1:]) % 2]
    assert [one.id for one in system.search("*", FINAL, {"x": "1"}, 2, 5)] == odd
