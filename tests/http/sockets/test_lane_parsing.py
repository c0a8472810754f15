"""The lane's parser against h11: what it accepts, h11 accepts too, and means the same."""

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from troth.http.sockets.lane_parsing import (
    _HEAD_KEPT_BYTES,
    _KINDS_KEPT_COUNT,
    HEADS_KEPT_COUNT,
    Fields,
    KnownHeads,
    NotServed,
    Parsed,
    Parser,
    without_empty_lines,
)

GOOD = b"POST /promises?x=%20 HTTP/1.1\r\nHost: x\r\nStrict:  true \r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"2\r\n{}\r\n1\r\n \r\n0\r\n\r\n"
CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

CHANGED_FIELDS = [
    b"POST /a HTTP/1.1\r\n" + fields + b"\r\n"
    for fields in (
        b"Host: x\r\nA: 1\r\nContent-Length: 2\r\n",
        b"Host: x\r\nA:  22\t\r\nContent-Length: 3\r\n",
        b"Host: x\r\na: 1\r\nContent-Length:2\r\n",
        b"Host: x\r\nA:\r\nContent-Length: 999\r\n",
        b"Host: x\r\nA: \x00\r\nContent-Length: 2\r\n",
        b"Host: x\r\nA: 1\nB: 2\r\nContent-Length: 2\r\n",
        b"Host: x\r\nA : 1\r\nContent-Length: 2\r\n",
        b"Host: x\r\nA 1\r\nContent-Length: 2\r\n",
        b"Host: y\r\nA: 1\r\nContent-Length: 2\r\n",
        b"Host: x\r\nA: 1\r\nContent-Length: -2\r\n",
        b"Host: x\r\nA: 1\r\nContent-Length: 2, 2\r\n",
        b"Host: x\r\nA: 1\r\nContent-Length: 1001\r\n",
        b"Host: x\r\nA: 1\r\nTransfer-Encoding: chunked\r\n",
        b"Host: x\r\nA: 1\r\nTransfer-Encoding: gzip\r\n",
        b"Host: x\r\nConnection: keep-alive\r\nContent-Length: 2\r\n",
        b"Host: x\r\nConnection: close\r\nContent-Length: 2\r\n",
        b"Host: x\r\nHost: x\r\nContent-Length: 2\r\n",
        b"Host: x\r\nA: \xc3\xbc\r\nA: 2\r\n",
        b"Host: x\r\nA: 3\r\nA: 2\r\n",
    )
]
"""Heads that differ in the values of some fields, or in more."""

# Odd pieces in odd places: most heads made of these are wrong in one way, and many are right.
LINES = st.sampled_from(
    [
        b"Host: x",
        b"Host: x",
        b"host:x",
        b"Host:",
        b"Content-Length: 2",
        b"Content-Length: 2",
        b"content-length:\t2\t",
        b"Content-Length: 02",
        b"Content-Length: +2",
        b"Content-Length: 2, 2",
        b"Content-Length:",
        b"Content-Length : 2",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked ",
        b"Transfer-Encoding: gzip, chunked",
        b"transfer-encoding:",
        b"Expect: 100-continue",
        b"Connection: keep-alive",
        b"Connection: close",
        b"Connection: Upgrade, HTTP2-Settings",
        b"Connection: upgrade",
        b"Upgrade: h2c",
        b"Upgrade: websocket",
        b"HTTP2-Settings: AAMAAABk",
        b" folded: value",
        b"\tfolded",
        b"X: a\x00b",
        b"X: a\rb",
        b"X: a\nb",
        b"X: \x0b",
        b"X: \xff\x80",
        b"X:",
        b"X: a  b\tc  ",
        b": value",
        b"X Y: z",
        b"X(: z",
        b"nonsense",
        b"",
    ]
)
STARTS = st.sampled_from(
    [
        b"GET /promises/x HTTP/1.1",
        b"POST /promises HTTP/1.1",
        b"PATCH /a%00?q HTTP/1.1",
        b"DELETE / HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.0",
        b"GET / HTTP/1.1 ",
        b"GET /\x7f HTTP/1.1",
        b"GET http://x/ HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"get / HTTP/1.1",
        b"\r\nGET / HTTP/1.1",
        b"",
    ]
)
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Something like a request, and what follows it."""
    lines = [draw(STARTS), *draw(st.lists(LINES, max_size=5))]
    made = b"".join(line + draw(ENDS) for line in lines) + draw(ENDS)
    return made + draw(st.sampled_from([b"", b"{}", b"{}{}", GOOD, CHUNKED, CHUNKED + GOOD]))


@st.composite
def chunked(draw: st.DrawFn) -> bytes:
    """A request with a body in something like chunks, and what follows it."""
    pieces = st.sampled_from(
        [
            *(b"2\r\n{}\r\n", b"02\r\n{}\r\n", b"A\r\n0123456789\r\n", b"a\r\n0123456789\r\n"),
            *(b"2;x=y\r\n{}\r\n", b"2 \r\n{}\r\n", b"2\n{}\n", b"2\r\n{}", b"-2\r\n{}\r\n"),
            *(b"2\r\n{}{}\r\n", b"x\r\n{}\r\n", b"\r\n", b"0\r\n", b"0\r\nX: y\r\n", b"2", b"\r"),
        ]
    )
    end = draw(st.sampled_from([b"0\r\n\r\n", b"000\r\n\r\n", b"0\r\n", b"0\r\nX: y\r\n\r\n", b""]))
    body = b"".join(draw(st.lists(pieces, max_size=4))) + end
    return CHUNKED_HEAD + body + draw(st.sampled_from([b"", GOOD]))


def new_parser() -> Parser:
    return Parser(65_536, 1 << 20)


def parse(content: bytes) -> Parsed | None:
    try:
        return new_parser().parse(content)
    except NotServed:
        return None


def means_the_same_to_h11(content: bytes) -> bool:
    """Whether the lane takes it; what it takes, h11 must take too, with the same meaning."""
    parsed = parse(content) if content else None  # the lane asks when there is something
    if parsed is None:
        return False
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(content)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    assert request.http_version == b"1.1" or parsed.head.is_last
    assert request.method.decode() == parsed.head.method
    path, _, query = request.target.partition(b"?")
    assert (path, query) == (parsed.head.path, parsed.head.query)
    headers: dict[bytes, bytes] = {}
    for name, value in request.headers:
        headers.setdefault(name, value)
    assert headers == dict(parsed.head.fields.headers)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert body == parsed.body
    rest, _ = connection.trailing_data
    # Only an answer says what becomes of an upgrade.
    connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
    connection.send(h11.EndOfMessage())
    assert parsed.head.is_last == (connection.our_state is h11.MUST_CLOSE)
    assert rest == content[parsed.end :]
    return True


@given(requests())
@example(GOOD)
@example(b"GET / HTTP/1.1\r\n\r\n")
@example(b"GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nConnection: Close\r\n\r\n")
@example(b"\r\nHost: x\r\n\r\n")
@example(b"GET / HTTP/1.0\r\nHost: x\r\nUpgrade: h2c\r\n\r\n")
def test_what_is_accepted_means_the_same_to_h11(content: bytes) -> None:
    means_the_same_to_h11(content)


@given(chunked())
@example(CHUNKED_HEAD + CHUNKED + GOOD)
def test_chunks_mean_the_same_to_h11(content: bytes) -> None:
    means_the_same_to_h11(content)


def test_a_body_in_chunks_is_put_together_wherever_it_is_cut() -> None:
    content = CHUNKED_HEAD + CHUNKED
    for length in range(1, len(content)):
        assert new_parser().parse(content[:length]) is None, content[:length]
    assert means_the_same_to_h11(content + GOOD)
    parsed = new_parser().parse(content + GOOD)
    assert parsed is not None
    assert (parsed.body, parsed.end) == (b"{} ", len(content))


@pytest.mark.parametrize(
    "body",
    [b"1\r\nx\r\n" * 257, b"fffff\r\n", b"400\r\n" + b"x" * 1024 + b"\r\n1\r\nx\r\n0\r\n\r\n"],
    ids=["many", "a large one", "much in all"],
)
def test_what_is_too_much_in_chunks_is_not_served(body: bytes) -> None:
    with pytest.raises(NotServed):
        Parser(1024, 1024).parse(CHUNKED_HEAD + body)


def test_an_upgrade_to_http2_is_ignored_as_java_asks_for_it_every_time() -> None:
    """java.net.http.HttpClient, as it is by default."""
    content = (
        b"POST / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 2\r\n"
        b"Host: 127.0.0.1:8001\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
        b"Upgrade: h2c\r\nUser-Agent: Java-http-client/21.0.2\r\n\r\n{}"
    )
    assert means_the_same_to_h11(content)


@given(st.integers(0, len(GOOD) - 1))
def test_a_part_of_a_good_request_is_incomplete(length: int) -> None:
    if length:
        assert new_parser().parse(GOOD[:length]) is None


def assert_parses_as_a_new_one(parser: Parser, content: bytes) -> None:
    """Check that what a parser has read before changes nothing."""
    try:
        found = parser.parse(content)
    except NotServed:
        found = None
    assert found == parse(content)


@given(st.lists(requests(), min_size=2, max_size=4))
def test_what_came_before_on_a_connection_changes_nothing(contents: list[bytes]) -> None:
    parser = new_parser()
    for content in contents:
        assert_parses_as_a_new_one(parser, content)


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01",
        b"SSH-2.0",
        b"G\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET /" + b"x" * 65_536,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 262145\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n",
    ],
)
def test_what_can_never_be_served_is_known_at_once(content: bytes) -> None:
    with pytest.raises(NotServed):
        new_parser().parse(content)


@pytest.mark.parametrize(
    ("buffer", "left"),
    [
        (b"", b""),
        (b"\r\n", b""),
        (b"\r\n\r\nGET", b"GET"),
        (b"\r\n\r", b"\r"),
        (b"\n\r\nGET", b"\n\r\nGET"),
        (b"GET\r\n", b"GET\r\n"),
    ],
)
def test_empty_lines_before_a_request_are_passed_over(buffer: bytes, left: bytes) -> None:
    assert without_empty_lines(buffer) == left


def test_an_encoded_body_is_left_to_hypercorn() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: %b\r\nContent-Length: 2\r\n\r\n{}"
    assert Parser(1024, 1024).parse(head % b"Identity") is not None
    for encoding in (b"gzip", b"identity, gzip", b"", b"br"):
        with pytest.raises(NotServed):
            Parser(1024, 1024).parse(head % encoding)


def test_all_values_of_a_repeated_header_are_kept() -> None:
    head = b"GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nX-B: 2\r\nx-a: 1\r\nX-A:3\r\n\r\n"
    parsed = Parser(1024, 1024).parse(head)
    assert parsed is not None
    assert parsed.head.fields.headers[b"x-a"] == b"1"
    assert parsed.head.fields.repeated == {b"x-a": b"1, 1, 3"}


def test_heads_in_turn_mean_what_each_says() -> None:
    """A parser remembers the fields of the last few kinds of requests, and mixes up none."""
    parser = Parser(100_000, 100_000)
    for number in [*range(9), *range(9), 3, 7, 3]:
        body = b"x" * number
        head = b"POST /%d HTTP/1.1\r\nHost: x\r\nStrict: %d\r\nContent-Length: %d\r\n\r\n"
        parsed = parser.parse(head % (number % 2, number, number) + body + b"GET ")

        assert parsed is not None
        assert parsed.body == body
        assert parsed.head.fields.headers[b"strict"] == b"%d" % number
        assert parsed.head.path == b"/%d" % (number % 2)


@pytest.mark.parametrize("name", [b"Content-Length", b"content-length", b"CONTENT-LENGTH"])
def test_fields_that_differ_in_their_values_only_are_read_once(
    name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_fields = Parser._read_fields
    reads = []

    def noted(parser: Parser, text: bytes) -> Fields:
        reads.append(text)
        return read_fields(parser, text)

    monkeypatch.setattr(Parser, "_read_fields", noted)
    parser = Parser(1024, 1024)
    head = b"POST / HTTP/1.1\r\nHost: x\r\n%b: %d\r\nIdempotency-Key: \t%d\r\n\r\n"
    for number in (2, 10, 7, 10, 0, 999):
        body = b"x" * number
        parsed = parser.parse(head % (name, number, -number) + body)

        assert parsed is not None
        assert parsed.body == body
        assert parsed.head.fields.headers[b"content-length"] == b"%d" % number
        assert parsed.head.fields.headers[b"idempotency-key"] == b"%d" % -number
    assert len(reads) == 1
    with pytest.raises(NotServed):
        parser.parse(head % (name, 1025, 1))
    assert parser.parse(head % (name, 999, -999) + body) == parsed


def test_a_length_that_another_field_speaks_of_is_none() -> None:
    parser = Parser(1024, 1024)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nX: \tContent-Length: %d\r\nContent-Length: 2\r\n\r\n{}"
    for number in (2, 3, 2, 5):
        parsed = parser.parse(head % number)

        assert parsed is not None
        assert parsed.body == b"{}"
        assert parsed.head.fields.headers[b"x"] == b"Content-Length: %d" % number


def test_a_head_that_was_refused_changes_nothing() -> None:
    """What is remembered of a line and of fields belongs to different requests otherwise."""
    parser = Parser(1024, 1024)
    good = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    first = parser.parse(good)
    for bad in (b"GET /b HTTP/1.1\r\nHost: x\r\nTE: x\r\n\r\n", good.replace(b": 2", b": 9999")):
        with pytest.raises(NotServed):
            parser.parse(bad)
        assert parser.parse(good) == first


def test_what_a_parser_remembers_is_little() -> None:
    """It is not counted as in flight, so a client must not be able to make it much."""
    parser = Parser(100_000, 100_000)
    for number in range(100):
        fields = b"Host: x\r\nContent-Length: 0\r\nX: %d%s\r\n" % (number, b"y" * (20 * number))
        fields += b"Y: 1\r\n" * (number % 9)
        assert parser.parse(b"GET / HTTP/1.1\r\n" + fields + b"\r\n") is not None

    kept = list(parser._kinds.values())
    assert 0 < len(kept) <= _KINDS_KEPT_COUNT
    assert max(sum(map(len, kind.lines)) for kind in kept) <= _HEAD_KEPT_BYTES


LIKE_THE_ONE_BEFORE = b"GET %b HTTP/1.1\r\nHost: x\r\nA: 1\r\n\r\n"


@pytest.mark.parametrize(
    "content",
    [
        LIKE_THE_ONE_BEFORE % b"/promises/b",
        LIKE_THE_ONE_BEFORE % b"/promises/a",
        LIKE_THE_ONE_BEFORE % b"/a?b=/c",
        LIKE_THE_ONE_BEFORE % b"/a?",
        LIKE_THE_ONE_BEFORE % b"a",
        LIKE_THE_ONE_BEFORE % b"/a b",
        LIKE_THE_ONE_BEFORE % b"/\xff",
        LIKE_THE_ONE_BEFORE % (b"/" + b"a" * 3_000),
        LIKE_THE_ONE_BEFORE % (b"/" + b"a" * 70_000),
        LIKE_THE_ONE_BEFORE % b"/a" + LIKE_THE_ONE_BEFORE % b"/b",
        (LIKE_THE_ONE_BEFORE % b"/a").replace(b"1.1", b"1.0"),
        (LIKE_THE_ONE_BEFORE % b"/a").replace(b"GET", b"DELETE"),
        (LIKE_THE_ONE_BEFORE % b"/a").replace(b"A: 1", b"A: 2"),
        (LIKE_THE_ONE_BEFORE % b"/a").replace(b"A: 1", b"Content-Length: 1"),
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n" + LIKE_THE_ONE_BEFORE % b"/",
        b"\r\nHost: x\r\nA: 1\r\n\r\n",
    ],
)
def test_what_looks_like_the_request_before_means_what_it_says(content: bytes) -> None:
    parser = new_parser()
    for place in (b"/1", b"/2", b"/3"):
        parsed = parser.parse(LIKE_THE_ONE_BEFORE % place)
        assert parsed is not None
        assert parsed.head.path == place
    assert_parses_as_a_new_one(parser, content)


@pytest.mark.parametrize(
    "fields",
    [
        b"Host: x\r\nConnection: close\r\n",
        b"Host: x\r\nContent-Length: 2\r\n",
        b"Host: x\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_what_ends_a_connection_or_has_a_body_never_looks_like_one_without(fields: bytes) -> None:
    parser = new_parser()
    for place in (b"/1", b"/2", b"/3"):
        content = b"GET " + place + b" HTTP/1.1\r\n" + fields + b"\r\n"
        assert parser.parse(content) == parse(content)


@pytest.mark.parametrize("method", [b"GET", b"PATCH", b"DELETE"])
def test_bodies_behind_heads_that_look_alike_are_each_their_own(method: bytes) -> None:
    head = method + b" /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
    parser = new_parser()
    for number in range(10, 16):
        content = head % number + b"%d\n" % number + head % 99
        for length in range(1, len(head) + 3):
            assert parser.parse(content[:length]) is None
        waited_for = parser.awaited_headers(content[: len(head)])
        assert waited_for is not None
        assert waited_for[b"content-length"] == b"3"
        assert parser.parse(content) == parse(content)


def test_a_gets_fields_are_read_and_looked_up_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = new_parser()
    for place in (b"/1", b"/2"):
        parser.parse(LIKE_THE_ONE_BEFORE % place)
    monkeypatch.setattr(Parser, "_read_head", None)
    assert parser.parse(LIKE_THE_ONE_BEFORE % b"/3") is not None


@pytest.mark.parametrize("method", [b"POST", b"GET"])
def test_the_heads_of_many_connections_are_read_once(
    method: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = KnownHeads()
    head = method + b" / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    first = Parser(1024, 1024, known).parse(head)
    monkeypatch.setattr(Parser, "_find_fields", None)
    if method == b"POST":  # such lines have no ids
        monkeypatch.setattr(Parser, "_read_head", None)

    assert first is not None
    assert Parser(1024, 1024, known).parse(head) == first


@pytest.mark.parametrize("name", [b"Idempotency-Key", b"request-id", b"TraceParent"])
def test_heads_that_differ_in_each_request_are_not_kept(name: bytes) -> None:
    known = KnownHeads()
    head = b"POST / HTTP/1.1\r\nHost: x\r\n%b: 1\r\n\r\n" % name
    assert Parser(1024, 1024, known).parse(head)
    assert not known.fields
    assert not known.heads


def test_what_many_connections_know_of_heads_is_little() -> None:
    known = KnownHeads()
    for number in range(2 * HEADS_KEPT_COUNT):
        fields = b"Host: x\r\nX: %d%s\r\n" % (number, b"y" * (20 * number))
        parsed = Parser(100_000, 100_000, known).parse(b"POST / HTTP/1.1\r\n" + fields + b"\r\n")
        assert parsed is not None
        assert parsed.head.fields.headers[b"x"].rstrip(b"y") == b"%d" % number
    for texts in (known.fields, known.heads):
        assert 0 < len(texts) <= HEADS_KEPT_COUNT
        assert max(map(len, texts)) <= _HEAD_KEPT_BYTES


@given(st.lists(st.sampled_from(CHANGED_FIELDS), min_size=2, max_size=6))
def test_fields_like_those_before_mean_what_they_say(heads: list[bytes]) -> None:
    """A parser that has seen others says of each head what a new parser says."""
    parser = Parser(100_000, 1_000)
    for head in heads:
        results = []
        for one in (parser, Parser(100_000, 1_000)):
            try:
                results.append(one.parse(head + b"x" * 1_000))
            except NotServed:
                results.append(None)
        assert results[0] == results[1]
