"""The catalog's entries of one shard.

Entries are few and read often, so all are in memory, by id and by account.
"""

from collections.abc import Iterator

from troth.core.catalog import Account, Entry

Owner = tuple[type[Entry], str]
"""A type of entry and the id of an account."""


def owner_of(entry: Entry) -> str:
    """Return the id of the account an entry belongs to; an account belongs to itself."""
    return entry.id if isinstance(entry, Account) else entry.account_id


class Entries:
    """The entries of one shard."""

    __slots__ = ("_by_owner", "by_id")

    def __init__(self) -> None:
        self.by_id: dict[str, Entry] = {}
        self._by_owner: dict[Owner, dict[str, Entry]] = {}

    def put(self, entry: Entry) -> None:
        """Store an entry: a new one, or one that replaces the entry with its id."""
        self.drop(entry.id)
        self.by_id[entry.id] = entry
        self._by_owner.setdefault((type(entry), owner_of(entry)), {})[entry.id] = entry

    def drop(self, entry_id: str) -> None:
        """Forget an entry, if it is there."""
        entry = self.by_id.pop(entry_id, None)
        if entry is None:
            return
        owner = (type(entry), owner_of(entry))
        group = self._by_owner[owner]
        del group[entry_id]
        if not group:
            del self._by_owner[owner]

    def of(self, kind: type[Entry], account_id: str | None) -> Iterator[Entry]:
        """Yield the entries of a type, of one account or of all (None), in no particular order."""
        if account_id is not None:
            yield from self._by_owner.get((kind, account_id), {}).values()
            return
        for (group_kind, _), group in self._by_owner.items():
            if group_kind is kind:
                yield from group.values()

    def __len__(self) -> int:
        return len(self.by_id)
