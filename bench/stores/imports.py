"""What `troth import` of a file with many completed promises takes.

    python -m troth.bench.stores.imports --count 500000

Seconds by the clock, which only a quiet machine shows rightly; processor seconds of the server and
of the command, which work at the same time.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import click

from troth.bench.children import OwnServer
from troth.bench.client import BenchError
from troth.bench.machine import usage

_NOW_MS: Final = 1_796_000_000_000
_BEGINNING: Final = f'{{"export":{{"version":1,"server":"bench","createdOn":{_NOW_MS}}}}}\n'
_END: Final = '{"end":{"promises":%d,"schedules":0}}\n'
_LINE: Final = (
    '{"promise":{"id":"order-%d","state":"RESOLVED","param":{"data":"aGVsbG8="},'
    '"value":{"data":"aGk="},"timeout":4102444800000,"tags":{"customer":"c%d"},'
    '"createdOn":%d,"completedOn":%d}}\n'
)


def write_export(path: Path, count: int) -> None:
    """Write what `troth export` would of a server with so many promises."""
    with path.open("w", encoding="ascii") as export:
        export.write(_BEGINNING)
        for number in range(count):
            times = _NOW_MS + number, _NOW_MS + number + 5
            export.write(_LINE % (number, number % 5_000, *times))
        export.write(_END % count)


def measure(scratch: Path, export: Path) -> tuple[float, float, float]:
    """Import into a new server; return seconds, and processor seconds of server and command."""
    with OwnServer(scratch, None) as server:
        process_id = server.target.process_id
        assert process_id is not None, "it is our own"
        before, children = usage(process_id), resource.getrusage(resource.RUSAGE_CHILDREN)
        began_s = time.perf_counter()
        command = (sys.executable, "-m", "troth", "import", export, "--data", server.data)
        subprocess.run(  # noqa: S603  this program
            [*command, "--server", f"http://127.0.0.1:{server.target.port}"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        took_s = time.perf_counter() - began_s
        after, ended = usage(process_id), resource.getrusage(resource.RUSAGE_CHILDREN)
    if before is None or after is None:
        raise BenchError("the system does not say what the server has used")
    command_s = ended.ru_utime + ended.ru_stime - children.ru_utime - children.ru_stime
    return took_s, after.processor_s - before.processor_s, command_s


@click.command(help=__doc__)
@click.option("--count", default=500_000, show_default=True)
@click.option("--runs", "runs_count", default=3, show_default=True)
def main(count: int, runs_count: int) -> None:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix="troth-imports-") as scratch:
        export = Path(scratch) / "export.jsonl"
        write_export(export, count)
        for number in range(runs_count):
            took_s, server_s, command_s = measure(Path(scratch) / str(number), export)
            click.echo(
                f"{took_s:.2f} s; processor time of the server {server_s:.2f} s, "
                f"of the command {command_s:.2f} s"
            )


if __name__ == "__main__":
    main()
