"""The connections of workers that poll: who is connected, and the messages that wait for each.

What this module promises:

- At most one connection per (group, id): a newer one replaces the older.
- A connection never holds more than `buffer_limit_count` messages, waiting and handed out together.
- A message counts as delivered only when `PollConnection.confirm` says that it has been written to
  the socket. Messages of a connection that ends before that are given back to the listener, once
  each.
- A message for any connection of a group goes to the one that holds the fewest; among equals to
  the one that has waited longest. So a worker that hangs gets no more work while others are idle.
- Choosing costs the same however many connections a group has.

Nothing here blocks but `PollConnection.receive`; who must not wait has `when_ready` and
`receive_now` instead. The module knows nothing of tasks: an item is
whatever the listener (`delivery.py`) hands in.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, final

import trio


class PollsError(Exception):
    """A poll connection cannot be had any longer, or at all."""


class TooManyConnections(PollsError):  # noqa: N818  a state, not a defect
    """All places are taken; the worker should try again later."""


class ConnectionClosed(PollsError):  # noqa: N818
    """The server has closed this connection: it is shutting down."""


class ConnectionReplaced(ConnectionClosed):
    """A newer connection with the same group and id has taken this one's place."""


class Item(Protocol):
    """A message on its way to a connection. Items are compared by identity."""

    def body(self) -> bytes:
        """Return the message as it goes out: one complete JSON text."""
        ...

    def __hash__(self) -> int:
        """Items are keys of dictionaries."""
        ...


class PollListener(Protocol):
    """Who is told what became of items. Called synchronously; may call `Polls.put` again."""

    def delivered(self, items: list[Item]) -> None:
        """These items have been written to their connection."""
        ...

    def returned(self, items: list[Item]) -> None:
        """The connection of these items ended before they were written."""
        ...

    def has_room(self, group: str, connection_id: str) -> None:
        """This connection has come, or can take more than before."""
        ...


@dataclass(frozen=True, slots=True)
class PollsStatistics:
    """Counts of this moment, and totals since the start (`…_total_count`)."""

    connections_count: int
    connections_limit_count: int
    groups_count: int
    buffered_count: int
    connected_total_count: int
    replaced_total_count: int
    refused_total_count: int
    delivered_total_count: int
    returned_total_count: int
    connections_by_group: tuple[tuple[str, int], ...]
    """The largest groups, at most 20, largest first."""


class _Group:
    """The connections of one group, by id and by how many messages each holds."""

    __slots__ = ("_by_load", "buffered_count", "by_id")

    def __init__(self, buffer_limit_count: int) -> None:
        self.by_id: dict[str, PollConnection] = {}
        self.buffered_count = 0
        # One ordered set per load. A connection that changes its load joins the end of its new set:
        # that makes the choice among equals round-robin.
        self._by_load: list[dict[PollConnection, None]] = [
            {} for _ in range(buffer_limit_count + 1)
        ]

    def add(self, connection: "PollConnection") -> None:
        self.by_id[connection.id] = connection
        self._by_load[connection.load_count][connection] = None
        self.buffered_count += connection.load_count

    def remove(self, connection: "PollConnection") -> None:
        del self.by_id[connection.id]
        del self._by_load[connection.load_count][connection]
        self.buffered_count -= connection.load_count

    def changed(self, connection: "PollConnection", before_count: int) -> None:
        if connection.load_count != before_count:
            del self._by_load[before_count][connection]
            self._by_load[connection.load_count][connection] = None
            self.buffered_count += connection.load_count - before_count

    def least_loaded(self) -> "PollConnection | None":
        for connections in self._by_load[:-1]:  # those in the last set are full
            for connection in connections:
                return connection
        return None


def _nobody_waits() -> None:
    """What is called for news before anybody wants to hear of them."""


@final
class PollConnection:
    """One worker's stream. Made by `Polls.connect`; a context manager, which ends the connection.

    One task uses it, in this order: `receive`, write to the socket, `confirm`, and again.
    """

    __slots__ = ("_closed_by", "_handed_out", "_polls", "_ready", "_waiting", "group", "id")

    def __init__(self, polls: "Polls", group: str, connection_id: str) -> None:
        """Use `Polls.connect` instead."""
        self.group = group
        self.id = connection_id
        self._polls = polls
        self._waiting: dict[Item, None] = {}
        self._handed_out: list[Item | None] = []
        self._ready: Callable[[], None] = _nobody_waits
        self._closed_by: type[ConnectionClosed] | None = None

    def __enter__(self) -> Self:
        """Nothing is opened here; `Polls.connect` has done that."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the connection; what was not confirmed goes elsewhere."""
        self._polls._leave(self, ConnectionClosed)

    @property
    def load_count(self) -> int:
        """Messages that wait or are being written."""
        return len(self._waiting) + len(self._handed_out)

    async def receive(self) -> list[bytes]:
        """Wait for messages and return all there are, each one complete JSON text.

        Nothing is lost if the wait is cancelled. Raises ConnectionReplaced or ConnectionClosed
        when the server has ended this connection.
        """
        if self._waiting or self._closed_by is not None:
            await trio.lowlevel.checkpoint()
        while not self._waiting and self._closed_by is None:
            woken = trio.Event()
            self._ready = woken.set
            await woken.wait()
        # From here on there is no checkpoint: a cancelled receive() has taken nothing.
        return self.receive_now()

    def when_ready(self, action: Callable[[], None]) -> None:
        """Have `action` called whenever `receive_now` may have news: often, and not from there."""
        self._ready = action

    def receive_now(self) -> list[bytes]:
        """As `receive`, but without waiting: perhaps none."""
        assert not self._handed_out or self._closed_by, "confirm() comes before the next message"
        if self._closed_by is not None:
            raise self._closed_by(f"poll connection {self.group}/{self.id}")
        items = list(self._waiting)
        self._waiting.clear()
        self._handed_out = list(items)
        return [item.body() for item in items]

    def confirm(self) -> None:
        """Say that what the last `receive` returned has been written to the socket."""
        before_count = self.load_count
        items = [item for item in self._handed_out if item is not None]
        self._handed_out = []
        self._polls._confirmed(self, before_count, items)

    # The rest is between Polls and its connections.

    def _put(self, item: Item) -> None:
        self._waiting[item] = None
        self._ready()

    def _discard(self, item: Item) -> bool:
        """Forget an item; whether that made room (one being written is only not reported)."""
        if item in self._waiting:
            del self._waiting[item]
            return True
        self._handed_out = [None if other is item else other for other in self._handed_out]
        return False

    def _close(self, reason: type[ConnectionClosed]) -> list[Item]:
        items = [item for item in self._handed_out if item is not None]
        items.extend(self._waiting)
        self._handed_out = []
        self._waiting.clear()
        self._closed_by = reason
        self._ready()
        return items


class _NoListener:
    """Stands in until a listener is attached. Nothing can have been put by then."""

    def delivered(self, items: list[Item]) -> None:
        assert not items

    def returned(self, items: list[Item]) -> None:
        assert not items

    def has_room(self, group: str, connection_id: str) -> None:
        """Nobody waits yet."""


@final
class Polls:
    """All poll connections of the server."""

    def __init__(self, *, connections_limit_count: int, buffer_limit_count: int) -> None:
        """Start with no connections."""
        assert connections_limit_count > 0
        assert buffer_limit_count > 0
        self._connections_limit_count = connections_limit_count
        self._buffer_limit_count = buffer_limit_count
        self._groups: dict[str, _Group] = {}
        self._holders: dict[Item, PollConnection] = {}
        self._connections_count = 0
        self._closed = False
        self._listener: PollListener = _NoListener()
        self._totals: Counter[str] = Counter()

    def attach(self, listener: PollListener) -> None:
        """Name the one who is told what becomes of items; before the first `put`."""
        self._listener = listener
        for group in list(self._groups.values()):
            for connection in list(group.by_id.values()):
                listener.has_room(connection.group, connection.id)

    def connect(self, group: str, id: str) -> PollConnection:  # noqa: A002  its name in the API
        """Take a place for a worker's stream. Never blocks.

        An older connection with the same group and id is closed, and its messages pass to this one.
        After `close` the connection is closed from the start. Raises TooManyConnections.
        """
        connection = PollConnection(self, group, id)
        if self._closed:
            connection._close(ConnectionClosed)
            return connection
        existing = self._groups.get(group)
        older = existing.by_id.get(id) if existing is not None else None
        if older is None and self._connections_count >= self._connections_limit_count:
            self._totals["refused"] += 1
            raise TooManyConnections(f"all {self._connections_limit_count} places are taken")
        # The old one goes and the new one comes before any of the old one's items is given back:
        # so they find the new one.
        items = [] if older is None else self._detach(older, ConnectionReplaced)
        self._groups.setdefault(group, _Group(self._buffer_limit_count)).add(connection)
        self._connections_count += 1
        self._totals["connected"] += 1
        self._totals["replaced"] += older is not None
        self._return(items)
        self._listener.has_room(group, id)
        return connection

    def put(self, item: Item, group: str, connection_id: str | None, *, exact: bool) -> bool:
        """Give an item to a connection; False if none can take it now.

        With `exact` only the connection `connection_id` will do; without, that one is preferred.
        """
        assert item not in self._holders, "an item is at one connection at a time"
        connections = self._groups.get(group)
        if connections is None:
            return False
        chosen = None if connection_id is None else connections.by_id.get(connection_id)
        if chosen is not None and chosen.load_count >= self._buffer_limit_count:
            chosen = None
        if chosen is None and not exact:
            chosen = connections.least_loaded()
        if chosen is None:
            return False
        before_count = chosen.load_count
        chosen._put(item)
        connections.changed(chosen, before_count)
        self._holders[item] = chosen
        return True

    def discard(self, item: Item) -> None:
        """Forget an item. If it is being written already, nothing is reported about it."""
        connection = self._holders.pop(item, None)
        if connection is None:
            return
        before_count = connection.load_count
        if connection._discard(item):
            self._groups[connection.group].changed(connection, before_count)
            self._listener.has_room(connection.group, connection.id)

    def room_count(self, group: str, connection_id: str | None) -> int:
        """Return how many more items a connection, or all connections of a group, can take."""
        connections = self._groups.get(group)
        if connections is None:
            return 0
        if connection_id is None:
            places_count = len(connections.by_id) * self._buffer_limit_count
            return places_count - connections.buffered_count
        connection = connections.by_id.get(connection_id)
        return 0 if connection is None else self._buffer_limit_count - connection.load_count

    def close(self) -> None:
        """Close all connections, and those that will come. Their messages are given back."""
        self._closed = True
        for group in list(self._groups.values()):
            for connection in list(group.by_id.values()):
                self._leave(connection, ConnectionClosed)

    def statistics(self) -> PollsStatistics:
        """Return counts of this moment and totals since the start."""
        sizes = sorted(((name, len(group.by_id)) for name, group in self._groups.items()))
        return PollsStatistics(
            connections_count=self._connections_count,
            connections_limit_count=self._connections_limit_count,
            groups_count=len(self._groups),
            buffered_count=sum(group.buffered_count for group in self._groups.values()),
            connected_total_count=self._totals["connected"],
            replaced_total_count=self._totals["replaced"],
            refused_total_count=self._totals["refused"],
            delivered_total_count=self._totals["delivered"],
            returned_total_count=self._totals["returned"],
            connections_by_group=tuple(sorted(sizes, key=lambda size: -size[1])[:20]),
        )

    def _confirmed(self, connection: PollConnection, before_count: int, items: list[Item]) -> None:
        if connection._closed_by is not None:
            return  # its items were given back when it was closed
        for item in items:
            del self._holders[item]
        self._totals["delivered"] += len(items)
        self._groups[connection.group].changed(connection, before_count)
        self._listener.delivered(items)
        if connection._closed_by is None:
            self._listener.has_room(connection.group, connection.id)

    def _leave(self, connection: PollConnection, reason: type[ConnectionClosed]) -> None:
        if connection._closed_by is None:
            self._return(self._detach(connection, reason))

    def _detach(self, connection: PollConnection, reason: type[ConnectionClosed]) -> list[Item]:
        group = self._groups[connection.group]
        group.remove(connection)
        if not group.by_id:
            del self._groups[connection.group]
        self._connections_count -= 1
        items = connection._close(reason)
        for item in items:
            del self._holders[item]
        return items

    def _return(self, items: list[Item]) -> None:
        if items:
            self._totals["returned"] += len(items)
            self._listener.returned(items)
