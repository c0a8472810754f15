"""The server's own process in a seat: it serves, ends, restarts and fails as its supervisor says.

One process only: what several say to one another is not the supervisor's.
"""

import http.client
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.supervising.running import LONG_S, Supervised, restart, until

pytestmark = pytest.mark.slow

FAR_MS = 4_102_444_800_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Supervised]:
    """A server of one process, in a seat."""
    data = str(tmp_path / "data")
    # Its own port is that of the sockets it is given.
    command = (
        *(sys.executable, "-m", "troth", "serve", "--data", data, "--log-format", "json"),
        *("--poll-listen", "none"),
    )
    with Supervised(tmp_path, 1, command=command) as running:
        yield running.wait_ready()


def call(server: Supervised, method: str, path: str, body: object = None) -> int:
    """Send a request; return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LONG_S)
    connection.request(method, path, None if body is None else json.dumps(body))
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.newest
def test_it_serves_and_is_started_again(server: Supervised) -> None:
    """After a kill, and when it is replaced; what was acknowledged is there."""
    names = []
    for number in range(3):
        names.append(f"order-{number}")
        assert call(server, "POST", "/promises", {"id": names[-1], "timeout": FAR_MS}) == 201
        (before,) = server.processes()
        if number == 0:
            os.kill(before["pid"], signal.SIGKILL)
        else:
            assert restart(server)[-1] == {"done": True}
        # Never refused in the meantime: they wait, or are told that it reads its log.
        for name in names:
            until(lambda: call(server, "GET", f"/promises/{name}") == 200, name)  # noqa: B023
        (after,) = server.processes()
        assert after["pid"] != before["pid"]
        assert after["starts"] == number + 2
    lines = [line for line in server.log() if line["logger"] != "troth.supervisor"]
    assert lines
    assert {line["process"] for line in lines} == {0}
    assert server.end() == 0
    assert call_is_refused(server)


def test_a_process_that_gets_a_signal_of_its_own_is_started_again(server: Supervised) -> None:
    """It stops in good order, without waiting for others, and then it is back."""
    (before,) = server.processes()
    os.kill(before["pid"], signal.SIGTERM)
    until(lambda: server.logged("a process has ended"), "its end", 25)
    until(lambda: call(server, "GET", "/ready") == 200, "it is back")
    (line,) = server.logged("a process has ended")
    assert (line["status"], line["process"]) == (0, 0)
    (after,) = server.processes()
    assert after["starts"] == 2
    assert server.end() == 0


def call_is_refused(server: Supervised) -> bool:
    """Return whether no one listens any more."""
    try:
        call(server, "GET", "/ping")
    except ConnectionRefusedError:
        return True
    return False


def test_a_lost_directory_ends_all_with_its_message(server: Supervised) -> None:
    shutil.rmtree(server.data / "groups" / "0" / "log")
    assert server.process.wait(LONG_S) == 1
    (line,) = server.logged("the server has failed")
    assert "was deleted, moved or replaced while the server was using it" in line["problem"]
    assert not server.logged("a process has ended")


def test_a_damaged_log_is_refused_as_ever(tmp_path: Path, server: Supervised) -> None:
    assert server.end() == 0
    (segment,) = (server.data / "groups" / "0" / "log").glob("*1.log")
    segment.write_bytes(b"x" * 64)
    data = str(server.data)
    command = (sys.executable, "-m", "troth", "serve", "--data", data, "--poll-listen", "none")
    with Supervised(tmp_path, 1, command=command) as again:
        assert again.process.wait(LONG_S) == 1
        (line,) = again.logged("the server has failed")
        assert f"{segment} is damaged at byte 0" in line["problem"]


def test_a_supervisor_that_is_killed_takes_it_along(server: Supervised) -> None:
    (one,) = server.processes()
    server.process.kill()
    server.process.wait()
    until(lambda: not Path(f"/proc/{one['pid']}").exists(), "it has stopped")
    assert call_is_refused(server)
