"""A snapshot file is read as it was written, or refused: cut, altered, foreign or too new."""

import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.persistence.snapshots import snapshot_file
from troth.persistence.snapshots.snapshot_file import (
    Batch,
    FileEncoder,
    PieceCounts,
    Row,
    SnapshotDamaged,
    SnapshotError,
    SnapshotHeader,
    SnapshotReader,
    encode,
)
from troth.persistence.wal.log import LogRecord

TABLES = ("first", "second")
HEADER = SnapshotHeader(
    data_id="ab" * 16,
    secret="cd" * 32,
    shard_count=4,
    directory_created_at_ms=1,
    created_at_ms=2,
    troth_version="0.1.0",
    row_format=1,
    tables=TABLES,
    rows_position=10,
    rows_until_sequence=12,
    rows_until_ms=2,
    until_sequence=15,
)
ROWS: dict[str, list[Row]] = {"first": [(b"a", b"1" * 40), (b"b", b"")], "second": [(b"c", b"3")]}
BATCHES: list[Batch] = [
    (11, [LogRecord(0, 1, b"one"), LogRecord(1, 1, b"two")]),
    (13, [LogRecord(0, 2, b""), LogRecord(3, 9, b"x" * 30), LogRecord(0, 3, b"y")]),
]


def content(rows: dict[str, list[Row]] | None = None, batches: list[Batch] | None = None) -> bytes:
    tables = (ROWS if rows is None else rows).items()
    return b"".join(encode(HEADER, tables, BATCHES if batches is None else batches))


def read(path: Path) -> tuple[dict[str, list[Row]], list[Batch]]:
    rows: dict[str, list[Row]] = {table: [] for table in TABLES}
    batches: list[Batch] = []
    with SnapshotReader(path) as reader:
        assert reader.header == HEADER
        for part in reader.parts():
            if part.table is not None:
                rows[part.table] += part.rows
            batches += part.batches
        assert reader.end is not None
    return rows, batches


KEYS = st.binary(min_size=1, max_size=20)
ROW_LISTS = st.lists(st.tuples(KEYS, st.binary(max_size=200)), max_size=20)
RECORDS = st.builds(
    LogRecord, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=100)
)
BATCH_LISTS = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.lists(RECORDS, max_size=5)))


@given(first=ROW_LISTS, second=ROW_LISTS, batches=BATCH_LISTS, block_bytes=st.integers(1, 500))
def test_everything_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[Row],
    second: list[Row],
    batches: list[Batch],
    block_bytes: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.snapshot"
    rows = {"first": first, "second": second}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot_file, "BLOCK_BYTES", block_bytes)
        path.write_bytes(content(rows, batches))

    assert read(path) == (rows, batches)


def test_the_end_is_read_on_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    path.write_bytes(content())

    with SnapshotReader(path) as reader:
        end = reader.read_end()

    assert reader.header == HEADER
    assert end.rows == {"first": 2, "second": 1}
    assert (end.batches_count, end.records_count) == (2, 5)


def test_a_file_that_was_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    whole = content()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SnapshotDamaged):
            read(path)
        with pytest.raises(SnapshotDamaged), SnapshotReader(path) as reader:
            reader.read_end()


def test_a_file_with_any_byte_altered_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    whole = content()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choices = random.Random(seed)
    for offset in range(len(whole)):
        altered = bytearray(whole)
        altered[offset] ^= 1 << choices.randrange(8)
        path.write_bytes(altered)
        with pytest.raises(SnapshotError):
            read(path)


def blocks(whole: bytes) -> Iterator[tuple[int, int]]:
    """Where each block begins and ends."""
    position = 20 + int.from_bytes(whole[12:16], "little")
    while position < len(whole) - 16:
        end = position + 20 + int.from_bytes(whole[position + 12 : position + 16], "little")
        yield position, end
        position = end


def test_a_file_without_one_block_or_with_one_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    whole = content()
    places = list(blocks(whole))
    assert len(places) == 4
    for start, end in places:
        for altered in (whole[:start] + whole[end:], whole[:end] + whole[start:]):
            path.write_bytes(altered)
            with pytest.raises(SnapshotDamaged):
                read(path)


def test_what_follows_the_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    path.write_bytes(content() + b"\0")
    with pytest.raises(SnapshotDamaged, match="there is data after its end"):
        read(path)


@pytest.mark.parametrize("foreign", [b"", b"\0" * 5000, b"PK\x03\x04" * 100, b"{}" * 50])
def test_other_files_are_refused(tmp_path: Path, foreign: bytes) -> None:
    path = tmp_path / "a.snapshot"
    path.write_bytes(foreign)
    with pytest.raises(SnapshotDamaged, match="is not a snapshot of Troth"):
        SnapshotReader(path)


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    whole = content()
    path.write_bytes(whole[:8] + (3).to_bytes(4, "little") + whole[12:])
    with pytest.raises(SnapshotError, match="snapshot format 3; this version of Troth knows 2"):
        SnapshotReader(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="cannot be read"):
        SnapshotReader(tmp_path / "nothing.snapshot")


def forged(block: bytes, counts: PieceCounts | None = None) -> bytes:
    """A file with one block, and an end that fits."""
    encoder = FileEncoder(HEADER)
    return encoder.begin() + encoder.add(block, counts or PieceCounts({})) + encoder.end()


def block(
    content: bytes = b"", *, kind: int = 1, table: int = 0, group: int = 0, count: int = 0
) -> bytes:
    return snapshot_file._block(kind, table, group, count, content)


def stating(content: bytes, content_bytes: int) -> bytes:
    """A block of rows that says it has so much, with the checksum of that."""
    stored = zlib.compress(content)
    start = struct.pack("<BBHIII", 1, 0, 0, 0, content_bytes, len(stored))
    return start + struct.pack("<I", google_crc32c.value(start + stored)) + stored


ONE_ROW = struct.pack("<HI", 1, 1) + b"kv"
ONE_BATCH = struct.pack("<QI", 11, 1) + struct.pack("<IIQ", 0, 1, 1) + b"r"


@pytest.mark.parametrize(
    ("forgery", "problem"),
    [
        (block(group=1), "belongs to no group"),
        (block(kind=9), "is of an unknown kind"),
        (block(table=7), "is of an unknown kind"),
        (block(ONE_ROW, count=2), "the rows of a block do not fill it"),
        (block(ONE_ROW + b"x", count=1), "the rows of a block do not fill it"),
        (block(ONE_BATCH, kind=2, count=2), "the batches of a block do not fill it"),
        (block(ONE_BATCH + b"x", kind=2, count=1), "the batches of a block do not fill it"),
        (stating(b"x" * 10, 9), "does not have the length that it states"),
        (stating(b"x" * 10, 11), "does not have the length that it states"),
        (stating(b"", 2**31), "differs from what was written"),
        (block(ONE_ROW, count=1), "does not match its end block"),
    ],
)
def test_blocks_that_are_intact_and_wrong_are_refused(
    forgery: bytes, problem: str, tmp_path: Path
) -> None:
    """As a program with a defect could write them; with as much memory as they may have."""
    path = tmp_path / "a.snapshot"
    path.write_bytes(forged(forgery))
    with pytest.raises(SnapshotDamaged, match=problem):
        read(path)


def test_an_end_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    """Where one looks at the end alone, as lists of snapshots do."""
    path = tmp_path / "a.snapshot"
    whole = content()
    start, _ = next(blocks(whole))
    path.write_bytes(whole[:-16] + struct.pack("<Q8s", start, snapshot_file.END_MAGIC))
    with SnapshotReader(path) as reader, pytest.raises(SnapshotDamaged, match="no end block at"):
        reader.read_end()
