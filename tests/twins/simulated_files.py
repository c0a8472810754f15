"""A file system in memory that can crash, tear, fail, fill up and rot: the twin of `RealFiles`.

It keeps what has been synced apart from what has only been written. `crash(random)` returns the
file system a machine might find after losing power: what was synced is there; of everything else,
any part may be. Deterministic: the same calls and the same `Random` give the same bytes.
"""

import errno
import os
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple, final

from troth.persistence.files import FileLock

SECTOR_BYTES = 512

MUTATIONS: Final = (
    "create",
    "write_at",
    "sync",
    "truncate",
    "rename",
    "remove",
    "make_directory",
    "sync_directory",
)


class SimulatedCrash(Exception):
    """The machine has lost power: no call on this file system works any more."""


class _Write(NamedTuple):
    offset: int
    data: bytes


class _Truncate(NamedTuple):
    size_bytes: int


@dataclass(slots=True, eq=False)
class _Content:
    """A file: its bytes as programs see them, as the disk has them, and the changes between."""

    current: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    unsynced: list[_Write | _Truncate] = field(default_factory=list)
    doubtful: list[_Write | _Truncate] = field(default_factory=list)  # after a failed sync


@dataclass(slots=True, eq=False)
class _Directory:
    """A directory: its names now, on disk, and the changes between, each a set of new entries."""

    current: "dict[str, _Content | _Directory]" = field(default_factory=dict)
    durable: "dict[str, _Content | _Directory]" = field(default_factory=dict)
    unsynced: "list[dict[str, _Content | _Directory | None]]" = field(default_factory=list)


@dataclass(slots=True)
class _Fault:
    operation: str
    skip_count: int
    error: int
    path_part: str


def _apply(content: bytearray, change: _Write | _Truncate) -> None:
    if isinstance(change, _Truncate):
        if change.size_bytes < len(content):
            del content[change.size_bytes :]
        else:
            content.extend(bytes(change.size_bytes - len(content)))
        return
    if change.offset > len(content):
        content.extend(bytes(change.offset - len(content)))
    content[change.offset : change.offset + len(change.data)] = change.data


@final
class SimulatedFiles:
    """`Files` in memory. Paths are absolute; `/` exists."""

    def __init__(self, capacity_bytes: int | None = None) -> None:
        """Make a file system that is full when its files hold `capacity_bytes` together."""
        self.capacity_bytes = capacity_bytes
        self.operations_count = 0  # mutations so far, also failed ones
        self.crash_before_operation: int | None = None  # lose power in this one, counted from 1
        self.history: list[tuple[str, str]] = []  # (operation, path), for messages of tests
        self._root = _Directory()
        self._faults: list[_Fault] = []
        self._locks: set[str] = set()
        self._crashed = False

    # What tests do to it.

    def fail(
        self, operation: str, error: int = errno.EIO, *, skip_count: int = 0, path_part: str = ""
    ) -> None:
        """Plan a failure of a later `operation` on a path with `path_part`, after skipping some."""
        assert operation in (*MUTATIONS, "read")
        self._faults.append(_Fault(operation, skip_count, error, path_part))

    def flip_bit(self, path: str, offset: int, bit: int) -> None:
        """Flip a bit of a file at rest; all of it is durable then."""
        self.overwrite(path, offset, bytes([self._file(path).current[offset] ^ 1 << bit]))

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory, as an operator may do."""
        assert not self.list_names(path)
        parent, name = self._parent(path)
        _change(parent, {name: None})

    def overwrite(self, path: str, offset: int, data: bytes) -> None:
        """Replace bytes of a file at rest: all of it is durable then."""
        content = self._file(path)
        content.unsynced.clear()
        _apply(content.current, _Write(offset, data))
        content.durable = bytes(content.current)

    def end_process(self) -> None:
        """Release all locks, as the end of the process that holds them does (`kill -9`)."""
        self._locks.clear()

    def contents(self) -> dict[str, bytes | None]:
        """Return every path with its content as programs see it; None for a directory."""
        return dict(self._walk(self._root, ""))

    def used_bytes(self) -> int:
        """Return how much of the capacity is used."""
        return sum(len(content or b"") for content in self.contents().values())

    def crash(self, random: Random, chance: float | None = None) -> "SimulatedFiles":
        """Return what the disk may hold after losing power now; this object is left as it is.

        `chance` is how much of the unsynced survives, from 0 to 1. Unless given, it is drawn once
        for the whole disk (all, nothing, or anything), so that the extremes are met often.
        """
        survivor = SimulatedFiles(self.capacity_bytes)
        if chance is None:
            chance = random.choice((0.0, 0.5, 1.0, random.random()))
        survivor._root = _survivor(self._root, random, chance)
        return survivor

    # What persistence does with it.

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    def is_directory(self, path: str) -> bool:
        return isinstance(self._find(path), _Directory)

    def list_names(self, directory: str) -> list[str]:
        return sorted(self._directory(directory).current)

    def size(self, path: str) -> int:
        return len(self._file(path).current)

    def read(self, path: str) -> bytes:
        self._raise_fault("read", path)
        return bytes(self._file(path).current)

    def create(self, path: str) -> "SimulatedFile":
        self._begin("create", path)
        parent, name = self._parent(path)
        if name in parent.current:
            raise _error(errno.EEXIST, path)
        content = _Content()
        _change(parent, {name: content})
        self._crash_point()
        return SimulatedFile(self, path, content)

    def open(self, path: str) -> "SimulatedFile":
        return SimulatedFile(self, path, self._file(path))

    def rename(self, source: str, target: str) -> None:
        self._begin("rename", source)
        parent, name = self._parent(source)
        target_parent, target_name = self._parent(target)
        assert parent is target_parent, "only renames within a directory are modelled"
        _change(parent, {name: None, target_name: self._file(source)})
        self._crash_point()

    def remove(self, path: str) -> None:
        self._begin("remove", path)
        self._file(path)
        parent, name = self._parent(path)
        _change(parent, {name: None})
        self._crash_point()

    def make_directory(self, path: str) -> None:
        self._begin("make_directory", path)
        parent, name = self._parent(path)
        if name in parent.current:
            raise _error(errno.EEXIST, path)
        _change(parent, {name: _Directory()})
        self._crash_point()

    def sync_directory(self, path: str) -> None:
        self._begin("sync_directory", path)
        self._crash_point()
        directory = self._directory(path)
        directory.durable = dict(directory.current)
        directory.unsynced.clear()

    def lock(self, directory: str) -> "SimulatedLock":
        self._directory(directory)
        if directory in self._locks:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), directory)
        self._locks.add(directory)
        return SimulatedLock(self, self._locks, directory)

    def identity(self, path: str) -> Hashable:
        found = self._find(path)
        if found is None:
            raise _error(errno.ENOENT, path)
        return id(found)

    def resolved(self, path: str) -> str:
        return path.rstrip("/") or "/"

    def within(self, lock: FileLock) -> "SimulatedFiles":
        assert isinstance(lock, SimulatedLock), "locked by these files"
        return self

    # Of the open files.

    def _is_linked(self, content: _Content, directory: _Directory | None = None) -> bool:
        for entry in (directory or self._root).current.values():
            if entry is content:
                return True
            if isinstance(entry, _Directory) and self._is_linked(content, entry):
                return True
        return False

    def _write(self, path: str, content: _Content, offset: int, data: bytes) -> None:
        """Write what fits; an error may leave half of it written, as on a real disk."""
        try:
            self._begin("write_at", path)
        except OSError:
            self._write_unchecked(content, offset, data[: len(data) // 2])
            raise
        growth = max(0, offset + len(data) - len(content.current))
        free = growth if self.capacity_bytes is None else self.capacity_bytes - self.used_bytes()
        if growth > free:
            self._write_unchecked(content, offset, data[: max(0, len(data) - growth + free)])
            raise _error(errno.ENOSPC, path)
        self._write_unchecked(content, offset, data)
        self._crash_point()

    def _write_unchecked(self, content: _Content, offset: int, data: bytes) -> None:
        change = _Write(offset, data)
        _apply(content.current, change)
        content.unsynced.append(change)

    def _sync(self, path: str, content: _Content) -> None:
        try:
            self._begin("sync", path)
        except OSError:
            # As Linux does: the pages are marked clean although they may not have been written. A
            # later sync does not write them; what programs read is still the new content.
            content.doubtful += content.unsynced
            content.unsynced.clear()
            raise
        self._crash_point()
        durable = bytearray(content.durable)
        for change in content.unsynced:
            _apply(durable, change)
        content.durable = bytes(durable)
        content.unsynced.clear()
        content.doubtful.clear()  # now they are lost: the worst case, which retrying syncs hides

    def _truncate(self, path: str, content: _Content, size_bytes: int) -> None:
        self._begin("truncate", path)
        change = _Truncate(size_bytes)
        _apply(content.current, change)
        content.unsynced.append(change)
        self._crash_point()

    # Inside.

    def _begin(self, operation: str, path: str) -> None:
        """Count a mutation and raise what has been ordered for it."""
        if self._crashed:
            raise SimulatedCrash
        self.operations_count += 1
        self.history.append((operation, path))
        self._raise_fault(operation, path)

    def _crash_point(self) -> None:
        """Lose power in the middle of the operation that has just been noted as unsynced."""
        if self.operations_count == self.crash_before_operation:
            self._crashed = True
            raise SimulatedCrash

    def _raise_fault(self, operation: str, path: str) -> None:
        for fault in self._faults:
            if fault.operation == operation and fault.path_part in path:
                if fault.skip_count == 0:
                    self._faults.remove(fault)
                    raise _error(fault.error, path)
                fault.skip_count -= 1

    def _find(self, path: str) -> _Content | _Directory | None:
        assert path.startswith("/"), "simulated paths are absolute"
        found: _Content | _Directory | None = self._root
        for name in filter(None, path.split("/")):
            if not isinstance(found, _Directory):
                return None
            found = found.current.get(name)
        return found

    def _file(self, path: str) -> _Content:
        found = self._find(path)
        if not isinstance(found, _Content):
            raise _error(errno.ENOENT if found is None else errno.EISDIR, path)
        return found

    def _directory(self, path: str) -> _Directory:
        found = self._find(path)
        if not isinstance(found, _Directory):
            raise _error(errno.ENOENT if found is None else errno.ENOTDIR, path)
        return found

    def _parent(self, path: str) -> tuple[_Directory, str]:
        parent, _, name = path.rpartition("/")
        return self._directory(parent or "/"), name

    def _walk(self, directory: _Directory, path: str) -> Iterator[tuple[str, bytes | None]]:
        for name, entry in sorted(directory.current.items()):
            if isinstance(entry, _Directory):
                yield f"{path}/{name}", None
                yield from self._walk(entry, f"{path}/{name}")
            else:
                yield f"{path}/{name}", bytes(entry.current)


@final
class SimulatedFile:
    """An open file of `SimulatedFiles`."""

    def __init__(self, files: SimulatedFiles, path: str, content: _Content) -> None:
        self._files = files
        self._path = path
        self._content = content
        self._open = True

    def write_at(self, offset: int, data: bytes) -> None:
        self._check_open()
        self._files._write(self._path, self._content, offset, data)

    def sync(self) -> None:
        self._check_open()
        self._files._sync(self._path, self._content)

    def truncate(self, size_bytes: int) -> None:
        self._check_open()
        self._files._truncate(self._path, self._content, size_bytes)

    def write_durably(self, offset: int, data: bytes) -> None:
        self.write_at(offset, data)
        self.sync()

    def is_linked(self) -> bool:
        self._check_open()
        return self._files._is_linked(self._content)

    def close(self) -> None:
        self._open = False

    def _check_open(self) -> None:
        if not self._open:
            raise _error(errno.EBADF, self._path)


@final
class SimulatedLock:
    """A held lock of `SimulatedFiles`."""

    def __init__(self, files: SimulatedFiles, locks: set[str], directory: str) -> None:
        self._files = files
        self._identity = files.identity(directory)
        self._locks = locks
        self._directory = directory

    def is_in_place(self) -> bool:
        found = self._files.exists(self._directory)
        return found and self._files.identity(self._directory) == self._identity

    def close(self) -> None:
        self._locks.discard(self._directory)


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)  # Python picks the subclass by the number


def _change(directory: _Directory, entries: "dict[str, _Content | _Directory | None]") -> None:
    directory.unsynced.append(entries)
    _change_entries(directory.current, entries)


def _change_entries(
    current: "dict[str, _Content | _Directory]",
    entries: "dict[str, _Content | _Directory | None]",
) -> None:
    for name, entry in entries.items():
        if entry is None:
            current.pop(name, None)
        else:
            current[name] = entry


def _survivor(directory: _Directory, random: Random, chance: float) -> _Directory:
    """Return what is left of a directory: each unsynced change of names survives by chance."""
    entries = dict(directory.durable)
    for change in directory.unsynced:
        if random.random() < chance:
            _change_entries(entries, change)
    survived: dict[str, _Content | _Directory] = {}
    for name, entry in entries.items():
        if isinstance(entry, _Directory):
            survived[name] = _survivor(entry, random, chance)
        else:
            durable = _surviving_content(entry, random, chance)
            survived[name] = _Content(bytearray(durable), durable)
    return _Directory(survived, dict(survived))


def _surviving_content(content: _Content, random: Random, chance: float) -> bytes:
    """Return what is left of a file: unsynced changes survive by chance, whole, cut or in parts."""
    result = bytearray(content.durable)
    for change in content.doubtful + content.unsynced:
        if isinstance(change, _Truncate):
            if random.random() < chance:
                _apply(result, change)
            continue
        kind = random.choice(("whole", "cut", "sectors"))
        if kind == "whole" and random.random() < chance:
            _apply(result, change)
        elif kind == "cut":
            length = int(len(change.data) * min(1.0, random.random() + chance - 0.5))
            _apply(result, _Write(change.offset, change.data[: max(0, length)]))
        elif kind == "sectors":
            for part in _sectors(change):
                if random.random() < chance:
                    _apply(result, part)
    return bytes(result)


def _sectors(write: _Write) -> Iterator[_Write]:
    """Split a write where the disk's sectors meet."""
    start = 0
    while start < len(write.data):
        end = SECTOR_BYTES * ((write.offset + start) // SECTOR_BYTES + 1) - write.offset
        yield _Write(write.offset + start, write.data[start:end])
        start = end
