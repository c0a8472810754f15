"""A directory and a machine for so many processes: `serve --convert`, and what `doctor` says."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from troth.cli.doctor import processes
from troth.cli.doctor.findings import Soundness
from troth.cli.supervising.converting import converted
from troth.cli.supervising.start import cores_count, wanted_count
from troth.http.settings.settings import Settings
from troth.http.settings.sources import SettingsError, load
from troth.persistence.conversion.old_data import read_identity
from troth.persistence.data_directory import DataDirectory
from troth.persistence.files import RealFiles

NOW_MS = 1_800_000_000_000


def directory(path: Path, shard_count: int = 4) -> Path:
    """Make a data directory of one group."""
    opened = DataDirectory.open(path, RealFiles(), shard_count, created_at_ms=NOW_MS)
    list(opened.recover())
    opened.close()
    return path


def groups_of(path: Path) -> tuple[int, ...]:
    """Return how many shards each group of a directory has."""
    return read_identity(path)[1].group_shards


def test_a_directory_is_made_fit_before_it_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = directory(tmp_path / "data")
    settings = Settings(data=data)
    assert converted(settings, 3, now_ms=NOW_MS)
    assert groups_of(data) == (2, 1, 1)
    assert (tmp_path / "data.before-conversion").is_dir()
    assert "the data directory was converted" in capsys.readouterr().err
    assert converted(settings, 3, now_ms=NOW_MS), "there is nothing to do"
    assert "converted" not in capsys.readouterr().err
    assert not converted(settings, 2, now_ms=NOW_MS), "the old one is in the way"
    assert "troth data convert" in capsys.readouterr().err
    assert groups_of(data) == (2, 1, 1)


def test_each_group_gets_a_shard(tmp_path: Path) -> None:
    data = directory(tmp_path / "data")
    assert converted(Settings(data=data), 6, now_ms=NOW_MS)
    assert groups_of(data) == (1,) * 6


def test_what_is_not_there_is_made_later(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert converted(Settings(data=data), 3, now_ms=NOW_MS)
    assert not data.exists()


def test_a_directory_in_use_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = directory(tmp_path / "data")
    with contextlib.closing(RealFiles().lock(str(data))):
        assert not converted(Settings(data=data), 3, now_ms=NOW_MS)
    assert "is in use" in capsys.readouterr().err
    assert groups_of(data) == (4,)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"processes": "3", "in_memory": True}, "there is no directory that several could share"),
        ({"processes": "3", "shards": "2"}, "must be at most shards"),
        ({"processes": "0"}, "must be auto or"),
        ({"processes": "1025"}, "must be auto or"),
    ],
)
def test_what_cannot_be_is_refused_by_name(flags: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as refused:
        load(None, {}, flags)
    assert "processes" in str(refused.value)


def test_auto_is_one_for_each_core_that_has_a_shard() -> None:
    assert wanted_count(Settings()) == 1
    assert wanted_count(Settings(processes=7)) == 7
    assert wanted_count(Settings(processes=None)) == cores_count()
    assert wanted_count(Settings(processes=None, shards=1)) == 1


def test_the_doctor_looks_whether_it_fits(tmp_path: Path) -> None:
    data = directory(tmp_path / "data", 4)
    (finding,) = processes.examine_processes(Settings(data=data, processes=2))
    assert (finding.subject, finding.verdict) == ("processes", Soundness.FAILURE)
    assert f"troth data convert {data} --groups 2" in finding.advice
    assert not [*processes.examine_processes(Settings(data=data))]
    assert not [*processes.examine_processes(Settings(data=data, processes=2, convert=True))]
    many = len(os.sched_getaffinity(0)) + 1
    (finding,) = processes.examine_processes(Settings(data=tmp_path / "new", processes=many))
    assert finding.verdict is Soundness.WARNING
    (finding,) = processes.examine_processes(
        Settings(data=tmp_path / "new", processes=2, hot_lane=False)
    )
    assert finding.verdict is Soundness.FAILURE
    assert "hot_lane" in finding.found


def test_the_doctor_says_how_each_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(data: Path, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
        assert (data, question) == (tmp_path, {"ask": "processes"})
        one = {"process": 0, "pid": 17, "stage": "ready", "up": True, "starts": 1}
        yield {
            "processes": [
                one,
                {**one, "process": 1, "pid": None, "up": False, "starts": 3},
                {**one, "process": 2, "stage": "starting", "up": False, "stands_by": True},
            ]
        }

    monkeypatch.setattr(processes, "asked", asked)
    good, bad, waiting = processes.examine_processes(Settings(data=tmp_path))
    assert (good.subject, good.verdict) == ("process 0", Soundness.OK)
    assert good.found == "ready, pid 17, started once"
    assert (bad.subject, bad.verdict) == ("process 1", Soundness.FAILURE)
    assert "started 3 times" in bad.found
    assert (waiting.subject, waiting.verdict) == ("process 2", Soundness.OK)
    assert "stands by" in waiting.found
