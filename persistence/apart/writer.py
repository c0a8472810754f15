"""The process that writes large checkpoints for a server; `process.py` starts it.

It makes the rows and commits them, as a thread of the server would, but holds no interpreter that
the server needs. It is less urgent than the server, and ends when the server lets go of it or dies,
wherever it is: a commit is whole or not there. So it must hear of that while LMDB writes.

A thread of the server that wakes up on a core where this process runs waits for the end of its time
slice, about 3 ms, however much less urgent it is; unless it is in the system's class for what is to
run when nothing else does (`SCHED_IDLE`).
"""

import _thread
import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from troth.persistence.checkpoints import rows
from troth.persistence.checkpoints.id_filter import IdFilter, Room
from troth.persistence.checkpoints.port import Write
from troth.persistence.checkpoints.store import LmdbStore
from troth.persistence.errors import CheckpointDamaged, CheckpointFailed, DataDirectoryLost

from .arriving import Arriving
from .messages import (
    OTHER_RELEASE,
    RELEASE,
    Answer,
    Begin,
    Commit,
    Done,
    Failed,
    Order,
    Ready,
    Received,
    encode,
    order_decoder,
)

NICE: Final = 5
"""How much less urgent it is. With 10 a busy machine would leave it a tenth of a core."""

_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
"""The number of the system's call by the kind of machine; Python has no name for it."""

_IOPRIO_WHO_PROCESS: Final = 1
_IOPRIO_USUAL: Final = 2 << 13 | 7
"""The usual class, last in it."""


def main(descriptor: int) -> None:
    """Write the checkpoints that are asked for through a socket, until its other end is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the server decides, and it may get them too
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.nice(NICE)
    gc.disable()  # nothing that is made here refers to itself
    connection = socket.socket(fileno=descriptor)
    _thread.start_new_thread(_end_with_the_server, (descriptor,))
    received = Received(connection)
    while (message := received.next()) is not None:
        begin = order_decoder.decode(message)
        assert isinstance(begin, Begin), "a checkpoint has to begin"
        answer = _answer(begin, connection, received)
        connection.sendall(encode(answer))
        if isinstance(answer, Failed):
            return


def _end_with_the_server(descriptor: int) -> NoReturn:
    """End this process when the server has closed its end of the socket, or is gone."""
    hung_up = select.poll()
    hung_up.register(descriptor, 0)
    hung_up.poll()
    os._exit(0)


def _be_patient() -> None:
    """Take only the processor time that nothing else wants; a sandbox may forbid it.

    But not only what is left of the disk: that may be nothing for long.
    """
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_USUAL)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _most_memory_bytes() -> int:
    """Return the most memory that this program has had; 0 where the system does not say.

    What `getrusage` says begins with what the server had: it outlives the start of a program.
    """
    with contextlib.suppress(OSError), Path("/proc/self/status").open(encoding="utf-8") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _answer(begin: Begin, connection: socket.socket, received: Received) -> Answer:
    """Write a checkpoint, and return what is to be said of it."""
    if begin.release != RELEASE:
        return Failed(OTHER_RELEASE, [RELEASE])
    try:
        new_counts = _write(begin, connection, received)
        return Done(new_counts, time.process_time(), _most_memory_bytes())
    except CheckpointFailed as error:
        return Failed("CheckpointFailed", [error.problem, str(error.cause)])
    except CheckpointDamaged as error:
        return Failed("CheckpointDamaged", [error.table, error.problem])
    except DataDirectoryLost as error:
        return Failed("DataDirectoryLost", [error.path])
    except MemoryError as error:
        return Failed("MemoryError", [str(error)])


def _write(begin: Begin, connection: socket.socket, received: Received) -> list[int]:
    """Commit what arrives; return how many ids were added to each room."""
    descriptors = received.descriptors
    rooms = [Room(one, *room) for one, room in zip(descriptors, begin.rooms, strict=True)]
    filters = [IdFilter.within(room) for room in rooms]
    while descriptors:
        os.close(descriptors.pop())

    def add_ids(heads: Sequence[bytes]) -> None:
        for one in filters:
            one.add(heads)

    store = LmdbStore(Path(begin.path), rows.TABLES)
    try:
        if store.identity != begin.identity:
            raise DataDirectoryLost(begin.path)
        connection.sendall(encode(Ready()))
        if begin.is_patient:
            _be_patient()
        writes = Arriving(begin, store.view, add_ids).writes(_orders(received))
        store.commit(_until_asked(writes, connection, received))
    finally:
        store.leave()
    return [one.ids_count for one in filters]


def _until_asked(
    writes: Iterator[Write], connection: socket.socket, received: Received
) -> Iterator[Write]:
    """Yield all rows; when they are written, wait until the server wants them committed."""
    yield from writes
    connection.sendall(encode(Ready()))
    asked = next(_orders(received))
    assert isinstance(asked, Commit), "nothing else follows the rows"


def _orders(received: Received) -> Iterator[Order]:
    """Yield what the server says."""
    while (message := received.next()) is not None:
        yield order_decoder.decode(message)
    os._exit(0)  # it is gone, and half a checkpoint is none
