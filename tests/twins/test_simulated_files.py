"""The simulated disk is as bad as it promises: otherwise the crash tests would prove nothing."""

import errno
from collections.abc import Callable
from random import Random

import pytest

from tests.twins.simulated_files import SECTOR_BYTES, SimulatedCrash, SimulatedFiles

SEEDS = range(200)


def outcomes(files: SimulatedFiles, look: Callable[[SimulatedFiles], object]) -> set[object]:
    """Return everything that can be seen after a crash now."""
    return {look(files.crash(Random(seed))) for seed in SEEDS}


def with_file(content: bytes) -> SimulatedFiles:
    """Return a disk with a durable file `/a`."""
    files = SimulatedFiles()
    file = files.create("/a")
    file.write_at(0, content)
    file.sync()
    files.sync_directory("/")
    return files


def test_what_is_synced_survives() -> None:
    """A synced file in a synced directory is there after every crash."""
    assert outcomes(with_file(b"kept"), lambda files: files.read("/a")) == {b"kept"}


def test_an_unsynced_write_may_be_lost_or_torn() -> None:
    """Nothing, all, or a part cut at any byte."""
    files = with_file(b"....")
    files.open("/a").write_at(0, b"1234")

    assert outcomes(files, lambda files: files.read("/a")) == {
        b"....",
        b"1...",
        b"12..",
        b"123.",
        b"1234",
    }


def test_sectors_survive_independently() -> None:
    """A later part of a write may survive without an earlier one."""
    files = with_file(bytes(3 * SECTOR_BYTES))
    files.open("/a").write_at(0, b"x" * 3 * SECTOR_BYTES)

    seen = outcomes(files, lambda files: files.read("/a")[::SECTOR_BYTES])

    assert {b"x\0x", b"\0x\0", b"\0\0x", b"xxx", b"\0\0\0"} <= seen


def test_an_unsynced_name_may_be_lost() -> None:
    """A file's own sync does not make its name durable."""
    files = SimulatedFiles()
    file = files.create("/a")
    file.write_at(0, b"data")
    file.sync()

    assert outcomes(files, lambda files: files.exists("/a")) == {True, False}
    files.sync_directory("/")
    assert outcomes(files, lambda files: files.exists("/a")) == {True}


def test_a_renamed_file_may_be_empty() -> None:
    """A durable name does not make the content durable."""
    files = with_file(b"old")
    files.create("/b").write_at(0, b"new")
    files.rename("/b", "/a")
    files.sync_directory("/")

    assert {b"", b"new"} <= outcomes(files, lambda files: files.read("/a"))


def test_an_unsynced_rename_is_whole_or_not_at_all() -> None:
    """Either name holds, never both or none."""
    files = with_file(b"data")
    files.rename("/a", "/b")

    assert outcomes(files, lambda files: tuple(files.list_names("/"))) == {("a",), ("b",)}


def test_an_unsynced_removal_may_come_back() -> None:
    """Each removal on its own, in any order."""
    files = with_file(b"data")
    files.create("/b").sync()
    files.sync_directory("/")
    files.remove("/a")
    files.remove("/b")

    seen = outcomes(files, lambda files: tuple(files.list_names("/")))
    assert seen == {(), ("a",), ("b",), ("a", "b")}


def test_a_failed_sync_cannot_be_made_good() -> None:
    """As on Linux: the next sync succeeds and does not write what the failed one had to."""
    files = with_file(b"old")
    file = files.open("/a")
    file.write_at(0, b"new")
    files.fail("sync")
    with pytest.raises(OSError, match="Input/output error"):
        file.sync()
    assert {b"old", b"new"} <= outcomes(files, lambda files: files.read("/a"))

    file.sync()

    assert files.read("/a") == b"new"
    assert outcomes(files, lambda files: files.read("/a")) == {b"old"}


def test_a_failed_write_leaves_half() -> None:
    """An error in the middle of a write does not undo its beginning."""
    files = with_file(b"....")
    files.fail("write_at")
    with pytest.raises(OSError, match="Input/output error"):
        files.open("/a").write_at(0, b"1234")

    assert files.read("/a") == b"12.."


def test_a_full_disk_takes_what_fits() -> None:
    """ENOSPC comes after as much as there is room for; overwriting still works."""
    files = with_file(b"....")
    files.capacity_bytes = 6
    with pytest.raises(OSError, match="No space left") as caught:
        files.open("/a").write_at(0, b"12345678")

    assert caught.value.errno == errno.ENOSPC
    assert files.read("/a") == b"123456"
    files.open("/a").write_at(0, b"ab")
    assert files.read("/a") == b"ab3456"


def test_a_fault_is_met_once_where_it_was_ordered() -> None:
    """Faults count calls of their operation on their path only."""
    files = with_file(b"")
    files.fail("write_at", errno.EIO, skip_count=1, path_part="b")
    other = files.create("/b")
    files.open("/a").write_at(0, b"1")
    other.write_at(0, b"1")
    files.open("/a").write_at(0, b"2")
    with pytest.raises(OSError, match="/b"):
        other.write_at(0, b"2")
    other.write_at(0, b"3")

    assert files.read("/b") == b"3"


def test_after_a_crash_nothing_works() -> None:
    """The operation in which the power is lost may leave traces; later ones do not happen."""
    files = with_file(b"....")
    file = files.open("/a")
    files.crash_before_operation = files.operations_count + 1
    with pytest.raises(SimulatedCrash):
        file.write_at(0, b"1234")
    with pytest.raises(SimulatedCrash):
        file.sync()

    assert {b"....", b"1234"} <= outcomes(files, lambda files: files.read("/a"))


def test_a_crash_is_deterministic_and_leaves_its_origin_alone() -> None:
    """The same seed gives the same disk, again and again."""
    files = with_file(b"....")
    files.open("/a").write_at(0, b"1234")
    before = files.contents()

    for seed in SEEDS:
        first, second = (files.crash(Random(seed)).contents() for _ in range(2))
        assert first == second
    assert files.contents() == before


def test_the_end_of_the_process_releases_its_locks() -> None:
    """As the kernel does after `kill -9`."""
    files = SimulatedFiles()
    files.lock("/")
    with pytest.raises(BlockingIOError):
        files.lock("/")
    files.end_process()

    files.lock("/").close()
