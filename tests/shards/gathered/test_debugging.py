"""Debug operations over groups do what they do with one, whichever group a promise is in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
from trio.testing import MockClock

from tests.shards.mesh.world import Process, World, make_process, world
from tests.shards.stage import EPOCH_MS, Outgoing, stage
from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.limits import WORKFLOW_RETRY_MS
from troth.core.model import RESOLVED, PromiseState
from troth.core.replies import Reply
from troth.shards.clock import TrioClock
from troth.shards.debugging import DebugClock, DebugOutgoing, DebugPart
from troth.shards.errors import OutOfReach
from troth.shards.gathered.debugging import AllParts, DebugOperations, OnePart
from troth.shards.shards import Shards

TARGET = {"resonate:target": "poll://any@g"}
GROUPS_COUNT = 3
SHARDS_EACH_COUNT = 2
LATE_MS = 10**9
STEPS_COUNT = 60


class Debugged:
    """A server under debug operations: which process is asked makes no difference."""

    def __init__(self, shards: Shards, part: DebugPart, debug: DebugOperations) -> None:
        self.shards = shards
        self.part = part
        self.debug = debug

    async def ask(self, command: c.Command, now_ms: int) -> Reply:
        """Ask at a time."""
        async with self.debug.at(now_ms):
            return await self.shards.ask(command)

    async def seen(self) -> dict[str, list[str]]:
        """Return all there is, in an order that does not depend on shards or serials."""
        snap = await self.debug.snap()
        return {
            "promises": sorted(
                f"{one.id} {one.state} {one.created_on} {one.completed_on}" for one in snap.promises
            ),
            "timeouts": sorted(map(repr, snap.promise_timeouts)),
            "callbacks": sorted(map(repr, snap.callbacks)),
            "listeners": sorted(map(repr, snap.listeners)),
            "tasks": sorted(
                f"{one.id} {one.state} {one.version} {one.resumes}" for one in snap.workflows
            ),
            "task timeouts": sorted(map(repr, snap.workflow_timeouts)),
            "messages": sorted(f"{address} {type(one)}" for address, one in snap.messages),
        }


@asynccontextmanager
async def one_process() -> AsyncIterator[Debugged]:
    clock = DebugClock(TrioClock(EPOCH_MS))
    outgoing = DebugOutgoing(Outgoing(), clock)
    shards = Shards(
        shard_count=GROUPS_COUNT * SHARDS_EACH_COUNT,
        clock=clock,
        outgoing=outgoing,
        cursor_secret=b"secret",
    )
    async with stage(direct=True, shards=shards):
        part = DebugPart(shards, clock, outgoing)
        yield Debugged(shards, part, DebugOperations(shards, OnePart(part)))


@asynccontextmanager
async def several(delay_s: float = 0.02) -> AsyncIterator[tuple[World, list[Debugged]]]:
    """Several processes; the first carries debug operations out."""
    found: list[Debugged] = []

    def make(k: int) -> Process:
        clock = DebugClock(TrioClock(EPOCH_MS))
        outgoing = DebugOutgoing(Outgoing(), clock)
        group_shards = (SHARDS_EACH_COUNT,) * GROUPS_COUNT
        process = make_process(k, group_shards, clock=clock, sends_to=lambda _: outgoing)
        part = DebugPart(process.shards, clock, outgoing)
        parts = AllParts(process.mesh.calls, part, 0)
        found.append(Debugged(process.shards, part, DebugOperations(process.shards, parts)))
        return process

    async with world(GROUPS_COUNT, SHARDS_EACH_COUNT, delay_s=delay_s, make=make) as server:
        yield server, found


def some_command(luck: Random, versions: dict[str, int]) -> c.Command:
    """Return a request about few ids, which live in all groups."""
    name, other = (f"{luck.choice('abcdefgh')}" for _ in range(2))
    version = versions.get(name, 0)
    until_ms = luck.randint(100, 5_000)
    return luck.choice(
        (
            w.EnsurePromise(name, until_ms),
            w.EnsurePromise(name, LATE_MS, tags=TARGET),
            w.CreateWorkflow(name, LATE_MS, "p", luck.randint(1, 2_000), tags=TARGET),
            w.AcquireWorkflow(name, version, "p", luck.randint(1, 2_000), None),
            w.SuspendWorkflow(name, version, (other,)),
            w.ReleaseWorkflow(name, version),
            w.RegisterAwait(other, name) if other != name else c.ReadPromise(name),
            w.RegisterListener(other, "poll://uni@g/1"),
            w.SettlePromise(name, luck.choice((RESOLVED, PromiseState.REJECTED))),
            c.ReadPromise(name),
        )
    )


@pytest.mark.parametrize("seed", range(3))
async def test_what_happens_is_the_same_as_with_one_process(
    autojump_clock: MockClock, seed: int
) -> None:
    luck = Random(seed)
    print("seed", seed)
    async with one_process() as one, several() as (_, many):
        for debug in (one.debug, many[0].debug):
            await debug.start()
        versions: dict[str, int] = {}
        now_ms = 10
        for number in range(STEPS_COUNT):
            now_ms += luck.choice((0, 1, 100))
            if luck.random() < 0.2:
                for debug in (one.debug, many[0].debug):
                    await debug.tick(now_ms)
                continue
            command = some_command(luck, versions)
            replies = [await server.ask(command, now_ms) for server in (one, many[0])]
            assert replies[0].code is replies[1].code, (number, command)
            if replies[0].workflow is not None:
                versions[replies[0].workflow.id] = replies[0].workflow.version
            assert await one.seen() == await many[0].seen(), (number, command)
        assert (await one.seen())["promises"]


async def test_nothing_happens_before_a_tick_in_any_group(autojump_clock: MockClock) -> None:
    async with several() as (server, (debugged, *_)):
        await debugged.debug.start()
        ids = [server.id_of(group, "flow") for group in range(GROUPS_COUNT)]
        for one in ids:
            await debugged.ask(w.EnsurePromise(one, 1_000, tags=TARGET), 10)
        await trio.sleep(100)
        assert len((await debugged.debug.snap()).promise_timeouts) == GROUPS_COUNT
        assert [process.outgoing.messages for process in server.processes] == [[], [], []]
        await debugged.debug.tick(1_000)
        assert (await debugged.debug.snap()).promise_timeouts == []
        await debugged.ask(w.EnsurePromise(ids[1] + "x", EPOCH_MS + 10**9, tags=TARGET), 10)
        await debugged.debug.stop()
        await trio.sleep(1)
        assert (await debugged.debug.snap()).messages == []
        await debugged.debug.start()
        await debugged.debug.reset()
        assert (await debugged.debug.snap()).promises == []


async def test_what_a_tick_causes_in_other_groups_has_its_time(autojump_clock: MockClock) -> None:
    """Whatever it takes to come there."""
    async with several() as (server, (debugged, *_)):
        await debugged.debug.start()
        flows = [server.id_of(number % GROUPS_COUNT, f"flow{number}") for number in range(9)]
        for number, flow in enumerate(flows):
            make = w.EnsureSchedule(f"s{number}", "* * * * *", flow, LATE_MS, promise_tags=TARGET)
            await debugged.ask(make, 10)
        await debugged.debug.tick(60_000)
        snap = await debugged.debug.snap()
        again_at = 60_000 + WORKFLOW_RETRY_MS
        assert sorted(snap.workflow_timeouts) == [(one, 0, again_at) for one in sorted(flows)]


async def test_a_process_that_is_started_again_stands_still_too(
    autojump_clock: MockClock,
) -> None:
    async with several() as (server, found):
        debugged = found[0]
        await debugged.debug.start()
        server.cut_off(2)
        await trio.sleep(0.1)
        with pytest.raises(OutOfReach):
            await debugged.ask(c.ReadPromise("a"), 10)
        found[2].part.go_on()  # as the next process begins
        server.mend_all()
        await trio.sleep(1)
        assert found[2].part.is_stopped
        reply = await debugged.ask(w.EnsurePromise(server.id_of(2, "a"), 500), 10)
        assert reply.promise is not None
        assert reply.promise.created_on == 10
