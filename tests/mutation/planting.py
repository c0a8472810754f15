"""A copy of the repository in which faults are planted, one at a time.

The copy is made once; of each fault one file changes, and is put back afterwards. The modification
time of every write differs, because Python compares times in whole seconds to find out whether
what it has compiled is still good.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.helpers.repository import ROOT
from tests.helpers.seeds import VARIABLE

from .fault import Fault

_LEFT_OUT: Final = shutil.ignore_patterns(
    *(".git", ".venv*", ".hypothesis", ".*_cache", "__pycache__", ".coverage", "troth-data")
)
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_TESTS_FAILED, _TESTS_PASSED = 1, 0


class StaleFaultError(Exception):
    """A fault that can no longer be planted, or whose tests cannot run: the list is out of date."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a fault. `caught_by` is the first test that failed; None if none did."""

    fault: Fault
    caught_by: str | None
    duration_s: float


def planted(fault: Fault, root: Path = ROOT) -> str:
    """The text of the fault's file with the fault in it. Raises StaleFaultError."""
    path = root / fault.file
    text = path.read_text() if path.is_file() else ""
    if text.count(fault.old) != 1:
        raise StaleFaultError(
            f"{fault.name!r}: {fault.file} has {text.count(fault.old)} times {fault.old!r}"
        )
    for test in fault.tests:
        if not (root / test.partition("::")[0]).exists():
            raise StaleFaultError(f"{fault.name!r}: there is no {test}")
    return text.replace(fault.old, fault.new)


class Plantation:
    """The copy, in a directory that is given and thrown away by the caller."""

    def __init__(self, directory: Path) -> None:
        self._root = directory / "repository"
        shutil.copytree(ROOT, self._root, symlinks=True, ignore=_LEFT_OUT)
        self._writes_count = 0

    def judge(self, fault: Fault) -> Verdict:
        """Plant a fault and run its tests. Raises StaleFaultError."""
        path = self._root / fault.file
        sound, faulty = path.read_text(), planted(fault, self._root)
        self._write(path, faulty)
        try:
            return self._run(fault)
        finally:
            self._write(path, sound)

    def _run(self, fault: Fault) -> Verdict:
        started_s = time.monotonic()
        status, output = self._pytest(fault)
        duration_s = time.monotonic() - started_s
        if status is None:
            return Verdict(fault, f"no end within {fault.limit_s} s", duration_s)
        if status == _TESTS_PASSED:
            return Verdict(fault, None, duration_s)
        found = _FAILED.search(output)
        if status != _TESTS_FAILED or found is None:
            raise StaleFaultError(f"{fault.name!r}: the tests cannot run\n{output[-2_000:]}")
        return Verdict(fault, found[1], duration_s)

    def _pytest(self, fault: Fault) -> tuple[int | None, str]:
        environment = {**os.environ, "PYTHONPATH": str(self._root / "src")}
        if fault.all_seeds:
            environment[VARIABLE] = "all"
        # Tests that plant a fault themselves would fail for the wrong reason.
        options = ("-x", "-q", "-p", "no:cacheprovider", "-k", "not found_out")
        command = (sys.executable, "-m", "pytest", *options, *fault.tests)
        try:
            done = subprocess.run(
                command,
                cwd=self._root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=fault.limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None, ""
        shutil.rmtree(self._root / ".hypothesis", ignore_errors=True)
        return done.returncode, done.stdout

    def _write(self, path: Path, text: str) -> None:
        self._writes_count += 1
        path.write_text(text)
        moment_s = time.time() + 10 * self._writes_count
        os.utime(path, (moment_s, moment_s))
