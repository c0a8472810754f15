"""`troth locks run`: a command that runs while a lock is held, on a real server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.helpers.server import REPOSITORY, ServerProcess

pytestmark = pytest.mark.slow

LIMIT_S = 60.0
ENDLESS = "import time; print('up', flush=True); time.sleep(600)"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as started:
        yield started


def start(server: ServerProcess, *arguments: str) -> subprocess.Popen[str]:
    """Start `troth locks run`."""
    environment = {key: text for key, text in os.environ.items() if not key.startswith("TROTH_")}
    return subprocess.Popen(
        [sys.executable, "-m", "troth", "locks", "run", *arguments],
        env={**environment, "PYTHONPATH": str(REPOSITORY / "src"), "TROTH_SERVER": server.url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def acquire(server: ServerProcess, ttl: int = 60_000) -> httpx.Response:
    body = {"resourceId": "r", "executionId": "other", "processId": "p", "ttl": ttl}
    return httpx.post(f"{server.url}/locks/acquire", json=body)


def script(text: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", text)


def test_the_command_holds_the_lock_and_its_status_is_the_end(server: ServerProcess) -> None:
    earlier = acquire(server, 500)
    assert earlier.status_code == 201
    held = script(
        "import os, sys\n"
        "print(os.environ['TROTH_LOCK_TOKEN'], flush=True)\n"
        "sys.stdin.read()\n"
        "sys.exit(7)"
    )
    with start(server, "r", "--ttl", "600ms", "--wait", "1m", *held) as process:
        assert process.stdout is not None
        token = int(process.stdout.readline())
        time.sleep(1.5)  # longer than the ttl: it is renewed
        refused = acquire(server)
        process.communicate("", timeout=LIMIT_S)

    assert refused.status_code == 403
    assert token > int(earlier.headers["fencing-token"])
    assert process.returncode == 7
    assert acquire(server).status_code == 201


def test_a_held_lock_is_refused_at_once(server: ServerProcess) -> None:
    acquire(server)
    with start(server, "r", *script("print('ran')")) as process:
        output, errors = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 1
    assert output == ""
    assert "execution 'other' of process 'p'" in errors


def test_a_command_whose_lock_is_lost_is_ended(server: ServerProcess) -> None:
    with start(server, "r", "--ttl", "900ms", *script(ENDLESS)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        server.kill9()
        _, errors = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 1
    assert "the lock was lost" in errors


def test_sigterm_goes_to_the_command(server: ServerProcess) -> None:
    text = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
        "print('up', flush=True)\n"
        "time.sleep(600)"
    )
    with start(server, "r", *script(text)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(0.2)  # until the signal is forwarded
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LIMIT_S)

    assert process.returncode == 9
    assert acquire(server).status_code == 201


def test_a_command_that_does_not_exist_releases_the_lock(server: ServerProcess) -> None:
    with start(server, "r", "--", "/no/such/command") as process:
        _, errors = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 127
    assert "/no/such/command cannot be started" in errors
    assert acquire(server).status_code == 201
