"""Moments of trouble: every few seconds one fault, as `faults.py` decides."""

import errno
from collections.abc import Callable
from functools import partial
from random import Random

import trio

from .server import Server
from .world import World

MEAN_PAUSE_S = 4


async def make_trouble(world: World, mean_pause_s: float = MEAN_PAUSE_S) -> None:
    """Inject faults until the run's steps are used up; afterwards all is calm, the server runs."""
    pauses = world.random("pauses")
    while world.goes_on:
        await trio.sleep(pauses.expovariate(1 / mean_pause_s) * world.plan.patience)
        server = await world.server_is_up()
        if not server.is_over and world.goes_on:
            name = world.faults.moment()
            if name is not None:
                _MOMENTS[name](world, server, world.faults.random(name))
    server = await world.server_is_up()
    world.faults.is_over = True
    world.disk_full_until = world.target_dead_until = 0
    # What is stuck in the last life must come loose by itself, unless that life ends too.
    if pauses.random() < 0.5 and not server.is_over:
        world.trace.note("fault", "no more")
        _disarm(world, server)
    else:
        world.trace.note("fault", "a last power cut, then no more")
        server.lose_power()


def _disarm(world: World, server: Server) -> None:
    """Forget the faults that wait for something to strike."""
    world.steps.disarm()
    world.files.crash_before_operation = None
    world.files.capacity_bytes = None
    world.files._faults.clear()
    if world.store is not None:
        world.store.next_fault = None
    if server.writer is not None:
        server.writer.is_to_lose_power_within_a_batch = False
        server.writer.slowness = 1.0


Moment = Callable[[World, Server, Random], None]


def _power_cut(world: World, server: Server, random: Random) -> None:
    server.lose_power()


def _power_cut_in_disk_operation(world: World, server: Server, random: Random) -> None:
    world.files.crash_before_operation = world.files.operations_count + random.randint(1, 6)


def _power_cut_within_batch(world: World, server: Server, random: Random) -> None:
    if server.writer is not None:
        server.writer.is_to_lose_power_within_a_batch = True


def _power_cut_at_await(world: World, server: Server, random: Random) -> None:
    world.steps.after(random.randint(1, 300), server.lose_power)


def _kill_at_await(world: World, server: Server, random: Random) -> None:
    world.steps.after(random.randint(1, 300), server.kill)


def _power_cut_in_checkpoint(world: World, server: Server, random: Random) -> None:
    _checkpoint_fault(random.choice(("power_cut before", "power_cut after")), world, server, random)


def _checkpoint_fault(fault: str, world: World, server: Server, random: Random) -> None:
    if world.store is not None:
        world.store.next_fault = fault


def _kill(world: World, server: Server, random: Random) -> None:
    server.kill()


def _clean_stop(world: World, server: Server, random: Random) -> None:
    server.begin_stop(patience_s=5)


def _sync_fails(world: World, server: Server, random: Random) -> None:
    error = random.choice((errno.EIO, errno.ENOSPC))
    world.files.fail("sync", error, skip_count=random.randrange(5))


def _write_fails(world: World, server: Server, random: Random) -> None:
    operation = random.choice(("write_at", "create", "rename"))
    error = random.choice((errno.EIO, errno.ENOSPC))
    world.files.fail(operation, error, skip_count=random.randrange(5))


def _disk_full(world: World, server: Server, random: Random) -> None:
    world.files.capacity_bytes = world.files.used_bytes() + random.randrange(2_000)
    world.disk_full_until = trio.current_time() + random.uniform(2, 20)


def _set_pace(choices: tuple[float, ...], world: World, server: Server, random: Random) -> None:
    if server.writer is not None:
        server.writer.slowness = random.choice(choices)


def _jump(choices: tuple[int, ...], world: World, server: Server, random: Random) -> None:
    world.clock.jump(random.choice(choices))


def _target_dead(world: World, server: Server, random: Random) -> None:
    world.target_dead_until = trio.current_time() + random.uniform(2, 30)


_MOMENTS: dict[str, Moment] = {
    "power_cut": _power_cut,
    "power_cut_in_disk_operation": _power_cut_in_disk_operation,
    "power_cut_within_batch": _power_cut_within_batch,
    "power_cut_at_await": _power_cut_at_await,
    "power_cut_in_checkpoint": _power_cut_in_checkpoint,
    "kill": _kill,
    "kill_at_await": _kill_at_await,
    "clean_stop": _clean_stop,
    "sync_fails": _sync_fails,
    "write_fails": _write_fails,
    "disk_full": _disk_full,
    "disk_slow": partial(_set_pace, (10.0, 400.0)),
    "disk_fast": partial(_set_pace, (1.0,)),
    "checkpoint_fails": partial(_checkpoint_fault, "checkpoint_fails"),
    "checkpoint_done_but_failed": partial(_checkpoint_fault, "checkpoint_done_but_failed"),
    "clock_forward": partial(_jump, (1_000, 30_000)),
    "clock_back": partial(_jump, (-20_000, -1_000)),
    "target_dead": _target_dead,
}
