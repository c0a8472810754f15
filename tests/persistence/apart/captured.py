"""Captures with rows of several kinds, and what a store of them must hold."""

from collections.abc import Callable
from pathlib import Path

from tests.twins.memory_store import MemoryStore
from troth.core.model import Callback, Lock, Promise, PromiseState, Task, TaskKind, TaskState
from troth.core.state.captures import Capture, ShardHeader
from troth.persistence.apart.process import WriterProcess
from troth.persistence.apart.store_writer import StoreWriter
from troth.persistence.checkpoints import rows
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.checkpoints.port import AFTER_ALL, Store
from troth.persistence.checkpoints.store import LmdbStore

DATA_ID = b"d" * 16
SHARDS_COUNT = 3
COUNT = 1_200
"""Enough promises for a process of its own."""


def captures(first: int, count: int = COUNT) -> list[Capture]:
    """Return captures of completed and pending promises, and some of other kinds."""
    made = [
        Capture(_header(shard, first + count), {}, {}, {}, {}, {}, {})
        for shard in range(SHARDS_COUNT)
    ]
    for serial in range(first, first + count):
        name = f"promise {serial * 7919 % 100_003} ü\n"
        state = PromiseState.PENDING if serial % 10 == 0 else PromiseState.RESOLVED
        completed_on = None if state is PromiseState.PENDING else serial
        one = Promise(name, serial, state, 99, 5, tags={"a": "b"}, completed_on=completed_on)
        made[serial % SHARDS_COUNT].promises[name] = one
    other = made[0]
    task = Task("t", TaskKind.INVOKE, "t", "t", {}, 9, first, 1, state=TaskState.COMPLETED)
    other.tasks = {"t": task, "gone": None}
    other.callbacks = {"c": Callback("c", TaskKind.RESUME, "p", "r", 9, "poll://any@w", 1)}
    other.locks = {"l": Lock("l", "e", "p", 1, 2)}
    return made


def deleting(written: list[Capture]) -> list[Capture]:
    """Return captures in which some promises of earlier ones were deleted."""
    made = captures(10_000)
    for shard, before in enumerate(written):
        for name, promise in list(before.promises.items())[:50]:
            assert isinstance(promise, Promise)
            made[shard].promises[name] = None
            made[shard].deleted_promises[name] = promise.serial
    return made


def _header(shard: int, largest_serial: int) -> ShardHeader:
    numbers = (0, 0, 0, 0, 0, 0, 0, 0)
    return ShardHeader(shard, largest_serial, largest_serial, 0, largest_serial, {}, {}, *numbers)


class Opened:
    """A store in a directory whose checkpoints are written apart."""

    def __init__(self, path: Path, check: Callable[[], None] = lambda: None) -> None:
        self.process = WriterProcess(path)
        self.store = LmdbStore(path, rows.TABLES, check=check)
        self.writer = StoreWriter(self.process, self.store)
        self.checkpoints = Checkpoints(self.store, DATA_ID, SHARDS_COUNT, self.writer)

    def close(self) -> None:
        """Close all of it."""
        self.checkpoints.close()


def in_place(*written: list[Capture]) -> dict[str, list[tuple[bytes, bytes]]]:
    """Return all rows of a store that was never written apart."""
    store = MemoryStore()
    checkpoints = Checkpoints(store, DATA_ID, SHARDS_COUNT)
    for one in written:
        checkpoints.write(one)
    return contents(store)


def contents(store: Store) -> dict[str, list[tuple[bytes, bytes]]]:
    """Return all rows of a store."""
    view = store.view()
    tables = (*rows.TABLES, "digests")
    found = {table: list(view.scan(table, b"", AFTER_ALL)) for table in tables}
    view.close()
    return {table: some for table, some in found.items() if some}
