"""What a large store costs: memory, the start, reads of what has left memory, and searches.

Fills a directory with completed and pending promises (through the shards, without HTTP), then
starts a real server on it and prints one table:

    python -m troth.bench.store_size --directory /var/lib/troth-bench --completed 1000000

A directory that is there already is measured as it is, so a second run need not fill it again.
"""

import http.client
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import click
import trio

from troth.core.commands import CompletePromise, CreatePromise
from troth.core.model import PromiseState, Value
from troth.core.replies import TaskMessage
from troth.shards.clock import SystemClock
from troth.shards.shards import Shards
from troth.shards.storage import DirectoryStorage

FAR_MS = 2**62
CONTENT = Value({"content-type": "application/json"}, "aGVsbG8gd29ybGQgaGVsbG8gd29ybGQ=")
CUSTOMERS_COUNT = 5_000
CLIENTS_COUNT = 256
READS_COUNT = 5_000
PORT = 8977


class Nowhere:
    """Delivery that has nothing to deliver."""

    def send(self, message: TaskMessage) -> None:
        """Take a message."""

    def withdraw(self, task_id: str) -> None:
        """Forget one."""


async def fill(path: Path, completed_count: int, pending_count: int) -> None:
    """Make the directory."""
    storage = DirectoryStorage(path)
    shards = Shards(
        shard_count=storage.shard_count,
        clock=SystemClock(),
        outgoing=Nowhere(),
        cursor_secret=storage.secret,
    )
    shards.recover(storage)
    checkpointer = shards.make_checkpointer(storage, interval_ms=60_000, log_bytes=64 << 20)
    assert checkpointer is not None, "a directory has checkpoints"

    async def client(number: int) -> None:
        for place in range(number, completed_count, CLIENTS_COUNT):
            tags = {"customer": f"c{place % CUSTOMERS_COUNT}", "kind": "order"}
            await shards.ask(CreatePromise(f"workflow-{place}.step", FAR_MS, CONTENT, tags))
            command = CompletePromise(f"workflow-{place}.step", PromiseState.RESOLVED, CONTENT)
            await shards.ask(command)
        for place in range(number, pending_count, CLIENTS_COUNT):
            tags = {"customer": f"c{place % CUSTOMERS_COUNT}"}
            await shards.ask(CreatePromise(f"pending-{place}", FAR_MS, CONTENT, tags))

    async with trio.open_nursery() as nursery:
        await nursery.start(shards.run, storage.make_writer)
        nursery.start_soon(checkpointer.run)
        async with trio.open_nursery() as clients:
            for number in range(CLIENTS_COUNT):
                clients.start_soon(client, number)
        await shards.stop()
        await checkpointer.checkpoint()
        nursery.cancel_scope.cancel()
    storage.close()


def memory(process: int) -> str:
    """The resident memory of a process, in MB, with its parts."""
    names = {"VmRSS": "all", "RssAnon": "own", "RssFile": "pages of files"}
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines if line.startswith(tuple(names)))
    return ", ".join(
        f"{names[name]} {int(size.split()[0]) // 1024}" for name, size in sizes.items()
    )


def get(path: str) -> http.client.HTTPResponse:
    """One request, read to its end, on a connection that stays."""
    CONNECTION.request("GET", path)
    response = CONNECTION.getresponse()
    response.body = response.read()  # type: ignore[attr-defined]
    return response


CONNECTION = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)


def percentiles(count: int, ask: Callable[[], str]) -> str:
    """Ask so many times; median, 99th percentile and maximum in ms."""
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
    """How many seconds the server takes until it says that it is ready."""
    while process.poll() is None:
        try:
            if get("/ready").status == 200:
                return time.monotonic() - started
        except (OSError, http.client.HTTPException):
            CONNECTION.close()
        time.sleep(0.02)
    raise click.ClickException("the server has ended")


def measure(path: Path, completed_count: int) -> None:
    """Start a server on the directory and print what it is like."""
    luck = random.Random(1)  # noqa: S311  which promises are read
    started = time.monotonic()
    command = [sys.executable, "-m", "troth", "serve", "--data", str(path)]
    server = subprocess.Popen(  # noqa: S603  this program
        [*command, "--listen", f"127.0.0.1:{PORT}", "--poll-listen", f"127.0.0.1:{PORT + 1}"],
        stdout=subprocess.DEVNULL,
    )
    try:
        rows = [("start to /ready, s", f"{wait_ready(server, started):.2f}")]
        rows.append(("memory after the start, MB", memory(server.pid)))

        def any_promise() -> str:
            return f"/promises/workflow-{luck.randrange(completed_count)}.step"

        def search(**tags: str) -> Callable[[], str]:
            name, value = next(iter(tags.items()))
            tag = quote(f"tags[{name}]")
            return lambda: f"/promises?id=*&{tag}={value or f'c{luck.randrange(CUSTOMERS_COUNT)}'}"

        rows.append(("cold read, ms", percentiles(READS_COUNT, any_promise)))
        rows.append(("search by a rare tag, ms", percentiles(200, search(customer=""))))
        rows.append(("search by a common tag, ms", percentiles(200, search(kind="order"))))
        rows.append(("search by a tag nobody has, ms", percentiles(200, search(kind="none"))))
        rows.append(("search of all, ms", percentiles(200, lambda: "/promises?id=*")))
        prefix = "/promises?id=workflow-77*&state=resolved"
        rows.append(("search by prefix, ms", percentiles(50, lambda: prefix)))
        rows.append(("memory after the reads, MB", memory(server.pid)))
        total = json.dumps(completed_count)
        click.echo(f"{total} completed promises\n")
        for name, value in rows:
            click.echo(f"{name:<34}{value}")
    finally:
        server.terminate()
        server.wait()


@click.command(help=__doc__)
@click.option("--directory", type=click.Path(path_type=Path), required=True)
@click.option("--completed", "completed_count", default=1_000_000, show_default=True)
@click.option("--pending", "pending_count", default=100_000, show_default=True)
def main(directory: Path, completed_count: int, pending_count: int) -> None:
    """Fill and measure."""
    if not directory.exists():
        started = time.monotonic()
        trio.run(fill, directory, completed_count, pending_count)
        click.echo(f"filled in {time.monotonic() - started:.0f} s")
    measure(directory, completed_count)


if __name__ == "__main__":
    main()
