"""Room for connections: how many all ports may have together, and which is closed when it is full.

Connections that wait for their client's next request are closed to make room for new ones, longest
idle first: a client that opens connections and sends nothing cannot shut others out. No connection
is closed while there is room.
"""

import heapq
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, final

import structlog
import trio

from troth.http.identity.attempts import network_of
from troth.persistence.shortage import add_relief

SHED_IDLE_S: Final = 1.0
"""A connection that has been idle for less is not closed: its client may be about to ask."""

_SHARE: Final = 64  # one of this many at a time: finding the longest idle one looks at all of them
_WARN_INTERVAL_S: Final = 60.0

Idle = tuple[float, Callable[[], None]]
"""A connection that may be closed: since when it has been idle, and what closes it."""

_log = structlog.get_logger("troth.http.listener")


@dataclass(frozen=True, slots=True)
class ConnectionRoomStatistics:
    """Connections now, how many there may be, and totals since the start."""

    connections_count: int
    limit_count: int
    addresses_count: int
    shed_total_count: int


@final
class ConnectionRoom:
    """All connections that were accepted, by count. `now` is a monotonic clock in seconds.

    `per_address_limit_count` 0 means that an address may have any number.
    """

    def __init__(
        self,
        limit_count: int,
        *,
        per_address_limit_count: int = 0,
        now: Callable[[], float],
    ) -> None:
        """Begin with none."""
        self.limit_count = limit_count
        self.per_address_limit_count = per_address_limit_count
        self._now = now
        self._count = 0
        self.by_address: Counter[str] = Counter()
        """How many each address has, if that is limited."""
        self.full_addresses: set[str] = set()
        """Addresses that have as many as they may, with those of other processes."""
        self.when_counted: Callable[[str, int], None] = lambda *_: None
        """Called with an address and how many it has now."""
        self._sources: list[Callable[[], Iterable[Idle]]] = []
        self._leaving_count = 0
        self._shed_count = 0
        self._warned_at = float("-inf")

    def add_source(self, idle: Callable[[], Iterable[Idle]]) -> None:
        """Register a source of connections that may be closed."""
        self._sources.append(idle)

    @property
    def is_full(self) -> bool:
        """Return whether there is no room, counting those that are being closed as gone."""
        return self._count - self._leaving_count >= self.limit_count

    def is_crowded(self, peer: str | None) -> bool:
        """Return whether an address has as many connections as one may have."""
        limit_count = self.per_address_limit_count
        if not limit_count:
            return False
        address = network_of(peer)
        return self.by_address[address] >= limit_count or address in self.full_addresses

    def enter(self, peer: str | None) -> None:
        """Count a connection; `leave` follows."""
        self._count += 1
        if self.per_address_limit_count:
            address = network_of(peer)
            self.by_address[address] += 1
            self.when_counted(address, self.by_address[address])

    def leave(self, peer: str | None) -> None:
        """Count a connection no longer."""
        self._count -= 1
        if self._leaving_count:
            self._leaving_count -= 1
        if self.per_address_limit_count:
            address = network_of(peer)
            self.by_address[address] -= 1
            self.when_counted(address, self.by_address[address])
            if not self.by_address[address]:
                del self.by_address[address]

    def shed(self) -> int:
        """Close some connections that are idle, longest idle first; return how many."""
        now = self._now()
        idle = (
            found for source in self._sources for found in source() if now - found[0] >= SHED_IDLE_S
        )
        wanted_count = max(1, self.limit_count // _SHARE)
        chosen = heapq.nsmallest(wanted_count, idle, key=lambda one: one[0])
        # Before they are: some of them have left by then.
        self._leaving_count = min(self._leaving_count + len(chosen), self._count)
        for _, close in chosen:
            close()
        self._shed_count += len(chosen)
        if chosen and now - self._warned_at >= _WARN_INTERVAL_S:
            self._warned_at = now
            _log.warning(
                "connections run short: those that were idle longest are being closed",
                connections=self._count,
                limit=self.limit_count,
            )
        return len(chosen)

    def statistics(self) -> ConnectionRoomStatistics:
        """Return counts of this moment and totals since the start."""
        return ConnectionRoomStatistics(
            connections_count=self._count,
            limit_count=self.limit_count,
            addresses_count=len(self.by_address),
            shed_total_count=self._shed_count,
        )


@asynccontextmanager
async def relieving_shortages(room: ConnectionRoom) -> AsyncIterator[None]:
    """Close idle connections, during a block, when any thread cannot open what it needs."""
    token = trio.lowlevel.current_trio_token()

    def relieve() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(room.shed, idempotent=True)

    remove = add_relief(relieve)
    try:
        yield
    finally:
        remove()
