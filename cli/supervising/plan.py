"""What a supervisor is to run, and how that has ended."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """What is to run. `api` and `poll` have the sockets of each process.

    `command` starts a process. `drain_s` is how long one may take to finish what clients have in
    flight. `run_directory` is for the sockets of processes; `served_at` is for people. `cluster` is
    the name of the cluster whose groups these processes have, if they have those of one. `mesh` are
    the sockets for other nodes, which share the groups, at `mesh_address`. `owns_ports` says that
    no service manager has `api` and `poll`, too.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    data: str
    lock: int
    run_directory: str
    api: Sequence[Sequence[socket.socket]]
    poll: Sequence[Sequence[socket.socket]]
    api_address: tuple[str, int]
    poll_address: tuple[str, int] | None
    drain_s: float
    served_at: str
    cluster: str | None = None
    mesh: Sequence[socket.socket] = ()
    mesh_address: tuple[str, int] | None = None
    owns_ports: bool = True

    @property
    def is_shared(self) -> bool:
        """Return whether other nodes own some of the groups."""
        return self.mesh_address is not None

    @property
    def processes_count(self) -> int:
        """The number of processes."""
        return len(self.api)


@dataclass(frozen=True, slots=True)
class ServerEnd:
    """How the server has ended. `problem` is one line for an operator, if there was one."""

    status: int
    problem: str | None
