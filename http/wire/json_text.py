"""JSON objects as they are made for answers, and their text."""

from typing import Any

from troth.core.json_bytes import encoder

JsonObject = dict[str, Any]

_encode = encoder()


def dump(made: JsonObject | list[JsonObject]) -> bytes:
    """Write JSON text: compact, UTF-8."""
    return _encode(made)
