"""The order of creation in one shard: serial numbers and ids, in blocks.

Serials only grow, so entries are appended to the last block, and found by two bisections. What is
discarded leaves nothing behind: no step takes longer than a block does, however many entries there
are and have been.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import Final

BLOCK_COUNT: Final = 512
"""The entries of one block, at most."""

_SMALL_COUNT: Final = BLOCK_COUNT // 4
"""Of two blocks next to each other at most one has fewer entries."""

_FAR_FACTOR: Final = 4
"""Entries to be removed are removed one by one if they lie as far from each other."""


class SerialIndex:
    """Ids ordered by the serial they were created with."""

    __slots__ = ("_bounds", "_earlier_count", "_ids", "_last_ids", "_last_serials", "_serials")

    def __init__(self) -> None:
        self._last_serials = array("q")  # an eighth of what a list of numbers takes
        self._last_ids: list[str] = []
        self._serials = [self._last_serials]
        self._ids = [self._last_ids]
        # No serial of a block is smaller than its bound, and all of the block before are.
        self._bounds = array("q", (0,))
        self._earlier_count = 0  # of all blocks but the last

    def append(self, serial: int, identifier: str) -> None:
        """Add the newest entry; its serial must be larger than all before."""
        serials = self._last_serials
        if serials:
            assert serial > serials[-1], "serials only grow"
            if len(serials) == BLOCK_COUNT:
                serials = self._begin_block(serial)
        serials.append(serial)
        self._last_ids.append(identifier)

    def extend(self, serials: Sequence[int], identifiers: Sequence[str]) -> None:
        """Add the newest entries, oldest first; as `append` does, but many."""
        last = self._last_serials
        if last and len(last) + len(serials) <= BLOCK_COUNT:
            assert serials[0] > last[-1], "serials only grow"
            last.extend(serials)
            self._last_ids.extend(identifiers)
            return
        done_count = 0
        while done_count < len(serials):
            self.append(serials[done_count], identifiers[done_count])
            done_count += 1
            some = slice(done_count, done_count + BLOCK_COUNT - len(self._last_serials))
            self._last_serials.extend(serials[some])
            self._last_ids.extend(identifiers[some])
            done_count = min(some.stop, len(serials))

    def _begin_block(self, serial: int) -> "array[int]":
        self._last_serials = array("q")
        self._last_ids = []
        self._serials.append(self._last_serials)
        self._ids.append(self._last_ids)
        self._bounds.append(serial)
        self._earlier_count += BLOCK_COUNT
        return self._last_serials

    def discard(self, serial: int) -> None:
        """Remove an entry, if it is there."""
        bounds = self._bounds
        block = bisect_right(bounds, serial, 1) - 1
        serials = self._serials[block]
        position = bisect_left(serials, serial)
        if position == len(serials) or serials[position] != serial:
            return
        del serials[position]
        del self._ids[block][position]
        self._left(block, 1)

    def discard_all(self, serials: Iterable[int]) -> None:
        """Remove entries, if they are there: as `discard`, but many that lie close together."""
        left = sorted(serials)
        while left:
            block = bisect_right(self._bounds, left[-1], 1) - 1
            first = bisect_left(left, self._bounds[block]) if block else 0
            some = left[first:]
            del left[first:]
            own, ids = self._serials[block], self._ids[block]
            start, end = bisect_left(own, some[0]), bisect_right(own, some[-1])
            if end - start > _FAR_FACTOR * len(some):
                for serial in reversed(some):  # so that a block that is joined is not needed again
                    self.discard(serial)
                continue
            between = own[start:end]
            stay = array("q")
            if between.tolist() != some:
                gone = set(some)
                are_staying = [serial not in gone for serial in between]
                stay.extend(compress(between, are_staying))
                ids[start:end] = compress(ids[start:end], are_staying)
            else:
                del ids[start:end]
            own[start:end] = stay
            self._left(block, len(between) - len(stay))

    def _left(self, block: int, count: int) -> None:
        """Note that so many entries of a block have left it."""
        if len(self._bounds) > 1 and count:
            if self._serials[block] is not self._last_serials:
                self._earlier_count -= count
            if len(self._serials[block]) < _SMALL_COUNT:
                self._join(block)

    def _join(self, block: int) -> None:
        """Join a small block with one next to it, if that is small, too, or this is empty."""
        for first in (block - 1, block):
            if first < 0 or first + 1 == len(self._bounds):
                continue
            sizes = len(self._serials[first]), len(self._serials[first + 1])
            if max(sizes) < _SMALL_COUNT or not min(sizes):
                if first + 2 == len(self._bounds):
                    self._earlier_count -= sizes[0]
                self._serials[first].extend(self._serials.pop(first + 1))
                self._ids[first].extend(self._ids.pop(first + 1))
                del self._bounds[first + 1]
                self._last_serials, self._last_ids = self._serials[-1], self._ids[-1]
                if len(self._serials[first]) < _SMALL_COUNT:  # many have left together
                    self._join(first)
                return

    def below(self, serial: int, scan_count: int) -> Iterator[tuple[int, str]]:
        """Yield the entries with smaller serials, newest first, at most `scan_count` of them."""
        block = bisect_left(self._bounds, serial, 1) - 1
        end = bisect_left(self._serials[block], serial)
        while scan_count > 0 and block >= 0:
            serials, ids = self._serials[block], self._ids[block]
            first = max(end - scan_count, 0)
            for index in range(end - 1, first - 1, -1):
                yield serials[index], ids[index]
            scan_count -= end - first
            block -= 1
            end = len(self._serials[block])

    def above(self, serial: int, scan_count: int) -> Iterator[tuple[int, str]]:
        """Yield the entries with larger serials, oldest first; as `below`."""
        for block, first, end in self._slices_above(serial, scan_count):
            serials, ids = self._serials[block], self._ids[block]
            for index in range(first, end):
                yield serials[index], ids[index]

    def _slices_above(self, serial: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield where entries with larger serials are: block, first position, and behind the last.

        They are `count` together, or all there are.
        """
        block = bisect_right(self._bounds, serial, 1) - 1
        first = bisect_right(self._serials[block], serial)
        while count > 0 and block < len(self._serials):
            end = min(first + count, len(self._serials[block]))
            if first < end:
                yield block, first, end
            count -= end - first
            block, first = block + 1, 0

    def next_ids(self, serial: int, count: int) -> tuple[int, list[str]]:
        """Return the ids of at most so many entries with larger serials, and the last one's serial.

        Without such entries it is the given serial.
        """
        found: list[str] = []
        for block, first, end in self._slices_above(serial, count):
            found += self._ids[block][first:end]
            serial = self._serials[block][end - 1]
        return serial, found

    def has_above(self, serial: int) -> bool:
        """Return whether there is any entry with a larger serial."""
        return bool(self._last_serials) and self._last_serials[-1] > serial

    def has_below(self, serial: int) -> bool:
        """Return whether there is any entry with a smaller serial."""
        first = self.first()
        return first is not None and first < serial

    def first(self) -> int | None:
        """Return the smallest serial; None if there is none."""
        return self._serials[0][0] if self._serials[0] else None

    def ids(self) -> list[str]:
        """Return all ids, oldest first."""
        return [identifier for ids in self._ids for identifier in ids]

    def __len__(self) -> int:
        return self._earlier_count + len(self._last_serials)
