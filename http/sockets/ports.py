"""Listening sockets: several for one port, one for each process, and what to say if that fails.

The kernel gives each new connection to one of the sockets (SO_REUSEPORT), evenly. The first
listens before it allows that, so a port that another program listens on is refused, also one of
ours: two servers that shared a port would each get a part of the other's clients.
"""

import errno
import socket
from collections.abc import Sequence
from typing import Final

from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings

BACKLOG_COUNT: Final = 1024
"""How many connections may wait in a socket's queue."""


Sockets = list[list[socket.socket]]
"""The listening sockets of each process for one port."""


class ListenError(Exception):
    """An address cannot be listened on. `str()` is one line for the operator."""


def port_problem(error: OSError, address: ListenAddress, name: str, flag: str) -> str:
    """Say why a port cannot be had. `flag` sets the address of what is called `name`."""
    place = f"{address.host} port {address.port}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"Cannot serve the {name}: {place} is in use by another process. "
            f"Stop that one or choose another port with {flag}."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"Cannot serve the {name}: this user may not listen on {place}."
    return f"Cannot serve the {name} on {place}: {error.strerror or error}."


def open_shared(address: ListenAddress, count: int, name: str, flag: str) -> Sockets:
    """Return the sockets of each of `count` processes: one for each address that the host has.

    Raises ListenError; then none is open.
    """
    opened: Sockets = [[] for _ in range(count)]
    try:
        port = address.port
        found = socket.getaddrinfo(
            address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        refused: OSError | None = None
        for family, _, _, _, place in dict.fromkeys(found):
            try:
                _open_one(opened, family, (*place[:1], port, *place[2:]))
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                refused = error  # of a kind that this machine does not have; others may do
                continue
            if address.port == 0:
                break  # a name with several addresses would get several ports
        if not opened[0]:
            raise refused or OSError(errno.EADDRNOTAVAIL, "it has no address")
    except OSError as error:
        close_all(opened)
        raise ListenError(port_problem(error, address, name, flag)) from error
    return opened


def _open_one(opened: Sockets, family: int, place: tuple[object, ...]) -> None:
    """Open one socket for each process at an address. Raises OSError."""
    bound: tuple[object, ...] | None = None
    for sockets in opened:
        one = socket.socket(family, socket.SOCK_STREAM)
        sockets.append(one)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if bound is None:
            one.bind(place)
            one.listen(BACKLOG_COUNT)  # from here on, no other program can have it
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound = one.getsockname()
        else:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(bound)
            one.listen(BACKLOG_COUNT)


def address_of(sockets: Sequence[socket.socket]) -> ListenAddress | None:
    """Return the address that stands for all of them: the one that lets in most."""
    addresses = [ListenAddress(*one.getsockname()[:2]) for one in sockets]
    return min(addresses, key=lambda address: address.is_loopback, default=None)


def close_all(opened: Sockets) -> None:
    """Close the sockets of all processes."""
    for sockets in opened:
        for one in sockets:
            one.close()


def refuse_exposed(settings: Settings) -> None:
    """Raise ListenError if other machines could connect without credentials."""
    name = settings.exposed
    if name is None:
        return
    address, command = getattr(settings, name), f"`troth account add NAME --data {settings.data}`"
    ways = (
        f"Create an account first ({command}), name users with basic_auth, choose an address of "
        "this machine only, or set allow_anonymous to admit all clients."
    )
    if settings.cluster is not None:  # the command needs a server there
        ways = (
            f"Name users with basic_auth; or serve with an address of this machine only (such as "
            f"--listen 127.0.0.1:{settings.listen.port}) until there is an account ({command}); "
            "or set allow_anonymous to admit all clients."
        )
    raise ListenError(
        f"Cannot serve: {name} is {address}, which other machines can reach, and no credentials "
        f"would be required. {ways}"
    )
