"""Which node of a cluster is to own which group, as far as nodes agree on who is there. No I/O.

Who owns a group is decided by its stream alone (`ownership.py`). What stands here only keeps nodes
from getting in one another's way, and spreads groups evenly: a node that knows less than another,
or something else, does no harm.

- A group stays where it is as long as its owner lives and no node has two groups more than another.
- A group without an owner goes to the node with the fewest; among those that have as few, a hash of
  node and group decides (rendezvous hashing), so that all nodes come to the same.
- That node claims first, the others each `CLUSTER_CLAIM_STEP_MS` later, in the same order.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final, NamedTuple, final

from troth.core.limits import CLUSTER_CLAIM_STEP_MS

_FORGOTTEN_MS: Final = 1_000
"""A group that was not free for this long is not waited for since before."""


class Move(NamedTuple):
    """A group that its owner is to leave to another node."""

    group: int
    target: str


@final
@dataclass(frozen=True, slots=True)
class Sharing:
    """What a node knows: the nodes that live, and those by which groups were claimed last."""

    groups_count: int
    holders: Mapping[int, str]
    living: Set[str]

    def wanted(self) -> dict[int, str]:
        """Return which node is to own each group; nothing if no node lives."""
        if not self.living:
            return {}
        groups: dict[str, list[int]] = {node: [] for node in sorted(self.living)}
        free: list[int] = []
        for group in range(self.groups_count):
            groups.get(self.holders.get(group, ""), free).append(group)
        for group in free:
            groups[self._order(groups, group)[0]].append(group)
        while True:
            fullest = max(groups, key=lambda node: (len(groups[node]), node))
            emptiest = min(groups, key=lambda node: (len(groups[node]), node))
            if len(groups[fullest]) - len(groups[emptiest]) < 2:
                return {group: node for node, owned in groups.items() for group in owned}
            moved = max(groups[fullest], key=lambda group: _score(emptiest, group))
            groups[fullest].remove(moved)
            groups[emptiest].append(moved)

    def _order(self, groups: Mapping[str, Sequence[int]], group: int) -> list[str]:
        """Return nodes by how many groups they have, and by hash where those are as many."""
        return sorted(groups, key=lambda node: (len(groups[node]), -_score(node, group)))

    def claimers(self, group: int, node: str) -> list[str]:
        """Return in which order nodes are to claim a group that has no owner now.

        `node` asks. Another one that had it last has given it up, or is gone.
        """
        left = {one: holder for one, holder in self.holders.items() if one != group}
        before = self.holders.get(group)
        if before == node and node in self.living:
            return [node, *sorted(self.living - {node})]
        sharing = Sharing(self.groups_count, left, self.living - {before})
        wanted = sharing.wanted()
        if not wanted:
            return []
        first = wanted.pop(group)
        owned: dict[str, list[int]] = {one: [] for one in sharing.living}
        for one, owner in wanted.items():
            owned[owner].append(one)
        return [first, *(one for one in self._order(owned, group) if one != first)]

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
        self._boot_ms = boot_ms
        self._since_ms = 0
        self._asked_ms = -_FORGOTTEN_MS

    def may_claim(self) -> bool:
        """Return whether it is this node's turn. Asked again and again while no node owns it."""
        now_ms, rank = self._boot_ms(), self.rank
        if now_ms - self._asked_ms >= _FORGOTTEN_MS:
            self._since_ms = now_ms
        self._asked_ms = now_ms
        return rank is not None and now_ms - self._since_ms >= rank * CLUSTER_CLAIM_STEP_MS


def _score(node: str, group: int) -> int:
    digest = hashlib.sha256(f"{group}/{node}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
