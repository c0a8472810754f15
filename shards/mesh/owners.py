"""Who serves each group of a cluster: its node, and in which epoch. It changes while all run.

A group has one process at a time that may answer for it (`persistence/streams`), and with each
owner its epoch grows. What is known here is for routing: it may be late, and never goes back. So a
process that was succeeded and does not know it yet is neither asked nor heard any more by those who
know: its links end, and what was in flight is as with a process that has died.

The epoch is the incarnation of the group's process. Processes of one machine need nothing of this:
their incarnations grow, and one has ended before the next begins.
"""

from collections.abc import Callable, Mapping
from typing import final

from msgspec import Struct


class Owner(Struct, frozen=True):
    """Who serves a group, and where: the address of the node's door."""

    node: str
    host: str
    port: int
    epoch: int


@final
class Owners:
    """What one process knows. Those in `when_changed` are told of a group that has a new epoch, or
    whose owner was found or has moved.
    """

    def __init__(self) -> None:
        self.when_changed: list[Callable[[int], None]] = []
        self.places: Mapping[str, tuple[str, int]] = {}
        """Where nodes are, as far as it is known: host and port."""
        self.here = ""
        """The node that this is."""
        self._owners: dict[int, Owner] = {}
        self._epochs: dict[int, int] = {}

    def of(self, group: int) -> Owner | None:
        """Return who serves a group; None if that is not known, or no one does."""
        return self._owners.get(group)

    def epoch_of(self, group: int) -> int:
        """Return the latest epoch of a group that was heard of; 0 if none was."""
        return self._epochs.get(group, 0)

    def learn(self, group: int, owner: Owner) -> None:
        """Note who serves a group, unless there was a later one."""
        if owner.epoch < self.epoch_of(group) or self._owners.get(group) == owner:
            return
        self._epochs[group] = owner.epoch
        self._owners[group] = owner
        self._tell(group)

    def met(self, group: int, node: str, epoch: int) -> None:
        """Note that a process of a node has proved to serve a group, in an epoch."""
        place = self.places.get(node)
        if place is not None and epoch > self.epoch_of(group):
            self.learn(group, Owner(node, *place, epoch))

    def heard_of(self, group: int, epoch: int) -> None:
        """Note that a process of an epoch is there, wherever: who was before it serves no more."""
        if epoch <= self.epoch_of(group):
            return
        self._epochs[group] = epoch
        self._owners.pop(group, None)
        self._tell(group)

    def left(self, group: int, epoch: int) -> None:
        """Note that the owner of an epoch has given its group up, unless there was a later one."""
        owner = self._owners.get(group)
        if owner is not None and owner.epoch <= epoch:
            del self._owners[group]
            self._tell(group)

    def _tell(self, group: int) -> None:
        for act in self.when_changed:
            act(group)
