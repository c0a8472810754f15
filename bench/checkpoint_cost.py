"""The cost of checkpoints to concurrent requests: throughput, latency, processor time, in pairs.

Each pair is two runs of a real server on new directories, one that makes checkpoints all the time
and one that makes none; in both, promises are created and completed as fast as the server goes.

    python -m troth.bench.checkpoint_cost --directory /var/lib/troth-bench --seconds 20 --pairs 3
"""

import shutil
import tempfile
import time
from pathlib import Path

import click

from .machine import own_and_childrens_s
from .store_size import CUSTOMERS_COUNT, PORT, Blaster, complete, create, memory, serving

WITHOUT = ("--checkpoint-log-bytes", str(1 << 30), "--checkpoint-interval-ms", "86400000")
IN_FLIGHT_COUNT = 64


def run(
    path: Path, seconds: float, arguments: tuple[str, ...]
) -> tuple[float, float, float, float, float, str]:
    """Return promises a second, and µs of processor time for each; then how long a round takes.

    The processor time is the server's, and that of the processes that it has started. Of a round
    the median and the 99th percentile, in ms; and the memory.
    """
    durations: list[float] = []
    with serving(path, *arguments) as (process, _):
        blaster = Blaster(PORT)
        before = own_and_childrens_s(process)
        started = time.monotonic()
        place = 0
        while time.monotonic() - started < seconds:
            places = range(place, place + IN_FLIGHT_COUNT)
            tags = [{"customer": f"c{one % CUSTOMERS_COUNT}"} for one in places]
            names = [f"workflow-{one}" for one in places]
            durations += blaster.send([create(*pair) for pair in zip(names, tags, strict=True)])
            durations += blaster.send([complete(name) for name in names])
            place += IN_FLIGHT_COUNT
        rate = place / (time.monotonic() - started)
        used = own_and_childrens_s(process)
        shown = memory(process)
        blaster.close()
    durations.sort()
    middle, high = durations[len(durations) // 2], durations[len(durations) * 99 // 100]
    if before is None or used is None:
        raise click.ClickException("the system does not say what the server has used")
    own_us, childrens_us = (
        1e6 * (now - then) / place for now, then in zip(used, before, strict=True)
    )
    return rate, own_us, childrens_us, middle * 1000, high * 1000, shown


@click.command(help=__doc__)
@click.option("--directory", type=click.Path(path_type=Path), required=True)
@click.option("--seconds", default=20.0, show_default=True)
@click.option("--pairs", "pairs_count", default=3, show_default=True)
@click.option("--log-bytes", default=1 << 20, show_default=True, help="Between two checkpoints.")
def main(directory: Path, seconds: float, pairs_count: int, log_bytes: int) -> None:
    """Run the pairs."""
    directory.mkdir(parents=True, exist_ok=True)
    with_them = ("--checkpoint-log-bytes", str(log_bytes))
    for number in range(pairs_count):
        for name, arguments in (("without", WITHOUT), ("with", with_them)):
            place = Path(tempfile.mkdtemp(dir=directory))
            rate, own_us, childrens_us, middle_ms, high_ms, shown = run(
                place / "data", seconds, arguments
            )
            shutil.rmtree(place)
            click.echo(
                f"pair {number + 1} {name:<8} {rate:>8,.0f} promises/s {own_us:.1f} µs "
                f"and {childrens_us:.1f} of its children  "
                f"p50 {middle_ms:.2f}  p99 {high_ms:.2f} ms  memory {shown}"
            )


if __name__ == "__main__":
    main()
