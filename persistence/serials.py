"""Serials: the numbers that order everything by creation, over all groups of a server.

A serial is the time of the turn in ms since 2025-01-01, a counter of 12 bits, and the group in 10
bits. It is never lower than the last one of its group: where more than 4,096 are asked for in a
millisecond, or the clock was set back, they count on. So serials are unique, and below 2**63 until
2094.
"""

from typing import Final, final

from troth.core.limits import SERIAL_TIME_BEGINS_MS, SERIAL_TIME_ENDS_MS

from .errors import ClockTooLate

GROUP_BITS: Final = 10
COUNTER_BITS: Final = 12

_STEP: Final = 1 << GROUP_BITS
_TIME_SHIFT: Final = GROUP_BITS + COUNTER_BITS


def check_time(now_ms: int) -> None:
    """Raise ClockTooLate if there are no serials of this time."""
    if now_ms >= SERIAL_TIME_ENDS_MS:
        raise ClockTooLate(now_ms)


@final
class Serials:
    """The serials of one group. `last` is not below any that was given, and below all to come."""

    __slots__ = ("_group", "last")

    def __init__(self, group: int = 0) -> None:
        """Begin with the lowest."""
        self._group = group
        self.last = group

    def next(self) -> int:
        """Return the next one."""
        self.last += _STEP
        return self.last

    def continue_after(self, largest: int) -> None:
        """Give only serials above this one, which was found at the start."""
        if largest > self.last:
            self.last = (largest >> GROUP_BITS << GROUP_BITS) + self._group
            if self.last < largest:  # it is of another group, or of version 1
                self.last += _STEP

    def set_time(self, now_ms: int) -> None:
        """Give only serials of this time, or later ones; a time that has none changes nothing."""
        if SERIAL_TIME_BEGINS_MS < now_ms < SERIAL_TIME_ENDS_MS:
            first = (now_ms - SERIAL_TIME_BEGINS_MS << _TIME_SHIFT) + self._group
            if first > self.last:
                self.last = first
