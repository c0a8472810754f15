"""The locks that are held, in the order of their resources; of very many, a shard at a time."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from troth.core.grammar.patterns import Pattern
from troth.core.state.shard_state import ShardState
from troth.shards.shards import Shards

from .pace import Pace
from .rows import LockRow
from .smallest import Smallest, chunks

LOOK_COUNT: Final = 2_000
"""How many locks are looked at between two rests."""
ORDERED_LIMIT_COUNT: Final = 50_000
"""So many locks are put in order as a whole; of more, each shard's are."""


class LockPlace(Struct, frozen=True, array_like=True):
    """Where a page of locks begins: after a resource, of one shard or (None) of all."""

    after: str | None = None
    shard: int | None = None


class LockPage(Struct, frozen=True):
    """A page of locks; `following` is where to go on, None at the end."""

    rows: list[LockRow]
    following: LockPlace | None


def count(shards: Shards, process_id: str | None) -> int:
    """Return how many locks there are, or how many a process renews."""
    return sum(len(_held(state, process_id)) for state in shards.states())


async def page(
    shards: Shards,
    pattern: Pattern,
    process_id: str | None,
    limit_count: int,
    place: LockPlace,
) -> LockPage:
    """Return the next locks that match; a page ends early when it has cost what it may."""
    pace = Pace()
    states = shards.states()
    if place.shard is None and count(shards, process_id) <= ORDERED_LIMIT_COUNT:
        rows, reached, has_more = await _first(
            states, pattern, process_id, limit_count, place.after, pace
        )
        return LockPage(rows, LockPlace(reached) if has_more else None)
    found: list[LockRow] = []
    after = place.after if place.shard is not None else None
    for index in range(place.shard or 0, len(states)):
        left_count = limit_count - len(found)
        rows, reached, has_more = await _first(
            [states[index]], pattern, process_id, left_count, after, pace
        )
        found += rows
        if has_more:
            return LockPage(found, LockPlace(reached, index))
        after = None
        if pace.is_spent and index + 1 < len(states):
            return LockPage(found, LockPlace(None, index + 1))
    return LockPage(found, None)


async def _first(
    states: list[ShardState],
    pattern: Pattern,
    process_id: str | None,
    limit_count: int,
    after: str | None,
    pace: Pace,
) -> tuple[list[LockRow], str | None, bool]:
    """Return the first locks of some shards after a resource, in order, and what follows.

    That is the resource that was reached, whose lock may have been released in a rest, and whether
    there are more after it.
    """
    smallest: Smallest[str] = Smallest(limit_count, after)
    home: dict[str, ShardState] = {}
    for state in states:
        for names in chunks(list(_held(state, process_id)), LOOK_COUNT):
            cut = smallest.cut
            wanted = [
                name
                for name in names
                if (after is None or after < name)
                and (cut is None or name < cut)
                and pattern.matches(name)
            ]
            smallest.offer(wanted)
            home.update(dict.fromkeys(wanted, state))
            await pace.rest()
    found, has_more = smallest.found()
    rows = [
        LockRow(state.locks[name], state.end_of_lock(state.locks[name]))
        for name in found
        if name in (state := home[name]).locks
    ]
    return rows, found[-1] if found else after, has_more


def _held(state: ShardState, process_id: str | None) -> Mapping[str, object]:
    return state.locks if process_id is None else state.locks_of.get(process_id, {})
