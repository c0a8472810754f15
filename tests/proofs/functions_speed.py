"""Measures function tasks through one node: how many a second, and how long one takes.

    python -m tests.proofs.functions_speed --slots 2 --seconds 10 --rate 5

A real server and a real node with a trivial function. First as many tasks as come through, by
connections that each create a task and wait for its result; then few, at even distances, each
timed from before it is created to when its result is read. The processor time of server and node
is shown beside, since clients and functions need some of the same cores.
"""

import argparse
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from tests.helpers.server import ServerProcess

from .functions_setup import (
    Caller,
    Crowd,
    NodeProcess,
    make_account,
    running_nodes,
)

HANDLERS: Final = {
    "PY": {"handler.py": "def handle(request):\n    return 'ok'\n"},
    "JS": {"handler.js": "exports.handle = () => 'ok';\n"},
}
WARM_UP_S: Final = 2.0
CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured: tasks a second, and times in milliseconds."""

    tasks_per_s: float
    loaded_p50_ms: float
    loaded_p99_ms: float
    alone_p50_ms: float
    alone_p99_ms: float
    server_ms_per_task: float
    node_ms_per_task: float

    def __str__(self) -> str:
        """All numbers on one line."""
        return ", ".join(f"{name} {getattr(self, name):.4g}" for name in self.__slots__)


class Wire:
    """A connection that costs little: requests are made once, of answers only the end is found."""

    def __init__(self, caller: Caller) -> None:
        place = urlsplit(caller.url)
        assert place.hostname is not None
        self._socket = socket.create_connection((place.hostname, place.port), timeout=90)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: {caller.secret}\r\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, method: str, path: str) -> tuple[int, bytes]:
        """Make a request without a body: status and body of the answer."""
        length = "Content-Length: 0\r\n" if method == "POST" else ""
        self._socket.sendall(f"{method} {path} {self._head}{length}\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._received()
        head, _, body = answer.partition(b"\r\n\r\n")
        length_bytes = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < length_bytes:
            body += self._received()
        return int(head[9:12]), body

    def _received(self) -> bytes:
        received = self._socket.recv(65536)
        assert received, "the server has hung up"
        return received

    def run(self, function_id: str) -> float:
        """Create a task and wait for its result; how long that took, in seconds."""
        begun = time.perf_counter()
        status, body = self.ask("POST", f"/v1/task/{function_id}")
        assert status == 201, body
        task_id = body.split(b'"')[3].decode()
        status, body = self.ask("GET", f"/v1/task/{task_id}/result?wait=60")
        assert (status, body) == (200, b"ok"), (status, body)
        return time.perf_counter() - begun


def measure(
    directory: Path, language: str, slots_count: int, connections: int, seconds: float, rate: float
) -> Speed:
    """Start server and node, and measure for so many seconds each way."""
    with (
        ServerProcess(directory) as server,
        make_account(server, "speed") as owner,
        running_nodes(directory, owner, 1, slots_count) as (node,),
    ):
        function_id = owner.function(HANDLERS[language], language)
        _load(owner, function_id, connections, WARM_UP_S)
        before = _used_s(server.process_id), _used_of_node_s(node)
        begun = time.perf_counter()
        times = _load(owner, function_id, connections, seconds)
        tasks_per_s = len(times) / (time.perf_counter() - begun)
        used = _used_s(server.process_id) - before[0], _used_of_node_s(node) - before[1]
        alone = _drip(owner, function_id, seconds, rate)
        return Speed(
            tasks_per_s,
            1000 * _quantile(times, 0.5),
            1000 * _quantile(times, 0.99),
            1000 * _quantile(alone, 0.5),
            1000 * _quantile(alone, 0.99),
            1000 * used[0] / len(times),
            1000 * used[1] / len(times),
        )


def _load(owner: Caller, function_id: str, connections: int, seconds: float) -> list[float]:
    times: list[float] = []
    deadline = time.perf_counter() + seconds

    def work() -> None:
        with Wire(owner) as wire:
            while time.perf_counter() < deadline:
                times.append(wire.run(function_id))

    crowd = Crowd()
    crowd.start(work, connections)
    crowd.join(seconds + 60)
    return times


def _drip(owner: Caller, function_id: str, seconds: float, rate: float) -> list[float]:
    times = []
    begun = time.perf_counter()
    with Wire(owner) as wire:
        for number in range(max(1, int(seconds * rate))):
            time.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            times.append(wire.run(function_id))
    return times


def _quantile(times: Sequence[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def _used_s(process_id: int) -> float:
    """The processor time of a process and of its children that have ended, in seconds."""
    text = Path(f"/proc/{process_id}/stat").read_text()
    return sum(int(ticks) for ticks in text.rpartition(")")[2].split()[11:15]) / CLOCK_TICKS


def _used_of_node_s(node: NodeProcess) -> float:
    """That of a node, with the functions it runs."""
    return sum(_used_s(one) for one in (node.process_id, *node.function_processes()))


def main() -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--language", choices=sorted(HANDLERS), default="PY")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=5.0, help="tasks a second at low load")
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory(prefix="troth-functions-") as directory:
            # Functions run as other users, which must get to their code.
            Path(directory).chmod(0o755)
            speed = measure(
                Path(directory),
                arguments.language,
                arguments.slots,
                arguments.connections,
                arguments.seconds,
                arguments.rate,
            )
        print(speed, flush=True)


if __name__ == "__main__":
    main()
