"""The load itself: one epoll set over all connections, one operation in flight on each.

Closed loop: a connection starts its next operation when the last is done. Open loop: operations
have intended starts, at a fixed rate, whether or not the server keeps up; an operation that no
connection is free for waits, and its latency counts from its *intended* start. So a server that
stalls is charged for all operations that would have started during the stall ("no coordinated
omission").

What happens is handed to `report` four times a second; only what ended within the measured time
counts.
"""

import collections
import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from .histogram import Histogram
from .scenarios.base import MESSAGE, PREPARE, Operation, Scenario
from .wire import Events, ProtocolError, Requests, parse_answer
from .workload import Workload

INTERVAL_NS: Final = 250_000_000
NEVER_NS: Final = 1 << 62
DRAIN_LIMIT_NS: Final = 2_000_000_000
_SECOND_NS: Final = 1_000_000_000
_READ_BYTES: Final = 16_384
"""Larger buffers cost more than they save: each call allocates one."""
_SLEEP_AT_LEAST_NS: Final = 80_000
"""Closer to an intended start than this it does not sleep: waking up takes about that long."""


@dataclass
class Interval:
    """The operations of a quarter of a second."""

    start_s: float
    """Since the beginning of the warm-up."""
    measured: bool
    latency: Histogram
    """Of whole operations, nanoseconds."""
    failures: int


@dataclass
class Totals:
    """Totals of the measured time."""

    elapsed_ns: int = 0
    processor_ns: int = 0
    """Processor time that this process used."""
    latency: Histogram = field(default_factory=Histogram)
    steps: dict[str, Histogram] = field(default_factory=dict)
    """Latencies of single requests and of what scenarios measure themselves."""
    lag: Histogram = field(default_factory=Histogram)
    """Open loop: how much later than intended this process started, a connection being free."""
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    requests: int = 0
    unfinished: int = 0
    """Open loop: operations intended in the measured time that had not ended after the drain."""


class LoadConnection:
    """One connection, its stream if it has one, and the operation on it: a scenario's `Line`."""

    __slots__ = (
        *("broken", "buffer", "engine", "events", "message_ns", "messages", "number", "operation"),
        *("pending", "sent_ns", "socket", "started_ns", "step", "stream"),
    )

    def __init__(self, engine: "Engine", number: int) -> None:
        self.engine = engine
        self.number = number
        self.socket: socket.socket | None = None
        self.stream: socket.socket | None = None
        self.events = Events()
        self.messages: collections.deque[tuple[int, bytes]] = collections.deque()
        self.operation: Operation | None = None
        self.buffer = b""
        self.pending = b""
        self.step = PREPARE
        self.started_ns = 0
        self.sent_ns = 0
        self.message_ns = 0
        self.broken = False

    def measure(self, name: str, duration_ns: int) -> None:
        """Report a duration that only the scenario can measure."""
        self.engine.measure(name, duration_ns)


class Engine:
    """Runs one workload once."""

    def __init__(
        self, workload: Workload, scenario: Scenario, report: Callable[[Interval], None]
    ) -> None:
        self._workload = workload
        self._scenario = scenario
        self._report = report
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, tuple[LoadConnection, bool]] = {}
        self._connections = [LoadConnection(self, number) for number in range(workload.connections)]
        self._names = [one.name for one in scenario.steps]
        self._statuses = [one.statuses for one in scenario.steps]
        self._has_steps = len(scenario.steps) > 1
        self._idle: collections.deque[LoadConnection] = collections.deque()
        self._backlog: collections.deque[int] = collections.deque()
        self._open_loop = workload.rate is not None
        self._remaining = workload.operation_limit
        self._in_flight = 0
        self._measuring = False
        self._stopping = False
        self._totals = Totals()
        self._interval = Histogram()
        self._failures = 0
        self._from_ns = self._to_ns = self._start_ns = self._count_from_ns = 0
        self._interval_start_ns = self._next_tick_ns = self._processor_from_ns = 0
        self._address = (workload.host, workload.port)
        self._timeout_ns = int(workload.request_timeout_s * _SECOND_NS)

    def connect(self) -> None:
        """Open all connections and streams. Raises OSError or ProtocolError."""
        for connection in self._connections:
            self._open(connection)
            self._open_stream(connection)

    def run(self) -> Totals:
        """Run until the time is over, or the limit of operations is reached."""
        workload = self._workload
        start = time.perf_counter_ns()
        self._from_ns = start + int(workload.warm_up_s * _SECOND_NS)
        self._to_ns = self._from_ns + int(workload.duration_s * _SECOND_NS)
        if workload.operation_limit is not None:
            self._from_ns, self._to_ns = start, NEVER_NS
        self._start_ns = start
        # In a closed loop what counts is when an operation ends; in an open one, its start.
        self._count_from_ns = self._from_ns if self._open_loop else 0
        try:
            self._loop(start)
        finally:
            self._close()
        return self._totals

    def measure(self, name: str, duration_ns: int) -> None:
        """Record a duration under a name, during the measured time only."""
        if self._measuring:
            steps = self._totals.steps
            if name not in steps:
                steps[name] = Histogram()
            steps[name].record(duration_ns)

    # -- the loop ---------------------------------------------------------------------------

    def _loop(self, now: int) -> None:
        arrivals = self._arrivals(now) if self._open_loop else iter(())
        next_arrival = next(arrivals, NEVER_NS)
        self._interval_start_ns = now
        self._next_tick_ns = now if self._from_ns == now else min(now + INTERVAL_NS, self._from_ns)
        self._idle.extend(self._connections)
        if not self._open_loop:
            self._start_idle(now)
        while True:
            now = time.perf_counter_ns()
            while next_arrival <= now and not self._stopping:
                self._arrive(next_arrival, now)
                next_arrival = next(arrivals)
            if now >= self._next_tick_ns:
                self._tick(now)
            if self._stopping:
                next_arrival = NEVER_NS
            if self._is_over(now):
                return
            wait_ns = min(next_arrival, self._next_tick_ns) - now
            for descriptor, _ in self._ready(wait_ns, is_exact=next_arrival < NEVER_NS):
                entry = self._by_descriptor.get(descriptor)
                if entry is None:
                    continue  # closed by an earlier event of this round
                if entry[1]:
                    self._read_stream(entry[0])
                else:
                    self._read(entry[0])

    def _ready(self, wait_ns: int, *, is_exact: bool) -> list[tuple[int, int]]:
        """Return the events that have come; wait that long for the first.

        Ticks need not be exact; intended starts must be. epoll waits in whole milliseconds, so that
        at a thousand a second it would never sleep, and take from a busy machine the core that the
        server needs; select(2) waits for the epoll set to microseconds.
        """
        if not is_exact:
            return self._epoll.poll(max(wait_ns / _SECOND_NS, 0.001))
        if wait_ns > _SLEEP_AT_LEAST_NS:
            events = self._epoll.poll(0)
            if events:
                return events
            timeout_s = (wait_ns - _SLEEP_AT_LEAST_NS) / _SECOND_NS
            select.select((self._epoll,), (), (), timeout_s)
        return self._epoll.poll(0)

    def _tick(self, now: int) -> None:
        """End an interval; begin and end the measured time when it is time to."""
        self._finish_interval(now)
        if not self._measuring and self._from_ns <= now < self._to_ns:
            self._measuring = True
            if not self._open_loop:
                self._from_ns = now
            self._processor_from_ns = time.process_time_ns()
        if now >= self._to_ns and not self._stopping:
            self._stopping = True
            self._note_elapsed(now)
        self._tend(now)
        self._next_tick_ns = now + INTERVAL_NS
        for moment in (self._from_ns, self._to_ns):
            if now < moment < self._next_tick_ns:
                self._next_tick_ns = moment

    def _is_over(self, now: int) -> bool:
        """Return whether all is done; then the last interval ends, too."""
        if self._stopping:
            is_drained = not self._in_flight and not self._backlog
            if self._open_loop and not is_drained and now <= self._to_ns + DRAIN_LIMIT_NS:
                return False
            if self._open_loop:
                # What came in late counts, but this is no quarter of a second to be shown.
                self._totals.latency.add(self._interval)
                self._totals.unfinished = self._count_unfinished(now)
            return True
        if self._remaining == 0 and not self._in_flight:
            self._finish_interval(now)
            self._note_elapsed(now)
            return True
        return False

    def _note_elapsed(self, now: int) -> None:
        self._totals.elapsed_ns = now - self._from_ns
        self._totals.processor_ns = time.process_time_ns() - self._processor_from_ns

    def _arrivals(self, start: int) -> Iterator[int]:
        """Yield the intended starts, without end."""
        assert self._workload.rate is not None
        mean_ns = _SECOND_NS / self._workload.rate
        source = random.Random(self._workload.seed)  # noqa: S311
        moment = float(start)
        while True:
            yield int(moment)
            is_even = self._workload.arrivals == "even"
            moment += mean_ns if is_even else source.expovariate(1 / mean_ns)

    def _arrive(self, intended: int, now: int) -> None:
        if self._idle:
            self._totals.lag.record(now - intended)
            self._begin(self._idle.popleft(), intended)
        else:
            self._backlog.append(intended)

    def _finish_interval(self, now: int) -> None:
        start, self._interval_start_ns = self._interval_start_ns, now
        # A closed loop ends with the interval in which the time runs out.
        if self._measuring:
            self._totals.latency.add(self._interval)
        if self._interval.count or self._failures or now > start:
            begin_s = (start - self._start_ns) / _SECOND_NS
            self._report(Interval(begin_s, self._measuring, self._interval, self._failures))
        self._interval = Histogram()
        self._failures = 0

    def _count_unfinished(self, now: int) -> int:
        """Record operations that never ended with the time they have waited: at least that."""
        waiting = [one.started_ns for one in self._connections if one.operation is not None]
        waiting += [intended for intended in self._backlog if intended < self._to_ns]
        waiting = [moment for moment in waiting if moment >= self._count_from_ns]
        for moment in waiting:
            self._totals.latency.record(now - moment)
        return len(waiting)

    def _tend(self, now: int) -> None:
        """End operations that take too long; reconnect where that failed before."""
        for connection in self._connections:
            if connection.operation is not None and connection.step != PREPARE:
                if now - connection.sent_ns > self._timeout_ns:
                    self._lose(connection, "no answer within the time limit", now)
            elif connection.broken:
                self._reopen(connection, now)

    # -- operations -------------------------------------------------------------------------

    def _start_idle(self, now: int) -> None:
        while self._idle and self._remaining != 0 and not self._stopping:
            self._begin(self._idle.popleft(), now)

    def _begin(self, connection: LoadConnection, intended: int) -> None:
        if self._remaining is not None:
            self._remaining -= 1
        self._in_flight += 1
        connection.started_ns = intended
        connection.operation = self._scenario.operation(connection)
        self._advance(connection, None)

    def _advance(self, connection: LoadConnection, answer: bytes | None) -> None:
        """Send the operation's next request, or the one after a message that is there already."""
        operation = connection.operation
        assert operation is not None
        try:
            # A generator that has not begun takes nothing but None.
            step, request = operation.send(answer)  # type: ignore[arg-type]
            while step == MESSAGE and connection.messages:
                connection.message_ns, message = connection.messages.popleft()
                step, request = operation.send(message)
        except StopIteration:
            self._done(connection, time.perf_counter_ns())
            return
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            # The scenario could not use what it was sent.
            self._fail(connection, f"a malformed answer ({error})")
            return
        connection.step = step
        connection.sent_ns = time.perf_counter_ns()
        if step != MESSAGE:
            self._send(connection, request)

    def _done(self, connection: LoadConnection, now: int) -> None:
        # An operation due before the measured time does not count in it, however late it ends.
        if connection.started_ns >= self._count_from_ns or not self._measuring:
            self._interval.record(now - connection.started_ns)
        self._next(connection, now)

    def _fail(self, connection: LoadConnection, reason: str) -> None:
        if self._measuring:
            self._totals.errors[reason] += 1
        self._failures += 1
        if connection.operation is not None:
            connection.operation.close()
        self._next(connection, time.perf_counter_ns())

    def _next(self, connection: LoadConnection, now: int) -> None:
        connection.operation = None
        self._in_flight -= 1
        if connection.broken or (self._stopping and not self._backlog) or self._remaining == 0:
            if not connection.broken:
                self._idle.append(connection)
        elif not self._open_loop:
            self._begin(connection, now)
        elif self._backlog:
            self._begin(connection, self._backlog.popleft())
        else:
            self._idle.append(connection)

    # -- sockets ----------------------------------------------------------------------------

    def _open(self, connection: LoadConnection) -> None:
        opened = socket.create_connection(self._address, self._workload.request_timeout_s)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        connection.socket = opened
        connection.buffer = connection.pending = b""
        connection.broken = False
        self._by_descriptor[opened.fileno()] = (connection, False)
        self._epoll.register(opened, select.EPOLLIN)

    def _open_stream(self, connection: LoadConnection) -> None:
        path = self._scenario.stream_path(connection)
        if path is None:
            return
        workload = self._workload
        address, prefix = (workload.poll_host, workload.poll_port), workload.poll_prefix
        if self._scenario.streams_at_api:
            address, prefix = (workload.host, workload.port), "/poll"
        stream = socket.create_connection(address, workload.request_timeout_s)
        requests = Requests(f"{address[0]}:{address[1]}", workload.authorization)
        stream.sendall(requests.make("GET", prefix + path))
        connection.stream = stream
        connection.events = Events()
        while not connection.events.is_open:
            data = stream.recv(_READ_BYTES)
            if not data:
                raise ProtocolError("the server closed a stream immediately")
            connection.messages.extend((0, event) for event in connection.events.feed(data))
        stream.setblocking(False)
        self._by_descriptor[stream.fileno()] = (connection, True)
        self._epoll.register(stream, select.EPOLLIN)

    def _drop(self, dropped: socket.socket | None) -> None:
        if dropped is not None:
            self._by_descriptor.pop(dropped.fileno(), None)
            self._epoll.unregister(dropped)
            dropped.close()

    def _lose(self, connection: LoadConnection, reason: str, now: int) -> None:
        """Give up an operation and its connection, and reconnect."""
        self._drop(connection.socket)
        connection.socket = None
        connection.broken = True
        if connection.operation is not None:
            self._fail(connection, reason)
        self._reopen(connection, now)

    def _reopen(self, connection: LoadConnection, now: int) -> None:
        try:
            self._open(connection)
            if connection.stream is None:
                self._open_stream(connection)
        except (OSError, ProtocolError) as error:
            connection.broken = True
            if self._measuring:
                self._totals.errors[f"could not connect ({error})"] += 1
            return  # `_tend` tries again
        self._idle.append(connection)
        if self._open_loop:
            if self._backlog:
                self._begin(self._idle.pop(), self._backlog.popleft())
        else:
            self._start_idle(now)

    def _send(self, connection: LoadConnection, request: bytes) -> None:
        opened = connection.socket
        assert opened is not None
        try:
            sent_bytes = opened.send(request)
        except BlockingIOError:
            sent_bytes = 0
        except OSError as error:
            # Found out by the next read, too; that one counts it.
            connection.pending = b""
            self._totals.errors[f"could not send ({error.strerror})"] += self._measuring
            return
        if sent_bytes < len(request):
            connection.pending = request[sent_bytes:]
            self._epoll.modify(opened, select.EPOLLIN | select.EPOLLOUT)

    def _read(self, connection: LoadConnection) -> None:
        opened = connection.socket
        assert opened is not None
        if connection.pending:
            rest, connection.pending = connection.pending, b""
            self._epoll.modify(opened, select.EPOLLIN)
            self._send(connection, rest)
        try:
            data = opened.recv(_READ_BYTES)
        except BlockingIOError:
            return  # it was only the way out that had become free
        except OSError as error:
            self._lose(connection, f"connection lost ({error.strerror})", time.perf_counter_ns())
            return
        now = time.perf_counter_ns()
        if not data:
            self._lose(connection, "the server closed the connection", now)
            return
        if connection.buffer:
            data = connection.buffer + data
        try:
            answer = parse_answer(data)
        except ProtocolError as error:
            self._lose(connection, f"not an HTTP answer ({error})", now)
            return
        if answer is None:
            connection.buffer = data
            return
        connection.buffer = b""
        if connection.operation is None or connection.step == MESSAGE:
            self._lose(connection, "an answer without a request", now)
            return
        status, body, closes = answer
        self._answered(connection, status, body, now)
        if closes and connection.socket is opened:
            self._lose(connection, "the server closes connections after an answer", now)

    def _answered(self, connection: LoadConnection, status: int, body: bytes, now: int) -> None:
        step = connection.step
        if step == PREPARE:
            if status >= 300:
                self._fail(connection, f"preparation answered {status}")
                return
            # The clock of the operation stands still in the meantime.
            connection.started_ns += now - connection.sent_ns
        else:
            self._totals.requests += self._measuring
            if status not in self._statuses[step]:
                self._fail(connection, f"{self._names[step]} answered {status}")
                return
            if self._has_steps:
                self.measure(self._names[step], now - connection.sent_ns)
        self._advance(connection, body)

    def _read_stream(self, connection: LoadConnection) -> None:
        stream = connection.stream
        assert stream is not None
        try:
            data = stream.recv(_READ_BYTES)
            events = connection.events.feed(data) if data else []
        except (OSError, ProtocolError) as error:
            data, events = b"", []
            self._totals.errors[f"stream broken ({error})"] += self._measuring
        if not data:
            self._drop(stream)
            connection.stream = None
            self._lose(connection, "the server closed a stream", time.perf_counter_ns())
            return
        now = time.perf_counter_ns()
        connection.messages.extend((now, event) for event in events)
        if connection.operation is not None and connection.step == MESSAGE and connection.messages:
            connection.message_ns, message = connection.messages.popleft()
            self._advance(connection, message)

    def _close(self) -> None:
        for connection in self._connections:
            self._drop(connection.socket)
            self._drop(connection.stream)
            connection.socket = connection.stream = None
        self._epoll.close()
