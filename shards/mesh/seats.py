"""Seats: what is asked for each shard of a server of several groups, by the shard's index.

Those of the own group lead to its shards, those of other groups to links. So a caller does not see
where a shard is.
"""

from functools import partial
from typing import final

from troth.core.commands import Acknowledge, Command
from troth.shards.held import HeldMessages
from troth.shards.turns import Asker, Seat, Turn

from .acknowledgments import Acknowledgments
from .barrier import Barrier
from .errands import Errands
from .link import MeshLink
from .passes import FENCED


@final
class NearSeat:
    """The way to a shard of this group: an errand, if other groups have to be asked as well."""

    def __init__(self, shard: Seat, errands: Errands) -> None:
        self.index = shard.index
        self._shard = shard
        self._errands = errands
        self._put = shard.put
        self._needed = errands.needed

    @property
    def is_full(self) -> bool:
        """Return whether `put` would refuse a command."""
        return self._shard.is_full

    def put(self, command: Command, asker: Asker, place: int, held: HeldMessages | None) -> None:
        """Take a client's command; `run_turn` is called soon. Raises Overloaded."""
        kind = type(command)
        if kind in FENCED and command.fence is None:  # type: ignore[attr-defined]
            self._put(command, asker, place, held)  # as most are; it need not be looked at more
            return
        needed = self._needed.get(kind)
        if needed is None or (errand := needed(command)) is None:
            self._put(command, asker, place, held)
        else:
            self._errands.start(errand, self.index, command, asker, place, held)

    def ask(self, command: Command, asker: Asker, place: int, held: HeldMessages | None) -> None:
        """Do as `put`; `run_turn` need not be called. Raises Overloaded."""
        needed = self._needed.get(type(command))
        if needed is None or (errand := needed(command)) is None:
            self._shard.ask(command, asker, place, held)
        else:
            self._errands.start(errand, self.index, command, asker, place, held)

    def tell(self, command: Command, held: HeldMessages | None = None) -> None:
        """Take an internal command; `run_turn` is called soon."""
        self._shard.tell(command, held)

    def run_turn(self, now_ms: int, turn: Turn) -> None:
        """Run the shard's part of a turn."""
        self._shard.run_turn(now_ms, turn)


@final
class FarSeat:
    """The way to a shard of another group."""

    def __init__(
        self, index: int, link: MeshLink, acknowledgments: Acknowledgments, barrier: Barrier
    ) -> None:
        self.index = index
        self.put = self.ask = partial(link.ask, index)
        """Ask by the link. Raises Overloaded."""
        self._barrier = barrier
        self._link = link
        self._acknowledgments = acknowledgments

    @property
    def is_full(self) -> bool:
        """Return whether `put` would refuse a command."""
        return self._link.is_full

    def tell(self, command: Command, held: HeldMessages | None = None) -> None:  # noqa: ARG002
        """Tell by the link, if it is up. What has to arrive is told again when it comes up."""
        if self._barrier.is_closed:
            self._barrier.hold(lambda: self.tell(command))
            return
        if isinstance(command, Acknowledge):
            self._acknowledgments.note(self.index, command)
        self._link.tell(self.index, command)

    def run_turn(self, now_ms: int, turn: Turn) -> None:
        """Do nothing: that group runs its own turns."""
