"""Snapshots of all groups at the same time: cuts behind barriers, as those who take one make them.

Each process closes its barrier when it hears of it and notes how far its log is durable. If all
were closed until all had done so, the cut has no effect without its cause, and loses none.
"""

from random import Random

import trio

from troth.core import records
from troth.core.state.apply import replay
from troth.core.state.shard_state import ShardState
from troth.shards.gathered.cuts import CLOSED_LIMIT_MS
from troth.shards.mesh.barrier import Barrier

from .checks import faults_of_cut
from .ledger import require
from .server import Server
from .world import World

MEAN_PAUSE_S = 3
MEAN_WAY_S = 0.1


async def take_snapshots(world: World) -> None:
    """Take snapshots of several groups, again and again."""
    random = world.random("snapshots")
    number = 0
    while len(world.lives) > 1:
        await trio.sleep(random.expovariate(1 / MEAN_PAUSE_S) * world.plan.patience)
        number += 1
        positions = await _cut(world, f"snapshot {number}", random)
        if positions is not None:
            found = faults_of_cut(_states(world, positions))
            require(not found, f"a snapshot has effects without causes: {found}")
            world.snapshots_count += 1


async def _cut(world: World, name: str, random: Random) -> dict[int, int] | None:
    """Where a cut goes through each group's log; None if one was not closed all the time."""
    positions: dict[int, int] = {}
    closed: list[tuple[Server, Barrier]] = []
    for lives in random.sample(world.lives, len(world.lives)):
        await trio.sleep(random.expovariate(1 / MEAN_WAY_S))
        server = lives.server
        if server is None or server.is_over or not server.may_answer():
            continue  # its calls are not answered either
        if server.mesh is not None:
            server.mesh.barrier.close(name, CLOSED_LIMIT_MS)
            positions[server.group] = server.shards.committer.durable_position
            closed.append((server, server.mesh.barrier))
    were_closed_count = 0
    for server, barrier in closed:
        await trio.sleep(random.expovariate(1 / MEAN_WAY_S))
        if not server.is_over:
            were_closed_count += barrier.open(name) and server.may_answer()
    return positions if were_closed_count == len(world.lives) else None


def _states(world: World, positions: dict[int, int]) -> list[ShardState]:
    """The states of all shards in a cut."""
    states = [ShardState(shadow.index, shadow.shard_of) for shadow in world.watch.shadow]
    for group, position in positions.items():
        for entry in world.watch.log_of(group)[:position]:
            replay(states[entry.shard], records.decode(entry.body))
    return states
