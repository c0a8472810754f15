"""Snapshots of a directory at rest: how far they are is told, and what is not one is left alone."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from tests.persistence import groups
from tests.persistence.groups import digests_of
from tests.shards.stage import FAR_MS
from troth.core import commands as c
from troth.core.model import PromiseState
from troth.persistence.snapshots import restoring
from troth.persistence.snapshots.restoring import Until, restore
from troth.persistence.snapshots.snapshot_file import SnapshotError
from troth.persistence.snapshots.snapshots import (
    automatic_name,
    cut_stopped_directory,
    list_directory,
    remove_old,
    verify,
    write_file,
)

GOLDEN = Path(__file__).parent / "golden" / "version_2" / "data"


def snapshot_of(data: Path, target: Path, at_ms: int = 1_800_000_000_000) -> list[int]:
    """Write a snapshot; how many bytes were written, from time to time."""
    told: list[int] = []
    with cut_stopped_directory(data, created_at_ms=at_ms, troth_version="test") as cut:
        size_bytes = write_file(cut.encoded(), target, told.append)
    assert told[-1] == size_bytes == target.stat().st_size
    return told


def test_it_is_told_how_far_a_snapshot_and_its_restoration_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small the parts are in which it is written: all of it is there in the end."""
    data = Path(shutil.copytree(GOLDEN, tmp_path / "data"))
    file = tmp_path / "a.snapshot"
    written = snapshot_of(data, file)
    assert written == sorted(written)
    verified: list[int] = []
    verify(file, verified.append)
    assert verified == sorted(verified)
    monkeypatch.setattr(restoring, "_COMMIT_BYTES", 5_000)
    monkeypatch.setattr(restoring, "_FRAME_BYTES", 500)
    restored: list[int] = []
    found = restore(file, tmp_path / "new", until=Until(), progress=restored.append)
    assert restored == verified
    assert found.records_count > 0
    assert digests_of(tmp_path / "new") == digests_of(data)


def test_a_list_has_snapshots_alone_and_old_ones_of_other_data_stay(tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    (backups / "notes.txt").write_text("not one")
    for name in ("own", "other"):
        groups.write(tmp_path / name, [c.CreatePromise(name, FAR_MS)])
        for number in range(2):
            file = backups / automatic_name(f"2030010{number}T000000Z", len(name))
            snapshot_of(tmp_path / name, file, 1_800_000_000_000 + number)
    found = list_directory(backups)
    assert len(found) == 4
    assert all(one.problem is None for one in found)
    header = found[0].header
    assert header is not None
    assert remove_old(backups, header.data_id, 1) == 1
    left = [one.header.data_id for one in list_directory(backups) if one.header is not None]
    assert left.count(header.data_id) == 1
    assert len(left) == 3
    with pytest.raises(SnapshotError, match="cannot be listed"):
        list_directory(tmp_path / "nothing")


def test_a_directory_whose_log_lacks_its_end_is_not_made_a_snapshot(tmp_path: Path) -> None:
    """The checkpoints have reached more: it would be one of a state that never was."""
    data = Path(shutil.copytree(GOLDEN, tmp_path / "data"))
    first, last = sorted((data / "groups" / "0" / "log").iterdir())
    last.unlink()
    content = first.read_bytes()
    first.write_bytes(content[:64] + bytes(len(content) - 64))
    with pytest.raises(SnapshotError, match="part of the log is missing"):
        snapshot_of(data, tmp_path / "a.snapshot")
    assert not (tmp_path / "a.snapshot").exists()


def test_a_snapshot_is_restored_into_no_directory_that_is_used(tmp_path: Path) -> None:
    """A file system of its own is not renamed either: what is in it would be lost from sight."""
    data = tmp_path / "data"
    groups.write(
        data, [c.CreatePromise("a", FAR_MS), c.CompletePromise("a", PromiseState.RESOLVED)]
    )
    file = tmp_path / "a.snapshot"
    snapshot_of(data, file)
    with pytest.raises(SnapshotError, match="is not empty"):
        restore(file, data, until=Until())
    mounted = tmp_path / "mounted"
    (mounted / "lost+found").mkdir(parents=True)
    with pytest.raises(SnapshotError, match="is a file system of its own"):
        restore(file, mounted, until=Until())
    (tmp_path / "empty").mkdir()
    restored = restore(file, tmp_path / "empty", until=Until())
    assert dataclasses.asdict(restored)["records_count"] == 2
    assert sorted(os.listdir(tmp_path)) == ["a.snapshot", "data", "empty", "mounted"]
