"""The rules for making, reading and restoring snapshots: which tables, and what is checked.

Each check raises a SnapshotError that names the file, says what is wrong with it, and leaves
everything as it was.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, final

from troth.persistence.checkpoints import rows
from troth.persistence.errors import CheckpointDamaged
from troth.persistence.files import RealFiles

from .snapshot_file import GroupHeader, Row, SnapshotDamaged, SnapshotError, SnapshotHeader

TABLES: Final = tuple(table for table in rows.TABLES if table != rows.META)
"""The tables in a snapshot. META names a data directory, so a restored store writes its own."""

BytesDone = Callable[[int], None]
"""Told how many bytes have been done so far."""


def check_formats(path: Path, header: SnapshotHeader) -> None:
    """Raise SnapshotError unless this version of Troth can use the rows."""
    if header.row_format not in rows.FORMATS_READ or not set(header.tables) <= set(TABLES):
        raise SnapshotError(
            f"{path} was made by Troth {header.troth_version}, with rows of format "
            f"{header.row_format}; this version of Troth knows {rows.FORMATS_TEXT}. Nothing was "
            "changed. Use the version that made it, or a newer one; a directory that an older one "
            "has restored can be converted (`troth data convert`)."
        )


def check_rows(path: Path, table: str, found: Iterable[Row]) -> None:
    """Raise SnapshotDamaged if a row had rotted before the snapshot was made."""
    if table not in rows.SEALED:
        return
    try:
        for key, value in found:
            rows.unseal(table, key, value)
    except CheckpointDamaged as error:
        raise SnapshotDamaged(
            str(path), f"a row of {table} was already corrupt when the snapshot was made"
        ) from error


def check_continues(path: Path, next_sequence: int, first_sequence: int, count: int) -> int:
    """Return the sequence after a batch.

    Raises SnapshotDamaged if the batch leaves a gap before it.
    """
    end = first_sequence + count
    if first_sequence > next_sequence or end <= next_sequence:
        raise SnapshotDamaged(
            str(path),
            f"a batch begins at record {first_sequence}, but must begin at {next_sequence}",
        )
    return end


def check_complete(path: Path, header: GroupHeader | SnapshotHeader, next_sequence: int) -> None:
    """Raise SnapshotDamaged unless the batches reach the end that the header promises."""
    if next_sequence != header.until_sequence + 1:
        raise SnapshotDamaged(
            str(path),
            f"its records end before {header.until_sequence}, which its header names as the last",
        )


@final
class LogsChecked:
    """Checks that the batches of each group in a file continue one another, and reach their end."""

    def __init__(self, path: Path, header: SnapshotHeader) -> None:
        self._path = path
        self._groups = header.parts
        self._next = [part.rows_position + 1 for part in self._groups]

    def take(self, group: int, first_sequence: int, count: int) -> None:
        """Check a batch. Raises SnapshotDamaged."""
        self._next[group] = check_continues(self._path, self._next[group], first_sequence, count)

    def done(self) -> None:
        """Check that this was all. Raises SnapshotDamaged."""
        for part, next_sequence in zip(self._groups, self._next, strict=True):
            check_complete(self._path, part, next_sequence)


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    RealFiles().sync_directory(str(path) or ".")
