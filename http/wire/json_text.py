"""JSON text: compact UTF-8, as answers and messages have it."""

from typing import Any, Final

from msgspec import Struct

from troth.core.json_bytes import encoder

# Sorts the keys of dicts; the fields of Structs stay in their order.
_encode: Final = encoder("deterministic")
_encode_in_order: Final = encoder()


def dump(made: Struct | list[Any]) -> bytes:
    """Write an answer; the keys of dicts in it are sorted."""
    return _encode(made)


def dump_in_order(made: Any) -> bytes:
    """Write plain data, the keys of dicts in their order."""
    return _encode_in_order(made)
