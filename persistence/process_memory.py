"""Memory of this process: how much it may have, and giving back what it does not need.

Pages of a mapped file that were read count as the process's memory until the system needs them
elsewhere. To stay small, the server gives them back before that. They stay in the page cache, and
reading them again costs a fraction of a microsecond each. Where the system offers no way (anything
but Linux), nothing happens.

What a process may have is limited by its address space and its data (`ulimit -v`, `ulimit -d`), by
the memory of its control groups, and by that of the machine.
"""

import ctypes
import os
import resource
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

_MADV_DONTNEED: Final = 4
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_MAPS: Final = Path("/proc/self/maps")
_STATM: Final = Path("/proc/self/statm")
_STATM_BYTES: Final = 256
_MEMINFO: Final = Path("/proc/meminfo")
_CONTROL_GROUPS: Final = Path("/proc/self/cgroup")
_CONTROL_GROUP_FILES: Final = Path("/sys/fs/cgroup")
_LIMIT_NAMES: Final[tuple[str, ...]] = ("memory.max", "memory.high")
_LIMIT_NAMES_OLD: Final[tuple[str, ...]] = ("memory.limit_in_bytes",)
_USAGE_NAMES: Final = {
    _LIMIT_NAMES: ("memory.current", "file"),
    _LIMIT_NAMES_OLD: ("memory.usage_in_bytes", "total_cache"),
}
"""In which file a group says what it has, and under which name what of that are pages of files."""
_M_ARENA_MAX: Final = -8
_STACK_BYTES: Final = 2 << 20
"""Of a thread, where address space is limited; usual are 8 MiB."""

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


def _pages() -> list[int]:
    """Return the numbers of `statm`, as fast as can be: each large body asks. Raises OSError."""
    descriptor = os.open(_STATM, os.O_RDONLY)
    try:
        return [int(text) for text in os.read(descriptor, _STATM_BYTES).split()]
    finally:
        os.close(descriptor)


def file_bytes() -> int:
    """Return how much memory of this process is pages of files; 0 where the system does not say."""
    try:
        return _pages()[2] * _PAGE_BYTES
    except OSError:
        return 0


def available_bytes() -> int:
    """Return how much more memory programs may have here; 0 where the system does not say.

    In a control group with a limit, what its processes have counts, but for pages of files.
    """
    found = _in_meminfo("MemAvailable:") or [0]
    for directory, names in _control_groups():
        usage, cache = _USAGE_NAMES[names]
        used_bytes = _number_in(directory / usage)
        if used_bytes is not None:
            used_bytes -= _statistic(directory, cache)
            limits = (_number_in(directory / name) for name in names)
            found += [max(one - used_bytes, 0) for one in limits if one]
    return min(found)


def _statistic(directory: Path, name: str) -> int:
    """Return one number of a control group's statistics; 0 if there is none."""
    try:
        lines = (directory / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)


def resident_bytes() -> int:
    """Return how much memory this process uses; 0 where the system does not say."""
    try:
        return _pages()[1] * _PAGE_BYTES
    except OSError:
        return 0


@final
@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """How much memory this process may have; None where nothing limits it.

    `resident_bytes` is about memory itself, without pages of files, which the system takes back.
    """

    address_space_bytes: int | None = None
    data_bytes: int | None = None
    resident_bytes: int | None = None

    def headroom_bytes(self) -> int | None:
        """Return how much more this process may have now; None if unlimited or unknown."""
        if self == _UNLIMITED:
            return None
        try:
            numbers = _pages()
        except (OSError, ValueError):
            return None
        size, resident, shared, _, _, data = numbers[:6]
        used_pages = (size, data, resident - shared)
        limits = (self.address_space_bytes, self.data_bytes, self.resident_bytes)
        return min(
            limit_bytes - pages * _PAGE_BYTES
            for limit_bytes, pages in zip(limits, used_pages, strict=True)
            if limit_bytes is not None
        )


_UNLIMITED: Final = MemoryLimits()


def memory_limits() -> MemoryLimits:
    """Return the limits of this process as they are now."""
    resident = [*_control_group_limits(), *_in_meminfo("MemTotal:")]
    return MemoryLimits(
        _resource_limit(resource.RLIMIT_AS),
        _resource_limit(resource.RLIMIT_DATA),
        min(resident, default=None),
    )


def address_space_headroom_bytes() -> int | None:
    """Return how much more address space there may be; None if unlimited or unknown."""
    return MemoryLimits(_resource_limit(resource.RLIMIT_AS)).headroom_bytes()


def _resource_limit(kind: int) -> int | None:
    limit_bytes, _ = resource.getrlimit(kind)
    return None if limit_bytes == resource.RLIM_INFINITY else limit_bytes


def _control_group_limits() -> list[int]:
    """Return the limits of this process's control groups, and of those around them."""
    numbers = (
        _number_in(directory / name) for directory, names in _control_groups() for name in names
    )
    return [limit for limit in numbers if limit]


def _control_groups() -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield them, and those around them, and how their limits are called."""
    try:
        lines = _CONTROL_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        root, names = _CONTROL_GROUP_FILES, _LIMIT_NAMES
        if controllers:
            root, names = _CONTROL_GROUP_FILES / "memory", _LIMIT_NAMES_OLD
            if "memory" not in controllers.split(","):
                continue
        group = root / place.lstrip("/")
        for directory in (group, *group.parents):
            yield directory, names
            if directory == root:
                break


def _number_in(path: Path) -> int | None:
    """Return the number that is all of a file; None if there is no file or something else in it."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # "max"; or this group limits nothing


def _in_meminfo(name: str) -> list[int]:
    """Return the bytes that the system says of its memory under a name; nothing if it does not."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith(name)]


def prepare_heap() -> None:
    """Give all threads one heap, before the first starts; they take little address space.

    The allocator of glibc has a heap for each thread otherwise, of 64 MiB of address space. What
    one thread allocates and another lets go leaves holes in each: a server that loads its state in
    a thread took a tenth more memory than before its restart.
    """
    choose = getattr(ctypes.CDLL(None), "mallopt", None)
    if choose is not None:
        choose(_M_ARENA_MAX, 1)
    if _resource_limit(resource.RLIMIT_AS) is not None:
        threading.stack_size(_STACK_BYTES)


def trim_heap() -> None:
    """Make the allocator give back the memory it keeps for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
