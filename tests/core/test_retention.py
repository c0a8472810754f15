"""Retention against the model: random runs in which rules delete, and ids are used again.

The model cannot know when a promise has left memory and can be deleted, so it is told what went,
and checks that it may go: completed, old enough, nothing unfinished about it. At the end, when all
has left memory, nothing that may go is left. Old workers come back all the time with task ids and
counters of deleted lives; they must never fit.
"""

from collections import Counter
from dataclasses import dataclass, field

import pytest

from tests.helpers.seeds import seeds
from tests.twins.memory_store import MemoryStore
from troth.core import commands as c
from troth.core import records as r
from troth.core.codes import Code
from troth.core.deciding import Options
from troth.core.limits import RETENTION_RECHECK_MS
from troth.core.machine import Step
from troth.core.model import PromiseState, TaskKind
from troth.core.replies import Retained
from troth.core.retention_rules import RetentionRule
from troth.core.workflow_commands import ResetShard
from troth.persistence.checkpoints import rows

from .drive import ALL_STATES, OPTIONS, START_MS, Drive
from .dumps import dump
from .model import Model, ModelCallback, ModelPromise, ModelTask
from .system import System

FINAL = ALL_STATES[1:]
RULES = (
    RetentionRule((PromiseState.RESOLVED,), 0, ("x", "1")),
    RetentionRule(FINAL, 60),
)
RETAINING = Options(OPTIONS.task_claim_timeout_ms, 4, "UTC", RULES)


class RetainingModel(Model):
    """The model, with promises that go."""

    floors: list[tuple[str, int]]

    def count_on(self, task: ModelTask, old: ModelTask | None) -> None:
        """Give a new task its counter: above that of every task ever deleted beside it."""
        floor = max((n for root, n in self.floors if self.is_local(root, task.root_id)), default=0)
        task.counter = 1 + (floor if old is None else old.counter)

    def new_promise(self, identifier, *others) -> ModelPromise:  # type: ignore[no-untyped-def]
        """As before, and count."""
        promise = super().new_promise(identifier, *others)
        task = self.tasks.get("__invoke:" + identifier)
        if task is not None:
            self.count_on(task, None)
        return promise

    def fire(self, callback: ModelCallback, created_on: int) -> None:
        """As before, and count."""
        old = self.tasks.get(callback.id)
        super().fire(callback, created_on)
        if self.is_local(callback.promise_id, callback.root_id):
            self.count_on(self.tasks[callback.id], old)
            return
        key, create = self.transit.pop()

        def create_and_count(model: Model) -> None:
            assert isinstance(model, RetainingModel)
            old = model.tasks.get(callback.id)
            create(model)
            model.count_on(model.tasks[callback.id], old)

        self.transit.append((key, create_and_count))

    def may_go(self, promise: ModelPromise) -> bool:
        """Whether a rule reaches a promise and nothing holds it."""
        if promise.completed_on is None:
            return False
        ended_on = max(promise.completed_on, promise.created_on)
        is_due = any(
            promise.state in rule.states
            and ended_on + rule.age_ms <= self.now
            and (rule.tag is None or (promise.tags or {}).get(rule.tag[0]) == rule.tag[1])
            for rule in RULES
        )
        return is_due and not self.is_held(promise.id)

    def is_held(self, promise_id: str) -> bool:
        """Whether something unfinished is about a promise."""
        has_task = any(
            promise_id in (task.root_id, task.leaf_id)
            for task in self.tasks.values()
            if not task.is_over
        )
        on_its_way = any(
            key[0] == "resume" and key[1].endswith(":" + promise_id) for key, _ in self.transit
        )
        return has_task or on_its_way

    def delete(self, promise_id: str) -> list[ModelTask]:
        """A promise goes, with the tasks of which it is the root."""
        del self.promises[promise_id]
        gone = [task for task in self.tasks.values() if task.root_id == promise_id]
        for task in gone:
            self.floors.append((promise_id, task.counter))
            del self.tasks[task.id]
        return gone


@dataclass
class RetainingSystem(System):
    """The system, with machines that ask each other whether a promise is awaited."""

    options: Options = field(default_factory=lambda: RETAINING)

    def __post_init__(self) -> None:
        super().__post_init__()
        for machine in self.machines:
            machine.is_awaited = lambda name: any(one.awaits(name) for one in self.machines)

    def restarted(self, step_count: int | None = None) -> "RetainingSystem":
        """As before, but of this kind."""
        log = list(self.log[:step_count])
        system = RetainingSystem(self.shard_count, self.options, log, self.now, self.store)
        system.start()
        return system

    def _note_transitions(self, command: c.Command, step: Step) -> None:
        for record in step.records:
            if isinstance(record, r.PromisesDeleted):
                for task_id in record.task_ids:
                    del self.states[task_id]
        super()._note_transitions(command, step)

    def retain(self, index: int, limit_count: int, scan_count: int) -> tuple[list[str], Retained]:
        """One slice in one shard: what was deleted, and the reply."""
        step = self.tell(index, c.Retain(limit_count, scan_count))
        assert step.reply.retained is not None
        gone = [
            name
            for record in step.records
            if isinstance(record, r.PromisesDeleted)
            for name in record.ids
        ]
        assert sum(step.reply.retained.deleted_counts) == len(gone) <= limit_count
        return gone, step.reply.retained

    def count(self, index: int, scan_count: int) -> int:
        """What a dry run says that one shard would delete."""
        total, start = 0, c.SLICE_START
        while True:
            step = self.tell(index, c.CountRetained(self.options.retention, start, scan_count))
            assert step.records == [], "a dry run changes nothing"
            assert step.reply.retained is not None
            total += sum(step.reply.retained.deleted_counts)
            if step.reply.retained.following is None:
                return total
            start = step.reply.retained.following


class RetainingDrive(Drive):
    """A random run with retention."""

    system: RetainingSystem
    model: RetainingModel

    def __init__(self, seed: int, shard_count: int, makes_checkpoints: bool) -> None:
        super().__init__(seed, shard_count, is_lazy=False, makes_checkpoints=makes_checkpoints)
        store = MemoryStore() if makes_checkpoints else None
        self.system = RetainingSystem(shard_count, now=START_MS, store=store)
        self.model = RetainingModel(self.is_local, OPTIONS.task_claim_timeout_ms, 4)
        self.model.floors = []
        self.model.settle(START_MS)
        self.gone: list[ModelTask] = []
        self.gone_ids: set[str] = set()

    def one_thing(self) -> None:
        """One random thing; often a slice of retention, or somebody who slept through one."""
        chance = self.random.random()
        if chance < 0.15:
            self.retain(self.random.randrange(self.system.shard_count))
            self.compare()
        elif chance < 0.22 and self.gone:
            self.come_back()
        else:
            self.note_reuse()
            super().one_thing()

    def retain(self, index: int) -> Retained:
        """One slice, of a random size."""
        self.settle_all()
        limit_count = self.random.choice((1, 2, 50))
        gone, retained = self.system.retain(index, limit_count, limit_count + 1)
        for promise_id in gone:
            assert self.model.may_go(self.model.promises[promise_id]), promise_id
            self.delete(promise_id)
        self.events["deleted"] += len(gone)
        self.events["waited"] += retained.waiting_count
        return retained

    def delete(self, promise_id: str) -> None:
        """A promise has gone."""
        self.gone += self.model.delete(promise_id)
        self.gone_ids.add(promise_id)

    def come_back(self) -> None:
        """A worker of a deleted life wakes up: what it holds fits nothing."""
        task = self.random.choice(self.gone)
        self.settle_all()
        for command in (
            c.ClaimTask(task.id, task.counter, "w1", 100),
            c.CompleteTask(task.id, task.counter),
            c.DropTask(task.id, task.counter),
        ):
            reply = self.system.ask(command)
            assert reply.code is not Code.CREATED, "an old counter fits a new task"
            assert self.model.answer(command)["code"] is reply.code
        self.events["came back"] += 1
        if task.id in self.model.tasks:
            self.events["task id reused"] += 1

    def note_reuse(self) -> None:
        """Count ids that are in use for the second time."""
        reused = self.gone_ids & self.model.promises.keys()
        self.events["reused"] += len(reused)
        self.gone_ids -= reused

    def due(self) -> list[str]:
        """What retention would delete now."""
        unacknowledged = self.unacknowledged()
        return [
            one.id
            for one in self.model.promises.values()
            if self.model.may_go(one) and one.id not in unacknowledged
        ]

    def unacknowledged(self) -> set[str]:
        """Promises whose completion was sent to roots of other shards.

        Acknowledgements get lost here; until the next start the sender of a message then does not
        know that it has arrived.
        """
        return {
            message.callback.promise_id
            for machine in self.system.machines
            for _, _, message in machine.state.outbox
            if isinstance(message, r.ResumeMessage)
        }

    def finish_checkpoint(self) -> None:
        """Get everything that can leave memory out of it."""
        while self.checkpoint_steps:
            self.checkpoint_step()
        system = self.system
        for index in range(system.shard_count):
            system.capture(index)
        system.write_checkpoint()
        system.renew()
        for _ in range(system.shard_count):
            system.evict()


def index_keys(system: System) -> Counter[str]:
    """How many entries each table of the store has."""
    assert system.store is not None
    return Counter({table: len(found) for table, found in system.store.tables.items()})


@pytest.mark.slow
@pytest.mark.seeds
@pytest.mark.parametrize("makes_checkpoints", [False, True])
@pytest.mark.parametrize("shard_count", [1, 3])
@pytest.mark.parametrize("seed", seeds(700, 3, 8))
def test_rules_delete_what_they_may_and_all_of_it(
    seed: int, shard_count: int, makes_checkpoints: bool
) -> None:
    """In random runs with checkpoints and crashes, and entirely at the end of each."""
    drive = RetainingDrive(seed, shard_count, makes_checkpoints)
    try:
        for _ in range(4):
            drive.run(60)
            drive.system.now += RETENTION_RECHECK_MS
            drive.settle_all()
            if makes_checkpoints:
                drive.finish_checkpoint()
            counted = sum(drive.system.count(index, 3) for index in range(shard_count))
            assert counted == len(drive.due())
            for index in range(shard_count):
                while drive.retain(index).following is not None:
                    pass
            assert drive.due() == []
            drive.compare()
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise

    live = drive.system
    if live.checkpoints is not None:
        live.checkpoints.verify()
    replayed = RetainingSystem(shard_count, live.options, live.log, live.now)
    assert replayed.everything() == live.everything()
    floors = [machine.state.task_counter_floor for machine in live.machines]
    assert floors == [machine.state.task_counter_floor for machine in replayed.machines]
    if not makes_checkpoints:
        for here, there in zip(live.machines, replayed.machines, strict=True):
            assert dump(here.state) == dump(there.state)


@pytest.mark.slow
def test_the_runs_do_everything() -> None:
    """The runs above delete, wait, and use ids again."""
    events: Counter[str] = Counter()
    for seed in range(720, 730):
        drive = RetainingDrive(seed, 2, makes_checkpoints=True)
        drive.run(300)
        events += drive.events
    for name in ("deleted", "waited", "reused", "came back", "task id reused"):
        assert events[name] >= 3, events


def test_no_row_of_a_deleted_promise_is_left_in_any_table() -> None:
    """Rows, index entries, tasks, of every kind, after the checkpoint that follows."""
    system = RetainingSystem(1, now=1_000, store=MemoryStore())
    for number in range(5):
        name = f"p{number}" if number else "long" * 200
        tags = {"resonate:invoke": "poll://g", "x": "1"}
        system.ask(c.CreatePromise(name, 10**15, tags=tags))
        system.ask(c.CreateSubscription(name, "s", 10**15, "poll://g"))
        system.ask(c.CompletePromise(name, FINAL[number % 3]))
        system.report_sent(*next(iter(system.delivering.items())))
    checkpoint(system)
    counts = index_keys(system)
    assert counts[rows.PROMISES] == counts[rows.BY_END] == 5
    assert counts[rows.TASKS] == counts[rows.BY_TAG] == 10
    system.now += 60

    gone, retained = system.retain(0, 50, 200)
    assert len(gone) == 5
    assert retained.following is None
    assert not system.promises()
    assert not system.tasks()
    for name in gone:
        assert system.ask(c.ReadPromise(name)).code is Code.PROMISE_NOT_FOUND
        callback = c.CreateCallback(name, "other", 10**15, "poll://g")
        assert system.ask(callback).code is Code.PROMISE_NOT_FOUND
        assert system.ask(c.CompleteTask(f"__invoke:{name}", 1)).code is Code.TASK_NOT_FOUND
    checkpoint(system)

    assert system.checkpoints is not None
    system.checkpoints.verify()
    left = {table: count for table, count in index_keys(system).items() if count}
    assert left.keys() <= {rows.META, rows.HEADERS, "digests"}, left


def checkpoint(system: System) -> None:
    """One whole checkpoint of a system with one shard."""
    system.capture(0)
    system.write_checkpoint()
    system.renew()
    system.evict()


def test_an_id_is_free_at_every_step_of_the_checkpoint_that_forgets_it() -> None:
    """A late retry with the same key makes a new promise; its life is not mixed with the old."""
    for moment in range(5):
        system = RetainingSystem(1, now=1_000, store=MemoryStore())
        create = c.CreatePromise("a", 10**15, tags={"x": "1"}, idempotency_key="k")
        system.ask(create)
        system.ask(c.CompletePromise("a", PromiseState.RESOLVED))
        checkpoint(system)
        assert system.retain(0, 50, 200)[0] == ["a"]

        def steps(system: System = system) -> list[object]:
            return [
                lambda: None,
                lambda: system.capture(0),
                system.write_checkpoint,
                system.renew,
                system.evict,
            ]

        todo = steps()
        for step in todo[: moment + 1]:
            step()  # type: ignore[operator]
        reply = system.ask(create)
        assert reply.code is Code.CREATED
        assert reply.promise is not None
        for step in todo[moment + 1 :]:
            step()  # type: ignore[operator]
        assert [one.serial for one in system.promises()] == [reply.promise.serial]
        system.ask(c.CompletePromise("a", PromiseState.REJECTED))
        checkpoint(system)
        checkpoint(system)
        found = system.search("*", FINAL, {}, 10, 10)
        assert [one.state for one in found] == [PromiseState.REJECTED]
        restarted = system.restarted()
        assert restarted.everything() == system.everything()
        assert index_keys(system)[rows.BY_END] == index_keys(system)[rows.PROMISES] == 1


def test_what_is_made_again_while_its_old_life_is_written_stays_in_memory() -> None:
    """A checkpoint drops the promise that it wrote, not the one that has its id meanwhile."""
    for moment in range(3):
        system = RetainingSystem(1, now=1_000, store=MemoryStore())
        system.ask(c.CreatePromise("a", 10**15))
        system.ask(c.CompletePromise("a", PromiseState.RESOLVED))
        system.capture(0)
        steps = [lambda: None, system.write_checkpoint, system.renew]
        for step in steps[: moment + 1]:
            step()
        system.tell(0, ResetShard())
        reply = system.ask(c.CreatePromise("a", 10**15, tags={"new": "1"}))
        assert reply.code is Code.CREATED
        assert reply.promise is not None
        for step in steps[moment + 1 :]:
            step()
        system.evict()

        assert [one.serial for one in system.promises()] == [reply.promise.serial]
        assert system.ask(c.CompletePromise("a", PromiseState.REJECTED)).code is Code.CREATED


def test_a_task_that_is_made_again_while_its_old_life_is_written_stays_in_memory() -> None:
    """A checkpoint drops the finished task that it wrote, not the next one of that id."""
    system = RetainingSystem(1, now=1_000, store=MemoryStore())

    def live() -> None:
        create = c.CreatePromise("a", 10**15, tags={"resonate:invoke": "poll://g"})
        assert system.ask(create).code is Code.CREATED
        system.report_sent("__invoke:a", 1)
        assert system.ask(c.ClaimTask("__invoke:a", 1, "w", 10**6)).code is Code.CREATED
        assert system.ask(c.CompleteTask("__invoke:a", 1)).code is Code.CREATED

    live()
    system.capture(0)
    system.tell(0, ResetShard())
    live()
    (sequence,) = [task.sequence for task in system.tasks()]
    system.write_checkpoint()
    system.renew()
    system.evict()

    assert [task.sequence for task in system.tasks()] == [sequence]
    checkpoint(system)
    assert [task.sequence for task in system.tasks()] == [sequence]
    assert system.restarted().everything() == system.everything()


def test_a_promise_waits_for_the_root_that_its_completion_wakes() -> None:
    """The task that resumes the root is handed its leaf; only then may the leaf go."""
    system = RetainingSystem(1, now=1_000)
    system.ask(c.CreatePromise("root", 10**15, tags={"resonate:invoke": "poll://g"}))
    system.ask(c.CreatePromise("leaf", 10**15, tags={"x": "1"}))
    system.ask(c.CreateCallback("leaf", "root", 10**15, "poll://g"))
    system.ask(c.CompletePromise("leaf", PromiseState.RESOLVED))

    assert system.retain(0, 50, 200)[0] == []
    assert system.count(0, 10) == 0
    system.report_sent("__invoke:root", 1)
    assert system.ask(c.ClaimTask("__invoke:root", 1, "w", 10**6)).code is Code.CREATED
    assert system.ask(c.CompleteTask("__invoke:root", 1)).code is Code.CREATED
    claim = system.ask(c.ClaimTask("__resume:root:leaf", 1, "w", 10**6))
    assert claim.claimed is not None
    assert claim.claimed.kind is TaskKind.RESUME
    assert claim.claimed.leaf is not None
    system.ask(c.CompleteTask("__resume:root:leaf", 1))
    system.now += RETENTION_RECHECK_MS

    assert system.retain(0, 50, 200)[0] == ["leaf"]


def test_without_rules_nothing_is_ever_deleted() -> None:
    system = System(1, now=1_000)
    system.ask(c.CreatePromise("a", 10**15))
    system.ask(c.CompletePromise("a", PromiseState.RESOLVED))
    system.now += 10**12

    step = system.tell(0, c.Retain(50, 200))

    assert step.records == []
    assert step.reply.retained is None


def test_a_pass_costs_what_is_new_and_not_what_there_is() -> None:
    """What a walk has passed is not looked at again."""
    system = RetainingSystem(
        1, Options(retention=(RetentionRule(FINAL, 0, ("x", "1")),)), [], 1_000
    )
    system = RetainingSystem(1, system.options, [], 1_000, MemoryStore())
    for number in range(20):
        system.ask(c.CreatePromise(f"p{number}", 10**15))
        system.ask(c.CompletePromise(f"p{number}", PromiseState.RESOLVED))
    checkpoint(system)
    slices = [system.retain(0, 5, 8)[1].following for _ in range(4)]

    assert slices[:2] == [c.SLICE_START, c.SLICE_START]
    assert slices[2:] == [None, None]
    retention = system.machines[0].state.retention
    assert retention is not None
    assert [
        len(system.machines[0].state.cold.ended(walk.state, walk.after, 10**9, 9))
        for walk in retention.walks
    ] == [0, 0, 0, 0]


def test_archives_of_builds_are_passed_over() -> None:
    """They go with their builds, however old they are."""
    rule = RetentionRule(tuple(PromiseState)[1:], 0)
    system = System(1, Options(retention=(rule,)), now=1_000)
    system.ask(c.StorePackage("troth:archive/1", "eA=="))
    system.ask(c.CreatePromise("p", 10**15))
    system.ask(c.CompletePromise("p", PromiseState.RESOLVED))
    system.now += 10**9

    counted = system.tell(0, c.CountRetained((rule,), c.SLICE_START, 100)).reply.retained
    assert counted is not None
    assert counted.deleted_counts == (1,)
    system.tell(0, c.Retain(100, 100))
    assert [one.id for one in system.promises()] == ["troth:archive/1"]
