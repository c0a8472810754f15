"""The cluster's secret: a file that all nodes have a copy of, for the server's user alone.

Who has it can act as any node, so it must not be readable by others, and is long enough that it
cannot be guessed by who hears two nodes greet each other.
"""

import stat
from pathlib import Path
from typing import Final

from troth.shards.guard.trust import SECRET_LEAST_BYTES

SECRET_LIMIT_BYTES: Final = 4_096
_OTHERS: Final = 0o077
_HOW: Final = "make one with: (umask 077; openssl rand -hex 32 > FILE)"


class ClusterSecretRefused(Exception):
    """The cluster's secret cannot be used. `str()` is one line for the operator."""


def read_cluster_secret(file: Path) -> bytes:
    """Read the secret; a line break at its end is no part of it. Raises ClusterSecretRefused."""
    try:
        with file.open("rb") as opened:
            status = file.stat()
            content = opened.read(SECRET_LIMIT_BYTES + 1)
    except OSError as error:
        raise ClusterSecretRefused(f"{file}: cannot be read ({error.strerror}); {_HOW}") from error
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS:
        raise ClusterSecretRefused(
            f"{file}: others than its owner can use it (mode {mode:o}); chmod 600 {file}"
        )
    secret = content.rstrip(b"\r\n")
    if not SECRET_LEAST_BYTES <= len(secret) <= SECRET_LIMIT_BYTES:
        raise ClusterSecretRefused(
            f"{file}: a cluster's secret has {SECRET_LEAST_BYTES} to {SECRET_LIMIT_BYTES} bytes, "
            f"this one {len(secret)}; {_HOW}"
        )
    return secret
