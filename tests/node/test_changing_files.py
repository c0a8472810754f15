"""What a function can still change while the node, which may be root, measures and empties it."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.conftest import Ground
from tests.node.fake_server import python
from troth.node.errors import NodeError
from troth.node.files import empty, exceeds
from troth.node.limits import DISK_DEPTH_LIMIT_COUNT
from troth.node.machine import taken


class AfterEachList:
    """Does something as soon as a folder has been listed: just when a function would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None]) -> None:
        """Watch `os.scandir` until the end of the test; `act` is told which folder it was."""
        self._scandir = os.scandir
        self._act = act
        monkeypatch.setattr(os, "scandir", self._list)

    def _list(self, folder: Any) -> "AfterEachList._Listed":
        with self._scandir(folder) as entries:
            found = [*entries]
        path = os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) else folder
        self._act(Path(path))
        return self._Listed(found)

    class _Listed:
        def __init__(self, found: list[os.DirEntry[str]]) -> None:
            self._found = found

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self._found)

        def __exit__(self, *_: object) -> None:
            """Nothing is open."""


def swapped_for_a_link(folder: Path, target: Path) -> Callable[[Path], None]:
    """Return what puts a link in the place of a folder, once."""

    def act(_: Path) -> None:
        if folder.is_dir() and not folder.is_symlink():
            folder.rename(folder.with_name("aside"))
            folder.symlink_to(target)

    return act


def test_a_folder_that_becomes_a_link_changes_no_file_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    (work / "folder").mkdir(parents=True)
    elsewhere.write_text("of the host")
    elsewhere.chmod(0o640)
    AfterEachList(monkeypatch, swapped_for_a_link(work / "folder", elsewhere))

    with pytest.raises(OSError, match="Not a directory"):
        empty(work)

    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o640
    assert elsewhere.read_text() == "of the host"


def test_a_folder_that_becomes_a_link_changes_no_folder_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    (work / "folder").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "file").write_text("of the host")
    elsewhere.chmod(0o750)
    AfterEachList(monkeypatch, swapped_for_a_link(work / "folder", elsewhere))

    with pytest.raises(OSError, match="Not a directory"):
        empty(work)

    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o750
    assert [path.name for path in elsewhere.iterdir()] == ["file"]


def test_a_folder_that_becomes_a_link_is_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    (work / "folder").mkdir(parents=True)
    elsewhere.mkdir()
    for number in range(20):
        (elsewhere / str(number)).mkdir()
    AfterEachList(monkeypatch, swapped_for_a_link(work / "folder", elsewhere))

    assert not exceeds(work, 1 << 30, 10)


def test_a_function_that_makes_folders_all_the_time_does_not_keep_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes one in every folder but the one that is looked at, so none is ever in the way."""
    for number in range(3):
        (tmp_path / f"{number}").mkdir()
    made_count = 0

    def one_in_each(listed: Path) -> None:
        nonlocal made_count
        # Not by `iterdir`: from Python 3.13 on it calls `scandir`, which is replaced here.
        for folder in [tmp_path / name for name in os.listdir(tmp_path)]:
            if folder != listed:
                made_count += 1
                assert made_count < 10_000, "it goes on forever"
                (folder / f"new-{made_count}").mkdir()

    AfterEachList(monkeypatch, one_in_each)

    with pytest.raises(OSError, match="getting new ones"):
        empty(tmp_path, 50)


def test_folders_within_each_other_count_as_too_large_beyond_a_limit(tmp_path: Path) -> None:
    deepest = tmp_path.joinpath(*("d" for _ in range(DISK_DEPTH_LIMIT_COUNT)))
    deepest.mkdir(parents=True)

    assert not exceeds(tmp_path, 1 << 30, 1_000)

    (deepest / "d").mkdir()

    assert exceeds(tmp_path, 1 << 30, 1_000)


async def test_a_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "node"
    directory.mkdir(mode=0o755)
    owner_uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner_uid + 1)

    with pytest.raises(NodeError, match=f"belongs to user {owner_uid}"):
        async with taken(directory, 700_000):
            raise AssertionError

    assert stat.S_IMODE(directory.stat().st_mode) == 0o755


SWAPPING = """
import ctypes, os, threading

libc = ctypes.CDLL(None)
AT_FDCWD, EXCHANGE = -100, 2

def swap():
    while True:
        libc.renameat2(AT_FDCWD, b'folder', AT_FDCWD, b'link', EXCHANGE)

def handle(request):
    os.mkdir('folder')
    os.symlink(request.Body, 'link')
    return 'left both'

threading.Thread(target=swap, daemon=True).start()
"""


@pytest.mark.slow
def test_a_function_cannot_change_the_rights_of_a_file_of_the_host(
    ground: Ground, tmp_path: Path
) -> None:
    """Its first process goes on swapping a folder for a link while the node empties its files."""
    victim = tmp_path / "victim"
    victim.write_text("of the host")
    victim.chmod(0o600)
    code = python(SWAPPING)

    for _ in range(40):
        assert ground.server.run(code, str(victim).encode()).status in {200, 500}
        assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    ground.assert_well()
