"""What a data directory holds: counts, sizes, positions. Only reads, also while a server runs."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lmdb

from troth.core.state.captures import ShardHeader
from troth.persistence.checkpoints import rows
from troth.persistence.checkpoints.rows import RowDecoder
from troth.persistence.checkpoints.store import DATA_NAME, MAP_BYTES_SMALLEST
from troth.persistence.data_directory import checkpoints_name
from troth.persistence.errors import DataDirectoryUnreadable
from troth.persistence.files import Files

from .log_tools import LogReader, list_groups


@dataclass(frozen=True, slots=True)
class DataStatistics:
    """All of one directory. `rows` counts what is in the checkpoints, by table.

    `groups` has what differs from group to group. `busiest_share` is the part of all promises that
    is in the shard with the most; None while there are none.
    """

    path: str
    in_use: bool
    data_id: str
    shard_count: int
    placement: str
    busiest_share: float | None
    created_at_ms: int
    rows: dict[str, int]
    promises_count: int  # as of the checkpoint
    tasks_count: int
    groups: tuple["GroupStatistics", ...]


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """The log and the checkpoints of one group.

    The log holds the records from `first_sequence` to before `next_sequence`; those up to
    `checkpoint_position` are in the checkpoints too.
    """

    shard_count: int
    checkpoint_bytes: int
    checkpoint_position: int
    first_sequence: int
    next_sequence: int
    segments_count: int
    log_bytes: int
    torn_bytes: int


def read_statistics(files: Files, path: Path) -> DataStatistics:
    """Look at a directory. Raises a DataDirectoryError."""
    readers = [LogReader(files, path, group) for group in list_groups(files, path)]
    identity = readers[0].identity
    with _locked_unless_in_use(files, readers[0].path) as in_use:
        counts = dict.fromkeys(rows.TABLES, 0)
        headers: list[ShardHeader] = []
        groups = []
        for reader in readers:
            own_counts, own_headers, size_bytes = _read_checkpoints(
                path / checkpoints_name(reader.group), in_use=in_use
            )
            groups.append(_group_statistics(reader, own_headers, size_bytes))
            headers += own_headers
            counts = {table: counts[table] + own_counts[table] for table in counts}
        return DataStatistics(
            path=readers[0].path,
            in_use=in_use,
            data_id=identity.data_id.hex(),
            shard_count=identity.shard_count,
            placement=str(identity.placement),
            busiest_share=_busiest_share(headers),
            created_at_ms=identity.created_at_ms,
            rows=counts,
            promises_count=sum(header.promises_count for header in headers),
            tasks_count=sum(header.tasks_count for header in headers),
            groups=tuple(groups),
        )


def _group_statistics(
    reader: LogReader, headers: list[ShardHeader], size_bytes: int
) -> GroupStatistics:
    segments = reader.list_segments()
    last_sequence = segments[-1].first_sequence if segments else 1
    for _ in reader.batches(last_sequence):
        continue  # only to find the end
    assert reader.end is not None, "all batches were read"
    return GroupStatistics(
        shard_count=len(reader.shards),
        checkpoint_bytes=size_bytes,
        checkpoint_position=min((header.position for header in headers), default=0),
        first_sequence=reader.segments[0].first_sequence,
        next_sequence=reader.end.next_sequence,
        segments_count=len(reader.segments),
        log_bytes=sum(segment.size_bytes for segment in reader.segments),
        torn_bytes=reader.end.torn_bytes,
    )


def _busiest_share(headers: list[ShardHeader]) -> float | None:
    counts = [header.promises_count for header in headers]
    total = sum(counts)
    return max(counts) / total if total else None


@contextlib.contextmanager
def _locked_unless_in_use(files: Files, path: str) -> Iterator[bool]:
    """Keep servers from starting while we look; whether one is running already."""
    try:
        lock = files.lock(path)
    except BlockingIOError:
        yield True
        return
    with contextlib.closing(lock):
        yield False


def _read_checkpoints(path: Path, *, in_use: bool) -> tuple[dict[str, int], list[ShardHeader], int]:
    """Return counts by table, the shards' headers, and the size on disk."""
    if not (path / DATA_NAME).exists():
        return dict.fromkeys(rows.TABLES, 0), [], 0
    size_bytes = os.stat(path / DATA_NAME).st_blocks * 512
    try:
        # While a server runs we must register as one of its readers, through its lock file.
        environment = lmdb.open(
            str(path),
            readonly=True,
            lock=in_use,
            max_dbs=len(rows.TABLES),
            map_size=max(MAP_BYTES_SMALLEST, os.stat(path / DATA_NAME).st_size),
        )
        with environment, environment.begin() as transaction:
            counts = {}
            headers = []
            for table in rows.TABLES:
                counts[table] = 0
                try:
                    database = environment.open_db(table.encode(), transaction, create=False)
                except lmdb.NotFoundError:
                    continue  # a table of a later version: nothing is in it yet
                counts[table] = transaction.stat(database)["entries"]
                if table == rows.HEADERS:
                    decoder = RowDecoder()
                    headers = [
                        decoder.header(bytes(key), bytes(value))
                        for key, value in transaction.cursor(database)
                    ]
            return counts, headers, size_bytes
    except lmdb.Error as error:
        raise DataDirectoryUnreadable(
            str(path), f"cannot be read ({error})", "Check the disk and the permissions."
        ) from error
