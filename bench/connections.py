"""What a create costs by how its client connects, and through a proxy.

    python -m troth.bench.connections

Processor time of the server for each create, in µs: one at a time over a kept connection, over a
new connection each, and over a new one with `Connection: close`; then 64 at a time over kept
connections, directly and through nginx as it comes (HTTP/1.0 to the server, a connection for each
request). The ways take turns, so what else the machine does is shared by all. The last column
has creates a second, which only a quiet machine shows rightly.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from statistics import median
from typing import Final

import click

from .children import OwnServer
from .client import BenchError, free_ports

FAR_MS: Final = 4_102_444_800_000
TOGETHER_COUNT: Final = 64
ONE_BY_ONE_COUNT: Final = 300
TOGETHER_ROUNDS_COUNT: Final = 30
_NGINX: Final = """
pid {directory}/nginx.pid;
error_log {directory}/error.log;
daemon off;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {directory}/a; proxy_temp_path {directory}/b;
  fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{server_port}; }}
  }}
}}
"""

numbers = count()


def create(*, closes: bool = False) -> bytes:
    """Return a request that creates a promise."""
    body = b'{"id":"c%d","timeout":%d,"param":{"data":"aGVsbG8="}}' % (next(numbers), FAR_MS)
    close = b"Connection: close\r\n" if closes else b""
    return (
        b"POST /promises HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"%sContent-Length: %d\r\n\r\n%s" % (close, len(body), body)
    )


def connect(port: int) -> socket.socket:
    """Connect to a port of this machine."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_answer(connection: socket.socket) -> None:
    """Read one answer. Raises BenchError unless a promise was created."""
    received = b""
    while True:
        head, end, body = received.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length:")[2].split()[0]):
            break
        part = connection.recv(1 << 16)
        if not part:
            raise BenchError("the server has closed a connection")
        received += part
    if received[9:12] != b"201":
        raise BenchError(received.decode(errors="replace"))


def one_by_one(port: int) -> int:
    """Create over one connection, one at a time; return how many."""
    with connect(port) as connection:
        for _ in range(ONE_BY_ONE_COUNT):
            connection.sendall(create())
            read_answer(connection)
    return ONE_BY_ONE_COUNT


def over_new(port: int, *, closes: bool = False) -> int:
    """Create over a new connection each, one at a time; return how many."""
    for _ in range(ONE_BY_ONE_COUNT):
        with connect(port) as connection:
            connection.sendall(create(closes=closes))
            read_answer(connection)
    return ONE_BY_ONE_COUNT


def together(port: int) -> int:
    """Create over many connections, one on each at a time; return how many."""
    connections = [connect(port) for _ in range(TOGETHER_COUNT)]
    for _ in range(TOGETHER_ROUNDS_COUNT):
        for connection in connections:
            connection.sendall(create())
        for connection in connections:
            read_answer(connection)
    for connection in connections:
        connection.close()
    return TOGETHER_COUNT * TOGETHER_ROUNDS_COUNT


@contextmanager
def through_nginx(server_port: int, scratch: Path) -> Iterator[int | None]:
    """Run nginx before the server; yield its port, or None where it is not installed."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        yield None
        return
    (port,) = free_ports(1)
    configuration = scratch / "nginx.conf"
    configuration.write_text(
        _NGINX.format(directory=scratch, port=port, server_port=server_port), encoding="utf-8"
    )
    process = subprocess.Popen([program, "-c", configuration, "-p", scratch])  # noqa: S603
    try:
        for _ in range(500):
            with suppress(OSError), connect(port):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def measure(rounds_count: int) -> dict[str, tuple[float, float]]:
    """Return processor time a create, in µs, and creates a second, by way: medians."""
    with (
        tempfile.TemporaryDirectory(prefix="troth-connections-") as scratch,
        OwnServer(Path(scratch) / "server", None) as server,
        through_nginx(server.target.port, Path(scratch)) as nginx_port,
    ):
        process_id = server.target.process_id
        assert process_id is not None, "it is our own"
        clock = ~process_id << 3 | 2  # clock_getcpuclockid(3) of Linux
        port = server.target.port
        ways: dict[str, Callable[[], int]] = {
            "one at a time, kept": lambda: one_by_one(port),
            "new connection": lambda: over_new(port),
            "Connection: close": lambda: over_new(port, closes=True),
            "64 at a time": lambda: together(port),
        }
        if nginx_port is not None:
            ways["64 through nginx"] = lambda: together(nginx_port)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(1 + rounds_count):
            for name, act in ways.items():
                before_s, began_s = time.clock_gettime(clock), time.perf_counter()
                done_count = act()
                took_s = time.perf_counter() - began_s
                used_s = time.clock_gettime(clock) - before_s
                found[name].append((1e6 * used_s / done_count, done_count / took_s))
    return {
        name: (median(one for one, _ in each[1:]), median(one for _, one in each[1:]))
        for name, each in found.items()
    }


@click.command(help=__doc__)
@click.option("--rounds", "rounds_count", default=5, show_default=True)
def main(rounds_count: int) -> None:
    """Measure."""
    found = measure(rounds_count)
    first, many = found["one at a time, kept"], found["64 at a time"]
    click.echo(f"{'':<22}{'µs':>8}{'ratio':>8}{'a second':>12}{'ratio':>8}")
    for name, (used_us, rate) in found.items():
        base = many if name.startswith("64") else first
        ratios = used_us / base[0], rate / base[1]
        click.echo(f"{name:<22}{used_us:8.0f}{ratios[0]:8.2f}{rate:12,.0f}{ratios[1]:8.2f}")


if __name__ == "__main__":
    main()
