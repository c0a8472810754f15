"""Large JSON bodies with very many small things in them.

A decoder reads a body in one call, which nothing can interrupt, in whatever thread. What it skips
costs 2 ms for each MiB, what it makes objects of up to 90 ms: 4 MiB of tiny tags would hold up
all requests for a quarter of a second. So large bodies are refused before that if they have more
strings or values in them than any good one. Counting may find too few of them, but never too many
strings.
"""

from troth.core.limits import BODY_STRINGS_LIMIT_COUNT


def crowd_problem(content: bytes) -> str | None:
    """Say what is wrong with a large body about one thing; None if nothing is.

    Each string has two quotes, and those within it have a backslash before them.
    """
    limit_count = 2 * BODY_STRINGS_LIMIT_COUNT
    quotes_count = content.count(b'"')
    if quotes_count <= limit_count or quotes_count - content.count(b'\\"') <= limit_count:
        return None
    return f"must have at most {BODY_STRINGS_LIMIT_COUNT} strings in it, keys included"


def values_problem(content: bytes, limit_count: int) -> str | None:
    """Say what is wrong with a large body about many things; None if nothing is.

    Values are separated by commas. Those within strings count, too.
    """
    if content.count(b",") <= limit_count:
        return None
    return f"must have at most {limit_count} values in it, and commas within them"
