"""The bytes that stand for a completed promise in memory, until a checkpoint has it.

A completed promise never changes, and is hardly read before it leaves memory. So at the end of the
turn in which it completes it is *packed*: what the checkpoint will write of it is made then,
while all of it is in the processor's cache, and some seventeen objects become one. A checkpoint
would have to touch them all twice more, to write and to free them, after they have left the cache.

| bytes | field |
|---|---|
| 1 | `PACKED`, which no pending promise that is folded (`folding.py`) begins with |
| 8 | serial, big-endian, where a folded one has it |
| … | the promise as JSON: the content of its row |
"""

import struct
from typing import Final

import msgspec

from troth.core.json_bytes import own_encoder_behind
from troth.core.model import Promise
from troth.core.records import encode

from .folding import DATA_CHARACTERS, PACKED, SERIAL

CONTENT: Final = slice(SERIAL.stop, None)
"""Where a packed promise has its JSON."""

_START: Final = struct.Struct(">BQ")
"""Then packed promises sort by their serials."""
assert _START.size == SERIAL.stop, "the serial is where a folded promise has it"

_start: Final = _START.pack
_encode_behind: Final = own_encoder_behind(_START.size)
_decode: Final = msgspec.json.Decoder(Promise).decode


def pack(promise: Promise) -> bytes | None:
    """Return what stands for a completed promise; None if it is to stay an object: it is large.

    Raises MemoryError where there is none. In one thread only.
    """
    data, given = promise.value.data, promise.param.data
    if data is not None and len(data) > DATA_CHARACTERS:
        return None
    if given is not None and len(given) > DATA_CHARACTERS:
        return None
    return _encode_behind(_start(PACKED, promise.serial), promise)


def packed_whole(promise: Promise) -> bytes:
    """Return the same for a completed promise of any size. Any thread; raises MemoryError."""
    return _start(PACKED, promise.serial) + encode(promise)


def unpack(packed: bytes) -> Promise:
    """Return the promise that was packed."""
    return _decode(packed[CONTENT])
