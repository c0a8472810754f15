"""The seat of one server process among several: what it is given, how it talks with its parent.

Several processes serve one data directory, each one group of its shards. Their parent, the
supervisor, holds the directory's lock and the listening sockets. Each process has a socket to it,
on which both sides send one JSON object a line. A process loads its modules first, and owns nothing
yet: so it may be a spare one, which waits for a seat. The seat is told with the descriptors of the
lock and the sockets. A process whose socket ends has lost its supervisor, and stops in good order.

From the supervisor: `seat` (open the group and serve; `ended` are the incarnations of those that
had the seat before; if it `is_early`, the last of them is still there: read, change nothing, and
wait for `seated`), `seated` (that one has ended, too), `peers` (the processes that are up, with
their incarnations, whether all serve, and whether any does, or will again when a restart goes on),
`unowned` (some times a second, while no process owns the accounts: at `at_s`, a time of the
machine's monotonic clock, the one that did had ended, and the next had not begun), `lead` (whether
group 0 of a cluster is this node's, so that the other groups may be, too), `checkpoint` (make one,
so that the next process has little to read, and then no more), `stay` (it will not be replaced:
make checkpoints again), `drain` (finish what clients have in flight), `stop` (end the group too;
`is_replaced` if the next process is about to take the seat, `is_left` if another node is about to
take the group). From a process: `loaded` (it waits for its seat), `prepared` (all is done that can
be done before that; if it `may_follow`, it can have its seat early), `following` (it has read all
there is, early), `alive` (several times a second, while it waits, and then by the loop that
serves), `leading` (it has come to own group 0 of a cluster, in `epoch`), `follows` (it stands by
for the owner of that epoch, `node`, which may be its own earlier life), `listening` (others may
connect to it), `owning` (it is about to own the accounts), `ready`, `stands_by` (it follows a group
that another node may own), `leaves` (its group is to go to another node), `checkpointed` (if it
`is_covered`, by a checkpoint of its own; it takes `memory_bytes`), `drained`, `gone` (it answers
nothing and changes nothing any more), `status` (one line for people), and `fatal`: what ended it
concerns all, and says for an operator why the whole server stops.
"""

import json
import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, final

VARIABLE: Final = "TROTH_SEAT"
"""The environment variable that has the descriptor of a process's socket to its supervisor."""

OWNER: Final = 0
"""The process that owns the accounts, and whatever else one process has for all."""

ALIVE_INTERVAL_S: Final = 0.5
"""How often a process says that it is alive."""

LINE_LIMIT_BYTES: Final = 1 << 20
"""No message is longer; more without an end is not from a process of ours."""

DESCRIPTORS_LIMIT_COUNT: Final = 253
"""No more come with a message: Linux passes no more at a time."""

_RECEIVED_BYTES: Final = 65536

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
    def descriptors(self) -> tuple[int, ...]:
        """Those that the process is given: the lock, then the sockets."""
        return (self.lock, *self.api, *self.poll, *self.mesh)

    def with_descriptors(self, given: Sequence[int]) -> "ProcessSeat":
        """Return this seat with the numbers that its descriptors have in another process.

        Raises ValueError if these are not as many.
        """
        if len(given) != len(self.descriptors):
            raise ValueError("its descriptors are missing")
        lock, *sockets = given
        api, rest = sockets[: len(self.api)], sockets[len(self.api) :]
        poll, mesh = rest[: len(self.poll)], rest[len(self.poll) :]
        directory = self.mesh_directory
        through_lock = descriptor_path(self.lock)
        if directory.startswith(through_lock):
            directory = descriptor_path(lock) + directory.removeprefix(through_lock)
        return replace(
            self,
            lock=lock,
            api=tuple(api),
            poll=tuple(poll),
            mesh=tuple(mesh),
            mesh_directory=directory,
        )


def descriptor_path(descriptor: int) -> str:
    """Return the beginning of paths within an open directory, for the process that has it open."""
    return f"/proc/self/fd/{descriptor}/"


class SeatRefused(Exception):
    """The parent of this process is no supervisor of this version. `str()` is one line."""


class SupervisorGone(Exception):
    """The supervisor ended before this process was to serve."""


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


def encode_seat(seat: ProcessSeat, ended: Sequence[int] = (), *, is_early: bool = False) -> bytes:
    """Return the message that goes with the seat's descriptors."""
    early = {"is_early": True} if is_early else {}
    return encode({"tell": "seat", "ended": [*ended], **early, **asdict(seat)})


def take(environment: MutableMapping[str, str] = os.environ) -> socket.socket:
    """Return the socket to this process's supervisor; remove it from the environment.

    No process that this one starts inherits it. Raises SeatRefused.
    """
    text = environment.pop(VARIABLE)
    try:
        control = socket.socket(fileno=int(text))
    except (OSError, ValueError) as error:
        raise _refused(f"its value {text!r} is no socket of a supervisor ({error})") from error
    control.set_inheritable(False)
    return control


@final
class SeatWait:
    """Reads what the supervisor says until it has told the seat."""

    def __init__(self, control: socket.socket) -> None:
        self.ended: frozenset[int] = frozenset()
        """The incarnations of those that had the seat before, and are gone."""
        self.is_early = False
        """Whether the last process that had the seat is still there."""
        self.early: list[Message] = []
        """What was told right after the seat."""
        self.lines = Lines()
        self._control = control
        self._given: list[int] = []

    def receive(self) -> ProcessSeat | None:
        """Read what is there, blocking until something is; return the seat if it was told.

        Raises SupervisorGone or SeatRefused.
        """
        try:
            received, given, _, _ = socket.recv_fds(
                self._control, _RECEIVED_BYTES, DESCRIPTORS_LIMIT_COUNT
            )
        except OSError as error:
            raise SupervisorGone from error
        for descriptor in given:
            os.set_inheritable(descriptor, False)
        self._given += given
        if not received:
            raise SupervisorGone
        try:
            messages = self.lines.feed(received)
            if not messages:
                return None
            fields = dict(messages[0])
            self.early = messages[1:]
            self.ended = frozenset(fields.pop("ended"))
            self.is_early = fields.pop("is_early", False)
            del fields["tell"]
            listed = {key: tuple(found) for key, found in fields.items() if isinstance(found, list)}
            return ProcessSeat(**{**fields, **listed}).with_descriptors(self._given)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _refused(f"what is told there is no seat ({error})") from error


def _refused(reason: str) -> SeatRefused:
    return SeatRefused(
        f"Cannot serve: {VARIABLE} is set, but {reason}. It is not for users: remove it from the "
        "environment."
    )
