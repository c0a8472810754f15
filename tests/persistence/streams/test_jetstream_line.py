"""Questions on the socket of a connection: what else may come, and in which pieces.

The server is a script that speaks as much of NATS as is needed; nats-py is real.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from troth.persistence.streams import jetstream_connection, jetstream_stream
from troth.persistence.streams.jetstream_connection import (
    WRONG_LAST_SEQUENCE,
    JetStreamConnection,
)
from troth.persistence.streams.jetstream_stream import JetStreamStream
from troth.persistence.streams.jetstream_url import read_jetstream_url
from troth.persistence.streams.stream import StreamUnreachable

_LIMIT_MS = 5_000
_INFO = {"server_id": "1", "version": "2.15.1", "max_payload": 1 << 20, "headers": True}

Reply = Callable[[bytes], list[bytes]]
"""Makes of a plain answer the pieces that are sent, one after the other."""


class _Server(threading.Thread):
    """Answers each question with its number and size; `replies` make something else of it."""

    def __init__(self) -> None:
        super().__init__(name="nats")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.replies: list[Reply] = []
        self.asked_count = 0
        self.connections_count = 0
        self.pongs_count = 0

    def run(self) -> None:
        """Serve one connection after the other, until the listener is closed."""
        while True:
            try:
                connected, _ = self.listener.accept()
            except OSError:
                return
            self.connections_count += 1
            with connected, connected.makefile("rb") as lines:
                self._serve(connected, lines)

    def _serve(self, connected: socket.socket, lines: Any) -> None:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.sendall(b"INFO %s\r\n" % json.dumps(_INFO).encode())
        subscriptions: dict[bytes, bytes] = {}
        for line in lines:
            verb, *words = line.split()
            if verb == b"PING":
                connected.sendall(b"PONG\r\n")
            elif verb == b"PONG":
                self.pongs_count += 1
            elif verb == b"SUB":
                subscriptions[words[0].removesuffix(b"*")] = words[-1]
            elif verb in (b"PUB", b"HPUB"):
                size = int(words[-1])
                assert len(lines.read(size + 2)) == size + 2
                self.asked_count += 1
                inbox = words[1]
                sid = next(sid for begin, sid in subscriptions.items() if inbox.startswith(begin))
                body = json.dumps({"seq": self.asked_count, "size": size}).encode()
                reply = self.replies.pop(0) if self.replies else _plain
                try:
                    for piece in reply(b"MSG %s %s %d\r\n%s\r\n" % (inbox, sid, len(body), body)):
                        connected.sendall(piece)
                        time.sleep(0.02)
                except _HangUp:
                    return


class _HangUp(Exception):
    pass


def _plain(answer: bytes) -> list[bytes]:
    return [answer]


@contextmanager
def _served() -> Iterator[tuple[_Server, JetStreamConnection]]:
    server = _Server()
    server.start()
    url = f"nats://127.0.0.1:{server.listener.getsockname()[1]}/a"
    connection = JetStreamConnection(read_jetstream_url(url), _LIMIT_MS)
    try:
        yield server, connection
    finally:
        connection.close()
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
        server.join()


@pytest.fixture
def served() -> Iterator[tuple[_Server, JetStreamConnection]]:
    """Return a server, and a connection that has asked it once."""
    with _served() as (server, connection):
        assert connection.api("INFO")["seq"] == 1
        yield server, connection


def test_questions_are_asked_without_the_loop(
    served: tuple[_Server, JetStreamConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, connection = served

    def run(_: object) -> None:
        raise AssertionError("the loop runs")

    with monkeypatch.context() as patched:
        patched.setattr(connection, "_run", run)
        assert connection.api("INFO") == {"seq": 2, "size": 0}
        assert connection.api("INFO", {"a": 1}) == {"seq": 3, "size": 7}
        headers = {"Nats-Expected-Last-Sequence": "1", "Troth-Epoch": "2"}
        assert connection.publish("a", b"body", headers) == 4


def _each_byte(answer: bytes) -> list[bytes]:
    return [answer[at : at + 1] for at in range(20)] + [answer[20:-1], answer[-1:]]


def _other_question(answer: bytes) -> bytes:
    """Return an answer to the question with the number before."""
    begin, number, rest = answer.partition(b" ")[2].partition(b" ")
    inbox, _, asked = begin.rpartition(b".")
    late = b"MSG %s.%d %s%s" % (inbox, int(asked) - 1, number, rest)
    return late.replace(b'"seq": ', b'"seq":9')


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(_each_byte, id="in pieces"),
        pytest.param(lambda answer: [b"PING\r\n" + answer], id="a ping before it"),
        pytest.param(lambda answer: [b"PING\r\n", answer], id="a ping alone"),
        pytest.param(lambda answer: [answer + b"PING\r\n"], id="a ping after it"),
        pytest.param(lambda answer: [answer + b"PI", b"NG\r\n"], id="half a ping after it"),
        pytest.param(lambda answer: [b"+OK\r\n" + answer[:9], answer[9:]], id="half after a word"),
        pytest.param(lambda answer: [_other_question(answer), answer], id="a late answer before"),
        pytest.param(lambda answer: [answer + answer], id="it is said twice"),
        pytest.param(
            lambda answer: [b"INFO %s\r\n" % json.dumps(_INFO).encode(), answer], id="news"
        ),
        pytest.param(lambda answer: [answer.replace(b"MSG ", b"MSG  ", 1)], id="another space"),
    ],
)
def test_an_answer_is_understood_whatever_comes_with_it(
    served: tuple[_Server, JetStreamConnection], reply: Reply
) -> None:
    server, connection = served
    server.replies = [reply]
    for number in range(2, 6):
        assert connection.api("INFO")["seq"] == number
    assert server.connections_count == 1


def test_a_ping_is_answered(served: tuple[_Server, JetStreamConnection]) -> None:
    server, connection = served
    server.replies = [lambda answer: [b"PING\r\n", answer]] * 3
    for _ in range(4):
        connection.api("INFO")
    assert server.pongs_count == 3


def _no_responders(answer: bytes) -> list[bytes]:
    inbox, sid = answer.split()[1:3]
    head = b"NATS/1.0 503\r\n\r\n"
    return [b"HMSG %s %s %d %d\r\n%s\r\n" % (inbox, sid, len(head), len(head), head)]


def _error(answer: bytes, number: int) -> bytes:
    inbox, sid = answer.split()[1:3]
    error = {"code": 503, "err_code": number, "description": f"it says {number}"}
    body = json.dumps({"error": error}).encode()
    return b"MSG %s %s %d\r\n%s\r\n" % (inbox, sid, len(body), body)


def _hang_up(_: bytes) -> list[bytes]:
    raise _HangUp


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        pytest.param(_no_responders, "no leader", id="nobody is there"),
        pytest.param(_hang_up, "connection broke", id="the end"),
        pytest.param(lambda _: [b"-ERR 'Stale Connection'\r\n"], "connection broke", id="error"),
        pytest.param(lambda answer: [answer.replace(b"{", b"[")], "column", id="no JSON"),
        pytest.param(lambda answer: [answer.replace(b"seq", b"sea")], "'seq'", id="no number"),
        pytest.param(lambda answer: [_error(answer, 10008)], "it says 10008", id="cut off"),
        pytest.param(lambda answer: [_error(answer, 10009)], "it says 10009", id="not the leader"),
    ],
)
def test_what_is_no_answer_ends_the_connection_and_not_the_next_one(
    served: tuple[_Server, JetStreamConnection], reply: Reply, problem: str
) -> None:
    server, connection = served
    server.replies = [reply]
    begun_s = time.monotonic()
    with pytest.raises(StreamUnreachable, match=problem):
        connection.publish("a", b"", {})
    assert time.monotonic() < begun_s + _LIMIT_MS / 2000, "it is not waited for"
    assert connection.api("INFO")["seq"] == 3
    assert server.connections_count == 2


@pytest.mark.parametrize("number", [10008, 10009])
def test_a_server_that_does_not_know_who_leads_is_left_for_the_next(number: int) -> None:
    """One that was cut off from the others said so for as long as that lasted, and was asked on."""
    with _served() as (cut_off, connection), _served() as (other, _):
        connection._servers.append(f"nats://127.0.0.1:{other.listener.getsockname()[1]}")
        assert connection.api("INFO")["seq"] == 1
        cut_off.replies = [lambda answer: [_error(answer, number)]] * 2
        with pytest.raises(StreamUnreachable, match=f"it says {number}"):
            connection.api("INFO")
        assert connection.api_each([("INFO", {})] * 2) == [
            {"seq": 1, "size": 2},
            {"seq": 2, "size": 2},
        ]

        other.replies = [_plain, lambda answer: [_error(answer, number)]]
        with pytest.raises(StreamUnreachable, match=f"it says {number}"):
            connection.api_each([("INFO", {})] * 2)
        cut_off.replies = []
        assert connection.api("INFO")["seq"] == 3
        assert (cut_off.connections_count, other.connections_count) == (2, 1)


def test_a_leader_that_refuses_and_shows_nothing_is_left_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that was cut off from the others did so for ten seconds, and was asked all the time."""
    monkeypatch.setattr(jetstream_stream, "JETSTREAM_DOUBT_MS", 0)
    with _served() as (cut_off, _), _served() as (other, _):
        ports = [one.listener.getsockname()[1] for one in (cut_off, other)]
        stream = JetStreamStream(f"nats://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/a")

        def append(number: int) -> bool:
            return stream.append(number, 1, b"", is_claim=True)

        with closing(stream):
            cut_off.replies = [lambda answer: [_error(answer, WRONG_LAST_SEQUENCE)]] * 3
            assert not append(7)
            assert not append(8), "another frame, of which nothing is known"
            with pytest.raises(StreamUnreachable, match="shows none in its place"):
                append(8)
            assert append(1)
            for _ in range(2):  # it is not asked although the other one cannot say anything
                other.replies = [lambda answer: [_error(answer, 10008)]]
                with pytest.raises(StreamUnreachable, match="it says 10008"):
                    append(9)
            assert (cut_off.connections_count, other.connections_count) == (1, 2)

            monkeypatch.setattr(jetstream_connection, "JETSTREAM_LEFT_MS", 0)
            assert append(4)
        assert cut_off.connections_count == 2


@pytest.mark.parametrize("piece", [b"", b"MSG ", b"PING\r\n"])
def test_an_answer_that_does_not_come_is_not_waited_for_long(
    served: tuple[_Server, JetStreamConnection], piece: bytes
) -> None:
    server, connection = served
    connection._answer_limit_s = 0.2
    server.replies = [lambda _: [piece]]
    with pytest.raises(StreamUnreachable):
        connection.api("INFO")
    connection._answer_limit_s = _LIMIT_MS / 1000
    assert connection.api("INFO")["seq"] == 3
    assert server.connections_count == 2


def test_a_question_that_does_not_fit_at_once_is_asked_whole(
    served: tuple[_Server, JetStreamConnection],
) -> None:
    server, connection = served
    big = bytes((1 << 20) - 1024)
    sent = threading.Event()

    def slowly(answer: bytes) -> list[bytes]:
        sent.set()
        return [answer]

    server.replies = [slowly]
    assert connection._line is not None
    connection._client._transport._io_writer.get_extra_info("socket").setsockopt(  # type: ignore[union-attr]
        socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
    )
    assert connection.publish("a", big, {}) == 2
    assert sent.is_set()
    assert connection.api("INFO")["seq"] == 3
    assert server.connections_count == 1


def test_nothing_is_written_to_a_socket_that_is_closed(
    served: tuple[_Server, JetStreamConnection],
) -> None:
    """Its number may be that of another file by now."""
    server, connection = served
    line = connection._line
    assert line is not None
    assert line.takes(0)
    assert not line.takes(1 << 20), "more than the server allows"
    line._writer.abort()
    assert not line.takes(0)
    with pytest.raises(StreamUnreachable):
        connection.api("INFO")
    assert server.asked_count == 1
    assert connection.api("INFO")["seq"] == 2


def test_there_is_no_line_where_the_client_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_line(*_: object) -> None:
        raise AttributeError("_transport")

    monkeypatch.setattr("troth.persistence.streams.jetstream_line.JetStreamLine.__init__", no_line)
    with _served() as (_, connection):
        assert [connection.api("INFO")["seq"] for _ in range(3)] == [1, 2, 3]
        assert connection._line is None
