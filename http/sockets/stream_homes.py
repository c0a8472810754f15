"""Workers' streams among several processes: each is brought to the home of its group.

All streams of a poll group are in one process (`shards/mesh/homes.py`), but any process may accept
a worker's connection. The request for a stream is then left unread, and the connection is passed
whole: its descriptor, and the bytes that were read of it, by a Unix socket in the directory of the
links. The home goes on as if it had accepted the connection itself: it judges the request, and
serves what follows.

- Until the home has said that it has a connection, it belongs to the process that accepted it. So a
  home that dies before has written nothing, and the next one gets the connection.
- A home that is away is waited for, since some workers never ask again after a refusal; after
  `STREAM_WAIT_S` the answer is 503.
- Who connects to a home must be the same user, and so must be who listens.
- A home on another node gets the stream byte by byte (`http/links/far_streams.py`).
"""

import socket
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, final

import structlog
import trio

from troth.http.links.passed_connections import PassedConnection
from troth.http.links.stream_carrier import StreamCarrier
from troth.http.links.unix_sockets import is_same_user, listen_at, next_connection
from troth.shards.mesh.homes import HomeFinder
from troth.shards.mesh.place import ProcessPlace

from .accepting import PAUSE_S

STREAM_WAIT_S: Final = 30.0
"""How long a connection waits for the home of its stream."""
_RETRY_S: Final = 0.1
_TAKE_LIMIT_S: Final = 10.0
_BACKLOG_COUNT: Final = 1_024
_HEAD: Final = struct.Struct("<IHH")  # bytes read of the request, number of the port, bytes of peer
_READ_BYTES: Final = 64 * 1024
_TAKEN: Final = b"\x01"
_DESCRIPTOR_BYTES: Final = array("i").itemsize

_log = structlog.get_logger("troth.http.streams")


class AdoptingPort(Protocol):
    """A port that serves connections which another process has accepted: a listener."""

    def adopt(self, connected: socket.socket, peer: str | None, received: bytes) -> None:
        """Take over a connection, of whose next request these bytes have been read."""
        ...  # pragma: no cover


class ConnectionHomes(Protocol):
    """Where a port brings connections that are for other processes."""

    away: str
    """What is told those that could not be brought in time."""

    async def bring(
        self,
        home: int,
        passed: PassedConnection,
    ) -> bool:
        """Pass a connection on; return whether another process has it now."""
        ...  # pragma: no cover

    def stop(self) -> None:
        """Bring nothing more: this process ends."""
        ...  # pragma: no cover


AWAY: Final = (
    "The part of the server that has this stream is being started again. Connect again after "
    "`Retry-After`."
)


@final
class StreamHomes:
    """Brings connections to other processes, and takes those that they bring."""

    def __init__(self, place: ProcessPlace) -> None:
        self.carrier: StreamCarrier | None = None
        """Brings streams to homes on other nodes of a cluster."""
        self.away = AWAY
        self._place = place
        self._finder = HomeFinder(place.count)
        self._tasks: set[trio.CancelScope] = set()
        self._taking = trio.CancelScope()
        self._is_stopping = False

    def home_of(self, group: str) -> int | None:
        """Return the process that has the streams of a group; None if it is this one."""
        home = self._finder.of_group(group)
        return None if home == self._place.process else home

    def stop(self) -> None:
        """Bring and take nothing more: connections that wait for a home end.

        Those for this one wait for the next.
        """
        self._is_stopping = True
        self._taking.cancel()
        for scope in self._tasks:
            scope.cancel()

    # To other processes

    async def bring(
        self,
        home: int,
        passed: PassedConnection,
    ) -> bool:
        """Pass a connection to its home; return whether that has it now."""
        with trio.move_on_after(STREAM_WAIT_S) as scope:
            if self._is_stopping:
                return False
            self._tasks.add(scope)
            try:
                while True:
                    if await self._offer(home, passed):
                        return True
                    await trio.sleep(_RETRY_S)
            finally:
                self._tasks.discard(scope)
        return False

    async def _offer(
        self,
        home: int,
        passed: PassedConnection,
    ) -> bool:
        """Offer a connection to its home once; return whether that has it now."""
        owner = None if self.carrier is None else self.carrier.elsewhere(home)
        if owner is None or self.carrier is None:
            return await self.pass_on(home, passed)
        return await self.carrier.bring(owner, home, passed)

    async def pass_on(
        self,
        home: int,
        passed: PassedConnection,
    ) -> bool:
        """Offer a connection to a home on this machine once; return whether it was taken."""
        name = (passed.peer or "").encode()
        head = _HEAD.pack(len(passed.received), passed.port_number, len(name))
        content = head + name + passed.received
        try:
            way = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            await trio.lowlevel.checkpoint()
            return False  # there are too few descriptors just now
        with way:
            stream = trio.socket.from_stdlib_socket(way)
            try:
                await stream.connect(str(self._path_of(home)))
                if not is_same_user(way):
                    _log.error("another user listens instead of a process", process=home)
                    return False
                descriptors = array("i", [passed.socket.fileno()])
                sent_bytes = await stream.sendmsg(
                    [content], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
                )
                while sent_bytes < len(content):
                    sent_bytes += await stream.send(content[sent_bytes:])
                return await stream.recv(1) == _TAKEN
            except OSError:
                return False  # it is away, or was killed
            except trio.Cancelled:
                # Who hears nothing more cannot be told; what it has said by now counts.
                if _is_taken_at_last(way):
                    return True
                raise

    # From other processes

    async def run(
        self,
        ports: Sequence[AdoptingPort],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take connections for these ports, until `stop`. Raises OSError: cannot listen."""
        path = self._path_of(self._place.process)
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            await listen_at(listening, path, _BACKLOG_COUNT)
            async with trio.open_nursery() as nursery:
                task_status.started()
                with self._taking:
                    while True:
                        connected = await next_connection(listening, PAUSE_S)
                        nursery.start_soon(self._take, connected, ports)
                listening.close()

    async def _take(self, stream: trio.socket.SocketType, ports: Sequence[AdoptingPort]) -> None:
        with stream:
            if not is_same_user(stream):
                _log.error("another user has brought a connection, and was cut off")
                return
            with trio.move_on_after(_TAKE_LIMIT_S):
                try:
                    await _take_one(stream, ports)
                except OSError:
                    return  # who brought it has gone
                except Exception:
                    _log.exception("a connection that was brought failed")

    def _path_of(self, process: int) -> Path:
        return Path(self._place.links_directory) / f"streams-{process}"


async def _take_one(stream: trio.socket.SocketType, ports: Sequence[AdoptingPort]) -> None:
    """Take a connection, and say so before anything is done with it. Raises OSError."""
    space_bytes = socket.CMSG_SPACE(_DESCRIPTOR_BYTES)
    data, ancillary, _, _ = await stream.recvmsg(_READ_BYTES, space_bytes)
    connected = _connection_in(ancillary)
    if connected is None:
        _log.error("a connection that was brought could not be taken")
        return
    try:
        content = bytearray(data)
        while len(content) < _HEAD.size:
            content += await _more(stream)
        received_bytes, port_number, peer_bytes = _HEAD.unpack_from(content)
        start = _HEAD.size + peer_bytes
        while len(content) < start + received_bytes:
            content += await _more(stream)
        await stream.send(_TAKEN)
    except BaseException:
        connected.close()
        raise
    peer = content[_HEAD.size : start].decode() or None
    ports[port_number].adopt(connected, peer, bytes(content[start:]))


async def _more(stream: trio.socket.SocketType) -> bytes:
    data = await stream.recv(_READ_BYTES)
    if not data:
        raise ConnectionResetError("it ended")
    return data


def _connection_in(ancillary: Sequence[tuple[int, int, bytes]]) -> socket.socket | None:
    """Return the connection whose descriptor came, if it could be taken."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors = array("i", data[: len(data) - len(data) % _DESCRIPTOR_BYTES])
            return socket.socket(fileno=descriptors[0]) if descriptors else None
    return None


def _is_taken_at_last(way: socket.socket) -> bool:
    """End a way on which a connection was offered; return whether it was taken."""
    try:
        way.shutdown(socket.SHUT_RDWR)
        return way.recv(1, socket.MSG_DONTWAIT) == _TAKEN
    except OSError:
        return False
