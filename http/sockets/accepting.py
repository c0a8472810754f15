"""Accepting connections in the lane's passes: some each time, and no task for any.

- A pass accepts at most `ACCEPTS_LIMIT_COUNT` connections; what waits beyond is told again. It
  begins with one, and with more only where more wait: to be told that there are no more costs as
  much as to accept one.
- Where descriptors or memory run short, nothing is accepted for `PAUSE_S`.
- A connection that fails while it is accepted costs itself, and no other.
"""

import errno
import select
import socket
from collections.abc import Callable, Sequence
from typing import Final, Protocol, final

import structlog
import trio

from troth.persistence.shortage import SHORTAGES

from .departures import HandedOver

ACCEPTS_LIMIT_COUNT: Final = 64
_GROWTH: Final = 4
"""If as many as were tried had come, so many times as many are tried in the next pass."""
PAUSE_S: Final = 0.1
UNSENT_LIMIT_BYTES: Final = 16 * 1024
"""What the system buffers beyond what is on its way to a client: more would hide who is slow."""

_GONE: Final = frozenset(
    {
        *(errno.ECONNABORTED, errno.ECONNRESET, errno.EPERM, errno.EPROTO, errno.ETIMEDOUT),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
        *(errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT),
        *(errno.ENONET, errno.ENOSR),
    }
)
"""What `accept` says of one connection, as trio has it; other errors end the server."""

SHUT: Final = errno.EINVAL
"""What `accept` says when the port was shut by another process that has the socket, too: the
supervisor does that when all are to stop, so that clients are refused and try elsewhere."""

_log = structlog.get_logger("troth.http.listener")


class Port(Protocol):
    """What decides about connections: the listener of a port."""

    def admit(self, connected: socket.socket, peer: str | None) -> bool:
        """Return whether a connection is served; if not, its socket has been taken over."""
        ...

    def ended(self, peer: str | None) -> None:
        """Note the end of a connection that was admitted."""
        ...

    def take_over(self, handed_over: HandedOver, peer: str | None) -> None:
        """Serve a connection that has left the lane."""
        ...

    def run_short(self, error: Exception) -> None:
        """Note that a connection could not be accepted for want of descriptors or memory."""
        ...


Serve = Callable[[socket.socket, str | None, Port], None]


@final
class Acceptor:
    """The listening sockets of a port in an epoll set: level-triggered, so what is left is told."""

    def __init__(
        self,
        epoll: select.epoll,
        nursery: trio.Nursery,
        sockets: Sequence[socket.socket],
        port: Port,
        serve: Serve,
    ) -> None:
        """Begin to accept; `serve` takes over each connection that `port` admits."""
        self._epoll = epoll
        self._nursery = nursery
        self._sockets = sockets
        self._port = port
        self._serve = serve
        self._is_listening = False
        self._is_stopped = False
        self._at_once_count = 1
        self._last_pass = 0
        for one in sockets:
            one.setblocking(False)
            # Connections get these from here, which saves two calls for each; they are those that
            # trio gives to its streams.
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_LIMIT_BYTES)
        self._listen()

    def _listen(self) -> None:
        self._is_listening = True
        for one in self._sockets:
            self._epoll.register(one.fileno(), select.EPOLLIN)

    def _pause(self) -> None:
        self._is_listening = False
        for one in self._sockets:
            self._epoll.unregister(one.fileno())

    def stop(self) -> None:
        """Accept no more. The sockets are the caller's to close."""
        self._is_stopped = True
        if self._is_listening:
            self._pause()

    def accept(self, number: int) -> None:
        """Accept what waits in a pass of this number, or some of it, which is told again then.

        Raises OSError for a socket that has failed.
        """
        if number > self._last_pass + 1:
            self._at_once_count = 1  # there was a pass without any
        self._last_pass = number
        wanted_count, found_count = self._at_once_count, 0
        for listening in self._sockets:
            for _ in range(wanted_count):
                try:
                    connected, address = listening.accept()
                except BlockingIOError:
                    break
                except (OSError, MemoryError) as error:
                    if isinstance(error, OSError) and error.errno in _GONE:
                        found_count += 1
                        continue
                    if isinstance(error, OSError) and error.errno == SHUT:
                        self.stop()
                        return
                    if isinstance(error, OSError) and error.errno not in SHORTAGES:
                        raise
                    self._wait(error)
                    return
                found_count += 1
                self._take(connected, address[0] if type(address) is tuple else None)
        if found_count >= wanted_count:
            found_count = min(wanted_count * _GROWTH, ACCEPTS_LIMIT_COUNT)
        self._at_once_count = max(found_count, 1)

    def _take(self, connected: socket.socket, peer: str | None) -> None:
        if not self._port.admit(connected, peer):
            return
        try:
            self._serve(connected, peer, self._port)
        except Exception:
            _log.exception("a connection failed", peer=peer)
            connected.close()
            self._port.ended(peer)

    def _wait(self, error: Exception) -> None:
        self._port.run_short(error)
        self._pause()
        self._nursery.start_soon(self._resume)

    async def _resume(self) -> None:
        await trio.sleep(PAUSE_S)
        if not self._is_stopped:
            self._listen()
