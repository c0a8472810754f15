"""Both file systems, real and simulated, do the same when nothing goes wrong."""

import errno
import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from tests.twins.simulated_files import SimulatedFiles
from troth.persistence.data_directory import lock_directory
from troth.persistence.files import Files, LockedDirectory, RealFiles


@pytest.fixture(params=["real", "simulated"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Files, str]:
    """A file system and an empty directory in it."""
    if request.param == "real":
        return RealFiles(), str(tmp_path)
    files = SimulatedFiles()
    files.make_directory("/here")
    return files, "/here"


def test_write_and_read(place: tuple[Files, str]) -> None:
    """Writes land where they should; gaps are zeros; truncation cuts and extends."""
    files, path = place
    file = files.create(f"{path}/a")
    file.write_at(4, b"efgh")
    file.write_at(0, b"ab")
    file.sync()

    assert files.read(f"{path}/a") == b"ab\0\0efgh"
    assert files.size(f"{path}/a") == 8

    file.truncate(5)
    assert files.read(f"{path}/a") == b"ab\0\0e"
    file.truncate(7)
    assert files.read(f"{path}/a") == b"ab\0\0e\0\0"
    file.close()
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.write_at(0, b"closed")


def test_open_keeps_content(place: tuple[Files, str]) -> None:
    """An existing file can be written in place, and only an existing one."""
    files, path = place
    files.create(f"{path}/a").write_at(0, b"12345")
    files.open(f"{path}/a").write_at(1, b"--")

    assert files.read(f"{path}/a") == b"1--45"
    with pytest.raises(FileNotFoundError):
        files.open(f"{path}/b")


def test_names(place: tuple[Files, str]) -> None:
    """Creating is exclusive, renaming replaces, listing sorts."""
    files, path = place
    files.create(f"{path}/b").write_at(0, b"b")
    files.create(f"{path}/a").write_at(0, b"a")
    files.make_directory(f"{path}/c")
    with pytest.raises(FileExistsError):
        files.create(f"{path}/a")
    with pytest.raises(FileExistsError):
        files.make_directory(f"{path}/c")

    assert files.list_names(path) == ["a", "b", "c"]
    assert [files.is_directory(f"{path}/{name}") for name in "abcd"] == [False, False, True, False]

    files.rename(f"{path}/a", f"{path}/b")
    files.sync_directory(path)

    assert files.read(f"{path}/b") == b"a"
    assert [files.exists(f"{path}/{name}") for name in "abc"] == [False, True, True]

    files.remove(f"{path}/b")
    with pytest.raises(FileNotFoundError):
        files.remove(f"{path}/b")
    with pytest.raises(FileNotFoundError):
        files.read(f"{path}/b")


def test_lock(place: tuple[Files, str]) -> None:
    """A directory is locked once, until the lock is closed, and stays as it is."""
    files, path = place
    lock = files.lock(path)

    with pytest.raises(BlockingIOError):
        files.lock(path)

    lock.close()
    lock.close()
    files.lock(path).close()
    assert files.list_names(path) == []
    with pytest.raises(FileNotFoundError):
        files.lock(f"{path}/missing")


def test_a_lock_that_a_killed_process_left_to_its_child_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that starts another one shares its lock until that one runs its program."""
    lock = RealFiles.lock
    tries = 0

    def watched(files: RealFiles, directory: str) -> LockedDirectory:
        nonlocal tries
        tries += 1
        if tries == 3:
            child.communicate()
        return lock(files, directory)

    left = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(left, fcntl.LOCK_EX)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(left,)) as child:
        os.close(left)
        monkeypatch.setattr(RealFiles, "lock", watched)
        lock_directory(RealFiles(), str(tmp_path)).close()
    assert tries == 3


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may write less than it was given; the rest is written then."""
    whole_pwrite = os.pwrite

    def short_pwrite(descriptor: int, data: bytes, offset: int) -> int:
        return whole_pwrite(descriptor, data[:3], offset)

    monkeypatch.setattr(os, "pwrite", short_pwrite)
    file = RealFiles().create(f"{tmp_path}/a")
    file.write_at(2, b"0123456789")
    file.close()

    assert (tmp_path / "a").read_bytes() == b"\0\x000123456789"


def test_a_write_that_makes_no_progress_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that writes nothing and reports no error must not loop for ever."""
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    file = RealFiles().create(f"{tmp_path}/a")

    with pytest.raises(OSError, match="wrote nothing") as caught:
        file.write_at(0, b"data")

    assert caught.value.errno == errno.EIO
    file.close()


def test_files_are_private(tmp_path: Path) -> None:
    """Only the server's user may read the log and the secret."""
    RealFiles().make_directory(f"{tmp_path}/d")
    RealFiles().create(f"{tmp_path}/d/f").close()

    assert (tmp_path / "d").stat().st_mode & 0o077 == 0
    assert (tmp_path / "d" / "f").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.EINVAL, "short", None])
def test_a_durable_write_is_whole_whatever_the_system_can_do(
    refusal: int | str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one call where there is one for it, else in two."""
    synced: list[int] = []
    written = os.pwritev

    def write(descriptor: int, buffers: list[bytes], offset: int, flags: int) -> int:
        if isinstance(refusal, int):
            raise OSError(refusal, os.strerror(refusal))
        if refusal == "short":
            return written(descriptor, [buffers[0][:3]], offset)
        return written(descriptor, buffers, offset, flags)

    monkeypatch.setattr(os, "pwritev", write)
    monkeypatch.setattr("troth.persistence.files._fdatasync", synced.append)
    file = RealFiles().create(str(tmp_path / "a"))
    file.write_durably(2, b"content")
    assert (tmp_path / "a").read_bytes() == b"\0\0content"
    assert len(synced) == (0 if refusal is None else 1)
    file.close()


def test_a_durable_write_that_the_disk_refuses_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error it is unknown what is on the disk: the log has failed."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "asked to")

    monkeypatch.setattr(os, "pwritev", refuse)
    file = RealFiles().create(str(tmp_path / "a"))
    with pytest.raises(OSError, match="asked to"):
        file.write_durably(0, b"content")
    assert (tmp_path / "a").read_bytes() == b""
    file.close()
