"""The directory of an execution, with whatever its function put there: measured, and emptied.

The function may still be there and change what is looked at, and the node has more rights than it.
So nothing here uses a path. Every folder is opened by its name in one that is open already, never
through a link, and permissions are changed only of what is open. An entry that has been replaced in
between is an error, or not counted. Nothing outside is ever touched or read.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .limits import DISK_DEPTH_LIMIT_COUNT

_BLOCK_BYTES: Final = 512
_OWNER_ONLY: Final = 0o700
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_PLACE: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
"""To go through a folder, or to change its rights, without the right to read it."""
_REPLACED: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))
"""A folder that was listed is gone, or something else has its name now."""


def exceeds(directory: Path, limit_bytes: int, limit_count: int) -> bool:
    """Return whether a directory has more bytes or entries than allowed; looks until it knows.

    What cannot be looked at, a folder too deep or closed to this user, counts as too large.
    """
    size_bytes = count = 0
    pending: list[tuple[str, ...]] = [()]
    with _opened(os.open(directory, _PLACE)) as top:
        while pending:
            parts = pending.pop()
            try:
                with _opened(_open_below(top, parts)) as folder, os.scandir(folder) as entries:
                    for entry in entries:
                        with contextlib.suppress(FileNotFoundError):
                            # What is removed at this moment does not count.
                            blocks = entry.stat(follow_symlinks=False).st_blocks
                            size_bytes += blocks * _BLOCK_BYTES
                        count += 1
                        if size_bytes > limit_bytes or count > limit_count:
                            return True
                        if entry.is_dir(follow_symlinks=False):
                            if len(parts) == DISK_DEPTH_LIMIT_COUNT:
                                return True
                            pending.append((*parts, entry.name))
            except OSError as error:
                if error.errno not in _REPLACED:
                    return True
    return False


def empty(directory: Path, limit_count: int | None = None) -> None:
    """Remove everything in a directory. Raises OSError, also if it changes while that is done.

    With a `limit_count` it gives up when there are more entries, so that a function that makes new
    ones all the time does not keep it. Every folder is moved to the top before it is emptied, so
    none is ever deep.
    """
    # Names that the function cannot have used.
    prefix = secrets.token_hex(16)
    with _opened(_open_folder(directory)) as top:
        pending = _clear(top, prefix)
        moved_count = removed_count = 0
        while pending:
            name = pending.pop()
            moved_count += 1
            with _opened(_open_folder(name, top)) as folder:
                pending += _clear(folder, f"{prefix}-{moved_count}", top)
            os.rmdir(name, dir_fd=top)
            removed_count += 1
            if limit_count is not None and removed_count + len(pending) > limit_count:
                raise OSError(errno.EBUSY, "it has too many folders, or keeps getting new ones")


def _clear(folder: int, prefix: str, top: int | None = None) -> list[str]:
    """Remove a folder's files and move its folders to the top; return their new names."""
    moved: list[str] = []
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
            continue
        # Without it, a folder that its owner closed to himself cannot be moved.
        os.close(_open_folder(name, folder))
        new_name = f"{prefix}-{len(moved)}"
        os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=folder if top is None else top)
        moved.append(new_name)
    return moved


def _open_folder(name: str | Path, parent: int | None = None) -> int:
    """Open a folder, and give its owner all rights to it: to what is open, whatever its name is.

    Raises OSError, also if it is a link.
    """
    try:
        opened = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        # Closed to its owner, who this is: opened without any rights, and named by that.
        with _opened(os.open(name, _PLACE, dir_fd=parent)) as place:
            os.chmod(f"/proc/self/fd/{place}", _OWNER_ONLY)
            return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fchmod(opened, _OWNER_ONLY)
    except BaseException:
        os.close(opened)
        raise
    return opened


def _open_below(top: int, parts: tuple[str, ...]) -> int:
    """Open a folder below another one, by the names on the way; none may be a link now."""
    place = os.dup(top)
    for part in parts:
        with _opened(place):
            place = os.open(part, _PLACE, dir_fd=place)
    with _opened(place):
        return os.open(".", _FOLDER, dir_fd=place)


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
