"""Retention rules, and what a shard remembers about the promises they will reach.

A rule says: completed promises in these states, with this tag if one is named, are deleted when
their completion is `age_ms` ago. `Retention` is a shard's notes for carrying the rules out. They
are not part of the state: they are rebuilt after a restart, and depend on the rules.

Where promises leave memory after a checkpoint, an index of the cold store lists them by the time
they ended. A *walk* goes through this index for one rule and one state and never looks back: what a
walk passed and left was not its rule's, and never will be, since completed promises do not change.
Everything that a walk could miss stands in a heap by the time it is due: completed promises of
shards that keep everything in memory, promises that reached the cold store only after a walk had
passed their time, and promises that were due but had to wait.
"""

import heapq

from msgspec import Struct

from .catalog import PACKAGE_PREFIX
from .model import Promise, PromiseState

Place = tuple[int, int]
"""When a promise ended, in ms, and its serial: its place in the order of ends."""

BEGINNING: Place = (-1, 0)
"""Before every place."""


class RetentionRule(Struct, frozen=True):
    """Which promises to delete, `age_ms` after they ended. `tag` is a name and its value."""

    states: tuple[PromiseState, ...]
    age_ms: int
    tag: tuple[str, str] | None = None

    def matches(self, promise: Promise) -> bool:
        """Return whether this rule is about a promise, whatever its age.

        Packages go with their builds.
        """
        if promise.state not in self.states or promise.id.startswith(PACKAGE_PREFIX):
            return False
        if self.tag is None:
            return True
        name, value = self.tag
        return promise.tags is not None and promise.tags.get(name) == value


def due_on(rules: tuple[RetentionRule, ...], promise: Promise) -> int | None:
    """Return when the first rule reaches a completed promise, in ms, or None if none does."""
    ages_ms = [rule.age_ms for rule in rules if rule.matches(promise)]
    return promise.ended_on + min(ages_ms) if ages_ms else None


def due_rule(rules: tuple[RetentionRule, ...], promise: Promise, now_ms: int) -> int | None:
    """Return the index of the first rule that deletes a promise now, or None if none does."""
    for place, rule in enumerate(rules):
        if promise.ended_on + rule.age_ms <= now_ms and rule.matches(promise):
            return place
    return None


class Walk:
    """How far one rule has looked through the cold promises of one state."""

    __slots__ = ("after", "age_ms", "state")

    def __init__(self, state: PromiseState, age_ms: int) -> None:
        self.state = state
        self.age_ms = age_ms
        self.after = BEGINNING


class Retention:
    """One shard's notes. `looked_ms` is the latest time that the walks went up to."""

    __slots__ = ("heap", "looked_ms", "rules", "walks")

    def __init__(self, rules: tuple[RetentionRule, ...]) -> None:
        self.rules = rules
        self.walks = [Walk(state, rule.age_ms) for rule in rules for state in rule.states]
        self.heap: list[tuple[int, int, str]] = []
        self.looked_ms = -1

    def stays(self, promise: Promise) -> None:
        """Note that a promise has completed and stays in memory for good."""
        due = due_on(self.rules, promise)
        if due is not None:
            self.look_again(promise, due)

    def goes_cold(self, promise: Promise) -> None:
        """Note that a completed promise leaves memory: walks that are not past it will meet it."""
        due = due_on(self.rules, promise)
        if due is not None and due <= self.looked_ms:
            self.look_again(promise, due)

    def look_again(self, promise: Promise, due_ms: int) -> None:
        """Look at a promise when the time has come."""
        heapq.heappush(self.heap, (due_ms, promise.serial, promise.id))
