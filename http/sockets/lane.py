"""The hot lane: one task that serves all connections of the API port which ask for plain things.

Each wake-up takes everything that is ready, and while much is asked what has come by then, too: it
reads, parses, begins every request, has the shards carry all of them out as one batch for the log,
and goes back to sleep. Answers are written by the shards' callbacks, immediately for what is
durable already, else when the log is. There is no task and no event per request, except for
handlers that ask several shards or questions, or wait for the end of an execution.

What the lane serves is derived from the endpoint table (`is_served`): what answers in one piece,
and streams that it can write, with the dispatcher and the handlers that every way in uses. Its
answers are, byte for byte, those of the Quart path. A connection with anything else is handed over
to that path for good (`Port.take_over`).

Connections are accepted in the same passes, some at a time, and read immediately: clients that make
one for each request cost no task and no further wake-up.
"""

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import structlog
import trio

from troth.core.replies import Reply
from troth.http.api.authentication import is_known
from troth.http.api.context import Api
from troth.http.api.dispatch import Dispatcher, request_id
from troth.http.api.router import Match
from troth.http.api.rows import Endpoint, Renewals
from troth.http.wire.errors import ApiError
from troth.http.wire.in_flight import SMALL_BYTES
from troth.http.wire.requests import Request
from troth.shards.held import HeldMessages
from troth.shards.together import shared_end_s
from troth.shards.turns import Asker

from .accepting import Acceptor, Port
from .connection_limits import ConnectionLimits
from .departures import ANY_HOME, ENDPOINT, HOME, REASONS, HandedOver
from .lane_connection import LaneConnection
from .lane_exchange import Exchange, RequestIds
from .lane_parsing import Head, KnownHeads, NotServed, Parsed, Parser
from .lane_served import STREAM_GROUPS, LaneStatistics, is_served, may_be_stream
from .lane_waiting import CHECK_INTERVAL_S, patience_s, quiet_interval_s
from .link_sockets import LinkSockets
from .stream_homes import StreamHomes

_EVENTS: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_EVENTS_AND_ROOM: Final = _EVENTS | select.EPOLLOUT
# Other tasks run between passes: what is ready beyond this waits for the next one.
_EVENTS_LIMIT_COUNT: Final = 256
_FEW_COUNT: Final = 2
"""So many requests or events are few."""
_ROUNDS_LIMIT_COUNT: Final = 8
_STAY_S: Final = 0.004
"""How long the lane waits itself for what comes next: while little is asked, or with links."""
_DEFERRED_AT_ONCE_COUNT: Final = 2  # each may take milliseconds to write down
_PARSERS_KEPT_COUNT: Final = 64
"""Of connections that have ended: the next ones are often of clients that say the same."""
_log = structlog.get_logger("troth.http.lane")


class Lane:
    """The hot lane of one port. Use: `run` in a nursery; then `accept_from` its sockets."""

    def __init__(
        self,
        api: Api,
        endpoints: tuple[Endpoint, ...],
        limits: ConnectionLimits,
    ) -> None:
        """Derive what is served from the table of the port's endpoints."""
        self._api = api
        self._hold = api.hold
        self.in_flight = api.in_flight
        self._deferred: deque[tuple[Exchange, Reply]] = deque()
        self._shards = api.shards
        self.submit: Final = api.shards.submit
        """Hand a command to the shards, for this pass or the next. Raises ShardsError."""
        self._limits = limits
        self._dispatcher = Dispatcher(api, endpoints)
        self._served = frozenset(row.name for row in endpoints if is_served(row))
        self._streams = frozenset(row.name for row in endpoints if row.group in STREAM_GROUPS)
        self._homes: StreamHomes | None = None
        self._kept: frozenset[str] | None = None  # all else is for other processes
        self.neighbors: Sequence[Lane] = ()
        """The lanes of other ports."""
        self._match = self._dispatcher.router.match
        self._new_id = RequestIds().new
        self._connections: dict[int, LaneConnection] = {}
        self._parsers: list[Parser] = []
        self._emptied = trio.Event()
        self._known_heads = KnownHeads()
        self._again: list[LaneConnection] = []
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._bells: dict[int, Callable[[], None]] = {self._bell: self._hear}
        self._nursery: trio.Nursery | None = None
        self._acceptor: Acceptor | None = None
        self._links: LinkSockets | None = None
        self._occupied = trio.Event()
        self._stirred: trio.Event | None = None  # while `_check` sleeps longer than usual
        self._is_stopping = self._is_over = False
        self._in_pass = self.is_rung = self._has_submitted = False
        self.now = self._began_s = 0.0
        self._passes_count = self._events_count = self._asked_count = 0
        self._requests_count = 0
        self._handed_over_counts = dict.fromkeys(REASONS, 0)
        self._failed_count = 0

    # Connections

    def accept_from(self, sockets: Sequence[socket.socket], port: Port) -> None:
        """Accept the connections of sockets that listen, until `accept_no_more`; serve them."""
        assert self._nursery is not None, "connections come only while the lane runs"
        self._acceptor = Acceptor(self._epoll, self._nursery, sockets, port, self.serve)

    def accept_no_more(self) -> None:
        """Accept no further connections; those that there are go on."""
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None and not self._is_over:
            acceptor.stop()

    def serve(
        self, connected: socket.socket, peer: str | None, port: Port, received: bytes = b""
    ) -> None:
        """Serve a connection, with what another process has read; `port` hears how it ends."""
        number = connected.fileno()
        limits = self._limits.header_limit_bytes, self._api.limits.body_limit_bytes
        parser = self._parsers.pop() if self._parsers else Parser(*limits, self._known_heads)

        def leave() -> None:
            self._epoll.unregister(number)
            del self._connections[number]
            if len(self._parsers) < _PARSERS_KEPT_COUNT:
                self._parsers.append(parser)
            if connection.is_handed_over:
                self._handed_over_counts[connection.reason] += 1
                since, hold = connection.partial_since, connection.take_hold()
                is_kept = self._kept is None or connection.reason == ENDPOINT
                home = connection.home if is_kept else ANY_HOME
                port.take_over(HandedOver(connected, connection.received, since, hold, home), peer)
            else:
                port.ended(peer)
            if not self._connections:
                self._emptied.set()

        connection = LaneConnection(self, connected, peer, parser, leave)
        if received:
            connection.begin_with(received)
        self._epoll.register(number, _EVENTS)
        self._connections[number] = connection
        if not self._occupied.is_set():
            self._occupied.set()
        try:
            # Most clients have sent their request by now.
            if self._is_stopping:
                connection.stop(may_begin=self._links is not None)
            else:
                connection.on_event(select.EPOLLIN)
        except Exception:
            self._give_up(connection)
        self.stir()  # what it has asked is carried out

    @property
    def connections_count(self) -> int:
        """The number of connections on the lane now."""
        return len(self._connections)

    async def wait_empty(self) -> None:
        """Wait until there are no connections."""
        while self._connections:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def cut(self) -> None:
        """End all connections immediately."""
        for connection in list(self._connections.values()):
            try:
                connection.close()
            except Exception:  # it must not hide what ends the server
                self._give_up(connection)

    def stop(self) -> None:
        """End idle connections, and the others when their request has been answered.

        Among several processes, those that are new may bring a request first.
        """
        self._is_stopping = True
        self._began_s = time.perf_counter()
        for connection in list(self._connections.values()):
            connection.stop(may_begin=self._links is not None)
        self.stir()  # what they have asked is carried out

    def idle(self) -> Iterator[tuple[float, Callable[[], None]]]:
        """Yield the connections that wait for a request: since when, and what closes them."""
        for connection in list(self._connections.values()):
            since = connection.waits_since
            if since is not None:
                yield since, connection.close

    def statistics(self) -> LaneStatistics:
        """Return counts of this moment and totals since the start."""
        return LaneStatistics(
            connections_count=len(self._connections),
            passes_total_count=self._passes_count,
            requests_total_count=self._requests_count,
            handed_over_total_count=sum(self._handed_over_counts.values()),
            failed_total_count=self._failed_count,
            handed_over_by_reason=self._handed_over_counts,
        )

    # The loop

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until canceled."""
        is_listener = self._shards.let_hear(self)
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._check)
                task_status.started()
                while True:
                    if self._again or self._has_submitted:
                        await trio.lowlevel.checkpoint()
                    else:
                        await trio.lowlevel.wait_readable(self._epoll.fileno())
                    events = self._epoll.poll(0, _EVENTS_LIMIT_COUNT)
                    self._pass(events)
                    if self._is_little_asked or self._links is not None:
                        self._go_on()
        finally:
            self.cut()
            self._is_over = True
            if is_listener:
                self._shards.let_hear(None)
            self._epoll.close()
            os.close(self._bell)

    def _go_on(self) -> None:
        """Serve what comes next, too: the way through trio costs as much as two requests.

        While little is asked that is the log's thread, and the next request of a client that asks
        one thing after the other; and what processes say to each other, if there are several.
        """
        ends_s = self._began_s + _STAY_S
        while not (self._again or self._has_submitted):
            is_little = self._is_little_asked
            if not is_little and self._links is None:
                break  # what comes next has a pass of its own: batches would be smaller
            if (left_s := ends_s - time.perf_counter()) <= 0:
                break
            events = [] if is_little else self._epoll.poll(0, _EVENTS_LIMIT_COUNT)
            if not events:
                wait_s = patience_s(left_s, self.neighbors)
                if wait_s:
                    self._shards.end_pass()
                events = self._epoll.poll(wait_s, _EVENTS_LIMIT_COUNT)
                if not events:
                    break
                if wait_s:
                    self._shards.begin_pass()
            self._pass(events)

    @property
    def _is_little_asked(self) -> bool:
        """Return whether the last pass with requests had few, and the last pass few events."""
        return self._asked_count <= _FEW_COUNT and self._events_count <= _FEW_COUNT

    def _pass(self, events: Sequence[tuple[int, int]]) -> None:
        """Serve everything that is ready."""
        self._passes_count += 1
        self._in_pass = True
        self._events_count = len(events)
        before_count = self._requests_count
        self.now = trio.current_time()
        self._began_s = time.perf_counter()
        self._hear_log()
        self._take(events)
        if self._asked_count > _FEW_COUNT:
            self._take_more(len(events))
        if self._deferred and not self.in_flight.is_full:
            self._go_on_with_deferred()
        for _ in range(_ROUNDS_LIMIT_COUNT):
            again, self._again = self._again, []
            self._work(again)
            # What streams have written is reported to the shards too.
            self._has_submitted = False
            self._shards.run_turn()
            if not self._again:
                break
        if self._links is not None:
            self._links.flush()
        self._asked_count = (self._requests_count - before_count) or self._asked_count
        self._in_pass = False

    def _take_more(self, count: int) -> None:
        """Take what has come since: who was answered in this pass may have asked again by now."""
        left_count = _EVENTS_LIMIT_COUNT - count
        while left_count > 0:
            events = self._epoll.poll(0, left_count)
            self._take(events)
            if len(events) <= _FEW_COUNT:
                break
            left_count -= len(events)

    def _take(self, events: Sequence[tuple[int, int]]) -> None:
        """Begin everything that is ready."""
        connections = self._connections
        if self._stirred is not None and any(number in connections for number, _ in events):
            self._stir_check(self._stirred)
        connection_of = connections.get
        is_any_to_accept = False
        for number, mask in events:
            connection = connection_of(number)
            if connection is not None:
                try:
                    connection.on_event(mask)
                except Exception:
                    self._give_up(connection)
            elif number in self._bells:
                self._bells[number]()
            elif self._links is None or not self._links.on_event(number, mask):
                is_any_to_accept = True
        # After the events of others: a new connection may have the number of one that has ended.
        if is_any_to_accept and self._acceptor is not None:
            if self._stirred is not None:
                self._stir_check(self._stirred)
            self._acceptor.accept(self._passes_count)

    def _hear_log(self) -> None:
        """Answer what is durable, and write what streams are told by it, before anything new.

        Those of other ports, too: they would wait for a pass of their own.
        """
        before_count = len(self._again)
        for neighbor in self.neighbors:
            neighbor._in_pass = True  # so it does not ring for one
        self._shards.look_at_log()
        for neighbor in self.neighbors:
            neighbor._in_pass = False
            if neighbor._again:
                told, neighbor._again = neighbor._again, []
                neighbor.now = self.now
                neighbor._work(told)
        if len(self._again) > before_count:
            told = self._again[before_count:]
            del self._again[before_count:]
            self._work(told)

    def _work(self, connections: Sequence[LaneConnection]) -> None:
        for connection in connections:
            try:
                connection.work()
            except Exception:
                self._give_up(connection)

    def _stir_check(self, stirred: trio.Event) -> None:
        """End the long sleep of `_check`: something has come in."""
        stirred.set()
        self._stirred = None

    def _give_up(self, connection: LaneConnection) -> None:
        """End one connection because of a defect, and no other."""
        self._failed_count += 1
        _log.exception("a connection failed", peer=connection.peer)
        connection.close()

    async def _check(self) -> None:
        """Look at the time now and then: coarse, but cheap with many connections."""
        limits = self._limits
        keep_alive_timeout_s = limits.keep_alive_timeout_ms / 1000
        write_timeout_s = limits.write_timeout_ms / 1000
        quiet_s = quiet_interval_s(
            keep_alive_timeout_s, write_timeout_s, self._api.settings.poll_keep_alive_ms / 1000
        )
        while True:
            await self._occupied.wait()
            # What comes in may end sooner than a quiet connection: half a request, for example.
            self._stirred = stirred = trio.Event()
            with trio.move_on_at(shared_end_s(quiet_s)):
                await stirred.wait()
                await trio.sleep(CHECK_INTERVAL_S)
            self._stirred = None
            self.now = now = trio.current_time()
            for connection in list(self._connections.values()):
                connection.check(now, keep_alive_timeout_s, write_timeout_s)
            if not self._connections:
                self._occupied = trio.Event()

    # What connections and exchanges need

    def exchange(self, connection: LaneConnection, parsed: Parsed) -> Exchange:
        """Make the exchange for a request. Raises NotServed."""
        hold, new_id, dispatcher = self._hold, self._new_id, self._dispatcher
        head = parsed.head
        match = head.match
        if match is None:
            try:
                # All rows take part in matching, so that a path means the same here as there.
                match = self._match(head.method, head.path)
            except ApiError:
                raise NotServed(ENDPOINT) from None
            endpoint = match.endpoint
            if endpoint.name not in self._served or (head.is_last and may_be_stream(endpoint)):
                self._leave_unless_at_home(match, head)
            else:
                head.match = match
        self._requests_count += 1
        endpoint, fields = match.endpoint, head.fields
        headers, is_plain = fields.headers, fields.is_plain
        if is_plain:
            identifier = new_id()
        else:
            if is_plain is None:
                fields.is_plain = is_plain = dispatcher.is_plain_head(headers)
            given = headers.get(b"request-id")
            identifier = request_id(given) if given else new_id()
        held = hold()
        request = Request(
            head.method,
            head.path,
            head.query,
            headers,
            parsed.body,
            held,
            connection.peer,
            identifier,
            fields.repeated,
            is_plain,
            endpoint.name,
            endpoint.refused,
        )
        return Exchange(self, dispatcher, request, held, match, connection, self._began_s)

    def _leave_unless_at_home(self, match: Match, head: Head) -> None:
        """Raise NotServed, unless this is for a stream whose home is this process."""
        if self._kept is not None and match.endpoint.name not in self._kept:
            raise NotServed(HOME, ANY_HOME)
        homes = self._homes
        if homes is not None and match.endpoint.group in STREAM_GROUPS:
            home = homes.home_of(match.values["group"])
            if home is not None:
                raise NotServed(HOME, home)
            if not head.is_last:
                return
        raise NotServed(ENDPOINT)

    def may_send_more(self, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether a request that has come only in part may be collected here.

        Short ones always: many clients send head and body apart.
        """
        credentials = self._api.credentials
        if credentials.is_open or is_known(credentials, headers):
            return True
        is_short = int(headers.get(b"content-length", b"0")) <= SMALL_BYTES
        return is_short and b"transfer-encoding" not in headers

    def wants_body(self, connection: LaneConnection, parsed: Parsed) -> bool:
        """Return whether a body is wanted, as far as its head says. Raises NotServed.

        What the head alone forbids, credentials first, is refused away from the lane.
        """
        head = parsed.head
        headers = head.fields.headers
        credentials = self._api.credentials
        if not (credentials.is_open or is_known(credentials, headers)):
            return False
        try:
            endpoint = self._match(head.method, head.path).endpoint
            if endpoint.name not in self._served:
                raise NotServed(ENDPOINT)
            self._dispatcher.judge_head(
                Request(
                    head.method,
                    head.path,
                    head.query,
                    headers,
                    peer=connection.peer,
                    id=self._new_id(),
                    repeated=head.fields.repeated,
                )
            )
        except ApiError:
            return False
        return True

    def await_room(self, number: int) -> None:
        """Call `on_event` of a connection when its socket has room, too."""
        self._epoll.modify(number, _EVENTS_AND_ROOM)

    def defer(self, exchange: Exchange, reply: Reply) -> None:
        """Hand an exchange a reply, whose answer is large, when there is room for that."""
        self._deferred.append((exchange, reply))
        if len(self._deferred) == 1:
            self.in_flight.when_room(self._ring)

    def _go_on_with_deferred(self) -> None:
        """Make a few of the answers that there was no room for, as far as there is now."""
        for _ in range(min(len(self._deferred), _DEFERRED_AT_ONCE_COUNT)):
            if self.in_flight.is_full:
                break
            exchange, reply = self._deferred.popleft()
            exchange.answer(0, reply)
        if self._deferred:
            self.in_flight.when_room(self._ring)

    def again(self, connection: LaneConnection) -> None:
        """Schedule a connection to work again, in this pass or in the next."""
        self._again.append(connection)
        if not self._in_pass:
            self._ring()

    def submit_renewals(self, renewals: Renewals, held: HeldMessages, asker: Asker) -> int:
        """Do as `submit`, for all shards concerned; return the number of replies to come."""
        return self._shards.submit_renewals(renewals.pid, renewals.tasks, held, asker)

    def bring_streams(self, homes: StreamHomes) -> None:
        """Leave workers' streams to the homes of their groups."""
        self._homes = homes
        self._served -= self._streams
        self._handed_over_counts[HOME] = 0

    def pass_on(self, kept: frozenset[str]) -> None:
        """Leave all to other processes but requests of these endpoints. Before it runs."""
        self._kept = kept
        self._served &= kept
        self._handed_over_counts[HOME] = 0

    # What the links to other processes need: `link_sockets.PassLoop`

    def serve_links(self, links: LinkSockets) -> None:
        """Serve links in the same passes as clients."""
        self._links = links

    def watch(self, number: int) -> None:
        """Hear of events of a link's socket from now on, those at hand included."""
        self._epoll.register(number, _EVENTS)

    def tell_again(self, number: int) -> None:
        """Hear in the next pass of what was left to read; of room no longer."""
        self._epoll.modify(number, _EVENTS)

    def forget(self, number: int) -> None:
        """Hear no more of it."""
        if not self._is_over:
            self._epoll.unregister(number)

    @property
    def sends_soon(self) -> bool:
        """Return whether a pass is going on that sends what is said in it, in one piece.

        One with little to do does not: what it has heard of the log is waited for elsewhere.
        """
        return self._in_pass and not self._is_little_asked

    def submitted(self) -> None:
        """Run a turn in this pass, or the next."""
        self._has_submitted = True
        self.stir()

    def stir(self) -> None:
        """See to it that there will be a pass."""
        if not self._in_pass and not self._is_over:
            self._ring()

    def _ring(self) -> None:
        """See to it that there will be a pass; who rings before it comes need not ring again."""
        if not self.is_rung:
            self.is_rung = True
            os.eventfd_write(self._bell, 1)

    def _hear(self) -> None:
        os.eventfd_read(self._bell)
        self.is_rung = False

    # What the shards need: `committer.BellListener`

    def listen(self, number: int, hear: Callable[[], None]) -> None:
        """Call `hear` in a pass when this descriptor can be read."""
        self._bells[number] = hear
        self._epoll.register(number, select.EPOLLIN)

    def listen_no_more(self, number: int) -> None:
        """Do so no longer: it is closed next."""
        del self._bells[number]
        self._epoll.unregister(number)

    def start(self, exchange: Exchange) -> None:
        """Start a task that carries out an exchange."""
        assert self._nursery is not None, "exchanges begin only while the lane runs"
        self._nursery.start_soon(exchange.carry_out)
