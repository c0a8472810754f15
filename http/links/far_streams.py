"""Workers' streams whose home is on another node: carried there byte by byte, and back.

Between processes of one machine a worker's connection is passed to the home of its poll group as it
is (`http/sockets/stream_homes.py`). A descriptor cannot cross to another machine. So the process
that accepted the connection keeps it, and the home gets one end of a pair of sockets; what either
side says is carried over a connection of the nodes, which is proved and sealed as links are.

- Until the home has said that it has the stream, nothing was written to the worker, and it can be
  offered again.
- A worker that reads slowly is noticed by the home: what it has not read is not asked for. A home
  that hears more of a worker than fits ends the stream, since workers have nothing to say there.
- Each side says something every 500 ms, and ends the stream when nothing came for 2 s. So a worker
  whose home was cut off connects again.
"""

import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from enum import IntEnum
from typing import Final, final

import trio

from troth.core.limits import LINK_PING_MS, LINK_SILENCE_MS
from troth.shards.mesh.frames import LinkDamaged

OPENING_LIMIT_BYTES: Final = 256 * 1024
"""Of what a home is told of a stream: its worker's address, and what was read of its request."""

UNREAD_LIMIT_BYTES: Final = 64 * 1024
"""Of what a worker says, and its home has not read."""

WINDOW_BYTES: Final = 256 * 1024
"""Of what a client whose connection is paced says, and the home has not said that it has read."""

_READ_BYTES: Final = 64 * 1024
_NOTED_BYTES: Final = WINDOW_BYTES // 4
"""After so much a home says that it has read it."""
_COUNT: Final = struct.Struct(">I")
_HEAD: Final = struct.Struct(">BI")
_OPENING: Final = struct.Struct(">HH")  # number of the port, bytes of the worker's address


class _CarriedKind(IntEnum):
    OPEN = 1
    TAKEN = 2
    DATA = 3
    PING = 4
    OPEN_PACED = 5
    READ = 6


def _encode(kind: _CarriedKind, body: bytes = b"") -> bytes:
    return _HEAD.pack(kind, len(body)) + body


def encode_opening(
    port_number: int, peer: str | None, received: bytes, *, is_paced: bool = False
) -> bytes:
    """Return what a home is told of a stream before all else; `is_paced` as a client's is."""
    name = (peer or "").encode()
    kind = _CarriedKind.OPEN_PACED if is_paced else _CarriedKind.OPEN
    return _encode(kind, _OPENING.pack(port_number, len(name)) + name + received)


def encode_data(data: bytes) -> bytes:
    """Return how bytes of a stream are carried."""
    return _encode(_CarriedKind.DATA, data)


PING: Final = _encode(_CarriedKind.PING)
TAKEN: Final = _encode(_CarriedKind.TAKEN)

Adopt = Callable[[int, socket.socket, str | None, bytes], None]
"""Serves a connection at the port with a number: for whom, and what was read of it. Raises
LookupError if there is no such port."""

Start = Callable[[Callable[[], Awaitable[None]]], None]
"""Starts a task."""


@final
class _Reader:
    """Finds what the other side says in what comes, piece by piece."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, data: bytes) -> Iterator[tuple[_CarriedKind, bytes]]:
        """Yield what is whole now. Raises LinkDamaged."""
        content = self._rest + data
        start = 0
        while len(content) - start >= _HEAD.size:
            kind, length = _HEAD.unpack_from(content, start)
            if kind not in _KNOWN or length > OPENING_LIMIT_BYTES:
                raise LinkDamaged(f"{length} bytes of kind {kind} have no place in a stream")
            end = start + _HEAD.size + length
            if len(content) < end:
                break
            yield _CarriedKind(kind), content[start + _HEAD.size : end]
            start = end
        self._rest = content[start:]


_KNOWN: Final = frozenset(_CarriedKind)
_OPENINGS: Final = frozenset({_CarriedKind.OPEN, _CarriedKind.OPEN_PACED})


@final
class ArrivingStream:
    """The home's end of a stream from another node. `now_s` is a monotonic clock.

    `wake` is called when there is something to take.
    """

    def __init__(
        self, adopt: Adopt, start: Start, *, now_s: Callable[[], float], wake: Callable[[], None]
    ) -> None:
        self._adopt = adopt
        self._start = start
        self._now_s = now_s
        self._wake = wake
        self._reader = _Reader()
        self._ours: trio.socket.SocketType | None = None
        self._unread = b""
        self._unread_limit_bytes = UNREAD_LIMIT_BYTES
        self._is_paced = False
        self._read_bytes = 0  # that nothing was said of yet
        self._outgoing = b""
        self._has_taken = trio.Event()
        self._has_heard = trio.Event()
        self._scope = trio.CancelScope()
        self._has_ended = False
        self._heard_s = self._said_s = now_s()

    def received(self, data: bytes) -> bool:
        """Take what has come; return that there is nothing for a turn. Raises LinkDamaged."""
        self._heard_s = self._now_s()
        for kind, body in self._reader.read(data):
            if kind in _OPENINGS and self._ours is None:
                self._is_paced = kind is _CarriedKind.OPEN_PACED
                if self._is_paced:
                    self._unread_limit_bytes = WINDOW_BYTES
                self._open(body)
            elif kind is _CarriedKind.DATA and self._ours is not None:
                self._unread += body
                if len(self._unread) > self._unread_limit_bytes:
                    raise LinkDamaged("a worker says more than its home reads")
                self._has_heard.set()
            elif kind is not _CarriedKind.PING:
                raise LinkDamaged(f"{kind.name} has no place in a stream here")
        return False

    def _open(self, body: bytes) -> None:
        try:
            port_number, peer_bytes = _OPENING.unpack_from(body)
            start = _OPENING.size + peer_bytes
            peer = body[_OPENING.size : start].decode() or None
        except (struct.error, UnicodeDecodeError) as error:
            raise LinkDamaged("the beginning of a stream cannot be read") from error
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise LinkDamaged("there are too few descriptors for a stream") from error
        ours.setblocking(False)
        try:
            self._adopt(port_number, theirs, peer, body[start:])
        except LookupError as error:
            ours.close()
            theirs.close()
            raise LinkDamaged(f"there is no port {port_number}") from error
        self._ours = trio.socket.from_stdlib_socket(ours)
        self._say(TAKEN)
        self._start(self._relay)

    async def _relay(self) -> None:
        """Carry what the home says and hears, until either side ends it."""
        assert self._ours is not None, "it is open"
        with self._ours, self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read()
                nursery.cancel_scope.cancel()
        self._has_ended = True
        self._wake()

    async def _read(self) -> None:
        """Take what the home says, no faster than it leaves."""
        assert self._ours is not None, "it is open"
        while True:
            try:
                data = await self._ours.recv(_READ_BYTES)
            except OSError:
                return
            if not data:
                return
            self._say(encode_data(data))
            while self._outgoing:
                self._has_taken = trio.Event()
                await self._has_taken.wait()

    async def _write(self) -> None:
        """Hand the home what the worker says."""
        assert self._ours is not None, "it is open"
        while True:
            self._has_heard = trio.Event()
            while self._unread:
                try:
                    sent_bytes = await self._ours.send(self._unread)
                except OSError:
                    return  # which `_read` notices
                self._unread = self._unread[sent_bytes:]
                self._note_read(sent_bytes)
            await self._has_heard.wait()

    def _note_read(self, count_bytes: int) -> None:
        """Say how much the home has read, when it is worth it."""
        self._read_bytes += count_bytes
        if self._is_paced and self._read_bytes >= _NOTED_BYTES:
            self._say(_encode(_CarriedKind.READ, _COUNT.pack(self._read_bytes)))
            self._read_bytes = 0

    def _say(self, said: bytes) -> None:
        self._outgoing += said
        self._wake()

    def take(self) -> bytes:
        """Return what is to be sent now."""
        outgoing, self._outgoing = self._outgoing, b""
        if outgoing:
            self._said_s = self._now_s()
            self._has_taken.set()
        return outgoing

    def look(self) -> bool:
        """Look at the time; return whether the connection is still good."""
        now_s = self._now_s()
        if self._has_ended or now_s - self._heard_s > LINK_SILENCE_MS / 1000:
            return False
        if now_s - self._said_s >= LINK_PING_MS / 1000 and not self._outgoing:
            self._outgoing = PING
            self._wake()
        return True

    def closed(self) -> None:
        """End the stream."""
        self._scope.cancel()

    def say_last(self) -> None:
        """Say nothing: the home ends its streams when it stops."""


@final
class LeavingStream:
    """The end of a stream at the process that has the worker's connection. A `LinkEnd`.

    `heard` has what is to be written to the worker, for its owner to take.
    """

    def __init__(
        self, opening: bytes, now_s: Callable[[], float], *, is_paced: bool = False
    ) -> None:
        self.is_taken = False
        self.room_bytes = WINDOW_BYTES
        """How much may be said now, if it is paced."""
        self._is_paced = is_paced
        self.is_writing = False
        """Whether the worker is waited for: then the home is not read, whatever it says."""
        self.heard = b""
        self._reader = _Reader()
        self._outgoing = opening
        self._now_s = now_s
        self._heard_s = self._said_s = now_s()

    def received(self, data: bytes) -> bool:
        """Take what has come. Raises LinkDamaged."""
        self._heard_s = self._now_s()
        for kind, body in self._reader.read(data):
            if kind is _CarriedKind.TAKEN and not self.is_taken:
                self.is_taken = True
            elif kind is _CarriedKind.DATA and self.is_taken:
                self.heard += body
            elif kind is _CarriedKind.READ and self._is_paced and len(body) == _COUNT.size:
                self.room_bytes += _COUNT.unpack(body)[0]
            elif kind is not _CarriedKind.PING:
                raise LinkDamaged(f"{kind.name} has no place in a stream there")
        return False

    def say(self, data: bytes) -> None:
        """Carry what the worker says; no more than there is room for, if it is paced."""
        if self._is_paced:
            self.room_bytes -= len(data)
        self._outgoing += encode_data(data)

    def take(self) -> bytes:
        """Return what is to be sent now."""
        outgoing, self._outgoing = self._outgoing, b""
        if outgoing:
            self._said_s = self._now_s()
        return outgoing

    def look(self) -> bool:
        """Look at the time; return whether the connection is still good."""
        now_s = self._now_s()
        if self.is_writing:
            self._heard_s = now_s
        elif now_s - self._heard_s > LINK_SILENCE_MS / 1000:
            return False
        if now_s - self._said_s >= LINK_PING_MS / 1000 and not self._outgoing:
            self._outgoing = PING
        return True

    def closed(self) -> None:
        """Note that the connection has ended."""

    def say_last(self) -> None:
        """Say nothing: it is for the home to end."""
