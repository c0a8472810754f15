"""`python -m tests.release.first_workflow`: from nothing to the first durable workflow, timed.

A person has Python, a shell and the page *Start* of the documentation, and nothing else: a new
directory that is also their home, an empty cache of pip, the package from a wheel in place of the
index, all that it needs from the index. What is pasted stands in `docs/start/`; what differs is the
address, since others may use port 8001 here. Typing and reading are not in the time.

It downloads two environments, so no ordinary test runs it. Status 1 if it takes longer than
`LIMIT_S`, or fails.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.helpers.pasting import blocks_of
from tests.helpers.repository import ROOT
from tests.helpers.server import free_ports, http_json

from .package import build

LIMIT_S: Final = 300.0
READY_LIMIT_S: Final = 60.0
PAGES: Final = ROOT / "docs" / "start"
INSTALL: Final = "python3 -m venv ~/troth && ~/troth/bin/pip install troth"
EXPECTED: Final = "a train to Oslo booked, a room in Oslo booked"


class Walk:
    """One walk through the pages, in a home of its own."""

    def __init__(self, home: Path, wheel: Path) -> None:
        self._home = home
        self._wheel = wheel
        self._started = time.monotonic()
        api, poll = free_ports(2)
        self._address = f"localhost:{api}"
        self._listen = f"--listen 127.0.0.1:{api} --poll-listen 127.0.0.1:{poll}"

    @property
    def took_s(self) -> float:
        """The time since the beginning, in seconds."""
        return time.monotonic() - self._started

    def run(self) -> str:
        """Do what the pages say; return what the workflow's script prints."""
        start = (PAGES / "index.md").read_text()
        assert INSTALL in start, "the page says something else now: change this program too"
        self._paste(f"set -e\n{INSTALL}".replace("install troth", f"install -q '{self._wheel}'"))
        print(f"{self.took_s:6.1f} s  installed", flush=True)
        assert "\ntroth serve\n" in start, "the page says something else now"
        with self._serving():
            print(f"{self.took_s:6.1f} s  ready", flush=True)
            page = blocks_of((PAGES / "python.md").read_text())
            for block in page:
                if block.language == "python":
                    text = block.text.replace("localhost:8001", self._address)
                    (self._home / block.title).write_text(text)
            script = "".join(block.text for block in page if block.language == "sh")
            return self._paste(f"set -e\n{script}")

    @contextlib.contextmanager
    def _serving(self) -> Iterator[None]:
        command = ["/bin/bash", "-c", f"exec troth serve {self._listen}"]
        log = (self._home / "server.log").open("wb")
        with (
            log,
            subprocess.Popen(command, cwd=self._home, env=self._environment, stderr=log) as run,
        ):
            try:
                limit = time.monotonic() + READY_LIMIT_S
                while True:
                    with contextlib.suppress(OSError):
                        if http_json("GET", f"http://{self._address}/ready")[0] == 200:
                            break
                    assert time.monotonic() < limit, (self._home / "server.log").read_text()
                    time.sleep(0.1)
                yield
            finally:
                run.send_signal(signal.SIGTERM)

    def _paste(self, script: str) -> str:
        """Run a script as a reader would paste it; return what it prints."""
        done = subprocess.run(
            ["/bin/bash", "-c", script],
            cwd=self._home,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def _environment(self) -> dict[str, str]:
        """A new user's variables, and how this machine reaches its index."""
        kept = ("PATH", "LANG", "PYENV_ROOT", "PYENV_VERSION")
        network = ("pip_", "http", "https", "ssl", "requests", "no_proxy", "curl")
        found = {
            name: text
            for name, text in os.environ.items()
            if name in kept or name.lower().startswith(network)
        }
        return {
            **found,
            "HOME": str(self._home),
            "PATH": f"{self._home}/troth/bin:{found['PATH']}",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "TROTH_SERVER": f"http://{self._address}",
        }


def main() -> int:
    """Walk, and say how long it took."""
    # A shim of pyenv may be there without a Python behind it.
    if subprocess.run(["python3.12", "-c", ""], capture_output=True, check=False).returncode:
        print("The page asks for python3.12, which is not installed here.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="troth-first-workflow-") as directory:
        wheel = build(Path(directory) / "dist").wheel
        home = Path(directory) / "home"
        home.mkdir()
        walk = Walk(home, wheel)
        printed = walk.run()
        took_s = walk.took_s
    print(f"{took_s:6.1f} s  the first durable workflow is done (at most {LIMIT_S:.0f} s)")
    if EXPECTED not in printed:
        print(printed, file=sys.stderr)
        return 1
    return 0 if took_s <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
