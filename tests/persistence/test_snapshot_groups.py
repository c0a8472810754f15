"""Snapshots of directories with several groups: all parts in one file, and back again."""

import os
from pathlib import Path

import pytest

from tests.persistence.groups import digests_of
from tests.persistence.test_conversion_groups import converted, data
from troth.persistence.snapshots.restoring import Until, restore
from troth.persistence.snapshots.snapshot_file import SnapshotDamaged, SnapshotError
from troth.persistence.snapshots.snapshots import (
    cut_stopped_directory,
    inspect,
    verify,
    write_file,
)

__all__ = ["data"]
AT_MS = 1_800_000_000_000


def snapshot_of(path: Path, target: Path) -> None:
    with cut_stopped_directory(path, created_at_ms=AT_MS, troth_version="test") as cut:
        write_file(cut.encoded(), target, check=verify)


def test_all_groups_are_restored(data: Path, tmp_path: Path) -> None:
    converted(data, 3)
    file = tmp_path / "three.snapshot"
    snapshot_of(data, file)
    header = inspect(file).header
    assert header is not None
    assert len(header.groups) == 3
    assert sum(header.group_shards) == header.shard_count
    restored = restore(file, tmp_path / "new", until=Until())
    assert digests_of(tmp_path / "new") == digests_of(data)
    assert restored.rows_count > 0
    assert not restored.stopped_early


def test_the_number_of_a_record_names_no_moment(data: Path, tmp_path: Path) -> None:
    converted(data, 2)
    file = tmp_path / "two.snapshot"
    snapshot_of(data, file)
    with pytest.raises(SnapshotError, match="Give a time"):
        restore(file, tmp_path / "new", until=Until(sequence=10**9))
    assert not (tmp_path / "new").exists()


def test_a_file_without_one_of_its_groups_is_damaged(data: Path, tmp_path: Path) -> None:
    converted(data, 3)
    file = tmp_path / "three.snapshot"
    snapshot_of(data, file)
    content = bytearray(file.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 4):
        content[place] ^= 0xFF
    broken = tmp_path / "broken.snapshot"
    broken.write_bytes(content)
    with pytest.raises(SnapshotDamaged):
        verify(broken)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(SnapshotDamaged):
        restore(file, tmp_path / "new", until=Until())
    assert not (tmp_path / "new").exists()
