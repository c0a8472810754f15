"""Seats: what is asked for each shard of a server of several groups, by the shard's index.

Those of the own group lead to its shards, those of other groups to links. So a caller does not see
where a shard is.
"""

from typing import final

from troth.core.commands import Acknowledge, Command
from troth.shards.held import HeldMessages
from troth.shards.turns import Asker, Turn

from .acknowledgments import Acknowledgments
from .link import MeshLink


@final
class FarSeat:
    """The way to a shard of another group."""

    def __init__(self, index: int, link: MeshLink, acknowledgments: Acknowledgments) -> None:
        self.index = index
        self._link = link
        self._acknowledgments = acknowledgments

    @property
    def is_full(self) -> bool:
        """Return whether `put` would refuse a command."""
        return self._link.is_full

    def put(self, command: Command, asker: Asker, place: int, held: HeldMessages | None) -> None:
        """Ask by the link. Raises Overloaded."""
        self._link.ask(self.index, command, asker, place, held)

    ask = put

    def tell(self, command: Command, held: HeldMessages | None = None) -> None:  # noqa: ARG002
        """Tell by the link, if it is up. What has to arrive is told again when it comes up."""
        if isinstance(command, Acknowledge):
            self._acknowledgments.note(self.index, command)
        self._link.tell(self.index, command)

    def run_turn(self, now_ms: int, turn: Turn) -> None:
        """Do nothing: that group runs its own turns."""
