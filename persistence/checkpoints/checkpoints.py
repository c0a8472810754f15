"""Checkpoints: the state of all shards up to a point in the log, in an ordered store.

A checkpoint is incremental: it adds what the shards captured since the last one, in one commit, so
a crash leaves the old checkpoint or the new one. Live entities (pending promises, unfinished tasks,
...) and finished ones are in separate tables: a start reads only the former. What the log holds up
to `position` is covered and may be trimmed; the checkpoint is synced before that.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, final

from troth.core.limits import CHECKPOINT_APART_COUNT
from troth.core.state.captures import Capture, Loaded
from troth.persistence.errors import CheckpointDamaged

from . import digests, loading, rows, writing
from .cold import ColdReader
from .id_filter import NoWriter, StoredIds, shared_bits
from .port import ApartStatistics, CheckpointWriter, Store, View, Write
from .rows import RowDecoder

SMALL_BYTES: Final = 64 << 20
"""Up to this size a store is verified before the server starts, beyond it while it runs."""

COLD_TABLES: Final = (rows.PROMISE_IDS, rows.TASK_IDS)
"""The tables of the ids of what has left memory."""

_FORMAT_KEY = b"format"
_FORMAT: Final = b"%d" % rows.FORMAT_VERSION
_DATA_ID_KEY = b"data id"


@dataclass(frozen=True, slots=True)
class CheckpointStatistics:
    """What checkpoints have done since the start; `verified_count` rows were compared with their
    digests. The filter is that of the stored ids (`id_filter.py`), with what it takes in memory.
    `writer` are the processes that write large checkpoints."""

    checkpoints_count: int
    rows_count: int
    position: int
    size_bytes: int
    verified_count: int
    filter_is_complete: bool
    filter_ids_count: int
    filter_bytes: int
    writer: ApartStatistics


@final
class Checkpoints:
    """The checkpoints of one group of a data directory: of these shards, or of the first ones.

    Opening raises CheckpointDamaged if the store belongs to other data, to another group, or has
    another format.
    """

    def __init__(
        self,
        store: Store,
        data_id: bytes,
        shards: range | int,
        writer: CheckpointWriter | None = None,
    ) -> None:
        """Read what is there; `writer` writes what is large in a process of its own."""
        shards = range(shards) if isinstance(shards, int) else shards
        self._writer = writer
        self.writer_problem: str | None = None
        self._store = store
        self._decoder = RowDecoder()
        self._checkpoints_count = 0
        self._rows_count = 0
        self._verified_count = 0
        view = store.view()
        self._says_format = self._check(view, data_id)
        self._data_id = data_id
        self._headers = loading.read_headers(view, self._decoder, shards)
        self._ids = StoredIds(
            is_empty=_is_empty(view), make_bits=bytearray if writer is None else shared_bits
        )
        self.reader = ColdReader(view, self._ids, shards)

    def _check(self, view: View, data_id: bytes) -> bool:
        """Check which data directory this store belongs to; return whether it says our format."""
        version = view.get(rows.META, _FORMAT_KEY)
        if version is None:
            return False
        rows.check_format(version)
        if view.get(rows.META, _DATA_ID_KEY) != data_id:
            raise CheckpointDamaged(rows.META, "it belongs to another data directory")
        return version == _FORMAT

    @property
    def position(self) -> int:
        """The log sequence up to which all records are covered."""
        return min((header.position for header in self._headers.values()), default=0)

    def is_newest(self) -> bool:
        """Return whether this is the newest checkpoint: another process may have written one."""
        with contextlib.closing(self._store.view()) as view:
            stored = (
                self._decoder.header(*row) for row in view.scan(rows.HEADERS, b"", b"\xff" * 8)
            )
            positions = {header.shard: header.position for header in stored}
        return positions == {shard: one.position for shard, one in self._headers.items()}

    def covered_sequence(self, shard: int) -> int:
        """Return the shard sequence of the last record that is covered."""
        header = self._headers.get(shard)
        return header.sequence if header is not None else 0

    def load(self, shard: int) -> Loaded | None:
        """Return what is live in a shard, or None if there is no checkpoint.

        Raises CheckpointDamaged.
        """
        header = self._headers.get(shard)
        if header is None:
            return None
        if header.counts is None:
            raise CheckpointDamaged(rows.HEADERS, f"that of shard {shard} counts nothing")
        return loading.load(self.reader.view, self._decoder, header, header.counts)

    def write(
        self,
        captures: Sequence[Capture],
        pause: Callable[[], None] = lambda: None,
        *,
        in_place: bool = False,
    ) -> None:
        """Add the captures of all shards, in one commit. Blocks. Raises CheckpointFailed.

        A large one is written by the process that writes such, if there is one, unless it is to be
        `in_place`. `pause` is called between small pieces of what is done here for that. Raises
        MemoryError if there is too little memory; it may be tried again then.
        """
        rows_count = sum(capture.rows_count for capture in captures)
        is_apart = (
            self._writer is not None
            and not in_place
            and (rows_count >= CHECKPOINT_APART_COUNT or self.has_writer)
        )
        if not (is_apart and self._write_apart(captures, pause)):
            with self._ids.committing() as add_ids:
                self._store.commit(self._writes(captures, add_ids))
        # In one assignment: the event loop reads them for statistics while this runs in a thread.
        self._headers = self._headers | {one.header.shard: one.header for one in captures}
        self._rows_count += rows_count
        self._says_format = True
        self._checkpoints_count += 1

    def _write_apart(self, captures: Sequence[Capture], pause: Callable[[], None]) -> bool:
        """Pass the captures to the process that writes them; return False if there is none.

        Raises as `write` does.
        """
        assert self._writer is not None, "there can be one"
        stored = {shard: header.largest_serial for shard, header in self._headers.items()}
        count = sum(len(capture.promises) + len(capture.tasks) for capture in captures)
        self.writer_problem = None
        with self._ids.locked() as filters:
            try:
                rooms = [one.share(count) for one in filters]
                new_counts = self._writer.write(captures, list(self._meta()), stored, rooms, pause)
            except NoWriter as error:
                self.writer_problem = str(error)
                return False
            for one, new_count in zip(filters, new_counts, strict=True):
                one.note_added(new_count)
        return True

    @property
    def has_writer(self) -> bool:
        """Return whether there is a process now that writes large checkpoints."""
        return self._writer is not None and self._writer.process_id is not None

    def end_writer(self) -> None:
        """End that process, if it is there. Blocks for a moment."""
        if self._writer is not None:
            self._writer.end()

    def _meta(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows that say whose store it is, if it does not say so yet."""
        if not self._says_format:
            yield _FORMAT_KEY, _FORMAT
            yield _DATA_ID_KEY, self._data_id

    def _writes(self, captures: Sequence[Capture], add_ids: writing.AddIds) -> Iterator[Write]:
        for key, value in self._meta():
            yield rows.META, key, value
        for capture in captures:
            shard = capture.header.shard
            yield from writing.deletions(shard, capture, self._decoder, self._store.view)
        yield from writing.promise_writes(captures, add_ids, self._headers)
        for capture in captures:
            yield from writing.other_writes(capture, add_ids)

    def open_view(self) -> View:
        """Return the store as of its newest commit, for a copy. The caller closes it.

        In any thread.
        """
        return self._store.view()

    def renew(self) -> None:
        """Switch cold reads to the newest commit. In the thread that reads."""
        self.reader.close()
        self._store.release_memory()
        self.reader.renew(self._store.view())

    @property
    def is_small(self) -> bool:
        """Return whether `verify` takes about a second at most."""
        return self._store.size_bytes() <= SMALL_BYTES

    def verify(self, pause: Callable[[], None] = lambda: None) -> int:
        """Read all that is stored and compare it with its digests; how many rows it has.

        From then on the filter of the stored ids is complete. Blocks; any thread, but nothing else
        that makes a filter may run. `pause` is called now and then. Raises CheckpointDamaged.
        """
        self._verified_count = self._read_through(rows.TABLES, pause)
        return self._verified_count

    @property
    def filter_is_stale(self) -> bool:
        """Return whether most ids in the filter of the stored ids have been deleted."""
        return self._ids.is_stale(self._stored_count)

    def renew_filter(self, pause: Callable[[], None]) -> int:
        """Make the filter of the stored ids again, without those that were deleted; as `verify`."""
        return self._read_through(COLD_TABLES, pause)

    @property
    def _stored_count(self) -> int:
        """The number of promises and tasks that are stored and not live."""
        return sum(
            header.promises_count
            - header.live_promises_count
            + header.tasks_count
            - header.live_tasks_count
            for header in self._headers.values()
        )

    def _read_through(self, tables: Sequence[str], pause: Callable[[], None]) -> int:
        """Compare tables, those of what is cold among them, with their digests."""

        def show(table: str, keys: list[bytes]) -> None:
            if table in COLD_TABLES:
                add_ids(map(rows.id_head, keys))

        def rest() -> None:
            view.release_pages()
            pause()

        with (
            self._ids.filling(self._stored_count) as add_ids,
            contextlib.closing(self._store.view()) as view,
        ):
            count = digests.verify(view, tables, rest, show)
            view.release_pages()
        return count

    def statistics(self) -> CheckpointStatistics:
        """Return counters for metrics."""
        return CheckpointStatistics(
            self._checkpoints_count,
            self._rows_count,
            self.position,
            self._store.size_bytes(),
            self._verified_count,
            self._ids.is_complete,
            self._ids.filter.ids_count,
            self._ids.filter.size_bytes,
            ApartStatistics() if self._writer is None else self._writer.statistics(),
        )

    def close(self) -> None:
        """Close the store."""
        self.reader.close()
        if self._writer is not None:
            self._writer.close()
        self._store.close()


def _is_empty(view: View) -> bool:
    """Return whether nothing cold is stored."""
    return all(next(view.scan(table, b"", b"\xff" * 512), None) is None for table in COLD_TABLES)
