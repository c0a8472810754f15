"""The tests of older releases of the Python SDK that concern the server, run against ours.

They need Python 3.12, which the project itself does not: one is looked for as in `../sdks`, where
what they need is pinned. As in `test_resonate_sdk.py`, the source distributions come from PyPI, by
their checksums. `make test` runs the tests of the last release, `make sdks` those of all.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.server import ServerProcess
from tests.sdks import environments

pytestmark = pytest.mark.slow

NAME: Final = "resonate-sdk"
SHA256: Final = {
    "0.5.3": "61df2b0581b1da0509af3a3069bc92903ed7e0180ad6fa5be31da950bfc3f9da",
    "0.6.3": "b0b8e358271834c9e012f6099a3bf64517063ab7023043158f0e56785aadec71",
    "0.6.7": "c122759f61cebdf4f3f19347ab81745098f3ab69024e23676c64822015f31dbc",
}
LAST: Final = "0.6.7"
SUITES: Final = "test_store*.py"
COMMAND_TIMEOUT_S: Final = 600.0
CLAIM_TIMEOUT_MS: Final = 2_000
"""What the poller of a test before has taken comes again after so long: that may be 25 times."""


def run(*command: str, cwd: Path, environment: dict[str, str] | None = None) -> None:
    """Run a command to its good end."""
    inherited = {key: text for key, text in os.environ.items() if not key.startswith("PYTEST_")}
    finished = subprocess.run(
        command,
        cwd=cwd,
        env={**inherited, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    assert finished.returncode == 0, finished.stdout


def check_suite(version: str, directory: Path, server: ServerProcess) -> None:
    """Run a release's tests of the server, with an environment of its own."""
    python = str(environments.python(version))
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(
        *(*pip, "download", "--quiet", "--no-input", "--no-deps"),
        *("--no-binary", NAME, f"{NAME}=={version}"),
        cwd=directory,
    )
    archive = directory / f"resonate_sdk-{version}.tar.gz"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256[version]
    shutil.unpack_archive(archive, directory, filter="data")
    tests = directory / archive.name.removesuffix(".tar.gz") / "tests"
    suites = [path.name for path in sorted(tests.glob(SUITES))]
    assert "test_store_task.py" in suites
    run(
        *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suites),
        cwd=tests,
        environment={
            "RESONATE_HOST": "http://127.0.0.1",
            "RESONATE_PORT_STORE": server.url.rpartition(":")[2],
            "RESONATE_PORT_MESSAGE_SOURCE": server.poll_url.rpartition(":")[2],
        },
    )


@pytest.mark.parametrize(
    "version",
    [pytest.param(one, marks=[] if one == LAST else pytest.mark.sdks) for one in SHA256],
)
def test_the_servers_tests_of_an_older_sdk_pass(version: str, tmp_path: Path) -> None:
    soon = ("--task-claim-timeout-ms", str(CLAIM_TIMEOUT_MS))
    with ServerProcess(tmp_path / "server", *soon) as server:
        check_suite(version, tmp_path, server)
        found = server.request("GET", "/promises?id=*")[1]["promises"]
    assert found, "the suite has talked to its own local store only"
