"""Which promises in memory have a tag: by its name and value, in the order of creation.

Most tags of workflows name one promise or a few: its origin, its parent, itself. So the ids of a
tag are kept as they are, without an index of their own, until there are more than a few; what a
promise's tags take is a part of what the promise takes. Tags that name the same promises share what
names them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from troth.core.model import Promise

from .serial_index import SerialIndex

FEW_COUNT: Final = 8
"""Up to this many ids of a tag are kept as a tuple."""

_NO_ENTRIES: Final = SerialIndex()

Entry = str | tuple[str, ...] | SerialIndex
"""One id; a few, oldest first; or many."""


class TagIndex:
    """The promises of each tag. `serial_of` finds the serials of those that are indexed, by id."""

    __slots__ = ("_entries", "_serial_of")

    def __init__(self, serial_of: Callable[[str], int]) -> None:
        self._serial_of = serial_of
        self._entries: dict[str, dict[str, Entry]] = {}

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

    def fill(
        self, tagged: Mapping[str, Mapping[str, Sequence[str]]], texts: Mapping[str, str]
    ) -> None:
        """Add the promises of many tags, by name and value, oldest first; there are none yet.

        A value that is among the texts is kept as that one.
        """
        shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        for name, by_value in tagged.items():
            entries: dict[str, Entry] = {}
            for came, ids in by_value.items():
                value = texts.get(came, came)
                if len(ids) == 1:
                    entries[value] = ids[0]
                elif len(ids) <= FEW_COUNT:
                    few = tuple(ids)
                    entries[value] = shared.setdefault(few, few)
                else:
                    entries[value] = self._indexed(ids)
            self._entries[name] = entries

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

    def discard(self, promise: Promise) -> None:
        """Take a promise out of all its tags."""
        for name, value in (promise.tags or {}).items():
            by_value = self._entries[name]
            entry = by_value[value]
            if isinstance(entry, SerialIndex):
                entry.discard(promise.serial)
                if entry:
                    continue
            else:
                left = tuple(one for one in _ids(entry) if one != promise.id)
                if left:
                    by_value[value] = left
                    continue
            del by_value[value]
            if not by_value:
                del self._entries[name]

    def smallest(self, tags: Mapping[str, str]) -> SerialIndex:
        """Return the smallest index that holds every promise with all of these tags."""
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


def _ids(entry: Entry) -> tuple[str, ...]:
    assert not isinstance(entry, SerialIndex)
    return (entry,) if isinstance(entry, str) else entry


def _count(entry: Entry) -> int:
    return 1 if isinstance(entry, str) else len(entry)
