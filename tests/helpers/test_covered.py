"""What counts as covered: each folder by itself, and lines and branches by themselves."""

import json
from pathlib import Path
from typing import Any

import pytest

from .covered import Share, main, shares


def report(**folders: tuple[int, int]) -> dict[str, Any]:
    """Return a report on two files of each folder, of which these lines and branches were run."""
    files = {}
    for folder, (lines_count, branches_count) in folders.items():
        for name, part in (("a", (lines_count - 40, branches_count)), ("b", (40, 0))):
            files[f"src/troth/{folder}/{name}.py"] = {
                "summary": {
                    "covered_lines": part[0],
                    "num_statements": 60 if name == "a" else 40,
                    "covered_branches": part[1],
                    "num_branches": 20 if name == "a" else 0,
                }
            }
    return {"files": files}


@pytest.mark.parametrize(
    ("lines_count", "branches_count", "expected"),
    [(95, 19, 0), (100, 20, 0), (94, 20, 1), (100, 18, 1)],
)
def test_neither_lines_nor_branches_may_be_too_few(
    lines_count: int,
    branches_count: int,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "coverage.json"
    all_run = (100, 20)
    path.write_text(
        json.dumps(report(core=all_run, shards=(lines_count, branches_count), persistence=all_run))
    )
    monkeypatch.setattr("sys.argv", ["covered", str(path)])

    assert main() == expected


def test_what_lies_in_rooms_counts_and_other_folders_do_not() -> None:
    found = shares(
        report(
            **{
                "core/grammar": (100, 20),
                "core": (50, 10),
                "persistence/snapshots": (80, 20),
                "http/api": (40, 0),
            }
        )
    )

    assert found["core"] == Share(0.75, 0.75)
    assert found["persistence"] == Share(0.8, 1.0)
    assert found["shards"] == Share(0.0, 0.0)


def test_a_folder_that_was_not_measured_is_not_covered() -> None:
    found = shares(report(core=(100, 20)))

    assert found["core"] == Share(1.0, 1.0)
    assert found["shards"] == Share(0.0, 0.0)
