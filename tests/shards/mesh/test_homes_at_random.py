"""Workers that claim what they are sent, while links break and hang and a home is killed.

python -m tests.shards.mesh.test_homes_at_random 300    # more seeds
"""

import sys
from random import Random

import pytest
import trio
from trio.testing import MockClock

from tests.shards.stage import FAR_MS, Asked
from troth.core.codes import Code
from troth.core.commands import ClaimTask, Command, CompleteTask, CreatePromise
from troth.core.grammar import task_ids
from troth.core.model import EMPTY_VALUE, RESOLVED, TaskState
from troth.core.workflow_commands import AcquireWorkflow, EnsurePromise, FulfillWorkflow
from troth.shards.delivery.polls import ConnectionClosed, Polls

from .home_world import HomeWorld, homes
from .world import until

TASKS_COUNT = 30
LEASE_MS = 20_000  # of a claim whose answer was lost with a link
LIMIT_S = 300.0


class Workers:
    """Two workers of each of two groups: that of process 0, which is killed, and of process 1."""

    def __init__(self, server: HomeWorld, luck: Random) -> None:
        self.server = server
        self.luck = luck
        self.groups = [server.group_at(home) for home in range(2)]
        self.done: set[str] = set()
        self.wrong: list[object] = []

    async def run(self, home: int, name: str) -> None:
        """Connect again and again, and carry out what comes."""
        while True:
            polls = self.server.alive[home].polls
            try:
                with polls.connect(self.groups[home], name) as connection:
                    while polls is self._polls(home):
                        with trio.move_on_after(self.luck.random() * 5):
                            for body in await connection.receive():
                                self.server.nursery.start_soon(self._work, body.decode(), name)
                            connection.confirm()
            except ConnectionClosed:
                pass  # it connects again
            await trio.sleep(self.luck.random() * 0.2)

    def _polls(self, home: int) -> Polls:
        return self.server.alive[home].polls

    async def _answered(self, process: int, command: Command) -> Asked:
        found = self.server.server.ask(process, command)
        await until(lambda: found.is_done)
        return found

    async def _work(self, text: str, name: str) -> None:
        """Claim and complete a task, or give up if a process is away: it will come again."""
        await trio.sleep(self.luck.random() * 0.05)
        asked = self.luck.randrange(1, 3)
        if text.startswith("execute "):
            task_id, _, version = text.removeprefix("execute ").rpartition("/")
            claim: Command = AcquireWorkflow(task_id, int(version), name, LEASE_MS, None)
        else:
            task_id, _, version = text.rpartition("/")
            claim = ClaimTask(task_id, int(version), name, LEASE_MS)
        found = await self._answered(asked, claim)
        if found.reply is None or found.reply.code not in (Code.OK, Code.CREATED):
            return
        if isinstance(claim, AcquireWorkflow):
            assert found.reply.workflow is not None
            version_now = found.reply.workflow.version
            complete: Command = FulfillWorkflow(task_id, version_now, RESOLVED, EMPTY_VALUE)
        else:
            complete = CompleteTask(task_id, int(version))
        # Both groups live, so this is asked until it is answered.
        while True:
            found = await self._answered(asked, complete)
            if found.reply is not None:
                break
            await trio.sleep(0.1)
        if task_id in self.done and found.reply.task is not None:
            state = found.reply.task.state
            if state is not TaskState.COMPLETED:
                self.wrong.append((task_id, found.reply))
        self.done.add(task_id)


async def trouble(server: HomeWorld, luck: Random) -> None:
    """Break links, let them hang, and kill process 0."""
    while True:
        await trio.sleep(luck.random() * 0.4)
        wires = server.server.wires
        kind = luck.random()
        if kind < 0.5:
            wire = wires[luck.choice(sorted(wires))]
            wire.cut()
            await trio.sleep(luck.random() * 0.3)
            wire.mend()
        elif kind < 0.8:
            silent = [wire for pair, wire in wires.items() if 0 in pair]
            for wire in silent:
                wire.is_silent = True
            await trio.sleep(luck.random() * 4)
            for wire in silent:
                wire.is_silent = False
        else:
            with trio.CancelScope(shield=True):
                await server.kill(0)
                await trio.sleep(luck.random() * 2)
                await server.start(0)


async def run(seed: int) -> None:
    """Make tasks in the groups that live, with trouble; all have to be done in the end."""
    luck = Random(seed)
    async with homes(3, seed=seed, delay_s=luck.random() * 0.02) as server:
        workers = Workers(server, luck)
        for home in range(2):
            for name in ("a", "b"):
                server.nursery.start_soon(workers.run, home, f"{name}{home}")
        wanted = set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trouble, server, luck)
            for number in range(TASKS_COUNT):
                owner = luck.randrange(1, 3)
                receiver = f"poll://any@{luck.choice(workers.groups)}"
                name = server.server.id_of(owner, f"task{number}")
                if luck.random() < 0.5:
                    await server.server.call(
                        owner, CreatePromise(name, FAR_MS, tags={"resonate:invoke": receiver})
                    )
                    wanted.add(task_ids.invoke_id(name))
                else:
                    tags = {"resonate:target": receiver}
                    await server.server.call(owner, EnsurePromise(name, FAR_MS, EMPTY_VALUE, tags))
                    wanted.add(name)
                await trio.sleep(luck.random() * 0.3)
            nursery.cancel_scope.cancel()
        for wire in server.server.wires.values():
            wire.mend()
            wire.is_silent = False
        with trio.fail_after(LIMIT_S):
            await until(lambda: workers.done >= wanted, 0.1)
            await until(lambda: not any(one.homes.entrusted_count for one in server.alive), 0.1)
        assert workers.wrong == []


@pytest.mark.parametrize("seed", range(4))
async def test_all_tasks_are_done_in_the_end(seed: int, autojump_clock: MockClock) -> None:
    await run(seed)


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        print("seed", number, flush=True)
        trio.run(run, number, clock=MockClock(autojump_threshold=0))
