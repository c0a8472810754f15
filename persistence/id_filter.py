"""Says of an id that it is surely not in the checkpoint store, without looking there.

Nearly every create is of a new id, and would otherwise walk the store's tree only to find nothing:
in the event loop, perhaps waiting for the disk. `IdFilter` is a Bloom filter: it may say yes to an
id that was never added (less than one in a hundred), and never no to one that was. `StoredIds` is
the filter of one process, over the completed promises and finished tasks in its store. Its rules:

* An id is added before the commit that stores it, so before it can have left memory.
* It is complete or says yes to everything. An empty store's is complete at once, that of any other
  after a pass over the rows; what is committed during a pass is added by whoever commits it.
* Ids are never taken out. When retention has deleted most of them, a pass makes a new filter.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, final

import xxhash

BYTES_PER_ID: Final = 2
PROBES_COUNT: Final = 6
"""A full layer has three bits in ten set, and says yes wrongly to one id in a thousand."""

ROOM_MIN_COUNT: Final = 1 << 19
"""Ids that a filter has room for at first. Each new layer doubles all room, so ten layers hold 256
times as many; only beyond that may one id in a hundred be a wrong yes."""

STALE_FACTOR: Final = 3
"""A filter with more ids than so many times those that are stored is to be made anew."""

_BIT_SHIFT: Final = 61
_STEP_SHIFT: Final = 33
_hash = xxhash.xxh3_64_intdigest

Layer = tuple[bytearray | bytes, int]
"""Bits and their length in bytes. An id uses one bit of each byte that it looks at: the uppermost
three bits of its hash say which, the others which bytes."""


@final
class IdFilter:
    """A set of ids that may say yes wrongly. One thread adds at a time; any may ask meanwhile.

    It takes BYTES_PER_ID for each id it has room for, and has room for at most twice as many as
    were added, or for `room_count`.
    """

    __slots__ = ("_free_count", "_room_count", "ids_count", "layers")

    def __init__(self, room_count: int = ROOM_MIN_COUNT) -> None:
        self.layers: tuple[Layer, ...] = ()
        self.ids_count = 0
        self._room_count = 0
        self._free_count = 0
        self._add_layer(room_count)

    def _add_layer(self, room_count: int) -> None:
        size_bytes = room_count * BYTES_PER_ID
        self.layers = ((bytearray(size_bytes), size_bytes), *self.layers)
        self._room_count += room_count
        self._free_count = room_count

    def may_hold(self, text: bytes) -> bool:
        """Whether an id was added, or only seems so; False is always true. See `rows.id_text`."""
        found = _hash(text)
        for bits, size_bytes in self.layers:
            if bits[found % size_bytes] >> (found >> _BIT_SHIFT) & 1 and _has_others(
                bits, size_bytes, found
            ):
                return True
        return False

    def add(self, text: bytes) -> None:
        """Add an id. One that the filter says yes to already takes no room."""
        if self.may_hold(text):
            return
        if self._free_count == 0:
            self._add_layer(self._room_count)
        self._free_count -= 1
        self.ids_count += 1
        bits, size_bytes = self.layers[0]
        assert isinstance(bits, bytearray), "what holds everything is never added to"
        place = _hash(text)
        bit = 1 << (place >> _BIT_SHIFT)
        step = place >> _STEP_SHIFT | 1
        for _ in range(PROBES_COUNT):
            bits[place % size_bytes] |= bit
            place += step

    @property
    def size_bytes(self) -> int:
        """What the bits take in memory."""
        return sum(size_bytes for _, size_bytes in self.layers)

    @classmethod
    def of_everything(cls) -> "IdFilter":
        """A filter that says yes to every id."""
        made = cls(0)
        made.layers = ((b"\xff", 1),)
        return made


def _has_others(bits: bytearray | bytes, size_bytes: int, found: int) -> bool:
    """Whether all bits of a hash but the first, which was looked at, are set."""
    shift = found >> _BIT_SHIFT
    step = found >> _STEP_SHIFT | 1
    for _ in range(PROBES_COUNT - 1):
        found += step
        if not bits[found % size_bytes] >> shift & 1:
            return False
    return True


@final
class StoredIds:
    """The filter of the ids in one store; see the rules above.

    Threads: lookups read `filter` without a lock, at any time. One lock is held by whoever commits,
    and shortly by a pass when it begins, adds and ends; so a commit is either in what a pass reads
    or adds to what it makes.
    """

    def __init__(self, *, is_empty: bool) -> None:
        self.filter = IdFilter() if is_empty else IdFilter.of_everything()
        self.is_complete = is_empty
        self._filling: IdFilter | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def committing(self) -> Iterator[Callable[[bytes], None]]:
        """Add the ids that the commit in this block stores, by what it is given.

        If the commit fails they may stay.
        """
        with self._lock:
            filters = [self.filter] if self._filling is None else [self.filter, self._filling]

            def add(text: bytes) -> None:
                for one in filters:
                    one.add(text)

            yield add

    @contextlib.contextmanager
    def filling(self, stored_count: int) -> Iterator[Callable[[Iterable[bytes]], None]]:
        """Make a new filter in this block, which adds all stored ids by what it is given.

        It reads them from a snapshot that it opens itself: what was committed before is in there,
        what is committed after is added to both filters. There should be about `stored_count`. If
        the block raises, the filter of before stays.
        """
        with self._lock:
            assert self._filling is None, "one pass at a time"
            # A quarter more, so that what comes next needs no layer of its own.
            made = self._filling = IdFilter(max(ROOM_MIN_COUNT, stored_count * 5 // 4))

        def add(texts: Iterable[bytes]) -> None:
            with self._lock:
                for text in texts:
                    made.add(text)

        try:
            yield add
            with self._lock:
                self.filter = made
                self.is_complete = True
                self._filling = None
        finally:
            self._filling = None

    def is_stale(self, stored_count: int) -> bool:
        """Whether most ids in the filter are no longer among the `stored_count` of the store."""
        return self.filter.ids_count > STALE_FACTOR * stored_count + ROOM_MIN_COUNT
