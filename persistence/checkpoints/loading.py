"""Reading what is live in a shard back from a store, and the shards' headers."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from troth.core.model import Promise, Task
from troth.core.state import checkpointing
from troth.core.state.captures import Loaded, ShardHeader
from troth.core.state.counts import Counts
from troth.core.state.shard_state import ShardState
from troth.core.tables.folding import FoldedRow, RowUnreadable
from troth.persistence.errors import CheckpointDamaged

from . import rows
from .port import View
from .rows import RowDecoder

Entity = TypeVar("Entity", Promise | FoldedRow, Task)


def read_headers(view: View, decoder: RowDecoder, shards: range) -> dict[int, ShardHeader]:
    """Return the header of each shard, or none at all. Raises CheckpointDamaged."""
    found = {}
    for key, value in view.scan(rows.HEADERS, b"", b"\xff" * 8):
        header = decoder.header(key, value)
        found[header.shard] = header
    if found and sorted(found) != list(shards):
        raise CheckpointDamaged(rows.HEADERS, "headers of shards are missing")
    return found


def load(view: View, decoder: RowDecoder, header: ShardHeader, counts: Counts) -> Loaded:
    """Return what is live in a shard. Raises CheckpointDamaged, also while it is read.

    `counts` are of all that it has.
    """
    shard = header.shard

    def scan(table: str) -> Iterator[tuple[bytes, bytes]]:
        prefix = rows.shard_key(shard)
        return view.scan(table, prefix, rows.after(prefix))

    def live(
        table: str,
        decode: Callable[[Iterator[tuple[bytes, bytes]]], Iterator[Entity]],
        expected_count: int,
    ) -> Iterator[Entity]:
        count = 0
        for entity in decode(scan(table)):
            count += 1
            yield entity
        _check_count(header, table, count, expected_count)

    loaded = Loaded(
        header,
        counts.copy(),
        live(rows.LIVE_PROMISES, decoder.promises, header.live_promises_count),
        live(rows.LIVE_TASKS, decoder.tasks, header.live_tasks_count),
        [decoder.callback(*row) for row in scan(rows.CALLBACKS)],
        [decoder.schedule(*row) for row in scan(rows.SCHEDULES)],
        [decoder.lock(*row) for row in scan(rows.LOCKS)],
        {rows.outbox_place(key): decoder.message(key, value) for key, value in scan(rows.OUTBOX)},
        [decoder.entry(*row) for row in scan(rows.ENTRIES)],
        [decoder.execution(*row) for row in scan(rows.EXECUTIONS)],
        [decoder.usage(*row) for row in scan(rows.USAGE)],
        [decoder.workflow(*row) for row in scan(rows.WORKFLOWS)],
        [decoder.awaiting(*row) for row in scan(rows.AWAITS)],
        [decoder.listener(*row) for row in scan(rows.LISTENERS)],
    )
    _check_counts(loaded)
    return loaded


def bring_up(state: ShardState, loaded: Loaded) -> None:
    """Bring an empty state to what was loaded. Raises CheckpointDamaged."""
    try:
        checkpointing.load(state, loaded)
    except RowUnreadable as error:
        raise rows.unreadable(rows.LIVE_PROMISES, error) from error


def _check_counts(loaded: Loaded) -> None:
    """Check that as many rows were read as were written: a lost page must not go unnoticed."""
    header = loaded.header
    for name, found, expected in (
        (rows.CALLBACKS, len(loaded.callbacks), header.callbacks_count),
        (rows.SCHEDULES, len(loaded.schedules), header.schedules_count),
        (rows.LOCKS, len(loaded.locks), header.locks_count),
        (rows.OUTBOX, len(loaded.outbox), header.outbox_count),
        (rows.ENTRIES, len(loaded.entries), header.entries_count),
        (rows.EXECUTIONS, len(loaded.executions), header.executions_count),
        (rows.USAGE, len(loaded.usage), header.usage_count),
        (rows.WORKFLOWS, len(loaded.workflows), header.workflows_count),
        (rows.AWAITS, len(loaded.awaits), header.awaits_count),
        (rows.LISTENERS, len(loaded.listeners), header.listeners_count),
    ):
        _check_count(header, name, found, expected)


def _check_count(header: ShardHeader, name: str, found: int, expected: int) -> None:
    if found != expected:
        raise CheckpointDamaged(
            name, f"shard {header.shard} has {found} rows where {expected} were written"
        )
