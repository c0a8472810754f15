"""A connection that one process has accepted and another is to serve: what goes along with it."""

import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PassedConnection:
    """A client's or worker's connection on its way to another process.

    `port_number` says which port accepted it, `received` is what was read of its next request, and
    `peer` is the client's address. Who passes it on closes `socket`, taken or not.
    """

    port_number: int
    socket: socket.socket
    received: bytes
    peer: str | None
