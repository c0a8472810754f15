"""One run: a world with a server, workers, nodes and clients, trouble for a while, then calm.

`simulate(plan)` raises `SimulationFailed`, with the run's name and the end of the trace, if the
server breaks a promise or does not finish its work in bounded time once the trouble is over.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any

import trio
from trio.testing import MockClock

from .checks import check_log, check_recovered, check_settled
from .clients import Clients, run_subscriber
from .cluster.cluster_world import ClusterWorld
from .cluster.lookers import look_at_owners
from .cluster.node_lives import check_last, make_cluster
from .cluster.shared_nodes import check_last_of_all
from .cluster.shared_world import SharedWorld
from .cluster.trouble_of_nodes import make_trouble_of_nodes
from .cluster.trouble_of_sharers import make_trouble_of_sharers
from .ledger import BrokenPromise, require
from .node_entries import NODES
from .nodes import run_hosts, run_node
from .plan import Plan
from .server import SWEEP_INTERVAL_MS
from .snapshots import take_snapshots
from .trouble import make_trouble, make_trouble_between
from .workers import CONNECTIONS_COUNT, run_polling_worker, run_push_workers
from .workflows import (
    LISTENERS_COUNT,
    PLACES_COUNT,
    run_listener,
    run_pushed_runners,
    run_runner,
)
from .world import World

CALM_LIMIT_S = 400
"""Longer than the longest chain of leases, claim timeouts and back-offs, shorter than the time
after which delivery looks at everything anew: what only that net would catch counts as lost."""


class SimulationFailed(Exception):
    """The server broke a promise. `complaint` says which one, in a line or some."""

    def __init__(self, plan: Plan, complaint: str, trace_hash: str, tail: str) -> None:
        super().__init__(f"failed: {plan}\nthe last lines of the trace:\n{tail}\n{complaint}")
        self.plan = plan
        self.complaint = complaint
        self.trace_hash = trace_hash
        self.struck: list[str] = []


@dataclass(frozen=True)
class Outcome:
    """What a run was like."""

    plan: Plan
    trace_hash: str
    answers_count: int
    requests_count: int
    lives_count: int
    crashes_count: int
    disk_failures_count: int
    simulated_s: float
    records: Counter[str]
    records_count: int
    checkpoints_count: int
    slots_count: int
    deleted_count: int
    executed_count: int
    flows_count: int
    unblocked_count: int
    jobs_count: int
    snapshots_count: int
    judged_count: int
    comparisons_count: int
    steps_count: int
    faults: Counter[str]

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.plan}: {self.simulated_s / 60:.0f} min simulated, {self.lives_count} lives, "
            f"{self.crashes_count} crashes, {self.disk_failures_count} disk failures, "
            f"{self.requests_count} requests, {self.records_count} records, "
            f"{self.faults.total()} faults, trace {self.trace_hash[:16]}"
        )


def run_deterministically(seed: int, main: Any, *arguments: Any, instruments: Any = ()) -> None:
    """Run trio with a scheduler whose luck is seeded, as trio's own tests do."""
    run: Any = trio._core._run
    before = run._ALLOW_DETERMINISTIC_SCHEDULING
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    state = run._r.getstate()
    run._r.seed(seed)
    try:
        clock = MockClock(autojump_threshold=0)
        trio.run(main, *arguments, clock=clock, instruments=instruments)
    finally:
        run._r.setstate(state)
        run._ALLOW_DETERMINISTIC_SCHEDULING = before


def simulate(plan: Plan) -> Outcome:
    """Run one simulation. Raises SimulationFailed."""
    world = _world_of(plan)
    outcomes: list[Outcome] = []
    try:
        run_deterministically(plan.seed, _play, world, outcomes, instruments=[world.steps])
    except Exception as error:
        failure = SimulationFailed(plan, causes(error), world.trace.hash, world.trace.tail())
        failure.struck = world.faults.struck
        raise failure from error
    finally:
        world.close()
    return outcomes[0]


def _world_of(plan: Plan) -> World:
    if not plan.nodes_count:
        return World(plan, check_recovered)
    return SharedWorld(plan) if plan.groups_count > 1 else make_cluster(plan)


def causes(error: BaseException) -> str:
    """The plain exceptions inside groups, one a line, what broke the rules first."""
    found = sorted(set(_plain(error)), key=lambda line: not line.startswith(BrokenPromise.__name__))
    return "\n".join(found)


def _plain(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [line for one in error.exceptions for line in _plain(one)]
    return [f"{type(error).__name__}: {error}"]


async def _play(world: World, outcomes: list[Outcome]) -> None:
    clients = Clients(world)
    async with trio.open_nursery() as nursery:
        world.nursery = nursery
        world.steps.check = world.check_step
        nursery.start_soon(world.steps.raise_broken)
        nursery.start_soon(world.run_server)
        nursery.start_soon(run_push_workers, world)
        nursery.start_soon(run_hosts, world)
        nursery.start_soon(take_snapshots, world)
        nursery.start_soon(run_pushed_runners, world)
        for number in range(PLACES_COUNT):
            nursery.start_soon(run_runner, world, number)
        for number in range(LISTENERS_COUNT):
            nursery.start_soon(run_listener, world, number)
        for number in range(CONNECTIONS_COUNT):
            nursery.start_soon(run_polling_worker, world, number)
        for number in range(2):
            nursery.start_soon(run_subscriber, world, number)
        for number in range(len(NODES)):
            nursery.start_soon(run_node, world, number)
        if isinstance(world, ClusterWorld):
            nursery.start_soon(look_at_owners, world)
        if isinstance(world, SharedWorld):
            await world.all_are_up()  # before, all that is asked would be asked in vain
        async with trio.open_nursery() as active:
            active.start_soon(clients.run)
            if isinstance(world, SharedWorld):
                active.start_soon(make_trouble_of_sharers, world)
            elif isinstance(world, ClusterWorld):
                active.start_soon(make_trouble_of_nodes, world)
            else:
                active.start_soon(make_trouble, world)
                active.start_soon(make_trouble_between, world)
        calm_since = trio.current_time()
        await _until_done(world, clients)
        world.trace.note("end", f"all is done {trio.current_time() - calm_since:.0f} s later")
        nursery.cancel_scope.cancel()
    if isinstance(world, SharedWorld):
        await check_last_of_all(world)
        records = [enumerate(engine.records, 1) for engine in world.engines]
        kinds = check_log(chain.from_iterable(records))
    elif isinstance(world, ClusterWorld):
        await check_last(world)
        kinds = check_log(enumerate(world.engine.records, 1))
    else:
        kinds = _check_disk(world)
    unexplained = world.history.unexplained()
    require(not unexplained, f"no order explains what was seen of {unexplained}")
    outcomes.append(
        Outcome(
            plan=world.plan,
            trace_hash=world.trace.hash,
            answers_count=world.ledger.answers_count,
            requests_count=world.requests_count,
            lives_count=world.lives_count,
            crashes_count=world.crashes_count,
            disk_failures_count=world.disk_failures_count,
            simulated_s=trio.current_time(),
            records=kinds,
            records_count=world.watch.durable_count,
            checkpoints_count=sum(
                one.store.memory.commits_count for one in world.lives if one.store is not None
            ),
            slots_count=world.watch.slots_count,
            deleted_count=len(world.watch.deleted),
            executed_count=len(world.ledger.executed),
            flows_count=sum(one.startswith("flow/") for one in world.ledger.finals),
            unblocked_count=len(world.ledger.unblocked),
            jobs_count=world.ledger.jobs_count,
            snapshots_count=world.snapshots_count,
            judged_count=world.history.operations_count,
            comparisons_count=world.comparisons_count,
            steps_count=world.steps.count,
            faults=world.faults.counts,
        )
    )


async def _until_done(world: World, clients: Clients) -> None:
    """Wait until every goal is reached and every task has ended."""
    sweep_s = SWEEP_INTERVAL_MS / 1000 * world.plan.patience
    ends = trio.current_time() + CALM_LIMIT_S + 2 * sweep_s
    while True:
        await trio.sleep(1)
        await clients.read_all()
        missing = [name for name, holds in clients.goals if not holds()]
        for server in await world.all_are_up():
            missing += check_settled(server)
        if not missing:
            return
        require(
            trio.current_time() < ends, f"not done {CALM_LIMIT_S} s after the trouble: {missing}"
        )


def _check_disk(world: World) -> Counter[str]:
    """Read the logs back as other processes would, after one more power cut."""
    random = world.random("last")
    servers = []
    for lives in world.lives:
        lives.files = lives.files.crash(random)
        server = lives.open_server()
        check_recovered(server, world.ledger)
        servers.append(server)
    if world.plan.makes_checkpoints and world.plan.trims_log:
        return Counter()
    return check_log(chain.from_iterable(server.storage.log.read(1) for server in servers))
