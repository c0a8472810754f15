"""The file system as persistence uses it: a narrow port, and its real implementation.

Everything that touches a disk goes through `Files`, so that the same code runs on `RealFiles` and,
in tests, on `SimulatedFiles`. All calls are synchronous and may block; all raise `OSError`.
Paths are strings with `/`.
"""

import errno
import fcntl
import os
from typing import Protocol, final

FILE_MODE = 0o600  # the log and the secret are for the server's user only
DIRECTORY_MODE = 0o700


class File(Protocol):
    """A file opened for writing at given offsets."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`; it is durable only after `sync`."""

    def sync(self) -> None:
        """Make all writes so far durable, and the file's size (fdatasync)."""

    def truncate(self, size_bytes: int) -> None:
        """Cut the file to `size_bytes`; durable after `sync`."""

    def close(self) -> None:
        """Release the file without syncing it; a second call does nothing."""


class Lock(Protocol):
    """An exclusive lock, held until closed or until the process ends."""

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

    def lock(self, directory: str) -> Lock:
        """Lock a directory exclusively; raises `BlockingIOError` at once if it is held."""


@final
class _Descriptor:
    """An open file descriptor: a `File` or, when it carries a flock, a `Lock`."""

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

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._descriptor, size_bytes)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


# macOS has no fdatasync; fsync promises at least as much.
_fdatasync = getattr(os, "fdatasync", os.fsync)


@final
class RealFiles:
    """The operating system's files."""

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path)

    def list_names(self, directory: str) -> list[str]:
        return sorted(os.listdir(directory))

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def read(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def create(self, path: str) -> File:
        return _Descriptor(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))

    def open(self, path: str) -> File:
        return _Descriptor(os.open(path, os.O_WRONLY))

    def rename(self, source: str, target: str) -> None:
        os.replace(source, target)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def make_directory(self, path: str) -> None:
        os.mkdir(path, DIRECTORY_MODE)

    def sync_directory(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, directory: str) -> Lock:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return _Descriptor(descriptor)
