"""`troth data convert` survives `kill -9` at any moment: see `conversion_kills.py`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.repository import ROOT

GOLDEN = Path(__file__).parent / "golden"
SEED = 20261130
ROUNDS_COUNT = 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["version_1_format_3", "version_2"])
def test_a_conversion_that_was_killed_is_made_good(name: str) -> None:
    """Not in this process, which has threads: those that are killed are forked from another."""
    command = (sys.executable, "-m", "tests.persistence.conversion_kills")
    arguments = (str(GOLDEN / name / "data"), "--rounds", str(ROUNDS_COUNT), "--seed", str(SEED))
    done = subprocess.run(
        (*command, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    killed = re.search(r"^(\d+) of 20 killed", done.stdout, re.MULTILINE)
    assert killed is not None, done.stdout
    assert int(killed[1]) >= ROUNDS_COUNT // 2  # by call: those by time may come too late
