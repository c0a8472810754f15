"""What the operating system says of processes, and how they are kept apart on its cores.

Only Linux has `/proc` and processor affinity; elsewhere the readings are None and nothing is
pinned.
"""

import contextlib
import os
import platform
import time
from pathlib import Path
from typing import NamedTuple


class ProcessUsage(NamedTuple):
    """What a process has used so far."""

    processor_s: float
    """User and system time of all its threads."""
    memory_bytes: int
    """Resident memory now."""


def usage(process_id: int) -> ProcessUsage | None:
    """Return what a process and those that it has started have used so far.

    None if it is gone or the system does not say.
    """
    own = _usage(process_id)
    if own is None:
        return None
    found = [own, *filter(None, map(_usage, children_of(process_id)))]
    return ProcessUsage(
        sum(one.processor_s for one in found), sum(one.memory_bytes for one in found)
    )


def own_and_childrens_s(process_id: int) -> tuple[float, float] | None:
    """Return the processor time of a process, and of those that it has started, also ended ones.

    None if it is gone or the system does not say.
    """
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii")
    except OSError:
        return None
    ended = [int(one) for one in stat.rpartition(")")[2].split()[13:15]]
    own = _usage(process_id)
    if own is None:
        return None
    running = [one.processor_s for one in filter(None, map(_usage, children_of(process_id)))]
    return own.processor_s, sum(ended) / os.sysconf("SC_CLK_TCK") + sum(running)


def children_of(process_id: int) -> list[int]:
    """Return the processes that any thread of a process has started and that are there."""
    found: list[int] = []
    for thread in Path(f"/proc/{process_id}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # this thread has ended in the meantime
            found += [int(one) for one in thread.read_text(encoding="ascii").split()]
    return found


def _usage(process_id: int) -> ProcessUsage | None:
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii")
        pages = int(Path(f"/proc/{process_id}/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    # The name is in parentheses and may contain anything, even ") ".
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ProcessUsage(ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"))


class Cores(NamedTuple):
    """Who runs where: the server on one core, the load on the others; None: anywhere."""

    server: int | None
    load: tuple[int, ...]

    def load_core(self, number: int) -> int | None:
        """Return the core of a load process."""
        return self.load[number % len(self.load)] if self.load else None


def divide_cores(*, pinned: bool) -> Cores:
    """Keep the server's core free of the load, if there are two cores to be had."""
    if not pinned or not hasattr(os, "sched_getaffinity"):
        return Cores(None, ())
    cores = sorted(os.sched_getaffinity(0))
    return Cores(cores[0], tuple(cores[1:])) if len(cores) > 1 else Cores(None, ())


def pin(process_id: int, core: int | None) -> None:
    """Keep a process, as it is now, with all its threads, on one core; None: leave it alone."""
    if core is None:
        return
    # Threads that start later inherit it from the one that starts them; those here already do not.
    for thread in Path(f"/proc/{process_id}/task").iterdir():
        # A thread may have ended since.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), {core})


def interrupt_no_server() -> None:
    """Make this thread of the load wait for a core rather than take it in the middle of a pass.

    A client on another machine never does that. One that shares the server's cores would, with each
    answer that wakes it. A policy that was chosen for this process stays.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        # Where the system refuses, the load interrupts the server.
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def environment() -> dict[str, object]:
    """Return what a reader of the results must know of the machine."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load_average_before": load,
    }
