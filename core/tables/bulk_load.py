"""Filling the tables of promises in bulk, as a start does: there may be millions.

Each row costs a few operations here, and what can be done for many at a time is: the order of
serials and the tags are made when all rows have been read. Afterwards everything is as if the
promises had been added one by one.
"""

from collections.abc import Iterable, Sequence
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
        self.ids: dict[str, str] = {}
        self._table = table
        self._index = index
        self._tag_index = tag_index
        self._serials: list[int] = []
        self._indexed: list[str] = []
        self._tagged: dict[str, dict[str, list[str]]] = {}

    def load(self, promises: Iterable[Promise | FoldedRow]) -> None:
        """Take up all, which come in the order of their serials. Raises RowUnreadable."""
        try:
            self._load(promises)
        except UNREADABLE_ROW as error:
            raise RowUnreadable(str(error)) from error
        self._index.extend(self._serials, self._indexed)
        self._tag_index.fill(self._tagged)

    def _load(self, promises: Iterable[Promise | FoldedRow]) -> None:
        table, ids = self._table, self.ids
        kept, name_sets = table.kept, table.name_sets
        add_serial, add_indexed, from_bytes = (
            *(self._serials.append, self._indexed.append),
            int.from_bytes,
        )
        columns_of: dict[int, list[dict[str, list[str]]]] = {}  # by the number of a set of names
        folded_count, serial = 0, -1
        for one in promises:
            tags: Iterable[tuple[str, str]] = ()
            values: Sequence[str | None] = ()
            if isinstance(one, tuple):
                serial = from_bytes(one[0], "big")
                try:
                    promise_id, folded = read_row(*one, name_sets)
                except TooManyNames:
                    promise = promise_of(*one)
                    promise_id = promise.id
                    table.add_folded(promise)
                    tags = (promise.tags or {}).items()
                else:
                    kept[promise_id] = folded
                    folded_count += 1
                    number = folded[0]
                    if number < OWN_NAMES:
                        values = values_of(folded)
                    elif number == OWN_NAMES:
                        tags = tags_of(promise_id, folded, name_sets)
            else:
                serial, promise_id = one.serial, one.id
                table.add_folded(one)
                tags = (one.tags or {}).items()
            ids[promise_id] = promise_id
            if not promise_id.startswith(RESERVED_PREFIX):  # such are found by their tags
                add_serial(serial)
                add_indexed(promise_id)
            if values:
                columns = columns_of.get(number)
                if columns is None:
                    columns = columns_of[number] = self._columns(name_sets.names[number])
                for place, value in enumerate(values):
                    # As in `_tag`, written out: most tags come here.
                    if value is None:
                        value = promise_id
                    found = columns[place].get(value)
                    if found is None:
                        columns[place][ids.get(value, value)] = [promise_id]
                    else:
                        found.append(promise_id)
            for name, value in tags:
                self._tag(promise_id, name, value)
        table.folded_count += folded_count
        table.folded_through = max(serial, table.folded_through)

    def _columns(self, names: Iterable[str]) -> list[dict[str, list[str]]]:
        """Return where the promises of each of these tags are gathered, by value."""
        return [self._tagged.setdefault(name, {}) for name in names]

    def _tag(self, promise_id: str, name: str, value: str) -> None:
        (by_value,) = self._columns((name,))
        found = by_value.get(value)
        if found is None:
            by_value[self.ids.get(value, value)] = [promise_id]
        else:
            found.append(promise_id)
