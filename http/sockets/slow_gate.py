"""A limit on the connections outside the hot lane that are worked on at a time.

Their way costs 0.5 ms of the one thread for each request, and all that are ready have their turn
before the lane has the next. So only `TICKETS_COUNT` may have a request in work, the others wait in
order. A ticket is for computing, not for waiting: a connection that waits for a client gives it
back, and one that has been out for `PATIENCE_S` belongs to a request that waits for something else
(a stream, the end of a task), and goes to the next connection.
"""

from dataclasses import dataclass
from typing import Final, final

import trio

TICKETS_COUNT: Final = 8
PATIENCE_S: Final = 0.02


@dataclass(eq=False, slots=True)
class Ticket:
    """The permission to work on one request; taken at `since`."""

    since: float


@dataclass(frozen=True, slots=True)
class SlowGateStatistics:
    """Requests of this moment, and totals since the start."""

    in_work_count: int
    waiting_count: int
    entered_total_count: int


@final
class SlowGate:
    """The gate before hypercorn's way."""

    def __init__(self) -> None:
        """Begin with all tickets."""
        self._tickets: dict[Ticket, None] = {}  # in the order in which they were taken
        self._entered_count = 0
        self._changed = trio.Event()
        self._first = trio.Lock()

    @property
    def is_crowded(self) -> bool:
        """Return whether all tickets are out."""
        return len(self._tickets) >= TICKETS_COUNT

    async def enter(self) -> Ticket:
        """Wait for a ticket; `leave` gives it back."""
        async with self._first:
            while self.is_crowded:
                oldest = next(iter(self._tickets))
                with trio.move_on_at(oldest.since + PATIENCE_S) as patience:
                    await self._changed.wait()
                if patience.cancelled_caught:
                    self._tickets.pop(oldest, None)
        self._entered_count += 1
        ticket = Ticket(trio.current_time())
        self._tickets[ticket] = None
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give a ticket back; nothing happens if it has gone to another connection."""
        if self._tickets.pop(ticket, ticket) is None:
            changed, self._changed = self._changed, trio.Event()
            changed.set()

    def statistics(self) -> SlowGateStatistics:
        """Return counts of this moment and totals since the start."""
        return SlowGateStatistics(
            in_work_count=len(self._tickets),
            waiting_count=self._first.statistics().tasks_waiting,
            entered_total_count=self._entered_count,
        )
