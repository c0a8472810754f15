"""A real `troth node` in a process of its own, as root with users of its own or as one user."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from tests.helpers.repository import IMPORT_ROOT
from tests.helpers.users import ONE_USER, UID_BASE

from .fake_server import TOKEN, WAIT_S

MODES: Final = ("users", "one user") if os.geteuid() == 0 else ("one user",)
"""How functions are kept apart: by users of their own if root runs the node, else by processes."""


AS_ONE_USER: Final = (
    # It may read this installation, wherever it is, and has no other rights.
    *("setpriv", f"--reuid={ONE_USER}", f"--regid={ONE_USER}", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
    "--bounding-set=-all,+dac_read_search",
)
"""Before a command: run it as a user without others to give to functions."""


class HasUrl(Protocol):
    """A server, or what stands for one."""

    @property
    def url(self) -> str:
        """Where it listens."""


class NodeProcess:
    """One node. Used in a `with` block; at its end nothing of it is left."""

    def __init__(
        self,
        directory: Path,
        server: HasUrl,
        *arguments: str,
        mode: str = MODES[0],
        token: str = TOKEN,
        trusts_functions: bool = True,
        import_root: Path = IMPORT_ROOT,
        before: Sequence[str] = (),
    ) -> None:
        """`directory` is the node's; `arguments` come on top of the usual ones.

        `import_root` is where it is installed. `before` is a command that runs it.
        """
        self._before = before
        self._import_root = import_root
        self.token = token
        self.directory = directory
        self.mode = mode
        self.log_path = directory.with_suffix(".log")
        self._arguments = (
            *("--server", server.url, "--directory", str(directory)),
            *("--uid-base", str(UID_BASE), "--log-level", "debug", "--log-format", "json"),
            # Where the tests' own user runs everything, servers of other tests are in reach.
            *(() if os.geteuid() == 0 or not trusts_functions else ("--trust-functions",)),
            *arguments,
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def start(self) -> None:
        """Start it; returns at once."""
        prefix = (*self._before,)
        if self.mode == "one user" and os.geteuid() == 0:
            prefix = AS_ONE_USER
            self.directory.mkdir(exist_ok=True)
            os.chown(self.directory, ONE_USER, ONE_USER)
        inherited = {name: text for name, text in os.environ.items() if name[:6] != "TROTH_"}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                (*prefix, sys.executable, "-m", "troth", "node", *self._arguments),
                env={**inherited, "PYTHONPATH": str(self._import_root), "TROTH_TOKEN": self.token},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def process_id(self) -> int:
        """The node's process."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        """Wait for its end; the exit status."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def log(self) -> str:
        """What it has written."""
        return self.log_path.read_text(errors="replace")

    def events(self) -> list[str]:
        """What its log says, without the values."""
        lines = [line for line in self.log().splitlines() if line.startswith("{")]
        return [json.loads(line)["event"] for line in lines]

    def function_processes(self) -> list[int]:
        """All processes on this machine that are a function's, by their user or their parents."""
        found = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                # Gone meanwhile.
                if not name.isdecimal() or int(name) == self.process_id:
                    continue
                status = Path(f"/proc/{name}/status").read_text()
                uid = int(status.split("Uid:")[1].split()[0])
                if self.mode == "users":
                    is_function = UID_BASE <= uid < UID_BASE + 1_000
                else:
                    environment = Path(f"/proc/{name}/environ").read_bytes()
                    is_function = f"HOME={self.directory}/run/".encode() in environment
                if is_function:
                    found.append(int(name))
        return found
