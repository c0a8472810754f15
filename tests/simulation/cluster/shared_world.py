"""A world whose server is several nodes that share groups: each group has an owner on some node."""

from typing import Any, Final, cast

import trio

from tests.simulation.checks import check_recovered
from tests.simulation.plan import Plan
from tests.simulation.server import Server
from tests.simulation.surroundings import EPOCH_MS
from tests.simulation.world import OF_NODES
from troth.core.commands import Command
from troth.persistence.placement import DEFAULT_RULE, groups_by_shard
from troth.shards.clock import SteadyClock
from troth.shards.hashing import Homes

from .cluster_world import NAMES, ClusterWorld
from .engine import ClusterEngine
from .node_lives import OwnerLives
from .node_server import NodeServer
from .shared_book import SimulatedBook
from .shared_links import NodesNetwork
from .shared_nodes import Machine, SharedProcess

_ANY_SHARE: Final = 0.1
"""How often clients ask any process that takes itself for an owner, not the newest owner of it."""


class LatestClock(SteadyClock):
    """The latest time of all nodes; it never goes back."""

    def __init__(self, world: "SharedWorld") -> None:
        self._world = world
        self._last_ms = 0

    def now_ms(self) -> int:
        """The time now."""
        times = [machine.wall_ms() for machine in self._world.machines]
        times += [server.clock.now_ms() for server in self._world.running()]
        self._last_ms = max(self._last_ms, EPOCH_MS, *times)
        return self._last_ms

    def jump(self, by_ms: int) -> None:
        """Clocks are set one by one."""


class SharedWorld(ClusterWorld):
    """The surroundings of one run with nodes that share groups. To be closed."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, check_recovered)
        self.engines = [self.engine] + [
            ClusterEngine(self.faults, self.random(f"engine {group}"))
            for group in range(1, plan.groups_count)
        ]
        self.moves_count = 0
        self.book = SimulatedBook(self.engines)
        self.network = NodesNetwork(self)
        self.wires = {}
        self._home_of = Homes(DEFAULT_RULE, sum(self.group_shards)).of_command
        self._groups = groups_by_shard(self.group_shards)
        self.machines = [Machine(self, name) for name in NAMES[: plan.nodes_count]]
        owners = [OwnerLives(self, group, f"group{group}") for group in range(plan.groups_count)]
        for group, lives in enumerate(owners):
            lives.nodes = [SharedProcess(machine, group, lives) for machine in self.machines]
        self.lives = list(owners)
        self.clock = cast("Any", LatestClock(self))

    async def run_server(self) -> None:
        """Keep all processes of all nodes running, until canceled."""
        async with trio.open_nursery() as nursery:
            for lives in self.lives:
                nursery.start_soon(lives.run)

    # Who is asked

    def running(self) -> list[NodeServer]:
        """All processes that take themselves for the owners of their groups."""
        processes = [process for machine in self.machines for process in machine.processes]
        found = [process.server for process in processes]
        return [server for server in found if server is not None and not server.is_over]

    def all_serving(self) -> list[Server]:
        """See World."""
        return [server for server in self.running() if server.serves.is_set()]

    def server_at(self, node: str, group: int) -> NodeServer | None:
        """The process of a node that takes itself for the owner of a group."""
        for server in self.running():
            if server.group == group and server.node.machine.name == node:  # type: ignore[attr-defined]
                return server
        return None

    def group_of(self, command: Command, otherwise: int) -> int:
        """The group that a command is for; `otherwise` if it is for many."""
        home = self._home_of.get(type(command))
        return otherwise if home is None else self._groups[home(command)]

    def _process_for(self, command: Command) -> Server | None:
        """Any process that serves may be asked; nodes ask one that owns group 0."""
        is_of_nodes = isinstance(command, OF_NODES)
        running = [one for one in self.running() if not (is_of_nodes and one.group)]
        if self._network.random() >= _ANY_SHARE:
            newest = {id(lives.server) for lives in self.lives}
            running = [one for one in running if id(one) in newest]
        return self._reached(self._network.choice(running)) if running else None

    def _reached(self, server: NodeServer | None) -> Server | None:
        if server is None or server.is_over or not server.serves.is_set():
            return None
        machine = server.node.machine  # type: ignore[attr-defined]
        return None if trio.current_time() < machine.client_cut_until_s else server

    @property
    def server(self) -> Server | None:
        """Any process that serves, by luck; None if that one does not, or is out of reach."""
        running = self.running()
        return self._reached(self._network.choice(running)) if running else None

    async def _check_abandoned(self, server: Server, command: Command) -> None:
        machine = cast("Any", server).node.machine
        if trio.current_time() >= machine.halted_until_s:
            await super(ClusterWorld, self)._check_abandoned(server, command)

    # Times

    def earliest_ms(self, server: Server, command: Command) -> int:
        """No owner of the command's group answers what is asked now at a time below that."""
        group = self.group_of(command, server.group)
        times = [one.clock.now_ms() for one in self.running() if one.group == group]
        return min([*times, self.engines[group].told_ms])

    def latest_ms(self, server: Server, command: Command) -> int:
        """No owner of the command's group has answered by now at a time above that."""
        del server, command
        return int(self.clock.now_ms())
