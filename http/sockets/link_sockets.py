"""The sockets of a mesh's links, in the epoll set of the lane: what comes by them in a pass is
carried out in the same turn, and written in the same batch, as what clients ask in it.

Process k listens on a Unix socket in a directory that only this user may enter; the others connect
to it, again and again while it is away. Who connects must be the same user. Processes on other
nodes of a cluster are reached over TCP (`http/links/node_links.py`), wherever their groups are just
now. What a link or its other end has to say leaves at the end of the pass, in one piece.
`shards/mesh` knows what is said.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, final

import structlog
import trio

from troth.http.links.far_streams import Adopt, ArrivingStream
from troth.http.links.node_links import NodeLinks
from troth.http.links.tls_end import TlsEnd
from troth.http.links.unix_sockets import is_same_user, listen_at, next_connection
from troth.shards.guard.guarded_end import Guard, LinkEnd
from troth.shards.guard.handshake import NotTrusted
from troth.shards.guard.trust import Party, Use
from troth.shards.mesh.answering import Answering, AskedGroup
from troth.shards.mesh.frames import LinkDamaged, PeerSucceeded
from troth.shards.mesh.link import MeshLink
from troth.shards.mesh.mesh import Mesh

_READ_BYTES: Final = 64 * 1024
"""Of one read: to ask for more costs more, also when there is little."""
_READS_A_PASS_COUNT: Final = 32
"""What is left after so many waits for the next pass: a link must not keep clients waiting."""
_LOOK_S: Final = 0.25
_RETRY_FIRST_S: Final = 0.02
_RETRY_LIMIT_S: Final = 0.5
_BACKLOG_COUNT: Final = 128
_HANG_UP: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_log = structlog.get_logger("troth.http.links")


class PassLoop(Protocol):
    """The loop whose passes serve the sockets: a `Lane`."""

    def watch(self, number: int) -> None:
        """Hear of events of a socket from now on, those at hand included."""
        ...  # pragma: no cover

    def tell_again(self, number: int) -> None:
        """Hear in the next pass of what was left to read; of room no longer."""
        ...  # pragma: no cover

    def await_room(self, number: int) -> None:
        """Hear of room in the socket, too: each time that the other end reads something."""
        ...  # pragma: no cover

    def forget(self, number: int) -> None:
        """Hear no more of it."""
        ...  # pragma: no cover

    def submitted(self) -> None:
        """Run a turn in this pass, or the next."""
        ...  # pragma: no cover

    def stir(self) -> None:
        """See to it that there will be a pass."""
        ...  # pragma: no cover

    @property
    def sends_soon(self) -> bool:
        """Return whether a pass is going on that will send what is said in it."""
        ...  # pragma: no cover


@final
class _AskingLink:
    """A link as a guard needs it: the end by which this process asks."""

    def __init__(self, link: MeshLink) -> None:
        self.take = link.take
        self.look = link.look
        self.closed = link.closed
        self._link = link
        link.opened()

    def received(self, data: bytes) -> bool:
        """Take what has come: answers let clients go on."""
        self._link.received(data)
        return True

    def say_last(self) -> None:
        """Say nothing: it is for the other end to say."""


@final
class _OwnerAsked:
    """The owner of a group on another node, whom a link is to; its epoch is one that it proved."""

    def __init__(self, group: int, epoch: int) -> None:
        self.group = group
        self.epoch = epoch


@final
class _LinkSocket:
    """One connection. `receive` takes what comes, and returns whether a turn is needed.

    `say_last` is there if the other end asks; `asked` if this one asks an owner on another node.
    """

    def __init__(
        self,
        connected: socket.socket,
        end: LinkEnd,
        receive: Callable[[bytes], bool],
        loop: PassLoop,
        say_last: Callable[[], None] | None = None,
        asked: _OwnerAsked | None = None,
    ) -> None:
        self.ended = trio.Event()
        self.asked = asked
        self.number = connected.fileno()
        self.is_asking = say_last is None
        self._say_last = say_last
        self._socket = connected
        self._end = end
        self._receive = receive
        self._loop = loop
        self._unsent = memoryview(b"")
        self._awaits_room = False

    def on_event(self, mask: int) -> None:
        """Read what there is, up to a limit, and go on writing."""
        is_hung_up = bool(mask & _HANG_UP)
        for _ in range(_READS_A_PASS_COUNT):
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            try:
                if self._receive(data):
                    self._loop.submitted()
            except LinkDamaged as error:
                self._loop.submitted()  # what came before that
                if isinstance(error, NotTrusted):  # which is noted elsewhere
                    self._say_why()
                elif isinstance(error, PeerSucceeded):
                    _log.info("a link of a process that was replaced ends")
                else:
                    _log.error("a link is damaged", problem=str(error))
                self.close()
                return
            if len(data) < _READ_BYTES and not is_hung_up:
                break  # there was no more; but an end is not announced again
        else:
            self._loop.tell_again(self.number)
            self._awaits_room = False  # to hear of room is asked for again
        if self._unsent:
            self.flush()

    def flush(self) -> None:
        """Send what is to be sent, as far as the socket takes it."""
        if self._unsent:
            self._send()
        if not self._unsent and not self.ended.is_set() and (data := self._end.take()):
            self._unsent = memoryview(data)
            self._send()

    def _say_why(self) -> None:
        """Send what TLS says to who is not trusted, as far as the socket takes it."""
        with contextlib.suppress(OSError):
            self._socket.send(self._end.take())

    def _send(self) -> None:
        """Send what is left."""
        while self._unsent:
            try:
                sent_bytes = self._socket.send(self._unsent)
            except BlockingIOError:
                if not self._awaits_room:
                    self._awaits_room = True
                    self._loop.await_room(self.number)
                return
            except OSError:
                self.close()
                return
            self._unsent = self._unsent[sent_bytes:]
        if self._awaits_room:
            self._awaits_room = False
            self._loop.tell_again(self.number)

    def say_last(self) -> None:
        """Say that nothing further is carried out here."""
        if self._say_last is not None:
            self._say_last()
            self.flush()

    def look(self, *, is_time: bool = True) -> None:
        """Look at the time, or whether another process has the other end's group by now."""
        if not self._end.look():
            if is_time and not _is_stranger(self._end):
                _log.warning("a link says nothing and is closed")
            self.close()

    def close(self) -> None:
        """End the connection."""
        if self.ended.is_set():
            return
        self.ended.set()
        self._loop.forget(self.number)
        self._socket.close()
        self._unsent = memoryview(b"")
        self._end.closed()
        self._loop.submitted()  # what waits no longer


@final
class LinkSockets:
    """All connections of a process to and from the others of its server, or of its cluster.

    `nodes` is there for a cluster.
    """

    def __init__(
        self, mesh: Mesh, group: AskedGroup, loop: PassLoop, nodes: NodeLinks | None = None
    ) -> None:
        self.adopt_stream: Adopt | None = None
        """Takes over a worker's stream that comes from another node."""
        self._nodes = nodes
        self._nursery: trio.Nursery | None = None
        self._mesh = mesh
        self._group = group
        self._loop = loop
        self._sockets: dict[int, _LinkSocket] = {}
        self._connecting: dict[int, trio.CancelScope] = {}
        self._news = trio.Event()
        self._has_ended = False

    # What the loop calls in a pass

    def on_event(self, number: int, mask: int) -> bool:
        """Handle an event of a socket; return whether it is one of these."""
        link = self._sockets.get(number)
        if link is None:
            return False
        link.on_event(mask)
        return True

    def flush(self) -> None:
        """Send what is to be sent: at the end of a pass."""
        for link in list(self._sockets.values()):
            link.flush()

    def let_go(self) -> None:
        """Send what the log has just made durable, unless a pass will do so soon."""
        if not self._loop.sends_soon:
            self.flush()

    def say_last(self) -> None:
        """Tell all others that this group has stopped, and carries out nothing further."""
        for link in list(self._sockets.values()):
            link.say_last()

    def hurry(self) -> None:
        """Send what this process tells others, without waiting for the end of the pass."""
        for link in list(self._sockets.values()):
            if link.is_asking:
                link.flush()

    def try_now(self) -> None:
        """Connect to those that are away without waiting longer: one of them may be back."""
        self._news.set()
        self._news = trio.Event()

    # Connections

    def path_of(self, process: int) -> Path:
        """Return where a process listens."""
        return Path(self._mesh.place.links_directory) / f"mesh-{process}"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, and keep links to all others, until canceled. Raises OSError: cannot listen."""
        self._has_ended = False
        path = self.path_of(self._mesh.place.process)
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            await listen_at(listening, path, _BACKLOG_COUNT)
            try:
                async with trio.open_nursery() as self._nursery:
                    nursery = self._nursery
                    nursery.start_soon(self._accept, nursery, listening)
                    nursery.start_soon(self._look)
                    if self._nodes is not None:
                        self._mesh.owners.when_changed.append(self._group_moved)
                        await nursery.start(self._nodes.door(self._welcome).run)
                    for peer in self._mesh.links:
                        nursery.start_soon(self._keep, peer)
                    task_status.started()
            finally:
                self.end()

    def end(self) -> None:
        """End all links, make no further ones, and refuse what waits for others."""
        self._has_ended = True
        for link in list(self._sockets.values()):
            link.close()
        for one in self._mesh.links.values():
            one.refuse_all()

    async def _accept(self, nursery: trio.Nursery, listening: trio.socket.SocketType) -> None:
        while True:
            connected = await next_connection(listening, _RETRY_LIMIT_S)
            stream = socket.socket(fileno=connected.detach())
            if not is_same_user(stream):
                _log.error("another user has connected to a link, and was cut off")
                stream.close()
                continue
            nursery.start_soon(self._serve_answering, stream, self._mesh.answering(self._group))

    def _group_moved(self, group: int) -> None:
        """End links with a process that serves its group no more, and look for the next one.

        Also those that are not up, since that process hangs.
        """
        owner, epoch = self._mesh.owners.of(group), self._mesh.owners.epoch_of(group)
        node = None if owner is None else owner.node
        _log.info("a group has another owner", group=group, owner=node, epoch=epoch)
        if group in self._connecting:
            self._connecting[group].cancel()
        for link in list(self._sockets.values()):
            if link.asked is not None and link.asked.group == group and link.asked.epoch < epoch:
                link.close()
            else:
                link.look(is_time=False)
        self.try_now()

    async def _welcome(self, stream: socket.socket, is_trusted: Callable[[], None]) -> None:
        """Serve a connection from another node, whatever it is."""
        nodes = self._nodes
        assert nodes is not None, "only then there is a door"

        def admit(party: Party, use: Use) -> Answering | ArrivingStream:
            is_trusted()
            self._mesh.owners.met(party.group, party.node, party.incarnation)
            if use is Use.STREAM:
                return self._arriving()
            return self._mesh.answering(self._group, party.group)

        await self._serve_answering(stream, nodes.answering_end(admit))

    def _arriving(self) -> ArrivingStream:
        """Make the end of a worker's stream from another node. Raises LinkDamaged."""
        nursery, adopt = self._nursery, self.adopt_stream
        if nursery is None or adopt is None:
            raise LinkDamaged("this process has no ports yet")
        return ArrivingStream(
            adopt,
            nursery.start_soon,
            now_s=time.monotonic,
            wake=self._loop.stir,
        )

    async def _serve_answering(self, stream: socket.socket, end: LinkEnd) -> None:
        await self._serve(stream, end, say_last=end.say_last)

    async def _keep(self, peer: int) -> None:
        """Keep a link to a process."""
        link = self._mesh.links[peer]
        wait_s = _RETRY_FIRST_S
        while True:
            news = self._news
            opened = await self._opened(peer, link)
            if opened is not None:
                was_up = await self._serve(*opened[:2], lambda: link.is_up, asked=opened[2])
                if was_up:
                    wait_s = _RETRY_FIRST_S
            with trio.move_on_after(wait_s):
                await news.wait()
            wait_s = _RETRY_FIRST_S if news.is_set() else min(wait_s * 2, _RETRY_LIMIT_S)

    async def _opened(
        self, peer: int, link: MeshLink
    ) -> tuple[socket.socket, LinkEnd, _OwnerAsked | None] | None:
        """Return a connection to a process, what serves it, and which owner of a group it is.

        None if there is none now.
        """
        if self._nodes is not None:
            owner = self._mesh.owners.of(peer)
            if owner is None:
                return None
            if not self._nodes.is_here(owner):
                stream: socket.socket | None = None
                with trio.CancelScope() as self._connecting[peer]:
                    stream = await self._nodes.connect(owner, peer)
                if stream is None:
                    return None
                asked = _OwnerAsked(peer, owner.epoch)

                def admit(party: Party, _: Use) -> LinkEnd:
                    # Perhaps it has just been started again: then it is where it was.
                    asked.epoch = max(asked.epoch, party.incarnation)
                    self._mesh.owners.met(peer, party.node, party.incarnation)
                    return _AskingLink(link)

                return stream, self._nodes.asking_end(owner, peer, admit), asked
        near = _connected_to(self.path_of(peer))
        if near is None:
            return None
        if not is_same_user(near):
            _log.error("another user listens instead of a process", peer_process=peer)
            near.close()
            return None
        return near, _AskingLink(link), None

    async def _serve(
        self,
        stream: socket.socket,
        end: LinkEnd,
        is_up: Callable[[], bool] = lambda: True,
        say_last: Callable[[], None] | None = None,
        asked: _OwnerAsked | None = None,
    ) -> bool:
        """Serve a connection until it ends; return whether it has been up."""
        if self._has_ended:  # so has the loop, or will
            stream.close()
            await trio.lowlevel.checkpoint()
            return False
        stream.setblocking(False)
        was_up = False

        def note(data: bytes) -> bool:
            nonlocal was_up
            try:
                has_work = end.received(data)
            except NotTrusted as error:
                assert self._nodes is not None, "only there it has to be proved"
                self._nodes.strangers.refused(str(error))
                raise
            was_up = was_up or is_up()
            return has_work

        link = _LinkSocket(stream, end, note, self._loop, say_last, asked)
        self._sockets[link.number] = link
        self._loop.watch(link.number)
        self._loop.stir()
        try:
            await link.ended.wait()
        finally:
            link.close()
            if self._sockets.get(link.number) is link:
                del self._sockets[link.number]
        return was_up

    async def _look(self) -> None:
        """Look at the time now and then."""
        while True:
            await trio.sleep(_LOOK_S)
            self._mesh.look()
            for link in list(self._sockets.values()):
                link.look()
            for one in self._mesh.links.values():
                one.look()
            self._loop.submitted()


def _is_stranger(end: LinkEnd) -> bool:
    """Return whether the other end had to prove that it belongs here, and has not."""
    return isinstance(end, Guard | TlsEnd) and not end.is_known


def _connected_to(path: Path) -> socket.socket | None:
    """Return a connection to a process; None if it is away, or one of both is short of something.

    It may have too many to accept just now, or this one too few descriptors.
    """
    stream: socket.socket | None = None
    try:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.setblocking(False)
        stream.connect(str(path))
    except OSError:
        if stream is not None:
            stream.close()
        return None
    return stream
