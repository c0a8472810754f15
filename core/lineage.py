"""Lineage: which promise is the parent of another, by the traces that client libraries leave.

The server knows no calls. A library that makes a promise for each call leaves tags and ids, whether
it speaks the REST API (`resonate:parent`, `resonate:root`, ids like `order.7`) or the envelope
protocol (`resonate:parent`, `resonate:origin`, ids like `order:7.2`). One rule holds for both: the
parent is the first of `possible_parents` that exists. `parents_of` applies it to a whole tree.
"""

from collections.abc import Container, Iterator, Mapping
from itertools import takewhile

from .model import TAG_ORIGIN, TAG_PARENT, TAG_ROOT

Tags = Mapping[str, str]

SEPARATORS = ".:"
"""What stands in an id between a promise's own part and its parent's id."""


def origin_of(tags: Tags | None) -> str | None:
    """Return the promise that a promise's tags name as the beginning of its lineage."""
    return None if tags is None else tags.get(TAG_ORIGIN) or tags.get(TAG_ROOT)


def possible_parents(promise_id: str, tags: Tags | None) -> Iterator[str]:
    """Yield the ids that a promise's parent may have, the most certain first.

    They are the one that its tag names, the beginnings of its id, the longest first, and the origin
    of its lineage. A promise whose tag names itself is the first of its lineage: the beginning of
    its id means nothing then.
    """
    named = None if tags is None else tags.get(TAG_PARENT)
    if named is not None and named != promise_id:
        yield named
    if named != promise_id:
        for end in range(len(promise_id) - 1, 0, -1):
            if promise_id[end] in SEPARATORS:
                yield promise_id[:end]
    origin = origin_of(tags)
    if origin is not None and origin != promise_id:
        yield origin


def parents_of(
    root_id: str, tags_of: Mapping[str, Tags | None], elsewhere: Container[str] = ()
) -> dict[str, str]:
    """Return the parent of every promise below the root, by id.

    `tags_of` has the tags of the root and of every promise that may be below it, by id. It may hold
    others; they are left out, and so is what belongs to one of the promises `elsewhere`. Tags may
    name parents in a circle: it leads nowhere.
    """
    claimed = {
        promise_id: parent
        for promise_id, tags in tags_of.items()
        if promise_id != root_id
        and (parent := _first_known(possible_parents(promise_id, tags), tags_of, elsewhere))
        is not None
    }
    below = {root_id}
    not_below: set[str] = set()
    for promise_id in claimed:
        chain: dict[str, None] = {}
        step = promise_id
        # No step is taken twice in all.
        while step in claimed and step not in below and step not in not_below and step not in chain:
            chain[step] = None
            step = claimed[step]
        (below if step in below else not_below).update(chain)
    return {child: parent for child, parent in claimed.items() if child in below}


def unknown_parents(promise_id: str, tags: Tags | None, known: Container[str]) -> Iterator[str]:
    """Yield the ids that come before the first known one of those that its parent may have."""
    return takewhile(lambda name: name not in known, possible_parents(promise_id, tags))


def shared_tags(root_id: str, tags: Tags | None) -> list[tuple[str, str]]:
    """Return the tags that promises below the root may have, one of them or more.

    They name the root as the beginning of their lineage, or the one that it has itself.
    """
    origins = dict.fromkeys((root_id, origin_of(tags) or root_id))
    return [(name, origin) for name in (TAG_ROOT, TAG_ORIGIN) for origin in origins]


def _first_known(
    possible: Iterator[str], known: Container[str], elsewhere: Container[str]
) -> str | None:
    return next((parent for parent in possible if parent in known or parent in elsewhere), None)
