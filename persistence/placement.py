"""Placement: the rule by which an id has its shard. It is chosen when a data directory is made.

`shard = xxh3_64(key as UTF-8) mod shard_count`. The key of a promise's id is its origin under the
rule `origin/1`, so that a workflow's promises, callbacks and tasks are in one shard, and the whole
id under the rule `id`. Locks, schedules and entries of the catalog go by their whole ids under both
rules. These functions must give the same answers forever.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, Protocol

import xxhash

from troth.core.grammar.origins import DIGITS, origin_of

_hash = xxhash.xxh3_64_intdigest

ShardOf = Callable[[str], int]
"""From an id to the index of its shard."""


class Named(Protocol):
    """What has an id."""

    @property
    def id(self) -> str:
        """Return it."""
        ...  # pragma: no cover


class PlacementRule(StrEnum):
    """The rules, as `troth.json` names them."""

    ORIGIN = "origin/1"
    ID = "id"


DEFAULT_RULE: Final = PlacementRule.ORIGIN


def by_id(shard_count: int) -> ShardOf:
    """Return what finds the shard of a lock, a schedule or an entry, under any rule."""

    def shard_of(identifier: str) -> int:
        return _hash(identifier.encode()) % shard_count

    return shard_of


def _by_origin(shard_count: int) -> ShardOf:
    def shard_of(identifier: str) -> int:
        # This is done for every command: most ids cost only these looks.
        if ("." in identifier or ":" in identifier) and identifier[-1] in DIGITS:
            identifier = origin_of(identifier)
        return _hash(identifier.encode()) % shard_count

    return shard_of


def _of_named_by_origin(shard_count: int) -> Callable[[Named], int]:
    def shard_of(named: Named) -> int:
        # As `_by_origin`, without a call between.
        identifier = named.id
        if ("." in identifier or ":" in identifier) and identifier[-1] in DIGITS:
            identifier = origin_of(identifier)
        return _hash(identifier.encode()) % shard_count

    return shard_of


def _of_named_by_id(shard_count: int) -> Callable[[Named], int]:
    def shard_of(named: Named) -> int:
        return _hash(named.id.encode()) % shard_count

    return shard_of


def of_named(rule: PlacementRule, shard_count: int) -> Callable[[Named], int]:
    """Return what finds the shard of what names a promise by its `id`, under a rule."""
    make = _of_named_by_origin if rule is PlacementRule.ORIGIN else _of_named_by_id
    return make(shard_count)


def dealt_shards(shard_count: int, groups_count: int) -> tuple[int, ...]:
    """Return how many shards each group has, if they are dealt out as evenly as can be.

    Raises ValueError if a group would have none.
    """
    if not 1 <= groups_count <= shard_count:
        raise ValueError(f"{shard_count} shards cannot be dealt to {groups_count} groups")
    each, rest = divmod(shard_count, groups_count)
    return tuple(each + (group < rest) for group in range(groups_count))


def groups_by_shard(group_shards: Sequence[int]) -> tuple[int, ...]:
    """Return the group of each shard: the shards of a group follow one another."""
    return tuple(group for group, count in enumerate(group_shards) for _ in range(count))


def by_rule(rule: PlacementRule, shard_count: int) -> ShardOf:
    """Return what finds the shard of a promise, and of what hangs on it, under a rule."""
    return _by_origin(shard_count) if rule is PlacementRule.ORIGIN else by_id(shard_count)
