"""Filling the tables of promises in bulk, as a start does: there may be millions.

Each row costs a few operations here, and the order of serials is made when all rows have been read.
The tags of clients' promises are read later (`LateTagIndex`). Apart from that everything is
afterwards as if the promises had been added one by one.
"""

import struct
from collections.abc import Iterable, Sequence
from itertools import compress, repeat
from operator import not_
from typing import final

from troth.core.catalog import RESERVED_PREFIX
from troth.core.model import Promise

from .folding import (
    NO_TAGS,
    UNREADABLE_ROW,
    FoldedRow,
    RowUnreadable,
    TooManyNames,
    promise_of,
    read_row,
    serial_of,
    tags_of,
)
from .promise_table import PromiseTable
from .serial_index import SerialIndex
from .tag_index import TagIndex


@final
class BulkLoad:
    """Takes up the pending promises of one shard, whose tables are empty."""

    def __init__(self, table: PromiseTable, index: SerialIndex, reserved_tags: TagIndex) -> None:
        """Begin. `reserved_tags` gets the tags of the server's own promises."""
        assert not table.kept, "the tables are empty"
        self._table = table
        self._index = index
        self._reserved_tags = reserved_tags

    def texts(self) -> dict[str, str]:
        """Return the ids by themselves: for each the one text that the table has."""
        return dict(zip(self._table.kept, self._table.kept, strict=True))

    def load(self, promises: Iterable[Promise | FoldedRow]) -> None:
        """Take up all, which come in the order of their serials. Raises RowUnreadable."""
        try:
            serials = self._read(promises)
            ids = list(self._table.kept)
            are_reserved = [*map(str.startswith, ids, repeat(RESERVED_PREFIX))]
            if any(are_reserved):  # such are found by their tags
                self._read_tags(compress(ids, are_reserved))
                are_clients = [*map(not_, are_reserved)]
                serials = [*compress(serials, are_clients)]
                ids = [*compress(ids, are_clients)]
        except UNREADABLE_ROW as error:
            raise RowUnreadable(str(error)) from error
        self._index.extend(serials, ids)

    def _read(self, promises: Iterable[Promise | FoldedRow]) -> Sequence[int]:
        """Put all into the table; return their serials."""
        table = self._table
        kept, name_sets = table.kept, table.name_sets
        serials: list[bytes] = []
        add_serial = serials.append
        folded_count = 0
        for one in promises:
            if isinstance(one, Promise):
                table.add_folded(one)
                add_serial(one.serial.to_bytes(8, "big"))
                continue
            serial, row = one
            add_serial(serial)
            try:
                promise_id, kept[promise_id] = read_row(serial, row, name_sets)
            except TooManyNames:
                table.add_folded(promise_of(serial, row))
                continue
            folded_count += 1
        table.folded_count += folded_count
        numbers = struct.unpack(f">{len(serials)}q", b"".join(serials))
        if numbers:
            table.folded_through = numbers[-1]
        return numbers

    def _read_tags(self, ids: Iterable[str]) -> None:
        """Index promises of the server's own by their tags."""
        kept, name_sets, add = self._table.kept, self._table.name_sets, self._reserved_tags.add
        for promise_id in ids:
            promise = kept[promise_id]
            if isinstance(promise, Promise):
                add(promise_id, promise.serial, (promise.tags or {}).items())
            elif promise[0] != NO_TAGS:
                add(promise_id, serial_of(promise), tags_of(promise_id, promise, name_sets))
