"""Retention with workflows, in random runs: what a workflow would read stays, all else goes.

Workflows begin, take steps in fences, wait for promises of theirs, end, and begin again under the
same ids, while slices of retention run, messages between shards are late, and the server crashes.
Nothing may go that has not ended long enough, or that comes from a workflow that could run again;
workers of deleted lives never fit; and at the end nothing is left.
"""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest

from troth.core import workflow_commands as w
from troth.core.codes import Code
from troth.core.deciding import Options
from troth.core.decisions.deletions import Lineage
from troth.core.limits import INTEGER_MAX, RETENTION_RECHECK_MS
from troth.core.model import Promise, PromiseState
from troth.core.retention_rules import RetentionRule
from troth.core.workflows import WorkflowFence

from .drive import ALL_STATES
from .test_retention import RetainingSystem

AGE_MS = 60
IDS = ("r", "s", "t", "u")
ENDS = ALL_STATES[1:4]
RETAINING = Options(retention=(RetentionRule(ALL_STATES[1:], AGE_MS),))
NO_FIT = (Code.TASK_NOT_FOUND, Code.WORKFLOW_STATE, Code.WORKFLOW_VERSION)


@dataclass
class Workflow:
    """One life of a workflow, as its worker knows it. `settled_on` are the ends, by promise."""

    id: str
    version: int
    awaits: str | None = None
    pending: list[str] = field(default_factory=list)
    settled_on: dict[str, int] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        """Whether its own promise has settled."""
        return self.id in self.settled_on


class Run:
    """A random run. `lives` are the latest of each id, `ends` the ends of all promises."""

    def __init__(self, seed: int, shard_count: int) -> None:
        self.random = Random(seed)
        self.system = RetainingSystem(shard_count, RETAINING, now=1_000)
        self.lives: dict[str, Workflow] = {}
        self.ends: dict[str, int] = {}
        self.old: list[tuple[str, int]] = []
        self.made_count = 0
        self.events: Counter[str] = Counter()

    def many_things(self, count: int) -> None:
        """That many random things."""
        for _ in range(count):
            self.one_thing()

    def one_thing(self) -> None:
        """One random thing."""
        chance = self.random.random()
        if chance < 0.12:
            self.system.now += self.random.choice((1, AGE_MS - 1, AGE_MS, RETENTION_RECHECK_MS))
        elif chance < 0.3:
            self.retain(self.random.randrange(self.system.shard_count), self.random.choice((1, 50)))
        elif chance < 0.4:
            self.deliver()
        elif chance < 0.42:
            self.system = self.system.restarted()
            self.events["crash"] += 1
        elif chance < 0.5 and self.old:
            self.come_back()
        else:
            self.work(self.random.choice(IDS))

    def work(self, name: str) -> None:
        """A worker of a workflow does what comes next."""
        life = self.lives.get(name)
        if life is None or (life.has_ended and not self.exists(name)):
            self.begin(name)
        elif life.has_ended:
            return
        elif life.awaits is not None:
            self.wake(life)
        else:
            random = self.random
            step = random.choice((self.create, self.create, self.settle, self.suspend, self.end))
            step(life)

    def exists(self, name: str) -> bool:
        """Whether there is a promise."""
        return self.system.ask(w.ReadWorkflow(name)).workflow is not None

    def begin(self, name: str) -> None:
        """A workflow begins, perhaps not for the first time."""
        tags = {"resonate:target": "poll://any@g", "resonate:origin": name}
        reply = self.system.ask(w.CreateWorkflow(name, INTEGER_MAX, "p", INTEGER_MAX, tags=tags))
        assert reply.workflow is not None
        version = reply.workflow.version
        assert all(version > old for one, old in self.old if one == name), "an old version again"
        self.events["again" if name in self.lives else "begun"] += 1
        self.lives[name] = Workflow(name, version)

    def create(self, life: Workflow) -> None:
        """A step makes a promise, in a fence."""
        self.made_count += 1
        child = f"{life.id}:{self.made_count}"
        fence = WorkflowFence(life.id, life.version)
        tags = {"resonate:origin": life.id, "resonate:parent": life.id}
        assert self.system.ask(w.EnsurePromise(child, INTEGER_MAX, tags=tags, fence=fence)).promise
        life.pending.append(child)

    def settle(self, life: Workflow) -> None:
        """A step ends, in a fence."""
        if life.pending:
            child = life.pending.pop(self.random.randrange(len(life.pending)))
            fence = WorkflowFence(life.id, life.version)
            end = self.random.choice(ENDS)
            assert self.system.ask(w.SettlePromise(child, end, fence=fence)).code is Code.OK
            self.note(life, child)

    def suspend(self, life: Workflow) -> None:
        """The workflow waits."""
        if life.pending:
            life.awaits = self.random.choice(life.pending)
            command = w.SuspendWorkflow(life.id, life.version, (life.awaits,))
            assert self.system.ask(command).code is Code.OK

    def wake(self, life: Workflow) -> None:
        """Somebody settles what the workflow waits for; it goes on once it has heard of that."""
        assert life.awaits is not None
        if life.awaits in life.pending:
            life.pending.remove(life.awaits)
            assert self.system.ask(w.SettlePromise(life.awaits, ENDS[0])).code is Code.OK
            self.note(life, life.awaits)
        command = w.AcquireWorkflow(life.id, life.version, "p", INTEGER_MAX)
        reply = self.system.ask(command)
        if reply.code is Code.OK:
            assert reply.workflow is not None
            life.version, life.awaits = reply.workflow.version, None
            self.events["woken"] += 1
        else:
            assert reply.code is Code.WORKFLOW_STATE, "it sleeps until the message is there"

    def end(self, life: Workflow) -> None:
        """The workflow ends, when all that it has begun has ended."""
        if not life.pending:
            command = w.FulfillWorkflow(life.id, life.version, self.random.choice(ENDS))
            assert self.system.ask(command).code is Code.OK
            self.note(life, life.id)

    def note(self, life: Workflow, name: str) -> None:
        """A promise has settled."""
        life.settled_on[name] = self.ends[name] = self.system.now

    def come_back(self) -> None:
        """A worker of a deleted life does not fit."""
        name, version = self.random.choice(self.old)
        fence = WorkflowFence(name, version)
        refused = self.system.ask(w.EnsurePromise("stray", INTEGER_MAX, fence=fence))
        assert refused.code in NO_FIT
        assert (
            self.system.ask(w.FulfillWorkflow(name, version, PromiseState.RESOLVED)).code in NO_FIT
        )
        self.events["came back"] += 1

    def retain(self, index: int, limit_count: int) -> None:
        """A slice of retention, and whether what went might go."""
        gone, retained = self.system.retain(index, limit_count, limit_count + 1)
        for name in gone:
            root = self.lives[name.partition(":")[0]]
            assert self.ends[name] + AGE_MS <= self.system.now, f"{name} went too early"
            assert root.has_ended, f"{name} went while {root.id} may read it"
            assert self.ends[root.id] + AGE_MS <= self.system.now
            if name == root.id:
                self.old.append((name, root.version))
        self.events["gone"] += len(gone)
        self.events["kept"] += retained.waiting_count

    def deliver(self) -> None:
        """A message between shards arrives, and its sender hears of that."""
        if self.system.posts:
            self.system.deliver(*self.random.choice(sorted(self.system.posts)))
            self.events["message"] += 1
        while self.system.acknowledgments:
            self.system.tell(*self.system.acknowledgments.pop())

    def finish(self) -> None:
        """All workflows end, and retention goes on until nothing goes any more."""
        while self.system.posts:
            self.deliver()
        for life in self.lives.values():
            while not life.has_ended:
                if life.awaits is not None:
                    self.wake(life)
                    while self.system.posts:
                        self.deliver()
                elif life.pending:
                    self.settle(life)
                else:
                    self.end(life)
        for _ in range(3):
            self.system.now += RETENTION_RECHECK_MS
            for index in range(self.system.shard_count):
                self.retain(index, 1_000)


@pytest.mark.parametrize("shard_count", [1, 4])
def test_workflows_keep_what_they_read_and_leave_nothing(shard_count: int) -> None:
    events: Counter[str] = Counter()
    for seed in range(20):
        run = Run(seed, shard_count)
        try:
            run.many_things(300)
            run.finish()
            assert list(run.system.promises()) == []
            assert all(not machine.state.workflows for machine in run.system.machines)
            assert all(not list(machine.state.awaits.pairs()) for machine in run.system.machines)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        events += run.events
    wanted = {"begun", "again", "woken", "gone", "kept", "crash", "came back"}
    wanted |= {"message"} if shard_count > 1 else set()
    assert all(events[name] >= 5 for name in wanted), events


def test_what_goes_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is planted in the server: nothing stays for the sake of its origin."""

    def keep_nothing(lineage: Lineage, promise: Promise) -> bool:
        return False

    monkeypatch.setattr(Lineage, "keeps", keep_nothing)
    run = Run(0, 1)
    with pytest.raises(AssertionError, match="may read it"):
        run.many_things(3_000)
