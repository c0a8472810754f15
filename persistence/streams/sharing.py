"""Which node of a cluster is to own which group, as far as nodes agree on who is there. No I/O.

Who owns a group is decided by its stream alone (`ownership.py`). What stands here only keeps nodes
from getting in one another's way, and spreads groups evenly: a node that knows less than another,
or something else, does no harm.

- A group stays where it is as long as its owner lives and no node has two groups more than another.
  If one does, a group goes that the other stands by for, rather than one that it still has to read.
- A group without an owner goes to the node with the fewest; among those that have as few, a hash of
  node and group decides (rendezvous hashing), so that all nodes come to the same.
- That node claims first, the others each `CLUSTER_CLAIM_STEP_MS` later, in the same order.
- What the operator wishes comes first (`Wishes`): a drained node has no groups as long as another
  one lives that is not drained, and claims last; a group with a wished node is there, if that node
  lives and is not drained. All other groups make it as even as they can.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple, final

import orjson

from troth.core.limits import CLUSTER_CLAIM_STEP_MS, STREAM_LOOK_EXPECTED_MS, STREAM_LOOK_MS

_FORGOTTEN_MS: Final = 1_000
"""A group that was not free for this long is not waited for since before."""
_SCORES_KEPT_COUNT: Final = 4_096
"""Hashes of a node and a group that are kept: what follows from them is worked out all the time."""


class Wishes(NamedTuple):
    """What the operator wishes: nodes without groups, and where some groups are to be."""

    drained: frozenset[str] = frozenset()
    placed: Mapping[int, str] = {}

    def encoded(self) -> str:
        """Return it as text; the same text for the same wishes."""
        placed = {str(group): self.placed[group] for group in sorted(self.placed)}
        return orjson.dumps({"drained": sorted(self.drained), "placed": placed}).decode()


def decode_wishes(text: str | bytes) -> Wishes:
    """Return what `Wishes.encoded` has made text; no wishes if it is empty."""
    if not text:
        return Wishes()
    fields = orjson.loads(text)
    placed = {int(group): node for group, node in fields["placed"].items()}
    return Wishes(frozenset(fields["drained"]), placed)


class Move(NamedTuple):
    """A group that its owner is to leave to another node."""

    group: int
    target: str


@final
@dataclass(frozen=True, slots=True)
class Sharing:
    """What a node knows: the nodes that live, those by which groups were claimed last, wishes.

    `standing_by` are the nodes that have read all there is of each group.
    """

    groups_count: int
    holders: Mapping[int, str]
    living: Set[str]
    wishes: Wishes = field(default_factory=Wishes)
    standing_by: Mapping[int, Set[str]] = field(default_factory=dict)

    @property
    def takers(self) -> Set[str]:
        """The nodes that are to have groups: those not drained, or all that live if all are."""
        return self.living - self.wishes.drained or self.living

    def wanted(self) -> dict[int, str]:
        """Return which node is to own each group; nothing if no node lives."""
        if not self.living:
            return {}
        groups: dict[str, list[int]] = {node: [] for node in sorted(self.takers)}
        placed = {group: node for group, node in self.wishes.placed.items() if node in groups}
        free: list[int] = []
        for group in range(self.groups_count):
            groups.get(placed.get(group, self.holders.get(group, "")), free).append(group)
        for group in free:
            groups[self._order(groups, group)[0]].append(group)
        while True:
            emptiest = min(groups, key=lambda node: (len(groups[node]), node))
            movable = {node: [one for one in groups[node] if one not in placed] for node in groups}
            fullest = max(
                (node for node in groups if movable[node] or node == emptiest),
                key=lambda node: (len(groups[node]), node),
            )
            if len(groups[fullest]) - len(groups[emptiest]) < 2:
                return {group: node for node, owned in groups.items() for group in owned}
            moved = max(movable[fullest], key=lambda group: self._worth(emptiest, group))
            groups[fullest].remove(moved)
            groups[emptiest].append(moved)

    def _worth(self, node: str, group: int) -> tuple[bool, int]:
        """Return what a group is compared by with others that could go to a node."""
        return node in self.standing_by.get(group, ()), _score(node, group)

    def _order(self, groups: Mapping[str, Sequence[int]], group: int) -> list[str]:
        """Return nodes by how many groups they have, and by hash where those are as many."""
        return sorted(groups, key=lambda node: (len(groups[node]), -_score(node, group)))

    def claimers(self, group: int, node: str) -> list[str]:
        """Return in which order nodes are to claim a group that has no owner now.

        `node` asks. Another one that had it last has given it up, or is gone. Those that are to
        have no groups come last.
        """
        left = {one: holder for one, holder in self.holders.items() if one != group}
        before = self.holders.get(group)
        if before == node and node in self.takers:
            return [node, *sorted(self.living - {node})]
        sharing = Sharing(self.groups_count, left, self.living - {before}, self.wishes)
        wanted = sharing.wanted()
        if not wanted:
            return []
        first = wanted.pop(group)
        owned: dict[str, list[int]] = {one: [] for one in sharing.takers}
        for one, owner in wanted.items():
            owned[owner].append(one)
        order = [first, *(one for one in self._order(owned, group) if one != first)]
        rest = sharing.living | ({node} & self.living)
        return [*order, *sorted(rest - sharing.takers)]

    def moves(self) -> list[Move]:
        """Return which groups are to go elsewhere, though their owners live."""
        return [
            Move(group, node)
            for group, node in sorted(self.wanted().items())
            if self.holders.get(group) in self.living and self.holders[group] != node
        ]


@final
class ClaimTurn:
    """When this node may claim a group: asked by the thread that follows the group's stream.

    `rank` is its place among those that are to claim it, from 0; None as long as it is unknown.
    """

    def __init__(self, boot_ms: Callable[[], int]) -> None:
        self.rank: int | None = None
        self.is_expected = False
        """Whether the group is about to be left to this node."""
        self._boot_ms = boot_ms
        self._since_ms = 0
        self._asked_ms = -_FORGOTTEN_MS

    def look_s(self) -> float:
        """Return when to look again whether the group is free."""
        return (STREAM_LOOK_EXPECTED_MS if self.is_expected else STREAM_LOOK_MS) / 1000

    def may_claim(self) -> bool:
        """Return whether it is this node's turn. Asked again and again while no node owns it."""
        now_ms, rank = self._boot_ms(), self.rank
        if now_ms - self._asked_ms >= _FORGOTTEN_MS:
            self._since_ms = now_ms
        self._asked_ms = now_ms
        return rank is not None and now_ms - self._since_ms >= rank * CLUSTER_CLAIM_STEP_MS


@lru_cache(maxsize=_SCORES_KEPT_COUNT)
def _score(node: str, group: int) -> int:
    digest = hashlib.sha256(f"{group}/{node}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
