"""Which promises in memory have a tag: by its name and value, in the order of creation.

Most tags of workflows name one promise or a few: its origin, its parent, itself. So the ids of a
tag are kept as they are, without an index of their own, until there are more than a few; what a
promise's tags take is a part of what the promise takes. Tags that name the same promises share what
names them.

To read the tags of all promises is a third of what a start takes. So it is put off: a
`LateTagIndex` is filled in slices while the server works, and until then names all promises.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, final

from troth.core.model import Promise

from .folding import NO_TAGS, PACKED, UNREADABLE_ROW, RowUnreadable, serial_of, tags_of
from .packing import unpack
from .promise_table import PromiseTable
from .serial_index import SerialIndex

FEW_COUNT: Final = 8
"""Up to this many ids of a tag are kept as a tuple."""

_NO_ENTRIES: Final = SerialIndex()

Entry = str | tuple[str, ...] | SerialIndex
"""One id; a few, oldest first; or many."""


class TagIndex:
    """The promises of each tag. `serial_of` finds the serials of those that are indexed, by id."""

    __slots__ = ("_entries", "_serial_of")

    def __init__(
        self,
        serial_of: Callable[[str], int],
        entries: dict[str, dict[str, Entry]] | None = None,
    ) -> None:
        """Start with these entries, or empty."""
        self._serial_of = serial_of
        self._entries: dict[str, dict[str, Entry]] = {} if entries is None else entries

    def add(self, promise_id: str, serial: int, tags: Iterable[tuple[str, str]]) -> None:
        """Add the newest promise to each of its tags, which are names and values."""
        entries = self._entries
        last: Entry | None = None  # what the tag before had, and has now if that may be shared
        joined: Entry | None = None
        for name, value in tags:
            by_value = entries.get(name)
            if by_value is None:
                by_value = entries[name] = {}
            entry = by_value.get(value)
            if entry is None:
                by_value[value] = promise_id
            elif type(entry) is SerialIndex:
                entry.append(serial, promise_id)
            elif entry is last and type(joined) is tuple:
                # Lineage: several tags name the same promise, and so have the same promises.
                by_value[value] = joined
            else:
                last = entry
                by_value[value] = joined = self._joined(entry, promise_id, serial)

    def _joined(self, entry: Entry, promise_id: str, serial: int) -> Entry:
        ids = _ids(entry)
        if len(ids) < FEW_COUNT:
            return *ids, promise_id
        index = self._indexed(ids)
        index.append(serial, promise_id)
        return index

    def _indexed(self, ids: Sequence[str]) -> SerialIndex:
        index = SerialIndex()
        index.extend(list(map(self._serial_of, ids)), ids)
        return index

    def discard_all(self, promises: Iterable[tuple[str, int, Mapping[str, str] | None]]) -> None:
        """Take promises out of all the tags that they have, if they have any."""
        entries, discard = self._entries, self._discard
        for promise_id, serial, tags in promises:
            if tags is not None:
                for name, value in tags.items():
                    by_value = entries[name]
                    if by_value[value] == promise_id:  # as it is mostly
                        del by_value[value]
                        if not by_value:
                            del entries[name]
                    else:
                        discard(promise_id, serial, name, value)

    def _discard(self, promise_id: str, serial: int, name: str, value: str) -> None:
        """Take a promise out of one of its tags, which others have, too."""
        by_value = self._entries[name]
        entry = by_value[value]
        if type(entry) is SerialIndex:
            entry.discard(serial)
            if entry:
                return
        else:
            left = tuple([one for one in _ids(entry) if one != promise_id])
            if left:
                by_value[value] = left
                return
        del by_value[value]
        if not by_value:
            del self._entries[name]

    def smallest(self, tags: Mapping[str, str]) -> SerialIndex:
        """Return an index that holds every promise with all of these tags, as small as there is."""
        found = [self._entries.get(name, {}).get(value) for name, value in tags.items()]
        if None in found:
            return _NO_ENTRIES
        entry = min((one for one in found if one is not None), key=_count)
        return entry if isinstance(entry, SerialIndex) else self._indexed(_ids(entry))

    def items(self) -> Iterator[tuple[tuple[str, str], SerialIndex]]:
        """Yield all tags with their indexes."""
        for name, by_value in self._entries.items():
            for value in by_value:
                yield (name, value), self.smallest({name: value})


@final
class LateTagIndex(TagIndex):
    """The tags of a shard that was loaded, before all are read.

    They are read in the order of creation. What is created in the meantime is read in its turn.
    """

    __slots__ = ("_index", "_read_through", "_table")

    def __init__(self, table: PromiseTable, index: SerialIndex) -> None:
        """Begin with none; `index` has the promises of `table` whose tags are to be read."""
        super().__init__(table.serial_of)
        self._table = table
        self._index = index
        self._read_through = -1  # a serial

    def add(self, promise_id: str, serial: int, tags: Iterable[tuple[str, str]]) -> None:
        """Leave the newest promise for later."""

    def discard_all(self, promises: Iterable[tuple[str, int, Mapping[str, str] | None]]) -> None:
        """Take promises out of all their tags, if they have been read."""
        super().discard_all([one for one in promises if one[1] <= self._read_through])

    def smallest(self, tags: Mapping[str, str]) -> SerialIndex:
        """Return all promises: which of them have the tags is not known yet."""
        return self._index

    def read_some(self, count: int) -> bool:
        """Read the tags of so many promises; return whether any are left.

        Raises RowUnreadable.
        """
        kept, name_sets = self._table.kept, self._table.name_sets
        add = super().add
        self._read_through, ids = self._index.next_ids(self._read_through, count)
        for promise_id in ids:
            promise = kept[promise_id]
            if isinstance(promise, bytes) and promise[0] == PACKED:
                promise = unpack(promise)
            if isinstance(promise, Promise):
                if promise.tags is not None:
                    add(promise_id, promise.serial, promise.tags.items())
            elif promise[0] != NO_TAGS:
                try:
                    tags = tags_of(promise_id, promise, name_sets)
                    add(promise_id, serial_of(promise), tags)
                except UNREADABLE_ROW as error:
                    raise RowUnreadable(str(error)) from error
        return self._index.has_above(self._read_through)

    def whole(self) -> TagIndex:
        """Return the index for what comes, now that all is read."""
        return TagIndex(self._serial_of, self._entries)


def _ids(entry: Entry) -> tuple[str, ...]:
    assert not isinstance(entry, SerialIndex)
    return (entry,) if isinstance(entry, str) else entry


def _count(entry: Entry) -> int:
    return 1 if isinstance(entry, str) else len(entry)
