"""Snapshots made and restored, killed before every single change to the disk, or refused by it."""

import contextlib
import errno
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
import trio

from troth.persistence import files
from troth.persistence.checkpoints.store import LOCK_NAME, LmdbStore
from troth.persistence.data_directory import CHECKPOINTS_NAME, GROUPS_NAME
from troth.persistence.errors import CheckpointDamaged
from troth.persistence.identity import IDENTITY_NAME
from troth.persistence.snapshots.restoring import MARK, Until, restore
from troth.persistence.snapshots.snapshot_file import SnapshotError
from troth.persistence.snapshots.snapshots import (
    cut_stopped_directory,
    list_directory,
    verify,
    write_file,
)

from .snapshot_world import SEGMENT_BYTES, state_of, world
from .test_snapshotter import fill

CHANGES = ("open", "mkdir", "rename", "link", "unlink", "rmdir", "fsync", "pwrite", "ftruncate")
Hook = Callable[[], None]


@contextlib.contextmanager
def before_every_change(hook: Hook) -> Iterator[None]:
    """Call a function before each call that changes the disk, and each commit of the store."""
    with pytest.MonkeyPatch.context() as patch:

        def hooked(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                hook()
                return function(*arguments, **named)

            return call

        for name in CHANGES:
            patch.setattr(os, name, hooked(getattr(os, name)))
        patch.setattr(files, "_fdatasync", hooked(files._fdatasync))
        patch.setattr(LmdbStore, "commit", hooked(LmdbStore.commit))
        yield


def run_killed_before(change: int, action: Callable[[], object]) -> bool:
    """Run something in a process of its own that is killed before its n-th change; whether it was.

    It is not if it has fewer changes; then it must have succeeded.
    """
    with warnings.catch_warnings():
        # Newer versions of Python warn of forking beside threads; the child uses none of ours.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            count = 0

            def kill() -> None:
                nonlocal count
                count += 1
                if count == change:
                    os.kill(os.getpid(), signal.SIGKILL)

            with before_every_change(kill):
                action()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


@pytest.fixture
def snapshot(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A snapshot with rows and records, and what it shows."""

    async def write() -> None:
        async with world(tmp_path / "data") as server:
            await fill(server, 0, 6)
            await server.checkpointer.checkpoint()
            await fill(server, 6, 6)

    trio.run(write)
    stopped(tmp_path / "data", tmp_path / "a.snapshot")
    found = verify(tmp_path / "a.snapshot")
    assert found.end is not None
    assert found.end.rows["promises"] == 3
    assert found.end.records_count == 9
    return tmp_path / "a.snapshot", state_of(tmp_path / "data")


def stopped(data: Path, target: Path) -> None:
    with cut_stopped_directory(data, created_at_ms=1_700_000_000_000, troth_version="test") as cut:
        write_file(cut.encoded(), target)


@pytest.mark.slow
def test_a_restore_killed_anywhere_leaves_all_or_nothing(
    tmp_path: Path, snapshot: tuple[Path, dict[str, Any]]
) -> None:
    file, shown = snapshot
    before = file.read_bytes()
    target = tmp_path / "target"
    building = tmp_path / "target.restoring"
    change = 0
    killed = True
    whole_count = 0
    while killed:
        change += 1
        killed = run_killed_before(
            change, lambda: restore(file, target, until=Until(), segment_bytes=SEGMENT_BYTES)
        )
        if target.exists():
            assert state_of(target) == shown
            whole_count += 1
        else:
            if (building / IDENTITY_NAME).exists():
                assert (building / MARK.name).exists()
                shutil.copytree(building, tmp_path / "copy")
                assert state_of(tmp_path / "copy") == shown, "what looks whole is whole"
                shutil.rmtree(tmp_path / "copy")
            restore(file, target, until=Until(), segment_bytes=SEGMENT_BYTES)
            assert state_of(target) == shown
        assert sorted(target.iterdir())[0].name in (MARK.name, GROUPS_NAME)
        assert not building.exists()
        shutil.rmtree(target)
    assert file.read_bytes() == before
    assert change > 30
    assert 2 <= whole_count < change


def test_a_snapshot_killed_anywhere_leaves_all_or_nothing(
    tmp_path: Path, snapshot: tuple[Path, dict[str, Any]]
) -> None:
    _, shown = snapshot
    target = tmp_path / "backups" / "b.snapshot"
    target.parent.mkdir()
    change = 0
    killed = True
    while killed:
        change += 1
        killed = run_killed_before(change, lambda: stopped(tmp_path / "data", target))
        assert state_of(tmp_path / "data") == shown
        if not target.exists():
            stopped(tmp_path / "data", target)
        verify(target)
        finished = [found for found in list_directory(target.parent) if found.problem is None]
        assert target in [found.path for found in finished]
        target.unlink()
    assert change > 4


def test_a_disk_that_refuses_anything_leaves_nothing_half_made(
    tmp_path: Path, snapshot: tuple[Path, dict[str, Any]]
) -> None:
    """Every change in turn fails as on a full disk; nothing is left, and the words are clear."""
    file, shown = snapshot
    target = tmp_path / "target"
    refused_count = 0
    failing = 0
    done = False
    while not done:
        failing += 1
        count = 0

        def refuse(failing: int = failing) -> None:
            nonlocal count
            count += 1
            if count == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        problem = ""
        try:
            with before_every_change(refuse):
                restore(file, target, until=Until(), segment_bytes=SEGMENT_BYTES)
        except SnapshotError as error:
            problem = str(error)
            refused_count += 1
        done = count < failing
        if not done and not problem:
            # Only the store's lock file stayed, which does no harm: the directory's own counts.
            assert (target / CHECKPOINTS_NAME / LOCK_NAME).exists()
        else:
            assert done or "No space left on device" in problem
            assert done == (problem == "")
        if target.exists():  # all that failed was putting it in its place durably
            assert state_of(target) == shown
            shutil.rmtree(target)
        shutil.rmtree(tmp_path / "target.restoring", ignore_errors=True)
    assert refused_count > 20


def test_restoring_refuses_directories_that_hold_something(
    tmp_path: Path, snapshot: tuple[Path, dict[str, Any]]
) -> None:
    file, shown = snapshot
    with pytest.raises(SnapshotError, match="is not empty"):
        restore(file, tmp_path / "data", until=Until(), segment_bytes=SEGMENT_BYTES)
    assert state_of(tmp_path / "data") == shown
    with pytest.raises(SnapshotError, match="is not empty"):
        restore(file, file, until=Until(), segment_bytes=SEGMENT_BYTES)

    stranger = tmp_path / "new.restoring"
    stranger.mkdir()
    (stranger / "letters").write_text("precious")
    with pytest.raises(SnapshotError, match="is in the way"):
        restore(file, tmp_path / "new", until=Until(), segment_bytes=SEGMENT_BYTES)
    assert (stranger / "letters").read_text() == "precious"

    (tmp_path / "empty").mkdir()
    restore(file, tmp_path / "empty", until=Until(), segment_bytes=SEGMENT_BYTES)
    assert state_of(tmp_path / "empty") == shown


def test_a_damaged_snapshot_makes_no_directory(
    tmp_path: Path, snapshot: tuple[Path, dict[str, Any]]
) -> None:
    file, _ = snapshot
    whole = file.read_bytes()
    for length in range(0, len(whole), 197):
        file.write_bytes(whole[:length])
        with pytest.raises(SnapshotError):
            restore(file, tmp_path / "new", until=Until(), segment_bytes=SEGMENT_BYTES)
        assert not (tmp_path / "new").exists()
        assert not (tmp_path / "new.restoring").exists()


def test_a_snapshot_never_replaces_a_file(
    tmp_path: Path, snapshot: tuple[Path, dict[str, Any]]
) -> None:
    file, _ = snapshot
    before = file.read_bytes()
    with pytest.raises(SnapshotError, match="exists already"):
        stopped(tmp_path / "data", file)
    assert file.read_bytes() == before


def test_rows_that_are_not_those_that_were_written_make_no_snapshot(
    tmp_path: Path, snapshot: tuple[Path, dict[str, Any]]
) -> None:
    """One index entry has vanished from the store's pages: nothing else would show that."""
    with lmdb.open(str(tmp_path / "data" / CHECKPOINTS_NAME), max_dbs=32) as environment:
        table = environment.open_db(b"promises_by_state")
        with environment.begin(write=True, db=table) as transaction:
            cursor = transaction.cursor()
            assert cursor.first()
            cursor.delete()
    with pytest.raises(CheckpointDamaged, match="promises_by_state"):
        stopped(tmp_path / "data", tmp_path / "b.snapshot")
    assert sorted(os.listdir(tmp_path)) == ["a.snapshot", "data"]
