"""A worker of a published SDK as a process: given commands, watched by what it says, and killed."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

# Only a test that fails waits so long.
TIMEOUT_S: Final = 120.0
_POLL_INTERVAL_S: Final = 0.02


class Served(Protocol):
    """What workers use: a `ServerProcess`, or what stands for several."""

    @property
    def url(self) -> str:
        """The URL of the API, without a slash at the end."""

    def request(self, method: str, path: str, body: object = None, /) -> tuple[int, Any]:
        """Send one request to the API; see `http_json`."""


class Worker:
    """One running `workflows` program. Use as a context manager; it leaves nothing."""

    def __init__(
        self,
        command: Sequence[str],
        server: Served,
        group: str,
        log_path: Path,
        ttl_ms: int = 60_000,
    ) -> None:
        """Start it for a group; what it says goes to `log_path`. A task is its own for `ttl_ms`."""
        self.group = group
        self._log_path = log_path
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, server.url, group, str(ttl_ms)],
                cwd=log_path.parent,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def process_id(self) -> int:
        """The process id."""
        return self._process.pid

    def events(self) -> list[dict[str, Any]]:
        """What it has said so far; lines of the SDK's own log are left out."""
        lines = self._log_path.read_text(errors="replace").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}\n")]

    def wait_for(self, **wanted: Any) -> dict[str, Any]:
        """Wait until it has said something that has these keys and values, and return that."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            for event in self.events():
                if wanted.items() <= event.items():
                    return event
            assert self._process.poll() is None, f"{self} ended too early"
            assert time.monotonic() < deadline, f"{self} has not said {wanted} in time"
            time.sleep(_POLL_INTERVAL_S)

    def ready(self) -> Self:
        """Wait until it takes commands."""
        self.wait_for(event="ready")
        return self

    def tell(self, do: str, name: str, **command: Any) -> None:
        """Give it a command about a promise or schedule of this name."""
        assert self._process.stdin is not None
        line = json.dumps({"do": do, "id": name, **command}) + "\n"
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()

    def start(self, name: str, function: str, *arguments: Any) -> None:
        """Let it begin a workflow under this id, and wait for its result."""
        self.tell("run", name, function=function, arguments=arguments)

    def result(self, name: str, done: str = "run") -> Any:
        """Wait for the value that a command has brought. Fails if it brought an error."""
        event = self.wait_for(id=name, done=done)
        assert "error" not in event, f"{name}: {event['error']}\n{self}"
        return event.get("value")

    def run(self, name: str, function: str, *arguments: Any) -> Any:
        """Run a workflow under this id and return its result."""
        self.start(name, function, *arguments)
        return self.result(name)

    def stop(self) -> None:
        """End its input, and wait until it has stopped in good order."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            status = self._process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} did not stop in time") from None
        assert status == 0, f"{self} ended with status {status}"

    def kill9(self) -> None:
        """Kill it if it still runs."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

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
        said = self._log_path.read_text(errors="replace")
        return f"the worker of {self.group!r} (which said:\n{said}\n)"


def environment() -> dict[str, str]:
    """What the tests' environment hands on: nothing that would configure an SDK or a Python."""
    return {
        key: text
        for key, text in os.environ.items()
        if not key.startswith(("RESONATE_", "TROTH_", "PYTHON", "NODE_"))
    }
