"""Reading completed promises and finished tasks back from the checkpoint store.

`ColdReader` holds the view that all shards read; `renew` exchanges it after a checkpoint, in
the same moment in which the shards drop from memory what it holds. A search uses the index that
promises the fewest rows, looks at a bounded number of them, and says where to go on. An id that is
surely not stored (`id_filter.py`) is not looked for.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import Final, TypeVar, final

from troth.core.grammar import task_ids
from troth.core.lifecycles import FINAL_STATES
from troth.core.limits import COLD_READ_LIMIT_BYTES
from troth.core.model import Promise, PromiseState, Task
from troth.core.retention_rules import Place as EndPlace
from troth.core.state.cold import Ended, Found, Query
from troth.persistence import process_memory
from troth.persistence.errors import CheckpointDamaged

from . import rows
from .id_filter import StoredIds
from .port import View
from .rows import RowDecoder

READ_COUNT: Final = 100
"""Rows that one step of a search decodes; it takes about a millisecond."""

PREFIX_SCAN_COUNT: Final = 250
"""If no more ids of a shard than this begin with a pattern's prefix, they are read in the order of
ids, which takes about a millisecond. Where more begin so, a page is soon found in the order of
creation."""

FILE_MEMORY_LIMIT_BYTES: Final = 128 << 20
"""When pages of files take more memory than this, those of the store are given back."""

READS_BETWEEN_LOOKS_COUNT: Final = 256
SEARCH_READS_COUNT: Final = 20
"""How often to look at that, in reads of one row, and how many of them a search is like."""

Entity = TypeVar("Entity", Promise, Task)
Place = tuple[int, bytes]
"""A serial and the id's bytes, as an index has them."""


@final
class ColdReader:
    """The cold side of all shards of a process, for the thread that runs them."""

    def __init__(self, view: View, ids: StoredIds, shards: range) -> None:
        self.view = view
        self.ids = ids
        self.decoder = RowDecoder()
        self._reads_count = 0
        self.shards = {shard: ShardColdStore(self, shard) for shard in shards}

    def renew(self, view: View) -> None:
        """Read a newer view from here on."""
        old, self.view = self.view, view
        old.close()

    def note_reads(self, count: int) -> None:
        """Give back, now and then, the memory that reads have taken, if it is much."""
        self._reads_count += count
        if self._reads_count >= READS_BETWEEN_LOOKS_COUNT:
            self._reads_count = 0
            if process_memory.file_bytes() > FILE_MEMORY_LIMIT_BYTES:
                self.view.release_pages()

    def close(self) -> None:
        """Release the view."""
        self.view.close()


@final
class ShardColdStore:
    """One shard's `core.cold.ColdStore`. Raises CheckpointDamaged for a corrupt row."""

    def __init__(self, reader: ColdReader, shard: int) -> None:
        self._reader = reader
        self._ids = reader.ids
        self._shard = shard

    def promise(self, promise_id: str) -> Promise | None:
        """See ColdStore."""
        if not self._ids.filter.may_hold(promise_id):  # as in `_find`, sooner: each create asks
            return None
        return self._find(rows.PROMISE_IDS, promise_id, self._promise_at)

    def _find(self, table: str, identifier: str, read: Callable[[bytes], Entity]) -> Entity | None:
        """Look an id up, and read the row that it names."""
        if not self._ids.filter.may_hold(identifier):
            return None
        self._reader.note_reads(1)
        number = self._reader.view.get(table, rows.id_key(self._shard, identifier))
        if number is None:
            return None
        found = read(number)
        if found.id != identifier:
            raise CheckpointDamaged(table, "an id names the row of another")
        return found

    def _promise_at(self, number: bytes) -> Promise:
        """Read the promise with a serial, given as the bytes that name it."""
        value = self._reader.view.get(rows.PROMISES, number)
        if value is None:
            raise CheckpointDamaged(rows.PROMISES, "an index names a row that is missing")
        return self._reader.decoder.promise(rows.PROMISES, number, value)

    def task(self, task_id: str) -> Task | None:
        """See ColdStore."""
        return self._find(rows.TASK_IDS, task_id, self._task_at)

    def _task_at(self, number: bytes) -> Task:
        key = rows.shard_key(self._shard) + number
        value = self._reader.view.get(rows.TASKS, key)
        if value is None:
            raise CheckpointDamaged(rows.TASKS, "an id names a row that is missing")
        return self._reader.decoder.task(rows.TASKS, key, value)

    def ended(
        self, state: PromiseState, after: EndPlace, until_ms: int, limit_count: int
    ) -> list[Ended]:
        """See ColdStore."""
        if until_ms < 0:
            return []
        ended_on, serial = after
        start = rows.end_key(self._shard, state, (ended_on, serial + 1))
        stop = rows.end_key(self._shard, state, (until_ms + 1, 0))
        scan = self._reader.view.scan(rows.BY_END, start, stop)
        return [
            Ended(rows.end_place(key), identifier.decode())
            for key, identifier in itertools.islice(scan, limit_count)
        ]

    def beginning_with(
        self, prefix: str, after: bytes, limit_count: int
    ) -> tuple[list[Promise], bytes | None]:
        """See ColdStore."""
        start, stop = rows.prefix_range(self._shard, prefix)
        found: list[Promise] = []
        read_bytes = 0
        scan = self._reader.view.scan(rows.PROMISE_IDS, after or start, stop)
        for count, (key, number) in enumerate(scan):
            if count == limit_count or read_bytes > COLD_READ_LIMIT_BYTES:
                return found, key
            promise = self._promise_at(number)
            read_bytes += promise.size
            if promise.id.startswith(prefix):  # long ids share the beginnings of their keys
                found.append(promise)
        self._reader.note_reads(SEARCH_READS_COUNT)
        return found, None

    def tasks_of(
        self, root_id: str, after: bytes, limit_count: int
    ) -> tuple[list[Task], bytes | None]:
        """See ColdStore."""
        invoke = None if after else self.task(task_ids.invoke_id(root_id))
        found = [] if invoke is None else [invoke]
        count = 0
        for beginning in (task_ids.notify_id(root_id, ""), task_ids.resume_id(root_id, "")):
            start, stop = rows.prefix_range(self._shard, beginning)
            for key, number in self._reader.view.scan(rows.TASK_IDS, max(start, after), stop):
                if count == limit_count:
                    return found, key
                count += 1
                task = self._task_at(number)
                if task.root_id == root_id:  # long ids share the beginnings of their keys
                    found.append(task)
        return found, None

    def first_serial(self) -> int | None:
        """See ColdStore."""
        prefix = rows.shard_key(self._shard)
        oldest = self._reader.view.scan(rows.BY_SERIAL, prefix, rows.after(prefix))
        return next((rows.number_of(key) for key, _ in oldest), None)

    def search(self, query: Query) -> Found:
        """See ColdStore."""
        if not any(state in query.states for state in FINAL_STATES):
            return Found([], None)
        self._reader.note_reads(SEARCH_READS_COUNT)
        if query.pattern.prefix:
            found = self._search_prefix(query)
            if found is not None:
                return found
        return self._search_places(query, self._places(query))

    def _search_prefix(self, query: Query) -> Found | None:
        """Sift all ids with the pattern's prefix, if there are few; None if there are many."""
        decoder, view = self._reader.decoder, self._reader.view
        start, stop = rows.prefix_range(self._shard, query.pattern.prefix)
        candidates: list[tuple[int, bytes]] = []
        scan = view.scan(rows.PROMISE_IDS, start, stop)
        read_bytes = 0
        for count, (_, number) in enumerate(scan):
            if count == PREFIX_SCAN_COUNT or read_bytes > COLD_READ_LIMIT_BYTES:
                return None
            serial = rows.number_of(number)
            if not query.is_beyond(serial):
                continue
            value = view.get(rows.PROMISES, number)
            if value is None:
                raise CheckpointDamaged(rows.PROMISES, "an id names a row that is missing")
            read_bytes += len(value)
            head = decoder.promise_head(number, value)
            if head.state in query.states and query.admits(head.id):
                candidates.append((serial, value))
        candidates.sort(reverse=not query.oldest_first)
        matched: list[Promise] = []
        for place, (serial, value) in enumerate(candidates):
            key = rows.number_bytes(serial)
            promise = decoder.promise(rows.PROMISES, key, value)
            if query.matches(promise):
                matched.append(promise)
                if len(matched) == query.limit_count and place + 1 < len(candidates):
                    return Found(matched, serial)
        return Found(matched, None)

    def _places(self, query: Query) -> Iterator[Place]:
        """Yield the candidates, in the order that is asked for, from the best index."""
        shard = self._shard
        if query.tags:
            key, value = next(iter(query.tags.items()))
            return self._index(rows.BY_TAG, rows.tag_prefix(shard, key, value), query)
        states = [state for state in FINAL_STATES if state in query.states]
        if len(states) == len(FINAL_STATES):
            return self._index(rows.BY_SERIAL, rows.shard_key(shard), query)
        return heapq.merge(
            *(
                self._index(rows.BY_STATE, rows.state_prefix(shard, state), query)
                for state in states
            ),
            reverse=not query.oldest_first,
        )

    def _index(self, table: str, prefix: bytes, query: Query) -> Iterator[Place]:
        view = self._reader.view
        if query.oldest_first:
            start = prefix + rows.number_bytes(max(query.before_serial + 1, 0))
            found = view.scan(table, start, rows.after(prefix))
        else:
            stop = prefix + rows.number_bytes(max(query.before_serial, 0))
            found = view.scan_back(table, prefix, stop)
        for key, identifier in found:
            yield rows.number_of(key), identifier

    def _search_places(self, query: Query, places: Iterator[Place]) -> Found:
        """Read the rows at the places whose id matches; other places cost next to nothing."""
        matched: list[Promise] = []
        last = query.before_serial
        read_count = read_bytes = 0
        for count, (serial, identifier) in enumerate(places):
            if (
                count == query.scan_count
                or read_count == READ_COUNT
                or read_bytes > COLD_READ_LIMIT_BYTES
                or len(matched) == query.limit_count
            ):
                return Found(matched, last)
            last = serial
            promise_id = _text(identifier)
            if not query.admits(promise_id):
                continue
            read_count += 1
            self._reader.note_reads(1)
            promise = self._promise_at(rows.number_bytes(serial))
            read_bytes += promise.size
            if promise.id != promise_id:
                raise CheckpointDamaged(rows.PROMISES, "an index names the row of another")
            if query.fits(promise):
                matched.append(promise)
        return Found(matched, None)


def _text(identifier: bytes) -> str:
    try:
        return identifier.decode()
    except UnicodeDecodeError as error:
        raise CheckpointDamaged(rows.PROMISES, "an index names an id that is not text") from error
