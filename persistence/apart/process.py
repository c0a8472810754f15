"""The process that writes a server's large checkpoints, as the server sees it.

It is started for a checkpoint, and waits for the next until `end`. Until it has said that it is
ready, nothing of a checkpoint was written. Then a thread of the server can write it instead, as it
does where there can be no such process (`NoWriter`). After that any failure of it is one of the
checkpoint (`CheckpointFailed`): what it did is unknown, and the server stops.

It is *patient*: it runs when nothing else wants to. On a machine that is never idle it would take
hours. So where it takes the rows much more slowly than usual, it is ended before it has been asked
to commit (`Starved`), and another one, which is only less urgent than the server, begins again.

The store has one writer at a time: the process inherits a lock of the store's directory. A server
that was killed may leave it behind for a moment, and the next one waits for it.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, final

import msgspec

from troth.persistence import process_memory
from troth.persistence.checkpoints.id_filter import NoWriter
from troth.persistence.checkpoints.port import ApartStatistics
from troth.persistence.errors import (
    CheckpointDamaged,
    CheckpointFailed,
    DataDirectoryLocked,
    DataDirectoryLost,
    PersistenceError,
)
from troth.persistence.shortage import opening

from .messages import (
    OTHER_RELEASE,
    Answer,
    Begin,
    Commit,
    Done,
    End,
    Failed,
    Order,
    Ready,
    Received,
    answer_decoder,
    encode,
)

SENT_BYTES: Final = 64 * 1024
"""About so much is sent in one piece. While it is, the server's loop has the interpreter."""

LEFT_BEHIND_S: Final = 30.0
"""How long the process of a server that was killed may take to end."""

PATIENCE_S: Final = 2.0
PATIENCE_ROW_S: Final = 0.000_04
"""How long the server waits for a patient process to take the rows, all together and for each: four
times as long as that needs on a core of its own."""

HASTE_S: Final = 600.0
"""For how long no other is patient after one that had no processor time."""

_END_S: Final = 5.0
_SHORTEST_WAIT_S: Final = 0.001
_Result = TypeVar("_Result")
_SOURCES: Final = str(Path(__file__).absolute().parents[3])
"""Where the package is, however it is found here."""

_START: Final = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from troth.persistence.apart.writer import main; main(int(sys.argv[1]))"
)


def is_possible() -> bool:
    """Return whether this system has what it takes: memory to share, and room for two maps."""
    is_limited = process_memory.address_space_headroom_bytes() is not None
    return hasattr(os, "memfd_create") and bool(sys.executable) and not is_limited


class Starved(Exception):
    """The patient process had no processor time. It was ended before it could commit anything."""


@final
class WriterProcess:
    """The process that writes the checkpoints of one store; in one thread at a time.

    Waits for one that another server may have left behind. Raises DataDirectoryLocked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._received: Received | None = None
        self._is_patient = False
        self._hasty_until_s = -HASTE_S
        self._patience_s: float | None = None
        self._began_s = 0.0
        self._statistics = ApartStatistics()
        self._ended_processor_s = 0.0
        if path.is_dir():
            self._take_lock()

    @property
    def process_id(self) -> int | None:
        """The number that the system gave it; None if there is none."""
        return None if self._process is None else self._process.pid

    @property
    def is_patient(self) -> bool:
        """Return whether the next checkpoint is for a patient process."""
        return time.monotonic() >= self._hasty_until_s

    def statistics(self) -> ApartStatistics:
        """See CheckpointWriter."""
        return self._statistics

    def _take_lock(self) -> None:
        self._lock = opening(lambda: os.open(self.path, os.O_RDONLY | os.O_DIRECTORY))

        def lock() -> None:
            assert self._lock is not None, "it is open"
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

        try:
            opening(lock, _is_held, patience_s=LEFT_BEHIND_S)
        except OSError as error:
            self.close()
            if _is_held(error):
                raise DataDirectoryLocked(str(self.path)) from error
            raise CheckpointFailed(str(self.path), "cannot be locked", error) from error

    def begin(self, begin: Begin, descriptors: Sequence[int], rows_count: int) -> None:
        """Begin a checkpoint of so many rows, in the process that is there or a new one.

        Raises NoWriter, Starved, and what a commit raises.
        """
        self._began_s = time.monotonic()
        self._patience_s = PATIENCE_S + PATIENCE_ROW_S * rows_count if begin.is_patient else None
        if self._is_patient and not begin.is_patient:
            self.end()
        if self._process is not None and not self._has_begun(begin, descriptors):
            self.end()  # it has gone in the meantime
        if self._process is None:
            try:
                self._start()
            except (OSError, PersistenceError) as error:
                raise NoWriter(str(error)) from error
            if not self._has_begun(begin, descriptors):
                how = self._end()
                raise NoWriter(f"the process that was started {how}")
        self._is_patient = begin.is_patient

    def _start(self) -> None:
        if self._lock is None:
            self.path.mkdir(exist_ok=True)
            self._take_lock()
        assert self._lock is not None, "it was taken"
        self._connection, theirs = socket.socketpair()
        self._received = Received(self._connection)
        with theirs:
            number = str(theirs.fileno())
            self._process = subprocess.Popen(  # noqa: S603  it is this program
                [sys.executable, "-I", "-S", "-c", _START, number, _SOURCES, *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), self._lock),
            )

    def _has_begun(self, begin: Begin, descriptors: Sequence[int]) -> bool:
        """Say what begins; return whether the process is ready. Raises what a commit raises."""
        connection = self._connection
        assert connection is not None, "it was started"
        try:
            self._waiting(lambda: socket.send_fds(connection, [encode(begin)], descriptors))
        except OSError:
            return False
        answer = self._waiting(self._answer)
        if isinstance(answer, Failed):
            self.end()
            raise_failed(answer, self.path)
        return isinstance(answer, Ready)

    def _waiting(self, step: Callable[[], _Result]) -> _Result:
        """Return what a step returns that waits for the process. Raises Starved."""
        connection, left_s = self._connection, self._patience_s
        assert connection is not None, "it was started"
        if left_s is None:
            connection.settimeout(None)
            return step()
        before_s = time.monotonic()
        try:
            connection.settimeout(max(left_s, _SHORTEST_WAIT_S))
            return step()
        except TimeoutError as error:
            self._give_up(error)
        finally:
            self._patience_s = left_s - (time.monotonic() - before_s)

    def _give_up(self, error: TimeoutError) -> NoReturn:
        """End a process that has no processor time, and let the next ones be in haste."""
        self._hasty_until_s = time.monotonic() + HASTE_S
        assert self._process is not None, "it was started"
        self._process.kill()
        self.end()
        self._note(starved_count=self._statistics.starved_count + 1)
        raise Starved from error

    def write(self, orders: Iterable[Order]) -> None:
        """Say the rows, until all are in what is to be committed.

        Raises CheckpointFailed and Starved.
        """
        connection = self._connection
        assert connection is not None, "it has begun"
        pieces: list[bytes] = []
        sent_bytes = 0
        try:
            for order in orders:
                pieces.append(encode(order))
                sent_bytes += len(pieces[-1])
                if sent_bytes >= SENT_BYTES:
                    self._waiting(partial(connection.sendall, b"".join(pieces)))
                    pieces, sent_bytes = [], 0
            pieces.append(encode(End()))
            self._waiting(partial(connection.sendall, b"".join(pieces)))
        except OSError:
            self._fail(self._answer())
        answer = self._waiting(self._answer)
        if not isinstance(answer, Ready):
            self._fail(answer)

    def commit(self) -> Done:
        """Ask it to commit; return what it says then. Raises what a commit raises."""
        assert self._connection is not None, "it has begun"
        self._connection.settimeout(None)  # to end it now would leave open what is in the store
        with contextlib.suppress(OSError):  # it has gone, and may have said why
            self._connection.sendall(encode(Commit()))
        answer = self._answer()
        if not isinstance(answer, Done):
            self._fail(answer)
        self._note(
            checkpoints_count=self._statistics.checkpoints_count + 1,
            busy_s=self._statistics.busy_s + time.monotonic() - self._began_s,
            processor_s=self._ended_processor_s + answer.processor_s,
            memory_bytes=answer.memory_bytes,
        )
        return answer

    def _note(self, **changed: Any) -> None:
        """Count; what the loop reads is always of one moment."""
        self._statistics = replace(self._statistics, **changed)

    def _answer(self) -> Answer | None:
        """Return what it says next; None if it says nothing more, or something else."""
        assert self._received is not None, "it was started"
        try:
            message = self._received.next()
            return None if message is None else answer_decoder.decode(message)
        except TimeoutError:
            raise
        except (OSError, msgspec.DecodeError):
            return None

    def _fail(self, answer: Answer | None) -> NoReturn:
        """Raise what has become of the checkpoint."""
        number = self.process_id
        how = self._end()
        if isinstance(answer, Failed):
            raise_failed(answer, self.path)
        problem = f"the process that wrote them ({number}) {how}"
        raise CheckpointFailed(str(self.path), "cannot be written", OSError(problem))

    def end(self) -> None:
        """End the process, if there is one. Blocks for a moment."""
        self._end()

    def _end(self) -> str:
        """End it, and return how it ended, as what it did."""
        process, self._process = self._process, None
        self._is_patient = False
        self._ended_processor_s = self._statistics.processor_s
        if self._connection is not None:
            self._connection.close()
            self._connection = self._received = None
        if process is None:
            return "was never there"
        try:
            status = process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        if status > 0:
            return f"ended with status {status}"
        return "said something else than it was asked"

    def close(self) -> None:
        """End the process, and let go of the store."""
        self.end()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def raise_failed(answer: Failed, path: Path) -> NoReturn:
    """Raise what the process has said of its failure."""
    texts = answer.texts
    if answer.kind == "CheckpointFailed":
        raise CheckpointFailed(str(path), texts[0], OSError(texts[1]))
    if answer.kind == "CheckpointDamaged":
        raise CheckpointDamaged(*texts)
    if answer.kind == "DataDirectoryLost":
        raise DataDirectoryLost(*texts)
    if answer.kind == "MemoryError":
        raise MemoryError(*texts)
    if answer.kind == OTHER_RELEASE:
        raise NoWriter(f"the process that was started is of another version of Troth: {texts}")
    problem = OSError(f"the process that wrote them failed: {answer.kind} {texts}")
    raise CheckpointFailed(str(path), "cannot be written", problem)


def _is_held(error: Exception) -> bool:
    return isinstance(error, BlockingIOError)
