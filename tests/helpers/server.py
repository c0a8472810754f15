"""A real server in a process of its own, for tests that kill it, restart it or talk HTTP to it.

`ServerProcess` starts `troth serve` on a data directory and on ports that were free, waits until it
says it is ready, and can end it in every way a machine can. It leaves no process behind: at the end
of the `with` block the whole process group is killed. What the server wrote is in `log_path`.

A usual server is forked from a process that has already imported it (`forks.py`). Tests for which
the start itself matters, or the memory of the process, give `command=SERVE`.
"""

import contextlib
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from tests.helpers.forks import ForkedProcess, nursery
from tests.helpers.repository import IMPORT_ROOT
from troth.cli.supervising.restart import asked

REPOSITORY: Final = Path(__file__).resolve().parents[2]
# Only a test that fails waits so long; on a busy machine everything takes ten times as long.
READY_TIMEOUT_S: Final = 120.0
# Longer than the server's own limit for finishing requests in flight.
TERMINATE_TIMEOUT_S: Final = 90.0
REQUEST_TIMEOUT_S: Final = 60.0
_POLL_INTERVAL_S: Final = 0.02
_LOG_SHOWN_CHARACTERS: Final = 20_000

SERVE: Final = (sys.executable, "-m", "troth", "serve")


_PROCESSES_COUNT: Final = 8
_PROCESS_PORTS_COUNT: Final = 2_500
_USUAL_WORKERS_COUNT: Final = 3
_WORKER: Final = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
_FIRST_PORT: Final = 12_000 + _PROCESS_PORTS_COUNT * (
    int(_WORKER) % _PROCESSES_COUNT
    if _WORKER.isdecimal()
    else _USUAL_WORKERS_COUNT + os.getpid() % (_PROCESSES_COUNT - _USUAL_WORKERS_COUNT)
)
_PORTS: Final = range(_FIRST_PORT, _FIRST_PORT + _PROCESS_PORTS_COUNT)
"""Those of this process that runs tests, below those of outgoing connections (from 32,768 on).

A proof has others than the first workers of a test run at the same time: its nodes are away for a
while, and their ports would be taken.
"""

_port_counter: Final = itertools.count()


class ServerDiedError(Exception):
    """The server ended, or did not get ready in time. The text holds the end of its log."""


class ServerProcess:
    """One server, its data directory and its ports; started again and again on the same ones."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        """Choose ports, but start nothing yet.

        `directory` is where data and log go. `arguments` and `environment` are given to the server
        on top of the usual ones; settings in the tests' own environment do not reach it. `command`
        is what to run as a process of its own, instead of forking a server.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.data = directory / "data"
        self.log_path = directory / "server.log"
        self._ports = free_ports(2)
        # The settings are read when it runs; other variables are for an interpreter that starts.
        self._is_forked = command is None and all(
            name.startswith("TROTH_") for name in environment or ()
        )
        self._command = (
            *(command or SERVE),
            *("--data", str(self.data)),
            *("--listen", f"127.0.0.1:{self._ports[0]}"),
            *("--poll-listen", f"127.0.0.1:{self._ports[1]}"),
            *arguments,
        )
        inherited = {key: text for key, text in os.environ.items() if not key.startswith("TROTH_")}
        self._environment = {
            **inherited,
            "PYTHONPATH": str(IMPORT_ROOT),
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None

    @property
    def url(self) -> str:
        """The URL of the API, without a slash at the end."""
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def poll_url(self) -> str:
        """The URL of workers' streams, without a slash at the end."""
        return f"http://127.0.0.1:{self._ports[1]}"

    @property
    def process_id(self) -> int:
        """The running server's process id."""
        return self._running().pid

    def child_ids(self) -> list[int]:
        """Return the ids of the processes that the running server has started, oldest first.

        With several processes the spare one is among them.
        """
        process_id = self.process_id
        try:
            found = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
        except OSError:
            return []  # it has just ended
        return sorted(map(int, found.split()))

    def serving_ids(self) -> list[int]:
        """Return the ids of the processes of a server of several, in their order."""
        (answer,) = asked(self.data, {"ask": "processes"})
        return [one["pid"] for one in answer["processes"] if one["pid"]]

    def use_version(self, import_root: Path) -> None:
        """Start the server of another source tree from here on; `src` of that."""
        self._is_forked = False
        self._environment["PYTHONPATH"] = str(import_root)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self.kill9()

    def start(self) -> None:
        """Start the server and return when `GET /ready` answers 200. Raises `ServerDiedError`."""
        assert self._process is None, "the server is already running"
        # The directory is not the repository: a troth.toml there must not change what is tested.
        with self.log_path.open("ab") as log:
            if self._is_forked:
                arguments = self._command[SERVE.index("serve") :]
                self._process = nursery().fork(
                    arguments, self._environment, self.directory, log.fileno()
                )
            else:
                self._process = subprocess.Popen(
                    self._command,
                    cwd=self.directory,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill9()
            raise

    def kill9(self) -> None:
        """End the server as a power cut would: at once, with everything it started."""
        process = self._running()
        children = self.child_ids()  # with several processes, each has a group of its own
        # The group is gone when the server has stopped and was waited for.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        process.wait()
        for child in children:
            _wait_until_gone(child)  # they hold the ports
        self._process = None

    def terminate(self) -> int:
        """Ask the server to stop, wait for it, and return its exit status (negative: a signal)."""
        process = self._running()
        process.terminate()
        try:
            status = process.wait(TERMINATE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise ServerDiedError(
                f"the server did not stop within {TERMINATE_TIMEOUT_S} s\n{self.log()}"
            ) from None
        self.kill9()
        return status

    def wait(self, timeout_s: float = TERMINATE_TIMEOUT_S) -> int:
        """Wait until the server ends by itself and return its exit status."""
        status = self._running().wait(timeout_s)
        self.kill9()
        return status

    def restart(self) -> None:
        """Kill the server if it runs, and start it again on the same data directory and ports."""
        if self._process is not None:
            self.kill9()
        self.start()

    def log(self) -> str:
        """Return the end of what the server has written to its log so far."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_text(errors="replace")[-_LOG_SHOWN_CHARACTERS:]

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Send one request to the API; see `http_json`."""
        return http_json(method, self.url + path, body, headers)

    def _running(self) -> subprocess.Popen[bytes] | ForkedProcess:
        assert self._process is not None, "the server is not running"
        return self._process

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            status = self._running().poll()
            if status is not None:
                raise ServerDiedError(f"the server ended with status {status}\n{self.log()}")
            # Until it listens, connecting fails; while it starts, it may also close on us.
            with contextlib.suppress(OSError, http.client.HTTPException):
                if http_json("GET", f"{self.url}/ready")[0] == 200:
                    return
            time.sleep(_POLL_INTERVAL_S)
        raise ServerDiedError(f"the server was not ready within {READY_TIMEOUT_S} s\n{self.log()}")


def http_json(
    method: str,
    url: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """Send one request on a connection of its own; return status and body.

    `body` is sent as it is if it is bytes, not at all if it is None, else as JSON. The answer's
    body is parsed if its content type is JSON, else it is text; None if it is empty. Redirects are
    not followed.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None, url
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    sent_headers = dict(headers or {})
    if content is not None:
        sent_headers.setdefault("Content-Type", "application/json")
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=REQUEST_TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request(method, target or "/", content, sent_headers)
        response = connection.getresponse()
        answer = response.read()
    if not answer:
        return response.status, None
    if response.headers.get_content_type() == "application/json":
        return response.status, json.loads(answer)
    return response.status, answer.decode(errors="replace")


def _wait_until_gone(process_id: int) -> None:
    """Wait until a killed process that is not ours has nothing open any more."""
    deadline = time.monotonic() + TERMINATE_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z" and not _has_threads(process_id):
            return
        time.sleep(_POLL_INTERVAL_S)


def _has_threads(process_id: int) -> bool:
    """Return whether a process whose first thread has ended has others, which hold its files."""
    try:
        return len(os.listdir(f"/proc/{process_id}/task")) > 1
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on; one process that runs tests gets none twice soon.

    The system takes none of them for an outgoing connection. One that it may take can be gone when
    a server that was killed is started again.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = _PORTS[next(_port_counter) % len(_PORTS)]
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            ports.append(port)
    return ports
