"""A digest of every table of a store, kept with it, so that no row can vanish or change unseen.

LMDB's pages have no checksums: a flipped bit can change a row, or hide many if it is in an inner
page. A digest is the number of a table's rows and the sum, modulo 2**64, of a 64-bit hash of each
row. It does not depend on the rows' order, so a commit updates it from the rows it writes. `verify`
reads all rows again and compares.
"""

import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import xxhash

from troth.persistence.errors import CheckpointDamaged

from .port import AFTER_ALL, View

TABLE: Final = "digests"
"""Where the digests are, by the table's name: count and sum, eight bytes each, big-endian."""

SLICE_COUNT: Final = 2_000
"""After this many rows `verify` lets other threads work."""

_MASK: Final = 2**64 - 1
_row_hash = xxhash.xxh3_64_intdigest


class Digest:
    """The digest of one table."""

    __slots__ = ("count", "total")

    def __init__(self, count: int = 0, total: int = 0) -> None:
        self.count = count
        self.total = total

    def add(self, key: bytes, value: bytes) -> None:
        """Take a new row in."""
        self.count += 1
        self.total = (self.total + _row_hash(key + value, len(key))) & _MASK

    def add_all(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Take new rows in."""
        hashes = map(_row_hash, map(operator.add, keys, values), map(len, keys))
        self.total = (self.total + sum(hashes)) & _MASK
        self.count += len(keys)

    def remove(self, key: bytes, value: bytes) -> None:
        """Take a row out."""
        self.count -= 1
        self.total = (self.total - _row_hash(key + value, len(key))) & _MASK

    def encode(self) -> bytes:
        """Return the digest as a row of `TABLE`."""
        return self.count.to_bytes(8, "big") + self.total.to_bytes(8, "big")


def read(view: View, table: str) -> Digest:
    """Return the digest that is kept; an empty one if there is none. Raises CheckpointDamaged."""
    value = view.get(TABLE, table.encode())
    if value is None:
        return Digest()
    if len(value) != 16:
        raise CheckpointDamaged(
            TABLE, f"the stored digest of {table} has {len(value)} bytes, not 16"
        )
    return Digest(int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big"))


def verify(
    view: View,
    tables: Iterable[str],
    pause: Callable[[], None],
    show: Callable[[str, list[bytes]], None] = lambda *_: None,
) -> int:
    """Read everything and compare; how many rows there are. Raises CheckpointDamaged.

    `pause` is called after every SLICE_COUNT rows; what it raises ends the reading. `show` gets all
    keys of all tables, in such slices.
    """
    rows_count = 0
    for table in tables:
        found = Digest()
        every = view.scan(table, b"", AFTER_ALL)
        while some := list(itertools.islice(every, SLICE_COUNT)):
            keys = [key for key, _ in some]
            found.add_all(keys, [value for _, value in some])
            show(table, keys)
            if len(some) == SLICE_COUNT:
                pause()
        kept = read(view, table)
        if found.count != kept.count:
            raise CheckpointDamaged(
                table, f"it has {found.count} rows, but {kept.count} were written"
            )
        if found.total != kept.total:
            raise CheckpointDamaged(table, "its rows differ from those that were written")
        rows_count += found.count
    return rows_count
