"""Descriptors: how many this process may have open, and how many of them clients may use up.

Every connection takes one, and so does everything that the server needs to live: a new file of the
log, a checkpoint, a snapshot, a process that checks a build. If clients could take all of them, a
write would fail, and that looks like a failing disk. So the limit is raised as far as it goes, some
are kept back, and the rest is divided: a quarter for connections that the server makes, the others
for those that it accepts.
"""

import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from troth.core.limits import DESCRIPTORS_LEAST_COUNT, DESCRIPTORS_RESERVE_COUNT

_ENOUGH_COUNT: Final = 1 << 20
"""As many as it is ever raised to: some systems allow a thousand times that."""


class TooFewDescriptors(Exception):
    """The process may have too few files open to serve. `str()` is one line for an operator."""


@dataclass(frozen=True, slots=True)
class DescriptorShares:
    """The number of descriptors for each purpose. The reserve is what is left of `limit_count`.

    `streams_count` is what of `incoming_count` may be streams that go on for hours.
    """

    limit_count: int
    incoming_count: int
    outgoing_count: int

    @property
    def streams_count(self) -> int:
        """The number of workers' streams: fewer than connections, so that requests find room."""
        return self.incoming_count - self.incoming_count // 4


PLENTY: Final = DescriptorShares(_ENOUGH_COUNT, _ENOUGH_COUNT, _ENOUGH_COUNT)
"""For a server inside another program's process: nothing is divided."""


def shares_of(limit_count: int) -> DescriptorShares:
    """Divide a limit. Raises TooFewDescriptors."""
    if limit_count < DESCRIPTORS_LEAST_COUNT:
        raise TooFewDescriptors(
            f"Cannot serve: this process may have only {limit_count} files open, and needs "
            f"{DESCRIPTORS_LEAST_COUNT} at least. Raise that limit (`ulimit -n`, or LimitNOFILE of "
            "the service)."
        )
    room_count = limit_count - min(DESCRIPTORS_RESERVE_COUNT, limit_count // 2)
    outgoing_count = room_count // 4
    return DescriptorShares(limit_count, room_count - outgoing_count, outgoing_count)


def raise_limit(
    read: Callable[[int], tuple[int, int]] = resource.getrlimit,
    write: Callable[[int, tuple[int, int]], None] = resource.setrlimit,
) -> int:
    """Raise the soft limit of open files to the hard one, as far as that is of use; return it."""
    soft, hard = read(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH_COUNT if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_COUNT)
    if soft == resource.RLIM_INFINITY:
        return _ENOUGH_COUNT
    if soft < wanted:
        try:
            write(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft  # macOS says that all are allowed, and then refuses that many
        return wanted
    return min(soft, _ENOUGH_COUNT)


def part_of(limit_count: int, processes_count: int) -> int:
    """Return what each of several processes may have of what a server may, rounded up."""
    return -(-limit_count // processes_count)
