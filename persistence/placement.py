"""Placement: the rule by which an id has its shard. It is chosen when a data directory is made.

`shard = xxh3_64(key as UTF-8) mod shard_count`. The key of a promise's id is its origin under the
rule `origin/1`, so that a workflow's promises, callbacks and tasks are in one shard, and the whole
id under the rule `id`. Locks, schedules and entries of the catalog go by their whole ids under both
rules. These functions must give the same answers forever.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final

import xxhash

from troth.core.grammar.origins import DIGITS, origin_of

_hash = xxhash.xxh3_64_intdigest

ShardOf = Callable[[str], int]
"""From an id to the index of its shard."""


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


def by_rule(rule: PlacementRule, shard_count: int) -> ShardOf:
    """Return what finds the shard of a promise, and of what hangs on it, under a rule."""
    return _by_origin(shard_count) if rule is PlacementRule.ORIGIN else by_id(shard_count)
