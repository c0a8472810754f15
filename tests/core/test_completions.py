"""A completion that is carried out in slices: as if it were one step, whatever comes in between.

What is compared is one machine that may do all in a step with one that takes a slice of three at a
time. Ids that begin with "far" live in another shard, whose messages stay in the outbox.
"""

from tests.twins.memory_store import MemoryStore
from troth.core import commands as c
from troth.core import records as r
from troth.core import workflow_commands as w
from troth.core.codes import Code
from troth.core.deciding import Options
from troth.core.limits import INTEGER_MAX, RETENTION_RECHECK_MS
from troth.core.machine import Machine, Step
from troth.core.model import Fence, PromiseState, TaskState
from troth.core.replies import TaskMessage
from troth.core.retention_rules import RetentionRule
from troth.core.state import checkpointing
from troth.core.state.apply import replay
from troth.core.state.shard_state import ShardState
from troth.core.workflow_commands import CreateWorkflow, ReadWorkflow, SuspendWorkflow
from troth.core.workflows import SUSPENDED, WAITING
from troth.persistence.checkpoints.checkpoints import Checkpoints

from .dumps import dump
from .system import DATA_ID

GROUP = "poll://any@g"
FAR_MS = INTEGER_MAX
WAITERS_COUNT = 8
SLICE_COUNT = 3
RESOLVED = PromiseState.RESOLVED
COMPLETE = c.CompletePromise("p", RESOLVED)


def shard_of(identifier: str) -> int:
    """Shard 0, but for those that are far."""
    return int(identifier.startswith("far"))


class Shard:
    """A machine, its log, and the commands that carry on with what was too much for a step."""

    def __init__(self, slice_count: int, options: Options | None = None) -> None:
        self.options = options or Options(completion_slice_count=slice_count)
        self.log: list[r.Record] = []
        self.again: list[c.Command] = []
        self.now = 1_000
        self.machine = self._machine()

    def _machine(self) -> Machine:
        serial = 0

        def next_serial() -> int:
            nonlocal serial
            serial += 1
            return serial

        machine = Machine(0, shard_of, next_serial, self.options)
        # Without retention, checkpoints; with it, what completes stays in memory.
        machine.state.tracks_changes = not self.options.retention
        machine.neighbor = lambda _: machine
        return machine

    @property
    def state(self) -> ShardState:
        return self.machine.state

    def step(self, command: c.Command) -> Step:
        """One step; what it leaves is for `carry_on`."""
        return self._take(self.machine.step(command, self.now))

    def _take(self, step: Step) -> Step:
        self.log += [r.decode(r.encode(record)) for record in step.records]
        if step.again is not None:
            self.again.append(step.again)
        return step

    def carry_on(self) -> Step:
        """One of the steps that are left."""
        return self.step(self.again.pop(0))

    def finish(self) -> None:
        """All of them."""
        while self.again:
            self.carry_on()

    def restarted(self, records_count: int) -> "Shard":
        """As it is after a crash that has kept so many records, after its start."""
        after = Shard(0, self.options)
        for record in self.log[:records_count]:
            replay(after.state, record)
        after.log = self.log[:records_count]
        after.now = self.now
        after._take(after.machine.start(self.now))
        return after

    def from_checkpoint(self) -> "Shard":
        """As it is after a checkpoint now, and a crash."""
        capture = checkpointing.capture(self.state, len(self.log), len(self.log))
        checkpoints = Checkpoints(MemoryStore(), DATA_ID, 1)
        checkpoints.write([capture])
        checkpoints.renew()
        loaded = checkpoints.load(0)
        assert loaded is not None
        after = Shard(0, self.options)
        after.state.cold = checkpoints.reader.shards[0]
        checkpointing.load(after.state, loaded)
        after.now = self.now
        after._take(after.machine.start(self.now))
        return after


def waited_for(slice_count: int, options: Options | None = None) -> Shard:
    """A shard in which much hangs on the promise p: every kind, here and far away."""
    shard = Shard(slice_count, options)
    shard.step(c.CreatePromise("p", FAR_MS))
    for number in range(WAITERS_COUNT):
        shard.step(c.CreatePromise(f"leaf{number}", FAR_MS))
        shard.step(c.CreateCallback(f"leaf{number}", "p", FAR_MS, GROUP))
        shard.step(c.CompletePromise(f"leaf{number}", RESOLVED))
        shard.step(c.CreatePromise(f"root{number}", FAR_MS))
        shard.step(c.CreateCallback("p", f"root{number}", FAR_MS, GROUP))
        shard.step(c.CreateCallback("p", f"far-root{number}", FAR_MS, GROUP))
        shard.step(c.CreateSubscription("p", f"s{number}", FAR_MS, GROUP))
        tags = {"resonate:target": GROUP}
        shard.step(CreateWorkflow(f"w{number}", FAR_MS, "pid", 60_000, tags=tags))
        shard.step(SuspendWorkflow(f"w{number}", 1, ("p",)))
        shard.step(w.RegisterListener("p", f"{GROUP}/{number}"))
    return shard


def seen(shard: Shard) -> dict[str, object]:
    """All of the state but the order in which equals were made, and what a restart renews."""
    found = dump(shard.state)
    del found["lease floor"], found["task sequence"]
    found["tasks"] = sorted(
        (one.id, one.state, one.counter, one.created_on, one.completed_on)
        for one in shard.state.tasks.values()
    )
    found["outbox"] = sorted(r.encode(one) for _, _, one in shard.state.outbox)
    return found


def at_once() -> Shard:
    """The same in one step."""
    shard = waited_for(1_000)
    step = shard.step(COMPLETE)
    assert step.again is None
    assert [type(record) for record in step.records] == [r.PromiseCompleted]
    return shard


def test_slices_amount_to_the_whole() -> None:
    shard, whole = waited_for(SLICE_COUNT), at_once()
    step = shard.step(COMPLETE)
    assert [type(record) for record in step.records] == [r.CompletionBegun]
    slices_count = 0
    shard.now += 500  # what comes later counts as of the completion
    while shard.again:
        assert shard.state.completions == {"p": 1_000}
        step = shard.carry_on()
        slices_count += 1
        assert [type(record) for record in step.records] == [r.CompletionContinued]

    assert slices_count == -(-6 * WAITERS_COUNT // SLICE_COUNT)
    assert step.reply.code is Code.CREATED
    assert step.reply.promise == whole.state.promises["p"]
    assert shard.state.completions == {}
    assert seen(shard) == seen(whole)


def test_a_crash_after_any_record_loses_nothing_and_doubles_nothing() -> None:
    shard, whole = waited_for(SLICE_COUNT), at_once()
    before_count = len(shard.log)
    shard.step(COMPLETE)
    shard.finish()
    for records_count in range(before_count + 1, len(shard.log) + 1):
        after = shard.restarted(records_count)
        assert bool(after.again) is (records_count < len(shard.log))
        after.finish()
        assert seen(after) == seen(whole), records_count


def test_a_checkpoint_has_what_is_half_done() -> None:
    """Between any two slices: the checkpoint alone is enough to go on from."""
    whole = at_once()
    for done_count in range(2 * WAITERS_COUNT):
        shard = waited_for(SLICE_COUNT)
        shard.step(COMPLETE)
        for _ in range(done_count):
            shard.carry_on()
        after = shard.from_checkpoint()
        assert after.state.completions == shard.state.completions
        after.finish()
        unfinished = {one.id for one in after.state.tasks.values() if not one.is_final}
        assert unfinished == {one.id for one in whole.state.tasks.values() if not one.is_final}
        assert seen(after)["outbox"] == seen(whole)["outbox"]
        assert seen(after)["unblocks"] == seen(whole)["unblocks"]
        assert seen(after)["awaits"] == seen(whole)["awaits"]
        assert after.state.callbacks == {}
        waiting = {one.id for one in after.state.workflows.values() if one.state is WAITING}
        assert waiting == {f"w{number}" for number in range(WAITERS_COUNT)}


# Whoever comes in between


def begun() -> Shard:
    """The promise has completed, and nothing has followed yet."""
    shard = waited_for(SLICE_COUNT)
    shard.step(COMPLETE)
    return shard


def test_a_task_is_there_for_whoever_asks_for_it() -> None:
    shard = begun()
    for task_id in ("__resume:root7:p", "__notify:p:s7"):
        assert task_id not in shard.state.tasks
        assert shard.step(c.ClaimTask(task_id, 1, "w", 60_000)).reply.code is Code.CREATED
    shard.finish()
    assert len([record for record in shard.log if isinstance(record, r.TaskClaimed)]) == 2
    assert shard.state.tasks["__resume:root7:p"].state is TaskState.CLAIMED
    assert shard.state.tasks["__resume:root7:p"].counter == 1


def test_a_task_of_the_root_has_ended_for_whoever_asks_for_it() -> None:
    shard = waited_for(SLICE_COUNT)
    last = "__resume:p:leaf7"
    assert shard.step(c.ClaimTask(last, 1, "w", 60_000)).reply.code is Code.CREATED
    assert shard.machine.task_is_held(Fence(last, 1), shard.now)
    shard.step(COMPLETE)
    assert not shard.machine.task_is_held(Fence(last, 1), shard.now)
    assert shard.step(c.ClaimTask("__resume:p:leaf6", 1, "w", 60_000)).reply.code is (
        Code.TASK_COMPLETED
    )
    assert shard.step(c.CompleteTask(last, 1)).reply.code is Code.OK
    shard.finish()
    assert shard.state.claimed == {}
    assert shard.state.roots.keys() == {f"root{number}" for number in range(WAITERS_COUNT)}


def test_no_task_of_a_completed_root_goes_out() -> None:
    """When the one that was under way ends, the next one's turn does not come."""
    shard = waited_for(SLICE_COUNT)
    shard.step(COMPLETE)
    sent = []
    while shard.again:
        sent += [one.task.id for one in shard.carry_on().sends if isinstance(one, TaskMessage)]
    assert "__notify:p:s7" in sent
    assert not [task_id for task_id in sent if task_id.startswith("__resume:p:")]
    assert all(
        task.state is TaskState.COMPLETED
        for task in shard.state.tasks.values()
        if task.id.startswith("__resume:p:")
    )


def test_an_awaiter_is_awake_for_whoever_looks() -> None:
    shard = begun()
    assert shard.state.workflows["w7"].state is SUSPENDED
    view = shard.step(ReadWorkflow("w7")).reply.workflow
    assert view is not None
    assert (view.state, view.resumes) == (WAITING, 1)
    shard.finish()
    assert shard.state.workflows["w7"].resumes == 1


def test_deadlines_that_came_before_it_come_first() -> None:
    """A lease of a task of the root that ran out before the completion counts as given out again.

    One that runs out while the completion is under way ends with the root.
    """
    shard = waited_for(SLICE_COUNT)
    last, least = "__resume:p:leaf7", "__resume:p:leaf6"
    shard.step(c.ClaimTask(last, 1, "w", 500))
    shard.now += 600
    shard.step(c.ClaimTask(least, 1, "w", 500))
    shard.step(COMPLETE)
    shard.now += 600
    shard.finish()
    counters = [
        (shard.state.tasks[one].counter, shard.state.tasks[one].state) for one in (last, least)
    ]
    assert counters == [(2, TaskState.COMPLETED), (1, TaskState.COMPLETED)]


def test_a_timeout_is_carried_out_in_slices_too() -> None:
    """Whoever looks first, a client or the timer: the reply comes with the last slice."""
    shard = Shard(SLICE_COUNT)
    shard.step(c.CreatePromise("p", 2_000))
    for number in range(WAITERS_COUNT):
        shard.step(c.CreateSubscription("p", f"s{number}", FAR_MS, GROUP))
    shard.now = 2_000
    step = shard.step(c.ReadPromise("p"))
    assert step.again is not None
    shard.carry_on()
    shard.carry_on()
    step = shard.carry_on()
    assert step.again is None
    assert step.reply.promise is not None
    assert step.reply.promise.state is PromiseState.REJECTED_TIMEDOUT
    assert len(shard.state.notifications) == WAITERS_COUNT


def test_nothing_is_deleted_while_a_completion_is_under_way() -> None:
    """Its tasks are still to come, and may be about any promise."""
    rule = RetentionRule((RESOLVED,), 0)
    options = Options(completion_slice_count=SLICE_COUNT, retention=(rule,))
    shard = waited_for(SLICE_COUNT, options)
    shard.step(COMPLETE)
    shard.carry_on()
    shard.now += 1
    shard.step(c.Retain(1_000, 1_000))
    assert not [record for record in shard.log if isinstance(record, r.PromisesDeleted)]
    shard.finish()
    shard.now += RETENTION_RECHECK_MS
    shard.step(c.Retain(1_000, 1_000))
    assert [record for record in shard.log if isinstance(record, r.PromisesDeleted)]


def test_debug_reset_takes_out_what_is_half_done() -> None:
    shard = begun()
    shard.carry_on()
    shard.step(w.ResetShard())
    assert (shard.state.completions, shard.state.callbacks) == ({}, {})
    shard.finish()
    assert shard.state.promises == {}
