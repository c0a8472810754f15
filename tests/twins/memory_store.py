"""The twin of `LmdbStore`: a store in memory whose commits can fail."""

import bisect
import errno
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import final

from troth.persistence.checkpoints import digests
from troth.persistence.checkpoints.digests import Digest
from troth.persistence.checkpoints.port import Rows, Write
from troth.persistence.checkpoints.store import KEY_BYTES_MAX
from troth.persistence.errors import CheckpointFailed


@final
class MemoryStore:
    """A store in memory.

    `fail_next` makes the next commit raise CheckpointFailed without effect.
    """

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes]] = {}
        self.commits_count = 0
        self.fail_next = False

    def commit(self, writes: Iterable[Write]) -> None:
        """See Store."""
        changed = {table: dict(rows) for table, rows in self.tables.items()}
        before = self.view()
        sums: dict[str, Digest] = {}
        for table, key, value in _each(writes):
            assert len(key) <= KEY_BYTES_MAX, "the real store would refuse this key"
            rows = changed.setdefault(table, {})
            digest = sums.setdefault(table, digests.read(before, table))
            old = rows.pop(key, None)
            if old is not None:
                digest.remove(key, old)
            if value is not None:
                rows[key] = value
                digest.add(key, value)
        for table, digest in sums.items():
            changed.setdefault(digests.TABLE, {})[table.encode()] = digest.encode()
        if self.fail_next:
            self.fail_next = False
            raise CheckpointFailed("memory", "cannot be written", OSError(errno.EIO, "asked to"))
        self.tables = changed
        self.commits_count += 1

    def view(self) -> "MemoryView":
        """See Store."""
        return MemoryView(self.tables)

    def release_memory(self) -> None:
        """See Store."""

    def size_bytes(self) -> int:
        """See Store."""
        return sum(
            len(key) + len(value) for rows in self.tables.values() for key, value in rows.items()
        )

    def close(self) -> None:
        """See Store."""


def _each(writes: Iterable[Write]) -> Iterator[tuple[str, bytes, bytes | None]]:
    for one in writes:
        if isinstance(one, Rows):
            yield from zip(repeat(one.table), one.keys, one.values)
        else:
            yield one


@final
class MemoryView:
    """The tables of one commit; commits replace them and never change them."""

    def __init__(self, tables: dict[str, dict[bytes, bytes]]) -> None:
        self._tables = tables
        self._sorted: dict[str, list[bytes]] = {}

    def get(self, table: str, key: bytes) -> bytes | None:
        """See View."""
        return self._tables.get(table, {}).get(key)

    def scan(self, table: str, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See View."""
        rows = self._tables.get(table, {})
        keys = self._sorted.setdefault(table, sorted(rows))
        for index in range(bisect.bisect_left(keys, start), len(keys)):
            if keys[index] >= stop:
                return
            yield keys[index], rows[keys[index]]

    def scan_back(self, table: str, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See View."""
        return iter(list(self.scan(table, start, stop))[::-1])

    def release_pages(self) -> None:
        """See View."""

    def close(self) -> None:
        """See View."""
