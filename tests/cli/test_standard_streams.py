"""A server whose terminal goes away, or that never had one."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.server import SERVE, ServerProcess

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_descriptors_become_dev_null(closed: str, tmp_path: Path) -> None:
    """The server starts, and none of its files or sockets has a number below 3."""
    shell = ("sh", "-c", f'exec "$@" {closed}', "sh")
    with ServerProcess(tmp_path, command=(*shell, *SERVE)) as server:
        opened = [os.readlink(f"/proc/{server.process_id}/fd/{number}") for number in range(3)]

        assert server.request("POST", "/promises", {"id": "p", "timeout": 2**53})[0] == 201
        assert all(name in ("/dev/null", str(server.log_path)) for name in opened), opened
        assert server.terminate() == 0


def test_sighup_stops_in_order(server: ServerProcess) -> None:
    """As when the terminal of `make serve` is closed, which sends it twice."""
    os.kill(server.process_id, signal.SIGHUP)
    os.kill(server.process_id, signal.SIGHUP)

    assert server.wait() == 0
    assert "stopping" in server.log()
    assert "signal=SIGHUP" in server.log()


def test_sighup_is_ignored_under_nohup(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, command=("nohup", *SERVE)) as server:
        os.kill(server.process_id, signal.SIGHUP)
        time.sleep(0.3)

        assert server.request("GET", "/ready")[0] == 200
        assert server.terminate() == 0


def test_a_failure_is_said_although_output_was_closed(tmp_path: Path) -> None:
    """What cannot start says so to the descriptors that are left, and by its status."""
    (tmp_path / "data").write_text("not a directory")
    command = ["sh", "-c", 'exec "$@" >&- <&-', "sh", *SERVE, "--data", str(tmp_path / "data")]
    ended = subprocess.run(
        [*command, "--listen", "127.0.0.1:0", "--poll-listen", "none"],
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 1
    assert ended.stderr.decode().startswith("troth: ")
    assert ended.stderr.count(b"\n") == 1
