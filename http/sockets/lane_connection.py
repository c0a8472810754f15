"""One connection on the hot lane: its buffers, its order, its patience.

- Requests are carried out one after the other, in order, and answered in that order; what a client
sends in the meantime stays in the socket. So a connection holds at most one unanswered request and
one
  unwritten answer here.
- A connection whose next request is not for the lane (see `lane_parsing.py`), or that does not
  arrive within `PARTIAL_LIMIT_S`, is given up, for good, with the bytes read so far; all earlier
  requests have been answered by then.
- An answer may be a stream (`lane_streams.py`): all it has to say goes out in one piece when the
  socket has room. It ends early when the client is gone; what that one sends in the meantime waits.
- A long body that does not come in one piece is collected only from clients whose head says who
  they are, and if there is room (`wire/in_flight.py`); others are given up in the same way.
- A client that takes nothing of an answer for the write timeout is cut off. One that leaves early
  has its request carried out all the same.
"""

import select
import socket
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from troth.http.wire.in_flight import SMALL_BYTES, Hold, InFlight
from troth.http.wire.requests import Request
from troth.shards.held import HeldMessages

from .departures import CREDENTIALS, ENDPOINT, EXPECTATION, FIELDS, ROOM, SLOW, UNFINISHED
from .lane_exchange import Exchange, render_continue
from .lane_parsing import NotServed, Parsed, Parser, without_empty_lines
from .lane_streams import LaneStream

PARTIAL_LIMIT_S: Final = 1.0
_READ_BYTES: Final = 16 * 1024
_DONT_WAIT: Final = socket.MSG_DONTWAIT
# A client whose request comes in more pieces than this in one go waits for the others' turn.
_STEPS_LIMIT_COUNT: Final = 16
_HANG_UP: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_COME: Final = select.EPOLLIN
_INCOMING: Final = _COME | _HANG_UP
_ROOM: Final = select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP
_HEAD_END: Final = b"\r\n\r\n"
_CLOSING_HEAD_END: Final = b"\r\nConnection: close\r\n\r\n"


class Surroundings(Protocol):
    """What a connection needs of the lane."""

    @property
    def now(self) -> float:
        """The time in seconds, as of a moment ago."""
        ...

    @property
    def in_flight(self) -> InFlight:
        """The memory that all connections take."""
        ...

    def may_send_more(self, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether a body is to be collected, as far as its head says."""
        ...

    def exchange(self, connection: "LaneConnection", parsed: Parsed) -> Exchange:
        """Make the exchange for a request. Raises NotServed."""
        ...

    def again(self, connection: "LaneConnection") -> None:
        """Call `work` again soon."""
        ...

    def await_room(self, number: int) -> None:
        """Call `on_event` of the connection with this descriptor when its socket has room."""
        ...

    def wants_body(self, connection: "LaneConnection", parsed: Parsed) -> bool:
        """Return whether the body of a request is wanted, as far as its head says."""
        ...


class LaneConnection:
    """A connection while it is on the lane. `ended` is called when it no longer is.

    Then `is_handed_over` says whether the socket is open, and `received` what was read of it; the
    first of that came at `partial_since`; `reason` says why (`departures.py`), and `home` for which
    other process, if it is for one.
    """

    __slots__ = (
        "_held",
        "_hold",
        "_idle_since",
        "_is_at_end",
        "_is_continued",
        "_is_hung_up",
        "_is_last",
        "_is_readable",
        "_is_stopping",
        "_is_to_work",
        "_lane",
        "_out",
        "_parser",
        "_request",
        "_stream",
        "_write_since",
        "ended",
        "home",
        "is_closed",
        "is_handed_over",
        "partial_since",
        "peer",
        "reason",
        "received",
        "socket",
    )

    def __init__(
        self,
        lane: Surroundings,
        connected: socket.socket,
        peer: str | None,
        parser: Parser,
        ended: Callable[[], None],
    ) -> None:
        """Take over a socket. It is never waited for, blocking or not: to say so costs a call."""
        self._lane = lane
        self._parser = parser
        self.socket = connected
        self.peer = peer
        self.ended = ended
        self.received = b""
        self.partial_since = 0.0
        self.is_closed = False
        self.is_handed_over = False
        self.reason = ENDPOINT
        self.home: int | None = None
        self._idle_since = lane.now
        self._write_since = 0.0
        self._out: memoryview | None = None
        self._held: HeldMessages | None = None
        self._hold: Hold | None = None
        self._request: Request | None = None  # the one in flight
        self._is_readable = False
        self._is_hung_up = False
        self._is_last = False  # its client wants an end after it
        self._is_at_end = False
        self._is_stopping = False
        self._is_to_work = False  # the stream
        self._is_continued = False  # its client was told to send the body of the next request
        self._stream: LaneStream | None = None

    def begin_with(self, received: bytes) -> None:
        """Take over what another process has read of the next request."""
        self.received = received
        self.partial_since = self._lane.now

    # What the lane calls

    def on_event(self, mask: int) -> None:
        """Take what epoll says: edges, so every one is remembered."""
        if mask == _COME:
            self._is_readable = True
        else:
            self._take(mask)
        if self._stream is not None or self._step():
            self.work()

    def _take(self, mask: int) -> None:
        """Take more than that something has come."""
        if mask & _INCOMING:
            self._is_readable = True
            if mask & _HANG_UP:
                self._is_hung_up = True
                if self._request is not None:
                    self._request.leave()
                if self._stream is not None:
                    self.close()
                    return
        if self._out is not None and mask & _ROOM:
            self._write()

    def work(self) -> None:
        """Read and begin a request, as far as it goes now; or go on with a stream."""
        if self._stream is not None:
            self._is_to_work = False
            self._go_on_with(self._stream)
            return
        for _ in range(_STEPS_LIMIT_COUNT):
            if not self._step():
                return
        self._lane.again(self)

    def check(self, now: float, keep_alive_timeout_s: float, write_timeout_s: float) -> None:
        """Lose patience, if it is time."""
        if self._out is not None:
            if now - self._write_since > write_timeout_s:
                self.close()
        elif self._stream is not None:
            if self._stream.is_due(now):
                self._work_soon()
        elif self._request is not None:
            return
        elif self.received:
            if now - self.partial_since > PARTIAL_LIMIT_S:
                self._hand_over(SLOW)
        elif now - self._idle_since > keep_alive_timeout_s or (
            self._is_stopping and not self._is_new
        ):
            self.close()

    @property
    def waits_since(self) -> float | None:
        """Since when a request has been waited for; None if one is being answered."""
        if self._is_occupied or self._stream is not None:
            return None
        return self._idle_since

    @property
    def _is_occupied(self) -> bool:
        """Return whether no request can begin: one is being answered, or it is over."""
        return self._request is not None or self._out is not None or self.is_closed

    def stop(self, *, may_begin: bool = False) -> None:
        """End as soon as the request in flight has been answered; immediately if there is none.

        One that lies in the socket is in flight: closing would drop it, and its sender could not
        know. One that has not arrived whole may be, too; hypercorn's side knows what to do.
        If it `may_begin`, a new connection has a moment to bring its first request: its client has
        no reason to expect an end, and does not try again.
        """
        self._is_stopping = True
        if self._stream is not None:
            self._stream.stop()
            return
        if self._is_occupied:
            return
        self._is_readable = True
        self.work()
        if self._is_occupied:
            return
        if self.received:
            self._hand_over(UNFINISHED)
        elif not (may_begin and self._is_new):
            self.close()

    @property
    def _is_new(self) -> bool:
        """Return whether nothing has come yet, and it is not long since it was accepted."""
        return not self.partial_since and self._lane.now - self._idle_since <= PARTIAL_LIMIT_S

    def close(self) -> None:
        """End the connection; repeated calls do nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        self._end()
        self.socket.close()
        self._out = None
        self._release()
        self._let_go()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    # Reading

    def _step(self) -> bool:
        """Take one request, reading if need be; whether there may be more to do until it is whole.

        What comes behind it is looked at when it has been answered.
        """
        if self._request is not None or self._out is not None or self.is_closed:
            return False
        received = self.received
        if not received:
            if self._is_at_end:
                self.close()
                return False
            if not self._is_readable:
                return False
            # As `_read`, written out: most requests come in one piece.
            try:
                received = self.socket.recv(_READ_BYTES, _DONT_WAIT)
            except BlockingIOError:
                self._is_readable = False
                return False
            except OSError:
                self.close()
                return False
            self._is_readable = len(received) == _READ_BYTES or self._is_hung_up
            if not received:
                self._is_at_end = True
                return True
            self.partial_since = self._lane.now
        try:
            parsed = self._parser.parse(received)
            if parsed is not None:
                if parsed.head.is_last:
                    if parsed.end < len(received):
                        raise NotServed(FIELDS)
                    self._is_last = True
                exchange = self._lane.exchange(self, parsed)
                self._request = exchange.request
                if parsed.end == len(received):
                    self.received = b""
                else:
                    self.received = received[parsed.end :]
                    self.partial_since = self._lane.now
                if self._hold is not None:  # it has not come in one piece
                    self._hold.pin()
                    self._is_continued = False
                if self._is_hung_up:
                    self._request.leave()
                exchange.run()
                return False
            self.received = received
            if self._parser.is_waited_for and not self._is_continued:
                self._ask_for_body(received)
        except NotServed as why:
            self.received = rest = without_empty_lines(received)
            if len(rest) < len(received):
                return True
            self.home = why.home
            self._hand_over(why.reason)
            return False
        if self.is_closed:
            return False
        if self._is_at_end:
            self._hand_over(UNFINISHED)
            return False
        return self._is_readable and self._read()

    def _ask_for_body(self, received: bytes) -> None:
        """Tell a client that waits for it to send its body, once. Raises NotServed if it is not to.

        The head has been judged then: a body that nothing can be done with is not asked for.
        """
        awaited = self._parser.awaited(received)
        if awaited is None:
            return
        if not self._lane.wants_body(self, awaited):
            raise NotServed(EXPECTATION)
        self._is_continued = True
        if not self._send(render_continue()):
            self.close()  # it takes nothing, not even this

    def _read(self) -> bool:
        """Read more of a request; whether that may be enough."""
        try:
            data = self.socket.recv(_READ_BYTES, _DONT_WAIT)
        except BlockingIOError:
            self._is_readable = False
            return False
        except OSError:
            self.close()
            return False
        if not data:
            self._is_at_end = True
        else:
            may_collect = self._may_collect(len(data))
            self.received += data
            if not may_collect:
                # There it is judged, and answered, with what was read.
                self._hand_over(ROOM if self._hold is not None else CREDENTIALS)
                return False
        # Less than asked for means that there was no more; but an end is not announced again.
        self._is_readable = len(data) == _READ_BYTES or self._is_hung_up
        return True

    def _may_collect(self, count_bytes: int) -> bool:
        """Return whether more of a request may be kept here; it has not come in one piece."""
        if self._hold is None:
            headers = self._parser.awaited_headers(self.received)
            if headers is not None and not self._lane.may_send_more(headers):
                return False
            self._hold = self._lane.in_flight.hold(self._give_room)
            self._hold.grow_anyway(len(self.received))
        return self._hold.grow(count_bytes)

    def take_hold(self) -> Hold | None:
        """Return what counts the bytes in `received`, to be released by the caller."""
        hold, self._hold = self._hold, None
        return hold

    def _let_go(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()

    def _give_room(self) -> None:
        self._hand_over(ROOM)

    def _hand_over(self, reason: str) -> None:
        self.reason = reason
        if self._hold is not None:
            self._hold.pin()  # what was received stays in memory until it has been judged
        self.is_closed = self.is_handed_over = True
        self._end()

    def _end(self) -> None:
        """Say that it is over, once; what is told knows this, and so would keep both alive."""
        ended, self.ended = self.ended, _nothing
        ended()

    # Writing

    def answered(self, data: bytes, held: HeldMessages) -> None:
        """Write the answer to the request in flight, and go on."""
        self._request = None
        self._idle_since = self._lane.now
        if self._hold is not None:
            self._let_go()
        if self.is_closed:
            held.release()
            return
        if self._is_last:
            data = data.replace(_HEAD_END, _CLOSING_HEAD_END, 1)
            self._is_stopping = True
        try:
            sent_bytes = self.socket.send(data, _DONT_WAIT)
        except BlockingIOError:
            sent_bytes = 0
        except OSError:
            self.close()
            held.release()
            return
        if sent_bytes < len(data):
            self._keep(data, sent_bytes)
            self._held = held
            return
        held.is_released = True
        if held.messages is not None:
            held.release()
        # Nearly always there is nothing more to do: it is not looked for in a call.
        if self._is_stopping or self.received or self._is_readable or self._is_at_end:
            self._after_answer()

    def streams(self, stream: LaneStream) -> None:
        """Answer the request in flight with a stream, and go on after its end."""
        if self.is_closed or self._is_hung_up or self._is_at_end:
            stream.close()
            self.close()
            return
        self._request = None
        self._stream = stream
        self._is_to_work = False
        stream.when_ready(self._work_soon)
        if self._is_stopping:
            stream.stop()
        self._go_on_with(stream)

    def _go_on_with(self, stream: LaneStream) -> None:
        """Write what the stream has to say, as long as the socket takes it."""
        lane = self._lane
        while self._out is None and not self.is_closed:
            if lane.in_flight.is_full:
                lane.in_flight.when_room(self._work_soon)
                return
            data = stream.next(lane.now)
            if data is None:
                self._stream = None
                stream.close()
                self._idle_since = self._lane.now
                self._after_answer()
                return
            if not data or not self._send(data):
                return

    def _send(self, data: bytes) -> bool:
        """Send something, when all before was; whether the socket has taken all of it."""
        try:
            sent_bytes = self.socket.send(data, _DONT_WAIT)
        except BlockingIOError:
            sent_bytes = 0
        except OSError:
            self.close()
            return False
        if sent_bytes < len(data):
            self._keep(data, sent_bytes)
            return False
        return True

    def _keep(self, data: bytes, sent_bytes: int) -> None:
        """Keep what the socket has not taken until it has room."""
        self._write_since = self._lane.now
        self._out = memoryview(data)[sent_bytes:]
        self._lane.await_room(self.socket.fileno())
        if len(data) > SMALL_BYTES:
            self._hold = self._lane.in_flight.hold(self.close)
            self._hold.grow_anyway(len(data))

    def _write(self) -> None:
        """Go on with an answer that the client was too slow for."""
        assert self._out is not None, "called only with something to write"
        try:
            sent_bytes = self.socket.send(self._out, _DONT_WAIT)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._write_since = self._lane.now
        if sent_bytes < len(self._out):
            self._out = self._out[sent_bytes:]
            if self._hold is not None:
                self._hold.progress(self._lane.now)
            return
        self._out = None
        self._let_go()
        if self._stream is not None:
            return  # it is asked for more next
        self._idle_since = self._lane.now
        self._release()
        self._after_answer()

    def _work_soon(self) -> None:
        if not self._is_to_work:
            self._is_to_work = True
            self._lane.again(self)

    def _after_answer(self) -> None:
        if self._is_stopping:
            self.close()
        elif self.received or self._is_readable or self._is_at_end:
            self._lane.again(self)

    def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.release()


def _nothing() -> None:
    """Stands for what was told that a connection is over."""
