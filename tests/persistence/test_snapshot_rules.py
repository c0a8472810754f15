"""What makes a snapshot unfit to be restored, beyond the bytes of its file."""

from pathlib import Path

import msgspec
import pytest

from troth.persistence.checkpoints import rows
from troth.persistence.snapshots.snapshot_file import SnapshotDamaged, SnapshotError
from troth.persistence.snapshots.snapshot_rules import (
    TABLES,
    check_complete,
    check_continues,
    check_formats,
    check_rows,
)

from .test_snapshot_file import HEADER

PATH = Path("a.snapshot")
FIT = msgspec.structs.replace(HEADER, row_format=rows.FORMAT_VERSION, tables=tuple(TABLES))


def test_rows_of_this_version_are_taken() -> None:
    check_formats(PATH, FIT)


@pytest.mark.parametrize(
    "changes",
    [{"row_format": rows.FORMAT_VERSION + 1}, {"tables": (*TABLES, "later")}],
    ids=["format", "table"],
)
def test_rows_of_another_version_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SnapshotError, match="Use the version that made it"):
        check_formats(PATH, msgspec.structs.replace(FIT, **changes))


def test_a_row_that_has_rotted_before_is_named() -> None:
    with pytest.raises(SnapshotDamaged, match="a row of promises was already corrupt"):
        check_rows(PATH, rows.PROMISES, [(b"key", b"not sealed by a checksum")])


def test_rows_of_an_index_have_no_checksum() -> None:
    check_rows(PATH, rows.BY_END, [(b"key", b"whatever")])


@pytest.mark.parametrize(("first", "count", "end"), [(10, 2, 12), (8, 3, 11)])
def test_batches_that_continue_are_taken(first: int, count: int, end: int) -> None:
    """One may begin before where the rows end, since shards are further than each other."""
    assert check_continues(PATH, 10, first, count) == end


@pytest.mark.parametrize(("first", "count"), [(11, 2), (8, 2)], ids=["gap", "all of it was before"])
def test_batches_that_do_not_continue_are_refused(first: int, count: int) -> None:
    with pytest.raises(SnapshotDamaged, match="must begin at 10"):
        check_continues(PATH, 10, first, count)


def test_batches_reach_the_end_that_is_promised() -> None:
    check_complete(PATH, HEADER, HEADER.until_sequence + 1)
    with pytest.raises(SnapshotDamaged, match="its records end before 15"):
        check_complete(PATH, HEADER, HEADER.until_sequence)
