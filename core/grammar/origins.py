"""The origin of an id: the id without a tail of `.N` or `:N` pieces.

Client libraries name the calls of a workflow by numbers behind its id: `order.1.2`, `order:1.2`. So
all ids of one workflow have one origin, `order`. N is 0 to 99999, without a leading zero. An origin
is a piece of the id, and says nothing about the tag of that name.
"""

import re
from typing import Final

DIGITS: Final = frozenset("0123456789")
# Of the id read backwards: so a tail is found in one go, however many pieces an id has.
_TAIL: Final = re.compile(r"(?:(?:[0-9]{0,4}[1-9]|0)[.:])+").match


def origin_of(identifier: str) -> str:
    """Return the origin of an id, which may be empty."""
    tail = _TAIL(identifier[::-1])
    return identifier if tail is None else identifier[: -tail.end()]
