"""Links between the owners of groups, on whatever nodes these are: by the network between nodes.

A process connects to whom it takes for the owner of a group. What is sent arrives in order, late,
in pieces, or not at all: each way between two nodes can be cut by itself. Then the end that hears
nothing gives the connection up, and no new one is made. Processes of one node are never cut off.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from tests.simulation.links import RETRY_S, Connection

from .node_server import NodeServer

if TYPE_CHECKING:
    from .shared_world import SharedWorld

_LOOK_S: Final = 0.2


class NodesNetwork:
    """The ways between nodes. `cut` cuts one direction."""

    def __init__(self, world: "SharedWorld") -> None:
        self.luck = world.random("network of nodes")
        self.connections: list[NodeWire] = []
        self._world = world
        self._cut_until_s: dict[tuple[str, str], float] = {}
        self.slow_until_s: dict[tuple[str, str], float] = {}

    def cut(self, source: str, target: str, duration_s: float) -> None:
        """Let nothing pass from one node to another for a while."""
        self._world.trace.note("network", f"{source} to {target} is cut for {duration_s:.1f} s")
        until_s = trio.current_time() + duration_s
        self._cut_until_s[source, target] = max(until_s, self._cut_until_s.get((source, target), 0))

    def mend_all(self) -> None:
        """Let everything pass."""
        self._cut_until_s.clear()
        self.slow_until_s.clear()

    def passes(self, source: str, target: str) -> bool:
        """Whether something that is sent now arrives."""
        return trio.current_time() >= self._cut_until_s.get((source, target), 0)


class NodeWire:
    """One connection's way between two nodes; see `SimulatedWire`."""

    def __init__(self, network: NodesNetwork, world: "SharedWorld", nodes: tuple[str, str]) -> None:
        self.luck = network.luck
        self.nodes = nodes
        self.connection: Connection | None = None
        self._network = network
        self._world = world

    def delay_s(self) -> float:
        """How long the next piece is on its way."""
        faults = self._world.faults
        if faults.strikes("piece_late"):
            return faults.random("piece_late").uniform(0.1, 1.5)
        if trio.current_time() < self._network.slow_until_s.get(self.nodes, 0):
            return self.luck.uniform(0, 1)
        return self.luck.expovariate(1 / 0.0005)

    async def way_is_open(self, *, to_answerer: bool) -> None:
        """Wait until a piece can pass in a direction."""
        source, target = self.nodes if to_answerer else reversed(self.nodes)
        while not self._network.passes(source, target):  # noqa: ASYNC110  it may be cut again
            await trio.sleep(_LOOK_S)

    def has_gone_unheard(self) -> bool:
        """Whether the other end does not hear that a process has ended."""
        return self._world.faults.strikes("end_unheard")


async def keep_linked(world: "SharedWorld", server: NodeServer, group: int) -> None:
    """Link a server to the owner of another group, again and again, until canceled."""
    network, luck = world.network, world.network.luck
    assert server.mesh is not None
    while True:
        await trio.sleep(luck.uniform(*RETRY_S))
        await server.links.is_awake()
        owner = server.mesh.owners.of(group)
        peer = None if owner is None else world.server_at(owner.node, group)
        if peer is None or peer.is_over or server.is_over:
            continue
        here, there = server.node.machine.name, peer.node.machine.name  # type: ignore[attr-defined]
        is_open = network.passes(here, there) and network.passes(there, here)
        if not is_open or trio.current_time() < peer.links.hangs_until:
            continue
        wire = NodeWire(network, world, (here, there))
        wire.connection = Connection(wire, server, peer)
        network.connections.append(wire)
        assert world.nursery is not None
        world.nursery.start_soon(_carry, network, wire, wire.connection)
        await wire.connection.asking.ended.wait()


async def _carry(network: NodesNetwork, wire: NodeWire, connection: Connection) -> None:
    with suppress(trio.ClosedResourceError):
        await connection.run()
    network.connections.remove(wire)
