"""What one checkpoint of many new rows takes, on top of a store that is large already.

    python -m tests.helpers.fill_store /var/lib/troth-bench --completed 1000000 --pending 0
    python -m troth.bench.stores.checkpoints --directory /var/lib/troth-bench

Creates and completes promises with random ids in a copy of that directory, in a server that makes
no checkpoints, then stops it, which makes one. Shows how long that one took as the server says, and
its processor time, which a busy machine hardly changes: that of the whole stop.
"""

import json
import resource
import shutil
import tempfile
from pathlib import Path
from typing import Final
from uuid import uuid4

import click

from troth.bench.children import OwnServer
from troth.bench.client import BenchError
from troth.bench.machine import usage
from troth.bench.store_size import Blaster, complete, create

IN_FLIGHT_COUNT: Final = 64
_ARGUMENTS: Final = (
    *("--checkpoint-log-bytes", str(1 << 30), "--checkpoint-interval-ms", "86400000"),
    *("--log-level", "debug", "--log-format", "json"),
)


def measure(scratch: Path, directory: Path, rows_count: int) -> tuple[int, float, float]:
    """Return the rows of the checkpoint, its seconds, and the processor seconds of the stop."""
    server = OwnServer(scratch, None, _ARGUMENTS)
    server.data = shutil.copytree(directory, scratch / "data")
    began_s = _children_s()
    server.start()
    try:
        blaster = Blaster(server.target.port)
        for _ in range(0, rows_count, IN_FLIGHT_COUNT):
            names = [uuid4().hex[:16] for _ in range(IN_FLIGHT_COUNT)]
            blaster.send([create(name, {}) for name in names])
            blaster.send([complete(name) for name in names])
        blaster.close()
        assert server.target.process_id is not None, "it is our own"
        before = usage(server.target.process_id)
        server.stop()
    finally:
        server.kill()
    if before is None:
        raise BenchError("the system does not say what the server has used")
    for line in server.log_path.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "checkpoint":
            stop_s = _children_s() - began_s - before.processor_s
            return event["rows"], event["duration_ms"] / 1000, stop_s
    raise BenchError("the server has made no checkpoint")


def _children_s() -> float:
    """Return the processor seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@click.command(help=__doc__)
@click.option("--directory", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--rows", "rows_count", default=180_000, show_default=True)
@click.option("--runs", "runs_count", default=3, show_default=True)
def main(directory: Path, rows_count: int, runs_count: int) -> None:
    """Measure."""
    for _ in range(runs_count):
        with tempfile.TemporaryDirectory(dir=directory.resolve().parent) as scratch:
            found_count, took_s, stop_s = measure(Path(scratch), directory, rows_count)
        click.echo(f"{found_count:,} rows {took_s:.2f} s, processor time {stop_s:.2f} s")


if __name__ == "__main__":
    main()
