"""The lives of nodes: each starts, stands by, owns the stream for a while, ends, starts again."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

import trio

from tests.simulation.lease_models import Absence
from tests.simulation.ledger import require
from tests.simulation.lives import Lives
from tests.simulation.server import Server
from tests.twins.simulated_files import SimulatedFiles
from troth.persistence.errors import LogFailed, PersistenceError
from troth.persistence.streams.chain import StreamDamaged

from .cluster_world import NAMES, ClusterWorld
from .lock_step import LockStep, NodeEnded
from .node import Node
from .node_server import NodeServer


class NodeLives(Node):
    """One node, from life to life."""

    def __init__(self, world: ClusterWorld, name: str, cluster: "OwnerLives") -> None:
        super().__init__(world, name, world.directory / name)
        self.server: NodeServer | None = None
        self.count = 0
        self.loses_disk = False
        self._cluster = cluster
        self._scope: trio.CancelScope | None = None

    async def run(self) -> None:
        """Keep starting the node, until canceled."""
        while True:
            await trio.sleep(self.random.uniform(0.1, 3))
            await self.until_awake()
            life = LockStep(self.rest)
            try:
                with trio.CancelScope() as self._scope:
                    await self._live(life)
            finally:
                life.has_ended = True
                self._scope = None
                self._leave_directory()

    def make_server(self, life: LockStep) -> NodeServer:
        """Make a server, which stands by in it."""
        return NodeServer(self, life, self.random)

    async def _live(self, life: LockStep) -> None:
        """Live one life: open, stand by, serve. The directory is left open."""
        server = await self._open(life)
        if server is None:
            return
        world = self.world
        self.count += 1
        world.takeovers_count += 1
        world.trace.note(self.name, f"takes over with {server.storage.next_sequence - 1} records")
        _, last_ms = self.engine.owners[server.epoch - 1]
        require(server.clock.now_ms() >= last_ms, "time went back at a takeover")
        world.check_recovered(server, world.ledger)
        async with trio.open_nursery() as nursery:
            resumed_ms = server.clock.now_ms()
            await nursery.start(server.run)
            absence = Absence(last_ms or resumed_ms, resumed_ms, server.clock.now_ms())
            world.history.absences[self.group].append(absence)
            self.server = server
            self._cluster.tell()
            nursery.start_soon(self._keep, server)
        self.server = None
        world.steps.disarm(self.group)
        if server.failure is not None:
            world.disk_failures_count += 1
            world.trace.note(self.name, f"stopped: {server.failure}")
        elif server.has_ended_well:
            with suppress(NodeEnded):  # it was killed after all
                await life.run(server.storage.close)
                self.opened = None
        world.crashes_count += not server.has_ended_well

    async def _keep(self, server: NodeServer) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.keep)
            await server.is_ended.wait()
            nursery.cancel_scope.cancel()

    async def _open(self, life: LockStep) -> NodeServer | None:
        """Open the storage, and stand by; None if that failed, as it may."""
        world = self.world
        try:
            return await life.run(partial(self.make_server, life))
        except PersistenceError as error:
            client = self.client
            world.trace.note(self.name, f"ends: {type(error).__name__}: {error}")
            has_lost = self.engine.lost_count > 0
            may_be = not isinstance(error, StreamDamaged) or (client and client.has_rotted)
            require(bool(may_be) or has_lost, f"{self.name} finds the stream damaged: {error}")
            is_right = not world.is_calm or has_lost or isinstance(error, LogFailed)
            require(is_right, f"does not start: {error}")
            if isinstance(error, StreamDamaged) and has_lost:
                self.loses_disk = True  # an operator gives it an empty directory
            return None

    def kill(self) -> None:
        """`kill -9`, whatever it does; with its disk if `loses_disk` says so."""
        if self.server is not None:
            self.server.kill()
        elif self._scope is not None:
            self._scope.cancel()

    def _leave_directory(self) -> None:
        """Release what a process that has ended holds."""
        opened, self.opened = self.opened, None
        if opened is not None:
            opened._checkpoints.close()
            opened._lock.close()
        if self.loses_disk:
            self.loses_disk = False
            shutil.rmtree(self.directory, ignore_errors=True)


class OwnerLives(Lives):
    """All that may own a group, as the one process that others take them for."""

    def __init__(self, world: ClusterWorld, group: int, name: str) -> None:
        self.world = world
        self.group = group
        self.files = SimulatedFiles()
        self.store = None
        self.disk_full_until = 0.0
        self.name = name
        self.nodes: Sequence[NodeLives] = ()
        self._changed = trio.Event()

    def tell(self) -> None:
        """A node serves now."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    @property
    def server(self) -> NodeServer | None:  # type: ignore[override]
        """The server of the newest owner, if it runs."""
        running = [one.server for one in self.nodes if one.server is not None]
        running = [one for one in running if not one.is_over]
        return max(running, key=lambda one: one.epoch, default=None)

    @property
    def count(self) -> int:  # type: ignore[override]
        """How many owners there were."""
        return sum(node.count for node in self.nodes)

    async def run(self) -> None:
        """Run them all, until canceled."""
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(node.run)

    async def is_up(self) -> Server:
        """Wait for an owner."""
        while self.server is None:
            await self._changed.wait()
        return self.server


def make_cluster(plan: Any) -> ClusterWorld:
    """A world with the plan's nodes."""
    world = ClusterWorld(plan)
    world.cluster = OwnerLives(world, 0, "cluster")
    names = NAMES[: plan.nodes_count]
    world.cluster.nodes = [NodeLives(world, name, world.cluster) for name in names]
    world.lives = [cast("Any", world.cluster)]
    return world


async def check_last(world: ClusterWorld) -> None:
    """Start a node with an empty directory, when all others are gone, and look at its state."""
    world.faults.is_over = True
    node = NodeLives(world, "last", world.cluster)
    life = LockStep(node.rest)
    server = await life.run(partial(NodeServer, node, life, world.random("last")))
    world.check_recovered(server, world.ledger)
    node._leave_directory()
