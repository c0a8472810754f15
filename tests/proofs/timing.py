"""Proof: timers fire on time, all of them, and waiting for them costs next to nothing.

    python -m tests.proofs.timing

Starts a server with 100,000 promises whose deadlines are spread over 10 seconds, connects 50 poll
streams, and measures the server's processor time while nothing is due. Then it lets all deadlines
pass, asking nothing but `/metrics`, which changes nothing, and reads there how late the timers
were: from a deadline to the end of the turn that handled it, before the log's sync.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from tests.helpers.server import SERVE, ServerProcess
from troth.core import records
from troth.core.commands import Command, CreatePromise
from troth.core.machine import Machine
from troth.persistence.data_directory import DataDirectory
from troth.persistence.files import RealFiles
from troth.persistence.wal.log import LogRecord
from troth.shards.hashing import home_of, shard_of

from .support import Client
from .wire import Wire, processor_s

SHARD_COUNT: Final = 16
BATCH_COUNT: Final = 10_000  # records written with one sync
START_S: Final = 4.0  # a server is ready by then, but for
STARTED_PER_S: Final = 10_000  # so many promises made, written and read back again in a second
SETTLE_S: Final = 1.0
_ROW: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_BOUND: Final = re.compile(r'le="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured."""

    timers_count: int
    idle_percent: float
    fired_count: int
    still_pending_count: int
    lateness_p50_ms: float
    lateness_p99_ms: float
    lateness_max_ms: float

    def __str__(self) -> str:
        """All numbers on one line."""
        return ", ".join(f"{name} {getattr(self, name):.4g}" for name in self.__slots__)


def measure(
    directory: Path, *, timers_count: int, spread_s: float, idle_s: float, streams_count: int = 50
) -> Timing:
    """Run the proof once. Raises AssertionError if the machine is too slow for it."""
    # The first deadline must come after the start and after the idle time.
    first_s = time.time() + START_S + timers_count / STARTED_PER_S + idle_s + SETTLE_S
    step_s = spread_s / timers_count
    server = ServerProcess(directory, command=SERVE)
    fill(
        server.data,
        (
            CreatePromise(f"timer{number}", int((first_s + number * step_s) * 1000))
            for number in range(timers_count)
        ),
    )
    with server, ExitStack() as stack:
        for index in range(streams_count):
            stack.enter_context(poll_stream(server.poll_url, f"/workers/worker{index}"))
        time.sleep(SETTLE_S)
        idle_percent = measure_idle(server.process_id, idle_s)
        assert time.time() < first_s, "the machine has become too slow: nothing was idle"
        time.sleep(first_s + spread_s + SETTLE_S - time.time())
        lateness, fired_count, pending_count = read_lateness(server.url)
    return Timing(
        timers_count=timers_count,
        idle_percent=idle_percent,
        fired_count=fired_count,
        still_pending_count=pending_count,
        lateness_p50_ms=percentile(lateness, 50),
        lateness_p99_ms=percentile(lateness, 99),
        lateness_max_ms=percentile(lateness, 100),
    )


def fill(data: Path, commands: Iterable[Command], shard_count: int = SHARD_COUNT) -> None:
    """Make a data directory in which these were carried out, as if a server had been stopped.

    Written straight into the log, by the server's own parts: over HTTP it would take minutes.
    """
    directory = DataDirectory.open(data, RealFiles(), shard_count, created_at_ms=1)
    assert list(directory.recover()) == []
    serials = count(1)

    def shard(name: str) -> int:
        return shard_of(name, shard_count)

    machines = [Machine(index, shard, lambda: next(serials)) for index in range(shard_count)]
    sequences = [0] * shard_count
    now_ms = time.time_ns() // 1_000_000
    entries = []
    for command in commands:
        index = shard(home_of(command))
        for record in machines[index].step(command, now_ms).records:
            sequences[index] += 1
            entries.append(LogRecord(index, sequences[index], records.encode(record)))
    for first in range(0, len(entries), BATCH_COUNT):
        directory.log.append(entries[first : first + BATCH_COUNT], directory.log.next_sequence)
    directory.close()


@contextmanager
def poll_stream(url: str, path: str) -> Iterator[None]:
    """A connected worker, who is never sent anything."""
    with Wire(url) as wire:
        wire.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"200" in wire.socket.recv(65536)
        yield


def measure_idle(process_id: int, idle_s: float) -> float:
    """Processor time of a process that nobody asks anything, in percent of one core."""
    before_s = processor_s(process_id)
    started = time.monotonic()
    time.sleep(idle_s)
    return 100 * (processor_s(process_id) - before_s) / (time.monotonic() - started)


def read_lateness(url: str) -> tuple[list[tuple[float, int]], int, int]:
    """From /metrics: timers at most so late (cumulative), timers fired, promises pending."""
    with Client(url) as client:
        status, text = client.call("GET", "/metrics")
    assert status == 200
    rows: list[tuple[float, int]] = []
    fired_count = pending_count = 0
    for metric, labels, number in _ROW.findall(text):
        if metric == "troth_timer_lateness_seconds_bucket":
            found = _BOUND.search(labels)
            assert found is not None, labels
            rows.append((1000 * float(found[1]), int(float(number))))
        elif metric == "troth_timers_fired_total":
            fired_count = int(float(number))
        elif metric == "troth_promises" and 'state="pending"' in labels:
            pending_count = int(float(number))
    assert rows, "the metric has another name now"
    return rows, fired_count, pending_count


def percentile(lateness: list[tuple[float, int]], percent: float) -> float:
    """The smallest bound that so many percent of the timers kept."""
    needed = lateness[-1][1] * percent / 100
    return next(bound_ms for bound_ms, count in lateness if count >= needed)


def main() -> None:
    """Run the proof from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--timers", type=int, default=100_000)
    parser.add_argument("--spread", type=float, default=10.0, help="seconds")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="troth-timing-") as directory:
        timing = measure(
            Path(directory),
            timers_count=arguments.timers,
            spread_s=arguments.spread,
            idle_s=arguments.idle,
        )
    print(timing)
    assert timing.still_pending_count == 0
    assert timing.fired_count == timing.timers_count
    assert timing.lateness_p99_ms <= 20
    assert timing.idle_percent < 1


if __name__ == "__main__":
    main()
