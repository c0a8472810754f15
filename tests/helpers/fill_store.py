"""Fills a data directory with promises, tasks, locks and a tree, through the shards, without HTTP.

    python -m tests.helpers.fill_store DIRECTORY --completed 1000000 --pending 100000

`troth.bench.store_size` measures a server on what it makes, and so does `make ui-scale`. A million
take two to three minutes.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import click
import trio
from msgspec import Struct

from troth.core.commands import (
    AcquireLock,
    Command,
    CompletePromise,
    CreateCallback,
    CreatePromise,
)
from troth.core.model import PromiseState, Value
from troth.core.replies import Message
from troth.shards.clock import SystemClock
from troth.shards.shards import Shards
from troth.shards.storage import DirectoryStorage
from troth.shards.upkeep.folder import Folder

FAR_MS = 2**62
CONTENT = Value({"content-type": "application/json"}, "aGVsbG8gd29ybGQgaGVsbG8gd29ybGQ=")
CUSTOMERS_COUNT = 5_000
CLIENTS_COUNT = 256
GROUPS_COUNT = 30
TREE_ID = "tree"


class Nowhere:
    """Delivery that has nothing to deliver."""

    def send(self, message: Message) -> None:
        """Take a message."""

    def withdraw(self, task_id: str) -> None:
        """Forget one."""

    def finished(self, promise_ids: list[str]) -> None:
        """Hear of finished function tasks."""


class Filling(Struct, frozen=True):
    """How much to make. Tasks are unfinished, of REST and of workflows; the tree is one root's."""

    completed_count: int = 1_000_000
    pending_count: int = 100_000
    tasks_count: int = 0
    workflows_count: int = 0
    locks_count: int = 0
    tree_count: int = 0

    def commands(self, number: int) -> Iterator[Command]:
        """Yield what one of the clients asks, in order."""
        for place in range(number, self.completed_count, CLIENTS_COUNT):
            promise_id = f"workflow-{place}.step"
            tags = {"customer": f"c{place % CUSTOMERS_COUNT}", "kind": "order"}
            yield CreatePromise(promise_id, FAR_MS, CONTENT, tags)
            yield CompletePromise(promise_id, PromiseState.RESOLVED, CONTENT)
        for place in range(number, self.pending_count, CLIENTS_COUNT):
            tags = {"customer": f"c{place % CUSTOMERS_COUNT}"}
            yield CreatePromise(f"pending-{place}", FAR_MS, CONTENT, tags)
        for place in range(number, self.tasks_count, CLIENTS_COUNT):
            tags = {"resonate:invoke": f"poll://any@group-{place % GROUPS_COUNT}"}
            yield CreatePromise(f"task-{place}", FAR_MS, CONTENT, tags)
            yield CreateCallback(f"pending-{place}", f"task-{place}", FAR_MS, "poll://any@g")
        for place in range(number, self.workflows_count, CLIENTS_COUNT):
            tags = {"resonate:target": f"poll://any@group-{place % GROUPS_COUNT}"}
            yield CreatePromise(f"flow-{place}", FAR_MS, CONTENT, tags)
        for place in range(number, self.locks_count, CLIENTS_COUNT):
            yield AcquireLock(f"lock-{place}", "e", f"process-{place % GROUPS_COUNT}", FAR_MS)
        if number == 0:
            yield from self._tree()

    def _tree(self) -> Iterator[Command]:
        """Yield a workflow of calls, ten below each, as client libraries name them."""
        for place in range(self.tree_count):
            promise_id = tree_id(place)
            tags = {"resonate:root": TREE_ID}
            yield CreatePromise(promise_id, FAR_MS, CONTENT, tags if place else None)
            if place % 3 == 1:
                yield CompletePromise(promise_id, PromiseState.RESOLVED, CONTENT)


def tree_id(place: int) -> str:
    """Return the id of a call of the tree; that of place 0 is the root's."""
    return TREE_ID if place == 0 else f"{tree_id((place - 1) // 10)}.{(place - 1) % 10}"


async def fill(path: Path, filling: Filling) -> None:
    """Make the directory, or add to it."""
    storage = DirectoryStorage(path)
    shards = Shards(
        shard_count=storage.shard_count,
        clock=SystemClock(),
        outgoing=Nowhere(),
        cursor_secret=storage.secret,
        placement=storage.placement,
    )
    shards.recover(storage)
    checkpointer = shards.make_checkpointer(storage, interval_ms=60_000, log_bytes=64 << 20)
    assert checkpointer is not None, "a directory has checkpoints"

    async def client(number: int) -> None:
        for command in filling.commands(number):
            await shards.ask(command)

    async with trio.open_nursery() as nursery:
        await nursery.start(shards.run, storage.make_writer)
        nursery.start_soon(checkpointer.run)
        nursery.start_soon(Folder(shards).run)
        async with trio.open_nursery() as clients:
            for number in range(CLIENTS_COUNT):
                clients.start_soon(client, number)
        for state in shards.states():  # as they are in a server that has had them for seconds
            while state.promises.fold_some(state.promise_index, state.largest_serial):
                pass
        await shards.stop()
        await checkpointer.checkpoint()
        nursery.cancel_scope.cancel()
    storage.close()


@click.command(help=__doc__)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--completed", "completed_count", default=1_000_000, show_default=True)
@click.option("--pending", "pending_count", default=100_000, show_default=True)
@click.option("--tasks", "tasks_count", default=0, show_default=True)
@click.option("--workflows", "workflows_count", default=0, show_default=True)
@click.option("--locks", "locks_count", default=0, show_default=True)
@click.option("--tree", "tree_count", default=0, show_default=True)
def main(directory: Path, **counts: int) -> None:
    """Fill."""
    started = time.monotonic()
    trio.run(fill, directory, Filling(**counts))
    click.echo(f"filled in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
