"""The operator's key: a file in the data directory; any process that can read it may administer the
server.

`admin.key` holds 32 random bytes in hexadecimal, readable by the server's user alone. The server
makes it when there is none. It is not part of snapshots, so a restored directory gets a new one.
Nodes that share the groups of a cluster have the same one, which follows from their secret.
"""

import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Final

import structlog

from troth.persistence.errors import DataDirectoryError

FILE_NAME: Final = "admin.key"
_BYTES: Final = 32
_MODE: Final = 0o600
_OTHERS: Final = 0o077
_KEY: Final = re.compile(r"[0-9a-f]{64}\n?")
_log = structlog.get_logger("troth.http.operator_key")


class OperatorKeyError(DataDirectoryError):
    """The key cannot be read or made. `str()` is one line for the operator."""


def provide(directory: Path) -> str:
    """Read the key of a data directory that is locked for us; make it first if there is none.

    Raises OperatorKeyError.
    """
    path = directory / FILE_NAME
    try:
        if not path.exists():
            _make(path, new_key())
        mode = path.stat().st_mode
        if mode & _OTHERS:
            _log.warning("others could read the operator's key; now they cannot", file=str(path))
            path.chmod(mode & ~_OTHERS)
        return read(directory)
    except OSError as error:
        raise OperatorKeyError(f"{path}: cannot be read or made ({error.strerror}).") from error


def read(directory: Path) -> str:
    """Read the key. Raises OSError, or OperatorKeyError if the file holds something else."""
    path = directory / FILE_NAME
    text = path.read_text(encoding="ascii", errors="replace")
    if _KEY.fullmatch(text) is None:
        raise OperatorKeyError(
            f"{path}: holds something other than a key. Remove it; the server makes a new one."
        )
    return text.rstrip("\n")


def new_key() -> str:
    """Make a key of 256 random bits."""
    return secrets.token_hex(_BYTES)


def derived(secret: bytes, cluster: str) -> str:
    """Return the key of a cluster whose nodes have a secret."""
    return hmac.digest(secret, b"troth operator 1 " + cluster.encode(), "sha256").hex()


def put(directory: Path, key: str) -> None:
    """Write a key into a data directory that is locked for us. Raises OperatorKeyError."""
    path = directory / FILE_NAME
    try:
        if not path.exists() or provide(directory) != key:
            _make(path, key)
    except OSError as error:
        raise OperatorKeyError(f"{path}: cannot be made ({error.strerror}).") from error


def _make(path: Path, key: str) -> None:
    """Write the file under another name first, so that there is never half a key."""
    unfinished = path.with_suffix(".key.tmp")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
