"""schemathesis reads `/openapi.json` and tries to find a request that contradicts it.

Streams are left out: they do not end. So are requests that schemathesis derives from earlier
answers: it puts any id into the header Request-Id, which its own client cannot send.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.server import ServerProcess
from tests.helpers.tokens import new_client

HERE = Path(__file__).resolve().parent / "schemathesis"
SEED = 20261121


@pytest.mark.slow
def test_schemathesis_finds_nothing(shared_server: ServerProcess, tmp_path: Path) -> None:
    fuzz(shared_server, tmp_path, "--exclude-path-regex=^/(poll|v1)")


@pytest.mark.slow
def test_schemathesis_finds_nothing_about_functions(tmp_path: Path) -> None:
    # It tries wrong credentials too, more often than is good for one address.
    with ServerProcess(tmp_path / "server", "--failed-attempts-limit-count=0") as server:
        token = new_client(server, "fuzzer").secret
        paths = "^/v1/(function|tag|build|metrics)"
        fuzz(server, tmp_path, f"--include-path-regex={paths}", f"--header=Authorization:{token}")


def fuzz(server: ServerProcess, directory: Path, *options: str) -> None:
    """Let schemathesis look at a server. Fails with what it has found."""
    arguments = [
        f"--config-file={HERE / 'schemathesis.toml'}",
        "run",
        f"{server.url}/openapi.json",
        *options,
        "--phases=examples,coverage,fuzzing",
        "--max-examples=10",
        f"--seed={SEED}",
        "--request-timeout=10",
        "--no-color",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "SCHEMATHESIS_HOOKS": "hooks",
        "PYTHONWARNINGS": "default",
    }
    finished = subprocess.run(
        [str(Path(sys.executable).with_name("schemathesis")), *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout[-20_000:] + finished.stderr
