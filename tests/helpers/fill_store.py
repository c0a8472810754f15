"""Fills a data directory with completed and pending promises, through the shards, without HTTP.

    python -m tests.helpers.fill_store DIRECTORY --completed 1000000 --pending 100000

`troth.bench.store_size` measures a server on what it makes. A million take two to three minutes.
"""

import time
from pathlib import Path

import click
import trio

from troth.core.commands import CompletePromise, CreatePromise
from troth.core.model import PromiseState, Value
from troth.core.replies import Message
from troth.shards.clock import SystemClock
from troth.shards.shards import Shards
from troth.shards.storage import DirectoryStorage

FAR_MS = 2**62
CONTENT = Value({"content-type": "application/json"}, "aGVsbG8gd29ybGQgaGVsbG8gd29ybGQ=")
CUSTOMERS_COUNT = 5_000
CLIENTS_COUNT = 256


class Nowhere:
    """Delivery that has nothing to deliver."""

    def send(self, message: Message) -> None:
        """Take a message."""

    def withdraw(self, task_id: str) -> None:
        """Forget one."""

    def finished(self, promise_ids: list[str]) -> None:
        """Hear of finished function tasks."""


async def fill(path: Path, completed_count: int, pending_count: int) -> None:
    """Make the directory, or add to it."""
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


@click.command(help=__doc__)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--completed", "completed_count", default=1_000_000, show_default=True)
@click.option("--pending", "pending_count", default=100_000, show_default=True)
def main(directory: Path, completed_count: int, pending_count: int) -> None:
    """Fill."""
    started = time.monotonic()
    trio.run(fill, directory, completed_count, pending_count)
    click.echo(f"filled in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
