"""What workers and other clients meet while a server is still reading its log."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.helpers.server import ServerDiedError, ServerProcess, http_json

from .listening import EventStream

pytestmark = pytest.mark.slow

# A server that begins to read its log only when it finds a file named `go`. Until then it is
# between two records for ever, where recovery looks whether the server was told to stop.
SLOW_SERVER: Final = """
import pathlib, sys, time
import trio
from troth.cli.command import main
from troth.shards.storage import DirectoryStorage

read = DirectoryStorage.records

def wait_and_read(self):
    while not pathlib.Path("go").exists():
        trio.from_thread.check_cancelled()
        time.sleep(0.01)
    return read(self)

DirectoryStorage.records = wait_and_read
main()
"""
TIMEOUT_S: Final = 120.0


class StartingServer:
    """A server whose start takes as long as the test wants."""

    def __init__(self, directory: Path, executor: ThreadPoolExecutor) -> None:
        self.server = ServerProcess(directory, command=(sys.executable, "-c", SLOW_SERVER, "serve"))
        self.started = executor.submit(self.server.start)
        self._go = directory / "go"
        deadline = time.monotonic() + TIMEOUT_S
        while not self._answers():
            assert time.monotonic() < deadline, self.server.log()
            time.sleep(0.02)

    def go(self) -> None:
        """Let it read its log, and wait until it is ready."""
        self._go.touch()
        self.started.result(TIMEOUT_S)

    def end(self) -> None:
        """Leave nothing running, whatever the test has done with it."""
        self._go.touch()
        if self.started.exception(TIMEOUT_S) is None:
            self.server.kill9()

    def _answers(self) -> bool:
        try:
            return http_json("GET", f"{self.server.url}/health")[0] == 200
        except OSError:
            return False


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[StartingServer]:
    """A server that answers but is not ready."""
    with ThreadPoolExecutor() as executor:
        process = StartingServer(tmp_path, executor)
        yield process
        process.end()


def test_requests_are_refused_until_the_log_is_read(starting: StartingServer) -> None:
    status, answer = starting.server.request("GET", "/promises/a")
    assert (status, answer["error"]["code"]) == (503, 50305)

    starting.go()
    assert starting.server.request("GET", "/promises/a")[0] == 404


def test_a_worker_that_comes_too_early_waits_for_its_stream(starting: StartingServer) -> None:
    # The SDK's worker never asks again after any answer but 200: it would get no more tasks.
    address = urlsplit(starting.server.poll_url)
    with socket.create_connection((address.hostname, address.port), TIMEOUT_S) as worker:
        worker.sendall(f"GET /early/w HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        worker.settimeout(0.3)
        with pytest.raises(TimeoutError):
            worker.recv(1)

        starting.go()
        worker.settimeout(TIMEOUT_S)
        assert worker.recv(4096).startswith(b"HTTP/1.1 200 ")
        with EventStream(f"{starting.server.poll_url}/early/other") as other:
            starting.server.request(
                "POST",
                "/promises",
                {"id": "a", "timeout": 2**62, "tags": {"resonate:invoke": "poll://uni@early/w"}},
            )
            received = b""
            while b"__invoke:a" not in received:
                part = worker.recv(4096)
                assert part, f"the server has stopped the stream after {received!r}"
                received += part
            assert other.arrived() == []


def test_a_server_that_is_not_ready_can_be_stopped(starting: StartingServer) -> None:
    begun_s = time.monotonic()
    os.kill(starting.server.process_id, signal.SIGTERM)

    with pytest.raises(ServerDiedError, match="ended with status 0"):
        starting.started.result(TIMEOUT_S)
    # Not after the time that requests in flight may take: there are none.
    assert time.monotonic() - begun_s < 5
