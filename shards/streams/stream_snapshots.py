"""Snapshots that an engine keeps next to a stream, for nodes without checkpoints of their own.

A snapshot is a file of `persistence/snapshots`, with rows and without records: the records are in
the stream, from the snapshot's mark on. It counts when all of it has been read back and is what was
written. What a node fetches is verified again before it is used.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from troth import __version__
from troth.core.limits import STREAM_PIECE_BYTES
from troth.persistence.checkpoints import rows
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.checkpoints.port import View, Write
from troth.persistence.checkpoints.store import LmdbStore
from troth.persistence.errors import PersistenceError
from troth.persistence.identity import Identity
from troth.persistence.snapshots.snapshot_file import SnapshotReader
from troth.persistence.snapshots.snapshot_rules import check_formats, check_rows
from troth.persistence.snapshots.snapshots import make_cut
from troth.persistence.streams.chain import ChainMark
from troth.persistence.streams.stream import SnapshotDescription, StreamKeeping

_COMMIT_BYTES: Final = 16 << 20
_IDENTIFIER_BITS: Final = 62


class SnapshotUnusable(PersistenceError):
    """A snapshot in an engine is not what was written, or not of this data."""


def take_snapshot(
    keeping: StreamKeeping,
    view: View,
    identity: Identity,
    mark: ChainMark,
    *,
    epoch: int,
    now_ms: int,
    pause: Callable[[], None],
) -> SnapshotDescription:
    """Write the rows of a view to the engine, read them back, and make them the newest snapshot.

    Closes the view. The stream has to have what the rows do not cover, from the mark on. `pause` is
    called after each piece. Raises StreamUnreachable, SnapshotUnusable or CheckpointDamaged; then
    the newest snapshot is the one before.
    """
    cut = make_cut(
        identity,
        view,
        until_sequence=mark.next_sequence - 1,
        batches=lambda _: iter(()),
        rows_until_ms=now_ms,
        created_at_ms=now_ms,
        troth_version=__version__,
    )
    try:
        place = keeping.begin_snapshot(epoch)
        identifier = secrets.randbits(_IDENTIFIER_BITS)
        digest = hashlib.sha256()
        count = size_bytes = 0
        for piece in _pieces(cut.encoded()):
            keeping.add_piece(place, identifier, count, piece, epoch)
            digest.update(piece)
            count += 1
            size_bytes += len(piece)
            pause()
    finally:
        cut.close()
    description = SnapshotDescription(
        identifier, place, count, size_bytes, digest.hexdigest(), now_ms, mark
    )
    for _ in read_pieces(keeping, description):
        pause()
    keeping.finish_snapshot(description, epoch)
    return description


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces of one size, which engines can take; the last is smaller."""
    gathered = bytearray()
    for chunk in chunks:
        gathered += chunk
        while len(gathered) >= STREAM_PIECE_BYTES:
            yield bytes(gathered[:STREAM_PIECE_BYTES])
            del gathered[:STREAM_PIECE_BYTES]
    if gathered:
        yield bytes(gathered)


def read_pieces(keeping: StreamKeeping, description: SnapshotDescription) -> Iterator[bytes]:
    """Yield a snapshot's pieces, and compare them with its digest at the end.

    Raises StreamUnreachable, or SnapshotUnusable.
    """
    digest = hashlib.sha256()
    for number in range(description.pieces_count):
        piece = keeping.piece(description.place, description.identifier, number)
        if piece is None:
            raise SnapshotUnusable("a piece of the snapshot is not there")
        digest.update(piece)
        yield piece
    if digest.hexdigest() != description.sha256:
        raise SnapshotUnusable("the snapshot differs from what was written")


def restore_snapshot(file: Path, directory: Path, identity: Identity, group: int = 0) -> int:
    """Make a store of checkpoints of a group's snapshot in a directory that is empty.

    Return how many rows it has. Raises SnapshotError, SnapshotUnusable or CheckpointFailed; then
    the directory is not to be used.
    """
    store = LmdbStore(directory, rows.TABLES)
    writes: list[Write] = []
    writes_bytes = rows_count = 0
    try:
        with SnapshotReader(file) as reader:
            check_formats(file, reader.header)
            if reader.header.data_id != identity.data_id.hex():
                raise SnapshotUnusable("the snapshot is of other data")
            checkpoints = Checkpoints(store, identity.data_id, identity.shards_of(group))
            checkpoints.write([])  # says whose store it is
            checkpoints.reader.close()
            for part in reader.parts():
                assert part.table is not None, "there are no records in it"
                check_rows(file, part.table, part.rows)
                for key, value in part.rows:
                    writes.append((part.table, key, value))
                    writes_bytes += len(key) + len(value)
                rows_count += len(part.rows)
                if writes_bytes >= _COMMIT_BYTES:
                    store.commit(writes)
                    writes, writes_bytes = [], 0
            store.commit(writes)
    finally:
        store.close()
    return rows_count
