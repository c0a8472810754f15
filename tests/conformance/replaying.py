"""Replaying recorded requests and answers against what serves, by the programs that came with them.

The vectors and the programs that replay them are kept beside this repository, in
`shared/conformance`; the environment variable `TROTH_CONFORMANCE` names the directory if they lie
elsewhere.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final, Protocol

from tests.helpers.server import REPOSITORY

ENVIRONMENT_VARIABLE: Final = "TROTH_CONFORMANCE"
# Ten seconds when nothing else runs on two cores; most of it is waiting for deadlines.
REPLAY_TIMEOUT_S: Final = 240.0
_VECTORS: Final = ("replay.py", "vectors.jsonl")
_SCENES: Final = ("envelope/replay.py", "envelope/vectors-dev.jsonl")


class Served(Protocol):
    """Where a server is: `ServerProcess`, or a proxy in front of several."""

    @property
    def url(self) -> str:
        """The URL of the API, without a slash at the end."""

    @property
    def poll_url(self) -> str:
        """The URL of workers' streams, without a slash at the end."""


def conformance_directory() -> Path:
    """Return the directory that holds vectors and scenes, and what replays them."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    directory = Path(named) if named else REPOSITORY.parent / "shared" / "conformance"
    missing = [name for name in (*_VECTORS, *_SCENES) if not (directory / name).is_file()]
    assert not missing, (
        f"The conformance vectors are not here: {directory} has no {' and no '.join(missing)}. "
        f"Set the environment variable {ENVIRONMENT_VARIABLE} to the directory that has them."
    )
    return directory


def _run(names: tuple[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program with its cases to its end."""
    program, cases = (str(conformance_directory() / name) for name in names)
    return subprocess.run(
        [sys.executable, program, cases, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=REPLAY_TIMEOUT_S,
    )


def _said_last(finished: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of what was said about cases, all of which are as recorded."""
    assert finished.returncode == 0, finished.stdout
    return finished.stdout.splitlines()[-1]


def replay(server: Served, *arguments: str) -> str:
    """Replay vectors against a server; return the last line of what was said about it."""
    addresses = ("--url", server.url, "--poll", server.poll_url)
    return _said_last(_run(_VECTORS, *addresses, *arguments))


def replay_scenes(server: Served, *arguments: str) -> str:
    """Replay scenes of the envelope protocol; return the last line of what was said."""
    return _said_last(_run_scenes(server, "--again", "5", *arguments))


def replay_scenes_patiently(server: Served) -> str:
    """Replay all scenes, and those that differ again, alone; return what was said of all.

    Scenes are timed, some to 700 ms. On a machine that is too busy for that with several at a time,
    one has the more time alone.
    """
    finished = _run_scenes(server, "--again", "2", "--show", "20")
    *lines, last = finished.stdout.splitlines()
    differing = [name for name in _scenes() if any(one.startswith(f"{name}: ") for one in lines)]
    alone = [
        _run_scenes(server, "--only", name, "--threads", "1", "--again", "40") for name in differing
    ]
    failed = [finished.stdout for finished in alone if finished.returncode != 0]
    assert not failed, "\n".join((last, f"{len(failed)} do not hold alone:", *failed))
    assert last.startswith(f"{len(_scenes()) - len(differing)} of {len(_scenes())} "), last
    return f"{last}; all others held alone"


def _run_scenes(server: Served, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _run(_SCENES, "--url", server.url, *arguments)


def all_vectors() -> str:
    """Return what is said when all vectors match."""
    count = len((conformance_directory() / _VECTORS[1]).read_text(encoding="utf-8").splitlines())
    assert count > 0
    return f"{count} of {count} vectors match"


def all_scenes() -> str:
    """Return how what is said begins when all scenes hold."""
    count = len(_scenes())
    assert count > 0
    return f"{count} of {count} scenes held"


def _scenes() -> list[str]:
    """Return the names of all scenes."""
    text = (conformance_directory() / _SCENES[1]).read_text(encoding="utf-8")
    return [json.loads(line)["name"] for line in text.splitlines()]
