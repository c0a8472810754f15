"""An ordered key-value store with atomic, synced commits: what checkpoints are kept in.

`LmdbStore` is one LMDB environment with one named database a table. It keeps what `port.py`
promises, and every commit brings the digests of the tables up to date (`digests.py`). Tests have an
in-memory twin whose commits can fail.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Any, Final, final

import lmdb

from troth.persistence import process_memory
from troth.persistence.errors import CheckpointDamaged, CheckpointFailed, DataDirectoryLost
from troth.persistence.shortage import SHORTAGES, opening

from . import digests
from .digests import Digest
from .port import AFTER_ALL, Rows, View, Write

MAP_BYTES: Final = 1 << 40
"""Address space for the store, not disk: a disk fills up long before this does."""

MAP_BYTES_SMALLEST: Final = 64 << 20
"""Where address space is limited, smaller maps are tried down to this."""

DATA_NAME: Final = "data.mdb"
LOCK_NAME: Final = "lock.mdb"
"""The names of LMDB's files."""

_MAP_UNIT_BYTES: Final = 1 << 20

KEY_BYTES_MAX: Final = 511
"""LMDB's limit for a key."""


@final
class LmdbStore:
    """The store in an LMDB environment in the directory `path`; the first commit makes it.

    Raises CheckpointFailed when the environment cannot be opened, and CheckpointDamaged when its
    files are not a store; reading raises CheckpointDamaged when LMDB reports corruption.

    LMDB opens a path, which may belong to another directory by then. `check` is called before, and
    raises DataDirectoryLost in that case.
    """

    def __init__(
        self,
        path: Path,
        tables: tuple[str, ...],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        assert digests.TABLE not in tables, "the store writes the table of digests itself"
        self.path = path
        self._names = (*tables, digests.TABLE)
        self._check_place = check
        self._identity: tuple[int, int] | None = None
        self._tables: dict[str, Any] = {}
        self._environment: lmdb.Environment | None = None
        self.keeps_lock = False
        """Whether `close` leaves the lock file: another process has the store open, too."""
        # Views are opened and closed in several threads, and the environment must stay open as
        # long as one of them is.
        self._lock = threading.Lock()
        self._views_count = 0
        self._has_committed = False
        self._ranges: list[process_memory.Range] = []
        if (path / DATA_NAME).exists():
            self._open()

    @property
    def identity(self) -> tuple[int, int] | None:
        """The device and the number of the file that is open; None if there was none yet."""
        return self._identity

    def _open(self) -> lmdb.Environment:
        self._check_place()
        is_new = self._identity is None
        try:
            self.path.mkdir(exist_ok=True)
            environment = opening(lambda: _open(self.path, len(self._names)), _is_about_descriptors)
            self._identity = _identity(self.path / DATA_NAME)
            self._tables = {name: environment.open_db(name.encode()) for name in self._names}
            if is_new:
                _sync_directory(self.path)
                _sync_directory(self.path.parent)
        except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
            raise CheckpointDamaged(DATA_NAME, f"it is not a store ({error})") from error
        except (lmdb.Error, OSError) as error:
            raise CheckpointFailed(str(self.path), "cannot be opened", error) from error
        self._environment = environment
        self._ranges = process_memory.mapped_ranges(self.path / DATA_NAME)
        return environment

    def prepare(self) -> None:
        """Map the store now if address space is limited: later there may be too little of it."""
        if self._environment is None and _is_limited():
            self._open()

    def check(self) -> None:
        """Raise DataDirectoryLost unless the store is still what its path names. Any thread."""
        self._check_place()
        if self._identity is not None and _identity(self.path / DATA_NAME) != self._identity:
            raise DataDirectoryLost(str(self.path))

    def catch_up(self) -> None:
        """Open the store if another process has made it. Raises what a commit raises."""
        if self._environment is None:
            self._open()

    def commit(self, writes: Iterable[Write]) -> None:
        """See Store. The commit syncs the data before the page that makes it current.

        Raises MemoryError if there is too little memory to begin; it may be tried again then.
        """
        environment = self._environment or self._open()
        self._has_committed = True
        try:
            self.check()
            environment.reader_check()  # or a process that was killed would keep old pages in use
            with environment.begin(write=True) as transaction:
                try:
                    self._write(transaction, writes)
                except lmdb.MemoryError as error:
                    raise MemoryError(str(error)) from error  # nothing of it stays
        except (lmdb.Error, OSError) as error:
            raise CheckpointFailed(str(self.path), "cannot be written", error) from error

    def _write(self, transaction: lmdb.Transaction, writes: Iterable[Write]) -> None:
        tables = self._tables
        view = LmdbView(transaction, tables)
        changed: dict[str, Digest] = {}
        put, pop, replace = transaction.put, transaction.pop, transaction.replace
        last_table, database = "", None
        for one in writes:
            if isinstance(one, Rows):
                if one.table not in changed:
                    changed[one.table] = digests.read(view, one.table)
                _put_all(transaction, tables[one.table], one, changed[one.table])
                continue
            table, key, value = one
            if table is not last_table:
                if table not in changed:
                    changed[table] = digests.read(view, table)
                last_table, digest, database = table, changed[table], tables[table]
                add_to_digest = digest.add
            if value is None:
                # Most of what is to go from the tables of live entities was never there.
                old = pop(key, db=database) if digest.count else None
            elif put(key, value, overwrite=False, db=database):
                old = None
            else:
                old = replace(key, value, db=database)
            if old is not None:
                digest.remove(key, bytes(old))
            if value is not None:
                add_to_digest(key, value)
        for table, digest in changed.items():
            put(table.encode(), digest.encode(), db=tables[digests.TABLE])

    def view(self) -> View:
        """See Store."""
        with self._lock:
            if self._environment is None:
                return _NoView()
            transaction = self._environment.begin()
            self._views_count += 1
        return LmdbView(transaction, self._tables, self)

    def closed_view(self) -> None:
        """Note that a view was closed; for LmdbView."""
        with self._lock:
            self._views_count -= 1

    def release_pages(self) -> None:
        """Give back the memory that reading has drawn in; any thread, at any time."""
        process_memory.release(self._ranges)

    def release_memory(self) -> None:
        """See Store.

        LMDB keeps the memory of a commit's pages for the next one, as many as the largest commit
        had, until the environment is closed. So it is closed and opened; not where something else
        could take the address space in between.
        """
        if self._has_committed and not _is_limited():
            with self._lock:
                if self._environment is not None and self._views_count == 0:
                    self._environment.close()
                    self._open()
                    self._has_committed = False
        # Each look at what another process has committed draws in a few pages that are new, with
        # those around them: in time all of the file.
        if self._environment is not None:
            self.release_pages()

    def size_bytes(self) -> int:
        """See Store."""
        try:
            return os.stat(self.path / DATA_NAME).st_blocks * 512
        except FileNotFoundError:
            return 0

    def leave(self) -> None:
        """Close the files, and take nothing away: another process has the store open."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None
            self._ranges = []

    def close(self) -> None:
        """See Store. Takes the lock file away: the data directory's own lock is what counts."""
        if self._environment is not None:
            self.leave()
            if self.keeps_lock:
                return
            # What is there now has a lock of its own; and on a disk that refuses it, a lock file
            # that stays does no harm, while an error would spoil the server's clean stop.
            with suppress(DataDirectoryLost, OSError):
                self.check()
                (self.path / LOCK_NAME).unlink()


def _put_all(transaction: lmdb.Transaction, database: Any, some: Rows, digest: Digest) -> None:
    """Put rows, most of them new, and bring the table's digest up to date."""
    keys, values = some.keys, some.values
    with transaction.cursor(db=database) as cursor:
        # Not to overwrite, which says whether a row was there.
        were_new = list(map(cursor.put, keys, values, repeat(True), repeat(False)))
    if not all(were_new):
        for key, value, was_new in zip(keys, values, were_new, strict=True):
            if not was_new:
                old = transaction.replace(key, value, db=database)
                assert old is not None, "it was there"
                digest.remove(key, bytes(old))
    digest.add_all(keys, values)


def _is_limited() -> bool:
    return process_memory.address_space_headroom_bytes() is not None


def map_bytes() -> int:
    """Return how much address space a store is given: a third of what there is, if limited."""
    headroom_bytes = process_memory.address_space_headroom_bytes()
    if headroom_bytes is None:
        return MAP_BYTES
    share_bytes = headroom_bytes // 3 // _MAP_UNIT_BYTES * _MAP_UNIT_BYTES
    return min(MAP_BYTES, max(MAP_BYTES_SMALLEST, share_bytes))


def _open(path: Path, tables_count: int) -> lmdb.Environment:
    size_bytes = map_bytes()
    while True:
        try:
            return lmdb.open(
                str(path),
                map_size=size_bytes,
                max_dbs=tables_count,
                max_readers=64,
                mode=0o600,
                readahead=False,
            )
        except lmdb.Error as error:
            if not _is_about_memory(error) or size_bytes <= MAP_BYTES_SMALLEST:
                raise
            size_bytes //= 4


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another of the same path, or None if there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _is_about_descriptors(error: Exception) -> bool:
    """Return whether the text of an LMDB error, which has no number, is of this kind."""
    texts = map(os.strerror, SHORTAGES - {errno.ENOMEM})  # smaller maps were tried already
    return isinstance(error, lmdb.Error) and any(text in str(error) for text in texts)


def _is_about_memory(error: lmdb.Error) -> bool:
    return isinstance(error, lmdb.MemoryError) or os.strerror(errno.ENOMEM) in str(error)


def _sync_directory(path: Path) -> None:
    descriptor = opening(lambda: os.open(path, os.O_RDONLY | os.O_DIRECTORY))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@final
class LmdbView:
    """A read transaction; `store` is told when it is over."""

    def __init__(
        self,
        transaction: lmdb.Transaction,
        tables: dict[str, Any],
        store: LmdbStore | None = None,
    ) -> None:
        self._transaction = transaction
        self._tables = tables
        self._store = store
        self._closed = False

    def get(self, table: str, key: bytes) -> bytes | None:
        """See View."""
        try:
            value = self._transaction.get(key, db=self._tables[table])
        except lmdb.Error as error:
            raise CheckpointDamaged(table, f"it cannot be read ({error})") from error
        return value if value is None else bytes(value)

    def scan(self, table: str, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See View."""
        try:
            with self._transaction.cursor(db=self._tables[table]) as cursor:
                if not cursor.set_range(start):
                    return
                every: Any = cursor  # of bytes, since the transaction is without buffers
                if stop >= AFTER_ALL:
                    yield from every
                    return
                for row in every:
                    if row[0] >= stop:
                        return
                    yield row
        except lmdb.Error as error:
            raise CheckpointDamaged(table, f"it cannot be read ({error})") from error

    def scan_back(self, table: str, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See View."""
        try:
            with self._transaction.cursor(db=self._tables[table]) as cursor:
                # The last key before `stop`: the one before the first that is not.
                if not (cursor.prev() if cursor.set_range(stop) else cursor.last()):
                    return
                for key, value in cursor.iterprev():
                    if bytes(key) < start:
                        return
                    yield bytes(key), bytes(value)
        except lmdb.Error as error:
            raise CheckpointDamaged(table, f"it cannot be read ({error})") from error

    def release_pages(self) -> None:
        """See View."""
        if self._store is not None:
            self._store.release_pages()

    def close(self) -> None:
        """See View."""
        if not self._closed:
            self._closed = True
            self._transaction.abort()
            if self._store is not None:
                self._store.closed_view()


@final
class _NoView:
    """The view of a closed store, which shows nothing."""

    def get(self, *_: object) -> None:
        """See View."""

    def scan(self, *_: object) -> Iterator[tuple[bytes, bytes]]:
        """See View."""
        return iter(())

    scan_back = scan

    def release_pages(self) -> None:
        """See View."""

    def close(self) -> None:
        """See View."""
