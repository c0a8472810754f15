"""JSON objects as they are made for answers, and their text."""

from typing import Any

import msgspec

JsonObject = dict[str, Any]

_encode = msgspec.json.Encoder().encode


def dump(made: JsonObject | list[JsonObject]) -> bytes:
    """Write JSON text: compact, UTF-8."""
    return _encode(made)
