"""Streams on the hot lane: the same bytes as on the Quart path, and what counts as delivered."""

import json
import select
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from tests.helpers.server import ServerProcess
from tests.shards.test_polls import Listener, Text, make
from troth.core.catalog import Account, Token
from troth.http.api.streams import CONNECTED, KEEP_ALIVE, PollStream, limited
from troth.http.identity.attempts import Attempts
from troth.http.identity.credentials import Credentials, new_secret
from troth.http.identity.digests import digest_of
from troth.http.sockets.departures import ENDPOINT
from troth.http.sockets.lane_connection import LaneConnection
from troth.http.sockets.lane_exchange import Exchange
from troth.http.sockets.lane_parsing import NotServed, Parsed, Parser
from troth.http.sockets.lane_streams import LaneStream
from troth.http.wire.in_flight import InFlight
from troth.http.wire.requests import ReadyStream
from troth.shards.delivery.polls import PollConnection, Polls

from .random_requests import request
from .test_lane import FAR_MS, lane_numbers, port_of, running, same

KEEP_ALIVE_MS: Final = 10_000
_WRITE_S: Final = 5.0
_GET: Final = request("GET", "/promises/nothing", None, {"Request-Id": "r"})

# --- a connection on a socket pair ------------------------------------------------------------


@dataclass
class Lane:
    """Works again when it is told to, as the real one does in its next pass."""

    now: float = 0.0
    knows_all: bool = True
    in_flight: InFlight = field(default_factory=lambda: InFlight(1 << 20))
    to_work: list[LaneConnection] = field(default_factory=list)

    def may_send_more(self, headers: Mapping[bytes, bytes]) -> bool:
        return self.knows_all or b"authorization" in headers

    def exchange(self, connection: LaneConnection, parsed: Parsed) -> Exchange:  # noqa: ARG002
        raise NotServed(ENDPOINT)

    def wants_body(self, connection: LaneConnection, parsed: Parsed) -> bool:  # noqa: ARG002
        return True

    def await_room(self, number: int) -> None:
        """Nothing to do: `on_event` is called by hand."""

    def again(self, connection: LaneConnection) -> None:
        self.to_work.append(connection)

    def run_pass(self) -> None:
        self.now = trio.current_time()
        while self.to_work:
            self.to_work.pop(0).on_event(0)


@dataclass
class Pair:
    """A worker's end of a stream, and all that is behind the other end."""

    lane: Lane
    polls: Polls
    listener: Listener
    place: PollConnection
    connection: LaneConnection
    worker: socket.socket
    ended: list[str]

    def put(self, *texts: str) -> list[Text]:
        items = [Text(text) for text in texts]
        for item in items:
            assert self.polls.put(item, "g", None, exact=False)
        return items

    def received(self) -> bytes:
        return self.worker.recv(1 << 20)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    polls, listener = make(buffer=5)
    place = polls.connect("g", "a")
    ours, worker = socket.socketpair()
    ours.setblocking(False)
    worker.settimeout(1)
    lane = Lane()
    ended: list[str] = []
    connection = LaneConnection(
        lane, ours, None, Parser(1000, 1000), lambda: ended.append("connection")
    )
    stream = PollStream(place, KEEP_ALIVE_MS)
    with ours, worker:
        connection.streams(LaneStream(b"head;", stream, lambda: ended.append("stream")))
        made = Pair(lane, polls, listener, place, connection, worker, ended)
        assert made.received() == b"head;d\r\n" + CONNECTED + b"\r\n"
        yield made


async def test_what_waits_goes_out_in_one_piece_and_is_delivered_then(pair: Pair) -> None:
    items = pair.put("one", "two")
    assert pair.listener.delivered_items == []
    pair.lane.run_pass()

    assert pair.received() == b"16\r\ndata: one\n\ndata: two\n\n\r\n"
    assert pair.listener.delivered_items == items


async def test_what_the_socket_does_not_take_is_not_delivered(pair: Pair) -> None:
    items = pair.put("x" * 8_000_000)
    pair.lane.run_pass()
    later = pair.put("later")
    pair.lane.run_pass()
    assert pair.listener.delivered_items == []

    pair.connection.check(trio.current_time() + _WRITE_S + 1, 100, _WRITE_S)
    pair.lane.run_pass()
    assert pair.ended == ["connection", "stream"]
    assert pair.listener.returned_items == items + later
    assert pair.listener.delivered_items == []


async def test_a_slow_worker_gets_all_of_it(pair: Pair) -> None:
    items = pair.put("x" * 3_000_000) + pair.put("y")
    pair.lane.run_pass()
    taken = b""
    while not taken.endswith(b"y\n\n\r\n"):
        taken += pair.received()
        pair.connection.on_event(select.EPOLLOUT)
        pair.lane.run_pass()

    assert taken.count(b"x") == 3_000_000
    assert pair.listener.delivered_items == items


async def test_a_worker_that_leaves_gives_its_place_and_its_messages_back(pair: Pair) -> None:
    items = pair.put("one")
    pair.connection.on_event(select.EPOLLIN | select.EPOLLRDHUP)

    assert pair.ended == ["connection", "stream"]
    assert pair.listener.returned_items == items
    assert pair.polls.statistics().connections_count == 0


async def test_a_comment_comes_when_nothing_else_did(
    pair: Pair,
    autojump_clock: MockClock,
) -> None:
    for seconds in (6, 6):
        await trio.sleep(seconds)
        pair.connection.check(trio.current_time(), 1, _WRITE_S)
        pair.lane.run_pass()

    assert pair.received() == b"e\r\n" + KEEP_ALIVE + b"\r\n"
    assert pair.ended == []


async def test_a_stream_is_due_when_its_token_has_expired_and_ends() -> None:
    now_ms = 0
    directory = Credentials({}, Attempts(10, lambda: now_ms), lambda: now_ms)
    directory.put(Account("a", 1, 0, "billing"))
    secret = new_secret()
    directory.put(Token("t", 1, 0, "a", digest_of(secret), (), expires_on=50))
    principal = directory.bearer(secret)
    assert principal is not None
    polls, listener = make()
    stream = limited(PollStream(polls.connect("g", "a"), KEEP_ALIVE_MS), directory, principal)
    assert isinstance(stream, ReadyStream)
    assert stream.next_now(trio.current_time()) == CONNECTED
    one = Text("one")
    polls.put(one, "g", None, exact=False)
    assert stream.next_now(trio.current_time()) == b"data: one\n\n"
    assert not stream.is_due(trio.current_time())
    polls.put(Text("two"), "g", None, exact=False)

    now_ms = 50
    assert stream.is_due(trio.current_time())
    assert stream.next_now(trio.current_time()) is None
    assert listener.delivered_items == [one], "the socket had taken it"


async def test_a_replaced_stream_ends_and_its_connection_goes_on(pair: Pair) -> None:
    pair.polls.connect("g", "a")
    pair.lane.run_pass()

    assert pair.received() == b"0\r\n\r\n"
    assert pair.ended == ["stream"]
    pair.worker.sendall(_GET)
    pair.connection.on_event(select.EPOLLIN)
    assert pair.connection.is_handed_over, "it is asked about the next request"


async def test_stopping_ends_the_stream_and_then_the_connection(pair: Pair) -> None:
    pair.connection.stop()
    pair.lane.run_pass()

    assert pair.received() == b"0\r\n\r\n"
    assert pair.ended == ["stream", "connection"]


# --- real servers -------------------------------------------------------------------------------


async def _until(stream: trio.SocketStream, end: bytes) -> bytes:
    came = b""
    with trio.fail_after(60):
        while not came.endswith(end):
            data = await stream.receive_some(1 << 16)
            assert data, came
            came += data
    return came


async def _life_of_a_stream(server: ServerProcess) -> list[bytes]:
    """Everything that a worker's connection shows, from its first request to the server's stop."""
    poll = request("GET", "/poll/g/i", None, {"Request-Id": "r"})
    seen = []
    body = {"id": "p", "timeout": FAR_MS, "tags": {"resonate:invoke": "poll://g"}}
    create = request("POST", "/promises", json.dumps(body).encode())
    async with (
        await trio.open_tcp_stream("127.0.0.1", port_of(server)) as first,
        await trio.open_tcp_stream("127.0.0.1", port_of(server)) as second,
        await trio.open_tcp_stream("127.0.0.1", port_of(server)) as other,
    ):
        await first.send_all(poll)
        seen.append(await _until(first, CONNECTED + b"\r\n"))
        await other.send_all(create)
        seen.append(await _until(first, b"\n\n\r\n"))
        seen.append(await _until(first, KEEP_ALIVE + b"\r\n"))
        await second.send_all(poll + _GET)
        seen.append(await _until(second, CONNECTED + b"\r\n"))
        seen.append(await _until(first, b"0\r\n\r\n"))
        await first.send_all(_GET)
        seen.append(await _until(first, b"}}"))
        await first.send_all(request("GET", "/poll/g", None, {"Request-Id": "r"}))
        seen.append(await _until(first, b"}}"))
        await trio.to_thread.run_sync(server.terminate)
        seen.append(await _until(second, b"0\r\n\r\n"))
    return [same(part) for part in seen]


@pytest.mark.slow
async def test_a_stream_is_the_same_bytes_as_on_the_quart_path(tmp_path: Path) -> None:
    with running(tmp_path, "--poll-keep-alive-ms", "500") as (lane, quart):
        before = lane_numbers(lane)["handed_over_total"]
        assert lane_numbers(lane)["handed_over_total"] == before + 1, "for the metrics themselves"

        assert await _life_of_a_stream(lane) == await _life_of_a_stream(quart)
