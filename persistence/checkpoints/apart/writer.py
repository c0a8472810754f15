"""The process that writes large checkpoints for a server; `process.py` starts it.

It makes the rows and commits them, as a thread of the server would, but holds no interpreter that
the server needs. It is less urgent than the server, and ends when the server lets go of it or dies,
wherever it is: a commit is whole or not there. So it must hear of that while LMDB writes.
"""

import _thread
import gc
import os
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn, final

from troth.core.model import Promise
from troth.core.state.captures import Capture
from troth.persistence.checkpoints import rows, writing
from troth.persistence.checkpoints.id_filter import IdFilter, Room
from troth.persistence.checkpoints.port import Rows, Write
from troth.persistence.checkpoints.store import LmdbStore
from troth.persistence.errors import CheckpointDamaged, CheckpointFailed, DataDirectoryLost

from .messages import (
    PART_KINDS,
    RELEASE,
    Answer,
    Begin,
    Completed,
    Done,
    End,
    Failed,
    Opening,
    Order,
    Part,
    Pending,
    Ready,
    Received,
    encode,
    order_decoder,
    split,
)

NICE: Final = 5
"""How much less urgent it is. With 10 a busy machine would leave it a tenth of a core."""

OTHER_RELEASE: Final = "OtherRelease"
"""The kind of failure of a process that is of another version than the server."""

_SERIAL_BYTES: Final = 8


def main(descriptor: int) -> None:
    """Write the checkpoints that are asked for through a socket, until its other end is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the server decides, and it may get them too
    os.nice(NICE)
    gc.disable()  # nothing that is made here refers to itself
    connection = socket.socket(fileno=descriptor)
    _thread.start_new_thread(_end_with_the_server, (descriptor,))
    received = Received(connection)
    while (message := received.next()) is not None:
        begin = order_decoder.decode(message)
        if not isinstance(begin, Begin):
            raise TypeError("a checkpoint has to begin")
        try:
            answer: Answer = OneCheckpoint(begin, connection, received).write()
        except CheckpointFailed as error:
            answer = Failed("CheckpointFailed", [error.problem, str(error.cause)])
        except CheckpointDamaged as error:
            answer = Failed("CheckpointDamaged", [error.table, error.problem])
        except DataDirectoryLost as error:
            answer = Failed("DataDirectoryLost", [error.path])
        except MemoryError as error:
            answer = Failed("MemoryError", [str(error)])
        connection.sendall(encode(answer))
        if isinstance(answer, Failed):
            return


def _end_with_the_server(descriptor: int) -> NoReturn:
    """End this process when the server has closed its end of the socket, or is gone."""
    hung_up = select.poll()
    hung_up.register(descriptor, 0)
    hung_up.poll()
    os._exit(0)


@final
class OneCheckpoint:
    """A checkpoint that is being written."""

    def __init__(self, begin: Begin, connection: socket.socket, received: Received) -> None:
        self._begin = begin
        self._connection = connection
        self._received = received
        self._captures: dict[int, Capture] = {}
        self._some: list[tuple[int, list[Promise]]] = []
        self._contents: list[bytes] = []
        self._ids: list[bytes] = []
        self._decoder = rows.RowDecoder()

    def write(self) -> Answer:
        """Do it; return what is to be said of it. Raises what a commit raises."""
        begin = self._begin
        if begin.release != RELEASE:
            return Failed(OTHER_RELEASE, [RELEASE])
        descriptors = self._received.descriptors
        rooms = [Room(one, *room) for one, room in zip(descriptors, begin.rooms, strict=True)]
        filters = [IdFilter.within(room) for room in rooms]
        while descriptors:
            os.close(descriptors.pop())
        store = LmdbStore(Path(begin.path), rows.TABLES)
        try:
            if store.identity != begin.identity:
                raise DataDirectoryLost(begin.path)
            self._connection.sendall(encode(Ready()))

            def add_ids(heads: Sequence[bytes]) -> None:
                for one in filters:
                    one.add(heads)

            store.commit(self._writes(store, add_ids))
        finally:
            store.leave()
        return Done([one.ids_count for one in filters])

    def _orders(self) -> Iterator[Order]:
        """Yield what the server says, up to the end of the checkpoint."""
        while True:
            message = self._received.next()
            if message is None:
                os._exit(0)  # half a checkpoint is none
            order = order_decoder.decode(message)
            if isinstance(order, End):
                return
            yield order

    def _writes(self, store: LmdbStore, add_ids: writing.AddIds) -> Iterator[Write]:
        for key, value in self._begin.meta:
            yield rows.META, key, value
        for order in self._orders():
            if isinstance(order, Completed):
                some, contents = split(order)
                self._some += some
                self._contents += contents
                if len(self._contents) >= writing.GROUP_COUNT:
                    yield from self._completed()
            elif isinstance(order, Pending):
                yield from writing.live_writes(self._part(order.shard, order.promises))
            elif isinstance(order, Opening):
                yield from self._opened(order, store)
            else:
                assert isinstance(order, Part), "a message at its place"
                capture = self._captures[order.shard]
                for kind in PART_KINDS:
                    getattr(capture, kind).update(getattr(order, kind))
        yield from self._completed()
        yield from self._id_writes(add_ids)
        for capture in self._captures.values():
            yield from writing.other_writes(capture, add_ids)

    def _opened(self, order: Opening, store: LmdbStore) -> Iterator[Write]:
        shard = order.header.shard
        capture = Capture(order.header, {}, {}, {}, {}, {}, {})
        capture.deleted_promises, capture.deleted_tasks = (
            order.deleted_promises,
            order.deleted_tasks,
        )
        capture.packed_names = order.packed_names
        self._captures[shard] = capture
        yield from writing.deletions(shard, capture, self._decoder, store.view)

    def _part(self, shard: int, promises: dict[str, Promise | bytes]) -> Capture:
        capture = self._captures[shard]
        part = Capture(capture.header, dict(promises), {}, {}, {}, {}, {})
        part.packed_names = capture.packed_names
        return part

    def _completed(self) -> Iterator[Write]:
        """Yield the rows of the completed promises that have come."""
        some, contents = self._some, self._contents
        self._some, self._contents = [], []
        if not some:
            return
        yield from writing.completed_writes(some, contents, self._begin.stored)
        for shard, found in some:
            for promise in found:
                key = rows.id_key(shard, promise.id)
                self._ids.append(key + rows.number_bytes(promise.serial))

    def _id_writes(self, add_ids: writing.AddIds) -> Iterator[Write]:
        """Yield the rows of the ids of completed promises, in their order as good as."""
        ids, self._ids = self._ids, []
        ids.sort()
        for place in range(0, len(ids), writing.GROUP_COUNT):
            group = ids[place : place + writing.GROUP_COUNT]
            keys = [one[:-_SERIAL_BYTES] for one in group]
            add_ids([rows.id_head(key) for key in keys])
            yield Rows(rows.PROMISE_IDS, keys, [one[-_SERIAL_BYTES:] for one in group])
