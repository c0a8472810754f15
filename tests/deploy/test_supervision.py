"""A real server under a service manager: what it says, and the sockets that it is given."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.repository import IMPORT_ROOT
from tests.helpers.server import http_json

TIMEOUT_S = 120.0

# What systemd does between fork and exec: descriptors from 3 on, and whose they are.
HANDING_OVER = """
import os, sys
count = int(sys.argv[1])
# Upwards of what is handed over, so that none is overwritten before it is moved.
moved = [os.dup(int(number)) for number in sys.argv[2:2 + count]]
high = [os.dup2(number, 100 + place) for place, number in enumerate(moved)]
for place, number in enumerate(high):
    os.dup2(number, 3 + place)
if count:
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count))
os.execv(sys.executable, [sys.executable, "-m", "troth", *sys.argv[2 + count:]])
"""


class SystemManager:
    """Starts a server as systemd would, with sockets that it keeps open itself."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "notify"
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(self._path))
        self._notified.settimeout(TIMEOUT_S)
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.url, self.poll_url = (
            f"http://127.0.0.1:{one.getsockname()[1]}" for one in self.sockets
        )

    def close(self) -> None:
        """Close what systemd would keep."""
        for one in (self._notified, *self.sockets):
            one.close()

    @contextmanager
    def started(
        self, *arguments: str, environment: Mapping[str, str] | None = None, sockets_count: int = 0
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start a server, handing over the first sockets; kill it at the end."""
        numbers = [one.fileno() for one in self.sockets[:sockets_count]]
        inherited = {name: text for name, text in os.environ.items() if name[:6] != "TROTH_"}
        own = {"PYTHONPATH": str(IMPORT_ROOT), "NOTIFY_SOCKET": str(self._path)}
        with (
            (self._directory / "log").open("ab") as log,
            subprocess.Popen(
                [
                    *(sys.executable, "-c", HANDING_OVER, str(len(numbers))),
                    *map(str, numbers),
                    *("serve", *arguments, "--data", str(self._directory / "data")),
                ],
                cwd=self._directory,
                env={**inherited, **own, **(environment or {})},
                pass_fds=numbers,
                stdout=log,
                stderr=log,
            ) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def heard(self, wanted: str) -> list[str]:
        """Return what the server said, up to and with the first line that begins as wanted."""
        found: list[str] = []
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            found += self._notified.recv(4096).decode().splitlines()
            if any(line.startswith(wanted) for line in found):
                return found
        raise AssertionError(f"never said {wanted}: {found}")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[SystemManager]:
    """A service manager with two sockets."""
    one = SystemManager(tmp_path)
    yield one
    one.close()


def test_a_server_says_that_it_is_ready_lives_and_stops(manager: SystemManager) -> None:
    ports = ("--listen", "127.0.0.1:0", "--poll-listen", "none")
    with manager.started(*ports, environment={"WATCHDOG_USEC": "300000"}) as process:
        before = manager.heard("STATUS=serving at http://127.0.0.1:")
        manager.heard("WATCHDOG=1")
        manager.heard("WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        manager.heard("STOPPING=1")

        assert process.wait(TIMEOUT_S) == 0

    assert before[-2] == "READY=1"
    assert "EXTEND_TIMEOUT_USEC=30000000" in before


@pytest.mark.slow
def test_sockets_outlive_the_server_so_no_connection_is_refused(manager: SystemManager) -> None:
    promise = {"id": "kept", "timeout": 4102444800000}
    with manager.started(sockets_count=2) as process:
        manager.heard("READY=1")
        status, _ = http_json("POST", f"{manager.url}/promises", promise)
        poll_status, _ = http_json("GET", f"{manager.poll_url}/ping")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
    early = socket.create_connection(("127.0.0.1", manager.sockets[0].getsockname()[1]))
    early.settimeout(TIMEOUT_S)
    early.sendall(b"GET /promises/kept HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    with manager.started(sockets_count=2):
        answer = early.makefile("rb").read()
    early.close()

    assert (status, poll_status) == (201, 200)
    assert answer.startswith(b"HTTP/1.1 "), answer
    assert b'"id":"kept"' in answer or answer.startswith(b"HTTP/1.1 503 "), "it may be too early"


def test_a_socket_that_lets_in_others_needs_credentials(manager: SystemManager) -> None:
    manager.sockets[0].close()
    manager.sockets[0] = socket.create_server(("0.0.0.0", 0))
    with manager.started("--poll-listen", "none", sockets_count=1) as process:
        assert process.wait(TIMEOUT_S) == 1

    said = (manager._directory / "log").read_text()
    assert "listen is 0.0.0.0:" in said
    assert "which other machines can reach" in said
