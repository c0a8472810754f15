"""The promises of a shard that are in memory: as objects, and those that wait long as bytes.

A promise that is new, or completed, is an object. Of one that stays pending nothing is needed for
most of its life but that it is there; so after a few seconds it is *folded*: its fields become a
few dozen bytes, in one object instead of ten. What reads it gets an object that is made for it, and
is kept a while for the next. What completes it puts the completed one there, as an object.

To who asks there is one table of promises, and no way to tell which are folded. The key stays the
text that others refer to.
"""

from collections.abc import Iterator, MutableMapping
from itertools import chain
from typing import Final, Protocol, final

import msgspec
from msgspec import Struct

from troth.core.json_bytes import packer
from troth.core.limits import FOLD_SLICE_COUNT
from troth.core.model import EMPTY_VALUE, PENDING, Promise, PromiseState, Trace, Value

from .serial_index import SerialIndex

SHAPES_LIMIT_COUNT: Final = 256
"""So many sets of tag names are kept once for all promises that have them, in each shard."""

RECENT_LIMIT_COUNT: Final = 256
"""So many folded promises that were read are objects for a while, in each shard."""

_SHAPE_NAMES_COUNT: Final = 16
_SHAPE_CHARACTERS: Final = 512
"""Sets of more names, or longer ones, are kept with each promise."""

FOLDED_DATA_CHARACTERS: Final = 8_192
"""A promise with longer data stays an object: it would become hardly smaller."""

_NO_TAGS: Final = -1
_OWN_NAMES: Final = -2


class _Folded(Struct, array_like=True, omit_defaults=True, gc=False):
    """A pending promise without its id. What most promises lack is last, and takes nothing.

    `shape` is the number of the set of tag names that `tags` are the values for. With `_OWN_NAMES`
    they are names and values in turn. None stands for the promise's id, which many tags repeat.
    """

    serial: int
    timeout: int
    created_on: int
    data: str | None = None
    shape: int = _NO_TAGS
    tags: tuple[str | None, ...] = ()
    headers: dict[str, str] | None = None
    key_for_create: str | None = None
    trace: Trace | None = None


class TimedPromise(Protocol):
    """What a timer needs to know of a promise."""

    @property
    def id(self) -> str:
        """The promise's id."""
        ...  # pragma: no cover

    @property
    def state(self) -> PromiseState:
        """Its state."""
        ...  # pragma: no cover

    @property
    def timeout(self) -> int:
        """Its timeout, in ms."""
        ...  # pragma: no cover


class _Timer(Struct, frozen=True, gc=False):
    """A pending promise, as far as it takes to set its timer."""

    id: str
    timeout: int
    state: PromiseState = PENDING


class _Times(Struct, array_like=True, gc=False):
    """The beginning of the same."""

    serial: int
    timeout: int


_encode: Final = packer()
_decode: Final = msgspec.msgpack.Decoder(_Folded).decode
_decode_times: Final = msgspec.msgpack.Decoder(_Times).decode


@final
class PromiseTable(MutableMapping[str, Promise]):
    """Promises by id. `kept` has them all, folded ones as bytes, for who is in haste.

    It is to be changed here only, but that it may take up a promise that is new.
    """

    __slots__ = ("_names", "_shapes", "folded_count", "folded_through", "kept", "recent")

    def __init__(self) -> None:
        """Start empty."""
        self.kept: dict[str, Promise | bytes] = {}
        self.recent: dict[str, Promise] = {}
        """Folded ones that were read, as objects: few, forgotten together."""
        self.folded_through = -1
        """The serial of the last promise that was looked at to be folded."""
        self.folded_count = 0
        self._shapes: dict[tuple[str, ...], int] = {}
        self._names: list[tuple[str, ...]] = []

    def __getitem__(self, promise_id: str) -> Promise:
        kept = self.kept[promise_id]
        return self.unfolded(promise_id, kept) if isinstance(kept, bytes) else kept

    def get(self, promise_id: str, default: object = None) -> Promise | None:  # type: ignore[override]
        """Return a promise, or None."""
        assert default is None, "no other is asked for"
        kept = self.kept.get(promise_id)
        return self.unfolded(promise_id, kept) if isinstance(kept, bytes) else kept

    def look(self, promise_id: str) -> Promise | None:
        """Return a promise, or None, to look at it once: it is not kept for the next reader."""
        kept = self.kept.get(promise_id)
        return self._made_of(promise_id, kept) if isinstance(kept, bytes) else kept

    def __contains__(self, promise_id: object) -> bool:
        return promise_id in self.kept

    def __len__(self) -> int:
        return len(self.kept)

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __setitem__(self, promise_id: str, promise: Promise) -> None:
        if isinstance(self.kept.get(promise_id), bytes):
            self._forget_folded(promise_id)
        self.kept[promise_id] = promise

    def __delitem__(self, promise_id: str) -> None:
        if isinstance(self.kept.pop(promise_id), bytes):
            self._forget_folded(promise_id)

    def _forget_folded(self, promise_id: str) -> None:
        self.folded_count -= 1
        self.recent.pop(promise_id, None)

    def timers(self) -> Iterator[TimedPromise]:
        """Yield all pending promises, as far as it takes to set their timers."""
        for promise_id, kept in self.kept.items():
            if isinstance(kept, bytes):
                yield _Timer(promise_id, _decode_times(kept).timeout)
            elif kept.state is PENDING:
                yield kept

    def fold_some(self, index: SerialIndex, through_serial: int) -> bool:
        """Fold a slice of what is pending, up to this serial; return whether some may be left.

        `index` has the promises by their serials.
        """
        last, ids = index.next_ids(self.folded_through, FOLD_SLICE_COUNT)
        if last == self.folded_through:
            return False
        kept, fold = self.kept, self._fold
        for promise_id in ids:
            promise = kept.get(promise_id)
            if promise is None or isinstance(promise, bytes):
                continue  # it is gone, or folded
            if promise.serial > through_serial:
                return False
            self.folded_through = promise.serial
            if promise.state is PENDING:
                folded = fold(promise)
                if folded is not None:
                    kept[promise_id] = folded
                    self.folded_count += 1
        self.folded_through = last
        return True

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
        folded = self._fold(promise)
        if folded is None:
            self.kept[promise.id] = promise
        else:
            self.kept[promise.id] = folded
            self.folded_count += 1

    def _fold(self, promise: Promise) -> bytes | None:
        """Return what stands for a promise; None if it is to stay an object."""
        tags, param = promise.tags, promise.param
        if param.data is not None and len(param.data) > FOLDED_DATA_CHARACTERS:
            return None
        shape: int = _NO_TAGS
        values: tuple[str | None, ...] = ()
        if tags is not None:
            shape, values = self._shape_of(tags)
            if promise.id in values:
                values = tuple([None if one == promise.id else one for one in values])
        folded = _Folded(
            promise.serial,
            promise.timeout,
            promise.created_on,
            param.data,
            shape,
            values,
            param.headers,
            promise.key_for_create,
            promise.trace,
        )
        try:
            return _encode(folded)
        except MemoryError:
            return None  # later: it is no time to make it smaller

    def _shape_of(self, tags: dict[str, str]) -> tuple[int, tuple[str, ...]]:
        """Return the number of a set of names, with the values for it."""
        names = tuple(tags)
        shape = self._shapes.get(names)
        if shape is None:
            shape = len(self._names)
            is_long = len(names) > _SHAPE_NAMES_COUNT or sum(map(len, names)) > _SHAPE_CHARACTERS
            if is_long or shape >= SHAPES_LIMIT_COUNT:
                return _OWN_NAMES, tuple(chain.from_iterable(tags.items()))
            self._shapes[names] = shape
            self._names.append(names)
        return shape, tuple(tags.values())

    def unfolded(self, promise_id: str, folded: bytes) -> Promise:
        """Return a promise that `kept` has only as bytes."""
        promise = self.recent.get(promise_id)
        if promise is None:
            if len(self.recent) >= RECENT_LIMIT_COUNT:
                self.recent.clear()
            promise = self.recent[promise_id] = self._made_of(promise_id, folded)
        return promise

    def _made_of(self, promise_id: str, folded: bytes) -> Promise:
        row = _decode(folded)
        shape, headers, data = row.shape, row.headers, row.data
        tags: dict[str, str] | None = None
        if shape != _NO_TAGS:
            values = [promise_id if one is None else one for one in row.tags]
            if shape == _OWN_NAMES:
                tags = dict(zip(values[::2], values[1::2], strict=True))
            else:
                tags = dict(zip(self._names[shape], values, strict=True))
        return Promise(
            promise_id,
            row.serial,
            PENDING,
            row.timeout,
            row.created_on,
            EMPTY_VALUE if headers is None and data is None else Value(headers, data),
            tags,
            row.key_for_create,
            trace=row.trace,
        )
