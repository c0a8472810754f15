"""What the proofs share: running the command until it ends, looking at directories, HTTP, disks.

Everything here talks to a real server process from outside, as an operator, a client or a broken
machine would. Nothing is imported from the server.
"""

import contextlib
import hashlib
import http.client
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from tests.helpers.server import REPOSITORY, SERVE

FAR_MS: Final = 2**53
"""A deadline that no test lives to see."""

LEFT_ALONE_TIMEOUT_S: Final = 120.0
"""Longest wait for a server that is expected to end by itself."""

NO_ANSWER: Final = (OSError, http.client.HTTPException)
"""What a client sees instead of an answer when the server is gone or hangs up."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit status, what it wrote to stderr, and how long it took."""

    status: int
    errors: str
    duration_s: float

    @property
    def last_line(self) -> str:
        """The last line on stderr: the one an operator looks at."""
        return self.errors.strip().splitlines()[-1]


def run_serve(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    file_limit_bytes: int | None = None,
) -> Ended:
    """Run `troth serve` with these arguments until it ends by itself.

    With `file_limit_bytes` no file can grow beyond that, as on a full disk. Raises
    `subprocess.TimeoutExpired` if the command keeps running; it is killed then.
    """
    command = list(SERVE)
    if file_limit_bytes is not None:
        command = [sys.executable, "-c", _LIMITED, str(file_limit_bytes), *SERVE]
    started = time.monotonic()
    done = subprocess.run(
        [*command, *arguments],
        env=_clean_environment(environment or {}),
        cwd="/",  # a troth.toml in the repository must not change what is tested
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LEFT_ALONE_TIMEOUT_S,
        check=False,
    )
    assert done.stdout == "", "a server says everything on stderr"
    return Ended(done.returncode, done.stderr, time.monotonic() - started)


# Limits the process, then becomes the command.
_LIMITED: Final = (
    "import os, resource, sys\n"
    "limit = int(sys.argv[1])\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


def _clean_environment(more: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("TROTH_")}
    return {**inherited, "PYTHONPATH": str(REPOSITORY / "src"), **more}


def limit_files(process_id: int, limit_bytes: int) -> None:
    """Make every write of a running process beyond `limit_bytes` of a file fail from now on.

    The hard limit is left as it is: lowering is all that a user who is not root may do.
    """
    _, hard = resource.prlimit(process_id, resource.RLIMIT_FSIZE)
    resource.prlimit(process_id, resource.RLIMIT_FSIZE, (limit_bytes, hard))


def fingerprint(path: Path) -> dict[str, str]:
    """Every file below a path (or the path itself) with the hash of its content."""
    if path.is_file():
        return {".": hashlib.sha256(path.read_bytes()).hexdigest()}
    found = {}
    for entry in sorted(path.rglob("*")):
        name = entry.relative_to(path).as_posix()
        found[name] = (
            hashlib.sha256(entry.read_bytes()).hexdigest() if entry.is_file() else "directory"
        )
    return found


@contextlib.contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[bool]:
    """Put a small file system at `place`; False if this user may not mount one."""
    place.mkdir(parents=True, exist_ok=True)
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mounting, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


def grow_disk(place: Path, size_bytes: int) -> None:
    """Give a small file system more room."""
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", str(place)], check=True)


class Client:
    """One keep-alive connection that sends JSON, made when it is needed."""

    def __init__(
        self, url: str, timeout_s: float = 10.0, headers: Mapping[str, str] | None = None
    ) -> None:
        """Remember where to connect to, and what headers every request has."""
        parts = urlsplit(url)
        assert parts.hostname is not None, url
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Send one request; status and decoded body. Raises one of `NO_ANSWER`."""
        content = None if body is None else json.dumps(body).encode()
        sent = {**self._headers, **(headers or {})}
        try:
            self._connection.request(method, path, content, sent)
            response = self._connection.getresponse()
            answer = response.read()
        except NO_ANSWER:
            self.close()
            raise
        if response.headers.get_content_type() == "application/json" and answer:
            return response.status, json.loads(answer)
        return response.status, answer.decode(errors="replace") or None

    def close(self) -> None:
        """Hang up; the next call connects again."""
        self._connection.close()


def connect(url: str, timeout_s: float = 10.0) -> socket.socket:
    """Open a plain connection to where a URL points."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=timeout_s)


def search_all(client: Client, pattern: str = "*", kind: str = "promises") -> list[dict[str, Any]]:
    """Every promise (or schedule) that matches, page by page."""
    found: list[dict[str, Any]] = []
    status, page = client.call("GET", f"/{kind}?id={pattern}&limit=100")
    while True:
        assert status == 200, (status, page)
        found += page[kind]
        if page["cursor"] is None:
            return found
        status, page = client.call("GET", f"/{kind}?cursor={page['cursor']}")
