"""The order of creation in one shard: serial numbers and ids, newest first.

Serials only grow, so the index is two parallel rows that are appended to and searched by bisection.
Deleted entries leave a hole, and the rows are compacted when holes are the majority.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class SerialIndex:
    """Ids ordered by the serial they were created with."""

    __slots__ = ("_holes", "_ids", "_serials")

    def __init__(self) -> None:
        self._serials = array("q")  # an eighth of what a list of numbers takes
        self._ids: list[str | None] = []
        self._holes = 0

    def append(self, serial: int, identifier: str) -> None:
        """Add the newest entry; its serial must be larger than all before."""
        serials = self._serials
        assert not serials or serial > serials[-1], "serials only grow"
        serials.append(serial)
        self._ids.append(identifier)

    def discard(self, serial: int) -> None:
        """Remove an entry, if it is there."""
        position = bisect_left(self._serials, serial)
        if position == len(self._serials) or self._serials[position] != serial:
            return
        if self._ids[position] is not None:
            self._ids[position] = None
            self._holes += 1
        if self._holes * 2 > len(self._ids):
            kept = [
                pair for pair in zip(self._serials, self._ids, strict=True) if pair[1] is not None
            ]
            self._serials = array("q", [serial for serial, _ in kept])
            self._ids = [identifier for _, identifier in kept]
            self._holes = 0

    def below(self, serial: int, scan_count: int) -> Iterator[tuple[int, str | None]]:
        """Yield the entries with smaller serials, newest first, at most `scan_count` of them.

        An id of None is a hole; the caller counts it as looked at.
        """
        position = bisect_left(self._serials, serial)
        for index in range(position - 1, max(position - 1 - scan_count, -1), -1):
            yield self._serials[index], self._ids[index]

    def above(self, serial: int, scan_count: int) -> Iterator[tuple[int, str | None]]:
        """Yield the entries with larger serials, oldest first; as `below`."""
        position = bisect_right(self._serials, serial)
        for index in range(position, min(position + scan_count, len(self._serials))):
            yield self._serials[index], self._ids[index]

    def next_ids(self, serial: int, count: int) -> tuple[int, list[str]]:
        """Return the ids of at most so many entries with larger serials, and the last one's serial.

        Holes count. Without such entries it is the given serial.
        """
        first = bisect_right(self._serials, serial)
        last = min(first + count, len(self._serials)) - 1
        if last < first:
            return serial, []
        ids = self._ids[first : last + 1]
        return self._serials[last], [one for one in ids if one is not None]

    def has_above(self, serial: int) -> bool:
        """Return whether there is any entry with a larger serial."""
        return bool(self._serials) and self._serials[-1] > serial

    def first(self) -> int | None:
        """Return the smallest serial, also of a hole; None if there is none."""
        return self._serials[0] if self._serials else None

    def ids(self) -> list[str | None]:
        """Return all ids, oldest first, with None for holes."""
        return list(self._ids)

    def has_below(self, serial: int) -> bool:
        """Return whether there is any entry with a smaller serial."""
        return bool(self._serials) and self._serials[0] < serial

    def __len__(self) -> int:
        return len(self._serials) - self._holes
