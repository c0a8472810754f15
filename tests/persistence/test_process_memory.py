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
