"""Moments of trouble: every few seconds one fault, as `faults.py` decides."""

import errno
from collections.abc import Callable
from functools import partial
from random import Random

import trio

from .faults import MOMENTS_BETWEEN
from .lives import Lives
from .server import Server
from .world import World

MEAN_PAUSE_S = 4
MEAN_PAUSE_BETWEEN_S = 2


async def make_trouble(world: World, mean_pause_s: float = MEAN_PAUSE_S) -> None:
    """Inject faults until the run's steps are used up; afterwards all is calm, the server runs."""
    pauses = world.random("pauses")
    while world.goes_on:
        await trio.sleep(pauses.expovariate(1 / mean_pause_s) * world.plan.patience)
        server = await world.process_runs()
        if not server.is_over and world.goes_on:
            name = world.faults.moment()
            if name is not None:
                _MOMENTS[name](world.lives[server.group], server, world.faults.random(name))
    servers = await world.all_are_up()
    world.faults.is_over = True
    world.target_dead_until = 0
    for one in world.lives:
        one.disk_full_until = 0
    # What is stuck in the last life must come loose by itself, unless that life ends too.
    last_power_cut = pauses.random() < 0.5
    world.trace.note("fault", "a last power cut, then no more" if last_power_cut else "no more")
    for number, server in enumerate(servers):
        is_hit = last_power_cut and (not number or pauses.random() < 0.5)
        if is_hit or server.is_over:
            server.lose_power()
        else:
            _disarm(world.lives[server.group], server)


async def make_trouble_between(world: World, mean_pause_s: float = MEAN_PAUSE_BETWEEN_S) -> None:
    """Inject the faults that only several processes can meet."""
    pauses = world.random("pauses between")
    while len(world.lives) > 1 and world.goes_on:
        await trio.sleep(pauses.expovariate(1 / mean_pause_s) * world.plan.patience)
        if world.goes_on:
            name = world.faults.moment(MOMENTS_BETWEEN)
            if name is not None:
                _MOMENTS_BETWEEN[name](world, world.faults.random(name))


def _disarm(lives: Lives, server: Server) -> None:
    """Forget the faults that wait for something to strike."""
    lives.world.steps.disarm(lives.group)
    lives.files.crash_before_operation = None
    lives.files.capacity_bytes = None
    lives.files._faults.clear()
    if lives.store is not None:
        lives.store.next_fault = None
    if server.writer is not None:
        server.writer.is_to_lose_power_within_a_batch = False
        server.writer.slowness = 1.0


Moment = Callable[[Lives, Server, Random], None]


def _power_cut(lives: Lives, server: Server, random: Random) -> None:
    server.lose_power()


def _power_cut_in_disk_operation(lives: Lives, server: Server, random: Random) -> None:
    lives.files.crash_before_operation = lives.files.operations_count + random.randint(1, 6)


def _power_cut_within_batch(lives: Lives, server: Server, random: Random) -> None:
    if server.writer is not None:
        server.writer.is_to_lose_power_within_a_batch = True


def _power_cut_at_await(lives: Lives, server: Server, random: Random) -> None:
    lives.world.steps.after(random.randint(1, 300), server.lose_power, lives.group)


def _kill_at_await(lives: Lives, server: Server, random: Random) -> None:
    lives.world.steps.after(random.randint(1, 300), server.kill, lives.group)


def _power_cut_in_checkpoint(lives: Lives, server: Server, random: Random) -> None:
    _checkpoint_fault(random.choice(("power_cut before", "power_cut after")), lives, server, random)


def _checkpoint_fault(fault: str, lives: Lives, server: Server, random: Random) -> None:
    if lives.store is not None:
        lives.store.next_fault = fault


def _kill(lives: Lives, server: Server, random: Random) -> None:
    server.kill()


def _clean_stop(lives: Lives, server: Server, random: Random) -> None:
    server.begin_stop(patience_s=5)


def _sync_fails(lives: Lives, server: Server, random: Random) -> None:
    error = random.choice((errno.EIO, errno.ENOSPC))
    lives.files.fail("sync", error, skip_count=random.randrange(5))


def _write_fails(lives: Lives, server: Server, random: Random) -> None:
    operation = random.choice(("write_at", "create", "rename"))
    error = random.choice((errno.EIO, errno.ENOSPC))
    lives.files.fail(operation, error, skip_count=random.randrange(5))


def _disk_full(lives: Lives, server: Server, random: Random) -> None:
    lives.files.capacity_bytes = lives.files.used_bytes() + random.randrange(2_000)
    lives.disk_full_until = trio.current_time() + random.uniform(2, 20)


def _set_pace(choices: tuple[float, ...], lives: Lives, server: Server, random: Random) -> None:
    if server.writer is not None:
        server.writer.slowness = random.choice(choices)


def _jump(choices: tuple[int, ...], lives: Lives, server: Server, random: Random) -> None:
    lives.world.clock.jump(random.choice(choices))


def _target_dead(lives: Lives, server: Server, random: Random) -> None:
    lives.world.target_dead_until = trio.current_time() + random.uniform(2, 30)


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


def _each(world: World, end: Callable[[Server], None]) -> None:
    for lives in world.lives:
        if lives.server is not None and not lives.server.is_over:
            end(lives.server)


def _kill_all(world: World, random: Random) -> None:
    _each(world, Server.kill)


def _cut_power_of_all(world: World, random: Random) -> None:
    _each(world, Server.lose_power)


def _break_link(world: World, random: Random) -> None:
    world.wires[random.choice(list(world.wires))].cut(random.choice((0, random.uniform(0, 5))))


def _cut_off(world: World, random: Random) -> None:
    group, duration_s = random.choice(world.lives).group, random.uniform(0.1, 8)
    for pair, wire in world.wires.items():
        if group in pair:
            wire.cut(duration_s)


def _hang(world: World, random: Random) -> None:
    server, duration_s = random.choice(world.lives).server, random.uniform(0.5, 6)
    if server is not None:
        server.links.hangs_until = trio.current_time() + duration_s


def _slow_down(world: World, random: Random) -> None:
    wire = world.wires[random.choice(list(world.wires))]
    wire.is_slow_until = trio.current_time() + random.uniform(1, 10)


_MOMENTS_BETWEEN: dict[str, Callable[[World, Random], None]] = {
    "kill_of_all": _kill_all,
    "power_cut_of_all": _cut_power_of_all,
    "link_breaks": _break_link,
    "process_cut_off": _cut_off,
    "process_hangs": _hang,
    "link_slow": _slow_down,
}
