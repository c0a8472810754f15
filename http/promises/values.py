"""From decoded bodies about promises to the core's values: receivers, params, tags."""

from typing import cast

import msgspec

from troth.core.model import EMPTY_VALUE, Json, Value

from .schemas import ValueBody


def receiver(raw: msgspec.Raw) -> Json:
    """Decode a receiver that `AnyJson` has accepted."""
    decoded: Json = msgspec.json.decode(raw)
    return decoded


def value(body: ValueBody | None) -> Value:
    """Return the param or value that a decoded body describes; empty parts are left out."""
    if body is None:
        return EMPTY_VALUE
    headers, data = body.headers, body.data
    if not headers:
        return Value(None, data) if data else EMPTY_VALUE
    return Value(string_map(headers), data or None)


def string_map(entries: dict[str, str | None] | None) -> dict[str, str] | None:
    """Return tags or headers; None if there are none."""
    if not entries:
        return None
    if None not in entries.values():  # nearly always
        return cast("dict[str, str]", entries)
    return {key: entry or "" for key, entry in entries.items()}
