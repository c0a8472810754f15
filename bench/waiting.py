"""What promises and tasks that wait cost in memory, by kind; what a restart and a checkpoint add.

    python -m troth.bench.waiting
    python -m troth.bench.waiting --kind pending --kind task --count 20000 --json waiting.json

For each kind a fresh server gets so many of them after some that are not counted, and what its
resident memory has grown by is divided by their number. It is read when a checkpoint has been made
and what waits has been folded, since both take memory for a moment. Then, in one server each, all
three kinds of the REST API in equal parts, before and after a restart, and promises that are
created and completed, with the highest that memory came to, also with the process that writes
checkpoints.
"""

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import click

from .children import OwnServer
from .client import BenchError
from .load import run, workload_for
from .machine import environment, usage
from .store_size import Blaster, complete, request

FAR_MS: Final = 4_102_444_800_000
"""In the year 2100: as large a number as those of real timeouts."""
CUSTOMERS_COUNT: Final = 5_000
WARM_UP_COUNT: Final = 3_000
"""Code, buffers and pools of the allocator are no promise's memory."""
SLICE_COUNT: Final = 1_000
CHECKPOINT_MS: Final = 1_000
LOOK_S: Final = 0.01
SETTLE_S: Final = 8.0
"""What waits is folded within four seconds, and written in the next checkpoint."""

Tags = Callable[[int], dict[str, str]]

KINDS: Final[dict[str, Tags]] = {
    "pending": lambda _: {},
    "tag": lambda number: {"customer": f"c{number % CUSTOMERS_COUNT}"},
    "own-tag": lambda number: {"order": f"order-{number}"},
    "task": lambda _: {"resonate:invoke": "poll://any@away"},
}
"""The tags of promises by kind: none, one that some share, one of its own, an absent worker."""

SUSPENDED: Final = "suspended"
"""A workflow of the envelope protocol that waits for a promise: two promises and a task."""

MIXED: Final = ("pending", "own-tag", "task")


def status(server: OwnServer, name: str = "VmRSS") -> int:
    """Return a number of bytes of a server, by its name in the system's status of the process."""
    lines = Path(f"/proc/{server.target.process_id}/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


class Together:
    """Looks all the time at how much memory a server and the processes it has started take."""

    def __init__(self, server: OwnServer) -> None:
        """Look from the beginning of the block to its end."""
        self._server = server
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.peak_bytes = 0

    def _look(self) -> None:
        number = self._server.target.process_id
        assert number is not None, "it is our own"
        while not self._ends.wait(LOOK_S):
            found = usage(number)
            self.peak_bytes = max(self.peak_bytes, 0 if found is None else found.memory_bytes)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._ends.set()
        self._thread.join()


@contextmanager
def fresh_server() -> Iterator[OwnServer]:
    """Run a server that makes checkpoints often, on a directory of its own."""
    arguments = ("--checkpoint-interval-ms", str(CHECKPOINT_MS))
    with (
        tempfile.TemporaryDirectory(prefix="troth-waiting-") as scratch,
        OwnServer(Path(scratch), None, arguments) as server,
    ):
        yield server


def make(server: OwnServer, kind: str, first: int, count: int) -> None:
    """Create so many of a kind, numbered from the first."""
    if kind == SUSPENDED:
        workload = workload_for(
            server.target,
            scenario="suspend",
            run=f"s{first}",
            connections=16,
            operation_limit=count,
            payload_bytes=40,
        )
        made = run([workload])
        if made.errors:
            raise BenchError(f"suspended: {next(iter(made.errors))}")
        return
    blaster = Blaster(server.target.port)
    for start in range(first, first + count, SLICE_COUNT):
        numbers = range(start, min(start + SLICE_COUNT, first + count))
        blaster.send([_create(kind, number) for number in numbers])
    blaster.close()


def _create(kind: str, number: int) -> bytes:
    body = {"id": f"{kind}-{number:07}", "timeout": FAR_MS - number, "param": {"data": "aGVsbG8="}}
    tags = KINDS[kind](number)
    return request("POST", "/promises", {**body, "tags": tags} if tags else body)


def bytes_each(kind: str, count: int) -> float:
    """Return how much resident memory one of a kind takes."""
    with fresh_server() as server:
        make(server, kind, 0, WARM_UP_COUNT)
        time.sleep(SETTLE_S)
        before_bytes = status(server)
        make(server, kind, WARM_UP_COUNT, count)
        time.sleep(SETTLE_S)
        return (status(server) - before_bytes) / count


def measure_mixed(count: int) -> tuple[float, float]:
    """Return what so many of three kinds take, in MB, and memory after a restart over before."""
    with fresh_server() as server:
        empty_bytes = status(server)
        for kind in MIXED:
            make(server, kind, 0, count // len(MIXED))
        time.sleep(SETTLE_S)
        full_bytes = status(server)
        server.stop()
        server.start()
        time.sleep(SETTLE_S)
        return (full_bytes - empty_bytes) / 1e6, status(server) / full_bytes


def measure_completed(count: int) -> tuple[float, float, float]:
    """Return the peak while so many are created and completed, and what is left, in MB.

    The third is the peak of the server and of the process that writes its checkpoints together.
    Pages of files that both have are in it twice.
    """
    with fresh_server() as server, Together(server) as together:
        for start in range(0, count, SLICE_COUNT):
            make(server, "pending", start, SLICE_COUNT)
            blaster = Blaster(server.target.port)
            numbers = range(start, start + SLICE_COUNT)
            blaster.send([complete(f"pending-{number:07}") for number in numbers])
            blaster.close()
        time.sleep(SETTLE_S)
        peak_bytes = status(server, "VmHWM")
        return peak_bytes / 1e6, status(server) / 1e6, max(together.peak_bytes, peak_bytes) / 1e6


@click.command(help=__doc__)
@click.option("--kind", "kinds", multiple=True, type=click.Choice([*KINDS, SUSPENDED]))
@click.option("--count", default=50_000, show_default=True, help="Of each kind.")
@click.option("--whole/--no-whole", default=True, help="Measure restart and checkpoints, too.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Append a line here.")
def main(kinds: tuple[str, ...], count: int, whole: bool, json_path: Path | None) -> None:
    """Measure."""
    found: dict[str, float] = {}
    for kind in kinds or (*KINDS, SUSPENDED):
        found[f"bytes: {kind}"] = round(bytes_each(kind, count))
        click.echo(f"{kind:<12}{found[f'bytes: {kind}']:>8,.0f} bytes each")
    if whole:
        grown_mb, restarted = measure_mixed(len(MIXED) * count)
        click.echo(f"{len(MIXED) * count:,} of {', '.join(MIXED)}: {grown_mb:.0f} MB")
        click.echo(f"after a restart, over before it: {restarted:.2f}")
        peak_mb, left_mb, together_mb = measure_completed(2 * count)
        click.echo(
            f"{2 * count:,} created and completed: {peak_mb:.0f} MB, then {left_mb:.0f}; "
            f"with the process that writes checkpoints {together_mb:.0f} at most"
        )
        found["completed, together MB"] = together_mb
        found |= {"mixed MB": grown_mb, "restarted, share": restarted}
        found |= {"completed, peak MB": peak_mb, "completed, after MB": left_mb}
    if json_path is not None:
        with json_path.open("a") as history:
            history.write(json.dumps({**environment(), **found}) + "\n")


if __name__ == "__main__":
    main()
