"""How far the checkpoints of a data directory reach, asked from outside: for the log's tools.

A server removes log that its checkpoints cover, so whether a log is whole can be said only with
them. A running server may advance both in the meantime; nothing here writes to either.
"""

import os
from pathlib import Path
from typing import Final

import lmdb

from troth.persistence.checkpoints import rows
from troth.persistence.checkpoints.rows import RowDecoder
from troth.persistence.checkpoints.store import DATA_NAME, LOCK_NAME, LmdbView
from troth.persistence.data_directory import checkpoints_name
from troth.persistence.errors import CheckpointDamaged, CheckpointFailed, DataDirectoryUnreadable
from troth.persistence.files import Files

from .log_tools import LogReader, LogReport, verify

ATTEMPTS_COUNT: Final = 5
"""How often a log is verified again when a server has removed segments during the reading."""


def covered_sequence(path: str | os.PathLike[str], data_id: bytes, group: int = 0) -> int:
    """Return the last record of a group's log that its checkpoints cover, or 0 without any.

    Raises `CheckpointDamaged` or `CheckpointFailed` if they cannot be read.
    """
    directory = Path(path) / checkpoints_name(group)
    if not (directory / DATA_NAME).exists():
        return 0
    try:
        # LMDB's lock file keeps a running server from overwriting what is read here. Without one
        # no server uses the directory, and then none must be made.
        environment = lmdb.open(
            str(directory),
            readonly=True,
            lock=(directory / LOCK_NAME).exists(),
            max_dbs=2,
            create=False,
        )
        with environment:
            tables = {
                table: environment.open_db(table.encode(), create=False)
                for table in (rows.META, rows.HEADERS)
            }
            view = LmdbView(environment.begin(), tables)
            try:
                return _position(view, data_id)
            finally:
                view.close()
    except lmdb.NotFoundError:
        return 0  # made, but never committed to
    except (lmdb.Error, OSError) as error:
        raise CheckpointFailed(str(directory), "cannot be read", error) from error


def _position(view: LmdbView, data_id: bytes) -> int:
    """Return the position of the shard that is furthest behind. Raises `CheckpointDamaged`."""
    version = view.get(rows.META, b"format")
    if version is not None:
        rows.check_format(version)
    if view.get(rows.META, b"data id") not in (None, data_id):
        raise CheckpointDamaged(rows.META, "it belongs to another data directory")
    decoder = RowDecoder()
    headers = view.scan(rows.HEADERS, b"", b"\xff" * 8)
    return min((decoder.header(key, value).position for key, value in headers), default=0)


def verify_directory(
    files: Files, path: str | os.PathLike[str], group: int | None = None
) -> tuple[LogReport, int]:
    """Verify a log with its group's checkpoints; return the report, and how far they reach.

    With None the directory must have only one group.
    Raises what `verify` and `covered_sequence` raise.
    """
    reader = LogReader(files, path, group)
    data_id, group = reader.identity.data_id, reader.group
    covered = covered_sequence(path, data_id, group)
    for attempt in range(1, ATTEMPTS_COUNT + 1):
        report, failure = None, None
        try:
            report = verify(files, path, covered + 1, group=group)
        except DataDirectoryUnreadable as error:
            failure = error
        before = covered
        if (report is None or not report.is_sound) and attempt < ATTEMPTS_COUNT:
            covered = covered_sequence(path, data_id, group)
        if covered == before:
            break
    if report is None:
        assert failure is not None
        raise failure
    return report, before
