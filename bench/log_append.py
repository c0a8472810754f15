"""The cost of the log: append and fdatasync through `SegmentedLog`, against the bare system calls.

Prints one table. Run it on the disk that will hold the data:

    python -m troth.bench.log_append --directory /var/lib/troth-bench --seconds 2
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import click

from troth.persistence.data_directory import DataDirectory
from troth.persistence.files import RealFiles
from troth.persistence.wal.frames import encode_frame
from troth.persistence.wal.log import LogRecord

PREALLOCATED_BYTES = 16 << 20


class Measurement(NamedTuple):
    """Durations of one operation, repeated, in microseconds."""

    name: str
    batch_records: int
    durations_us: list[float]

    def row(self) -> str:
        """Return the line of the table."""
        ordered = sorted(self.durations_us)
        middle, high = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
        mean = sum(ordered) / len(ordered)
        return (
            f"{self.name:<34}{self.batch_records:>8}{len(ordered):>8}{middle:>12.1f}{high:>12.1f}"
            f"{mean / self.batch_records:>14.3f}{self.batch_records / mean * 1e6:>14,.0f}"
        )


HEADING = (
    f"{'operation':<34}{'records':>8}{'runs':>8}{'p50 µs':>12}{'p99 µs':>12}"
    f"{'µs/record':>14}{'records/s':>14}"
)


def repeat(operation: Callable[[], object], seconds: float) -> list[float]:
    """Run an operation for some seconds, at least 10 times; return each run's microseconds."""
    durations_us: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(durations_us) < 10:
        start = time.perf_counter()
        operation()
        durations_us.append((time.perf_counter() - start) * 1e6)
    return durations_us


def make_batch(count: int, body_bytes: int, first_number: int) -> list[LogRecord]:
    """Return records of 16 shards."""
    body = b"x" * body_bytes
    return [LogRecord(n % 16, n, body) for n in range(first_number, first_number + count)]


def measure_encoding(count: int, body_bytes: int, seconds: float) -> Measurement:
    """Measure building a frame alone: no disk."""
    batch = make_batch(count, body_bytes, 1)
    return Measurement("encode_frame", count, repeat(lambda: encode_frame(batch, 1, 1, 0), seconds))


def measure_raw(
    directory: str, count: int, body_bytes: int, seconds: float, *, preallocated: bool
) -> Measurement:
    """Return one pwrite and one fdatasync of as many bytes, in a file of its own."""
    data = encode_frame(make_batch(count, body_bytes, 1), 1, 1, 0)[0]
    descriptor = os.open(f"{directory}/raw", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        if preallocated:
            os.pwrite(descriptor, bytes(PREALLOCATED_BYTES), 0)
            os.fsync(descriptor)
        offset = 0

        def write() -> None:
            nonlocal offset
            if preallocated and offset + len(data) > PREALLOCATED_BYTES:
                offset = 0
            os.pwrite(descriptor, data, offset)
            os.fdatasync(descriptor)
            offset += len(data)

        name = f"pwrite+fdatasync, {'preallocated' if preallocated else 'growing file'}"
        return Measurement(name, count, repeat(write, seconds))
    finally:
        os.close(descriptor)


def measure_log(directory: str, count: int, body_bytes: int, seconds: float) -> Measurement:
    """Measure `SegmentedLog.append`, with its roll-overs and the thread that prepares segments."""
    opened = DataDirectory.open(f"{directory}/data", RealFiles(), created_at_ms=0)
    try:
        list(opened.recover())
        log = opened.log
        number = 1
        durations_us: list[float] = []  # without making the batch

        def append() -> None:
            nonlocal number
            batch = make_batch(count, body_bytes, number)
            number += count
            start = time.perf_counter()
            log.append(batch, log.next_sequence)
            durations_us.append((time.perf_counter() - start) * 1e6)

        repeat(append, seconds)
        return Measurement("SegmentedLog.append", count, durations_us)
    finally:
        opened.close()
        shutil.rmtree(f"{directory}/data")


@click.command()
@click.option("--directory", default=".", help="Where to measure; a subdirectory is made there.")
@click.option("--seconds", default=1.0, help="How long to measure each line.")
@click.option("--body-bytes", default=200, help="Size of a record's body.")
@click.option("--records", "counts", multiple=True, type=int, default=(1, 16, 64, 256, 1000))
def main(directory: str, seconds: float, body_bytes: int, counts: tuple[int, ...]) -> None:
    """Measure batches of several sizes and print a table."""
    with tempfile.TemporaryDirectory(prefix="troth-bench-", dir=directory) as scratch:
        click.echo(f"Python {sys.version.split()[0]}, bodies of {body_bytes} bytes, in {scratch}")
        click.echo(HEADING)
        for count in counts:
            click.echo(measure_encoding(count, body_bytes, seconds / 4).row())
            for preallocated in (False, True):
                raw = measure_raw(scratch, count, body_bytes, seconds, preallocated=preallocated)
                click.echo(raw.row())
            click.echo(measure_log(scratch, count, body_bytes, seconds).row())


if __name__ == "__main__":
    main()
