"""The small values of the function-task API: ids of 24 hexadecimal digits, times, demands.

greencloud.md 1: ids are Mongo's (four bytes of Unix seconds, eight random bytes, so that they sort
by age); older answers write times as decimal Unix seconds in strings, newer ones as RFC 3339.
"""

import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from troth.http.wire.schema_parts import Schema

_ID: Final = re.compile(r"[0-9a-f]{24}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RANDOM_COUNT: Final = 8

ID_SCHEMA: Final[Schema] = {"type": "string", "pattern": f"^{_ID.pattern}$"}
"""What an id looks like, for the OpenAPI description."""


def new_id(now_ms: int, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """Make an id at a time in milliseconds since 1970; unguessable, and later ones sort later."""
    seconds = (now_ms // 1000) & 0xFFFFFFFF
    return f"{seconds:08x}{random_bytes(_RANDOM_COUNT).hex()}"


def is_id(text: str) -> bool:
    """Return whether a text is 24 lower-case hexadecimal digits; no other text is an id."""
    return _ID.fullmatch(text) is not None


def unix_seconds(at_ms: int | None) -> str:
    """Return a time as decimal seconds since 1970; empty if there is none."""
    return "" if at_ms is None else str(at_ms // 1000)


def rfc3339(at_ms: int) -> str:
    """Return a time as in `2024-03-19T23:58:51Z`, in whole seconds."""
    return (_EPOCH + timedelta(seconds=at_ms // 1000)).strftime("%Y-%m-%dT%H:%M:%SZ")
