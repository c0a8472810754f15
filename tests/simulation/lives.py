"""The lives of one process: its disk, and the server that is started on it again and again."""

from collections.abc import Callable

import trio

from tests.twins.simulated_files import SimulatedCrash, SimulatedFiles
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.errors import DataDirectoryUnwritable
from troth.shards.mesh.place import ProcessPlace

from .damage import let_checkpoint_rot, let_log_rot
from .disk import SimulatedStore
from .invariants import Watch
from .lease_models import UNSYNCED_MS, Absence
from .ledger import require
from .node_entries import NODES
from .server import SHARD_COUNT, Server
from .surroundings import Surroundings


class Lives:
    """One process of a server, which has one for each group."""

    def __init__(self, world: Surroundings, group: int) -> None:
        self.world = world
        self.group = group
        self.files = SimulatedFiles()
        self.store = SimulatedStore() if world.plan.makes_checkpoints else None
        self.server: Server | None = None
        self.count = 0
        self.disk_full_until = 0.0
        self.name = f"server{group}" if world.plan.groups_count > 1 else "server"
        self._random = world.random(f"world {group}" if group else "world")
        self._up = trio.Event()
        self._checkpoint_position: Callable[[], int] = lambda: 0

    async def run(self) -> None:
        """Keep starting the server, until canceled; each end is followed by a restart."""
        world = self.world
        ended_ms, unsynced_ms = world.clock.now_ms(), UNSYNCED_MS
        while True:
            server = await self._open()
            self.count += 1
            world.trace.note(self.name, f"starts with {server.recovery.records_count} records")
            world.check_recovered(server, world.ledger)
            async with trio.open_nursery() as nursery:
                resumed_ms = world.clock.now_ms()
                await nursery.start(server.run)
                absence = Absence(ended_ms, resumed_ms, world.clock.now_ms(), unsynced_ms)
                world.history.absences[self.group].append(absence)
                self.server = server
                world.watch.began(server.machines)
                self._up.set()
            world.watch.ended(server.machines)
            ended_ms = world.clock.now_ms()
            unsynced_ms = world.clock.passed_ms(UNSYNCED_MS)
            self.server = None
            self._up = trio.Event()
            world.steps.disarm(self.group)
            self._after(server)
            await trio.sleep(self._random.uniform(0.1, 3))

    async def is_up(self) -> Server:
        """Wait for a running server."""
        while self.server is None:
            await self._up.wait()
        return self.server

    @property
    def serving(self) -> Server | None:
        """The server if it serves requests now."""
        server = self.server
        return server if server is not None and server.serves.is_set() else None

    async def serves(self) -> Server:
        """Wait for a server that serves requests; it may be over by then."""
        server = await self.is_up()
        await server.serves.wait()
        return server

    async def _open(self) -> Server:
        """Start a life; recovery may be cut short by another power cut or a failing disk."""
        faults, note = self.world.faults, self.world.trace.note
        while True:
            if trio.current_time() >= self.disk_full_until:
                self.files.capacity_bytes = None
            self._let_rot()
            if faults.strikes("start_fails"):
                self.files.fail("sync", skip_count=faults.random("start_fails").randrange(4))
            if faults.strikes("power_cut_while_starting"):
                self._cut_power_in(faults.random("power_cut_while_starting").randint(1, 6))
            try:
                return self.open_server()
            except DataDirectoryUnwritable as error:
                note(self.name, f"refuses to start: {type(error).__name__}")
                require(not self.world.is_calm, f"does not start: {error}")
            except SimulatedCrash:
                note(self.name, "power lost while starting")
            self.crash()
            await trio.sleep(1)

    def _let_rot(self) -> None:
        faults = self.world.faults
        random = faults.random("log_rots")
        if self.count and faults.strikes("log_rots"):
            position = self._checkpoint_position()
            if not let_log_rot(self.files, self.group, position, random, self._open_in_vain):
                faults.missed("log_rots")
            self.files.end_process()
        if self.store is not None and faults.strikes("checkpoint_rots"):
            if not let_checkpoint_rot(self.store, random, self._open_in_vain):
                faults.missed("checkpoint_rots")
            self.files.end_process()

    def _open_in_vain(self) -> None:
        """Open what cannot be opened; what the watch knows is left alone."""
        self.open_server(Watch(SHARD_COUNT, (), self.world.group_shards))

    def open_server(self, watch: Watch | None = None) -> Server:
        """Open the disk as it is now. Raises DataDirectoryError or SimulatedCrash."""
        world = self.world
        server = Server(
            self.files,
            world.clock,
            self._random,
            world.deliver,
            world.watch if watch is None else watch,
            self.store,
            nodes=NODES,
            begin_call=lambda server, execution: world.begin_call(server, execution),
            trims_log=world.plan.trims_log,
            patience=world.plan.patience,
            place=ProcessPlace(self.group, world.group_shards, "data", "", self.count + 1),
        )
        checkpoints = server.storage.checkpoints
        if checkpoints is not None:
            store, data_id = self.store, server.storage.data_id
            assert store is not None
            shards = ProcessPlace(self.group, world.group_shards, "", "", 0).shards_of(self.group)
            self._checkpoint_position = lambda: Checkpoints(store, data_id, shards).position
        return server

    def _after(self, server: Server) -> None:
        world = self.world
        if server.failure is not None:
            world.disk_failures_count += 1
            world.trace.note(self.name, f"stopped: {server.failure}")
        reboots = world.plan.reboots_after_disk_failure or self._random.random() < 0.5
        if server.has_lost_power or (server.failure is not None and reboots):
            self.crash()
            world.trace.note("disk", f"after the power cut: {self.files.used_bytes()} bytes")
        else:
            self.files.end_process()
            self.files.crash_before_operation = None
        world.crashes_count += not server.has_ended_well

    def crash(self) -> None:
        """Cut the power: what was not synced is lost, torn, or there."""
        faults = self.world.faults
        chance = 1.0
        if faults.strikes("unsynced_lost"):
            chance = 0.0
        elif faults.strikes("unsynced_torn"):
            chance = faults.random("unsynced_torn").uniform(0.1, 0.9)
        self.files = self.files.crash(self._random, chance)

    def _cut_power_in(self, operations_count: int) -> None:
        self.files.crash_before_operation = self.files.operations_count + operations_count
