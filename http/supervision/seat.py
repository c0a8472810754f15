"""The seat of one server process among several: what it is given, how it talks with its parent.

Several processes serve one data directory, each one group of its shards. Their parent, the
supervisor, holds the directory's lock and the listening sockets; they inherit both. Each has a
socket to it, on which both sides send one JSON object a line. The first is the seat. A process
whose socket ends has lost its supervisor, and stops in good order.

From the supervisor: `go` (open the group and serve; `ended` are the incarnations of those that had
the seat before), `peers` (the processes that are up, with their
incarnations, whether all serve, and whether any does, or will again when a restart goes on),
`unowned` (some times a second, while no
process owns the accounts: at `at_s`, a time of the machine's monotonic clock, the one that did had
ended, and the next had not begun), `lead` (whether group 0 of a cluster is this node's, so that the
other groups may be, too), `drain` (finish what clients have in flight), `stop` (end the group too;
`is_replaced` if the next process is about to take the seat, `is_left` if another node is about to
take the group). From a process: `alive` (several times
a second, by the loop that serves), `loaded` (it waits for `go`),
`leading` (it has come to own group 0 of a cluster, in `epoch`), `follows` (it stands by for the
owner of that epoch, `node`, which may be its own earlier life),
`listening` (others may connect to it), `owning` (it is about to own the accounts), `ready`,
`stands_by` (it follows a group that another node may own), `leaves` (its group is to go to another
node), `drained`, `status` (one line for people), and `fatal`: what ended it concerns all, and says
for an operator why the whole server stops.
"""

import json
import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass
from typing import Any, Final, final

VARIABLE: Final = "TROTH_SEAT"
"""The environment variable that has the descriptor of a process's socket to its supervisor."""

OWNER: Final = 0
"""The process that owns the accounts, and whatever else one process has for all."""

ALIVE_INTERVAL_S: Final = 0.5
"""How often a process says that it is alive."""

LINE_LIMIT_BYTES: Final = 1 << 20
"""No message is longer; more without an end is not from a process of ours."""

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ProcessSeat:
    """What a process is given. `process` is also the number of its group.

    `incarnation` grows with every process that is started, also over supervisors. `lock` is a
    descriptor of the data directory that carries its lock, and `data` the directory's real path.
    `api` and `poll` are descriptors of listening sockets of its own, and the addresses are those
    of the server. `mesh_directory` is for the
    sockets that processes talk to one another through; no other user can enter it. `mesh` listens
    for processes of other nodes, at `mesh_address`, if groups are shared with those; all processes
    of the node have the same one.
    """

    process: int
    processes_count: int
    incarnation: int
    data: str
    lock: int
    api: tuple[int, ...]
    poll: tuple[int, ...]
    api_address: tuple[str, int]
    poll_address: tuple[str, int] | None
    mesh_directory: str
    mesh: tuple[int, ...] = ()
    mesh_address: tuple[str, int] | None = None

    @property
    def sockets(self) -> tuple[int, ...]:
        """Those that the process inherits."""
        return (*self.api, *self.poll, *self.mesh)


class SeatRefused(Exception):
    """The parent of this process is no supervisor of this version. `str()` is one line."""


def encode(message: Message) -> bytes:
    """Return a message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


@final
class Lines:
    """Takes bytes as they come, and gives whole messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> list[Message]:
        """Return the messages that are whole now. Raises ValueError for anything else."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        if len(self._rest) > LINE_LIMIT_BYTES:
            raise ValueError("a line without an end")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("a line that is no object")
        return messages


def encode_seat(seat: ProcessSeat) -> bytes:
    """Return the first line that a process gets."""
    return encode({"tell": "seat", **asdict(seat)})


def take(environment: MutableMapping[str, str] = os.environ) -> tuple[ProcessSeat, socket.socket]:
    """Take this process's seat, and the socket to its supervisor; remove it from the environment.

    No process that this one starts inherits any of it. Blocks until the seat is told. Raises
    SeatRefused.
    """
    text = environment.pop(VARIABLE)
    control: socket.socket | None = None
    try:
        control = socket.socket(fileno=int(text))
        control.set_inheritable(False)
        seat = _read_seat(control)
        for descriptor in (seat.lock, *seat.sockets):
            os.set_inheritable(descriptor, False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        if control is not None:
            control.close()
        raise SeatRefused(
            f"Cannot serve: {VARIABLE} is set, but its value {text!r} is no socket of a supervisor "
            f"({error}). It is not for users: remove it from the environment."
        ) from error
    return seat, control


def _read_seat(control: socket.socket) -> ProcessSeat:
    line = bytearray()
    while not line.endswith(b"\n"):
        received = control.recv(1)  # what follows is for others to read
        if not received or len(line) > LINE_LIMIT_BYTES:
            raise ValueError("it ended")
        line += received
    fields = json.loads(line)
    del fields["tell"]
    listed = {name: tuple(found) for name, found in fields.items() if isinstance(found, list)}
    return ProcessSeat(**{**fields, **listed})
