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

HERE = Path(__file__).resolve().parent / "schemathesis"
SEED = 20261121


@pytest.mark.slow
def test_schemathesis_finds_nothing(shared_server: ServerProcess, tmp_path: Path) -> None:
    arguments = [
        f"--config-file={HERE / 'schemathesis.toml'}",
        "run",
        f"{shared_server.url}/openapi.json",
        "--exclude-path-regex=^/poll",
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
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout[-20_000:] + finished.stderr
