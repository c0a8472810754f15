"""Carries connections to other nodes, byte by byte: the side that has the connections.

Workers' streams go to the homes of their poll groups, and where a node serves no group, clients'
connections to any owner (`http/processes/passing_on.py`). Each has a connection of its own to the
other node, so one that is slow holds up no other. `far_streams.py` says what is said on it.

A client whose owner is lost before it has begun to answer can be told so, or asked for elsewhere
(`Client.lost`). So what it has said since the last answer is kept, up to a limit.
"""

import dataclasses
import socket
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, final

import trio

from troth.shards.guard.guarded_end import HANDSHAKE_LIMIT_S, Guard
from troth.shards.guard.trust import Use
from troth.shards.mesh.frames import LinkDamaged
from troth.shards.mesh.owners import Owner

from .far_streams import LeavingStream, encode_opening
from .node_links import NodeLinks
from .passed_connections import PassedConnection
from .tls_end import TlsEnd

CARRIED_LIMIT_COUNT: Final = 4_096
"""Streams of one process whose home is on another node; beyond it: 503."""

HALF_CLOSED_LIMIT_S: Final = 30.0
"""A client that says nothing more has its answer for this long; it may be gone altogether."""

KEPT_LIMIT_BYTES: Final = 128 * 1024
"""Of what a client has said and its owner has not begun to answer."""

_LOOK_S: Final = 0.25
_QUIET_S: Final = 0.25
"""When no more of it comes for this long, an answer counts as whole when the process is to end."""
_OPENING_BYTES: Final = 64 * 1024
"""Of what was read of a client's request, so much is said at first."""
_READ_BYTES: Final = 64 * 1024
_CONTINUE: Final = b"HTTP/1.1 100"


class Client(Protocol):
    """Whose connection is carried that is not a stream: who brings it."""

    async def lost(self, passed: PassedConnection, *, is_whole: bool) -> None:
        """Do what can be done for a client whose owner was lost before it began to answer.

        What was received is what it has said since the last answer, or the beginning of that.
        """
        ...  # pragma: no cover


@final
class _Unanswered:
    """What a client has said since the last answer."""

    def __init__(self, received: bytes) -> None:
        self.kept = received[:KEPT_LIMIT_BYTES]
        self.is_whole = len(received) <= KEPT_LIMIT_BYTES

    def said(self, data: bytes) -> None:
        """Note what it says."""
        if len(self.kept) + len(data) > KEPT_LIMIT_BYTES:
            self.is_whole = False
        else:
            self.kept += data

    def answered(self, data: bytes) -> None:
        """Note that its owner has begun to answer."""
        if not data.startswith(_CONTINUE):
            self.kept, self.is_whole = b"", True


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
        passed: PassedConnection,
        client: Client | None = None,
    ) -> bool:
        """Offer a connection to its home once; return whether that has the stream now.

        With `client` it is no worker's stream: it is paced, and does not end when its owner has
        lost the group and goes on.
        """
        if self._nursery is None or len(self._carried) >= self._limit_count:
            await trio.lowlevel.checkpoint()
            return False
        way = await self._nodes.connect(owner, group)
        if way is None:
            return False
        try:
            worker = passed.socket.dup()
        except OSError:
            way.close()
            return False  # there are too few descriptors just now
        is_paced = client is not None
        limit_bytes = _OPENING_BYTES if is_paced else len(passed.received)
        beginning = passed.received[:limit_bytes]
        opening = encode_opening(passed.port_number, passed.peer, beginning, is_paced=is_paced)
        leaving = LeavingStream(opening, self._nodes.now_s, is_paced=is_paced)
        end = self._nodes.asking_end(owner, group, lambda *_: leaving, Use.STREAM)
        kept = dataclasses.replace(passed, socket=worker)
        carried = _Carried(group, owner.epoch, kept, way, end, leaving)
        if client is not None:
            carried.client, carried.asked = client, _Unanswered(passed.received)
            carried.rest = passed.received[limit_bytes:]
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
            elif carried.is_lost and carried.client is not None and carried.asked.kept:
                asked = carried.asked
                lost = dataclasses.replace(carried.passed, received=asked.kept)
                await carried.client.lost(lost, is_whole=asked.is_whole)
        finally:
            self._forget(carried)

    async def finish(self) -> None:
        """Wait until clients have the answers to what they have asked; end their connections."""
        while any(one.is_answering for one in self._carried):  # noqa: ASYNC110  with time
            await trio.sleep(_QUIET_S)
        for carried in self._carried:
            carried.scope.cancel()

    def _forget(self, carried: "_Carried") -> None:
        self._carried.discard(carried)
        carried.close()

    def _group_moved(self, group: int) -> None:
        """End streams whose home serves its group no more: their workers connect again."""
        epoch = self._nodes.owners.epoch_of(group)
        for carried in list(self._carried):
            if carried.client is None and carried.group == group and carried.epoch < epoch:
                carried.scope.cancel()


@final
class _Carried:
    """One stream: the worker's connection, and the way to its home."""

    def __init__(
        self,
        group: int,
        epoch: int,
        passed: PassedConnection,
        way: socket.socket,
        end: Guard | TlsEnd,
        leaving: LeavingStream,
    ) -> None:
        self.group = group
        self.epoch = epoch
        self.leaving = leaving
        self.scope = trio.CancelScope()
        self.client: Client | None = None
        self.asked = _Unanswered(b"")
        self.rest = b""
        """What was read of its request and is still to be said."""
        self.is_lost = False
        """Whether the way to its home has broken, or its home has ended the connection."""
        self.passed = passed
        self._answered_s = float("-inf")
        self._has_room = trio.Event()
        self._end = end
        passed.socket.setblocking(False)
        way.setblocking(False)
        self._worker = trio.SocketStream(trio.socket.from_stdlib_socket(passed.socket))
        self._way = trio.SocketStream(trio.socket.from_stdlib_socket(way))
        self._sending = trio.Lock()
        self._is_taken = trio.Event()
        self._problem: str | None = None
        self._when_taken: Callable[[], None] = lambda: None

    @property
    def is_answering(self) -> bool:
        """Return whether a client waits for an answer, or for more of one."""
        is_fresh = trio.current_time() - self._answered_s < _QUIET_S
        return self.client is not None and (bool(self.asked.kept) or is_fresh)

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
            self.is_lost = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # one side has gone
        finally:
            self.scope.cancel()

    async def _hear(self) -> None:
        """Write to the worker what its home says, and read on when it has taken it."""
        leaving = self.leaving
        while True:
            await self._flush()
            data = await self._read_way()
            if not data:
                return
            self._end.received(data)
            if leaving.is_taken and not self._is_taken.is_set():
                self._is_taken.set()
                self._when_taken()
            if leaving.room_bytes:
                self._has_room.set()
            heard, leaving.heard = leaving.heard, b""
            if heard:
                self.asked.answered(heard)
                leaving.is_writing = True
                await self._worker.send_all(heard)
                leaving.is_writing = False
                self._answered_s = trio.current_time()

    async def _read_way(self) -> bytes:
        """Return what comes from the home's node; nothing when that is at an end."""
        try:
            data = bytes(await self._way.receive_some(_READ_BYTES))
        except trio.BrokenResourceError:
            data = b""
        self.is_lost = self.is_lost or not data
        return data

    async def _listen(self) -> None:
        """Tell the home what the worker says, until it ends."""
        await self._is_taken.wait()
        rest, self.rest = self.rest, b""
        await self._tell(rest)
        while data := bytes(await self._worker.receive_some(_READ_BYTES)):
            if self.client is not None:
                self.asked.said(data)
            await self._tell(data)
        # A client may end its own side, and wait for what it has asked.
        with trio.move_on_after(HALF_CLOSED_LIMIT_S):
            while self.is_answering:  # noqa: ASYNC110  with time
                await trio.sleep(_QUIET_S)

    async def _tell(self, data: bytes) -> None:
        """Tell the home something, as it has room for it if it is paced."""
        leaving = self.leaving
        while data:
            self._has_room = trio.Event()
            if not leaving.room_bytes:
                await self._has_room.wait()
                continue
            count_bytes = len(data) if self.client is None else leaving.room_bytes
            leaving.say(data[:count_bytes])
            data = data[count_bytes:]
            await self._flush()

    async def _look(self) -> None:
        while self._end.look():
            await self._flush()
            await trio.sleep(_LOOK_S)
        self.is_lost = True

    async def _flush(self) -> None:
        async with self._sending:
            while said := self._end.take():
                try:
                    await self._way.send_all(said)
                except trio.BrokenResourceError:
                    self.is_lost = True
                    raise
