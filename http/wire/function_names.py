"""Which function a promise stands for, as the client libraries write it."""

import base64
from typing import Final

import orjson

from troth.core.model import Promise

NAME_LIMIT_COUNT: Final = 120
"""A longer text is no function's name."""

PARAM_LIMIT_COUNT: Final = 64 << 10
"""A param of more characters is not looked into."""


def function_name(promise: Promise, limit_count: int = PARAM_LIMIT_COUNT) -> str | None:
    """Return the function that a promise stands for, if its JSON param names it as `func`.

    `limit_count` is how many characters of base64 a param may have to be looked into.
    """
    data = promise.param.data
    return None if not data or len(data) > limit_count else named_in(data)


def named_in(data: str) -> str | None:
    """Return the function that a param in base64 names."""
    try:
        param = orjson.loads(base64.b64decode(data))
    except ValueError:
        return None  # any data is allowed; this is not a client library's
    name = param.get("func") if isinstance(param, dict) else None
    return name if isinstance(name, str) and 0 < len(name) <= NAME_LIMIT_COUNT else None
