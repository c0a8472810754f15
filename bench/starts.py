"""What a start takes on a directory that `tests/helpers/fill_store.py` has filled.

    python -m tests.helpers.fill_store /var/lib/troth-bench --completed 0 --pending 500000
    python -m troth.bench.starts --directory /var/lib/troth-bench

From the start of the process until `GET /ready` is answered with 200: seconds, and seconds of
processor time, which a busy machine hardly changes. Then the memory that it has by then. The
server is killed, so each start finds the same.
"""

import tempfile
from pathlib import Path
from statistics import median

import click

from .children import OwnServer
from .client import BenchError
from .machine import usage


def measure(directory: Path) -> tuple[float, float, float]:
    """Start once; return seconds, processor seconds and MB of memory."""
    with tempfile.TemporaryDirectory(prefix="troth-starts-") as scratch:
        server = OwnServer(Path(scratch), None)
        server.data = directory
        try:
            started_s = server.start()
            process_id = server.target.process_id
            used = None if process_id is None else usage(process_id)
            if used is None:
                raise BenchError("the system does not say what the server has used")
            return started_s, used.processor_s, used.memory_bytes / 1e6
        finally:
            server.kill()


@click.command(help=__doc__)
@click.option("--directory", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--runs", "runs_count", default=3, show_default=True)
def main(directory: Path, runs_count: int) -> None:
    """Measure."""
    found = [measure(directory.resolve()) for _ in range(runs_count)]
    for (name, unit), values in zip(
        (("to /ready", "s"), ("processor time", "s"), ("memory", "MB")),
        zip(*found, strict=True),
        strict=True,
    ):
        shown = ", ".join(f"{one:.2f}" for one in values)
        click.echo(f"{name:<16}{median(values):8.2f} {unit:<4}({shown})")


if __name__ == "__main__":
    main()
