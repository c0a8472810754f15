"""Requests and answers recorded on the reference server, replayed against a server of ours.

The vectors and the program that replays them are kept beside this repository, in
`shared/conformance`; the environment variable `TROTH_CONFORMANCE` names the directory if they lie
elsewhere. Status, error code and body of every step must be as recorded; the wording of errors is
not compared.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.server import REPOSITORY, ServerProcess

ENVIRONMENT_VARIABLE: Final = "TROTH_CONFORMANCE"
# Ten seconds when nothing else runs on two cores; most of it is waiting for deadlines.
REPLAY_TIMEOUT_S: Final = 120.0


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


def replay(conformance: Path, server: ServerProcess, *arguments: str) -> str:
    """Replay all vectors against a server; return the last line of what was said about it."""
    finished = subprocess.run(
        [
            *(sys.executable, str(conformance / "replay.py"), str(conformance / "vectors.jsonl")),
            *("--url", server.url, "--poll", server.poll_url, *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=REPLAY_TIMEOUT_S,
    )

    assert finished.returncode == 0, finished.stdout
    return finished.stdout.splitlines()[-1]


@pytest.mark.slow
def test_every_vector_matches_before_and_after_a_crash(
    conformance: Path, server: ServerProcess
) -> None:
    count = len((conformance / "vectors.jsonl").read_text(encoding="utf-8").splitlines())
    everything = f"{count} of {count} vectors match"

    assert count > 0
    assert replay(conformance, server) == everything

    # The second run meets a server that has recovered all that the first has left behind, and
    # more connections at once.
    server.restart()
    assert replay(conformance, server, "--threads", "64") == everything


def replay_scenes(conformance: Path, server: ServerProcess, *arguments: str) -> str:
    """Replay all scenes of the envelope protocol; return the last line of what was said."""
    directory = conformance / "envelope"
    finished = subprocess.run(
        [
            *(sys.executable, str(directory / "replay.py"), str(directory / "vectors-dev.jsonl")),
            *("--url", server.url, "--again", "5", *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * REPLAY_TIMEOUT_S,
    )

    assert finished.returncode == 0, finished.stdout
    return finished.stdout.splitlines()[-1]


@pytest.mark.own_core
def test_every_scene_of_the_envelope_protocol_holds_before_and_after_a_crash(
    conformance: Path, server: ServerProcess
) -> None:
    scenes = (conformance / "envelope" / "vectors-dev.jsonl").read_text(encoding="utf-8")
    everything = f"{len(scenes.splitlines())} of {len(scenes.splitlines())} scenes held"

    assert scenes
    assert replay_scenes(conformance, server).startswith(everything)
    server.restart()
    assert replay_scenes(conformance, server, "--threads", "64").startswith(everything)


@pytest.mark.slow
def test_every_vector_matches_with_several_processes(
    conformance: Path, shared_processes: ServerProcess
) -> None:
    count = len((conformance / "vectors.jsonl").read_text(encoding="utf-8").splitlines())
    assert replay(conformance, shared_processes) == f"{count} of {count} vectors match"


@pytest.mark.own_core
def test_every_scene_holds_with_several_processes(
    conformance: Path, shared_processes: ServerProcess
) -> None:
    scenes = (conformance / "envelope" / "vectors-dev.jsonl").read_text(encoding="utf-8")
    count = len(scenes.splitlines())
    shown = replay_scenes(conformance, shared_processes)
    assert shown.startswith(f"{count} of {count} scenes held")
