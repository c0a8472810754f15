"""The control socket of a running server: what commands on its machine ask the supervisor.

It is a Unix socket in the data directory, which only the server's user can reach. A command sends
one JSON object a line, and gets one or more until the connection ends.
"""

import os
import selectors
import socket
import struct
from collections.abc import Callable
from typing import Final, final

from troth.http.supervision.seat import Lines, Message, encode

SOCKET_NAME: Final = "control"
"""The socket's name in the directory for running processes."""

SOCKET_PATH_LIMIT_BYTES: Final = 107
"""What the system allows for the path of a Unix socket."""

CONNECTIONS_LIMIT_COUNT: Final = 16

_RECEIVED_BYTES: Final = 4096
_CREDENTIALS: Final = struct.Struct("3i")  # process, user, group


@final
class ControlRequest:
    """One connection. Nothing here blocks; who does not read its answers loses them."""

    def __init__(
        self, connection: socket.socket, forget: Callable[["ControlRequest"], None]
    ) -> None:
        self.connection = connection
        self.lines = Lines()
        self.is_open = True
        self._forget = forget

    def answer(self, message: Message, *, is_last: bool = False) -> None:
        """Send an answer, and end the connection if it is the last."""
        if not self.is_open:
            return
        try:
            self.connection.send(encode(message), socket.MSG_NOSIGNAL)
        except OSError:
            is_last = True  # it has gone; what it asked for is done all the same
        if is_last:
            self.close()

    def close(self) -> None:
        """End the connection; a second call does nothing."""
        if self.is_open:
            self.is_open = False
            self._forget(self)
            self.connection.close()


@final
class ControlSocket:
    """Listens in a directory, and hands what is asked to `asked`, from a selector on."""

    def __init__(
        self,
        directory: str,
        selector: selectors.BaseSelector,
        asked: Callable[[ControlRequest, Message], None],
    ) -> None:
        """Listen. Raises OSError."""
        self._selector = selector
        self._asked = asked
        self._path = f"{directory}/{SOCKET_NAME}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self._path)
        self._listener.listen()
        self._listener.setblocking(False)
        self._open: list[ControlRequest] = []
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it has gone already, or descriptors are short: it may try again
        if not _is_ours(connection) or len(self._open) >= CONNECTIONS_LIMIT_COUNT:
            connection.close()
            return
        connection.setblocking(False)
        request = ControlRequest(connection, self._forget)
        self._open.append(request)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(request))

    def _read(self, request: ControlRequest) -> None:
        try:
            received = request.connection.recv(_RECEIVED_BYTES)
            found = request.lines.feed(received)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            received, found = b"", []  # it has gone, or it is no command of ours
        if not received:
            request.close()
            return
        for message in found:
            self._asked(request, message)

    def _forget(self, request: ControlRequest) -> None:
        self._open.remove(request)
        self._selector.unregister(request.connection)

    def close(self) -> None:
        """Stop listening, and end all connections."""
        for request in [*self._open]:
            request.close()
        self._selector.unregister(self._listener)
        self._listener.close()
        os.unlink(self._path)


def _is_ours(connection: socket.socket) -> bool:
    """Return whether the other end is of this user, or of root."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the directory's mode has to do
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(credentials)[1] in {0, os.geteuid()}
