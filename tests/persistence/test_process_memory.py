"""What is known of this process's memory, and what is done where the system does not say."""

import mmap
from pathlib import Path

import pytest

from troth.persistence import process_memory


def test_the_maps_of_a_file_are_found_and_given_back(tmp_path: Path) -> None:
    path = tmp_path / "with space"
    path.write_bytes(b"x" * 3 * mmap.PAGESIZE)
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        ranges = process_memory.mapped_ranges(path)
        assert [size_bytes for _, size_bytes in ranges] == [3 * mmap.PAGESIZE]
        process_memory.release(ranges)
        assert mapped[:] == path.read_bytes()
    assert process_memory.mapped_ranges(path) == []
    assert process_memory.file_bytes() > 0


def test_where_the_system_does_not_say_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_memory, "_MAPS", tmp_path / "no maps")
    monkeypatch.setattr(process_memory, "_STATM", tmp_path / "no statm")

    assert process_memory.mapped_ranges(tmp_path) == []
    assert process_memory.file_bytes() == 0
    process_memory.release([])
    process_memory.trim_heap()


def test_headroom_is_what_the_tightest_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages: address space, resident, those of files among them, code, nothing, data, nothing."""
    statm = tmp_path / "statm"
    statm.write_text("1000 500 200 5 0 700 0\n")
    monkeypatch.setattr(process_memory, "_STATM", statm)

    def left_pages(*limits_pages: int | None) -> int:
        limits = [None if pages is None else pages * mmap.PAGESIZE for pages in limits_pages]
        left_bytes = process_memory.MemoryLimits(*limits).headroom_bytes()
        assert left_bytes is not None
        return left_bytes // mmap.PAGESIZE

    assert left_pages(1100, None, None) == 100
    assert left_pages(None, 760, None) == 60
    assert left_pages(None, None, 350) == 50
    assert left_pages(1100, 760, 350) == 50
    assert process_memory.MemoryLimits().headroom_bytes() is None


@pytest.mark.parametrize(
    ("groups", "files", "expected_bytes"),
    [
        ("0::/a/b", {"a/memory.max": "7000", "a/b/memory.max": "max"}, 7000),
        ("0::/a/b", {"a/memory.max": "7000", "a/b/memory.high": "5000"}, 5000),
        ("0::/elsewhere", {"memory.max": "3000"}, 3000),
        ("4:cpu,memory:/a", {"memory/a/memory.limit_in_bytes": "6000"}, 6000),
        ("4:cpu:/a", {"a/memory.max": "1000"}, 9000 * 1024),
        ("0::/", {}, 9000 * 1024),
    ],
)
def test_control_groups_limit_memory(
    groups: str,
    files: dict[str, str],
    expected_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "cgroup").write_text(groups + "\n")
    (tmp_path / "meminfo").write_text("MemTotal:   9000 kB\nMemFree:   10 kB\n")
    monkeypatch.setattr(process_memory, "_CONTROL_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(process_memory, "_CONTROL_GROUP_FILES", tmp_path)
    monkeypatch.setattr(process_memory, "_MEMINFO", tmp_path / "meminfo")

    assert process_memory.memory_limits().resident_bytes == expected_bytes
