"""The tests of a published client of the same API, run against a server of ours.

The Python SDK of the reference server is installed from PyPI for development. Its source
distribution has tests that need a running server; they are downloaded once into pytest's cache,
checked against the known checksum, and run in a process of their own, as they are but for the
addresses: some name port 8001 or 8002 of this machine, which may be taken.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.server import ServerProcess

pytestmark = pytest.mark.slow

NAME: Final = "resonate-sdk"
VERSION: Final = "0.4.12"
ARCHIVE: Final = f"resonate_sdk-{VERSION}.tar.gz"
SHA256: Final = "269c0fa14d9d32dfc3d2d7d682243f15b7693089d51dfd78fc794cc7aaa99c73"

# They register a callback of a promise on itself. The reference server forbids it (400, code
# 40001) since the release after the one that these two tests were written for, and so do we.
OUTDATED: Final = (
    "test_task_storage.py::test_case_0_callback_on_existing_promise",
    "test_task_storage.py::test_case_2_callback_on_resolved_promise",
)
# It needs no server, and expects that less than 8 ms pass between two of its own steps.
TIMED: Final = ("test_queue.py::test_delay_queue",)
PASSED_COUNT: Final = 709
# The SDK's authors skip one of their own tests, test_fibonacci_full_random.
SKIPPED_COUNT: Final = 1

DOWNLOAD_TIMEOUT_S: Final = 120.0
# Seventeen seconds when nothing else runs on two cores; nine of them are the SDK's own sleeps.
RUN_TIMEOUT_S: Final = 150.0


@pytest.fixture(scope="module")
def archive(pytestconfig: pytest.Config) -> Path:
    """The SDK's source distribution, from the cache or from PyPI."""
    path = pytestconfig.cache.mkdir(NAME) / ARCHIVE if pytestconfig.cache else None
    assert path is not None, "these tests need pytest's cache: do not run with -p no:cacheprovider"
    if not path.exists():
        download(path.parent)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256, f"{path} is not the known file"
    return path


def download(directory: Path) -> None:
    """Let pip fetch the source distribution; nothing is installed."""
    requirement = directory / "requirement.txt"
    requirement.write_text(f"{NAME}=={VERSION} --hash=sha256:{SHA256}\n")
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-input", "--no-deps", "--no-binary", NAME, "--require-hashes"),
            *("--dest", str(directory), "--requirement", str(requirement)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DOWNLOAD_TIMEOUT_S,
    )
    assert finished.returncode == 0, f"pip could not download {ARCHIVE}:\n{finished.stdout}"


def unpack(archive: Path, directory: Path, server: ServerProcess) -> Path:
    """Unpack the tests alone, let them talk to this server, and return where they are."""
    # Without `src`, so that the installed SDK is what is tested.
    top = f"resonate_sdk-{VERSION}"
    with tarfile.open(archive) as packed:
        wanted = [
            member
            for member in packed.getmembers()
            if member.name.startswith(f"{top}/tests/") or member.name == f"{top}/pyproject.toml"
        ]
        packed.extractall(directory, wanted, filter="data")
    tests = directory / top / "tests"
    replaced_count = 0
    for path in tests.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for fixed, address in (
            ("http://localhost:8001", server.url),
            ("http://localhost:8002", server.poll_url),
        ):
            replaced_count += text.count(fixed)
            text = text.replace(fixed, address)
        path.write_text(text, encoding="utf-8")
    assert replaced_count > 0
    return tests


def test_the_tests_of_the_sdk_pass(archive: Path, server: ServerProcess, tmp_path: Path) -> None:
    tests = unpack(archive, tmp_path, server)
    report = tmp_path / "report.xml"
    inherited = {key: text for key, text in os.environ.items() if not key.startswith("PYTEST_")}
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-o", "log_cli=false"),
            *("-p", "no:cacheprovider", "-p", "no:trio", f"--junit-xml={report}"),
            *(f"--deselect=tests/{name}" for name in OUTDATED + TIMED),
            "tests",
        ],
        cwd=tests.parent,
        env={
            **inherited,
            "RESONATE_STORE_URL": server.url,
            "RESONATE_TASKS_URL": server.poll_url,
            # What the SDK uses where a test names no address.
            "RESONATE_SERVER": server.url,
            "RESONATE_POLLER": server.poll_url,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )

    assert finished.returncode == 0, finished.stdout
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {
        "tests": PASSED_COUNT + SKIPPED_COUNT,
        "failures": 0,
        "errors": 0,
        "skipped": SKIPPED_COUNT,
    }
