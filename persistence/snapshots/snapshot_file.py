"""The bytes of a snapshot file: written front to back, read front to back: README.md, Snapshots.

`encode` makes a file out of rows and batches of the log, piece by piece, so that it can go to a
disk or a socket in constant memory. `SnapshotReader` yields the same pieces again, each verified
before it is given out, and at the end confirms that the file is whole. A file that was cut, altered
or never finished is recognized: every block has a checksum, and the last one a SHA-256 over all.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, NamedTuple, Self, TypeVar, final

import google_crc32c
import msgspec
from msgspec import Struct

from troth.core.json_bytes import encoder
from troth.core.json_errors import UNREADABLE_JSON
from troth.persistence.errors import PersistenceError
from troth.persistence.placement import PlacementRule
from troth.persistence.wal.frames import BATCH_BYTES_MAX
from troth.persistence.wal.log import LogRecord

FORMAT_VERSION: Final = 2
MAGIC: Final = b"\xffTROTHS\xfe"
END_MAGIC: Final = b"\xffTROTHE\xfe"

BLOCK_BYTES: Final = 64 * 1024
"""A block is closed when its content has reached this: less than a millisecond of work."""

HEADER_BYTES_MAX: Final = 1 << 20
_CONTENT_BYTES_MAX: Final = BATCH_BYTES_MAX + (1 << 20)
_ZLIB_LEVEL: Final = 1
_encode = encoder()

_FILE_START = struct.Struct("<8sIII")  # magic, version, length of the JSON, CRC32C
_BLOCK = struct.Struct("<BBHIII")  # kind, table, group, items, content length, stored length
_CHECKSUM = struct.Struct("<I")
_TRAILER = struct.Struct("<Q8s")  # offset of the end block, magic
_ROW = struct.Struct("<HI")
_BATCH = struct.Struct("<QI")
_RECORD = struct.Struct("<IIQ")

_ROWS, _BATCHES, _END = 1, 2, 3

Row = tuple[bytes, bytes]
Batch = tuple[int, list[LogRecord]]
"""The sequence of a batch's first record, and its records."""

_Decoded = TypeVar("_Decoded")


class SnapshotError(PersistenceError):
    """A snapshot cannot be made, read or restored. The text is for an operator."""


class SnapshotDamaged(SnapshotError):
    """A file that is not a snapshot, is incomplete, or was altered."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}. Nothing was changed. Use another snapshot.")
        self.path = path
        self.problem = problem


class GroupHeader(Struct, frozen=True, kw_only=True):
    """One group of shards in a snapshot of several, as `SnapshotHeader` says it of one."""

    shards_count: int
    rows_position: int
    rows_until_sequence: int
    until_sequence: int


class SnapshotHeader(Struct, frozen=True, kw_only=True):
    """What a snapshot is of. All sequences are those of the log.

    The rows cover the log up to `rows_position`, in some shards further, in none beyond
    `rows_until_sequence`; they hold nothing later than `rows_until_ms`. The batches go on from
    there to `until_sequence`, the moment that the snapshot shows.

    Of a directory with several groups, `groups` says that for each, and the file has their parts
    one after the other; the sequences here are then the largest of them.
    """

    data_id: str
    secret: str
    shard_count: int
    directory_created_at_ms: int
    created_at_ms: int
    troth_version: str
    row_format: int
    tables: tuple[str, ...]
    rows_position: int
    rows_until_sequence: int
    rows_until_ms: int
    until_sequence: int
    placement: PlacementRule = PlacementRule.ID
    """Files of version 1 do not say it: there was one rule."""
    groups: tuple[GroupHeader, ...] = ()

    @property
    def parts(self) -> tuple[GroupHeader, ...]:
        """The groups; there is always one."""
        return self.groups or (
            GroupHeader(
                shards_count=self.shard_count,
                rows_position=self.rows_position,
                rows_until_sequence=self.rows_until_sequence,
                until_sequence=self.until_sequence,
            ),
        )

    @property
    def group_shards(self) -> tuple[int, ...]:
        """The number of shards of each group."""
        return tuple(part.shards_count for part in self.parts)


class SnapshotEnd(Struct, frozen=True, kw_only=True):
    """What a whole file holds. `sha256` is over everything before the end block."""

    rows: dict[str, int]
    batches_count: int
    records_count: int
    sha256: str


class PieceCounts(Struct):
    """What some bytes of a file hold."""

    rows: dict[str, int]
    batches_count: int = 0
    records_count: int = 0

    def add(self, other: "PieceCounts") -> None:
        """Add what further bytes hold."""
        for table, count in other.rows.items():
            self.rows[table] += count
        self.batches_count += other.batches_count
        self.records_count += other.records_count

    def end(self, sha256: str) -> SnapshotEnd:
        """Return the end of a file that holds this."""
        return SnapshotEnd(
            rows=dict(self.rows),
            batches_count=self.batches_count,
            records_count=self.records_count,
            sha256=sha256,
        )


@final
class FileEncoder:
    """Makes a file of its groups' pieces, which come in the groups' order (`group_pieces`)."""

    def __init__(self, header: SnapshotHeader) -> None:
        self._header = header
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._counts = PieceCounts(dict.fromkeys(header.tables, 0))

    def begin(self) -> bytes:
        """Return what a file begins with."""
        fields = msgspec.to_builtins(self._header)
        if not self._header.groups:
            del fields["groups"]  # as ever
        manifest = json.dumps(fields, indent=1).encode()
        assert len(manifest) <= HEADER_BYTES_MAX
        return self._noted(_file_start(manifest) + manifest)

    def add(self, piece: bytes, counts: PieceCounts) -> bytes:
        """Return a piece as it is, and note what it holds."""
        self._counts.add(counts)
        return self._noted(piece)

    def end(self) -> bytes:
        """Return what a file ends with."""
        end = _encode(self._counts.end(self._digest.hexdigest()))
        return _block(_END, 0, 0, 1, end) + _TRAILER.pack(self._size_bytes, END_MAGIC)

    def _noted(self, piece: bytes) -> bytes:
        self._digest.update(piece)
        self._size_bytes += len(piece)
        return piece


def encode(
    header: SnapshotHeader,
    tables: Iterable[tuple[str, Iterable[Row]]],
    batches: Iterable[Batch],
) -> Iterator[bytes]:
    """Yield a file's bytes, of one group. Each table of the header comes once, in any order."""
    encoder = FileEncoder(header)
    yield encoder.begin()
    for piece, counts in group_pieces(header.tables, 0, tables, batches):
        yield encoder.add(piece, counts)
    yield encoder.end()


def group_pieces(
    names: Sequence[str],
    group: int,
    tables: Iterable[tuple[str, Iterable[Row]]],
    batches: Iterable[Batch],
) -> Iterator[tuple[bytes, PieceCounts]]:
    """Yield the part of a group in a file with tables of these names, and what each piece holds."""
    for table, rows in tables:
        index = names.index(table)
        for count, content in _row_contents(rows):
            yield _block(_ROWS, index, group, count, content), PieceCounts({table: count})
    for count, records_count, content in _batch_contents(batches):
        yield _block(_BATCHES, 0, group, count, content), PieceCounts({}, count, records_count)


def _file_start(manifest: bytes) -> bytes:
    start = _FILE_START.pack(MAGIC, FORMAT_VERSION, len(manifest), 0)[:16]
    return start + _CHECKSUM.pack(google_crc32c.value(start + manifest))


def _block(kind: int, table: int, group: int, items_count: int, content: bytes) -> bytes:
    stored = zlib.compress(content, _ZLIB_LEVEL)
    start = _BLOCK.pack(kind, table, group, items_count, len(content), len(stored))
    checksum = google_crc32c.extend(google_crc32c.value(start), stored)
    return b"".join((start, _CHECKSUM.pack(checksum), stored))


def _row_contents(rows: Iterable[Row]) -> Iterator[tuple[int, bytes]]:
    pieces: list[bytes] = []
    count = size_bytes = 0
    for key, value in rows:
        pieces += (_ROW.pack(len(key), len(value)), key, value)
        count += 1
        size_bytes += _ROW.size + len(key) + len(value)
        if size_bytes >= BLOCK_BYTES:
            yield count, b"".join(pieces)
            pieces = []
            count = size_bytes = 0
    if count:
        yield count, b"".join(pieces)


def _batch_contents(batches: Iterable[Batch]) -> Iterator[tuple[int, int, bytes]]:
    pieces: list[bytes] = []
    count = records_count = size_bytes = 0
    for first_sequence, records in batches:
        pieces.append(_BATCH.pack(first_sequence, len(records)))
        for shard, shard_sequence, body in records:
            pieces += (_RECORD.pack(shard, len(body), shard_sequence), body)
            size_bytes += _RECORD.size + len(body)
        count += 1
        records_count += len(records)
        size_bytes += _BATCH.size
        if size_bytes >= BLOCK_BYTES:
            yield count, records_count, b"".join(pieces)
            pieces = []
            count = records_count = size_bytes = 0
    if count:
        yield count, records_count, b"".join(pieces)


class SnapshotPart(NamedTuple):
    """A verified block: rows of one table, or batches of the log of a group."""

    table: str | None
    rows: list[Row]
    batches: list[Batch]
    group: int = 0


class SnapshotReader:
    """Reads one file, once. Used in a `with` block. Raises SnapshotError.

    What `parts` has yielded is intact, but only when it is exhausted is the file known to be whole.
    """

    def __init__(self, path: Path) -> None:
        """Open the file and read its header."""
        self.path = path
        self.position_bytes = 0
        self.end: SnapshotEnd | None = None
        self._digest = hashlib.sha256()
        self._file: BinaryIO
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise SnapshotError(f"{path}: cannot be read ({error.strerror}).") from error
        try:
            self.size_bytes = path.stat().st_size
            self.header = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def _damaged(self, problem: str) -> SnapshotDamaged:
        return SnapshotDamaged(str(self.path), problem)

    def _read(self, size_bytes: int) -> bytes:
        """Read exactly this many bytes. Lengths were checked: no damaged one asks for too much."""
        try:
            data = self._file.read(size_bytes)
        except OSError as error:
            raise SnapshotError(f"{self.path}: cannot be read ({error.strerror}).") from error
        if len(data) < size_bytes:
            raise self._damaged(
                f"it ends at byte {self.position_bytes + len(data)}, in the middle: it was cut "
                "off, or its creation was interrupted"
            )
        self.position_bytes += size_bytes
        return data

    def _read_header(self) -> SnapshotHeader:
        if self.size_bytes < _FILE_START.size:
            raise self._damaged("it is not a snapshot of Troth, or only the beginning of one")
        start = self._read(_FILE_START.size)
        magic, version, length_bytes, checksum = _FILE_START.unpack(start)
        if magic != MAGIC:
            raise self._damaged("it is not a snapshot of Troth")
        if version > FORMAT_VERSION:
            raise SnapshotError(
                f"{self.path} has snapshot format {version}; this version of Troth knows "
                f"{FORMAT_VERSION}. Nothing was changed. Use a newer version of Troth."
            )
        if not 1 <= version <= FORMAT_VERSION or length_bytes > HEADER_BYTES_MAX:
            raise self._damaged("its header differs from what was written")
        manifest = self._read(length_bytes)
        if google_crc32c.value(start[:16] + manifest) != checksum:
            raise self._damaged("its header differs from what was written")
        self._digest.update(start + manifest)
        return self._decode(manifest, SnapshotHeader)

    def _decode(self, content: bytes, kind: type[_Decoded]) -> _Decoded:
        try:
            return msgspec.json.decode(content, type=kind)
        except UNREADABLE_JSON as error:
            raise self._damaged(f"its description cannot be read ({error})") from error

    def parts(self) -> Iterator[SnapshotPart]:
        """Yield all blocks, then check that this was all. Raises SnapshotError."""
        counts = PieceCounts(dict.fromkeys(self.header.tables, 0))
        last_group = 0
        while True:
            offset = self.position_bytes
            digest = self._digest.hexdigest()
            kind, table, group, items_count, content = self._read_block()
            if kind == _END:
                self._check_end(content, counts.end(digest), offset)
                return
            if not last_group <= group < len(self.header.parts):
                raise self._damaged(f"the block at byte {offset} belongs to no group")
            last_group = group
            if kind == _ROWS and table < len(self.header.tables):
                name = self.header.tables[table]
                part = SnapshotPart(name, self._rows(content, items_count), [], group)
                counts.rows[self.header.tables[table]] += items_count
            elif kind == _BATCHES:
                part = SnapshotPart(None, [], self._batches(content, items_count), group)
                counts.batches_count += items_count
                counts.records_count += sum(len(records) for _, records in part.batches)
            else:
                raise self._damaged(f"the block at byte {offset} is of an unknown kind")
            yield part

    def _read_block(self) -> tuple[int, int, int, int, bytes]:
        offset = self.position_bytes
        start = self._read(_BLOCK.size + _CHECKSUM.size)
        kind, table, group, items_count, content_bytes, stored_bytes = _BLOCK.unpack_from(start)
        (checksum,) = _CHECKSUM.unpack_from(start, _BLOCK.size)
        remaining_bytes = self.size_bytes - self.position_bytes
        if content_bytes > _CONTENT_BYTES_MAX:
            raise self._damaged(f"the block at byte {offset} differs from what was written")
        if stored_bytes > remaining_bytes:
            raise self._damaged(
                f"the block at byte {offset} differs from what was written, or the file was cut"
            )
        stored = self._read(stored_bytes)
        found = google_crc32c.extend(google_crc32c.value(start[: _BLOCK.size]), stored)
        if found != checksum:
            raise self._damaged(f"the block at byte {offset} differs from what was written")
        self._digest.update(start)
        self._digest.update(stored)
        return kind, table, group, items_count, self._inflated(stored, content_bytes, offset)

    def _inflated(self, stored: bytes, content_bytes: int, offset: int) -> bytes:
        decompressor = zlib.decompressobj()
        try:
            content = decompressor.decompress(stored, content_bytes + 1)
        except zlib.error as error:
            raise self._damaged(
                f"the block at byte {offset} cannot be unpacked ({error})"
            ) from error
        if len(content) != content_bytes or not decompressor.eof or decompressor.unused_data:
            raise self._damaged(
                f"the block at byte {offset} does not have the length that it states"
            )
        return content

    def _rows(self, content: bytes, count: int) -> list[Row]:
        rows: list[Row] = []
        position = 0
        try:
            for _ in range(count):
                key_bytes, value_bytes = _ROW.unpack_from(content, position)
                key_end = position + _ROW.size + key_bytes
                value_end = key_end + value_bytes
                rows.append((content[position + _ROW.size : key_end], content[key_end:value_end]))
                position = value_end
        except struct.error as error:
            raise self._damaged("the rows of a block do not fill it") from error
        if position != len(content):
            raise self._damaged("the rows of a block do not fill it")
        return rows

    def _batches(self, content: bytes, count: int) -> list[Batch]:
        batches: list[Batch] = []
        position = 0
        try:
            for _ in range(count):
                first_sequence, records_count = _BATCH.unpack_from(content, position)
                position += _BATCH.size
                records = []
                for _ in range(records_count):
                    shard, body_bytes, shard_sequence = _RECORD.unpack_from(content, position)
                    start = position + _RECORD.size
                    position = start + body_bytes
                    records.append(LogRecord(shard, shard_sequence, content[start:position]))
                batches.append((first_sequence, records))
        except struct.error as error:
            raise self._damaged("the batches of a block do not fill it") from error
        if position != len(content):
            raise self._damaged("the batches of a block do not fill it")
        return batches

    def read_end(self) -> SnapshotEnd:
        """Return the end, read on its own, instead of `parts`. Raises SnapshotError."""
        trailer_offset = self.size_bytes - _TRAILER.size
        trailer = self._read_at(max(0, trailer_offset), _TRAILER.size)
        end_offset, magic = _TRAILER.unpack(trailer)
        if magic != END_MAGIC or not _FILE_START.size <= end_offset < trailer_offset:
            raise self._damaged(
                "it has no end block: it was cut off, or its creation was interrupted"
            )
        self._read_at(end_offset, 0)
        kind, _, _, _, content = self._read_block()
        if kind != _END:
            raise self._damaged(f"there is no end block at byte {end_offset}, where one should be")
        return self._decode(content, SnapshotEnd)

    def _read_at(self, offset: int, size_bytes: int) -> bytes:
        self._file.seek(offset)
        self.position_bytes = offset
        return self._read(size_bytes)

    def _check_end(self, content: bytes, found: SnapshotEnd, offset: int) -> None:
        end = self._decode(content, SnapshotEnd)
        trailer = self._read(_TRAILER.size)
        if trailer != _TRAILER.pack(offset, END_MAGIC):
            raise self._damaged("its last bytes differ from what was written")
        if self.position_bytes != self.size_bytes:
            raise self._damaged(f"there is data after its end at byte {self.position_bytes}")
        if end != found:
            raise self._damaged(
                "its content does not match its end block: a part is missing or duplicated"
            )
        self.end = end
