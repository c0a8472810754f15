"""Taking snapshots: one consistent cut through the state of all shards, without stopping them.

A cut is the rows of one commit of the checkpoint store, and the batches of the log from there up to
what was durable at one moment. Both are immutable, so they can be read at leisure while the server
goes on, as long as the log is not trimmed in the meantime: the maker of the cut sees to that. What
is written to disk has the name it was asked for only when it is whole and synced.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from troth.core.state.captures import ShardHeader
from troth.persistence.checkpoints import digests, rows
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.checkpoints.digests import Digest
from troth.persistence.checkpoints.port import View
from troth.persistence.checkpoints.rows import RowDecoder
from troth.persistence.checkpoints.store import DATA_NAME, LmdbStore
from troth.persistence.data_directory import DataDirectory, checkpoints_name
from troth.persistence.errors import CheckpointDamaged, DataDirectoryLocked
from troth.persistence.files import RealFiles, lock_left
from troth.persistence.identity import Identity
from troth.persistence.inspection.log_tools import LogReader

from .snapshot_file import (
    Batch,
    FileEncoder,
    GroupHeader,
    PieceCounts,
    Row,
    SnapshotDamaged,
    SnapshotEnd,
    SnapshotError,
    SnapshotHeader,
    SnapshotReader,
    encode,
    group_pieces,
)
from .snapshot_rules import (
    TABLES,
    BytesDone,
    LogsChecked,
    check_formats,
    check_rows,
    sync_directory,
)

PARTIAL_SUFFIX: Final = ".partial"
SUFFIX: Final = ".snapshot"
_KEY_END: Final = b"\xff" * 512
_AUTOMATIC_NAME: Final = re.compile(r"troth-\d{8}T\d{6}Z-\d{12,}\.snapshot(\.partial)?")


@dataclass(frozen=True, slots=True)
class Cut:
    """A snapshot that is about to be written. `close` releases the rows if it never is."""

    header: SnapshotHeader
    view: View
    batches: Iterable[Batch]

    def encoded(self) -> Iterator[bytes]:
        """Yield the file's bytes. Raises CheckpointDamaged, LogDamaged, DataDirectoryUnreadable."""
        tables = ((table, self._rows(table)) for table in TABLES)
        return encode(self.header, tables, self.batches)

    def of_group(self, group: int) -> Iterator[tuple[bytes, PieceCounts]]:
        """Yield the pieces of a group in a file of several. Raises as `encoded`."""
        tables = ((table, self._rows(table)) for table in TABLES)
        return group_pieces(TABLES, group, tables, self.batches)

    def _rows(self, table: str) -> Iterator[Row]:
        """Yield a table's rows; at the end, compare them with the digest that the store keeps.

        A restored store makes digests of its own, so a difference has to be noticed here.
        """
        found = Digest()
        for key, value in self.view.scan(table, b"", _KEY_END):
            found.add(key, value)
            yield key, value
        if found.encode() != digests.read(self.view, table).encode():
            raise CheckpointDamaged(table, "its rows differ from those that were written")

    def close(self) -> None:
        """Release the rows; a second call does nothing."""
        self.view.close()


def make_cut(
    identity: Identity,
    view: View,
    *,
    until_sequence: int,
    batches: Callable[[int], Iterator[Batch]],
    rows_until_ms: int,
    created_at_ms: int,
    troth_version: str,
) -> Cut:
    """Describe a cut. `batches(sequence)` yields the log's from that record to `until_sequence`.

    Raises CheckpointDamaged.
    """
    headers = _shard_headers(view)
    position = min((header.position for header in headers), default=0)
    return Cut(
        SnapshotHeader(
            data_id=identity.data_id.hex(),
            secret=identity.secret.hex(),
            shard_count=identity.shard_count,
            directory_created_at_ms=identity.created_at_ms,
            created_at_ms=created_at_ms,
            troth_version=troth_version,
            row_format=rows.FORMAT_VERSION,
            tables=TABLES,
            rows_position=position,
            rows_until_sequence=max((header.position for header in headers), default=0),
            rows_until_ms=rows_until_ms,
            until_sequence=until_sequence,
            placement=identity.placement,
        ),
        view,
        batches(position + 1),
    )


@dataclass(frozen=True, slots=True)
class WholeCut:
    """The cuts of all groups of a directory, as one file."""

    header: SnapshotHeader
    cuts: Sequence[Cut]

    def encoded(self) -> Iterator[bytes]:
        """Yield the file's bytes. Raises as `Cut.encoded`."""
        encoder = FileEncoder(self.header)
        yield encoder.begin()
        for group, cut in enumerate(self.cuts):
            for piece, counts in cut.of_group(group):
                yield encoder.add(piece, counts)
        yield encoder.end()


def joint_header(headers: Sequence[SnapshotHeader], group_shards: Sequence[int]) -> SnapshotHeader:
    """Return the header of a file of several groups, of what each has as its own."""
    groups = tuple(
        GroupHeader(
            shards_count=count,
            rows_position=one.rows_position,
            rows_until_sequence=one.rows_until_sequence,
            until_sequence=one.until_sequence,
        )
        for one, count in zip(headers, group_shards, strict=True)
    )
    return msgspec.structs.replace(
        headers[0],
        groups=groups,
        rows_position=max(one.rows_position for one in groups),
        rows_until_sequence=max(one.rows_until_sequence for one in groups),
        until_sequence=max(one.until_sequence for one in groups),
        rows_until_ms=max(one.rows_until_ms for one in headers),
    )


def _shard_headers(view: View) -> list[ShardHeader]:
    decoder = RowDecoder()
    return [decoder.header(key, value) for key, value in view.scan(rows.HEADERS, b"", _KEY_END)]


def cut_open_directory(
    directory: DataDirectory,
    checkpoints: Checkpoints,
    *,
    created_at_ms: int,
    troth_version: str,
    opened: tuple[View, int] | None = None,
) -> Cut:
    """Return a cut of a directory that this process serves, up to what is durable now.

    `opened` are rows and the last sequence of the log, if they have been fixed before; the cut
    closes the rows. The log must not be trimmed beyond `checkpoints.position` from before the call,
    or before the rows were opened, until the cut has been written. Raises CheckpointDamaged.
    """
    log = directory.log
    if opened is not None:
        view, until_sequence = opened
    else:
        view = checkpoints.open_view()
        # After the rows: the log never ends before what they cover.
        until_sequence = log.next_sequence - 1

    def batches(from_sequence: int) -> Iterator[Batch]:
        return log.read_batches(from_sequence, until_sequence + 1)

    try:
        return make_cut(
            directory.identity,
            view,
            until_sequence=until_sequence,
            batches=batches,
            rows_until_ms=created_at_ms,
            created_at_ms=created_at_ms,
            troth_version=troth_version,
        )
    except BaseException:
        view.close()
        raise


@contextlib.contextmanager
def cut_stopped_directory(
    path: Path, *, created_at_ms: int, troth_version: str
) -> Iterator[Cut | WholeCut]:
    """Yield a cut of a directory that no server uses; it is locked until the end, and not changed.

    Raises a DataDirectoryError or CheckpointFailed.
    """
    files = RealFiles()
    reader = LogReader(files, path, 0)
    try:
        lock = lock_left(files, reader.path)
    except BlockingIOError as error:
        raise DataDirectoryLocked(reader.path) from error
    with contextlib.ExitStack() as closing:
        closing.callback(lock.close)
        group_shards = reader.identity.group_shards
        cuts = []
        for group in range(len(group_shards)):
            reader = LogReader(files, path, group)
            cuts.append(_cut_stopped_group(reader, path, created_at_ms, troth_version, closing))
        if len(cuts) == 1:
            yield cuts[0]
        else:
            yield WholeCut(joint_header([cut.header for cut in cuts], group_shards), cuts)


def _cut_stopped_group(
    reader: LogReader,
    path: Path,
    created_at_ms: int,
    troth_version: str,
    closing: contextlib.ExitStack,
) -> Cut:
    checkpoints_path = path / checkpoints_name(reader.group)
    # Before opening the store, which touches it.
    rows_until_ms = _modified_at_ms(checkpoints_path / DATA_NAME, created_at_ms)
    store = LmdbStore(checkpoints_path, rows.TABLES)
    closing.callback(store.close)
    checkpoints = Checkpoints(store, reader.identity.data_id, reader.shards)
    closing.callback(checkpoints.close)
    needed_sequence = checkpoints.position + 1
    for _ in reader.batches(needed_sequence, needed_sequence):
        continue  # only to know that all of it is sound, and where it ends
    assert reader.end is not None, "all batches were read"
    if reader.end.next_sequence < needed_sequence:
        raise SnapshotError(
            f"the log in {reader.log_path} ends before record {checkpoints.position}, which "
            "the checkpoints have reached: part of the log is missing. Nothing was changed."
        )
    return make_cut(
        reader.identity,
        checkpoints.open_view(),
        until_sequence=reader.end.next_sequence - 1,
        batches=lambda sequence: _batches_of(reader, sequence),
        rows_until_ms=rows_until_ms,
        created_at_ms=created_at_ms,
        troth_version=troth_version,
    )


def _batches_of(reader: LogReader, from_sequence: int) -> Iterator[Batch]:
    for batch in reader.batches(from_sequence, from_sequence):
        if batch.first_sequence + len(batch.records) > from_sequence:
            yield batch.first_sequence, batch.records


def _modified_at_ms(path: Path, otherwise_ms: int) -> int:
    try:
        return path.stat().st_mtime_ns // 1_000_000
    except FileNotFoundError:
        return otherwise_ms


def write_file(
    chunks: Iterable[bytes],
    target: Path,
    progress: BytesDone | None = None,
    check: Callable[[Path], object] | None = None,
) -> int:
    """Write a new file, whole and synced before it has its name; its size in bytes.

    `check` may refuse it before that by raising SnapshotError. Raises SnapshotError if there is
    such a file, or the disk refuses; then nothing is left behind.
    """
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    refuse_existing(target)
    size_bytes = 0
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        with open(descriptor, "wb") as file:
            for chunk in chunks:
                _write(file.write, chunk, target)
                size_bytes += len(chunk)
                if progress is not None:
                    progress(size_bytes)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(partial)
        # Two that write to one name at a time are kept apart by this: a link never replaces.
        os.link(partial, target)
        os.unlink(partial)
        sync_directory(target.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise _unwritable(target, error) from error
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    return size_bytes


def _write(write: Callable[[bytes], int], chunk: bytes, target: Path) -> None:
    try:
        write(chunk)
    except OSError as error:
        raise _unwritable(target, error) from error


def refuse_existing(target: Path) -> None:
    """Raise SnapshotError if there is something of this name: nothing is ever replaced."""
    if os.path.lexists(target):
        raise SnapshotError(f"{target} exists already. Nothing was changed. Choose another name.")


def _unwritable(target: Path, error: OSError) -> SnapshotError:
    return SnapshotError(
        f"{target} cannot be written: {error.strerror or error}. No snapshot was made."
    )


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A file that was found, with its header and end, or with the problem that was found."""

    path: Path
    size_bytes: int
    header: SnapshotHeader | None
    end: SnapshotEnd | None
    problem: str | None = None


def inspect(path: Path) -> SnapshotFile:
    """Return a file's description, read in an instant. Raises SnapshotError."""
    with SnapshotReader(path) as reader:
        return SnapshotFile(path, reader.size_bytes, reader.header, reader.read_end())


def list_directory(directory: Path) -> list[SnapshotFile]:
    """Return the snapshots in a directory, finished or not, oldest first. Raises SnapshotError."""
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise SnapshotError(f"{directory}: cannot be listed ({error.strerror}).") from error
    found = []
    for name in names:
        path = directory / name
        if not name.endswith((SUFFIX, SUFFIX + PARTIAL_SUFFIX)):
            continue
        try:
            found.append(inspect(path))
        except SnapshotError as error:
            problem = error.problem if isinstance(error, SnapshotDamaged) else str(error)
            size_bytes = path.stat().st_size if path.exists() else 0
            found.append(SnapshotFile(path, size_bytes, None, None, problem))
    return sorted(found, key=lambda file: file.header.created_at_ms if file.header else 0)


def automatic_name(time_text: str, until_sequence: int) -> str:
    """Return the name of a snapshot made by schedule; `time_text` is as in 20260301T100000Z."""
    return f"troth-{time_text}-{until_sequence:012d}{SUFFIX}"


def remove_old(directory: Path, data_id: str, keep_count: int) -> int:
    """Remove all but the newest snapshots that a schedule made of this data; how many.

    What an interruption left goes too. Files of other names, and of other data, stay. Raises
    OSError.
    """
    own = []
    removed_count = 0
    for name in sorted(os.listdir(directory)):
        if _AUTOMATIC_NAME.fullmatch(name) is None:
            continue
        path = directory / name
        if name.endswith(PARTIAL_SUFFIX):
            path.unlink()
            continue
        try:
            with SnapshotReader(path) as reader:
                header = reader.header
        except SnapshotError:
            continue  # whatever it is, it is not ours to remove
        if header.data_id == data_id:
            own.append((header.created_at_ms, name))
    for _, name in sorted(own)[: max(0, len(own) - keep_count)]:
        (directory / name).unlink()
        removed_count += 1
    sync_directory(directory)
    return removed_count


def verify(path: Path, progress: BytesDone | None = None) -> SnapshotFile:
    """Read all of a file and check everything in it. Raises SnapshotError."""
    with SnapshotReader(path) as reader:
        check_formats(path, reader.header)
        logs = LogsChecked(path, reader.header)
        for part in reader.parts():
            if part.table is not None:
                check_rows(path, part.table, part.rows)
            for first_sequence, records in part.batches:
                logs.take(part.group, first_sequence, len(records))
            if progress is not None:
                progress(reader.position_bytes)
        logs.done()
        return SnapshotFile(path, reader.size_bytes, reader.header, reader.end)
