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
        ("0::/a", {"a/memory.max": "7000", "a/memory.current": "4000"}, 3000),
        (
            "0::/a",
            {
                "a/memory.max": "7000",
                "a/memory.current": "6500",
                "a/memory.stat": "anon 1000\nfile 5000\nfile_mapped 9",
            },
            5500,
        ),
        ("0::/a", {"a/memory.max": "7000", "a/memory.current": "9000"}, 0),
        ("0::/a", {"a/memory.max": "max", "a/memory.current": "9000"}, 5000 * 1024),
        (
            "4:cpu,memory:/a",
            {
                "memory/a/memory.limit_in_bytes": "6000",
                "memory/a/memory.usage_in_bytes": "5000",
                "memory/a/memory.stat": "cache 7\ntotal_cache 1000",
            },
            2000,
        ),
        ("0::/", {}, 5000 * 1024),
    ],
)
def test_what_is_left_counts_what_all_have(
    groups: str,
    files: dict[str, str],
    expected_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _control_groups(groups, files, tmp_path, monkeypatch)

    assert process_memory.available_bytes() == expected_bytes
    (tmp_path / "meminfo").unlink()
    assert process_memory.available_bytes() == 0


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
    _control_groups(groups, files, tmp_path, monkeypatch)

    assert process_memory.memory_limits().resident_bytes == expected_bytes


def _control_groups(
    groups: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let a process be in control groups, whose files say this."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "cgroup").write_text(groups + "\n")
    lines = ("MemTotal:   9000 kB", "MemFree:   10 kB", "MemAvailable: 5000 kB")
    (tmp_path / "meminfo").write_text("\n".join(lines))
    monkeypatch.setattr(process_memory, "_CONTROL_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(process_memory, "_CONTROL_GROUP_FILES", tmp_path)
    monkeypatch.setattr(process_memory, "_MEMINFO", tmp_path / "meminfo")
