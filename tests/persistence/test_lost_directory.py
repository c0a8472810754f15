"""A data directory that is deleted, moved or replaced while it is in use.

What is written after the next look must not be acknowledged, and what has taken the directory's
place must not be touched: it may be a copy that another server is to use.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from troth.persistence.data_directory import CHECKPOINTS_NAME, LOG_NAME, DataDirectory
from troth.persistence.errors import DataDirectoryLost
from troth.persistence.files import RealFiles
from troth.persistence.wal.log import LogRecord
from troth.persistence.wal.segmented_log import LINK_LOOK_INTERVAL_S
from troth.shards.storage import DirectoryStorage

SEGMENT_BYTES = 4096


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    """A data directory, opened through a link as operators do, with a log of several segments."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    opened = DataDirectory.open(
        tmp_path / "link", RealFiles(), created_at_ms=0, segment_bytes=SEGMENT_BYTES
    )
    assert not list(opened.recover())
    append(opened)
    yield opened
    opened.close()


def append(directory: DataDirectory, count: int = 10) -> None:
    """Append records of a third of a segment each."""
    for _ in range(count):
        sequence = directory.log.next_sequence
        directory.log.append([LogRecord(0, sequence, b"x" * 1200)], sequence)


def content(path: Path) -> dict[str, bytes]:
    """Everything in a directory."""
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


def test_a_switched_link_changes_nothing(directory: DataDirectory, tmp_path: Path) -> None:
    """The link is followed once: log, roll-overs and removals stay where they began."""
    shutil.copytree(tmp_path / "real", tmp_path / "copy")
    before = content(tmp_path / "copy")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "copy")

    append(directory)
    trim(directory)
    directory.check()

    assert content(tmp_path / "copy") == before
    assert len(list((tmp_path / "real" / LOG_NAME).glob("*.log"))) == 1


def trim(directory: DataDirectory) -> None:
    """Have the log forget whatever it may forget."""
    directory.log.trim(directory.log.next_sequence)


@pytest.mark.parametrize("act", [append, trim, DataDirectory.check])
def test_a_copy_in_its_place_is_not_touched(
    directory: DataDirectory, tmp_path: Path, act: Callable[[DataDirectory], None]
) -> None:
    shutil.copytree(tmp_path / "real", tmp_path / "copy")
    before = content(tmp_path / "copy")
    (tmp_path / "real").rename(tmp_path / "old")
    (tmp_path / "copy").rename(tmp_path / "real")

    with pytest.raises(DataDirectoryLost, match="moved or replaced"):
        act(directory)

    assert content(tmp_path / "real") == before
    assert len(list((tmp_path / "old" / LOG_NAME).glob("*.log"))) > 1


@pytest.mark.parametrize("what", ["", LOG_NAME])
def test_a_deleted_directory_acknowledges_nothing(
    directory: DataDirectory, tmp_path: Path, what: str
) -> None:
    shutil.rmtree(tmp_path / "real" / what if what else tmp_path / "real")
    time.sleep(LINK_LOOK_INTERVAL_S)  # a batch in between may be written once more
    sequence = directory.log.next_sequence

    with pytest.raises(DataDirectoryLost):
        directory.log.append([LogRecord(0, sequence, b"lost")], sequence)
    with pytest.raises(DataDirectoryLost):
        directory.check()


def test_a_log_directory_in_the_place_of_the_log_is_found_out(
    directory: DataDirectory, tmp_path: Path
) -> None:
    log = tmp_path / "real" / LOG_NAME
    log.rename(tmp_path / "old-log")
    log.mkdir()

    with pytest.raises(DataDirectoryLost):
        append(directory)

    assert os.listdir(log) == []


def test_checkpoints_in_another_place_keep_the_log(tmp_path: Path) -> None:
    """The log is not trimmed for a checkpoint that went into a file without a name."""
    storage = DirectoryStorage(tmp_path / "data", 1)
    assert not list(storage.records())
    assert storage.checkpoints is not None
    storage.checkpoints.write([])
    storage.check()
    shutil.rmtree(tmp_path / "data" / CHECKPOINTS_NAME)

    with pytest.raises(DataDirectoryLost):
        storage.trim(storage.next_sequence)
    with pytest.raises(DataDirectoryLost):
        storage.checkpoints.write([])
    storage.close()
