"""A world whose server is several nodes on one stream; clients ask whichever they are led to."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from tests.simulation.checks import check_recovered
from tests.simulation.ledger import Ledger
from tests.simulation.plan import Plan
from tests.simulation.server import RULES, SHARD_COUNT, Server
from tests.simulation.world import World
from troth.core.commands import Command
from troth.core.limits import STREAM_SILENCE_MS
from troth.persistence.errors import PersistenceError
from troth.persistence.streams.stream import StreamUnreachable
from troth.shards.clock import SteadyClock

from .engine import ClusterEngine
from .watch_of_nodes import WatchOfNodes

if TYPE_CHECKING:
    from .node_lives import OwnerLives
    from .node_server import NodeServer

IMPATIENT_MS: Final = 1_100
"""Nodes that claim while the lease of the owner runs, so that the wait for its end matters."""

LED_SHARE: Final = 0.9
"""How often clients ask a node that takes itself for the owner; there may be two."""

NAMES: Final = "abcdefgh"
_MEMORY: Final = Path("/dev/shm")
"""Where the nodes' directories are, if it is there: their checkpoints are real."""


class ClusterClock(SteadyClock):
    """The time of whichever node owns the stream; it never goes back."""

    def __init__(self, world: "ClusterWorld") -> None:
        self._world = world
        self._last_ms = 0

    def now_ms(self) -> int:
        """The time now."""
        server = self._world.cluster.server
        if server is not None:
            self._last_ms = max(self._last_ms, server.clock.now_ms())
        return max(self._last_ms, self._world.cluster.nodes[0].wall_ms())

    def jump(self, by_ms: int) -> None:
        """Set the clocks of all nodes forward."""
        self._world.all_ahead_ms += max(by_ms, 0)


class ClusterWorld(World):
    """The surroundings of one run with several nodes. To be closed."""

    cluster: "OwnerLives"

    def __init__(
        self, plan: Plan, check: Callable[[Server, Ledger], None] = check_recovered
    ) -> None:
        super().__init__(plan, check)
        self.watch: WatchOfNodes = WatchOfNodes(SHARD_COUNT, RULES, self.group_shards)
        self.engine = ClusterEngine(self.faults, self.random("engine"))
        self.all_ahead_ms = 0
        self.silence_ms = self.random("silence").choice((IMPATIENT_MS, STREAM_SILENCE_MS))
        self.answered_epochs: Counter[int] = Counter()
        """The latest epoch of each group that has answered a client."""
        self.takeovers_count = 0
        self.upkeep_failures_count = 0
        self.clock = cast("Any", ClusterClock(self))
        place = _MEMORY if _MEMORY.is_dir() else None
        self.directory = Path(tempfile.mkdtemp(prefix="troth-simulation-", dir=place))

    def close(self) -> None:
        """Remove the nodes' directories."""
        shutil.rmtree(self.directory, ignore_errors=True)

    async def run_server(self) -> None:
        """Keep all nodes running, until canceled."""
        await self.cluster.run()

    def running(self) -> "list[NodeServer]":
        """All nodes that take themselves for the owner."""
        found = [node.server for node in self.cluster.nodes]
        return [one for one in found if one is not None and not one.is_over]

    def _process_for(self, command: Command) -> Server | None:  # noqa: ARG002
        """Who is asked: whoever takes itself for the owner; sometimes any other node."""
        running = [node.server for node in self.cluster.nodes]
        owners = [one for one in running if one is not None and not one.is_over]
        is_led = owners and self._network.random() < LED_SHARE
        return self._reached(self._network.choice(owners if is_led else running))

    def _reached(self, server: "NodeServer | None") -> Server | None:
        if server is None or server.is_over or not server.serves.is_set():
            return None  # it stands by, and says so
        return None if trio.current_time() < server.node.client_cut_until_s else server

    async def _check_abandoned(self, server: Server, command: Command) -> None:
        halted_until_s = cast("NodeServer", server).node.halted_until_s
        if trio.current_time() >= halted_until_s:  # else it has not even heard of it
            await super()._check_abandoned(server, command)

    async def try_upkeep(self, server: "NodeServer", work: Callable[[], object]) -> None:
        """Let a node keep the stream short, or fail to."""
        try:
            await server.life.run(work)
        except (StreamUnreachable, PersistenceError):
            self.upkeep_failures_count += 1

    def jump(self, random: Random) -> None:
        """Set the clock of one node."""
        random.choice(self.cluster.nodes).jump(random)
