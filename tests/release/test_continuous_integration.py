"""What `.ci/run` makes of the outputs of its parts: its last line, and its status."""

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.repository import ROOT

PASSES: Final = {
    "newest-ready": "with python3.13",
    "lint": "",
    "types": "Success: no issues found in 2 source files",
    "test": "-- tests, 3 at a time\n====== 30 passed in 9.9s ======\n-- tests\n4 passed in 1.0s",
    "installed": "-- tests with the wheel\n3 passed in 1.0s",
    "newest": "-- fast tests\n20 passed in 1.0s",
}


def run_with(outputs: dict[str, str], directory: Path) -> tuple[str, int]:
    """Run it with a `make` that prints these outputs; return its last line and its status.

    A target whose output names something that failed, fails.
    """
    for target, text in outputs.items():
        (directory / target).write_text(text + "\n")
    make = directory / "make"
    make.write_text(
        f'#!/bin/sh\ncat "{directory}/$2"\n! grep -qE "fail|error|Error" "{directory}/$2"\n'
    )
    make.chmod(0o755)
    # Nothing is installed for this.
    packages = directory / "dpkg-query"
    packages.write_text("#!/bin/sh\necho install ok installed\n")
    packages.chmod(0o755)
    environment = {**os.environ, "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [ROOT / ".ci" / "run"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout.splitlines()[-1], done.returncode


def test_if_all_passes_each_test_counts_once(tmp_path: Path) -> None:
    assert run_with(PASSES, tmp_path) == ("34 passed, 0 failed", 0)


@pytest.mark.parametrize(
    ("target", "output", "last_line"),
    [
        ("newest-ready", "pip: an error", "34 passed, 0 failed"),
        ("lint", "an error", "34 passed, 0 failed"),
        ("types", "Found 3 errors in 2 files (checked 9 source files)", "34 passed, 0 failed"),
        ("test", "-- a\n1 failed, 29 passed in 1s\n-- b\n4 passed in 1s", "33 passed, 1 failed"),
        ("test", "-- a\n2 failed, 28 passed, 1 error in 1s", "28 passed, 3 failed"),
        ("test", "Error 2: no pytest", "0 passed, 0 failed"),
        ("installed", "-- a\n1 failed, 2 passed in 1.0s", "34 passed, 1 failed"),
        ("newest", "-- a\n5 failed, 15 passed in 61.02s (0:01:01)", "34 passed, 5 failed"),
    ],
)
def test_a_part_that_fails_is_counted_and_fails_all(
    target: str, output: str, last_line: str, tmp_path: Path
) -> None:
    assert run_with(PASSES | {target: output}, tmp_path) == (last_line, 1)


def test_no_tests_are_a_failure(tmp_path: Path) -> None:
    assert run_with(PASSES | {"test": ""}, tmp_path) == ("0 passed, 0 failed", 1)
