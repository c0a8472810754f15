"""The file system as persistence uses it: a narrow port, and its real implementation.

Everything that touches a disk goes through `Files`, so that the same code runs on `RealFiles` and,
in tests, on `SimulatedFiles`. All calls are synchronous and may block; all raise `OSError`.
Paths are strings with `/`.

A directory may be renamed, replaced or deleted while it is in use. So the owner of the lock works
with `files.within(lock)`, which reaches the locked directory itself, whatever its name refers to by
then, and checks `lock.is_in_place` and `File.is_linked` before relying on the name again.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Hashable
from typing import Final, Protocol, Self, final

from .shortage import opening

LOCK_PATIENCE_S: Final = 0.5
"""How long to wait for a lock: a child that a killed process was starting may have it still."""

FILE_MODE = 0o600  # the log and the secret are for the server's user only
DIRECTORY_MODE = 0o700


class File(Protocol):
    """A file opened for writing at given offsets."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`; it is durable only after `sync`."""

    def sync(self) -> None:
        """Make all writes so far durable, and the file's size (fdatasync)."""

    def write_durably(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`, and make it durable: `write_at`, then `sync`.

        Earlier writes may not be durable yet.
        """

    def truncate(self, size_bytes: int) -> None:
        """Cut the file to `size_bytes`; durable after `sync`."""

    def is_linked(self) -> bool:
        """Tell whether the file still has a name: without one it ends with its last descriptor."""

    def close(self) -> None:
        """Release the file without syncing it; a second call does nothing."""


class FileLock(Protocol):
    """An exclusive lock, held until closed or until the process ends."""

    def is_in_place(self) -> bool:
        """Tell whether the locked directory is still what its path names."""

    def close(self) -> None:
        """Release the lock; a second call does nothing."""


class Files(Protocol):
    """The calls persistence makes on a file system."""

    def exists(self, path: str) -> bool:
        """Tell whether there is a file or directory of this name."""

    def is_directory(self, path: str) -> bool:
        """Tell whether there is a directory of this name."""

    def list_names(self, directory: str) -> list[str]:
        """Return the names in a directory, sorted."""

    def size(self, path: str) -> int:
        """Return a file's length in bytes."""

    def read(self, path: str) -> bytes:
        """Return a file's whole content."""

    def create(self, path: str) -> File:
        """Make a file that does not exist yet (else `FileExistsError`) and open it."""

    def open(self, path: str) -> File:
        """Open an existing file for writing."""

    def rename(self, source: str, target: str) -> None:
        """Give a file another name in the same directory, replacing what has that name."""

    def remove(self, path: str) -> None:
        """Remove a file's name."""

    def make_directory(self, path: str) -> None:
        """Make a directory whose parent exists."""

    def sync_directory(self, path: str) -> None:
        """Make all creations, renames and removals in a directory durable."""

    def identity(self, path: str) -> Hashable:
        """Return what tells a file or directory from any other that may have its path later."""

    def resolved(self, path: str) -> str:
        """Return an absolute path without symbolic links for a path."""

    def lock(self, directory: str) -> FileLock:
        """Lock a directory exclusively; raises `BlockingIOError` immediately if it is held."""

    def within(self, lock: FileLock) -> Self:
        """Return the same files, reaching what is in a locked directory through the lock."""


def lock_left(files: Files, directory: str) -> FileLock:
    """Lock a directory, also one whose owner was killed a moment ago. Blocks.

    A process that starts another one shares its locks with it until that one runs its program, and
    may be killed in between. Raises BlockingIOError if the lock is held for `LOCK_PATIENCE_S`, and
    OSError.
    """
    return opening(
        lambda: files.lock(directory),
        lambda error: isinstance(error, BlockingIOError),
        patience_s=LOCK_PATIENCE_S,
    )


class _Descriptor:
    """An open file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write_at(self, offset: int, data: bytes) -> None:
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):  # the kernel may write less, as at 2 GiB or on a full disk
            more = os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)
            if more == 0:
                raise OSError(errno.EIO, "the system wrote nothing and gave no reason")
            written += more

    def sync(self) -> None:
        _fdatasync(self._descriptor)

    def write_durably(self, offset: int, data: bytes) -> None:
        # One call instead of two: after each, a thread waits for the interpreter again.
        if _RWF_DSYNC:
            try:
                if os.pwritev(self._descriptor, [data], offset, _RWF_DSYNC) == len(data):
                    return
            except OSError as error:
                if error.errno not in _NO_SUCH_WRITE:
                    raise
        self.write_at(offset, data)
        self.sync()

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._descriptor, size_bytes)

    def is_linked(self) -> bool:
        return os.fstat(self._descriptor).st_nlink > 0

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


# macOS has no fdatasync; fsync promises at least as much.
_fdatasync = getattr(os, "fdatasync", os.fsync)
_RWF_DSYNC: Final[int] = getattr(os, "RWF_DSYNC", 0) if hasattr(os, "pwritev") else 0
_NO_SUCH_WRITE: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""What a kernel or a file system says that does not know the flag; nothing was written then."""


@final
class LockedDirectory(_Descriptor):
    """A descriptor of a directory that carries a flock: a `FileLock`."""

    def __init__(self, path: str, descriptor: int) -> None:
        super().__init__(descriptor)
        self.path = path

    @property
    def descriptor(self) -> int:
        """The open directory's descriptor; -1 after `close`."""
        return self._descriptor

    @classmethod
    def inherited(cls, path: str, descriptor: int) -> Self:
        """Return a lock that was taken by the process which started this one.

        It is held until all processes that have the descriptor have closed it.
        """
        return cls(path, descriptor)

    def is_in_place(self) -> bool:
        held = os.fstat(self._descriptor)
        try:
            named = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)


@final
class RealFiles:
    """The operating system's files."""

    def __init__(self, within: LockedDirectory | None = None) -> None:
        """Reach what is in the directory `within` through its descriptor, not by its path."""
        self._within = within

    def _place(self, path: str) -> tuple[str, int | None]:
        """Return a path and the descriptor of the directory that it begins in (None: as usual)."""
        within = self._within
        if within is None:
            return path, None
        if path == within.path:
            return ".", within.descriptor
        if path.startswith(f"{within.path}/"):
            return path[len(within.path) + 1 :], within.descriptor
        return path, None

    def _open(self, path: str, flags: int) -> int:
        name, place = self._place(path)
        return opening(lambda: os.open(name, flags | os.O_CLOEXEC, FILE_MODE, dir_fd=place))

    def _stat(self, path: str, *, follow_symlinks: bool = True) -> os.stat_result | None:
        name, place = self._place(path)
        try:
            return os.stat(name, dir_fd=place, follow_symlinks=follow_symlinks)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, path: str) -> bool:
        return self._stat(path, follow_symlinks=False) is not None

    def is_directory(self, path: str) -> bool:
        found = self._stat(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def list_names(self, directory: str) -> list[str]:
        descriptor = self._open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return sorted(os.listdir(descriptor))
        finally:
            os.close(descriptor)

    def size(self, path: str) -> int:
        name, place = self._place(path)
        return os.stat(name, dir_fd=place).st_size

    def read(self, path: str) -> bytes:
        with open(self._open(path, os.O_RDONLY), "rb") as file:
            return file.read()

    def create(self, path: str) -> File:
        return _Descriptor(self._open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))

    def open(self, path: str) -> File:
        return _Descriptor(self._open(path, os.O_WRONLY))

    def rename(self, source: str, target: str) -> None:
        name, place = self._place(source)
        target_name, target_place = self._place(target)
        os.replace(name, target_name, src_dir_fd=place, dst_dir_fd=target_place)

    def remove(self, path: str) -> None:
        name, place = self._place(path)
        os.unlink(name, dir_fd=place)

    def make_directory(self, path: str) -> None:
        name, place = self._place(path)
        os.mkdir(name, DIRECTORY_MODE, dir_fd=place)

    def sync_directory(self, path: str) -> None:
        descriptor = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def identity(self, path: str) -> Hashable:
        name, place = self._place(path)
        found = os.stat(name, dir_fd=place)
        return found.st_dev, found.st_ino

    def resolved(self, path: str) -> str:
        return os.path.realpath(path)

    def lock(self, directory: str) -> LockedDirectory:
        descriptor = self._open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return LockedDirectory(directory, descriptor)

    def within(self, lock: FileLock) -> "RealFiles":
        assert isinstance(lock, LockedDirectory), "locked by these files"
        return RealFiles(lock)
