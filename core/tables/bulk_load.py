"""Filling the tables of promises in bulk, as a start does: there may be millions.

Each row costs a few operations here, and what can be done for many at a time is: the order of
serials and the tags are made when all rows have been read. Afterwards everything is as if the
promises had been added one by one.
"""

from collections.abc import Iterable
from typing import final

from troth.core.catalog import RESERVED_PREFIX
from troth.core.model import Promise

from .folding import (
    OWN_NAMES,
    UNREADABLE_ROW,
    FoldedRow,
    RowUnreadable,
    TooManyNames,
    promise_of,
    read_row,
    tags_of,
    values_of,
)
from .promise_table import PromiseTable
from .serial_index import SerialIndex
from .tag_index import TagIndex


@final
class BulkLoad:
    """Takes up the pending promises of one shard, whose tables are empty. `ids` has one text each.

    Equal texts among the tags are that text, too.
    """

    def __init__(self, table: PromiseTable, index: SerialIndex, tag_index: TagIndex) -> None:
        """Begin."""
        assert not table.kept, "the tables are empty"
        self.ids: dict[str, str] = {}
        self._table = table
        self._index = index
        self._tag_index = tag_index
        self._serials: list[int] = []
        self._tagged: dict[str, dict[str, list[str]]] = {}

    def load(self, promises: Iterable[Promise | FoldedRow]) -> None:
        """Take up all, which come in the order of their serials. Raises RowUnreadable."""
        try:
            self._read(promises)
        except UNREADABLE_ROW as error:
            raise RowUnreadable(str(error)) from error
        serials, ids = self._serials, list(self._table.kept)
        self.ids = dict(zip(ids, ids, strict=True))
        if any(one.startswith(RESERVED_PREFIX) for one in ids):  # such are found by their tags
            found = [
                (serial, one)
                for serial, one in zip(serials, ids, strict=True)
                if not one.startswith(RESERVED_PREFIX)
            ]
            serials, ids = [serial for serial, _ in found], [one for _, one in found]
        self._index.extend(serials, ids)
        self._tag_index.fill(self._tagged, self.ids)

    def _read(self, promises: Iterable[Promise | FoldedRow]) -> None:
        """Put all into the table, and gather them by their tags."""
        table, name_sets, from_bytes = self._table, self._table.name_sets, int.from_bytes
        kept, add_serial = table.kept, self._serials.append
        columns_of: dict[int, list[dict[str, list[str]]]] = {}  # by the number of a set of names
        folded_count = 0
        for one in promises:
            if isinstance(one, Promise):
                self._add(one)
                continue
            serial, row = one
            try:
                promise_id, folded = read_row(serial, row, name_sets)
            except TooManyNames:
                self._add(promise_of(serial, row))
                continue
            kept[promise_id] = folded
            folded_count += 1
            add_serial(from_bytes(serial, "big"))
            number = folded[0]
            if number >= OWN_NAMES:
                if number == OWN_NAMES:
                    self._gather(promise_id, tags_of(promise_id, folded, name_sets))
                continue
            # As in `_gather`, written out: most tags come here.
            columns = columns_of.get(number)
            if columns is None:
                columns = [self._tagged.setdefault(name, {}) for name in name_sets.names[number]]
                columns_of[number] = columns
            values = values_of(folded)
            if len(values) != len(columns):
                raise ValueError("it has not as many values as names")
            for place, value in enumerate(values):
                text = promise_id if value is None else value
                found = columns[place].get(text)
                if found is None:
                    columns[place][text] = [promise_id]
                else:
                    found.append(promise_id)
        table.folded_count += folded_count
        if self._serials:
            table.folded_through = self._serials[-1]

    def _add(self, promise: Promise) -> None:
        """Do the same for a promise that is an object."""
        self._table.add_folded(promise)
        self._serials.append(promise.serial)
        self._gather(promise.id, (promise.tags or {}).items())

    def _gather(self, promise_id: str, tags: Iterable[tuple[str, str]]) -> None:
        """Note a promise for each of its tags."""
        for name, value in tags:
            self._tagged.setdefault(name, {}).setdefault(value, []).append(promise_id)
