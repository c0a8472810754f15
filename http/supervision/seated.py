"""A server process's side of its supervisor: it says how it is, and hears what to do.

It stands where a service manager stands for a server of one process (`ServiceManager`), so the
server tells it the same. Sending never blocks: what the supervisor does not read is kept, but for
signs of life, since the next one follows. If the supervisor has gone, the process stops in good
order: no one would start it again.
"""

import select
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, final

import structlog
import trio

from .manager_environment import GivenSockets
from .seat import (
    ALIVE_INTERVAL_S,
    OWNER,
    Lines,
    Message,
    ProcessSeat,
    SeatWait,
    SupervisorGone,
    encode,
)

_RECEIVED_BYTES: Final = 65536
_UNSENT_LIMIT_BYTES: Final = 1 << 20
_UNSENT_RETRY_S: Final = 0.05
_log = structlog.get_logger("troth.supervision")


MORE_AFTER_S: Final = 0.1
"""How long to wait for a seat before there is time for more: this is a spare process, or the next
one in a restart. Any other one is told its seat before it has loaded."""


def wait_to_serve(
    control: socket.socket,
    more: Iterable[Callable[[], object]] = (),
    *,
    may_follow: bool = False,
) -> "Seated":
    """Say that this program has loaded, and block until it is to serve.

    If that takes long, it does what of `more` there is time for, says so when all is done, and says
    that it lives. If it `may_follow`, it can have its seat while another process still has it.
    Raises SupervisorGone or SeatRefused. Before the loop: this process does nothing yet.
    """
    control.setblocking(True)
    wait, left, pause_s = SeatWait(control), iter(more), MORE_AFTER_S
    is_prepared = False
    try:
        control.sendall(encode({"say": "loaded"}))
        while True:
            if select.select([control], [], [], pause_s)[0]:
                seat = wait.receive()
                if seat is not None:
                    return Seated(seat, control, wait)
                continue
            control.sendall(encode({"say": "alive"}))
            act = next(left, None)
            pause_s = ALIVE_INTERVAL_S if act is None else 0.0
            if act is not None:
                act()
            elif not is_prepared:
                is_prepared = True
                control.sendall(encode({"say": "prepared", "may_follow": may_follow}))
    except OSError as error:
        raise SupervisorGone from error


@final
class Seated:
    """This process's seat, and the socket to its supervisor."""

    def __init__(
        self, seat: ProcessSeat, control: socket.socket, wait: SeatWait | None = None
    ) -> None:
        """Say nothing yet: `run` does. `wait` is what was heard with the seat."""
        self.seat = seat
        self.checkpoint = trio.Event()
        """Set when a checkpoint is to be made, since this process will be replaced."""
        self.stays = trio.Event()
        """Set when this process is not to be replaced any more, though it was told so."""
        self.drain = trio.Event()
        """Set when no new connections are to be taken, and what is in flight to be finished."""
        self.stop = trio.Event()
        """Set when the group is to end too."""
        self.peers: Mapping[int, int] = {}
        """The processes that the supervisor counts as up, with their incarnations."""
        self.are_ready = False
        """Whether all processes serve."""
        self.is_node_serving = False
        """Whether any process of this node serves, or is about to again after a restart."""
        self.on_peers: list[Callable[[], None]] = []
        """Called after each change of `peers`."""
        self.on_unowned: list[Callable[[float], None]] = []
        """Called while no process owns the accounts, with a time at which that was so."""
        self._leads = False
        self.ended: frozenset[int] = frozenset() if wait is None else wait.ended
        """The incarnations of those that had this seat before, and are gone."""
        self.is_early = wait is not None and wait.is_early
        """Whether the last process that had this seat is still there, and has the group."""
        self.is_replaced = False
        """Whether this process ends for the next one to take its seat, which knows of that."""
        self.is_left = False
        """Whether this process ends for another node to take its group."""
        self.handed_over = GivenSockets(
            tuple(socket.socket(fileno=one) for one in seat.api),
            tuple(socket.socket(fileno=one) for one in seat.poll),
            are_all=True,
            api_address=seat.api_address,
            poll_address=seat.poll_address,
        )
        self.mesh = tuple(socket.socket(fileno=one) for one in seat.mesh)
        """Where processes of other nodes connect; all processes of this one listen there."""
        self._control = control
        control.setblocking(False)
        self._lines = Lines() if wait is None else wait.lines
        self._unsent = b""
        self._early: list[Message] = [] if wait is None else wait.early
        self._is_gone = False

    def may_claim(self) -> bool:
        """Return whether this process may try to own its group of a cluster; in any thread."""
        return self.seat.process == OWNER or self._leads

    def listening(self) -> None:
        """Say that other processes can connect to this one."""
        self._say({"say": "listening"})

    def leading(self, epoch: int) -> None:
        """Say that this node has come to own group 0 of its cluster, in an epoch."""
        self._say({"say": "leading", "epoch": epoch})

    def follows(self, node: str, epoch: int) -> None:
        """Say that this process stands by for the owner of group 0, and in which epoch that is."""
        self._say({"say": "follows", "node": node, "epoch": epoch})

    def stands_by(self) -> None:
        """Say that this process follows its group, which another node may own."""
        self._say({"say": "stands_by"})

    def following(self) -> None:
        """Say that this process has read all there is of the group that another one still has."""
        self._say({"say": "following"})

    def leaves(self) -> None:
        """Say that the group of this process is to go to another node."""
        self._say({"say": "leaves"})

    async def owning(self) -> None:
        """Say that this process is about to own the accounts; return when that has been sent.

        What the supervisor says after that it does not say as if there were no owner.
        """
        self._say({"say": "owning"})
        while self._unsent:
            await trio.sleep(_UNSENT_RETRY_S)
            self._send()

    def ready(self, status: str) -> None:
        """Say that this process serves. `status` is one line for people."""
        self._say({"say": "ready", "status": status})

    def stopping(self) -> None:
        """Say that the end of this process has begun; its supervisor knows that."""
        self._say({"say": "stopping"})

    def status(self, text: str) -> None:
        """Say in one line what this process does."""
        self._say({"say": "status", "status": text})

    def checkpointed(self, *, is_covered: bool, memory_bytes: int) -> None:
        """Say that a checkpoint was made, if this process `is_covered`, or that none can be.

        `memory_bytes` is what the process takes, and the next one will.
        """
        said = {"is_covered": is_covered, "memory_bytes": memory_bytes}
        self._say({"say": "checkpointed", **said})

    def drained(self) -> None:
        """Say that nothing of clients is in flight here any more."""
        self._say({"say": "drained"})

    def gone(self) -> None:
        """Say that this process answers nothing and changes nothing any more, and ends."""
        self._say({"say": "gone"})

    def fatal(self, problem: str) -> None:
        """Say that this process ends, for a reason that concerns all; the loop may be over."""
        self._say({"say": "fatal", "problem": problem})

    async def run(self) -> None:
        """Give signs of life, and take in what the supervisor says, until canceled."""
        early, self._early = self._early, []
        for message in early:
            self._take(message)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._live)
            nursery.start_soon(self._listen)

    async def _live(self) -> None:
        """Say that the loop which serves runs: a loop that hangs says nothing."""
        while not self._is_gone:
            if self._unsent:
                self._send()
            else:
                self._say({"say": "alive"})
            await trio.sleep(ALIVE_INTERVAL_S)

    async def _listen(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._control)
            try:
                received = self._control.recv(_RECEIVED_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                received = b""  # it has gone while something was on its way
            if not received:
                _log.warning("the supervisor has gone; stopping")
                self._is_gone = True
                self.drain.set()
                self.stop.set()
                return
            for message in self._lines.feed(received):
                self._take(message)

    def _take(self, message: Mapping[str, Any]) -> None:
        match message["tell"]:
            case "peers":
                self.peers, self.are_ready = dict(message["up"]), message["are_ready"]
                self.is_node_serving = message["is_serving"]
                for changed in self.on_peers:
                    changed()
            case "lead":
                self._leads = message["leads"]
            case "unowned":
                for noticed in self.on_unowned:
                    noticed(message["at_s"])
            case "seated":
                self.ended = frozenset(message["ended"])
                self.is_early = False  # after that: other threads look
            case "checkpoint":
                self.stays = trio.Event()
                self.checkpoint.set()
            case "stay":
                self.stays.set()
            case "drain":
                self.drain.set()
            case "stop":
                self.is_replaced = message.get("is_replaced", False)
                self.is_left = message.get("is_left", False)
                self.drain.set()
                self.stop.set()

    def _say(self, message: Message) -> None:
        if len(self._unsent) < _UNSENT_LIMIT_BYTES:
            self._unsent += encode(message)
        self._send()

    def _send(self) -> None:
        try:
            while self._unsent:
                sent_bytes = self._control.send(self._unsent, socket.MSG_NOSIGNAL)
                self._unsent = self._unsent[sent_bytes:]
        except BlockingIOError:
            pass  # the rest follows with the next sign of life
        except OSError:
            self._unsent = b""  # it has gone, which `run` notices
