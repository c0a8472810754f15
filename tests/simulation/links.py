"""The links between the processes of a simulated server: late, in pieces, broken, silent.

What is sent by a connection arrives in order. If it breaks, what is on its way is lost, and each
end hears of it after a while of its own, or notices the silence. A process that ends has sent what
it has sent; the others hear of its end, or of nothing. A process that hangs neither says nor hears
anything; what was sent to it waits. So the other end may have given a connection up, and made the
next one, before the first has been read.
"""

from contextlib import suppress
from random import Random
from typing import Protocol

import trio

from troth.shards.mesh.frames import PeerSucceeded

from .link_sides import LinkSide
from .lives import Lives
from .server import Server, Unreachable
from .surroundings import Surroundings

RETRY_S = (0.02, 0.5)


class Way(Protocol):
    """What a connection goes by: luck, delays, and what is cut."""

    luck: Random

    def delay_s(self) -> float: ...

    async def way_is_open(self, *, to_answerer: bool) -> None: ...

    def has_gone_unheard(self) -> bool: ...


class Connection:
    """One connection of a wire, from its making until both sides know of its end."""

    def __init__(self, wire: Way, asker: Server, answerer: Server) -> None:
        self._wire = wire
        self.is_broken = False
        assert asker.mesh is not None
        assert answerer.mesh is not None
        link = asker.mesh.links[answerer.group]
        end = answerer.mesh.answering(answerer.shards)
        self._servers = asker, answerer
        self.asking = LinkSide(link, link.received, link.closed)
        self.answering = LinkSide(end, end.received, end.closed)
        link.opened()

    async def run(self) -> None:
        """Carry bytes in both directions until both sides have closed it."""
        asker, answerer = self._servers
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve, asker, self.asking, self.answering.at_other)
            nursery.start_soon(self._serve, answerer, self.answering, self.asking.at_other)

    def break_off(self) -> None:
        """Lose what is on its way; each side hears of it some time later, or of nothing."""
        self.is_broken = True
        for side in (self.asking, self.answering):
            if self._wire.luck.random() < 0.7:
                side.scope.deadline = trio.current_time() + self._wire.luck.uniform(0, 1)

    async def _serve(
        self, server: Server, side: LinkSide, incoming: trio.MemoryReceiveChannel[bytes]
    ) -> None:
        server.links.add(side)
        with side.scope, suppress(Unreachable):
            async with server.connection():
                with suppress(PeerSucceeded):  # a greeting of one that was replaced meanwhile
                    await self._receive(server, side, incoming)
        server.links.remove(side)
        if not server.is_over:
            side.close()
            server.shards.run_turn()
            server.links.stir()
        side.ended.set()
        if not (server.is_over and self._wire.has_gone_unheard()):
            side.outgoing.close()

    async def _receive(
        self, server: Server, side: LinkSide, incoming: trio.MemoryReceiveChannel[bytes]
    ) -> None:
        luck = self._wire.luck
        async for data in incoming:
            await trio.sleep(self._wire.delay_s())
            await self._wire.way_is_open(to_answerer=side is self.answering)
            while data:
                await server.links.is_awake()
                if self.is_broken:
                    await trio.sleep_forever()
                count = luck.randint(1, len(data)) if luck.random() < 0.1 else len(data)
                piece, data = data[:count], data[count:]
                side.receive(piece)
                server.shards.run_turn()
                server.links.stir()
                if data:
                    await trio.lowlevel.checkpoint()


class SimulatedWire:
    """The way on which one process asks another: connected again and again."""

    def __init__(self, world: Surroundings, asker: Lives, answerer: Lives) -> None:
        self.luck = world.random(f"wire {asker.group} {answerer.group}")
        self.is_cut_until = 0.0
        self.is_slow_until = 0.0
        self._world = world
        self._asker = asker
        self._answerer = answerer
        self._name = f"link {asker.group}-{answerer.group}"
        self._connections: list[Connection] = []

    async def run(self) -> None:
        """Connect whenever both processes run and the wire is whole."""
        async with trio.open_nursery() as nursery:
            while True:
                asker, answerer = await self._asker.is_up(), await self._answerer.is_up()
                await trio.sleep_until(self.is_cut_until)
                await trio.sleep(self.luck.uniform(*RETRY_S))
                if asker.is_over or answerer.is_over or trio.current_time() < self.is_cut_until:
                    continue
                if trio.current_time() < asker.links.hangs_until:
                    continue
                connection = Connection(self, asker, answerer)
                self._connections.append(connection)
                nursery.start_soon(self._keep, connection)
                await connection.asking.ended.wait()

    async def _keep(self, connection: Connection) -> None:
        await connection.run()
        self._connections.remove(connection)

    def cut(self, duration_s: float) -> None:
        """Break all connections, and make no new one for a while."""
        self._world.trace.note(self._name, f"is cut for {duration_s:.1f} s")
        self.is_cut_until = max(self.is_cut_until, trio.current_time() + duration_s)
        for one in self._connections:
            one.break_off()

    def delay_s(self) -> float:
        """How long the next piece is on its way."""
        faults = self._world.faults
        if faults.strikes("piece_late"):
            return faults.random("piece_late").uniform(0.1, 1.5)
        if not self._world.is_calm and trio.current_time() < self.is_slow_until:
            return self.luck.uniform(0, 1)
        return self.luck.expovariate(1 / 0.0005)

    async def way_is_open(self, *, to_answerer: bool) -> None:
        """Go on: what is cut is lost."""

    def has_gone_unheard(self) -> bool:
        """Whether the other end does not hear that a process has ended."""
        return self._world.faults.strikes("end_unheard")
