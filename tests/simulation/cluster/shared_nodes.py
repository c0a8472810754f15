"""Nodes that share groups: each has a process for every group, which owns it or stands by.

Who claims a group that is free, and which group goes to another node, is decided by the real
`SharingMember`, from a book that all nodes share. It is also what links go by.
"""

import shutil
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import trio

from troth.http.processes.sharing_member import LOOK_S, SharingMember
from troth.http.settings.kinds import ListenAddress
from troth.persistence.data_directory import group_name
from troth.persistence.streams.sharing import ClaimTurn
from troth.shards.mesh.owners import Owners

from .lock_step import LockStep
from .node import Node
from .node_lives import NodeLives, OwnerLives
from .node_server import NodeServer
from .shared_links import keep_linked
from .shared_server import SharedServer, place_of

if TYPE_CHECKING:
    from .shared_world import SharedWorld

_PORT = 7000


class Machine(Node):
    """What the processes of one node have in common: its clocks, and its troubles."""

    def __init__(self, world: "SharedWorld", name: str) -> None:
        super().__init__(world, name, world.directory / name)
        self.processes: list[SharedProcess] = []

    def kill(self) -> None:
        """`kill -9` of all processes."""
        for process in self.processes:
            process.kill()

    def halt(self, duration_s: float) -> None:
        """Stop all processes for a while: their links say nothing either."""
        self.halted_until_s = trio.current_time() + duration_s
        for process in self.processes:
            if process.server is not None:
                process.server.links.hangs_until = self.halted_until_s


class SharedProcess(NodeLives):
    """The process of a node for one group, from life to life."""

    world: "SharedWorld"

    def __init__(self, machine: Machine, group: int, lives: OwnerLives) -> None:
        world = cast("SharedWorld", machine.world)
        super().__init__(world, f"{machine.name}{group}", lives)
        self.machine = machine
        self.node_name = machine.name
        self.group = group
        self.engine = world.engines[group]
        self.home = machine.directory
        self.directory = machine.directory / group_name(group)
        self.owners: Owners | None = None
        self.turn = ClaimTurn(machine.boot_ms)
        machine.processes.append(self)

    def boot_ms(self) -> int:
        """See Node."""
        return self.machine.boot_ms()

    def wall_ms(self) -> int:
        """See Node."""
        return self.machine.wall_ms()

    def is_cut(self) -> bool:
        """See Node."""
        return self.machine.is_cut()

    async def until_awake(self) -> None:
        """See Node."""
        await self.machine.until_awake()

    def jump(self, random: Random) -> None:
        """See Node."""
        self.machine.jump(random)

    def next_incarnation(self) -> int:
        """What tells its next life from all others."""
        return self.random.getrandbits(64)

    def make_server(self, life: LockStep) -> NodeServer:
        """See NodeLives."""
        self.place = place_of(self.group, self.world.group_shards)
        return SharedServer(self, life, self.random)

    async def run(self) -> None:
        """Keep starting the process, until canceled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_at_book)
            await super().run()

    async def _look_at_book(self) -> None:
        """Do what `SharingMember` does, in the time of the simulation."""
        member: SharingMember | None = None
        storage, noted_epoch = None, 0
        while True:
            await trio.sleep(LOOK_S * self.random.uniform(0.8, 1.2))
            await self.until_awake()
            if self.is_cut() or self.opened is None or self.owners is None:
                continue
            if storage is not self.opened:
                storage, member = self.opened, self._make_member(self.owners)
            assert member is not None
            member._look()
            member._learn()
            server = self.server
            if server is not None and not server.is_over and server.epoch > noted_epoch:
                noted_epoch = server.epoch
                incarnation = server.stream_storage._log._incarnation
                self.world.book.note_owner(self.group, self.machine.name, noted_epoch, incarnation)

    def _make_member(self, owners: Owners) -> SharingMember:
        seat = SimpleNamespace(process=self.group, processes_count=self.world.plan.groups_count)
        seated: Any = SimpleNamespace(seat=seat, leaves=self._leave)
        name = self.machine.name
        storage: Any = self.opened
        return SharingMember(
            seated,
            storage,
            self.turn,
            self.world.book,
            owners,
            address=name,
            mesh=ListenAddress(name, _PORT),
            home=name,
        )

    def _leave(self) -> None:
        """Release the group: it goes to another node."""
        server = self.server
        if server is not None and not server.is_over and not server.is_leaving:
            server.is_leaving = True
            self.world.moves_count += 1
            self.world.trace.note(self.name, "leaves its group to another node")
            server.begin_stop(patience_s=5)

    async def _keep(self, server: NodeServer) -> None:
        if trio.current_time() < self.machine.halted_until_s:
            server.links.hangs_until = self.machine.halted_until_s
        async with trio.open_nursery() as nursery:
            for group in range(self.world.plan.groups_count):
                if group != self.group:
                    nursery.start_soon(keep_linked, self.world, server, group)
            self.world.watch.began(server.machines)
            await super()._keep(server)
            nursery.cancel_scope.cancel()
        self._forget_machines(server)

    def _forget_machines(self, server: NodeServer) -> None:
        machines = self.world.watch.machines
        for machine in server.machines:
            if machines.get(machine.state.index) is machine:
                del machines[machine.state.index]


async def check_last_of_all(world: "SharedWorld") -> None:
    """Start each group in an empty directory, when all others are gone; look at its state."""
    world.faults.is_over = True
    machine = Machine(world, "last")
    shutil.rmtree(machine.directory, ignore_errors=True)
    for lives in world.lives:
        process = SharedProcess(machine, lives.group, cast("Any", lives))
        process.turn.rank = 0
        life = LockStep(process.rest)
        server = await life.run(partial(process.make_server, life))
        world.check_recovered(server, world.ledger)
        process._leave_directory()
