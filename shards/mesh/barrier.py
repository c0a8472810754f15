"""The barrier of a snapshot: what a group says after its cut is heard by no other before theirs.

A group that closes it notes how far its log is durable, its *cut*, in the same moment. Until it is
opened again, messages from outboxes, acknowledgments and replies to other groups wait. A snapshot
has all groups close theirs, and open them when each has said so. So no cut has an effect without
its cause: what a group had said before its cut rests on records that are in it. What is missing of
an effect is in an outbox of its cause's group.

It opens when its time is over, even if it is not told to: then the snapshot is given up.
"""

from collections.abc import Callable
from typing import final


@final
class Barrier:
    """The barrier of one group. `now_s` is a monotonic clock; several snapshots may close it."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.is_closed = False
        self._now_s = now_s
        self._until_s: dict[str, float] = {}
        self._waiting: list[Callable[[], None]] = []

    def close(self, snapshot: str, limit_ms: int) -> None:
        """Make everything wait until `open` is called for this snapshot, at most that long."""
        self._until_s[snapshot] = self._now_s() + limit_ms / 1000
        self.is_closed = True

    def hold(self, act: Callable[[], None]) -> None:
        """Call `act` when it is open again, in the order in which they came."""
        assert self.is_closed, "else it need not wait"
        self._waiting.append(act)

    def hold_first(self, act: Callable[[], None]) -> None:
        """Do as `hold`, but before all that wait: what has to be said again comes before it."""
        self._waiting.insert(0, act)

    def open(self, snapshot: str) -> bool:
        """Open it, unless another snapshot has closed it; return whether it was closed so far."""
        was_closed = self._until_s.pop(snapshot, None) is not None
        if was_closed and not self._until_s:
            self.is_closed = False
            waiting, self._waiting = self._waiting, []
            for act in waiting:
                act()
        return was_closed

    def look(self) -> None:
        """Open it if its time is over."""
        if self.is_closed:
            now_s = self._now_s()
            for snapshot in [one for one, until_s in self._until_s.items() if until_s <= now_s]:
                self.open(snapshot)
