"""The bytes that stand for a promise that waits: in memory, and as its row in a checkpoint.

In memory they are, without the promise's id:

| bytes | field |
|---|---|
| 1 | the number of the set of its tags' names (`NameSets`), or `NO_TAGS`, or `OWN_NAMES` |
| 8 | serial, big-endian like the others |
| 8 | timeout, ms |
| 8 | when it was created, ms |
| … | nothing; or C1, and all that there is to the promise: its data; or a msgpack array |

The array has the values of its tags, data, headers, key for create and trace. It ends behind the
last field that the promise has. A tag whose value is the promise's own id
has nil for it. With `OWN_NAMES` names and values take turns.

In a row the number is the names themselves, and the serial is in the row's key: so a checkpoint
writes what is in memory, and a start takes it up again, and neither makes a promise of it.

| bytes | field |
|---|---|
| 1 | `ROW_MARK`. The row of a promise that was not folded is JSON, which begins with `[` |
| 4 | length of the id |
| 2 | length of the names |
| … | the id, UTF-8 |
| … | the names as a msgpack array; nothing for `NO_TAGS`, nil for `OWN_NAMES` |
| … | timeout, creation and what follows, as in memory |

Reading raises one of `UNREADABLE_ROW` for bytes that are nothing of the kind.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final, final

import msgspec
from msgspec import Struct

from troth.core.json_bytes import packer
from troth.core.json_errors import UNREADABLE_JSON
from troth.core.model import EMPTY_VALUE, PENDING, Promise, Trace, Value

NAMES_LIMIT_COUNT: Final = 253
"""So many sets of tag names are kept once for all promises that have them, in each shard."""

PACKED: Final = 253
"""What stands for a completed promise begins with it: see `packing.py`."""
OWN_NAMES: Final = 254
NO_TAGS: Final = 255
assert NAMES_LIMIT_COUNT <= PACKED < OWN_NAMES < NO_TAGS < 256, "a number is one byte"

_SET_NAMES_COUNT: Final = 16
_SET_CHARACTERS: Final = 512
"""Sets of more names, or longer ones, are kept with each promise."""

DATA_CHARACTERS: Final = 8_192
"""A promise with longer data is not folded: it would become hardly smaller."""

ROW_MARK: Final = 1

UNREADABLE_ROW: Final = (*UNREADABLE_JSON, struct.error, IndexError, ValueError)
"""What is raised for a row that is none."""

_START: Final = struct.Struct(">BQqq")
_DATA_START: Final = struct.Struct(">BQqqB")
_ROW_START: Final = struct.Struct(">BIH")
_TIMEOUT: Final = struct.Struct(">q")
SERIAL: Final = slice(1, 9)
"""Where a folded promise has its serial."""
TIMEOUT_OFFSET: Final = 9
_ROW_START_BYTES: Final = _ROW_START.size
_START_BYTES: Final = _START.size
_DATA_START_BYTES: Final = _DATA_START.size
_TIMES_BYTES: Final = _START_BYTES - TIMEOUT_OFFSET
_NUMBER: Final = tuple(bytes([number]) for number in range(256))
_DATA_ALONE: Final = 0xC1  # which begins nothing in msgpack
_OWN_NAMES_PACKED: Final = msgspec.msgpack.encode(None)


FoldedRow = tuple[bytes, bytes]
"""A pending promise as a checkpoint has it: its serial in 8 bytes, and its row."""


class RowUnreadable(Exception):
    """A row of a folded promise is none."""


class TooManyNames(Exception):
    """A set of names gets no number."""


class _Rest(Struct, array_like=True, gc=False):
    """What most promises lack some of."""

    values: tuple[str | None, ...] | None = None
    data: str | None = None
    headers: dict[str, str] | None = None
    key_for_create: str | None = None
    trace: Trace | None = None


class _Values(Struct, array_like=True, gc=False):
    """The beginning of the same."""

    values: tuple[str | None, ...]


read_timeout: Final = _TIMEOUT.unpack_from
"""With `TIMEOUT_OFFSET` it returns the timeout of a folded promise, in ms, alone in a tuple."""

_pack: Final = packer()
_pack_start: Final = _START.pack
_pack_data_start: Final = _DATA_START.pack
_unpack_start: Final = _START.unpack_from
_unpack_row_start: Final = _ROW_START.unpack_from
_unpack_rest: Final = msgspec.msgpack.Decoder(_Rest).decode
_unpack_values: Final = msgspec.msgpack.Decoder(_Values).decode
_unpack_names: Final = msgspec.msgpack.Decoder(tuple[str, ...]).decode


@final
class NameSets:
    """The sets of names that a shard's promises have tags of, by number."""

    __slots__ = ("names", "numbers", "numbers_packed", "packed")

    def __init__(self) -> None:
        """Start with none."""
        self.names: list[tuple[str, ...]] = []
        self.packed: dict[int, bytes] = {NO_TAGS: b"", OWN_NAMES: _OWN_NAMES_PACKED}
        """What is written into rows, by number."""
        self.numbers: dict[tuple[str, ...], int] = {}
        self.numbers_packed = {packed: number for number, packed in self.packed.items()}

    def number_of(self, names: tuple[str, ...]) -> int:
        """Return the number of a set, which may be new; `OWN_NAMES` if it gets none."""
        number = self.numbers.get(names)
        if number is None:
            is_long = len(names) > _SET_NAMES_COUNT or sum(map(len, names)) > _SET_CHARACTERS
            if is_long or len(self.names) >= NAMES_LIMIT_COUNT:
                return OWN_NAMES
            number = self._add(names, _pack(names))
        return number

    def number_of_packed(self, packed: bytes) -> int:
        """Return the number of the set in a row; raises TooManyNames if it gets none."""
        number = self.numbers_packed.get(packed)
        if number is None:
            if len(self.names) >= NAMES_LIMIT_COUNT:
                raise TooManyNames
            number = self._add(_unpack_names(packed), packed)
        return number

    def _add(self, names: tuple[str, ...], packed: bytes) -> int:
        number = len(self.names)
        self.numbers[names] = self.numbers_packed[packed] = number
        self.packed[number] = packed
        self.names.append(names)
        return number


def fold(promise: Promise, name_sets: NameSets) -> bytes | None:
    """Return what stands for a pending promise; None if it is to stay an object.

    Raises MemoryError where there is none.
    """
    param, tags, key, trace = promise.param, promise.tags, promise.key_for_create, promise.trace
    data, headers = param.data, param.headers
    if data is not None and len(data) > DATA_CHARACTERS:
        return None
    if tags is None and key is None and trace is None and headers is None:
        return fold_plain(promise.serial, promise.timeout, promise.created_on, param)
    number, promise_id = NO_TAGS, promise.id
    values: list[str | None] | None = None
    if tags is not None:
        names = tuple(tags)
        found = name_sets.numbers.get(names)
        number = name_sets.number_of(names) if found is None else found
        values = [*tags.values()]
        if number == OWN_NAMES:
            values = [*chain.from_iterable(tags.items())]
        if promise_id in values:
            values = _without(promise_id, values)
    rest: tuple[object, ...] = (values, data)
    if trace is not None:
        rest = (values, data, headers, key, trace)
    elif key is not None:
        rest = (values, data, headers, key)
    elif headers is not None:
        rest = (values, data, headers)
    start = _pack_start(number, promise.serial, promise.timeout, promise.created_on)
    return start + _pack(rest)


def fold_plain(serial: int, timeout: int, created_on: int, param: Value) -> bytes | None:
    """Return what stands for a pending promise that has no more than its param.

    None if it is to stay an object: it has headers or much data, or memory is short.
    """
    data = param.data
    if param.headers is not None or (data is not None and len(data) > DATA_CHARACTERS):
        return None
    try:
        if data is None:
            return _pack_start(NO_TAGS, serial, timeout, created_on)
        start = _pack_data_start(NO_TAGS, serial, timeout, created_on, _DATA_ALONE)
        return start + data.encode()
    except MemoryError:
        return None


def _without(promise_id: str, values: Iterable[str | None]) -> list[str | None]:
    """Return the values with None for those that are the promise's id."""
    return [None if value == promise_id else value for value in values]


def unfold(promise_id: str, folded: bytes, name_sets: NameSets) -> Promise:
    """Return the promise that a shard has folded."""
    number, serial, timeout, created_on = _unpack_start(folded)
    if len(folded) == _START_BYTES:
        return Promise(promise_id, serial, PENDING, timeout, created_on)
    if folded[_START_BYTES] == _DATA_ALONE:
        param = Value(None, folded[_DATA_START_BYTES:].decode())
        return Promise(promise_id, serial, PENDING, timeout, created_on, param)
    found = _unpack_rest(folded[_START_BYTES:])
    data, headers = found.data, found.headers
    return Promise(
        promise_id,
        serial,
        PENDING,
        timeout,
        created_on,
        EMPTY_VALUE if headers is None and data is None else Value(headers, data),
        None if number == NO_TAGS else dict(_tags(promise_id, number, found.values, name_sets)),
        found.key_for_create,
        trace=found.trace,
    )


def values_of(folded: bytes) -> tuple[str | None, ...]:
    """Return the values of a folded promise's tags; None stands for its id."""
    return _unpack_values(folded[_START_BYTES:]).values


def tags_of(promise_id: str, folded: bytes, name_sets: NameSets) -> Iterable[tuple[str, str]]:
    """Return the names and values of the tags of a folded promise, which has some."""
    return _tags(promise_id, folded[0], values_of(folded), name_sets)


def _tags(
    promise_id: str, number: int, values: Sequence[str | None] | None, name_sets: NameSets
) -> Iterable[tuple[str, str]]:
    if values is None:
        raise ValueError("its tags have no values")
    texts: Sequence[str] = values  # type: ignore[assignment]  # most have no other
    if None in values:
        texts = [promise_id if value is None else value for value in values]
    if number == OWN_NAMES:
        return zip(texts[::2], texts[1::2], strict=True)
    return zip(name_sets.names[number], texts, strict=True)


def serial_of(folded: bytes) -> int:
    """Return the serial of a folded promise."""
    return int.from_bytes(folded[SERIAL], "big")


def row_of(promise_id: str, folded: bytes, packed_names: Mapping[int, bytes]) -> bytes:
    """Return the row of a folded promise. `packed_names` are those of its shard's `NameSets`."""
    identifier, names = promise_id.encode(), packed_names[folded[0]]
    start = _ROW_START.pack(ROW_MARK, len(identifier), len(names))
    return b"".join((start, identifier, names, folded[TIMEOUT_OFFSET:]))


def read_row(serial: bytes, row: bytes, name_sets: NameSets) -> tuple[str, bytes]:
    """Return the id of a promise, and what stands for it in a shard that has these names.

    `serial` has 8 bytes. Raises TooManyNames where the row's set of names is new and one too many.
    """
    _, identifier_count, names_count = _unpack_row_start(row)
    names_start = _ROW_START_BYTES + identifier_count
    rest_start = names_start + names_count
    if len(row) < rest_start + _TIMES_BYTES:
        raise ValueError("it is too short")
    packed = row[names_start:rest_start]
    number = name_sets.numbers_packed.get(packed)
    if number is None:
        number = name_sets.number_of_packed(packed)
    promise_id = row[_ROW_START_BYTES:names_start].decode()
    return promise_id, _NUMBER[number] + serial + row[rest_start:]


def promise_of(serial: bytes, row: bytes) -> Promise:
    """Return the promise that the row of a folded one stands for."""
    names = NameSets()
    return unfold(*read_row(serial, row, names), names)
