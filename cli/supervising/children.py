"""One process that the supervisor has started: its socket, what it says, and its end."""

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final, final

from troth.http.supervision.seat import VARIABLE, Lines, Message, ProcessSeat, encode, encode_seat

_RECEIVED_BYTES: Final = 65536
_UNSENT_LIMIT_BYTES: Final = 1 << 20
"""A process that reads nothing is killed for its silence long before this is reached."""


@final
class Child:
    """A started process. Nothing here blocks."""

    def __init__(
        self, process: int | None, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """Start it. It inherits the socket to the supervisor, and nothing else. Raises OSError.

        `process` is the one that it is to be; None: that is said later. It has a session of its
        own: what a terminal sends its programs comes to the supervisor only, which then says what
        is to be done.
        """
        self.process = process
        self.has_loaded = self.is_prepared = False
        self.may_follow = self.is_following = False
        """Whether it can have its seat early, and whether it has read all there is then."""
        self.has_checkpointed = self.is_covered = self.has_drained = False
        self.is_owning = self.is_standing_by = False
        self.incarnation: int | None = None
        """That of the seat which it has early."""
        self.is_gone = False
        """Whether it answers nothing and changes nothing any more: only its end is left."""
        self.memory_bytes = 0
        """What it takes, as it has said with its checkpoint."""
        self.problem: str | None = None
        """What it has said of its end that concerns all."""
        self._lines = Lines()
        self._unsent = b""
        self._given: tuple[int, ...] = ()
        self.control, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(  # noqa: S603  it is this program
                command,
                stdin=subprocess.DEVNULL,
                env={**environment, VARIABLE: str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            self.control.close()
            raise
        finally:
            theirs.close()
        self.control.setblocking(False)
        self.is_open = True

    @property
    def process_id(self) -> int:
        """The number that the system gave it."""
        return self._process.pid

    def seat(self, seat: ProcessSeat, ended: Sequence[int], *, is_early: bool = False) -> None:
        """Tell it what it is, with its sockets and the lock; before all else, and once.

        `ended` are the incarnations of those that had the seat before. If it `is_early`, the last
        one still has it.
        """
        assert not self._unsent, "it is told nothing before"
        self.process, self._given = seat.process, seat.descriptors
        self._unsent = encode_seat(seat, ended, is_early=is_early)
        self.send_more()

    def tell(self, message: Message) -> None:
        """Say something; what does not fit into the socket now is sent by `send_more`."""
        if len(self._unsent) < _UNSENT_LIMIT_BYTES:
            self._unsent += encode(message)
        self.send_more()

    def send_more(self) -> None:
        """Send what is left. A process that has gone hears nothing, and its end is seen."""
        if not self.is_open:
            return
        try:
            while self._unsent:
                sent_bytes = self._send()
                self._unsent = self._unsent[sent_bytes:]
        except BlockingIOError:
            pass  # the rest follows when it has read some
        except OSError:
            self._unsent = b""  # it is ending
            if self._given:
                self.kill()  # or it would wait for its seat

    def _send(self) -> int:
        if not self._given:
            return self.control.send(self._unsent, socket.MSG_NOSIGNAL)
        sent_bytes = socket.send_fds(self.control, [self._unsent], self._given, socket.MSG_NOSIGNAL)
        self._given = ()  # they go with the first of these bytes
        return sent_bytes

    def receive(self) -> list[Message]:
        """Return what it has said; at the end of its socket `is_open` becomes False."""
        found: list[Message] = []
        try:
            while True:
                received = self.control.recv(_RECEIVED_BYTES)
                if not received:
                    break
                found += self._lines.feed(received)
        except BlockingIOError:
            return found
        except OSError:
            pass  # it is ending, with something unread; if it is not, its silence is noticed
        except ValueError:
            self.kill()  # what speaks there is no process of ours
        self.is_open = False
        return found

    def kill(self) -> None:
        """End it immediately."""
        self._process.send_signal(signal.SIGKILL)

    def exit_status(self) -> int | None:
        """Return how it ended: its status, or the signal's number below zero; None: it runs."""
        return self._process.poll()

    def close(self) -> None:
        """Release the socket of a process that has ended."""
        self.is_open = False
        self.control.close()


def end_words(status: int) -> dict[str, object]:
    """Return how a process ended, for the log."""
    if status < 0:
        try:
            return {"signal": signal.Signals(-status).name}
        except ValueError:
            return {"signal": -status}
    return {"status": os.waitstatus_to_exitcode(status << 8)}
