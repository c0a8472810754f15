"""Dropping from memory what is finished, when a checkpoint with it is on disk.

A busy server has hundreds of thousands of promises to drop, and each of them is in four tables. So
a slice of them is taken out of one table after the other.
"""

from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from typing import TypeVar

from troth.core.catalog import RESERVED_PREFIX
from troth.core.limits import EVICTION_SLICE_COUNT
from troth.core.model import PENDING, Promise
from troth.core.tables.folding import PACKED, serial_of

from .captures import Capture
from .shard_state import ShardState

_Key = TypeVar("_Key")
_Row = TypeVar("_Row")


def evict(state: ShardState, written: Capture) -> Iterator[int]:
    """Drop what is finished and was written, in slices; how many left memory with each.

    Between two slices the state is whole and may change. What has changed since the capture stays.
    What was deleted before the capture is no longer in the cold store, and need not be hidden. The
    capture is used up: to free all of its rows takes long, too.
    """
    yield from _in_slices(_show_deleted(state, written))
    take = written.promises.popitem
    while count := min(EVICTION_SLICE_COUNT, len(written.promises)):
        yield _evict_promises(state, [take() for _ in range(count)])
    yield from _in_slices(_evict_others(state, written))


def _in_slices(steps: Iterator[bool]) -> Iterator[int]:
    """Make steps; yield after each slice how many of them were true."""
    while some := list(islice(steps, EVICTION_SLICE_COUNT)):
        yield sum(some)


def _show_deleted(state: ShardState, written: Capture) -> Iterator[bool]:
    """Hide what was deleted no longer, one after the other; nothing leaves memory."""
    for hidden, deleted, kind in (
        (state.hidden_promises, written.deleted_promises, "deleted_promises"),
        (state.hidden_tasks, written.deleted_tasks, "deleted_tasks"),
    ):
        for name in deleted:
            if name not in getattr(state.changes, kind):
                hidden.discard(name)
            yield False


def _evict_promises(state: ShardState, rows: Sequence[tuple[str, Promise | bytes | None]]) -> int:
    """Drop those of these promises that are completed; return how many there were."""
    find = state.promises.kept.get
    packed = [
        (promise_id, row)
        for promise_id, row in rows
        if type(row) is bytes and row[0] == PACKED and find(promise_id) is row
    ]
    ids = [promise_id for promise_id, _ in packed]
    serials = [serial_of(row) for _, row in packed]
    if len(ids) < len(rows):
        for promise_id, row in rows:
            if type(row) is Promise and row.state is not PENDING and find(promise_id) is row:
                ids.append(promise_id)
                serials.append(row.serial)
    if state.retention is not None:
        for promise_id in ids:
            state.retention.goes_cold(state.promises[promise_id])
    if ids:
        forget_promises(state, ids, serials)
    return len(ids)


def forget_promises(state: ShardState, ids: Sequence[str], serials: Sequence[int]) -> None:
    """Drop completed promises from memory."""
    state.promises.forget_completed(ids)
    state.promise_index.discard_all(serials)
    tagged = [*zip(ids, serials, map(state.completed.pop, ids), strict=True)]
    if not any(map(str.startswith, ids, repeat(RESERVED_PREFIX))):
        state.tag_index.discard_all(tagged)
        return
    for one in tagged:
        state.tag_index_of(one[0]).discard_all((one,))


def _evict_others(state: ShardState, written: Capture) -> Iterator[bool]:
    """Look at one thing after the other that was captured; whether it left memory."""
    for name, row in _used_up(written.tasks):
        yield row is not None and row.is_final and _evict_task(state, name)
    for rows in written.other_rows():
        for _ in _used_up(rows):
            yield False


def _used_up(rows: dict[_Key, _Row]) -> Iterator[tuple[_Key, _Row]]:
    while rows:
        yield rows.popitem()


def _evict_task(state: ShardState, task_id: str) -> bool:
    task = state.tasks.get(task_id)
    if task is None or not task.is_final or task_id in state.changes.tasks:
        return False
    state.forget_task(task)
    return True
