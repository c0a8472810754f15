"""The examples as processes, for their tests: started, watched by what they print, and killed."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.helpers.server import ServerProcess

EXAMPLES: Final = Path(__file__).resolve().parent
TIMEOUT_S: Final = 120.0
_POLL_INTERVAL_S: Final = 0.02


class Program:
    """One running example, and what it prints. Use as a context manager; it leaves nothing."""

    def __init__(
        self,
        server: ServerProcess,
        directory: Path,
        name: str,
        *arguments: str,
        login: str = "",
        command: Sequence[str] = (),
    ) -> None:
        """Start `name`.py with these arguments against `server`; its output goes to `directory`.

        `login` is what it shows: a user's name, a colon and a password. A `command` is what to run
        in the place of `name`.py.
        """
        run = command or (sys.executable, str(EXAMPLES / f"{name}.py"))
        self._title = " ".join((name, *arguments))
        directory.mkdir(parents=True, exist_ok=True)
        self._log_path = directory / f"{len(list(directory.iterdir()))}.log"
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*run, *arguments],
                cwd=directory,
                env=environment(server, login),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def process_id(self) -> int:
        """The process id."""
        return self._process.pid

    def lines(self) -> list[str]:
        """What it has printed so far."""
        return self._log_path.read_text(errors="replace").splitlines()

    def wait_for(self, text: str) -> None:
        """Wait until it has printed a line that begins with this text."""
        deadline = time.monotonic() + TIMEOUT_S
        while not any(line.startswith(text) for line in self.lines()):
            assert self._process.poll() is None, f"{self} ended too early"
            assert time.monotonic() < deadline, f"{self} has not printed {text!r} in time"
            time.sleep(_POLL_INTERVAL_S)

    def result(self) -> str:
        """Wait until it ends by itself, with success, and return the last line it printed."""
        try:
            status = self._process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} did not end in time") from None
        assert status == 0, f"{self} ended with status {status}"
        return self.lines()[-1]

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def kill9(self) -> None:
        """Kill it if it still runs: it gets no chance to say or to finish anything."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill9()

    def __str__(self) -> str:
        printed = "\n".join(self.lines())
        return f"`{self._title}` (which printed:\n{printed}\n)"


def environment(server: ServerProcess, login: str = "") -> Mapping[str, str]:
    """The environment in which the SDK and the command line find this server."""

    def found(url: str) -> str:
        return url.replace("://", f"://{login}@") if login else url

    inherited = {
        key: text for key, text in os.environ.items() if not key.startswith(("RESONATE_", "TROTH_"))
    }
    return {
        **inherited,
        "PYTHONPATH": str(EXAMPLES.parents[1] / "src"),
        "RESONATE_SERVER": found(server.url),
        "RESONATE_URL": found(server.url),
        "RESONATE_POLLER": found(server.poll_url),
        "TROTH_SERVER": server.url,
    }
