"""A lane's connection and its patience, on a socket pair and a clock of our own."""

import select
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from troth.core.replies import Message
from troth.http.sockets.departures import ENDPOINT, EXPECTATION
from troth.http.sockets.lane_connection import PARTIAL_LIMIT_S, LaneConnection
from troth.http.sockets.lane_exchange import Exchange
from troth.http.sockets.lane_parsing import NotServed, Parsed, Parser
from troth.http.wire.in_flight import InFlight
from troth.shards.held import HeldMessages, Notice

KEEP_ALIVE_S = 10.0
WRITE_S = 5.0


@dataclass
class Lane:
    """Serves nothing: every complete request is for somebody else."""

    now: float = 100.0
    knows_all: bool = True
    in_flight: InFlight = field(default_factory=lambda: InFlight(1 << 20, now=lambda: 100.0))
    worked_again: list[LaneConnection] = field(default_factory=list)
    looked_at: list[Parsed] = field(default_factory=list)
    asked: list[tuple[LaneConnection, Parsed]] = field(default_factory=list)

    def may_send_more(self, headers: Mapping[bytes, bytes]) -> bool:
        return self.knows_all or b"authorization" in headers

    def exchange(self, connection: LaneConnection, parsed: Parsed) -> Exchange:
        self.asked.append((connection, parsed))
        raise NotServed(ENDPOINT)

    def wants_body(self, connection: LaneConnection, parsed: Parsed) -> bool:  # noqa: ARG002
        self.looked_at.append(parsed)
        return self.knows_all

    def await_room(self, number: int) -> None:
        """Nothing to do: `on_event` is called by hand."""

    def again(self, connection: LaneConnection) -> None:
        self.worked_again.append(connection)


@dataclass
class Pair:
    """A connection and its client."""

    lane: Lane
    connection: LaneConnection
    client: socket.socket
    ended: list[bool]
    sent: list[Message | Notice] = field(default_factory=list)

    def arrive(self, content: bytes) -> None:
        self.client.sendall(content)
        self.connection.on_event(select.EPOLLIN)

    def check(self, after_s: float) -> None:
        self.lane.now += after_s
        self.connection.check(self.lane.now, KEEP_ALIVE_S, WRITE_S)

    def answer_much(self) -> HeldMessages:
        """Give an answer that does not fit into the socket."""
        held = HeldMessages(self.sent.extend)
        self.connection.answered(b"x" * 8_000_000, held)
        return held


@pytest.fixture
def pair() -> Iterator[Pair]:
    lane = Lane()
    ours, client = socket.socketpair()
    ours.setblocking(False)
    ended: list[bool] = []
    connection = LaneConnection(lane, ours, None, Parser(1000, 1000), lambda: ended.append(True))
    with ours, client:
        yield Pair(lane, connection, client, ended)


def test_an_idle_connection_ends_after_the_keep_alive_timeout(pair: Pair) -> None:
    pair.check(KEEP_ALIVE_S - 0.1)
    assert pair.ended == []
    pair.check(0.2)
    assert pair.ended == [True]
    assert pair.client.recv(1) == b""
    assert not pair.connection.is_handed_over


def test_an_unfinished_request_is_handed_over_with_the_time_of_its_first_byte(pair: Pair) -> None:
    pair.arrive(b"GET / HT")
    pair.check(PARTIAL_LIMIT_S - 0.1)
    pair.arrive(b"TP/1.1\r\n")
    assert not pair.connection.is_handed_over
    pair.check(0.2)
    assert pair.connection.is_handed_over
    assert pair.connection.received == b"GET / HTTP/1.1\r\n"
    assert pair.connection.partial_since == 100.0


def test_what_is_not_served_is_handed_over_at_once_and_whole(pair: Pair) -> None:
    content = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /2"
    pair.arrive(content)
    assert pair.connection.is_handed_over
    assert pair.connection.received == content
    pair.connection.close()
    assert pair.ended == [True]


def test_a_client_that_takes_nothing_is_cut_off(pair: Pair) -> None:
    pair.answer_much()
    pair.check(WRITE_S - 0.1)
    assert pair.ended == []
    pair.check(0.2)
    assert pair.ended == [True]


def test_a_client_that_takes_a_little_now_and_then_is_not(pair: Pair) -> None:
    pair.answer_much()
    for _ in range(3):
        assert pair.client.recv(1_000_000)
        pair.connection.on_event(select.EPOLLOUT)
        pair.check(WRITE_S - 0.1)
    assert pair.ended == []


def test_nothing_is_read_while_an_answer_is_unwritten(pair: Pair) -> None:
    pair.answer_much()
    pair.arrive(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert pair.connection.received == b""
    pair.client.setblocking(True)
    taken = 0
    while taken < 8_000_000:
        taken += len(pair.client.recv(1_000_000))
        pair.connection.on_event(select.EPOLLOUT)
    pair.connection.work()
    assert pair.connection.is_handed_over


def test_stopping_closes_an_idle_connection_and_hands_over_half_a_request(pair: Pair) -> None:
    pair.arrive(b"GET / HT")
    pair.connection.stop()
    assert pair.connection.is_handed_over
    pair.client.setblocking(False)
    idle = LaneConnection(
        pair.lane, pair.client, None, Parser(1000, 1000), lambda: pair.ended.append(False)
    )
    idle.stop()
    assert idle.is_closed
    assert pair.ended == [True, False]


def test_a_process_among_others_lets_a_new_connection_bring_its_request(pair: Pair) -> None:
    """Its client has connected and is about to send: it has not been told of any end."""
    pair.lane.now += PARTIAL_LIMIT_S / 2
    pair.connection.stop(may_begin=True)
    assert pair.ended == []
    pair.arrive(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert len(pair.lane.asked) == 1


def test_a_new_connection_that_says_nothing_keeps_no_process_from_stopping(pair: Pair) -> None:
    pair.connection.stop(may_begin=True)
    pair.check(PARTIAL_LIMIT_S)
    assert pair.ended == []
    pair.check(0.1)
    assert pair.ended == [True]


def test_a_kept_connection_ends_when_its_process_stops(pair: Pair) -> None:
    pair.lane.now += PARTIAL_LIMIT_S + 0.1
    pair.connection.stop(may_begin=True)
    assert pair.ended == [True]


def test_stopping_serves_what_lies_in_the_socket(pair: Pair) -> None:
    """Closing would drop it, and its sender could not know whether it was carried out."""
    content = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    pair.client.sendall(content)
    pair.connection.stop()

    ((_, parsed),) = pair.lane.asked
    assert parsed.head.method == "POST"


EXPECTING = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"


def test_a_body_that_is_waited_for_is_asked_for_once(pair: Pair) -> None:
    pair.arrive(EXPECTING)
    assert pair.client.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\ndate: ")
    pair.arrive(b"12")
    pair.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        pair.client.recv(1000)
    pair.arrive(b"34")
    ((_, parsed),) = pair.lane.asked
    assert parsed.body == b"1234"
    assert [one.body for one in pair.lane.looked_at] == [b""]


def test_a_body_that_came_without_being_asked_for_is_not_asked_for(pair: Pair) -> None:
    pair.arrive(EXPECTING + b"12")
    pair.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        pair.client.recv(1000)
    assert pair.lane.looked_at == []


def test_a_body_that_is_not_wanted_is_judged_elsewhere(pair: Pair) -> None:
    pair.lane.knows_all = False
    pair.arrive(EXPECTING)
    assert pair.connection.is_handed_over
    assert pair.connection.reason == EXPECTATION
    assert pair.connection.received == EXPECTING
