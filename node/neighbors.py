"""Servers on this machine that functions could take over: those of the user they run as.

A function that runs as the node's own user can read whatever that user can. If that user also runs
a server, this includes the operator's key, which gives access to all accounts. Only a node that
gives its functions users of their own is safe on a server's machine; see README.md.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .errors import NodeError

KEY_FILE: Final = "admin.key"
"""The operator's key in a server's data directory; see `http/identity/operator_key.py`."""
_DEFAULT_DIRECTORY: Final = "troth-data"
_DIRECTORY_VARIABLE: Final = "TROTH_DATA"
_LEVELS_COUNT: Final = 3
"""A server's open files are its data directory, or lie at most two folders deep in it."""


def refuse_beside_a_server() -> None:
    """Raise NodeError if a server's key can be read here."""
    for key in readable_keys():
        raise NodeError(
            f"functions would run as this user and could read {key}, a server's key, which gives "
            "access to all of its accounts. Start the node as root or as a user who runs no "
            "server, best on another machine or in a container. If all functions that run here are "
            "your own, use --trust-functions"
        )


def readable_keys() -> Iterator[Path]:
    """Yield the keys this user can read: of servers that run here, and of the usual directory."""
    usual = (os.environ.get(_DIRECTORY_VARIABLE), _DEFAULT_DIRECTORY)
    directories = (("", Path(one).absolute()) for one in usual if one)
    seen: set[Path] = set()
    for root, directory in (*directories, *_directories_in_use()):
        key = directory / KEY_FILE
        if key not in seen and os.access(f"{root}{key}", os.R_OK, effective_ids=True):
            seen.add(key)
            yield key


def _directories_in_use() -> Iterator[tuple[str, Path]]:
    """Yield the directories near what processes of this user have open, and where they see them."""
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            # It has ended, or is not this user's.
            for descriptor in os.listdir(f"/proc/{name}/fd"):
                with contextlib.suppress(OSError):
                    # It has been closed.
                    target = os.readlink(f"/proc/{name}/fd/{descriptor}")
                    if target.startswith("/") and not target.startswith("/dev/"):
                        near = (Path(target), *Path(target).parents[: _LEVELS_COUNT - 1])
                        # It may be in a container, with another root.
                        yield from ((f"/proc/{name}/root", directory) for directory in near)
