"""Unix sockets by which processes of one server reach each other: who is there, and who comes.

They stand in a directory that only this user may enter. A shortage of descriptors or memory ends
nothing: who connects waits in the queue until it is over.
"""

import os
import socket
import struct
from pathlib import Path
from typing import Final

import trio

from troth.persistence.shortage import SHORTAGES

_PEER: Final = struct.Struct("3i")  # process, user, group; see unix(7), SO_PEERCRED


async def listen_at(listening: trio.socket.SocketType, path: Path, backlog_count: int) -> None:
    """Listen at a path, where a process that has ended may have listened. Raises OSError."""
    path.unlink(missing_ok=True)  # noqa: ASYNC240  once, before anything is served
    await listening.bind(str(path))
    listening.listen(backlog_count)


async def next_connection(
    listening: trio.socket.SocketType, pause_s: float
) -> trio.socket.SocketType:
    """Return the next connection; in a shortage, look again after a pause. Raises OSError."""
    while True:
        try:
            connected, _ = await listening.accept()
        except OSError as error:
            if error.errno not in SHORTAGES:
                raise
            await trio.sleep(pause_s)  # it waits in the queue
        else:
            return connected


def is_same_user(connected: socket.socket | trio.socket.SocketType) -> bool:
    """Return whether the other end of a Unix socket is a process of this user."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, user, _ = _PEER.unpack(credentials)
    return bool(user == os.geteuid())
