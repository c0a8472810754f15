"""The locks that are held, in the order of their resources."""

from typing import Final

from troth.core.grammar.patterns import Pattern
from troth.shards.shards import Shards

from .pace import Pace
from .rows import LockRow
from .smallest import Smallest, chunks

LOOK_COUNT: Final = 2_000
"""How many locks are looked at between two rests."""


async def page(
    shards: Shards,
    pattern: Pattern,
    process_id: str | None,
    limit_count: int,
    after: str | None,
) -> tuple[list[LockRow], bool]:
    """Return the next locks that match, and whether there are more."""
    pace = Pace()
    smallest: Smallest[str] = Smallest(limit_count, after)
    for state in shards.states():
        held = state.locks if process_id is None else state.locks_of.get(process_id, {})
        for names in chunks(list(held), LOOK_COUNT):
            smallest.offer(name for name in names if pattern.matches(name))
            await pace.rest()
    names, has_more = smallest.found()
    found = [(shards.states()[shards.shard_of(name)], name) for name in names]
    rows = [
        LockRow(state.locks[name], state.end_of_lock(state.locks[name]))
        for state, name in found
        if name in state.locks
    ]
    return rows, has_more
