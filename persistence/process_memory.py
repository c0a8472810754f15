"""Giving memory back to the system: mapped pages, and what the allocator keeps for later.

Pages of a mapped file that were read count as the process's memory until the system needs them
elsewhere. To stay small, the server gives them back before that. They stay in the page cache, and
reading them again costs a fraction of a microsecond each. Where the system offers no way (anything
but Linux), nothing happens.
"""

import ctypes
import os
import resource
from pathlib import Path
from typing import Final

_MADV_DONTNEED: Final = 4
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_MAPS: Final = Path("/proc/self/maps")
_STATM: Final = Path("/proc/self/statm")

Range = tuple[int, int]
"""Where a map begins, and how many bytes it has."""


def mapped_ranges(path: Path) -> list[Range]:
    """Return where a file is mapped into this process."""
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return []  # this system does not say
    name = str(path.resolve())
    found = []
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == name:
            start, _, stop = fields[0].partition("-")
            found.append((int(start, 16), int(stop, 16) - int(start, 16)))
    return found


def release(ranges: list[Range]) -> None:
    """Give the pages of read-only maps of files back. What was read comes again from the file."""
    if not ranges:
        return
    library = ctypes.CDLL(None, use_errno=True)
    for start, size_bytes in ranges:
        # A refusal would leave memory used, and nothing else.
        library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size_bytes), _MADV_DONTNEED)


def file_bytes() -> int:
    """Return how much memory of this process is pages of files; 0 where the system does not say."""
    try:
        return int(_STATM.read_text().split()[2]) * _PAGE_BYTES
    except OSError:
        return 0


def headroom_bytes() -> int | None:
    """Return how much more address space this process may have, or None if unlimited."""
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit_bytes == resource.RLIM_INFINITY:
        return None
    try:
        return limit_bytes - int(_STATM.read_text().split()[0]) * _PAGE_BYTES
    except OSError:
        return None


def trim_heap() -> None:
    """Make the allocator give back the memory it keeps for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
