"""JSON and msgpack of values, also when memory is short.

msgspec's `encode` ends the process with a segmentation fault when the memory for a long text cannot
be had (seen with 0.22 at a limit of address space); `encode_into` raises MemoryError then. So
everything that a server encodes goes through this module. It costs as much: a buffer that was
written to once is used again, which saves making it and letting it grow.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

import msgspec

BUFFER_KEPT_BYTES: Final = 16 * 1024
"""A buffer that has held more is not used again."""


def encoder(order: Literal["deterministic"] | None = None) -> Callable[[object], bytes]:
    """Return what writes compact UTF-8 JSON, and raises MemoryError; `order` is msgspec's.

    It may be called in any thread: no two calls have the same buffer.
    """
    return _reusing(msgspec.json.Encoder(order=order).encode_into)


def own_encoder(order: Literal["deterministic"] | None = None) -> Callable[[object], bytes]:
    """Return what does as `encoder`, but in one thread only: it has one buffer, so it is faster."""
    encode_into = msgspec.json.Encoder(order=order).encode_into
    buffer = bytearray()

    def encode(value: object) -> bytes:
        encode_into(value, buffer)
        text = bytes(buffer)
        if len(text) > BUFFER_KEPT_BYTES:
            buffer.clear()
        return text

    return encode


def own_encoder_behind(start_bytes: int) -> Callable[[bytes, object], bytes]:
    """Return what does as `own_encoder`, behind a start of so many bytes that it is given."""
    encode_into = msgspec.json.Encoder().encode_into
    buffer = bytearray(start_bytes)

    def encode(start: bytes, value: object) -> bytes:
        encode_into(value, buffer, start_bytes)
        buffer[:start_bytes] = start
        text = bytes(buffer)
        if len(text) > BUFFER_KEPT_BYTES:
            del buffer[start_bytes:]
        return text

    return encode


def own_encoder_of_many() -> Callable[[Iterable[object]], list[bytes]]:
    """Return what does as `own_encoder` does for each of some values."""
    encode_into = msgspec.json.Encoder().encode_into
    buffer = bytearray()

    def encode_each(values: Iterable[object]) -> list[bytes]:
        texts: list[bytes] = []
        for value in values:
            encode_into(value, buffer)
            texts.append(bytes(buffer))
        if len(buffer) > BUFFER_KEPT_BYTES:
            buffer.clear()
        return texts

    return encode_each


def packer(enc_hook: Callable[[Any], Any] | None = None) -> Callable[[object], bytes]:
    """Return what writes msgpack, as `encoder` does JSON; `enc_hook` is msgspec's."""
    return _reusing(msgspec.msgpack.Encoder(enc_hook=enc_hook).encode_into)


def appender(
    enc_hook: Callable[[Any], Any] | None = None,
) -> Callable[[object, bytearray, int], None]:
    """Return what writes msgpack into a buffer at an offset, or at its end: -1.

    Raises MemoryError. What it has written by then is to be cut off.
    """
    return msgspec.msgpack.Encoder(enc_hook=enc_hook).encode_into


def _reusing(encode_into: Callable[[Any, bytearray], None]) -> Callable[[object], bytes]:
    """Return what encodes into a buffer that was used before."""
    free: list[bytearray] = []
    take, give_back = free.pop, free.append

    def encode(value: object) -> bytes:
        try:
            buffer = take()
        except IndexError:  # the first call, or others are under way
            buffer = bytearray()
        encode_into(value, buffer)
        text = bytes(buffer)
        if len(text) <= BUFFER_KEPT_BYTES:
            give_back(buffer)
        return text

    return encode
