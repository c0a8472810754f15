"""JSON text: compact UTF-8, as answers and messages have it."""

from typing import Any, Final

import msgspec
from msgspec import Struct

# Sorts the keys of dicts; the fields of Structs stay in their order.
_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_encode_in_order: Final = msgspec.json.Encoder().encode


def dump(made: Struct | list[Any]) -> bytes:
    """Write an answer; the keys of dicts in it are sorted."""
    return _encode(made)


def dump_in_order(made: Any) -> bytes:
    """Write plain data, the keys of dicts in their order."""
    return _encode_in_order(made)
