"""Which function a promise stands for, as the client libraries write it."""

import base64
from typing import Final

import orjson

from troth.core.model import Promise

NAME_LIMIT_COUNT: Final = 120
"""A longer text is no function's name."""

PARAM_LIMIT_COUNT: Final = 64 << 10
"""A param of more characters is not looked into."""


def function_name(promise: Promise) -> str | None:
    """Return the function that a promise stands for, if its JSON param names it as `func`."""
    data = promise.param.data
    if not data or len(data) > PARAM_LIMIT_COUNT:
        return None
    try:
        param = orjson.loads(base64.b64decode(data))
    except ValueError:
        return None  # any data is allowed; this is not a client library's
    name = param.get("func") if isinstance(param, dict) else None
    return name if isinstance(name, str) and 0 < len(name) <= NAME_LIMIT_COUNT else None
