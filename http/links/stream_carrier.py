"""Carries workers' streams to homes on other nodes: the side that has the workers' connections.

Each stream has a connection of its own to the home's node, so one that is slow holds up no other.
`far_streams.py` says what is said on it.
"""

import socket
from collections.abc import Awaitable, Callable
from typing import Final, final

import trio

from troth.shards.guard.guarded_end import HANDSHAKE_LIMIT_S, Guard
from troth.shards.guard.trust import Use
from troth.shards.mesh.frames import LinkDamaged
from troth.shards.mesh.owners import Owner

from .far_streams import LeavingStream, encode_opening
from .node_links import NodeLinks
from .tls_end import TlsEnd

CARRIED_LIMIT_COUNT: Final = 4_096
"""Streams of one process whose home is on another node; beyond it: 503."""

_LOOK_S: Final = 0.25
_READ_BYTES: Final = 64 * 1024


@final
class StreamCarrier:
    """The streams of this process that have their home on another node."""

    def __init__(self, nodes: NodeLinks, *, limit_count: int = CARRIED_LIMIT_COUNT) -> None:
        self._nodes = nodes
        self._limit_count = limit_count
        self._nursery: trio.Nursery | None = None
        self._carried: set[_Carried] = set()

    def __len__(self) -> int:
        """Return how many streams are carried now."""
        return len(self._carried)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry streams until canceled."""
        self._nodes.owners.when_changed.append(self._group_moved)
        async with trio.open_nursery() as self._nursery:
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def elsewhere(self, group: int) -> Owner | None:
        """Return the owner of a group that is on another node, if one is."""
        owner = self._nodes.owners.of(group)
        return None if owner is None or self._nodes.is_here(owner) else owner

    async def bring(
        self,
        owner: Owner,
        group: int,
        port_number: int,
        connected: socket.socket,
        received: bytes,
        peer: str | None,
    ) -> bool:
        """Offer a connection to its home once; return whether that has the stream now.

        What is given stays open here, for the caller to close.
        """
        if self._nursery is None or len(self._carried) >= self._limit_count:
            await trio.lowlevel.checkpoint()
            return False
        way = await self._nodes.connect(owner, group)
        if way is None:
            return False
        try:
            worker = connected.dup()
        except OSError:
            way.close()
            return False  # there are too few descriptors just now
        leaving = LeavingStream(encode_opening(port_number, peer, received), self._nodes.now_s)
        end = self._nodes.asking_end(owner, group, lambda *_: leaving, Use.STREAM)
        carried = _Carried(group, owner.epoch, worker, way, end, leaving)
        self._carried.add(carried)
        try:
            with trio.move_on_after(HANDSHAKE_LIMIT_S):
                await self._nursery.start(self._carry, carried)
        finally:
            if not leaving.is_taken:
                self._forget(carried)
        return leaving.is_taken

    async def _carry(self, carried: "_Carried", *, task_status: trio.TaskStatus[None]) -> None:
        try:
            problem = await carried.run(task_status.started)
            if problem is not None:
                self._nodes.strangers.refused(problem)
            if not carried.leaving.is_taken:
                task_status.started()
        finally:
            self._forget(carried)

    def _forget(self, carried: "_Carried") -> None:
        self._carried.discard(carried)
        carried.close()

    def _group_moved(self, group: int) -> None:
        """End streams whose home serves its group no more: their workers connect again."""
        epoch = self._nodes.owners.epoch_of(group)
        for carried in list(self._carried):
            if carried.group == group and carried.epoch < epoch:
                carried.scope.cancel()


@final
class _Carried:
    """One stream: the worker's connection, and the way to its home."""

    def __init__(
        self,
        group: int,
        epoch: int,
        worker: socket.socket,
        way: socket.socket,
        end: Guard | TlsEnd,
        leaving: LeavingStream,
    ) -> None:
        self.group = group
        self.epoch = epoch
        self.leaving = leaving
        self.scope = trio.CancelScope()
        self._end = end
        worker.setblocking(False)
        way.setblocking(False)
        self._worker = trio.SocketStream(trio.socket.from_stdlib_socket(worker))
        self._way = trio.SocketStream(trio.socket.from_stdlib_socket(way))
        self._sending = trio.Lock()
        self._is_taken = trio.Event()
        self._problem: str | None = None
        self._when_taken: Callable[[], None] = lambda: None

    def close(self) -> None:
        """End both connections."""
        self._worker.socket.close()
        self._way.socket.close()

    async def run(self, when_taken: Callable[[], None]) -> str | None:
        """Carry until either side ends; return what the home's side did wrong, if it did."""
        self._when_taken = when_taken
        with self.scope:
            async with trio.open_nursery() as nursery:
                for act in (self._look, self._hear, self._listen):
                    nursery.start_soon(self._until_broken, act)
        return self._problem

    async def _until_broken(self, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except LinkDamaged as error:
            self._problem = str(error)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # one side has gone
        finally:
            self.scope.cancel()

    async def _hear(self) -> None:
        """Write to the worker what its home says, and read on when it has taken it."""
        leaving = self.leaving
        while True:
            await self._flush()
            data = await self._way.receive_some(_READ_BYTES)
            if not data:
                return
            self._end.received(bytes(data))
            if leaving.is_taken and not self._is_taken.is_set():
                self._is_taken.set()
                self._when_taken()
            heard, leaving.heard = leaving.heard, b""
            if heard:
                leaving.is_writing = True
                await self._worker.send_all(heard)
                leaving.is_writing = False

    async def _listen(self) -> None:
        """Tell the home what the worker says, until it ends."""
        await self._is_taken.wait()
        while data := await self._worker.receive_some(_READ_BYTES):
            self.leaving.say(bytes(data))
            await self._flush()

    async def _look(self) -> None:
        while self._end.look():
            await self._flush()
            await trio.sleep(_LOOK_S)

    async def _flush(self) -> None:
        async with self._sending:
            while said := self._end.take():
                await self._way.send_all(said)
