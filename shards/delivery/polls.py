"""The connections of workers that poll: which there are, and the messages that wait for each.

What this module promises:

- At most one connection per (group, id): a newer one replaces the older.
- A connection never holds more than `buffer_limit_count` messages, waiting and handed out together.
- A message counts as delivered only when `PollConnection.confirm` says that it has been written to
  the socket. Messages of a connection that ends before that are given back to the listener, once
  each.
- A message for any connection of a group goes to the one that holds the fewest; among equals to
  the one that has waited longest. So a worker that hangs gets no more work while others are idle.
- Choosing costs the same however many connections a group has.
- A connection speaks one dialect. One on the API port is undecided until its id does something
  through one of the two (`Polls.decide`). A message goes to a decided connection of its dialect,
  and to an undecided one if there is none.

Nothing here blocks but `PollConnection.receive`; code that must not wait uses `when_ready` and
`receive_now` instead. The module knows nothing of tasks: an item is whatever the listener
(`delivery.py`) hands in.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol, Self, final

import trio

from troth.core.limits import POLL_CHUNK_BYTES

from .dialects import DecidedDialects, Dialect


class PollsError(Exception):
    """A poll connection was closed or refused."""


class TooManyConnections(PollsError):
    """All places are taken; the worker should try again later."""


class ConnectionClosed(PollsError):
    """The server has closed this connection: it is shutting down."""


class ConnectionReplaced(ConnectionClosed):
    """A newer connection with the same group and id has taken this one's place."""


class Item(Protocol):
    """A message on its way to a connection. Items are compared by identity."""

    @property
    def dialect(self) -> Dialect:
        """The dialect of the message."""
        ...

    def body(self) -> bytes:
        """Return the message as it goes out: one complete JSON text."""
        ...

    def __hash__(self) -> int:
        """Hash by identity: items are keys of dictionaries."""
        ...


class PollListener(Protocol):
    """The observer of what becomes of items. Called synchronously; may call `Polls.put` again."""

    def delivered(self, items: list[Item], group: str, connection_id: str) -> None:
        """Note that these items have been written to their connection."""
        ...

    def returned(self, items: list[Item]) -> None:
        """Take back these items, whose connection ended before they were written."""
        ...

    def came(self, group: str, connection_id: str) -> None:
        """Note that this connection is new."""
        ...

    def has_room(self, group: str, connection_id: str) -> None:
        """Note that this connection can take more than before."""
        ...

    def ended(self, group: str, connection_id: str, *, is_coming_back: bool) -> None:
        """Note that this connection has ended; in passing, if it is coming back."""
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


@dataclass(frozen=True, slots=True)
class Listening:
    """Who listens to a group: all connections, those that understand a dialect, and their room."""

    connections_count: int
    understanding_count: int
    room_count: int


class GroupView(NamedTuple):
    """The numbers of a group; `delivered_total_count` is since its first connection came."""

    connections_count: int
    buffered_count: int
    delivered_total_count: int


class _Group:
    """The connections of one group, by id and by how many messages each holds."""

    __slots__ = (
        *("_buffer_limit_count", "_by_load", "_room_count", "buffered_count", "by_id"),
        "delivered_total_count",
    )

    def __init__(self, buffer_limit_count: int) -> None:
        self.by_id: dict[str, PollConnection] = {}
        self.buffered_count = 0
        self.delivered_total_count = 0
        self._buffer_limit_count = buffer_limit_count
        # For each dialect, and for undecided ones, one ordered set per load. A connection that
        # changes its load joins the end of its new set: that makes the choice among equals
        # round-robin.
        self._by_load: dict[Dialect | None, list[dict[PollConnection, None]]] = {}
        self._room_count: Counter[Dialect | None] = Counter()

    def add(self, connection: "PollConnection") -> None:
        self.by_id[connection.id] = connection
        self.buffered_count += connection.load_count
        self._enter(connection)

    def _enter(self, connection: "PollConnection") -> None:
        self._room_count[connection.dialect] += self._buffer_limit_count - connection.load_count
        sets = self._by_load.get(connection.dialect)
        if sets is None:
            sets = self._by_load[connection.dialect] = [
                {} for _ in range(self._buffer_limit_count + 1)
            ]
        sets[connection.load_count][connection] = None

    def remove(self, connection: "PollConnection") -> None:
        del self.by_id[connection.id]
        self._leave(connection)
        self.buffered_count -= connection.load_count

    def _leave(self, connection: "PollConnection") -> None:
        del self._by_load[connection.dialect][connection.load_count][connection]
        self._room_count[connection.dialect] -= self._buffer_limit_count - connection.load_count

    def load(self, connection: "PollConnection", more_count: int) -> None:
        """Note that a connection holds so many more messages, or fewer."""
        before_count, dialect = connection.load_count, connection.dialect
        connection.load_count = load_count = before_count + more_count
        sets = self._by_load[dialect]
        del sets[before_count][connection]
        sets[load_count][connection] = None
        self.buffered_count += more_count
        self._room_count[dialect] -= more_count

    def decided(self, connection: "PollConnection", dialect: Dialect) -> None:
        self._leave(connection)
        connection.dialect = dialect
        self._enter(connection)

    def least_loaded(self, dialect: Dialect) -> "PollConnection | None":
        for kind in (dialect, None):
            for connections in self._by_load.get(kind, ())[:-1]:  # those in the last set are full
                for connection in connections:
                    return connection
        return None

    def room_count(self, dialect: Dialect) -> int:
        """Return how many more messages of a dialect the connections can take."""
        return self._room_count[dialect] + self._room_count[None]

    def understanding_count(self, dialect: Dialect) -> int:
        """Return how many connections understand a dialect."""
        return sum(
            len(connections)
            for kind in (dialect, None)
            for connections in self._by_load.get(kind, ())
        )


def _nobody_waits() -> None:
    """Do nothing; called for news before a callback is set."""


@final
class PollConnection:
    """One worker's stream. Made by `Polls.connect`; a context manager, which ends the connection.

    One task uses it, in this order: `receive`, write to the socket, `confirm`, and again.
    """

    __slots__ = (
        *("_closed_by", "_handed_out", "_polls", "_ready", "_waiting", "dialect", "group", "id"),
        *("delivered_count", "is_coming_back", "load_count", "peer", "since_ms"),
    )

    def __init__(
        self, polls: "Polls", group: str, connection_id: str, dialect: Dialect | None
    ) -> None:
        """Use `Polls.connect` instead."""
        self.group = group
        self.id = connection_id
        self.dialect = dialect
        self.is_coming_back = False
        self.delivered_count = 0
        self.load_count = 0
        """Messages that wait or are being written."""
        self.peer: str | None = None  # the network address; set by the opener, like `since_ms`
        self.since_ms = 0
        self._polls = polls
        self._waiting: dict[Item, None] = {}
        self._handed_out: list[Item | None] = []
        self._ready: Callable[[], None] = _nobody_waits
        self._closed_by: type[ConnectionClosed] | None = None

    def __enter__(self) -> Self:
        """Return the connection, which `Polls.connect` has opened."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the connection; what was not confirmed goes elsewhere."""
        self._polls._leave(self, ConnectionClosed)

    def rotate(self) -> None:
        """Say that the server ends this stream in passing: its worker will soon connect again."""
        self.is_coming_back = True

    def understands(self, dialect: Dialect) -> bool:
        """Return whether a message of this dialect may be sent here."""
        return self.dialect is None or self.dialect is dialect

    async def receive(self) -> list[bytes]:
        """Wait for messages and return those there are, each one complete JSON text.

        Nothing is lost if the wait is canceled. Raises ConnectionReplaced or ConnectionClosed
        when the server has ended this connection.
        """
        if self._waiting or self._closed_by is not None:
            await trio.lowlevel.checkpoint()
        while not self._waiting and self._closed_by is None:
            woken = trio.Event()
            self._ready = woken.set
            await woken.wait()
        # From here on there is no checkpoint: a canceled receive() has taken nothing.
        return self.receive_now()

    def when_ready(self, action: Callable[[], None]) -> None:
        """Register `action`, called when `receive_now` may have news, never from there."""
        self._ready = action

    def receive_now(self) -> list[bytes]:
        """Do as `receive`, but without waiting: there may be no messages.

        If the waiting messages are large, some come only after `confirm`.
        """
        if self._closed_by is not None:
            raise self._closed_by(f"poll connection {self.group}/{self.id}")
        assert not self._handed_out, "confirm() comes before the next message"
        bodies: list[bytes] = []
        if not self._waiting:
            return bodies
        size_bytes = 0
        for item in list(self._waiting):
            body = item.body()
            del self._waiting[item]
            self._handed_out.append(item)
            bodies.append(body)
            size_bytes += len(body)
            if size_bytes >= POLL_CHUNK_BYTES:
                break
        return bodies

    def confirm(self) -> None:
        """Say that what the last `receive` returned has been written to the socket."""
        written, self._handed_out = self._handed_out, []
        self._polls._confirmed(self, written)

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

    def _drop_others(self, dialect: Dialect) -> list[Item]:
        """Give up what waits and is of another dialect."""
        items = [item for item in self._waiting if item.dialect is not dialect]
        for item in items:
            del self._waiting[item]
        return items

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

    def delivered(self, items: list[Item], group: str, connection_id: str) -> None:
        assert not items, f"nothing was sent to {group}/{connection_id}"

    def returned(self, items: list[Item]) -> None:
        assert not items

    def came(self, group: str, connection_id: str) -> None:
        """Do nothing: no message waits yet."""

    def has_room(self, group: str, connection_id: str) -> None:
        """Do nothing, either."""

    def ended(self, group: str, connection_id: str, *, is_coming_back: bool) -> None:
        """Do nothing: no message was sent yet."""


@final
class Polls:
    """All poll connections of the server."""

    def __init__(self, *, connections_limit_count: int, buffer_limit_count: int) -> None:
        """Start with no connections."""
        assert min(connections_limit_count, buffer_limit_count) > 0
        self._connections_limit_count = connections_limit_count
        self._buffer_limit_count = buffer_limit_count
        self._groups: dict[str, _Group] = {}
        self._holders: dict[Item, PollConnection] = {}
        self.connections_count = 0
        self.elsewhere_count = 0  # of connections that other processes of the server have
        self.decided = DecidedDialects()
        self._closed = False
        self._listener: PollListener = _NoListener()
        self.when_decided: Callable[[str, Dialect, str | None], None] = lambda *_: None
        """Called by `decide` with what it has noted; for the server's other processes."""
        self._totals: Counter[str] = Counter()

    def attach(self, listener: PollListener) -> None:
        """Attach the observer of what becomes of items; before the first connection."""
        self._listener = listener

    def connect(
        self,
        group: str,
        id: str,  # noqa: A002  its name in the API
        dialect: Dialect | None = None,
    ) -> PollConnection:
        """Take a place for a worker's stream. Never blocks.

        Without a dialect it has the one that was decided for its id, or is undecided.

        An older connection with the same group and id is closed, and its messages pass to this one.
        After `close` the connection is closed from the start. Raises TooManyConnections.
        """
        if dialect is None:
            dialect = self.decided.get((group, id)) or self.decided.get((None, id))
        connection = PollConnection(self, group, id, dialect)
        if self._closed:
            connection._close(ConnectionClosed)
            return connection
        existing = self._groups.get(group)
        older = existing.by_id.get(id) if existing is not None else None
        count = self.connections_count + self.elsewhere_count
        if older is None and count >= self._connections_limit_count:
            self._totals["refused"] += 1
            raise TooManyConnections(f"all {self._connections_limit_count} places are taken")
        # The old one goes and the new one comes before any of the old one's items is given back:
        # so they find the new one.
        items = [] if older is None else self._detach(older, ConnectionReplaced)
        self._groups.setdefault(group, _Group(self._buffer_limit_count)).add(connection)
        self.connections_count += 1
        self._totals["connected"] += 1
        self._totals["replaced"] += older is not None
        self._return(items)
        if older is not None:
            self._listener.ended(group, id, is_coming_back=False)
        self._listener.came(group, id)
        return connection

    def decide(self, connection_id: str, dialect: Dialect, group: str | None = None) -> None:
        """Note what connections of this id, in one group or all, understand; the first note counts.

        Messages of the other dialect that wait for an undecided one are given back.
        """
        if (group, connection_id) in self.decided:
            return
        self.learn(connection_id, dialect, group)
        self.when_decided(connection_id, dialect, group)

    def learn(self, connection_id: str, dialect: Dialect, group: str | None) -> None:
        """Do as `decide` with what another process has noted."""
        key = (group, connection_id)
        if key in self.decided:
            return
        self.decided.note(key, dialect)
        groups = [group] if group is not None else list(self._groups)
        for name in groups:
            connections = self._groups.get(name)
            connection = None if connections is None else connections.by_id.get(connection_id)
            if connections is None or connection is None or connection.dialect is not None:
                continue
            connections.decided(connection, dialect)
            items = connection._drop_others(dialect)
            connections.load(connection, -len(items))
            for item in items:
                del self._holders[item]
            self._return(items)
            self._listener.has_room(name, connection_id)

    def put(self, item: Item, group: str, connection_id: str | None, *, exact: bool) -> bool:
        """Give an item to a connection that understands it; False if none can take it now.

        With `exact` only the connection `connection_id` will do; without, that one is preferred.
        """
        assert item not in self._holders, "an item is at one connection at a time"
        connections = self._groups.get(group)
        if connections is None:
            return False
        chosen = None if connection_id is None else connections.by_id.get(connection_id)
        if chosen is not None and (
            chosen.load_count >= self._buffer_limit_count or not chosen.understands(item.dialect)
        ):
            chosen = None
        if chosen is None:
            chosen = None if exact else connections.least_loaded(item.dialect)
            if chosen is None:
                return False
        connections.load(chosen, 1)
        self._holders[item] = chosen
        chosen._put(item)
        return True

    def has_group(self, group: str) -> bool:
        """Return whether any connection of a group is there."""
        return group in self._groups

    def listening(self, group: str, connection_id: str | None, dialect: Dialect) -> Listening:
        """Return who listens to a group, or to one connection of it alone."""
        connections = self._groups.get(group)
        if connections is None:
            return Listening(0, 0, 0)
        if connection_id is None:
            return Listening(
                len(connections.by_id),
                connections.understanding_count(dialect),
                connections.room_count(dialect),
            )
        connection = connections.by_id.get(connection_id)
        if connection is None:
            return Listening(0, 0, 0)
        room_count = self.room_count(group, connection_id, dialect)
        return Listening(1, int(connection.understands(dialect)), room_count)

    def is_connected(self, connection_id: str) -> bool:
        """Return whether a stream of this id is open, in whatever group; looks at each group."""
        return any(connection_id in group.by_id for group in self._groups.values())

    def largest_groups(self, limit_count: int) -> tuple[str, ...]:
        """Return the names of the groups with most connections, most first."""
        sizes = sorted((-len(group.by_id), name) for name, group in self._groups.items())
        return tuple(name for _, name in sizes[:limit_count])

    def connections(self) -> list[PollConnection]:
        """Return all open connections."""
        return [one for group in self._groups.values() for one in group.by_id.values()]

    def find(self, group: str, connection_id: str) -> PollConnection | None:
        """Return an open connection; None if it is not there."""
        connections = self._groups.get(group)
        return None if connections is None else connections.by_id.get(connection_id)

    def groups(self) -> list[tuple[str, GroupView]]:
        """Return all groups that have a connection, with their numbers."""
        return [
            (name, GroupView(len(one.by_id), one.buffered_count, one.delivered_total_count))
            for name, one in self._groups.items()
        ]

    def discard(self, item: Item) -> None:
        """Forget an item. If it is being written already, nothing is reported about it."""
        connection = self._holders.pop(item, None)
        if connection is None:
            return
        if connection._discard(item):
            self._groups[connection.group].load(connection, -1)
            self._listener.has_room(connection.group, connection.id)

    def room_count(self, group: str, connection_id: str | None, dialect: Dialect) -> int:
        """Return how many more items of a dialect a connection, or all of a group, can take."""
        connections = self._groups.get(group)
        if connections is None:
            return 0
        if connection_id is None:
            return connections.room_count(dialect)
        connection = connections.by_id.get(connection_id)
        if connection is None or not connection.understands(dialect):
            return 0
        return self._buffer_limit_count - connection.load_count

    def close(self) -> None:
        """Close all connections, and those that will come. Their messages are given back."""
        self._closed = True
        for group in list(self._groups.values()):
            for connection in list(group.by_id.values()):
                connection.rotate()  # the server will be back, and the worker with it
                self._leave(connection, ConnectionClosed)

    def statistics(self) -> PollsStatistics:
        """Return counts of this moment and totals since the start."""
        sizes = sorted(((name, len(group.by_id)) for name, group in self._groups.items()))
        return PollsStatistics(
            connections_count=self.connections_count,
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

    def _confirmed(self, connection: PollConnection, written: list[Item | None]) -> None:
        """Note that these were written, and those among them that were discarded since."""
        if connection._closed_by is not None:
            return  # its items were given back when it was closed
        items = [item for item in written if item is not None]
        for item in items:
            del self._holders[item]
        count = len(items)
        self._totals["delivered"] += count
        connection.delivered_count += count
        name = connection.group
        group = self._groups[name]
        group.delivered_total_count += count
        group.load(connection, -len(written))
        self._listener.delivered(items, name, connection.id)
        if connection._closed_by is None:
            self._listener.has_room(name, connection.id)

    def _leave(self, connection: PollConnection, reason: type[ConnectionClosed]) -> None:
        if connection._closed_by is None:
            self._return(self._detach(connection, reason))
            self._listener.ended(
                connection.group, connection.id, is_coming_back=connection.is_coming_back
            )

    def _detach(self, connection: PollConnection, reason: type[ConnectionClosed]) -> list[Item]:
        group = self._groups[connection.group]
        group.remove(connection)
        if not group.by_id:
            del self._groups[connection.group]
        self.connections_count -= 1
        items = connection._close(reason)
        for item in items:
            del self._holders[item]
        return items

    def _return(self, items: list[Item]) -> None:
        if items:
            self._totals["returned"] += len(items)
            self._listener.returned(items)
