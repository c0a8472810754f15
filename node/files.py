"""The directory of a task, which holds whatever a function made of it: measured, and emptied.

Neither follows a link, and neither is bothered by a tree that is deeper than a path can be long.
"""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

_BLOCK_BYTES: Final = 512


def exceeds(directory: Path, limit_bytes: int, limit_count: int) -> bool:
    """Whether more bytes or entries than allowed are in a directory; looks only until it knows.

    A tree too deep to be looked at counts as too large.
    """
    size_bytes = count = 0
    pending = [os.fspath(directory)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        # What is removed meanwhile does not count.
                        size_bytes += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
                    count += 1
                    if size_bytes > limit_bytes or count > limit_count:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            # Removed, replaced or locked by the function at this moment.
            continue
        except OSError:
            return True
    return False


def empty(directory: Path) -> None:
    """Remove everything in a directory that nobody uses any more. Raises OSError.

    Every folder is moved to the top before it is emptied, so none is ever deep.
    """
    directory.chmod(0o700)
    # Names that the function cannot have used.
    prefix = secrets.token_hex(16)
    top = os.open(directory, os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        pending = _clear(top, ".", prefix)
        moved_count = 0
        while pending:
            name = pending.pop()
            moved_count += 1
            pending += _clear(top, name, f"{prefix}-{moved_count}")
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _clear(top: int, folder: str, prefix: str) -> list[str]:
    """Remove a folder's files and move its folders to the top; their new names."""
    moved: list[str] = []
    opened = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    try:
        with os.scandir(opened) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_folder in found:
            if not is_folder:
                os.unlink(name, dir_fd=opened)
                continue
            # Without it, a folder of one's own can be closed to oneself.
            os.chmod(name, 0o700, dir_fd=opened)
            new_name = f"{prefix}-{len(moved)}"
            os.rename(name, new_name, src_dir_fd=opened, dst_dir_fd=top)
            moved.append(new_name)
    finally:
        os.close(opened)
    return moved
