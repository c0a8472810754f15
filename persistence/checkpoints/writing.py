"""The rows that a checkpoint writes, most of them in the order of their keys.

Promises and tasks there may be hundreds of thousands of. So their rows are made some hundred at a
time, table after table, which costs half as much as row after row. What takes long without letting
another thread work, as sorting does, is done in parts.
"""

import contextlib
import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any, Final, TypeVar

import msgspec

from troth.core import records
from troth.core.catalog import is_reserved
from troth.core.model import PENDING, Promise, Task
from troth.core.state.captures import Capture, ShardHeader
from troth.core.tables.folding import PACKED, SERIAL
from troth.core.tables.packing import CONTENT, packed_whole
from troth.persistence.errors import CheckpointDamaged

from . import rows
from .port import Rows, View, Write

GROUP_COUNT: Final = 512
"""Of how many entities the rows are made together: what they take in memory is little."""

SORT_COUNT: Final = 16_384
"""So many are sorted in one piece, which takes some ms."""

AddIds = Callable[[Sequence[bytes]], None]
"""What notes the ids of what is stored, by their beginnings (`rows.id_head`)."""

_One = TypeVar("_One")

_SERIAL_BYTES: Final = 8
_NO_OBJECTS: Final[Mapping[bytes, Promise]] = {}
_decode_promises: Final = msgspec.json.Decoder(list[Promise]).decode


def promise_writes(
    captures: Sequence[Capture], add_ids: AddIds, headers: Mapping[int, ShardHeader]
) -> Iterator[Write]:
    """Yield the rows of promises: of pending ones, of completed ones, and of their ids.

    `headers` are those of the last checkpoint, which has no promise with a larger serial. Of
    completed ones the rows of some come together, in the order of serials.
    """
    completed: list[tuple[int, list[bytes]]] = []
    objects: dict[bytes, Promise] = {}
    for capture in captures:
        shard = capture.header.shard
        pending, found = divided(capture, lambda: None, objects)
        yield from pending_writes(shard, pending, capture.packed_names)
        completed.append((shard, found))
    stored = {shard: header.largest_serial for shard, header in headers.items()}
    ids: list[bytes] = []
    for group in in_step(completed, GROUP_COUNT):
        packed = [one for _, found in group for one in found]
        some = shared_out(counts_of(group), packed, objects)
        yield from completed_writes(some, packed, stored)
        ids += id_entries(some)
    yield from id_writes(ids, add_ids)


def counts_of(some: Sequence[tuple[int, Sequence[bytes]]]) -> list[tuple[int, int]]:
    """Return how many promises there are of each shard."""
    return [(shard, len(found)) for shard, found in some]


def shared_out(
    counts: Sequence[tuple[int, int]],
    packed: Sequence[bytes],
    objects: Mapping[bytes, Promise] = _NO_OBJECTS,
) -> list[tuple[int, list[Promise]]]:
    """Return promises that were packed by shard: of each so many.

    `objects` are those that are there as such, by their serials.
    """
    if objects:
        array = b",".join([one[CONTENT] for one in packed if one[SERIAL] not in objects])
        read = iter(_decode_promises(b"[%b]" % array))
        left = iter([objects.get(one[SERIAL]) or next(read) for one in packed])
    else:
        left = iter(_decode_promises(b"[%b]" % b",".join([one[CONTENT] for one in packed])))
    return [(shard, list(islice(left, count))) for shard, count in counts]


def id_entries(some: Sequence[tuple[int, Sequence[Promise]]]) -> Iterator[bytes]:
    """Yield for each completed promise the key of its id, and behind it its serial."""
    for shard, found in some:
        for promise in found:
            yield rows.id_key(shard, promise.id) + rows.number_bytes(promise.serial)


def id_writes(ids: list[bytes], add_ids: AddIds) -> Iterator[Write]:
    """Yield the rows of the ids of completed promises, as good as in their order."""
    for group in _groups(_in_order(ids)):
        keys = [one[:-_SERIAL_BYTES] for one in group]
        add_ids([rows.id_head(key) for key in keys])
        yield Rows(rows.PROMISE_IDS, keys, [one[-_SERIAL_BYTES:] for one in group])


def completed_writes(
    some: Sequence[tuple[int, Sequence[Promise]]],
    packed: Sequence[bytes],
    stored: Mapping[int, int],
) -> Iterator[Write]:
    """Yield the rows of a group of completed promises, but for those of their ids.

    `packed` are the same, in any order. `stored` has the largest serial that is in the store by
    shard.
    """
    in_order = [(one[SERIAL], one[CONTENT]) for one in sorted(packed)]
    keys = [key for key, _ in in_order]
    yield Rows(rows.PROMISES, keys, rows.seal_all(rows.PROMISES, in_order))
    index_keys: dict[str, dict[bytes, bytes]] = {table: {} for table in rows.INDEXES}
    for shard, found in some:
        largest_serial = stored.get(shard, -1)
        for promise in found:
            if promise.serial <= largest_serial:  # it may have been pending then
                yield rows.LIVE_PROMISES, rows.number_key(shard, promise.serial), None
        _add_index_keys(index_keys, shard, found)
    for table, identifiers in index_keys.items():
        if identifiers:
            yield Rows(table, list(identifiers), list(identifiers.values()))


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
            contents = zip(keys, map(records.encode, final), strict=True)
            yield Rows(rows.TASKS, keys, rows.seal_all(rows.TASKS, contents))
    for group in _groups(_in_order([task for task in tasks if task.is_final], attrgetter("id"))):
        keys = [rows.id_key(shard, task.id) for task in group]
        add_ids([rows.id_head(key) for key in keys])
        yield Rows(rows.TASK_IDS, keys, [rows.number_bytes(task.sequence) for task in group])


def pending_writes(
    shard: int, pending: Mapping[str, Promise | bytes], packed_names: Mapping[int, bytes]
) -> Iterator[Write]:
    """Yield the rows of pending promises of a shard in the order of their serials."""
    table, of_shard = rows.LIVE_PROMISES, rows.shard_key(shard)
    found: list[tuple[bytes, str, Promise | bytes]] = []
    for name, promise in pending.items():
        serial = (
            promise[SERIAL] if isinstance(promise, bytes) else rows.number_bytes(promise.serial)
        )
        found.append((of_shard + serial, name, promise))
    for group in _groups(_in_order(found, itemgetter(0))):
        values = [
            rows.folded_promise(key, name, promise, packed_names)
            if type(promise) is bytes
            else rows.encode(table, key, promise)
            for key, name, promise in group
        ]
        yield Rows(table, [key for key, _, _ in group], values)


def divided(
    capture: Capture, pause: Callable[[], None], objects: dict[bytes, Promise] | None = None
) -> tuple[dict[str, Promise | bytes], list[bytes]]:
    """Return the pending promises of a capture, and the completed ones in the order of serials.

    The latter are packed, also those that were not; `objects` gets these, too, by their serials.
    `pause` is called after each small piece of work.
    """
    pending: dict[str, Promise | bytes] = {}
    completed: list[bytes] = []
    every = iter(capture.promises.items())
    while some := list(islice(every, GROUP_COUNT)):
        packed = [one for _, one in some if type(one) is bytes and one[0] == PACKED]
        completed += packed
        if len(packed) < len(some):
            for name, promise in some:
                if promise is None or (type(promise) is bytes and promise[0] == PACKED):
                    continue
                if isinstance(promise, bytes) or promise.state is PENDING:
                    pending[name] = promise
                    continue
                completed.append(whole := packed_whole(promise))
                if objects is not None:
                    objects[whole[SERIAL]] = promise
        pause()
    return pending, _in_order(completed)


def _add_index_keys(
    index_keys: dict[str, dict[bytes, bytes]], shard: int, promises: Sequence[Promise]
) -> None:
    """Add the entries of completed promises of a shard: as `rows.index_keys`, but many.

    The server's own are searched by their tags only. So searches of clients never meet them.
    """
    by_serial, by_state = index_keys[rows.BY_SERIAL], index_keys[rows.BY_STATE]
    by_end, by_tag = index_keys[rows.BY_END], index_keys[rows.BY_TAG]
    of_shard, prefixes = rows.shard_key(shard), rows.state_prefixes(shard)
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


def _in_order(found: list[Any], key: Callable[[Any], Any] | None = None) -> list[Any]:
    """Return a list sorted, by a key or by what is in it."""
    if len(found) <= SORT_COUNT:
        found.sort(key=key)
        return found
    places = range(0, len(found), SORT_COUNT)
    parts = [sorted(found[place : place + SORT_COUNT], key=key) for place in places]
    return list(heapq.merge(*parts, key=key))


def _groups(found: list[_One]) -> Iterator[list[_One]]:
    for place in range(0, len(found), GROUP_COUNT):
        yield found[place : place + GROUP_COUNT]


def in_step(
    found: Sequence[tuple[int, list[bytes]]], group_count: int
) -> Iterator[list[tuple[int, list[bytes]]]]:
    """Yield the packed promises of shards, each in order, in the order of all serials.

    That is, some of each shard at a time, together not many more than `group_count`: none of them
    has a larger serial than any that follows.
    """
    left = [(shard, promises, 0) for shard, promises in found if promises]
    while left:
        share_count = max(group_count // len(left), 1)
        # Packed promises begin with their serials, so they are compared as they are.
        last = min(
            promises[min(place + share_count, len(promises)) - 1] for _, promises, place in left
        )
        some, still_left = [], []
        for shard, promises, place in left:
            end = bisect_right(promises, last, place, min(place + share_count, len(promises)))
            some.append((shard, promises[place:end]))
            if end < len(promises):
                still_left.append((shard, promises, end))
        yield some
        left = still_left


def deletions(
    shard: int, capture: Capture, decoder: rows.RowDecoder, open_view: Callable[[], View]
) -> Iterator[Write]:
    """Take out what was deleted, before anything new is written under the same ids."""
    for name, sequence in sorted(capture.deleted_tasks.items()):
        key = rows.number_key(shard, sequence)
        yield rows.LIVE_TASKS, key, None
        yield rows.TASKS, key, None
        yield rows.TASK_IDS, rows.id_key(shard, name), None
    if not capture.deleted_promises:
        return
    # What is in the indexes follows from the old row, which only the store has.
    with contextlib.closing(open_view()) as view:
        for name, serial in sorted(capture.deleted_promises.items()):
            yield rows.LIVE_PROMISES, rows.number_key(shard, serial), None
            key = rows.number_bytes(serial)
            value = view.get(rows.PROMISES, key)
            if value is None:
                continue
            old = decoder.promise(rows.PROMISES, key, value)
            if old.id != name:
                raise CheckpointDamaged(rows.PROMISES, "a row has the serial of another")
            yield rows.PROMISES, key, None
            yield rows.PROMISE_IDS, rows.id_key(shard, name), None
            for table, index_key in rows.index_keys(shard, old):
                yield table, index_key, None


def other_writes(capture: Capture, add_ids: AddIds) -> Iterator[Write]:
    """Yield the rows of a shard but for those of promises, and at last its header."""
    shard = capture.header.shard
    yield from task_writes(shard, capture, add_ids)
    yield from _plain_writes(rows.CALLBACKS, shard, capture.callbacks)
    yield from _plain_writes(rows.SCHEDULES, shard, capture.schedules)
    yield from _plain_writes(rows.LOCKS, shard, capture.locks)
    yield from _plain_writes(rows.ENTRIES, shard, capture.entries)
    yield from _plain_writes(rows.EXECUTIONS, shard, capture.executions)
    yield from _plain_writes(rows.USAGE, shard, capture.usage)
    yield from _plain_writes(rows.WORKFLOWS, shard, capture.workflows)
    yield from _pair_writes(rows.AWAITS, shard, capture.awaits)
    yield from _pair_writes(rows.LISTENERS, shard, capture.listeners)
    for (target, sequence), message in sorted(capture.outbox.items(), key=lambda i: i[0]):
        yield _write(rows.OUTBOX, rows.outbox_key(shard, target, sequence), message)
    yield _write(rows.HEADERS, rows.shard_key(shard), capture.header)


def _write(table: str, key: bytes, entity: object | None) -> Write:
    return table, key, None if entity is None else rows.encode(table, key, entity)


def _plain_writes(table: str, shard: int, entities: Mapping[str, object]) -> Iterator[Write]:
    for name in sorted(entities):
        yield _write(table, rows.id_key(shard, name), entities[name])


def _pair_writes(
    table: str, shard: int, pairs: Mapping[tuple[str, str], object]
) -> Iterator[Write]:
    for pair in sorted(pairs):
        yield _write(table, rows.pair_key(shard, *pair), pairs[pair])
