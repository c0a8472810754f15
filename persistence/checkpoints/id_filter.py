"""A filter that says which ids are surely not in the checkpoint store, without reading it.

Nearly every create names a new id. Without the filter it would search the store's tree, only to
find nothing: in the event loop, perhaps waiting for the disk. `IdFilter` is a Bloom filter: it can
say yes to an id that was never added (less than one in a hundred), but never no to one that was.
`StoredIds` is the filter of one process, over the completed promises and finished tasks in its
store. Its rules:

* An id is added before the commit that stores it, so before it can have left memory.
* It is complete or says yes to everything. For an empty store it is complete immediately, for any
  other after a pass over the rows. What is committed during a pass is added by the commit.
* Ids are never taken out. When retention has deleted most of them, a pass makes a new filter.

Where a process of its own writes large checkpoints, it adds their ids: the bits are in memory that
it shares (`SharedBits`). Which of the two adds is decided by the lock that a commit holds.
"""

import contextlib
import itertools
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, final

import xxhash

from .rows import ID_HEAD_BYTES

BITS_PER_ID: Final = 16
PROBES_COUNT: Final = 6
"""A full layer has three bits in ten set, and says yes wrongly to one id in a thousand."""

ROOM_MIN_COUNT: Final = 1 << 20
"""Ids that a filter has room for at first, 2 MiB. Each new layer doubles all room, so eight layers
hold 128 times as many; with all of them full, eight ids in a thousand are a wrong yes."""

STALE_FACTOR: Final = 3
"""A filter with more than this many times the ids that are stored is built again."""

_PROBES: Final = range(PROBES_COUNT)
_OTHERS: Final = range(1, PROBES_COUNT)
_STEP_SHIFT: Final = 33
_MASKS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_hash = xxhash.xxh3_64_intdigest

Bits = bytearray | mmap.mmap
Layer = tuple[Bits | bytes, int]
"""Bits, and how many there are."""


@final
class SharedBits(mmap.mmap):
    """Bits in memory that another process which has `descriptor` may map, too. Raises OSError."""

    descriptor: int

    @classmethod
    def make(cls, size_bytes: int) -> "SharedBits":
        """Make some, all of them 0."""
        descriptor = os.memfd_create("troth-stored-ids")
        try:
            os.ftruncate(descriptor, size_bytes)
            made = cls(descriptor, size_bytes)
        except BaseException:
            os.close(descriptor)
            raise
        made.descriptor = descriptor
        return made

    def __del__(self) -> None:
        """Close the descriptor; the memory goes when no process has it any more."""
        os.close(self.descriptor)


def shared_bits(size_bytes: int) -> Bits:
    """Return bits that can be shared, or others where the system gives none."""
    try:
        return SharedBits.make(size_bytes)
    except OSError:
        return bytearray(size_bytes)


class NoWriter(Exception):
    """There is no process that could write this checkpoint; nothing of it was written."""


class Room(NamedTuple):
    """The room that a filter has for a checkpoint's ids, for the process that adds them."""

    descriptor: int
    size_bytes: int
    free_count: int


@final
class IdFilter:
    """A set of ids that can say yes wrongly. One thread adds at a time; any thread may ask.

    It takes BITS_PER_ID for each id it has room for: `room_count`, or at most twice as many as were
    added. Ids are told apart by their first ID_HEAD_BYTES: as much as is in the key of every id.
    """

    __slots__ = ("_free_count", "_make_bits", "_room_count", "ids_count", "layers")

    def __init__(self, room_count: int, make_bits: Callable[[int], Bits] = bytearray) -> None:
        self._make_bits = make_bits
        self.layers: tuple[Layer, ...] = ()  # the newest first
        self.ids_count = 0
        self._room_count = room_count  # of all layers; the first is made when needed
        self._free_count = 0

    def may_hold(self, identifier: str) -> bool:
        """Return whether an id was added, or only seems so; False is always true."""
        layers = self.layers
        if not layers:
            return False
        found = _hash(identifier.encode()[:ID_HEAD_BYTES])
        for bits, bits_count in layers:
            place = found % bits_count
            if bits[place >> 3] >> (place & 7) & 1 and _has_others(bits, bits_count, place, found):
                return True
        return False

    def add(self, heads: Iterable[bytes]) -> None:
        """Add ids by their beginnings (`rows.id_head`); a second time in a layer takes no room."""
        every = iter(heads)
        for head in every:
            if self._free_count == 0:
                self._add_layer()
            # So many fit into this layer, whether they are new or not.
            self._add_some(itertools.chain((head,), itertools.islice(every, self._free_count - 1)))

    def _add_some(self, heads: Iterable[bytes]) -> None:
        """Add ids that the newest layer has room for."""
        bits, bits_count = self.layers[0]
        assert not isinstance(bits, bytes), "a filter that answers yes to everything takes no ids"
        new_count = 0
        for found in map(_hash, heads):
            place = found % bits_count
            step = found >> _STEP_SHIFT | 1
            is_new = False
            for _ in _PROBES:
                mask = _MASKS[place & 7]
                before = bits[place >> 3]
                if not before & mask:
                    bits[place >> 3] = before | mask
                    is_new = True
                place = (place + step) % bits_count
            if is_new:
                new_count += 1
        self._free_count -= new_count
        self.ids_count += new_count

    def _add_layer(self) -> None:
        self._free_count = self._room_count
        if self.layers:
            self._room_count *= 2
        size_bytes = self._free_count * BITS_PER_ID // 8
        self.layers = ((self._make_bits(size_bytes), size_bytes * 8), *self.layers)

    def share(self, count: int) -> Room:
        """Make room for ids in one layer, and return it. Raises NoWriter if it cannot be shared."""
        while not self.layers or self._free_count < count:
            self._add_layer()
        bits, _ = self.layers[0]
        if not isinstance(bits, SharedBits):
            raise NoWriter("the system gave no memory to share")
        return Room(bits.descriptor, len(bits), self._free_count)

    def note_added(self, new_count: int) -> None:
        """Note how many ids another process has added to the room that was shared."""
        self._free_count -= new_count
        self.ids_count += new_count

    @classmethod
    def within(cls, room: Room) -> "IdFilter":
        """Return what adds ids to the room of another process's filter."""
        made = cls(0)
        made.layers = ((mmap.mmap(room.descriptor, room.size_bytes), room.size_bytes * 8),)
        made._free_count = room.free_count
        return made

    @property
    def size_bytes(self) -> int:
        """The memory that the bits take."""
        return sum(len(bits) for bits, _ in self.layers)

    @classmethod
    def of_everything(cls) -> "IdFilter":
        """Return a filter that says yes to every id."""
        made = cls(0)
        made.layers = ((b"\xff", 8),)
        return made


def _has_others(bits: Bits | bytes, bits_count: int, place: int, found: int) -> bool:
    """Return whether all bits of a hash but the first, at `place`, are set."""
    step = found >> _STEP_SHIFT | 1
    for _ in _OTHERS:
        place = (place + step) % bits_count
        if not bits[place >> 3] >> (place & 7) & 1:
            return False
    return True


@final
class StoredIds:
    """The filter of the ids in one store; see the rules above.

    Threads: lookups read `filter` without a lock, at any time. A commit holds one lock, and a pass
    holds it briefly when it begins, adds and ends. So a commit is either in what a pass reads or
    adds to what it makes.
    """

    def __init__(self, *, is_empty: bool, make_bits: Callable[[int], Bits] = bytearray) -> None:
        """Begin; `make_bits` is `shared_bits` where another process may add ids."""
        self._make_bits = make_bits
        self.filter = IdFilter(ROOM_MIN_COUNT, make_bits) if is_empty else IdFilter.of_everything()
        self.is_complete = is_empty
        self._filling: IdFilter | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def committing(self) -> Iterator[Callable[[Sequence[bytes]], None]]:
        """Add the ids that the commit in this block stores, by what it is given.

        If the commit fails they may stay.
        """
        with self.locked() as filters:

            def add(heads: Sequence[bytes]) -> None:
                for one in filters:
                    one.add(heads)

            yield add

    @contextlib.contextmanager
    def locked(self) -> Iterator[list[IdFilter]]:
        """Yield the filters that a commit in this block must add to, which nothing else does."""
        with self._lock:
            filters = [self.filter] if self.is_complete else []
            if self._filling is not None:
                filters.append(self._filling)
            yield filters

    @contextlib.contextmanager
    def filling(self, stored_count: int) -> Iterator[Callable[[Iterable[bytes]], None]]:
        """Make a new filter in this block, which adds all stored ids by what it is given.

        It reads them from a view that it opens itself: what was committed before is in there,
        what is committed after is added to both filters. There should be about `stored_count`. If
        the block raises, the filter of before stays.
        """
        with self._lock:
            assert self._filling is None, "a pass is running already"
            # A quarter more, so that what comes next needs no layer of its own.
            room_count = max(ROOM_MIN_COUNT, stored_count * 5 // 4)
            made = self._filling = IdFilter(room_count, self._make_bits)

        def add(heads: Iterable[bytes]) -> None:
            with self._lock:
                made.add(heads)

        try:
            yield add
            with self._lock:
                self.filter = made
                self.is_complete = True
                self._filling = None
        finally:
            self._filling = None

    def is_stale(self, stored_count: int) -> bool:
        """Return whether most ids in the filter are no longer among the `stored_count` stored."""
        return self.filter.ids_count > STALE_FACTOR * stored_count + ROOM_MIN_COUNT
