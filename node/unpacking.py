"""How a node makes files of a function's package.

What is unpacked can do nothing but fill its own directory: `packages.py` has checked the names
and kinds, and counts the bytes while they are made.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from troth.core.grammar.packages import (
    DEFAULT_LIMITS,
    Package,
    PackageLimits,
    PackageRefused,
    file_pieces,
    read_package,
    too_large,
)


def unpack(package_path: Path, directory: Path, limits: PackageLimits = DEFAULT_LIMITS) -> Package:
    """Make the files of a package in `directory`, which is new: it is there whole or not at all.

    Files are readable for all and writable for their owner; of other permissions only that to be
    executed is kept. Raises PackageRefused, OSError, and FileExistsError if the directory exists.
    """
    if directory.exists():
        raise FileExistsError(f"{directory} exists already")
    if package_path.stat().st_size > limits.package_bytes:
        raise PackageRefused([too_large(limits)])
    package = read_package(package_path.read_bytes(), limits)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        for path in package.directories:
            (partial / path).mkdir(mode=0o755)
        for file in package.files:
            _write(partial / file.path, file_pieces(package.content, file), file.is_executable)
        partial.chmod(0o755)
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return package


def _write(path: Path, content: Iterator[bytes], is_executable: bool) -> None:
    mode = 0o755 if is_executable else 0o644
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        for piece in content:
            file.write(piece)
