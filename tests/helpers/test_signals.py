"""Tests that are started in the background take the signals that programs send to each other."""

import subprocess
import sys
from pathlib import Path

import pytest

from .repository import ROOT

PROBE = """
import signal
import subprocess
import sys

WAITS = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]


def test_signals_arrive():
    for number in (signal.SIGINT, signal.SIGHUP):
        with subprocess.Popen(WAITS, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            process.stdout.readline()
            process.send_signal(number)
            try:
                assert process.wait(10) == -number
            finally:
                process.kill()
"""


@pytest.mark.slow
def test_whoever_ignores_signals_makes_no_test_hang(tmp_path: Path) -> None:
    """As `nohup make test &` does in a script."""
    probe = tmp_path / "test_probe.py"
    probe.write_text(PROBE)
    options = ("-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "pyproject.toml")
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT HUP; exec "$0" -m pytest "$@"', sys.executable, *options, probe],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stdout
