"""The nodes that have a free slot.

A node is free while its stream is connected, it is neither disabled, draining nor deleted, it is
not resting, and fewer executions than it has slots are with it, not counting those whose result has
come in (`NodePlace.has_room`). `FreeNodes` finds one for an execution at a cost that grows with the
number of *different* offers among free nodes, not with that of nodes.
"""

from collections import OrderedDict
from typing import final

from .executions import NodePlace, Offer, Requirement


@final
class FreeNodes:
    """Nodes that have room, by the account they work for and what they offer."""

    def __init__(self) -> None:
        """Start empty."""
        self._pools: dict[str | None, dict[Offer, OrderedDict[NodePlace, None]]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return how many nodes are free."""
        return self._count

    def __contains__(self, node: NodePlace) -> bool:
        """Return whether this node is free."""
        return node in self._pools.get(node.pool, {}).get(node.offer, ())

    def add(self, node: NodePlace) -> None:
        """Add a node, after others with the same offer."""
        assert node.has_room
        alike = self._pools.setdefault(node.pool, {}).setdefault(node.offer, OrderedDict())
        self._count += node not in alike
        alike[node] = None
        alike.move_to_end(node)

    def discard(self, node: NodePlace) -> None:
        """Remove a node."""
        offers = self._pools.get(node.pool, {})
        alike = offers.get(node.offer)
        if alike is None or node not in alike:
            return
        del alike[node]
        self._count -= 1
        if not alike:
            del offers[node.offer]
            if not offers:
                del self._pools[node.pool]

    def find(self, account_id: str, requirement: Requirement) -> NodePlace | None:
        """Return a node for an execution: the account's own first, and the least that is enough."""
        for pool in (account_id, None):
            fitting = [offer for offer in self._pools.get(pool, ()) if offer.meets(requirement)]
            if fitting:
                offer = min(fitting, key=lambda one: one.size)
                return next(iter(self._pools[pool][offer]))
        return None
