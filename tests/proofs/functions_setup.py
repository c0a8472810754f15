"""What the proofs of functions need: accounts with tokens, functions with code, and real nodes.

A `Caller` is one connection of somebody with a token; a `NodeProcess` is `troth node` in a process
of its own, which is killed as a machine that loses its power is: without a word to its children.
"""

import contextlib
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from tests.helpers.server import REPOSITORY, ServerProcess
from tests.helpers.users import UID_BASE

from .support import NO_ANSWER

WAIT_S: Final = 120.0
SCOPES: Final = (
    *("tasks:read", "tasks:write", "functions:read", "functions:write"),
    *("node", "promises:read", "promises:write", "metrics:read"),
)
ZIP: Final = {"Content-Type": "application/zip"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Caller:
    """One keep-alive connection of somebody with a token (or the operator's key)."""

    def __init__(self, url: str, secret: str, *, address: str = "127.0.0.1") -> None:
        """`address` is where it comes from, any of this machine's: failures count by address."""
        self.url = url
        self.secret = secret
        self.address = address
        self._connection = connection_to(url, address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Make one request: `body` as it is if it is bytes, else as JSON. Raises `NO_ANSWER`."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Content-Type": "application/json", **(headers or {})}
        if self.secret:
            given.setdefault("Authorization", f"Bearer {self.secret}")
        try:
            self._connection.request(method, path, content, given)
            response = self._connection.getresponse()
            answer = response.read()
        except NO_ANSWER:
            self.close()
            raise
        named = {name.lower(): text for name, text in response.getheaders()}
        return Answer(response.status, named, answer)

    def insist(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Make a request until the server is there to answer it."""
        deadline = time.monotonic() + WAIT_S
        while True:
            with contextlib.suppress(*NO_ANSWER):
                # It is killed, or starts.
                answer = self.send(method, path, body, headers)
                if answer.status != 503:
                    return answer
            assert time.monotonic() < deadline, "the server does not come back"
            time.sleep(0.05)

    def make(self, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> str:
        """Make something; its id."""
        answer = self.send("POST", path, body, headers)
        assert answer.status == 201, (path, answer)
        identifier: str = answer.json["id"]
        return identifier

    def function(self, files: Mapping[str, str], language: str = "PY", **more: object) -> str:
        """Create a function with this code and wait until its build is checked; its id."""
        body = {"name": "proof", "type": "CODE", "lang": language, **more}
        function_id = self.make("/v1/function", body)
        self.build(function_id, files)
        return function_id

    def build(self, function_id: str, files: Mapping[str, str]) -> str:
        """Upload code and wait until it is checked; the build's id."""
        build_id = self.make(f"/v1/build/{function_id}", zipped(files), ZIP)

        def is_checked() -> bool:
            build = self.send("GET", f"/v1/build/{build_id}").json
            assert build["status"] != "FAILED", build
            return str(build["status"]) == "SUCCESS"

        wait_until(is_checked, "the build is checked")
        return build_id

    def close(self) -> None:
        """Hang up; the next request connects again."""
        self._connection.close()


def connection_to(url: str, address: str = "127.0.0.1") -> http.client.HTTPConnection:
    """A connection that is made when it is needed, from one of this machine's addresses."""
    place = urlsplit(url)
    assert place.hostname is not None, url
    # A result may be waited for, for 60 seconds at most.
    return http.client.HTTPConnection(
        place.hostname, place.port, timeout=90, source_address=(address, 0)
    )


def operator_of(server: ServerProcess) -> Caller:
    """Who can read the server's directory."""
    return Caller(server.url, (Path(server.data) / "admin.key").read_text().strip())


def make_account(server: ServerProcess, name: str) -> Caller:
    """Create an account; somebody with a token of it that allows everything but administration."""
    with operator_of(server) as operator:
        assert operator.send("POST", "/admin/accounts", {"name": name}).status == 201
    return Caller(server.url, make_token(server, name)[0])


def make_token(
    server: ServerProcess, account: str, scopes: tuple[str, ...] = SCOPES
) -> tuple[str, str]:
    """Make a token: its text and its id."""
    with operator_of(server) as operator:
        body = {"account": account, "scopes": list(scopes)}
        answer = operator.send("POST", "/admin/tokens", body)
        assert answer.status == 201, answer
        return answer.json["token"], answer.json["id"]


def zipped(files: Mapping[str, str]) -> bytes:
    """A zip archive of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class NodeProcess:
    """A `troth node`, of which nothing is left at the end of its `with` block."""

    def __init__(self, directory: Path, url: str, secret: str, number: int, slots_count: int):
        """`number` tells nodes of one machine apart."""
        self.directory = directory / f"node-{number}"
        self.log_path = directory / f"node-{number}.log"
        self.slots_count = slots_count
        self._first_uid = UID_BASE + 1000 * number
        self._command = (
            *(sys.executable, "-m", "troth", "node", "--server", url),
            *("--directory", str(self.directory), "--uid-base", str(self._first_uid)),
            *("--slots", str(slots_count), "--memory", "256"),
            # Without root, the node runs as the user of the server.
            *(() if os.geteuid() == 0 else ("--trust-functions",)),
        )
        inherited = {name: text for name, text in os.environ.items() if name[:6] != "TROTH_"}
        source = str(REPOSITORY / "src")
        self._environment = {**inherited, "PYTHONPATH": source, "TROTH_TOKEN": secret}
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
        if self._process is not None:
            self.kill9()
            self.wait_until_harmless()

    @property
    def process_id(self) -> int:
        """The node's process."""
        assert self._process is not None, "the node does not run"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not ended from here."""
        return self._process is not None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def start(self) -> None:
        """Start it; returns at once."""
        assert self._process is None, "the node runs already"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill9(self) -> None:
        """End the node's process, and only that one, at once."""
        assert self._process is not None, "the node does not run"
        self._process.kill()
        self._process.wait()
        self._process = None

    def terminate(self) -> int:
        """Ask it to stop, and wait; its exit status."""
        assert self._process is not None, "the node does not run"
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(WAIT_S)
        self._process = None
        return status

    def wait_until_harmless(self) -> None:
        """Wait until no process of a function that it ran is left."""
        wait_until(lambda: not self.function_processes(), "the functions of a node end")

    def function_processes(self) -> list[int]:
        """The processes of its functions: known by their users, or else by their directories."""
        return [int(name) for name in os.listdir("/proc") if name.isdecimal() and self._owns(name)]

    def _owns(self, name: str) -> bool:
        # They may be gone meanwhile.
        with contextlib.suppress(OSError):
            if os.geteuid() == 0:
                status = Path(f"/proc/{name}/status").read_text()
                uid = int(status.split("Uid:")[1].split()[0])
                return 0 <= uid - self._first_uid < 1000
            environment = Path(f"/proc/{name}/environ").read_bytes()
            return f"HOME={self.directory}/".encode() in environment
        return False

    def log(self) -> str:
        """What it has written so far."""
        return self.log_path.read_text(errors="replace")


@contextlib.contextmanager
def running_nodes(
    directory: Path, caller: Caller, nodes_count: int, slots_count: int
) -> Iterator[list[NodeProcess]]:
    """So many nodes of the caller's account, all connected."""
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(
                NodeProcess(directory, caller.url, caller.secret, number, slots_count)
            )
            for number in range(nodes_count)
        ]

        def are_connected() -> bool:
            assert not any(node.has_ended for node in nodes), "a node has ended"
            listed = caller.send("GET", "/v1/node/list").json
            return [one["available"] for one in listed] == [True] * nodes_count

        try:
            wait_until(are_connected, "all nodes are connected")
        except AssertionError as error:
            raise AssertionError("\n".join(node.log() for node in nodes)) from error
        yield nodes


class Crowd:
    """Threads that do the same; whatever goes wrong in one is raised at the end."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._problems: list[BaseException] = []

    def start(self, work: Callable[[], object], count: int) -> None:
        """Start so many more."""
        for _ in range(count):
            thread = threading.Thread(target=self._guarded, args=(work,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # raised again, by `join`
            self._problems.append(error)

    @property
    def has_failed(self) -> bool:
        """Whether something has gone wrong."""
        return bool(self._problems)

    def join(self, timeout_s: float) -> None:
        """Wait for all; raises the first problem of any."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            while thread.is_alive() and not self._problems:
                thread.join(0.1)
                assert time.monotonic() < deadline, "somebody does not end"
        for problem in self._problems:
            raise problem
