"""A PostgreSQL server of one test file: its own directory, a Unix socket, nothing else.

It runs as the user `postgres` where tests run as root, since it refuses to run as root.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from .tools import tool

PATIENCE_S: Final = 60.0
_INSTALLED: Final = Path("/usr/lib/postgresql")
_SETTINGS: Final = (
    "listen_addresses=",
    "max_connections=90",
    "shared_buffers=16MB",
    "autovacuum=off",
)


def _program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs; as `tool`, if it is not there."""
    found = sorted(_INSTALLED.glob(f"*/bin/{name}"))
    return str(found[-1]) if found else tool(name, "postgresql")


class PostgresServer:
    """A running server. `url` is what clients connect with."""

    def __init__(self, place: Path, options: dict[str, Any]) -> None:
        self.place = place
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql:///postgres?host={place}&user=postgres"

    def start(self, *settings: str) -> None:
        """Start, and wait until it takes connections."""
        program = _program("postgres")
        arguments = [part for one in (*_SETTINGS, *settings) for part in ("-c", one)]
        with (self.place / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [program, "-D", self.place / "data", "-k", self.place, *arguments],
                stdout=output,
                stderr=output,
                **self._options,
            )
        ready = [_program("pg_isready"), "-q", "-h", str(self.place), "-t", "1"]
        ends_s = time.monotonic() + PATIENCE_S
        while subprocess.run(ready, check=False).returncode != 0:
            assert self._process.poll() is None, (self.place / "output").read_text()
            assert time.monotonic() < ends_s, "PostgreSQL does not start"
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop, without waiting for clients."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(PATIENCE_S)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Halt all of the server's processes for a block."""
        assert self._process is not None
        main = self._process.pid
        halted = [main]
        os.kill(main, signal.SIGSTOP)  # first: it starts no others then
        try:
            children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
            for child in map(int, children):
                with suppress(ProcessLookupError):  # it had ended, and was waited for
                    os.kill(child, signal.SIGSTOP)
                    halted.append(child)
            yield
        finally:
            for one in reversed(halted):  # so that those which have ended are waited for last
                os.kill(one, signal.SIGCONT)

    def backends(self, application: str = "troth") -> list[int]:
        """Return the processes that serve clients of this name."""
        text = self.query(
            f"SELECT pid FROM pg_stat_activity WHERE application_name = '{application}'"
        )
        return [int(line) for line in text.split()]

    def query(self, statement: str, url: str | None = None) -> str:
        """Run a statement as an operator would; return the rows as text."""
        command = [_program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", url or self.url]
        return subprocess.run(
            [*command, "-c", statement], check=True, capture_output=True, text=True
        ).stdout.strip()


@contextmanager
def postgres_server(*settings: str) -> Iterator[PostgresServer]:
    """Make and run a server; skip the test where PostgreSQL is not installed, but fail in CI."""
    program = _program("initdb")
    place = Path(tempfile.mkdtemp(prefix="troth-postgres-"))
    options: dict[str, Any] = {}
    if os.geteuid() == 0:
        options = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(place, "postgres")
    place.chmod(0o755)
    server = PostgresServer(place, options)
    try:
        subprocess.run(
            [program, "-D", place / "data", "-U", "postgres", "-A", "trust", "-N"],
            check=True,
            capture_output=True,
            cwd=place,
            **options,
        )
        server.start(*settings)
        yield server
    finally:
        server.stop()
        shutil.rmtree(place)
