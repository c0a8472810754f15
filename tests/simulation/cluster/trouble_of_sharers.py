"""Moments of trouble of nodes that share groups: to processes, nodes, ways between, and engines."""

from collections.abc import Callable
from random import Random
from typing import Final

import trio

from tests.simulation.faults import MOMENTS_OF_SHARERS

from .shared_world import SharedWorld

MEAN_PAUSE_S: Final = 2.5
HALT_S: Final = (0.3, 20.0)
CUT_S: Final = (0.1, 20.0)
WAY_CUT_S: Final = (0.1, 10.0)


async def make_trouble_of_sharers(world: SharedWorld) -> None:
    """Inject faults until the run's steps are used up; afterwards all is calm, all groups serve."""
    pauses = world.random("pauses")
    while world.goes_on:
        await trio.sleep(pauses.expovariate(1 / MEAN_PAUSE_S) * world.plan.patience)
        if world.goes_on:
            name = world.faults.moment(MOMENTS_OF_SHARERS)
            if name is not None:
                _MOMENTS[name](world, world.faults.random(name))
    world.faults.is_over = True
    world.network.mend_all()
    for machine in world.machines:
        machine.cut_until_s = machine.client_cut_until_s = 0.0
    for server in await world.all_are_up():
        world.steps.disarm(server.group)
        if pauses.random() < 0.3:
            world.trace.note("fault", f"a last kill of group {server.group}")
            server.kill()
    world.trace.note("fault", "no more")


def _kill(world: SharedWorld, random: Random) -> None:
    running = world.running()
    if running:
        random.choice(running).kill()


def _kill_at_await(world: SharedWorld, random: Random) -> None:
    running = world.running()
    if running:
        server = random.choice(running)
        world.steps.after(random.randint(1, 300), server.kill, server.group)


def _stop(world: SharedWorld, random: Random) -> None:
    running = world.running()
    if running:
        server = random.choice(running)
        server.is_leaving = True
        server.begin_stop(patience_s=5)


def _kill_node(world: SharedWorld, random: Random) -> None:
    random.choice(world.machines).kill()


def _kill_node_with_disk(world: SharedWorld, random: Random) -> None:
    machine = random.choice(world.machines)
    for process in machine.processes:
        process.loses_disk = True
    machine.kill()


def _halt(world: SharedWorld, random: Random) -> None:
    random.choice(world.machines).halt(random.uniform(*HALT_S))


def _cut_from_streams(world: SharedWorld, random: Random) -> None:
    random.choice(world.machines).cut_until_s = trio.current_time() + random.uniform(*CUT_S)


def _cut_from_clients(world: SharedWorld, random: Random) -> None:
    machine = random.choice(world.machines)
    machine.client_cut_until_s = trio.current_time() + random.uniform(*WAY_CUT_S)


def _cut_from_others(world: SharedWorld, random: Random) -> None:
    machine, duration_s = random.choice(world.machines), random.uniform(*WAY_CUT_S)
    for other in world.machines:
        if other is not machine:
            world.network.cut(machine.name, other.name, duration_s)
            world.network.cut(other.name, machine.name, duration_s)


def _cut_way(world: SharedWorld, random: Random) -> None:
    source, target = random.sample(world.machines, 2)
    world.network.cut(source.name, target.name, random.uniform(*WAY_CUT_S))


def _slow_way(world: SharedWorld, random: Random) -> None:
    source, target = random.sample(world.machines, 2)
    until_s = trio.current_time() + random.uniform(*WAY_CUT_S)
    world.network.slow_until_s[source.name, target.name] = until_s


def _lose_leader(world: SharedWorld, random: Random) -> None:
    random.choice(world.engines).elect()


def _set_clock(world: SharedWorld, random: Random) -> None:
    random.choice(world.machines).jump(random)


_MOMENTS: dict[str, Callable[[SharedWorld, Random], None]] = {
    "group_owner_killed": _kill,
    "group_owner_killed_at_await": _kill_at_await,
    "group_owner_stopped": _stop,
    "sharer_killed": _kill_node,
    "sharer_killed_with_disk": _kill_node_with_disk,
    "sharer_halted": _halt,
    "sharer_cut_from_streams": _cut_from_streams,
    "sharer_cut_from_clients": _cut_from_clients,
    "sharer_cut_from_others": _cut_from_others,
    "way_cut": _cut_way,
    "way_slow": _slow_way,
    "stream_leader_lost": _lose_leader,
    "sharer_clock_set": _set_clock,
}
