"""W3C's `traceparent`: which texts are one, and what they say.

A text that is none is no error: it counts as absent. A later version than 00 may be longer; what is
behind its flags is not looked at.
"""

import re
from typing import Final

SAMPLED: Final = 1
RANDOM: Final = 2
"""The flags that are known: the caller records the trace; the trace's id is random."""

_PARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?",
    re.ASCII,
)
_FIRST_VERSION: Final = "00"


def read(text: str) -> tuple[str, str, int] | None:
    """Return the ids of a trace and of a span, and the flags; None if the text is none."""
    found = _PARENT.fullmatch(text.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if more is not None and version == _FIRST_VERSION:
        return None
    return trace_id, span_id, int(flags, 16) & (SAMPLED | RANDOM)


def sampled_trace_id(text: str) -> str | None:
    """Return the id of the trace, if its caller records it."""
    found = read(text)
    return found[0] if found is not None and found[2] & SAMPLED else None
