"""What a large store costs: memory, the start, reads of what has left memory, and searches.

Starts a server on a directory that `tests/helpers/fill_store.py` has filled, and prints one table:

    python -m tests.helpers.fill_store /var/lib/troth-bench --completed 1000000
    python -m troth.bench.store_size --directory /var/lib/troth-bench --completed 1000000
"""

import http.client
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import click

FAR_MS = 2**62
CONTENT = {
    "headers": {"content-type": "application/json"},
    "data": "aGVsbG8gd29ybGQgaGVsbG8gd29ybGQ=",
}
CUSTOMERS_COUNT = 5_000
READS_COUNT = 5_000
PORT = 8977


class Blaster:
    """Pipelined requests over a few connections: as many a second as the server can take."""

    def __init__(self, port: int, connections_count: int = 8) -> None:
        self._sockets = [
            socket.create_connection(("127.0.0.1", port)) for _ in range(connections_count)
        ]
        for connection in self._sockets:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, requests: list[bytes]) -> list[float]:
        """Send requests, spread over the connections; how long each connection took, in s."""
        count = len(self._sockets)
        shares = [requests[number::count] for number in range(count)]
        started = time.perf_counter()
        for connection, share in zip(self._sockets, shares, strict=True):
            connection.sendall(b"".join(share))
        durations = []
        for connection, share in zip(self._sockets, shares, strict=True):
            _read_answers(connection, len(share))
            durations.append(time.perf_counter() - started)
        return durations

    def close(self) -> None:
        """Close the connections."""
        for connection in self._sockets:
            connection.close()


def _read_answers(connection: socket.socket, count: int) -> None:
    """Read this many answers to their ends; all must be good."""
    pending = b""
    while count:
        received = connection.recv(1 << 18)
        if not received:
            raise click.ClickException("the server has closed a connection")
        pending += received
        while (end := pending.find(b"\r\n\r\n")) >= 0:
            head = pending[:end].lower()
            if head[9:11] != b"20":
                raise click.ClickException(pending.decode(errors="replace"))
            body_bytes = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
            if len(pending) < end + 4 + body_bytes:
                break
            pending = pending[end + 4 + body_bytes :]
            count -= 1


def create(name: str, tags: dict[str, str]) -> bytes:
    """Return a request that creates a promise."""
    body = {"id": name, "timeout": FAR_MS, "param": CONTENT, "tags": tags}
    return request("POST", "/promises", body)


def complete(name: str) -> bytes:
    """Return a request that completes one."""
    return request("PATCH", f"/promises/{name}", {"state": "RESOLVED", "value": CONTENT})


def request(method: str, path: str, body: dict[str, object]) -> bytes:
    """Return a request as bytes."""
    content = json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n%b" % (len(content), content)


@contextmanager
def serving(path: Path, *arguments: str) -> Iterator[tuple[int, float]]:
    """Run a server on a directory: its process id, and how long it took to be ready, in s."""
    started = time.monotonic()
    command = [sys.executable, "-m", "troth", "serve", "--data", str(path), *arguments]
    server = subprocess.Popen(  # noqa: S603  this program
        [*command, "--listen", f"127.0.0.1:{PORT}", "--poll-listen", f"127.0.0.1:{PORT + 1}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield server.pid, wait_ready(server, started)
    finally:
        CONNECTION.close()
        server.terminate()
        server.wait()


def memory(process: int) -> str:
    """Return the resident memory of a process, in MB, with its parts."""
    names = {"VmRSS": "all", "RssAnon": "own", "RssFile": "pages of files"}
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines if line.startswith(tuple(names)))
    return ", ".join(
        f"{names[name]} {int(size.split()[0]) // 1024}" for name, size in sizes.items()
    )


def get(path: str) -> http.client.HTTPResponse:
    """Return one request, read to its end, on a connection that stays."""
    CONNECTION.request("GET", path)
    response = CONNECTION.getresponse()
    response.body = response.read()  # type: ignore[attr-defined]
    return response


CONNECTION = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)


def percentiles(count: int, ask: Callable[[], str]) -> str:
    """Ask this many times; return median, 99th percentile and maximum in ms."""
    durations = []
    for _ in range(count):
        path = ask()
        started = time.perf_counter()
        response = get(path)
        durations.append((time.perf_counter() - started) * 1000)
        if response.status != 200:
            raise click.ClickException(f"{path}: {response.status}")
    durations.sort()
    middle, high = durations[count // 2], durations[min(count * 99 // 100, count - 1)]
    return f"p50 {middle:.2f}  p99 {high:.2f}  max {durations[-1]:.2f}"


def wait_ready(process: "subprocess.Popen[bytes]", started: float) -> float:
    """Return how many seconds the server takes until it says that it is ready."""
    while process.poll() is None:
        try:
            if get("/ready").status == 200:
                return time.monotonic() - started
        except (OSError, http.client.HTTPException):
            CONNECTION.close()
        time.sleep(0.02)
    raise click.ClickException("the server has stopped")


def measure(path: Path, completed_count: int) -> None:
    """Start a server on the directory and print what it is like."""
    luck = random.Random(1)  # noqa: S311  which promises are read
    with serving(path) as (process, start_s):
        rows = [("start to /ready, s", f"{start_s:.2f}")]
        rows.append(("memory after the start, MB", memory(process)))

        def any_promise() -> str:
            return f"/promises/workflow-{luck.randrange(completed_count)}.step"

        def search(**tags: str) -> Callable[[], str]:
            name, value = next(iter(tags.items()))
            tag = quote(f"tags[{name}]")
            return lambda: f"/promises?id=*&{tag}={value or f'c{luck.randrange(CUSTOMERS_COUNT)}'}"

        rows.append(("cold read, ms", percentiles(READS_COUNT, any_promise)))
        rows.append(("search by a rare tag, ms", percentiles(200, search(customer=""))))
        rows.append(("search by a common tag, ms", percentiles(200, search(kind="order"))))
        rows.append(("search by an unused tag, ms", percentiles(200, search(kind="none"))))
        rows.append(("search of all, ms", percentiles(200, lambda: "/promises?id=*")))
        prefix = "/promises?id=workflow-77*&state=resolved"
        rows.append(("search by prefix, ms", percentiles(50, lambda: prefix)))
        rows.append(("memory after the reads, MB", memory(process)))
        click.echo(f"{completed_count:,} completed promises\n")
        for name, value in rows:
            click.echo(f"{name:<34}{value}")


@click.command(help=__doc__)
@click.option("--directory", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--completed", "completed_count", default=1_000_000, show_default=True)
def main(directory: Path, completed_count: int) -> None:
    """Measure."""
    measure(directory, completed_count)


if __name__ == "__main__":
    main()
