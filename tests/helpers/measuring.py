"""What tests of budgets measure with: how slow the machine is, CPU of a process, creates at a rate.

Limits are those of a quiet machine. How much slower this one is at the moment is measured beside,
and limits are multiplied by it.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import urlsplit

from .server import ServerProcess

CREATES_A_SECOND: Final = 2_000
CONNECTIONS_COUNT: Final = 100

QUIET_S: Final = 0.0065
"""What `reference_s` gives on a quiet machine."""

Clock = Callable[[], float]


def reference_s(clock: Clock) -> float:
    """How long a fixed piece of work takes now: dictionaries and strings."""
    began_s = clock()
    for _ in range(20):
        table = {f"order-{number}": number for number in range(1_000)}
        sorted(table, key=lambda name: (-table[name], name))
    return clock() - began_s


def slowness(clock: Clock = time.perf_counter) -> float:
    """How many times as long as on a quiet machine everything takes now; at least 1."""
    return max(1.0, median(reference_s(clock) for _ in range(9)) / QUIET_S)


def used_s(process_id: int) -> float:
    """Return the CPU time that a process has used, with that of threads that have ended."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Creating:
    """Creates of promises at a rate, over some connections, and how long each took."""

    def __init__(
        self,
        server: ServerProcess,
        prefix: str,
        rate: int = CREATES_A_SECOND,
        connections_count: int = CONNECTIONS_COUNT,
    ) -> None:
        """Connect. Ids begin with the prefix; `rate` is how many there are a second."""
        self.times_s: list[float] = []
        parts = urlsplit(server.url)
        self._host = parts.netloc
        self._pause_s = connections_count / rate
        self._sockets = [
            socket.create_connection((parts.hostname, parts.port)) for _ in range(connections_count)
        ]
        self._answers = [one.makefile("rb") for one in self._sockets]
        self._prefix = prefix
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Creating":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for answers in self._answers:
            answers.close()
        for connection in self._sockets:
            connection.close()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            due += self._pause_s
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            first = len(self.times_s)
            for number, one in enumerate(self._sockets, first):
                one.sendall(self._request(number))
            for answers in self._answers:
                self._read(answers)
                self.times_s.append(time.monotonic() - began)

    def _request(self, number: int) -> bytes:
        body = b'{"id": "%b-%d", "timeout": 9999999999999}' % (self._prefix.encode(), number)
        return (
            b"POST /promises HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (self._host.encode(), len(body), body)
        )

    def _read(self, answers: BufferedReader) -> None:
        """Read an answer."""
        status = answers.readline()
        assert status.startswith(b"HTTP/1.1 201"), status
        length = 0
        while (line := answers.readline().lower()) != b"\r\n":
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        answers.read(length)
