"""Verifying with real checkpoints beside the log, in a directory that is served or stopped."""

from pathlib import Path

import lmdb
import pytest

from troth.core import records
from troth.core.state.captures import Capture, ShardHeader
from troth.persistence.checkpoints import rows
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.checkpoints.store import DATA_NAME, LOCK_NAME, LmdbStore
from troth.persistence.data_directory import CHECKPOINTS_NAME, DataDirectory
from troth.persistence.errors import CheckpointDamaged, CheckpointFailed, DataDirectoryUnreadable
from troth.persistence.files import RealFiles
from troth.persistence.inspection import log_covered
from troth.persistence.inspection.log_covered import covered_sequence, verify_directory
from troth.persistence.inspection.log_repair import LogRepair
from troth.persistence.inspection.log_tools import LogReport, verify
from troth.persistence.wal.log import LogRecord

SHARDS_COUNT = 2
BODY = records.encode(records.TasksRenewed("w" * 300, 1))


def capture(shard: int, position: int) -> Capture:
    """A shard without entities that has come to a position."""
    header = ShardHeader(shard, 0, position, 0, 0, {}, {}, 0, 0, 0, 0, 0, 0, 0, 0)
    return Capture(header, {}, {}, {}, {}, {}, {})


def write_checkpoint(path: Path, data_id: bytes, *positions: int) -> None:
    """Write a checkpoint in which each shard has come to its own position."""
    store = LmdbStore(path / CHECKPOINTS_NAME, rows.TABLES)
    checkpoints = Checkpoints(store, data_id, len(positions))
    checkpoints.write([capture(shard, position) for shard, position in enumerate(positions)])
    checkpoints.close()


@pytest.fixture
def trimmed(tmp_path: Path) -> tuple[Path, bytes]:
    """A directory of 20 records; the checkpoints cover 13, and the log begins somewhere there."""
    path = tmp_path / "data"
    directory = DataDirectory.open(
        path, RealFiles(), SHARDS_COUNT, created_at_ms=1, segment_bytes=1200
    )
    list(directory.recover())
    for sequence in range(1, 21):
        directory.log.append([LogRecord(sequence % 2, sequence, BODY)], sequence)
    directory.log.trim(14)
    directory.close()
    data_id = directory.identity.data_id
    write_checkpoint(path, data_id, 15, 13)
    return path, data_id


def names(path: Path) -> list[str]:
    return sorted(file.name for file in (path / CHECKPOINTS_NAME).iterdir())


def test_a_trimmed_log_is_sound_with_its_checkpoints(trimmed: tuple[Path, bytes]) -> None:
    path, data_id = trimmed
    before = names(path)

    report, covered = verify_directory(RealFiles(), path)

    assert covered == covered_sequence(path, data_id) == 13  # the shard that is furthest behind
    assert report.is_sound
    assert report.first_sequence is not None
    assert 1 < report.first_sequence <= 14
    assert not verify(RealFiles(), path).is_sound  # without the checkpoints it would not be
    assert names(path) == before == [DATA_NAME]  # nothing was made, not even a lock file
    with LogRepair(RealFiles(), path) as repair:
        assert repair.plan(covered + 1) is None


def test_a_lock_file_that_is_left_over_does_not_matter(trimmed: tuple[Path, bytes]) -> None:
    path, data_id = trimmed
    (path / CHECKPOINTS_NAME / LOCK_NAME).touch()

    assert covered_sequence(path, data_id) == 13


def test_without_checkpoints_nothing_is_covered(tmp_path: Path) -> None:
    assert covered_sequence(tmp_path, b"x" * 16) == 0
    # An environment without tables, as a crash may leave it when it is first opened.
    (tmp_path / CHECKPOINTS_NAME).mkdir(parents=True)
    lmdb.open(str(tmp_path / CHECKPOINTS_NAME), max_dbs=2).close()
    assert covered_sequence(tmp_path, b"x" * 16) == 0


def test_checkpoints_of_another_directory_are_refused(trimmed: tuple[Path, bytes]) -> None:
    with pytest.raises(CheckpointDamaged, match="belongs to another data directory"):
        covered_sequence(trimmed[0], b"x" * 16)


def test_checkpoints_of_a_newer_format_are_refused(
    trimmed: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data_id = trimmed
    monkeypatch.setattr(rows, "FORMATS_READ", (rows.FORMAT_VERSION + 1,))

    with pytest.raises(CheckpointDamaged, match="is unknown"):
        covered_sequence(path, data_id)


def test_checkpoints_that_are_none_are_refused(trimmed: tuple[Path, bytes]) -> None:
    path, _ = trimmed
    (path / CHECKPOINTS_NAME / DATA_NAME).write_bytes(b"x" * 10_000)

    with pytest.raises(CheckpointFailed, match="cannot be read"):
        verify_directory(RealFiles(), path)


def test_what_a_server_trims_meanwhile_is_no_damage(
    trimmed: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoints are read before the log: if both have moved on, both are read again."""
    path, _ = trimmed
    moving = iter([2, 2, 13, 13])  # at first, and after each failure: still, then moved
    monkeypatch.setattr(log_covered, "covered_sequence", lambda *_: next(moving))

    # It did not move: the log really is damaged.
    report, covered = verify_directory(RealFiles(), path)
    assert (report.is_sound, covered) == (False, 2)

    moving = iter([2, 5, 13])
    report, covered = verify_directory(RealFiles(), path)
    assert (report.is_sound, covered) == (True, 13)


def test_reading_that_fails_is_repeated_only_while_the_server_moves_on(
    trimmed: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = trimmed
    failures = [1, 1]

    def failing(files: RealFiles, path: Path, from_sequence: int, group: int) -> LogReport:
        if failures:
            failures.pop()
            raise DataDirectoryUnreadable(str(path), "has gone", "Again.")
        return verify(files, path, from_sequence, group=group)

    monkeypatch.setattr(log_covered, "verify", failing)
    moving = iter([3, 5, 13])
    monkeypatch.setattr(log_covered, "covered_sequence", lambda *_: next(moving))

    assert verify_directory(RealFiles(), path)[0].is_sound

    failures.append(1)
    moving = iter([13, 13])
    with pytest.raises(DataDirectoryUnreadable, match="has gone"):
        verify_directory(RealFiles(), path)


def test_a_server_that_always_moves_on_is_not_followed_for_ever(
    trimmed: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = trimmed
    moving = iter(range(1, 100))
    monkeypatch.setattr(log_covered, "covered_sequence", lambda *_: next(moving))

    report, _ = verify_directory(RealFiles(), path)

    assert not report.is_sound
    assert next(moving) == log_covered.ATTEMPTS_COUNT + 1
