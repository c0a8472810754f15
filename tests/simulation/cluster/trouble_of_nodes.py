"""Moments of trouble of a cluster: what happens to nodes, to their links, and to the engine."""

from collections.abc import Callable
from random import Random
from typing import Final

import trio

from tests.simulation.faults import MOMENTS_OF_NODES

from .cluster_world import ClusterWorld
from .node_lives import NodeLives

MEAN_PAUSE_S: Final = 2.5
OF_OWNER_SHARE: Final = 0.7
HALT_S: Final = (0.3, 20.0)
CUT_S: Final = (0.1, 20.0)


async def make_trouble_of_nodes(world: ClusterWorld) -> None:
    """Inject faults until the run's steps are used up; afterwards all is calm, an owner serves."""
    pauses = world.random("pauses")
    while world.goes_on:
        await trio.sleep(pauses.expovariate(1 / MEAN_PAUSE_S) * world.plan.patience)
        if world.goes_on:
            name = world.faults.moment(MOMENTS_OF_NODES)
            if name is not None:
                _MOMENTS[name](world, world.faults.random(name))
    world.faults.is_over = True
    for node in world.cluster.nodes:
        node.cut_until_s = node.client_cut_until_s = 0.0
    server = await world.cluster.is_up()
    last_kill = pauses.random() < 0.5
    world.trace.note("fault", "a last kill, then no more" if last_kill else "no more")
    world.steps.disarm(0)
    if last_kill:
        server.kill()


def _owner(world: ClusterWorld) -> NodeLives | None:
    server = world.cluster.server
    return None if server is None else next(o for o in world.cluster.nodes if o.server is server)


def _any(world: ClusterWorld, random: Random) -> NodeLives:
    """A node, mostly the owner."""
    owner = _owner(world) if random.random() < OF_OWNER_SHARE else None
    return owner or random.choice(world.cluster.nodes)


def _kill(world: ClusterWorld, random: Random) -> None:
    node = _owner(world)
    if node is not None:
        node.kill()


def _kill_at_await(world: ClusterWorld, random: Random) -> None:
    server = world.cluster.server
    if server is not None:
        world.steps.after(random.randint(1, 300), server.kill, 0)


def _kill_with_disk(world: ClusterWorld, random: Random) -> None:
    node = _owner(world)
    if node is not None:
        node.loses_disk = True
        node.kill()


def _stop(world: ClusterWorld, random: Random) -> None:
    server = world.cluster.server
    if server is not None:
        server.begin_stop(patience_s=5)


def _kill_any(world: ClusterWorld, random: Random) -> None:
    random.choice(world.cluster.nodes).kill()


def _halt(world: ClusterWorld, random: Random) -> None:
    _any(world, random).halted_until_s = trio.current_time() + random.uniform(*HALT_S)


def _cut_from_stream(world: ClusterWorld, random: Random) -> None:
    _any(world, random).cut_until_s = trio.current_time() + random.uniform(*CUT_S)


def _cut_from_clients(world: ClusterWorld, random: Random) -> None:
    _any(world, random).client_cut_until_s = trio.current_time() + random.uniform(0.1, 10)


def _lose_leader(world: ClusterWorld, random: Random) -> None:
    world.engine.elect()


def _set_clock(world: ClusterWorld, random: Random) -> None:
    world.jump(random)


_MOMENTS: dict[str, Callable[[ClusterWorld, Random], None]] = {
    "owner_killed": _kill,
    "owner_killed_at_await": _kill_at_await,
    "owner_killed_with_disk": _kill_with_disk,
    "owner_stopped": _stop,
    "node_killed": _kill_any,
    "node_halted": _halt,
    "cut_from_stream": _cut_from_stream,
    "cut_from_clients": _cut_from_clients,
    "leader_lost": _lose_leader,
    "node_clock_set": _set_clock,
}
