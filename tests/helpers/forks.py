"""Processes of `troth` without the time that Python takes to import it: they are forked.

Importing the server takes most of its start, and tests start some hundred servers. So a process of
its own (`Nursery`, one for each process that runs tests) imports it once, and forks whenever one is
wanted. A fork runs the same command with its own arguments, environment, directory, session and
output. It differs from a process of its own in what was decided when the interpreter started:
variables such as PYTHONHASHSEED, and the command line that others see.

`python -m tests.helpers.forks DESCRIPTOR` is that process; it ends when the tests' end is closed.
"""

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Final, NoReturn

from tests.helpers.repository import IMPORT_ROOT, ROOT

IMPORTED: Final = (
    "troth.cli.command",
    "troth.cli.serve",
    "troth.http.serve",
    "troth.http.sockets.hypercorn_connection",
)
MESSAGE_LIMIT_BYTES: Final = 1 << 18
START_TIMEOUT_S: Final = 120.0


class ForkedProcess:
    """One forked process, as `subprocess.Popen` would show it."""

    def __init__(self, nursery: "Nursery", process_id: int) -> None:
        """Initialize; only `Nursery.fork` does so."""
        self.pid = process_id
        self._nursery = nursery

    def poll(self) -> int | None:
        """Return the exit status (negative: a signal), or None while it runs."""
        return self._nursery.status(self.pid, 0.0)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end and return its status. Raises subprocess.TimeoutExpired."""
        status = self._nursery.status(self.pid, timeout_s)
        if status is None:
            raise subprocess.TimeoutExpired("troth", timeout_s or 0.0)
        return status

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


class Nursery:
    """The process that has imported the server, and all that it has forked."""

    def __init__(self) -> None:
        """Start it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "tests.helpers.forks", str(theirs.fileno())),
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{IMPORT_ROOT}{os.pathsep}{ROOT}"},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Ctrl-C is for the tests: what they start they also end.
                start_new_session=True,
            )
        self._socket = ours
        self._statuses: dict[int, int | None] = {}
        self._lock = threading.Lock()
        atexit.register(self.close)

    def close(self) -> None:
        """End it; what it has forked goes on."""
        self._socket.close()
        self._process.wait()

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], directory: Path, *logs: int
    ) -> ForkedProcess:
        """Run `troth` with these arguments. Both outputs go to one descriptor, or each to one."""
        wanted = json.dumps([list(arguments), dict(environment), str(directory)]).encode()
        assert len(wanted) < MESSAGE_LIMIT_BYTES
        with self._lock:
            socket.send_fds(self._socket, [wanted], logs)
            process_id = self._receive(START_TIMEOUT_S, started=True)
            assert process_id is not None, "the process that forks servers does not answer"
        return ForkedProcess(self, process_id)

    def status(self, process_id: int, timeout_s: float | None) -> int | None:
        """Wait for the end of a process; return its status, or None if it still runs."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with self._lock:
                if self._statuses[process_id] is not None:
                    return self._statuses[process_id]
                left_s = 0.1 if deadline_s is None else deadline_s - time.monotonic()
                self._receive(max(0.0, min(left_s, 0.1)))
                if self._statuses[process_id] is None and left_s <= 0:
                    return None

    def _receive(self, timeout_s: float, *, started: bool = False) -> int | None:
        """Take one message, or all up to the one that says what was started; return its id."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, deadline_s - time.monotonic())
            if not select.select([self._socket], [], [], left_s)[0]:
                return None
            said = self._socket.recv(MESSAGE_LIMIT_BYTES)
            assert said, "the process that forks servers has ended"
            process_id, status = json.loads(said)
            self._statuses[process_id] = status
            if not started or status is None:
                return int(process_id)


_nursery: Nursery | None = None


def nursery() -> Nursery:
    """Return this process's nursery; start it if need be."""
    global _nursery
    if _nursery is None:
        _nursery = Nursery()
    return _nursery


def run_forked(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    timeout_s: float = START_TIMEOUT_S,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and return what it wrote. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = nursery().fork(
            arguments, environment, directory, output.fileno(), errors.fileno()
        )
        status = process.wait(timeout_s)
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read())
    return subprocess.CompletedProcess(("troth", *arguments), status, *texts)


def _serve_forks(control: socket.socket) -> None:
    """Fork what is asked for and tell what ended, until the other end is closed."""
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, _nothing)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    while True:
        readable, _, _ = select.select([control.fileno(), ended], [], [])
        if ended in readable:
            os.read(ended, 4096)
            while (found := _ended_child()) is not None:
                control.send(json.dumps(found).encode())
        if control.fileno() in readable:
            wanted, descriptors, _, _ = socket.recv_fds(control, MESSAGE_LIMIT_BYTES, 2)
            if not wanted:
                return
            process_id = os.fork()
            if process_id == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for descriptor in (control.detach(), ended, wake):
                    os.close(descriptor)
                _become(json.loads(wanted), descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            control.send(json.dumps([process_id, None]).encode())


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the signal's only use is to wake."""


def _ended_child() -> tuple[int, int] | None:
    try:
        process_id, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (process_id, os.waitstatus_to_exitcode(status)) if process_id else None


def _become(wanted: Any, logs: Sequence[int]) -> NoReturn:
    """Be the process that was asked for, as if the interpreter had just started."""
    arguments, environment, directory = wanted
    os.setsid()
    os.chdir(directory)
    os.dup2(logs[0], 1)
    os.dup2(logs[-1], 2)
    for log in logs:
        os.close(log)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = ["troth", *arguments]
    status = 1
    try:
        importlib.import_module("troth.cli.command").main()
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _prepare() -> None:
    """Do once what each start would do again: read authorities, and look at the answers' types."""
    importlib.import_module("troth.http.outgoing.connections").usual_trust()
    api = SimpleNamespace(
        settings=importlib.import_module("troth.http.settings.settings").Settings(),
        url="",
        credentials=SimpleNamespace(has_users=False),
        limits=importlib.import_module("troth.http.wire.fields").RequestLimits(),
    )
    endpoints = importlib.import_module("troth.http.documents.table").API_ENDPOINTS
    importlib.import_module("troth.http.documents.pages").make_pages(api, endpoints)


def main() -> None:
    """Import what is to be forked, then serve the descriptor that the command line names."""
    for name in IMPORTED:
        importlib.import_module(name)
    _prepare()
    gc.collect()
    gc.freeze()
    _serve_forks(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
