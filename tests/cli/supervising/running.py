"""A running supervisor, and what tests ask of it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.repository import IMPORT_ROOT, ROOT
from troth.cli.supervising.restart import asked

PROGRAM = Path(__file__).with_name("supervised.py")
LONG_S = 60.0
"""For what comes soon on a machine that does nothing else."""
HANGS_S = 5.0
"""How long a stand-in says nothing until it is killed, where a test waits for that."""
KILLED_SOON = {"KILL_AFTER_S": str(HANGS_S)}


def until(condition: Callable[[], Any], what: str, limit_s: float = LONG_S) -> Any:
    """Wait until something is true; return what it is then."""
    ends_s = time.monotonic() + limit_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < ends_s, f"waited in vain: {what}"
        time.sleep(0.02)


class Supervised:
    """A running supervisor of stand-ins."""

    def __init__(
        self,
        directory: Path,
        processes_count: int = 3,
        *,
        port: int = 0,
        environment: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
        prepared: Callable[[], None] | None = None,
        command: tuple[str, ...] = (),
        **settings: str,
    ) -> None:
        self.data = directory / "data"
        self.log_path = directory / f"log-{time.monotonic_ns()}"
        self.no_load = directory / "no-load"
        """While it is there, stand-ins end before they have loaded."""
        self.port = port
        flags = {
            "data": str(self.data),
            "listen": f"127.0.0.1:{port}",
            "poll_listen": "none",
            "log_format": "json",
            **settings,
        }
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), json.dumps(flags), str(processes_count), *command],
                stderr=log,
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": f"{ROOT}:{IMPORT_ROOT}",
                    "NO_LOAD": str(self.no_load),
                    **(environment or {}),
                },
                pass_fds=pass_fds,
                preexec_fn=prepared,
            )

    def log(self) -> list[dict[str, Any]]:
        """Return what was logged, but for what is no line of JSON."""
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of an event."""
        return [line for line in self.log() if line["event"] == event]

    def wait_ready(self) -> "Supervised":
        """Wait until all processes serve."""
        (line,) = until(lambda: self.logged("ready") or self._failed(), "ready")
        self.port = int(line["api"].rpartition(":")[2])
        return self

    def _failed(self) -> list[Any]:
        assert self.process.poll() is None, self.log_path.read_text()
        return []

    def ask(self, line: str = "who") -> dict[str, Any]:
        """Ask whatever process gets the connection; empty if it ends without an answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=LONG_S) as connection:
            connection.sendall(line.encode() + b"\n")
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while received := connection.recv(65536):
                    answer += received
        return dict(json.loads(answer)) if answer else {}

    def processes(self) -> list[dict[str, Any]]:
        """Return what the supervisor says of its processes."""
        (answer,) = asked(self.data, {"ask": "processes"})
        return list(answer["processes"])

    def spare(self) -> dict[str, Any] | None:
        """Return what the supervisor says of its spare process; None if there is none."""
        (answer,) = asked(self.data, {"ask": "processes"})
        return None if answer["spare"] is None else dict(answer["spare"])

    def wait_spare(self, other_than: int = 0) -> int:
        """Wait until a spare process has loaded; return its number."""

        def found() -> int | None:
            spare = self.spare()
            return spare["pid"] if spare and spare["loaded"] and spare["pid"] != other_than else 0

        return int(until(found, "a spare process"))

    def pids(self) -> list[int]:
        """Return the processes that are there."""
        return [one["pid"] for one in self.processes() if one["pid"]]

    def seatless(self) -> list[int]:
        """Return the processes that wait for a seat."""
        number = self.process.pid
        children = Path(f"/proc/{number}/task/{number}/children").read_text()
        return sorted({*map(int, children.split())} - {*self.pids()})

    def are_up(self) -> bool:
        """Return whether all processes are."""
        return all(one["up"] for one in self.processes())

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for the end; the status."""
        self.process.send_signal(number)
        return self.process.wait(LONG_S)

    def __enter__(self) -> "Supervised":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def restart(server: Supervised) -> list[dict[str, Any]]:
    """Restart all processes; return what was answered."""
    return list(asked(server.data, {"ask": "restart"}))
