"""An ordered key-value store with atomic, synced commits: what checkpoints are kept in.

`Store` is the port, `LmdbStore` the real one (one LMDB environment, one named database a table) and
`MemoryStore` a twin for tests that can fail or crash a commit. A commit is all or nothing and on
disk when it returns; a snapshot shows the store as of one commit for as long as it is open. One
thread commits; any thread may read, each snapshot in one thread at a time.
"""

import bisect
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, final

import lmdb

from .errors import CheckpointFailure

MAP_BYTES: Final = 1 << 40
"""Address space for the store, not disk: a disk fills up long before this does."""

MAP_BYTES_SMALLEST: Final = 1 << 30
"""Where address space is limited, smaller maps are tried down to this."""

DATA_NAME: Final = "data.mdb"
LOCK_NAME: Final = "lock.mdb"
"""The names of LMDB's files."""

KEY_BYTES_MAX: Final = 511
"""LMDB's limit for a key."""

Write = tuple[str, bytes, bytes | None]
"""A table, a key, and its new value; None deletes the key, which need not exist."""


class Snapshot(Protocol):
    """The store as of one commit."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of a key; None if there is none."""
        ...  # pragma: no cover

    def scan(self, table: str, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys with their values from `start` up to, and without, `stop`, in ascending order."""
        ...  # pragma: no cover

    def close(self) -> None:
        """Let go; a second call does nothing. Iterators of this snapshot end with it."""
        ...  # pragma: no cover


class Store(Protocol):
    """The whole store."""

    def commit(self, writes: Iterable[Write]) -> None:
        """Make the writes durable together. Raises CheckpointFailure; then none was made."""
        ...  # pragma: no cover

    def snapshot(self) -> Snapshot:
        """The store as it is now."""
        ...  # pragma: no cover

    def size_bytes(self) -> int:
        """What the store takes on disk."""
        ...  # pragma: no cover

    def close(self) -> None:
        """Let go of files; a second call does nothing."""
        ...  # pragma: no cover


@final
class LmdbStore:
    """The store in an LMDB environment in the directory `path`; the first commit makes it.

    Raises CheckpointFailure when the environment cannot be opened.
    """

    def __init__(self, path: Path, tables: tuple[str, ...]) -> None:
        self.path = path
        self._names = tables
        self._tables: dict[str, Any] = {}
        self._environment: lmdb.Environment | None = None
        if (path / DATA_NAME).exists():
            self._open()

    def _open(self) -> lmdb.Environment:
        try:
            self.path.mkdir(exist_ok=True)
            environment = _open(self.path, len(self._names))
            for name in self._names:
                self._tables[name] = environment.open_db(name.encode())
            _sync_directory(self.path)
            _sync_directory(self.path.parent)
        except (lmdb.Error, OSError) as error:
            raise CheckpointFailure(str(self.path), "cannot be opened", error) from error
        self._environment = environment
        return environment

    def commit(self, writes: Iterable[Write]) -> None:
        """See Store. The commit syncs the data before the page that makes it current."""
        environment = self._environment or self._open()
        try:
            with environment.begin(write=True) as transaction:
                for table, key, value in writes:
                    if value is None:
                        transaction.delete(key, db=self._tables[table])
                    else:
                        transaction.put(key, value, db=self._tables[table])
        except (lmdb.Error, OSError) as error:
            raise CheckpointFailure(str(self.path), "cannot be written", error) from error

    def snapshot(self) -> Snapshot:
        """See Store."""
        if self._environment is None:
            return MemorySnapshot({})
        return LmdbSnapshot(self._environment.begin(), self._tables)

    def size_bytes(self) -> int:
        """See Store."""
        try:
            return os.stat(self.path / DATA_NAME).st_blocks * 512
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """See Store. Takes the lock file away: the data directory's own lock is what counts."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None
            (self.path / LOCK_NAME).unlink(missing_ok=True)


def _open(path: Path, tables_count: int) -> lmdb.Environment:
    size_bytes = MAP_BYTES
    while True:
        try:
            return lmdb.open(
                str(path),
                map_size=size_bytes,
                max_dbs=tables_count,
                max_readers=64,
                mode=0o600,
            )
        except lmdb.Error as error:
            if not _is_about_memory(error) or size_bytes <= MAP_BYTES_SMALLEST:
                raise
            size_bytes //= 4


def _is_about_memory(error: lmdb.Error) -> bool:
    return isinstance(error, lmdb.MemoryError) or os.strerror(errno.ENOMEM) in str(error)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@final
class LmdbSnapshot:
    """A read transaction."""

    def __init__(self, transaction: lmdb.Transaction, tables: dict[str, Any]) -> None:
        self._transaction = transaction
        self._tables = tables
        self._closed = False

    def get(self, table: str, key: bytes) -> bytes | None:
        """See Snapshot."""
        value = self._transaction.get(key, db=self._tables[table])
        return value if value is None else bytes(value)

    def scan(self, table: str, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See Snapshot."""
        with self._transaction.cursor(db=self._tables[table]) as cursor:
            if not cursor.set_range(start):
                return
            for key, value in cursor:
                if bytes(key) >= stop:
                    return
                yield bytes(key), bytes(value)

    def close(self) -> None:
        """See Snapshot."""
        if not self._closed:
            self._closed = True
            self._transaction.abort()


@final
class MemoryStore:
    """A store in memory, for tests.

    `fail_next` makes the next commit raise CheckpointFailure without effect.
    """

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes]] = {}
        self.commits_count = 0
        self.fail_next = False

    def commit(self, writes: Iterable[Write]) -> None:
        """See Store."""
        changed = {table: dict(rows) for table, rows in self.tables.items()}
        for table, key, value in writes:
            assert len(key) <= KEY_BYTES_MAX, "the real store would refuse this key"
            rows = changed.setdefault(table, {})
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
        if self.fail_next:
            self.fail_next = False
            raise CheckpointFailure("memory", "cannot be written", OSError(errno.EIO, "asked to"))
        self.tables = changed
        self.commits_count += 1

    def snapshot(self) -> "MemorySnapshot":
        """See Store."""
        return MemorySnapshot(self.tables)

    def size_bytes(self) -> int:
        """See Store."""
        return sum(
            len(key) + len(value) for rows in self.tables.values() for key, value in rows.items()
        )

    def close(self) -> None:
        """See Store."""


@final
class MemorySnapshot:
    """The tables of one commit; commits replace them and never change them."""

    def __init__(self, tables: dict[str, dict[bytes, bytes]]) -> None:
        self._tables = tables
        self._sorted: dict[str, list[bytes]] = {}

    def get(self, table: str, key: bytes) -> bytes | None:
        """See Snapshot."""
        return self._tables.get(table, {}).get(key)

    def scan(self, table: str, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See Snapshot."""
        rows = self._tables.get(table, {})
        keys = self._sorted.setdefault(table, sorted(rows))
        for index in range(bisect.bisect_left(keys, start), len(keys)):
            if keys[index] >= stop:
                return
            yield keys[index], rows[keys[index]]

    def close(self) -> None:
        """See Snapshot."""
