"""Which answers the node's client reads without h11: none that h11 would read in another way."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.node.client import plain_answer

PLAIN = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\ndate: Mon\r\n\r\nok"


def read_by_h11(received: bytes) -> tuple[int, bytes] | None:
    """Status and body of the one whole answer that these bytes are to h11; None if they are not."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(received)
    status, body = 0, b""
    try:
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                return None
    except h11.RemoteProtocolError:
        return None
    rest, _ = connection.trailing_data
    return None if rest else (status, body)


def test_a_plain_answer_is_read() -> None:
    answer = plain_answer(PLAIN)
    assert answer is not None
    assert (answer.status, answer.body) == (201, b"ok") == read_by_h11(PLAIN)


@pytest.mark.parametrize(
    "received",
    [
        b"",
        PLAIN[:-1],
        PLAIN + b"!",
        PLAIN[:30],
        PLAIN.replace(b"201", b"100"),
        PLAIN.replace(b"201", b"204"),
        PLAIN.replace(b"201", b"304"),
        PLAIN.replace(b"/1.1", b"/1.0"),
        PLAIN.replace(b"date", b"Content-Length"),
        PLAIN.replace(b"date: Mon", b"Connection: close"),
        PLAIN.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked"),
        PLAIN.replace(b": 2", b": +2"),
        PLAIN.replace(b": 2", b": 2, 2"),
        PLAIN.replace(b"date:", b" date:"),
        PLAIN.replace(b"date:", b"da te:"),
        PLAIN.replace(b"Mon", b"M\x00n"),
        PLAIN.replace(b"Mon\r\n", b"Mon\n"),
    ],
)
def test_any_other_is_left_to_h11(received: bytes) -> None:
    assert plain_answer(received) is None


@given(
    st.lists(
        st.sampled_from(
            [b"content-length: 2", b"Content-Length:2\t", b"x: y", b"connection: close", b" z", b""]
        ),
        max_size=4,
    ),
    st.sampled_from([b"200 OK", b"201", b"404 Not Found", b"204 x", b"999", b"101 Up"]),
    st.sampled_from([b"", b"o", b"ok", b"okHTTP/1.1 200 OK\r\n\r\n"]),
)
def test_what_is_read_here_means_the_same_to_h11(
    fields: list[bytes], status: bytes, body: bytes
) -> None:
    received = b"\r\n".join((b"HTTP/1.1 " + status, *fields, b"", body))
    answer = plain_answer(received)
    assert answer is None or (answer.status, answer.body) == read_by_h11(received)
