"""Requests and answers recorded on the reference server, replayed against a server of ours.

The vectors and the program that replays them are kept beside this repository, in
`shared/conformance`; the environment variable `TROTH_CONFORMANCE` names the directory if they lie
elsewhere. Status, error code and body of every step must be as recorded; the wording of errors is
not compared.

Some answers depend on the day: four vectors expect the next midnight, or the next Sunday, within
three hours, and others name days of December and January. So server and replayer both live on the
evening of the recording. Their clocks run as usual, but are set back.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.server import REPOSITORY, ServerProcess

ENVIRONMENT_VARIABLE: Final = "TROTH_CONFORMANCE"
RECORDED: Final = datetime(2026, 11, 21, 22, tzinfo=UTC)
# Ten seconds when nothing else runs on two cores; most of it is waiting for deadlines.
REPLAY_TIMEOUT_S: Final = 120.0

# Begins a program on another day: the shift, in ns, takes the place of the name.
SHIFT_CLOCK: Final = """
import runpy, sys, time
real_time_ns = time.time_ns
time.time_ns = lambda: real_time_ns() + SHIFT_NS
time.time = lambda: time.time_ns() / 1e9
"""
RUN_SERVER: Final = """
from troth.cli.command import main
main()
"""
RUN_REPLAYER: Final = """
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def conformance() -> Path:
    """The directory that holds `replay.py` and `vectors.jsonl`."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    directory = Path(named) if named else REPOSITORY.parent / "shared" / "conformance"
    missing = [name for name in ("replay.py", "vectors.jsonl") if not (directory / name).is_file()]
    assert not missing, (
        f"The conformance vectors are not here: {directory} has no {' and no '.join(missing)}. "
        f"Set the environment variable {ENVIRONMENT_VARIABLE} to the directory that has them."
    )
    return directory


@pytest.fixture(scope="module")
def clock() -> str:
    """The first lines of a program that is to believe that the vectors are being recorded."""
    shift_ns = int(RECORDED.timestamp()) * 1_000_000_000 - time.time_ns()
    return SHIFT_CLOCK.replace("SHIFT_NS", str(shift_ns))


@pytest.fixture
def server_of_then(tmp_path: Path, clock: str) -> Iterator[ServerProcess]:
    """A server on an empty data directory, at the time and in the zone of the recording."""
    command = (sys.executable, "-c", clock + RUN_SERVER, "serve")
    with ServerProcess(tmp_path, "--time-zone", "UTC", command=command) as process:
        yield process


def replay(conformance: Path, clock: str, server: ServerProcess, *arguments: str) -> str:
    """Replay all vectors against a server; return the last line of what was said about it."""
    finished = subprocess.run(
        [
            *(sys.executable, "-c", clock + RUN_REPLAYER),
            *(str(conformance / "replay.py"), str(conformance / "vectors.jsonl")),
            *("--url", server.url, "--poll", server.poll_url, *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=REPLAY_TIMEOUT_S,
    )

    assert finished.returncode == 0, finished.stdout
    return finished.stdout.splitlines()[-1]


def test_every_vector_matches_before_and_after_a_crash(
    conformance: Path, clock: str, server_of_then: ServerProcess
) -> None:
    count = len((conformance / "vectors.jsonl").read_text(encoding="utf-8").splitlines())
    everything = f"{count} of {count} vectors match"

    assert count > 0
    assert replay(conformance, clock, server_of_then) == everything

    # The second run meets a server that has recovered all that the first has left behind, and
    # more connections at once.
    server_of_then.restart()
    assert replay(conformance, clock, server_of_then, "--threads", "64") == everything
