"""Debug operations: nothing happens by itself, and time is what requests say (envelope.md 10)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
from trio.testing import MockClock

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.codes import Code
from troth.core.model import PromiseState
from troth.core.replies import ExecuteMessage, Message, Reply
from troth.shards.clock import TrioClock
from troth.shards.debugging import DebugClock, DebugOutgoing, DebugPart
from troth.shards.gathered.debugging import DebugOperations, OnePart
from troth.shards.shards import Shards

from .stage import EPOCH_MS, FAR_MS, Stage, stage
from .test_checkpointer import Disk, life

TARGET = {"resonate:target": "poll://any@g"}
RESOLVED = PromiseState.RESOLVED


class Delivered:
    """What reached delivery."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def send(self, message: Message) -> None:
        """See Outgoing."""
        self.messages.append(message)

    def withdraw(self, task_id: str) -> None:
        """See Outgoing."""

    def finished(self, promise_ids: list[str]) -> None:
        """See Outgoing."""


@dataclass
class DebugWorld:
    """Four shards under debug operations."""

    debug: DebugOperations
    delivered: Delivered
    stage: Stage

    async def ask(self, command: c.Command, now_ms: int | None) -> Reply:
        """Ask at a time."""
        async with self.debug.at(now_ms):
            return await self.stage.shards.ask(command)

    async def state(self, workflow_id: str, now_ms: int) -> tuple[str, int]:
        """A task's state and version."""
        workflow = (await self.ask(w.ReadWorkflow(workflow_id), now_ms)).workflow
        assert workflow is not None
        return workflow.state.value, workflow.version


@asynccontextmanager
async def debugged() -> AsyncIterator[DebugWorld]:
    """Shards whose timers stand still, on a memory log."""
    delivered = Delivered()
    clock = DebugClock(TrioClock(EPOCH_MS))
    outgoing = DebugOutgoing(delivered, clock)
    shards = Shards(shard_count=4, clock=clock, outgoing=outgoing, cursor_secret=b"secret")
    debug = DebugOperations(shards, OnePart(DebugPart(shards, clock, outgoing)))
    async with stage(direct=True, shards=shards) as running:
        await debug.start()
        yield DebugWorld(debug, delivered, running)


async def test_requests_are_carried_out_at_the_time_they_say(autojump_clock: MockClock) -> None:
    async with debugged() as world:
        made = await world.ask(w.EnsurePromise("a", 100), 10)
        assert made.promise is not None
        assert made.promise.created_on == 10
        early = await world.ask(c.ReadPromise("a"), 99)
        late = await world.ask(c.ReadPromise("a"), 100)
        assert early.promise is not None
        assert late.promise is not None
        assert early.promise.state is PromiseState.PENDING
        assert late.promise.completed_on == 100
        now = await world.ask(w.EnsurePromise("b", 2**60), None)
        assert now.promise is not None
        assert now.promise.created_on >= EPOCH_MS


async def test_nothing_happens_before_a_tick(autojump_clock: MockClock) -> None:
    async with debugged() as world:
        await world.ask(w.CreateWorkflow("r", 10_000, "p", 600, tags=TARGET), 10)
        await world.ask(w.EnsurePromise("a", 1_000), 10)
        assert (await world.ask(w.SuspendWorkflow("r", 1, ("a",)), 20)).code is Code.OK
        await world.ask(w.CreateWorkflow("s", 10_000, "p", 600, tags=TARGET), 30)
        await trio.sleep(100)
        snap = await world.debug.snap()
        assert dict(snap.promise_timeouts) == {"r": 10_000, "a": 1_000, "s": 10_000}
        assert snap.callbacks == [("a", "r")]
        assert snap.workflow_timeouts == [("s", 1, 630)]
        assert snap.messages == []

        await world.debug.tick(629)
        assert await world.state("s", 629) == ("acquired", 1)
        await world.debug.tick(630)
        snap = await world.debug.snap()
        assert snap.messages == [("poll://any@g", ExecuteMessage("s", 1, "poll://any@g"))]
        assert snap.workflow_timeouts == [("s", 0, 30_630)]

        await world.debug.tick(1_000)
        assert await world.state("r", 1_000) == ("pending", 1)
        snap = await world.debug.snap()
        assert {
            message.id for _, message in snap.messages if isinstance(message, ExecuteMessage)
        } == {
            "r",
            "s",
        }
        await world.debug.tick(10_000)
        snap = await world.debug.snap()
        assert snap.promise_timeouts == []
        assert snap.messages == []
        assert {one.state.value for one in snap.workflows} == {"fulfilled"}
    assert world.delivered.messages == []


async def test_a_tick_sends_again_and_runs_schedules(autojump_clock: MockClock) -> None:
    async with debugged() as world:
        await world.ask(w.EnsurePromise("r", 10**9, tags=TARGET), 10)
        make = w.EnsureSchedule(
            "s", "* * * * *", "{{.id}}.{{.timestamp}}", 1_000, promise_tags=TARGET
        )
        await world.ask(make, 10)
        await world.debug.tick(30_010)
        snap = await world.debug.snap()
        assert snap.workflow_timeouts == [("r", 0, 60_010)]
        await world.debug.tick(60_000)
        snap = await world.debug.snap()
        assert {one.id for one in snap.promises} == {"r", "s.60000"}


async def test_a_tick_offers_a_task_again_whose_delay_is_over(autojump_clock: MockClock) -> None:
    """Not before; and a sleep, which is for no worker, has no such time."""
    async with debugged() as world:
        delayed = {**TARGET, "resonate:delay": "5000"}
        await world.ask(w.EnsurePromise("later", 10**9, tags=delayed), 10)
        sleeps = {**TARGET, "resonate:timer": "true"}
        await world.ask(w.EnsurePromise("sleep", 10**9, tags=sleeps), 10)
        snap = await world.debug.snap()
        assert {one: at for one, _, at in snap.workflow_timeouts} == {"later": 5_000}
        await world.debug.tick(4_999)
        assert (await world.debug.snap()).messages == []
        await world.debug.tick(5_000)
        snap = await world.debug.snap()
        assert [one.id for _, one in snap.messages if isinstance(one, ExecuteMessage)] == ["later"]
        assert snap.workflow_timeouts == [("later", 0, 35_000)]


async def test_a_snap_says_to_whom_each_message_goes(autojump_clock: MockClock) -> None:
    """Of all kinds; what was withdrawn goes to nobody, also when deliveries go on."""
    async with debugged() as world:
        await world.ask(w.EnsurePromise("flow", 10**9, tags=TARGET), 10)
        await world.ask(w.EnsurePromise("over", 10**9, tags=TARGET), 10)
        await world.ask(w.EnsurePromise("a", 10**9), 10)
        await world.ask(w.RegisterListener("a", "poll://uni@g/1"), 10)
        await world.ask(c.CompletePromise("a", RESOLVED), 20)
        receiver = {"resonate:invoke": "poll://any@h"}
        await world.ask(c.CreatePromise("rest", 10**9, tags=receiver), 20)
        await world.ask(c.CompletePromise("over", RESOLVED), 20)
        snap = await world.debug.snap()
        assert sorted(address for address, _ in snap.messages) == [
            "poll://any@g",
            "poll://any@h",
            "poll://uni@g/1",
        ]
        await world.debug.stop()
        assert len(world.delivered.messages) == 3
        # What is sent from here on is not kept back.
        await world.ask(w.EnsurePromise("next", EPOCH_MS + 10**9, tags=TARGET), None)
        assert len(world.delivered.messages) == 4


async def test_a_snap_shows_what_has_left_memory(autojump_clock: MockClock) -> None:
    """But nothing of it that was deleted."""
    async with life(Disk()) as one:
        for name, tags in (("flow", TARGET), ("plain", None), ("gone", None)):
            await one.shards.ask(w.EnsurePromise(name, FAR_MS, tags=tags))
            await one.shards.ask(c.CompletePromise(name, RESOLVED))
        await one.checkpointer.checkpoint()
        assert (await one.shards.ask(c.DeletePromise("gone"))).code.status == 204
        clock = DebugClock(TrioClock(EPOCH_MS))
        outgoing = DebugOutgoing(Delivered(), clock)
        snap = await DebugPart(one.shards, clock, outgoing).snap()
        assert {promise.id for promise in snap.promises} == {"flow", "plain"}
        assert [(task.id, task.state.value) for task in snap.workflows] == [("flow", "fulfilled")]


async def test_after_stop_everything_goes_on(autojump_clock: MockClock) -> None:
    async with debugged() as world:
        await world.ask(w.EnsurePromise("r", EPOCH_MS + 10**9, tags=TARGET), None)
        await world.ask(w.EnsurePromise("a", EPOCH_MS + 50), None)
        await world.ask(w.RegisterListener("a", "poll://uni@g/1"), None)
        await trio.sleep(1)
        assert world.delivered.messages == []
        await world.debug.stop()
        await trio.sleep(1)
        assert len(world.delivered.messages) == 2


async def test_a_reset_leaves_nothing(autojump_clock: MockClock) -> None:
    async with debugged() as world:
        await world.ask(w.CreateWorkflow("r", 10**6, "p", 600, tags=TARGET), 10)
        await world.ask(w.EnsurePromise("a", 1_000), 10)
        await world.ask(w.RegisterListener("a", "poll://uni@g/1"), 10)
        await world.ask(w.SuspendWorkflow("r", 1, ("a",)), 20)
        await world.ask(c.CreatePromise("i", 10**6, tags={"resonate:invoke": "poll://g"}), 20)
        await world.ask(w.EnsureSchedule("s", "* * * * *", "x", 1_000, promise_tags=TARGET), 10)
        await world.ask(c.AcquireLock("l", "e", "p", 10**6), 20)
        await world.debug.reset()
        snap = await world.debug.snap()
        assert (snap.promises, snap.workflows, snap.callbacks, snap.listeners) == ([], [], [], [])
        assert snap.messages == []
        for state in world.stage.shards.states():
            assert not state.schedules
            assert not state.locks
            assert not state.tasks
        again = await world.ask(w.CreateWorkflow("r", 10**6, "p", 600, tags=TARGET), 10)
        assert again.workflow is not None
        assert again.workflow.version == 1
