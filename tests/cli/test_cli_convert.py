"""`troth data convert`, and what `troth data stats` says of placement."""

import json
import shutil
from pathlib import Path

import pytest

from troth.cli import command as cli

OLD = Path(__file__).parents[1] / "persistence" / "golden" / "version_1_format_3" / "data"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of version 1."""
    shutil.copytree(OLD, tmp_path / "data")
    return tmp_path / "data"


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    """Run `troth data …`; what it wrote to standard output and to standard error."""
    assert cli.run(["data", *arguments]) == status
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_a_directory_is_converted_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "convert", str(data))
    assert f"{data}: converted" in out
    assert "placement" in out
    assert "origin/1" in out
    assert f"{data}.before-conversion" in out
    out, _ = run(capsys, "convert", str(data))
    assert f"{data}: nothing to convert" in out
    out, _ = run(capsys, "stats", "--data", str(data))
    assert "of the promises, 25.0% would be even" in out
    made = json.loads(run(capsys, "convert", str(data), "--remove-old", "--json")[0])
    assert made["converted"] is False
    assert made["old"] is None


def test_placement_and_shards_can_be_chosen(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--placement", "id", "--shards", "7", "--json", "--remove-old")
    made = json.loads(run(capsys, "convert", str(data), *options)[0])
    assert (made["placement"], made["shards"], made["old"]) == ("id", 7, None)
    assert made["entities"] > 100
    found = json.loads(run(capsys, "stats", "--data", str(data), "--json")[0])
    assert (found["placement"], found["shard_count"]) == ("id", 7)
    assert 1 / 7 <= found["busiest_share"] < 0.5
    assert found["rows"]["promise_ids"] == found["rows"]["promises"] > 0


def test_an_old_directory_is_refused_by_commands(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, errors = run(capsys, "stats", "--data", str(data), status=1)
    assert f"`troth data convert {data}`" in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_refusal_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, errors = run(capsys, "convert", str(tmp_path / "none"), status=1)
    assert errors == f"Error: {tmp_path / 'none'} does not exist. Nothing was changed.\n"
