"""One run: a world with a server, workers and clients, trouble for a while, then calm.

`simulate(seed)` raises `SimulationFailed`, with the seed and the end of the trace, if the server
breaks a promise or does not finish its work in bounded time once the trouble is over.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import trio
from trio.testing import MockClock

from troth.persistence.store import MemoryStore

from .chances import Chances
from .checks import check_log, check_recovered, check_settled
from .clients import Clients, run_subscriber
from .ledger import require
from .workers import CONNECTIONS_COUNT, run_polling_worker, run_push_workers
from .world import World

MINUTE_S = 60
CALM_LIMIT_S = 400
"""Longer than the longest chain of leases, claim timeouts and back-offs, shorter than the time
after which delivery looks at everything anew: what only that net would catch counts as lost."""


class SimulationFailed(Exception):  # noqa: N818  the outcome of a run
    """The server broke a promise."""


@dataclass(frozen=True)
class Outcome:
    """What a run was like."""

    seed: int
    trace_hash: str
    lines_count: int
    answers_count: int
    lives_count: int
    power_cuts_count: int
    disk_failures_count: int
    simulated_s: float
    records: Counter[str]
    checkpoints_count: int

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.simulated_s:.0f} s simulated, {self.lives_count} lives, "
            f"{self.power_cuts_count} power cuts, {self.disk_failures_count} disk failures, "
            f"{self.answers_count} answers, {self.records.total()} records, "
            f"trace {self.trace_hash[:16]}"
        )


def run_deterministically(seed: int, main: Any, *arguments: Any) -> None:
    """Run trio with a scheduler whose luck is seeded, as trio's own tests do."""
    run: Any = trio._core._run
    before = run._ALLOW_DETERMINISTIC_SCHEDULING
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    state = run._r.getstate()
    run._r.seed(seed)
    try:
        trio.run(main, *arguments, clock=MockClock(autojump_threshold=0))
    finally:
        run._r.setstate(state)
        run._ALLOW_DETERMINISTIC_SCHEDULING = before


def simulate(
    seed: int,
    *,
    reboots_after_disk_failure: bool = True,
    makes_checkpoints: bool = False,
    trims_log: bool = True,
    minutes: int = 1,
    chances: Chances | None = None,
) -> Outcome:
    """Run one simulation with so many minutes of trouble. Raises SimulationFailed.

    With checkpoints that trim the log, the log is not there at the end to be checked as a whole.
    """
    store = MemoryStore() if makes_checkpoints else None
    world = World(
        seed,
        check_recovered,
        reboots_after_disk_failure=reboots_after_disk_failure,
        store=store,
        trims_log=trims_log,
        chances=chances,
    )
    outcomes: list[Outcome] = []
    try:
        run_deterministically(seed, _play, world, minutes, outcomes)
    except Exception as error:
        raise SimulationFailed(
            f"seed {seed} failed; the last of {world.trace.lines_count} lines:\n"
            f"{world.trace.tail()}\n{causes(error)}"
        ) from error
    return outcomes[0]


def causes(error: BaseException) -> str:
    """The plain exceptions inside groups, one a line."""
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(causes(one) for one in error.exceptions)
    return f"{type(error).__name__}: {error}"


async def _play(world: World, minutes: int, outcomes: list[Outcome]) -> None:
    clients = Clients(world, minutes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run_server)
        nursery.start_soon(run_push_workers, world)
        for number in range(CONNECTIONS_COUNT):
            nursery.start_soon(run_polling_worker, world, number)
        for number in range(2):
            nursery.start_soon(run_subscriber, world, number)
        async with trio.open_nursery() as active:
            active.start_soon(clients.run)
            active.start_soon(world.make_trouble, minutes * MINUTE_S)
        calm_since = trio.current_time()
        await _until_done(world, clients)
        world.trace.note("end", f"all is done {trio.current_time() - calm_since:.0f} s later")
        nursery.cancel_scope.cancel()
    kinds = _check_disk(world)
    outcomes.append(
        Outcome(
            seed=world.seed,
            trace_hash=world.trace.hash,
            lines_count=world.trace.lines_count,
            answers_count=world.ledger.answers_count,
            lives_count=world.lives_count,
            power_cuts_count=world.power_cuts_count,
            disk_failures_count=world.disk_failures_count,
            simulated_s=trio.current_time(),
            records=kinds,
            checkpoints_count=0 if world.store is None else world.store.commits_count,
        )
    )


async def _until_done(world: World, clients: Clients) -> None:
    """Wait until every goal is reached and every task has ended."""
    ends = trio.current_time() + CALM_LIMIT_S
    while True:
        await trio.sleep(1)
        await clients.read_all()
        missing = [name for name, holds in clients.goals if not holds()]
        server = await world.server_is_up()
        missing += check_settled(server)
        if not missing:
            return
        require(
            trio.current_time() < ends, f"not done {CALM_LIMIT_S} s after the trouble: {missing}"
        )


def _check_disk(world: World) -> Counter[str]:
    """Read the log back as another process would, after one more power cut."""
    world.files = world.files.crash(world.random("last"))
    server = world.open_server()
    check_recovered(server, world.ledger)
    if world.store is not None and world.trims_log:
        return Counter()
    return check_log(server.storage.log.read(1))
