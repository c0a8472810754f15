"""Writing a checkpoint by a process of its own, from the first word to the last look."""

import contextlib
from collections.abc import Callable, Sequence
from typing import final

from troth.core.state.captures import Capture
from troth.persistence.checkpoints import rows
from troth.persistence.checkpoints.id_filter import Room
from troth.persistence.checkpoints.port import ApartStatistics
from troth.persistence.checkpoints.store import LmdbStore
from troth.persistence.errors import CheckpointFailed

from .messages import RELEASE, Begin, orders
from .process import Starved, WriterProcess


@final
class StoreWriter:
    """Writes checkpoints to `store` by `process`; see `port.CheckpointWriter`."""

    def __init__(self, process: WriterProcess, store: LmdbStore) -> None:
        self._process = process
        self._store = store

    @property
    def process_id(self) -> int | None:
        """See CheckpointWriter."""
        return self._process.process_id

    def write(
        self,
        captures: Sequence[Capture],
        meta: list[tuple[bytes, bytes]],
        stored: dict[int, int],
        rooms: Sequence[Room],
        pause: Callable[[], None],
    ) -> list[int]:
        """See CheckpointWriter."""
        store, process = self._store, self._process
        store.check()

        def say() -> None:
            begin = Begin(
                RELEASE,
                str(store.path.absolute()),
                store.identity,
                meta,
                stored,
                [(room.size_bytes, room.free_count) for room in rooms],
                process.is_patient,
            )
            rows_count = sum(capture.rows_count for capture in captures)
            process.begin(begin, [room.descriptor for room in rooms], rows_count)
            process.write(orders(captures, pause))

        try:
            say()
        except Starved:  # nothing was committed, and the next process is in haste
            store.catch_up()  # a new store may have its file already
            say()
        store.check()
        done = process.commit()
        store.catch_up()
        self._look(captures)
        return done.new_counts

    def _look(self, captures: Sequence[Capture]) -> None:
        """See that the store has this checkpoint: what is lost with the log is nowhere else."""
        with contextlib.closing(self._store.view()) as view:
            for capture in captures:
                key = rows.shard_key(capture.header.shard)
                if view.get(rows.HEADERS, key) != rows.encode(rows.HEADERS, key, capture.header):
                    problem = OSError("the process that wrote them has left something else there")
                    raise CheckpointFailed(str(self._store.path), "cannot be written", problem)

    def statistics(self) -> ApartStatistics:
        """See CheckpointWriter."""
        return self._process.statistics()

    def end(self) -> None:
        """See CheckpointWriter."""
        self._process.end()

    def close(self) -> None:
        """See CheckpointWriter."""
        self._process.close()
