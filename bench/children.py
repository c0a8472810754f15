"""Processes that the benchmark starts: a fresh server of ours, and the echo server.

They are ended with the `with` block, whatever happens in it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from .client import BenchError, BenchTarget, free_ports
from .machine import children_of, pin

READY_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 60.0
SPARE_TIMEOUT_S: Final = 60.0
SPARE_LOADED: Final = "a spare process has loaded"
SPARE_SETTLES_S: Final = 2.0
"""How long it goes on to load what is needed last."""
_POLL_S: Final = 0.005
_LOG_SHOWN_CHARACTERS: Final = 2_000


class OwnServer:
    """`troth serve` on a directory of its own, on ports that were free, pinned to a core."""

    def __init__(self, directory: Path, core: int | None, arguments: tuple[str, ...] = ()) -> None:
        """Initialize. `directory` is made, for data and log; `arguments` go to `troth serve`."""
        directory.mkdir(parents=True, exist_ok=True)
        self.data = directory / "data"
        self._directory = directory
        self.log_path = directory / "server.log"
        self._core = core
        self._ports = free_ports(2)
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def target(self) -> BenchTarget:
        """The address it serves."""
        assert self._process is not None
        api, poll = self._ports
        return BenchTarget("127.0.0.1", api, "127.0.0.1", poll, process_id=self._process.pid)

    def start(self) -> float:
        """Start it; return how many seconds it took until `GET /ready` was answered with 200.

        Raises BenchError with what it said if it ends or does not get ready.
        """
        api, poll = self._ports
        command = (
            *(sys.executable, "-m", "troth", "serve", "--data", str(self.data)),
            *("--listen", f"127.0.0.1:{api}", "--poll-listen", f"127.0.0.1:{poll}"),
            *self._arguments,
        )
        # Settings meant for another server must not reach this one; only the code's place must.
        kept = {key: text for key, text in os.environ.items() if not key.startswith("TROTH_")}
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        started = time.perf_counter()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 — our own program
                command,
                cwd=self._directory,
                env=kept,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # Before it has threads: they inherit the core.
        pin(self._process.pid, self._core)
        while time.perf_counter() < started + READY_TIMEOUT_S:
            if self._process.poll() is not None:
                break
            # Until it listens, no client can connect.
            with contextlib.suppress(BenchError):
                if self.target.ask("GET", "/ready")[0] == 200:
                    took_s = time.perf_counter() - started
                    self._wait_for_spare()
                    return took_s
            time.sleep(_POLL_S)
        said = self.log_path.read_text(errors="replace")[-_LOG_SHOWN_CHARACTERS:]
        self.kill()
        raise BenchError(f"troth serve did not become ready; its output:\n{said}")

    def _wait_for_spare(self) -> None:
        """Wait until a server of several processes has its spare one, which loads at no cost then.

        Its processor time would be taken for that of requests.
        """
        text = "--processes"
        if text not in self._arguments or self._arguments[self._arguments.index(text) + 1] == "1":
            return
        ends_s = time.perf_counter() + SPARE_TIMEOUT_S
        while time.perf_counter() < ends_s:
            if SPARE_LOADED in self.log_path.read_text(errors="replace"):
                time.sleep(SPARE_SETTLES_S)
                return
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            children = children_of(self._process.pid)
            # They may have ended already.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ask it to end and wait until it has. Raises BenchError if it does not."""
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise BenchError(f"troth serve did not stop within {STOP_TIMEOUT_S:.0f} s") from error
        self._process = None


class EchoProcess:
    """The echo server, on the server's core."""

    def __init__(self, core: int | None, rate: float | None = None) -> None:
        """Initialize. `rate` limits the answers a second."""
        self._core = core
        self._arguments = ("--child", *(("--rate", str(rate)) if rate else ()))
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> BenchTarget:
        command = (sys.executable, "-m", f"{__package__}.echo", *self._arguments)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(  # noqa: S603 — our own program
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        pin(self._process.pid, self._core)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line.isdecimal():
            self.__exit__(None, None, None)
            raise BenchError("the echo server did not start")
        port = int(line)
        return BenchTarget("127.0.0.1", port, "127.0.0.1", port, process_id=self._process.pid)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()
            self._process = None
