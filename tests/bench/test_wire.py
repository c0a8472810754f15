"""Answers are understood however the network cuts them, and nonsense is told apart from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.bench.scenarios.base import Template
from troth.bench.wire import Chunks, Events, ProtocolError, Requests, parse_answer

WHOLE = [
    (b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello", (201, b"hello", False)),
    (b"HTTP/1.1 200 OK\r\ncontent-length:0\r\nConnection: close\r\n\r\n", (200, b"", True)),
    (b"HTTP/1.1 204 \r\nDate: now\r\n\r\n", (204, b"", False)),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
        (200, b"abc", False),
    ),
]


@pytest.mark.parametrize(("data", "answer"), WHOLE)
def test_an_answer_is_read_when_it_is_complete(
    data: bytes, answer: tuple[int, bytes, bool]
) -> None:
    assert parse_answer(data) == answer
    for length in range(len(data)):
        assert parse_answer(data[:length]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_answer(data)


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=5), st.data())
def test_chunks_may_come_in_any_pieces(contents: list[bytes], data: st.DataObject) -> None:
    sent = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in contents) + b"0\r\n\r\n"
    chunks = Chunks()
    received = b""
    while sent:
        length = data.draw(st.integers(1, len(sent)))
        received += chunks.feed(sent[:length])
        sent = sent[length:]

    assert received == b"".join(contents)
    assert chunks.finished


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_stream_gives_its_messages(size: int) -> None:
    text = b': hello\n\ndata: {"a":1}\n\ndata: {"b":2}\n\n'
    sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent += b"".join(b"1\r\n%c\r\n" % byte for byte in text)
    events = Events()

    found = [
        event
        for at in range(0, len(sent), size)
        for event in events.feed(sent[at : at + size])
    ]  # fmt: skip

    assert found == [b'{"a":1}', b'{"b":2}']


def test_a_refused_stream_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="refused"):
        Events().feed(b"HTTP/1.1 401 Unauthorized\r\n\r\n")


def test_a_template_makes_the_request_that_would_be_made_at_once() -> None:
    requests = Requests("a:1", "Basic abc")
    template = Template(requests, "PATCH", "/promises/%ID%", '{"again":"%ID%"}', 4)

    assert template.fill("id-1") == requests.make("PATCH", "/promises/id-1", {"again": "id-1"})
    assert b"\r\nAuthorization: Basic abc\r\n" in template.fill("id-1")
