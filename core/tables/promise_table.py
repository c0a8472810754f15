"""The promises of a shard that are in memory: as objects, and most of them as bytes.

A promise that is new is an object. Of one that stays pending nothing is needed for
most of its life but that it is there; so after a few seconds it is *folded*: its fields become a
few dozen bytes, in one object instead of ten (`folding.py`). One that has nothing but its data is
folded immediately: that is cheap, and so is the way back. What reads a folded one gets an object
that is made for it, and is kept a while for the next. What completes it puts the completed one
there, as an object; at the end of the turn that is *packed* (`packing.py`), if a checkpoint will
take it out of memory.

To who asks there is one table of promises, and no way to tell which are bytes. The key stays the
text that others refer to.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, MutableMapping, Sequence
from itertools import repeat
from typing import Final, cast, final

from troth.core.limits import FOLD_SLICE_COUNT
from troth.core.model import PENDING, Promise

from .folding import (
    PACKED,
    TIMEOUT_OFFSET,
    NameSets,
    fold,
    read_timeout,
    serial_of,
    unfold,
)
from .packing import pack, unpack
from .serial_index import SerialIndex

RECENT_LIMIT_COUNT: Final = 256
"""So many of those that are bytes and were read are objects for a while, in each shard."""


@final
class PromiseTable(MutableMapping[str, Promise]):
    """Promises by id. `kept` has them all, folded and packed ones as bytes, for who is in haste.

    It is to be changed here only, but that it may take up a promise that is new.
    """

    __slots__ = ("folded_count", "folded_through", "kept", "name_sets", "recent")

    def __init__(self) -> None:
        """Start empty."""
        self.kept: dict[str, Promise | bytes] = {}
        self.recent: dict[str, Promise] = {}
        """Of those that are bytes, what was read, as objects: few, forgotten together."""
        self.folded_through = -1
        """The serial of the last promise that was looked at to be folded."""
        self.folded_count = 0
        self.name_sets = NameSets()

    def __getitem__(self, promise_id: str) -> Promise:
        kept = self.kept[promise_id]
        return self.unfolded(promise_id, kept) if isinstance(kept, bytes) else kept

    def get(self, promise_id: str, default: object = None) -> Promise | None:  # type: ignore[override]
        """Return a promise, or None."""
        assert default is None, "no other is asked for"
        kept = self.kept.get(promise_id)
        return self.unfolded(promise_id, kept) if isinstance(kept, bytes) else kept

    def serial_of(self, promise_id: str) -> int:
        """Return the serial of a promise that is here."""
        kept = self.kept[promise_id]
        return serial_of(kept) if isinstance(kept, bytes) else kept.serial

    def __contains__(self, promise_id: object) -> bool:
        return promise_id in self.kept

    def __len__(self) -> int:
        return len(self.kept)

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __setitem__(self, promise_id: str, promise: Promise) -> None:
        kept = self.kept.get(promise_id)
        if isinstance(kept, bytes):
            self._forget_bytes(promise_id, kept)
        self.kept[promise_id] = promise

    def __delitem__(self, promise_id: str) -> None:
        kept = self.kept.pop(promise_id)
        if isinstance(kept, bytes):
            self._forget_bytes(promise_id, kept)

    def _forget_bytes(self, promise_id: str, kept: bytes) -> None:
        if kept[0] != PACKED:
            self.folded_count -= 1
        self.recent.pop(promise_id, None)

    def forget_completed(self, ids: Sequence[str]) -> None:
        """Drop completed promises, which are here."""
        recent = self.recent
        deque(map(self.kept.__delitem__, ids), 0)
        if recent:
            for promise_id in ids:
                recent.pop(promise_id, None)

    def pack(self, promises: Iterable[Promise]) -> None:
        """Pack those of these promises, which have just completed, that are still here.

        Where there is no memory they stay objects.
        """
        kept = self.kept
        for promise in promises:
            promise_id = promise.id
            if kept.get(promise_id) is promise:
                try:
                    packed = pack(promise)
                except MemoryError:
                    return
                if packed is not None:
                    kept[promise_id] = packed

    def timeouts(self) -> tuple[list[str], list[int]]:
        """Return the ids of all pending promises, and their timeouts in ms."""
        kept = self.kept
        if self.folded_count == len(kept):
            folded = cast("Collection[bytes]", kept.values())
            found = map(read_timeout, folded, repeat(TIMEOUT_OFFSET))
            return list(kept), [timeout for (timeout,) in found]
        ids: list[str] = []
        timeouts: list[int] = []
        for promise_id, one in kept.items():
            if isinstance(one, bytes):
                if one[0] != PACKED:
                    ids.append(promise_id)
                    timeouts += read_timeout(one, TIMEOUT_OFFSET)
            elif one.state is PENDING:
                ids.append(promise_id)
                timeouts.append(one.timeout)
        return ids, timeouts

    def fold_some(self, index: SerialIndex, through_serial: int) -> bool:
        """Fold a slice of what is pending, up to this serial; return whether some may be left.

        `index` has the promises by their serials.
        """
        through, ids = index.next_ids(self.folded_through, FOLD_SLICE_COUNT)
        may_be_more = through != self.folded_through
        kept, name_sets = self.kept, self.name_sets
        folded_count, before = 0, self.folded_through
        for promise_id in ids:
            promise = kept.get(promise_id)
            if type(promise) is not Promise:
                continue  # it is gone, or folded
            if promise.serial > through_serial:
                through, may_be_more = before, False
                break
            before = promise.serial
            if promise.state is PENDING:
                try:
                    folded = fold(promise, name_sets)
                except MemoryError:
                    continue  # later: it is no time to make it smaller
                if folded is not None:
                    kept[promise_id] = folded
                    folded_count += 1
        self.folded_count += folded_count
        self.folded_through = through
        return may_be_more

    def fold(self, promise: Promise) -> None:
        """Fold a promise that is here as an object, if it is pending."""
        if promise.state is PENDING:
            self._keep(promise)

    def add_folded(self, promise: Promise) -> None:
        """Take up a pending promise that is new, folded."""
        self._keep(promise)
        if promise.serial > self.folded_through:
            self.folded_through = promise.serial

    def _keep(self, promise: Promise) -> None:
        try:
            folded = fold(promise, self.name_sets)
        except MemoryError:
            folded = None  # as in `fold_some`
        if folded is None:
            self.kept[promise.id] = promise
        else:
            self.kept[promise.id] = folded
            self.folded_count += 1

    def unfolded(self, promise_id: str, folded: bytes) -> Promise:
        """Return a promise that `kept` has only as bytes."""
        promise = self.recent.get(promise_id)
        if promise is None:
            if len(self.recent) >= RECENT_LIMIT_COUNT:
                self.recent.clear()
            if folded[0] == PACKED:
                promise = unpack(folded)
            else:
                promise = unfold(promise_id, folded, self.name_sets)
            self.recent[promise_id] = promise
        return promise
