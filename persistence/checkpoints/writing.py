"""The rows of promises and tasks that a checkpoint writes, in the order of their keys.

There may be hundreds of thousands. So they are made some hundred at a time, table after table,
which costs half as much as row after row. What takes long without letting another thread work, as
sorting does, is done in parts.
"""

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Final, TypeVar

from troth.core.catalog import is_reserved
from troth.core.model import PENDING, Promise, Task
from troth.core.state.captures import Capture, ShardHeader
from troth.core.tables.folding import SERIAL

from . import rows
from .port import Rows, Write

GROUP_COUNT: Final = 512
"""Of how many entities the rows are made together: what they take in memory is little."""

SORT_COUNT: Final = 16_384
"""So many are sorted in one piece, which takes some ms."""

AddIds = Callable[[Sequence[bytes]], None]
"""What notes the ids of what is stored, by their beginnings (`rows.id_head`)."""

_One = TypeVar("_One")

_serial: Final = attrgetter("serial")


def promise_writes(
    captures: Sequence[Capture], add_ids: AddIds, headers: Mapping[int, ShardHeader]
) -> Iterator[Write]:
    """Yield the rows of promises: of pending ones, of completed ones, and of their ids.

    `headers` are those of the last checkpoint, which has no promise with a larger serial. Of
    completed ones the rows of some come together, in the order of serials.
    """
    for capture in captures:
        yield from _live_writes(capture)
    completed = [(capture.header.shard, _completed(capture)) for capture in captures]
    stored = {shard: header.largest_serial for shard, header in headers.items()}
    prefixes = {shard: rows.state_prefixes(shard) for shard, _ in completed}
    for some in _in_step(completed):
        together = [promise for _, found in some for promise in found]
        together.sort(key=_serial)
        keys = [rows.number_bytes(promise.serial) for promise in together]
        yield Rows(rows.PROMISES, keys, rows.encode_all(rows.PROMISES, keys, together))
        index_keys: dict[str, dict[bytes, bytes]] = {table: {} for table in rows.INDEXES}
        for shard, found in some:
            for promise in found:
                if promise.serial <= stored.get(shard, -1):  # it may have been pending then
                    yield rows.LIVE_PROMISES, rows.number_key(shard, promise.serial), None
            _add_index_keys(index_keys, shard, prefixes[shard], found)
        for table, identifiers in index_keys.items():
            if identifiers:
                yield Rows(table, list(identifiers), list(identifiers.values()))
    for shard, found in completed:
        for group in _groups(_in_order(found, attrgetter("id"))):
            keys = [rows.id_key(shard, promise.id) for promise in group]
            add_ids([rows.id_head(key) for key in keys])
            serials = [rows.number_bytes(promise.serial) for promise in group]
            yield Rows(rows.PROMISE_IDS, keys, serials)


def task_writes(shard: int, capture: Capture, add_ids: AddIds) -> Iterator[Write]:
    """Yield the rows of tasks in the order of their sequences, and then that of ids."""
    tasks = [task for task in capture.tasks.values() if task is not None]
    for group in _groups(_in_order(tasks, attrgetter("sequence"))):
        final: list[Task] = []
        for task in group:
            key = rows.number_key(shard, task.sequence)
            if task.is_final:
                yield rows.LIVE_TASKS, key, None
                final.append(task)
            else:
                yield rows.LIVE_TASKS, key, rows.encode(rows.LIVE_TASKS, key, task)
        if final:
            keys = [rows.number_key(shard, task.sequence) for task in final]
            yield Rows(rows.TASKS, keys, rows.encode_all(rows.TASKS, keys, final))
    for group in _groups(_in_order([task for task in tasks if task.is_final], attrgetter("id"))):
        keys = [rows.id_key(shard, task.id) for task in group]
        add_ids([rows.id_head(key) for key in keys])
        yield Rows(rows.TASK_IDS, keys, [rows.number_bytes(task.sequence) for task in group])


def _live_writes(capture: Capture) -> Iterator[Write]:
    """Yield the rows of pending promises in the order of their serials."""
    table, shard = rows.LIVE_PROMISES, rows.shard_key(capture.header.shard)
    found: list[tuple[bytes, str, Promise | bytes]] = []
    for name, promise in capture.promises.items():
        if type(promise) is bytes:
            found.append((shard + promise[SERIAL], name, promise))
        elif type(promise) is Promise and promise.state is PENDING:
            found.append((shard + rows.number_bytes(promise.serial), name, promise))
    packed_names = capture.packed_names
    for group in _groups(_in_order(found, itemgetter(0))):
        values = [
            rows.folded_promise(key, name, promise, packed_names)
            if type(promise) is bytes
            else rows.encode(table, key, promise)
            for key, name, promise in group
        ]
        yield Rows(table, [key for key, _, _ in group], values)


def _completed(capture: Capture) -> list[Promise]:
    """Return the completed promises in the order of their serials."""
    found = [
        promise
        for promise in capture.promises.values()
        if type(promise) is Promise and promise.state is not PENDING
    ]
    return _in_order(found, _serial)


def _add_index_keys(
    index_keys: dict[str, dict[bytes, bytes]],
    shard: int,
    prefixes: Mapping[Any, bytes],
    promises: Sequence[Promise],
) -> None:
    """Add the entries of completed promises of a shard: as `rows.index_keys`, but many.

    The server's own are searched by their tags only. So searches of clients never meet them.
    """
    by_serial, by_state = index_keys[rows.BY_SERIAL], index_keys[rows.BY_STATE]
    by_end, by_tag = index_keys[rows.BY_END], index_keys[rows.BY_TAG]
    of_shard = rows.shard_key(shard)
    for promise in promises:
        identifier = promise.id.encode()
        serial = rows.number_bytes(promise.serial)
        of_state = prefixes[promise.state]
        if not is_reserved(promise.id):
            by_serial[of_shard + serial] = identifier
            by_state[of_state + serial] = identifier
        by_end[of_state + rows.end_bytes(promise.ended_on, serial)] = identifier
        if promise.tags:
            for key, value in promise.tags.items():
                by_tag[rows.tag_prefix(shard, key, value) + serial] = identifier


def _in_order(found: list[_One], key: Callable[[_One], Any]) -> list[_One]:
    """Return a list sorted by a key."""
    if len(found) <= SORT_COUNT:
        found.sort(key=key)
        return found
    places = range(0, len(found), SORT_COUNT)
    parts = [sorted(found[place : place + SORT_COUNT], key=key) for place in places]
    return list(heapq.merge(*parts, key=key))


def _groups(found: list[_One]) -> Iterator[list[_One]]:
    for place in range(0, len(found), GROUP_COUNT):
        yield found[place : place + GROUP_COUNT]


def _in_step(
    found: Sequence[tuple[int, list[Promise]]],
) -> Iterator[list[tuple[int, list[Promise]]]]:
    """Yield the promises of shards, each in the order of serials, in the order of all serials.

    That is, some of each shard at a time: none of them has a larger serial than any that follows.
    """
    left = [(shard, promises, 0) for shard, promises in found if promises]
    while left:
        share_count = max(GROUP_COUNT // len(left), 1)
        last = min(
            promises[min(place + share_count, len(promises)) - 1].serial
            for _, promises, place in left
        )
        some, still_left = [], []
        for shard, promises, place in left:
            limit = min(place + share_count, len(promises))
            end = bisect_right(promises, last, place, limit, key=_serial)
            some.append((shard, promises[place:end]))
            if end < len(promises):
                still_left.append((shard, promises, end))
        yield some
        left = still_left
