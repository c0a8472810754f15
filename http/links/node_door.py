"""The door of a node: where processes of other nodes connect to those of this one.

A node has one address for links (`--mesh-listen`), and a process for each group that it serves. All
of them accept there. Who connects says first which group it wants (`encode_call`); if that is
another one's, the connection is passed to its process, as it is, by a Unix socket that only this
user can reach. Nothing is known of who connects by then, so all of it has limits, and passing on
proves nothing: the process that gets the connection has the handshake before it.
"""

import socket
from array import array
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, final

import structlog
import trio

from troth.persistence.shortage import SHORTAGES
from troth.shards.guard.guarded_end import HANDSHAKE_LIMIT_S
from troth.shards.guard.handshake import CALL_BYTES, NotTrusted, decode_call

from .strangers import Strangers
from .unix_sockets import is_same_user, listen_at, next_connection

_PAUSE_S: Final = 0.1
_BACKLOG_COUNT: Final = 128
_DESCRIPTOR_BYTES: Final = array("i").itemsize
_HERE: Final = b"\x01"

_log = structlog.get_logger("troth.http.links")

Welcome = Callable[[socket.socket, Callable[[], None]], Awaitable[None]]
"""Serves a connection until it ends. What it is given with it is called when it is trusted."""


@final
class NodeDoor:
    """The door of the process that serves `group`, of those whose sockets are in `directory`.

    `listening` listen at the node's address; other processes of the node have them, too.
    """

    def __init__(
        self,
        listening: Sequence[socket.socket],
        group: int,
        directory: Path,
        strangers: Strangers,
        welcome: Welcome,
    ) -> None:
        self._listening = listening
        self._group = group
        self._directory = directory
        self._strangers = strangers
        self._welcome = welcome

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take in who connects, until canceled. Raises OSError: cannot listen, or no longer."""
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as inside:
            await listen_at(inside, self._path_of(self._group), _BACKLOG_COUNT)
            async with trio.open_nursery() as nursery:
                for one in self._listening:
                    one.setblocking(False)
                    outside = trio.SocketListener(trio.socket.from_stdlib_socket(one))
                    nursery.start_soon(self._accept, nursery, outside)
                nursery.start_soon(self._accept_passed_on, nursery, inside)
                task_status.started()

    def _path_of(self, group: int) -> Path:
        return self._directory / f"node-{group}"

    async def _accept(self, nursery: trio.Nursery, outside: trio.SocketListener) -> None:
        while True:
            try:
                stream = await outside.accept()
            except OSError as error:
                if error.errno not in SHORTAGES:
                    raise
                await trio.sleep(_PAUSE_S)  # it waits in the queue
            else:
                nursery.start_soon(self._receive, stream.socket, True)

    async def _accept_passed_on(
        self, nursery: trio.Nursery, inside: trio.socket.SocketType
    ) -> None:
        while True:
            way = await next_connection(inside, _PAUSE_S)
            connected = await self._take(way)
            if connected is not None:
                nursery.start_soon(self._receive, connected, False)

    async def _receive(self, connected: trio.socket.SocketType, has_to_call: bool) -> None:
        """Hear whom a connection is for; serve it until it ends, or pass it on."""
        with trio.CancelScope() as scope:
            number = self._strangers.enter(scope.cancel)
            try:
                with connected:
                    if has_to_call and not await self._is_for_this(connected):
                        return
                    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    plain = socket.socket(fileno=connected.detach())
                with plain:
                    await self._welcome(plain, lambda: self._strangers.leave(number))
            except NotTrusted as error:
                self._strangers.refused(str(error))
            except OSError:
                return  # it has gone, or the process that it wants is not here
            finally:
                self._strangers.leave(number)

    async def _is_for_this(self, connected: trio.socket.SocketType) -> bool:
        """Return whether a connection is for this group; if not, it is passed on, or ends.

        Raises NotTrusted or OSError.
        """
        with trio.move_on_after(HANDSHAKE_LIMIT_S):
            called = b""
            while len(called) < CALL_BYTES:
                data = await connected.recv(CALL_BYTES - len(called))
                if not data:
                    return False
                called += data
            group = decode_call(called)
            if group == self._group:
                return True
            await self._pass_on(group, connected)
            return False
        raise NotTrusted("it does not say which group it wants")

    async def _pass_on(self, group: int, connected: trio.socket.SocketType) -> None:
        """Pass a connection to the process of its group. Raises OSError: that is not here."""
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as way:
            await way.connect(str(self._path_of(group)))
            if not is_same_user(way):
                _log.error("another user listens instead of a process", group=group)
                return
            descriptor = array("i", [connected.fileno()])
            await way.sendmsg([_HERE], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)])

    async def _take(self, way: trio.socket.SocketType) -> trio.socket.SocketType | None:
        """Take a connection that another process of this node passes on."""
        with way, trio.move_on_after(HANDSHAKE_LIMIT_S):
            if not is_same_user(way):
                _log.error("another user has passed on a connection, and was cut off")
                return None
            try:
                _, ancillary, _, _ = await way.recvmsg(1, socket.CMSG_SPACE(_DESCRIPTOR_BYTES))
            except OSError:
                return None  # who passes it on has gone
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors = array("i", data[: len(data) - len(data) % _DESCRIPTOR_BYTES])
                    if descriptors:
                        return trio.socket.from_stdlib_socket(socket.socket(fileno=descriptors[0]))
        return None
