"""What may be released: the checks find what they should, and every library is pinned."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from trove_classifiers import classifiers

from tests.helpers.repository import ROOT
from troth import __version__

from .checks import (
    WANTED_URLS,
    changelog_faults,
    project_faults,
    said_faults,
    tree_faults,
    version_faults,
)
from .package import CONSTRAINTS, tracked_files, wheel_faults
from .pythons import candidates, newest

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIRED: Final = (
    *PROJECT["project"]["dependencies"],
    *PROJECT["project"]["optional-dependencies"]["dev"],
    *PROJECT["build-system"]["requires"],
)


@pytest.mark.parametrize("requirement", [*map(Requirement, REQUIRED)], ids=str)
def test_every_requirement_is_pinned_to_a_version_that_it_allows(requirement: Requirement) -> None:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    version = {canonicalize_name(name): pin for name, pin in pins.items()}[
        canonicalize_name(requirement.name)
    ]

    assert requirement.specifier.contains(version)


def test_pypi_knows_every_classifier() -> None:
    given = PROJECT["project"]["classifiers"]

    assert set(given) <= classifiers
    assert given == sorted(given)
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in given
    assert (ROOT / "src" / "troth" / "py.typed").exists() == ("Typing :: Typed" in given)


def test_addresses_that_are_missing_are_a_fault() -> None:
    addresses = dict.fromkeys(WANTED_URLS, "https://troth.example")

    assert project_faults({"urls": addresses}) == []
    assert len(project_faults({})) == 1
    del addresses["Source"]
    assert "Source" in project_faults({"urls": addresses})[0]


@pytest.mark.parametrize("ready", [".ready-to-serve", ".ready-to-develop"])
def test_make_installs_what_is_pinned_unless_told_otherwise(ready: str) -> None:
    pinned = "PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt"

    assert pinned in commands_of_make(f".venv/{ready}")
    assert "CONSTRAINT" not in commands_of_make(f".venv/{ready}", "CONSTRAINTS=")


def commands_of_make(*arguments: str) -> str:
    """Return what make would run if nothing were there yet."""
    # What make hands on to the tests that it runs is not meant for this one.
    handed_on = re.compile(r"MAKE.*|VENV|CONSTRAINTS|PYTHON|ARGS|WORKERS")
    environment = {name: text for name, text in os.environ.items() if not handed_on.fullmatch(name)}
    command = ("make", "--dry-run", "--always-make", *arguments)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return re.sub(r"\s*\\\n\s*", " ", done.stdout)


def test_the_version_stands_in_one_place() -> None:
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    place = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{__version__}"' in place.read_text()


def test_what_is_not_committed_is_named() -> None:
    assert tree_faults("") == []
    assert tree_faults(" M core/limits.py\n?? new.py\n") == [
        "not committed: core/limits.py",
        "not committed: new.py",
    ]


@pytest.mark.parametrize(
    ("version", "earlier_tags", "count"),
    [
        ("1.2.3", {"v1.2.2", "1.2.3"}, 0),
        ("1.2.3", {"v1.2.3"}, 1),
        ("1.2", (), 1),
        ("1.2.3.dev1", (), 1),
    ],
)
def test_a_version_is_released_once(version: str, earlier_tags: set[str], count: int) -> None:
    assert len(version_faults(version, earlier_tags)) == count


RIGHT: Final = """# Changelog

## [Unreleased]

## [1.2.3] - 2026-11-29

### Added

- More.

## [1.2.2] - 2026-11-01
"""


def test_a_changelog_that_tells_of_the_version_is_right() -> None:
    assert changelog_faults(RIGHT, "1.2.3") == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("## [Unreleased]\n\n", ""),
        ("## [Unreleased]\n", "## [Unreleased]\n\n- Something newer.\n"),
        ("[1.2.3]", "[1.2.4]"),
        (" - 2026-11-29", ""),
        ("2026-11-29", "2026-11-31"),
        ("### Added\n\n- More.\n", ""),
        (RIGHT.partition("## [1.2.3]")[2], ""),
    ],
)
def test_a_changelog_that_does_not_is_found(old: str, new: str) -> None:
    assert old in RIGHT
    assert len(changelog_faults(RIGHT.replace(old, new), "1.2.3")) == 1


def test_another_version_of_the_command_is_found() -> None:
    assert said_faults("troth 1.2.3\n", "1.2.3") == []
    assert len(said_faults("troth 1.2.2\n", "1.2.3")) == 1


def test_a_wheel_has_what_git_tracks_and_nothing_else(tmp_path: Path) -> None:
    wheel = tmp_path / "troth-1.2.3-py3-none-any.whl"
    described = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (
            "troth/core/limits.py",
            *(f"troth-1.2.3.dist-info/{one}" for one in described),
        ):
            archive.writestr(name, "")

    assert wheel_faults(wheel, {"troth/core/limits.py"}) == []
    assert wheel_faults(wheel, {"troth/core/limits.py", "troth/py.typed"}) == [
        "the wheel lacks troth/py.typed"
    ]
    assert wheel_faults(wheel, set()) == ["the wheel has troth/core/limits.py, too"]


def test_what_git_tracks_has_other_names_in_a_wheel(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "src" / "troth").mkdir(parents=True)
    (tmp_path / "src" / "troth" / "core").symlink_to("../../core")
    for name in ("core/limits.py", "src/troth/py.typed", "pyproject.toml"):
        (tmp_path / name).touch()
    for command in ("init", "add --all"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "core" / "new.py").touch()

    assert tracked_files(tmp_path) == {"troth/core/limits.py", "troth/py.typed"}


def fake_python(path: Path, answer: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)


def test_the_newest_python_is_found(tmp_path: Path) -> None:
    fake_python(tmp_path / "bin" / "python3.14", "exit 127")
    fake_python(tmp_path / "bin" / "python3.12", "echo 3 12 9")
    fake_python(tmp_path / "bin" / "python3", "echo 3 9 1")
    fake_python(tmp_path / "bin" / "python3.11-config", "echo 3 99 1")
    fake_python(tmp_path / "pyenv" / "versions" / "3.13" / "bin" / "python3", "echo 3 13 0")
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{tmp_path / 'nowhere'}:",
        "PYENV_ROOT": str(tmp_path / "pyenv"),
    }

    assert {path.parent.parent.name for path in candidates(environment)} == {
        tmp_path.name,
        "3.13",
    }
    assert newest(environment) == tmp_path / "pyenv" / "versions" / "3.13" / "bin" / "python3"
    environment["PYENV_ROOT"] = str(tmp_path)
    assert newest(environment) == tmp_path / "bin" / "python3.12"
    environment["PATH"] = str(tmp_path)
    assert newest(environment) is None


def test_this_python_is_fit(tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(sys.executable)

    assert newest({"PATH": str(tmp_path), "HOME": str(tmp_path)}) == tmp_path / "python3"
