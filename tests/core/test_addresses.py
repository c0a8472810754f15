"""Routing tags and receivers (rest.md 6 and 7.1, decisions.md 1)."""

import re

import h11
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.grammar.addresses import (
    HEADER_COUNT_LIMIT,
    HEADER_VALUE_LENGTH_LIMIT,
    NAME_LENGTH_LIMIT,
    URL_LENGTH_LIMIT,
    Address,
    PollAddress,
    PushAddress,
    Undeliverable,
    resolve,
    route,
)
from troth.core.limits import RECEIVER_DEPTH_LIMIT_COUNT

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def reason(recv: object) -> str:
    """Resolve a receiver that must be undeliverable and return why it is."""
    answer = resolve(recv, {})
    assert isinstance(answer, Undeliverable), answer
    return answer.reason


# --- route ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tag_value",
    [
        "default",
        "poll://g/id",
        "http://h/x",
        "",
        "{",
        "nul",
        "[1",
        "true x",
        "NaN",
        "'x'",
        "-",
        "tea",
        "[" * 5000,
    ],
)
def test_text_that_is_not_json_is_the_receiver(tag_value: str) -> None:
    assert route(tag_value) == tag_value


@pytest.mark.parametrize(
    "tag_value",
    [
        "123",
        "-1.5e3",
        "null",
        " null ",
        "true",
        "false",
        '"default"',
        "[]",
        '["poll"]',
        "{}",
        '{"type":""}',
        '{"type":null,"data":{}}',
        '{"type":1,"data":{}}',
        '{"data":{}}',
        '{"type":"poll","data":{},"more":1}',
    ],
)
def test_other_json_routes_nowhere(tag_value: str) -> None:
    assert route(tag_value) is None


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_what_is_nested_too_deeply_for_the_log_routes_nowhere(opening: str, closing: str) -> None:
    deepest = RECEIVER_DEPTH_LIMIT_COUNT - 1  # inside the receiver's own object

    def routed(depth: int) -> object:
        return route('{"type":"poll","data":' + opening * depth + "1" + closing * depth + "}")

    assert isinstance(routed(deepest), dict)
    for depth in (deepest + 1, 500, 975, 1000, 1020):
        assert routed(depth) is None


@pytest.mark.parametrize(
    ("tag_value", "recv"),
    [
        ('{"type":"poll","data":{"group":"g"}}', {"type": "poll", "data": {"group": "g"}}),
        (' {"type":"x","data":[1]}\n', {"type": "x", "data": [1]}),
        ('{"Type":"poll","DATA":7}', {"type": "poll", "data": 7}),
        ('{"type":"http"}', {"type": "http", "data": None}),
        ('{"type":"http","data":null}', {"type": "http", "data": None}),
    ],
)
def test_a_json_object_with_a_type_is_the_receiver(tag_value: str, recv: object) -> None:
    assert route(tag_value) == recv


def test_a_receiver_without_data_is_undeliverable() -> None:
    assert "data of a http receiver must be an object, not null" in reason(route('{"type":"http"}'))
    assert "data of a poll receiver must be an object, not null" in reason(route('{"type":"poll"}'))


# --- logical names --------------------------------------------------------------------------------


def test_a_configured_target_comes_before_everything_else() -> None:
    push = PushAddress("http://h/", ())
    targets: dict[str, Address] = {"billing": push, "default": push, "poll://g": push}

    for name in targets:
        assert resolve(name, targets) == push
    assert resolve("poll://h", targets) == PollAddress("h", None, "any")


def test_default_is_a_poll_group_unless_configured() -> None:
    assert resolve("default", {}) == PollAddress("default", None, "any")


@pytest.mark.parametrize(
    "name", ["Default", "", "nobody", "ftp://h/x", "poll", "http", "g/id", "://"]
)
def test_other_names_are_undeliverable(name: str) -> None:
    assert "unknown receiver" in reason(name)


# --- poll -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recv", "address"),
    [
        ("poll://g", PollAddress("g", None, "any")),
        ("poll://g/", PollAddress("g", None, "any")),
        ("poll://g/id", PollAddress("g", "id", "any")),
        ("poll://any@g/id", PollAddress("g", "id", "any")),
        ("poll://any@g", PollAddress("g", None, "any")),
        ("poll://uni@g/id", PollAddress("g", "id", "uni")),
        ("poll://@g/id", PollAddress("g", "id", "any")),
        ("POLL://G/Id", PollAddress("G", "Id", "any")),
        ("poll://g:80/a/b", PollAddress("g:80", "a/b", "any")),
        ("poll://g//id", PollAddress("g", "/id", "any")),
        ("poll://g/a%2Fb%20c?q=1#f", PollAddress("g", "a/b c", "any")),
        ("poll://any@team%2Fg/id", PollAddress("team/g", "id", "any")),
        ("poll://g/a b", PollAddress("g", "a b", "any")),
        ("poll://gruppe-ä/ö", PollAddress("gruppe-ä", "ö", "any")),
        ({"type": "poll", "data": {"group": "g"}}, PollAddress("g", None, "any")),
        ({"type": "poll", "data": {"group": "g", "id": ""}}, PollAddress("g", None, "any")),
        (
            {"type": "poll", "data": {"group": "a b%", "id": "i", "cast": "uni", "more": 1}},
            PollAddress("a b%", "i", "uni"),
        ),
        (
            {"type": "poll", "data": {"group": "g", "id": "i", "cast": None}, "more": 1},
            PollAddress("g", "i", "any"),
        ),
    ],
)
def test_poll_receivers(recv: object, address: PollAddress) -> None:
    assert resolve(recv, {}) == address


@pytest.mark.parametrize(
    ("recv", "part"),
    [
        ("poll:g/id", "has no group"),
        ("poll:", "has no group"),
        ("poll://", "group"),
        ("poll:///id", "group"),
        ("poll://uni@g", "needs the id"),
        ("poll://all@g/id", "unknown cast 'all'"),
        ("poll://uni:pw@g/id", "unknown cast"),
        ("poll://a b/id", "cannot be the group"),
        ("poll://g:x/id", "cannot be the group"),
        ("poll://g/%zz", "percent sign"),
        ("poll://g/%ff", "not UTF-8"),
        ("poll://g/a\nb", "control character"),
        ("poll://g/\ud800", "not valid Unicode"),
        ("poll://" + "g" * (NAME_LENGTH_LIMIT + 1), "longer than"),
        ("poll://g/" + "i" * (NAME_LENGTH_LIMIT + 1), "longer than"),
        ({"type": "poll"}, "must be an object, not null"),
        ({"type": "poll", "data": "poll://g"}, "must be an object, not a string"),
        ({"type": "poll", "data": {}}, "must be a non-empty string, not None"),
        ({"type": "poll", "data": {"group": 1}}, "must be a non-empty string, not 1"),
        ({"type": "poll", "data": {"group": "g", "id": 1}}, "must be a string, not 1"),
        ({"type": "poll", "data": {"group": "g", "cast": "all"}}, "unknown cast 'all'"),
        ({"type": "poll", "data": {"group": "g", "cast": []}}, "unknown cast an array"),
        ({"type": "poll", "data": {"group": "g", "cast": "uni"}}, "needs the id"),
        ({"type": "poll", "data": {"group": "\udc00"}}, "not valid Unicode"),
    ],
)
def test_poll_receivers_that_cannot_be_reached(recv: object, part: str) -> None:
    assert part in reason(recv)


# --- push -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "normal", "target"),
    [
        ("http://h", "http://h/", "http://h:80"),
        ("HTTPS://H.Example/A?b#c", "https://h.example/A?b", "https://h.example:443"),
        ("http://h:8080/a b", "http://h:8080/a%20b", "http://h:8080"),
        ("http://h:/x", "http://h/x", "http://h:80"),
        ("http://h?x=1", "http://h/?x=1", "http://h:80"),
        ("http://h/?p=100%", "http://h/?p=100%25", "http://h:80"),
        ("http://h/.", "http://h/", "http://h:80"),
        ("http://h/a/./b/../c/.?x=../y", "http://h/a/c?x=../y", "http://h:80"),
        ("http://h/../a/..", "http://h/", "http://h:80"),
        ("http://h/a./..b/%2e", "http://h/a./..b/%2e", "http://h:80"),
        ("http://127.0.0.1:1/", "http://127.0.0.1:1/", "http://127.0.0.1:1"),
        ("http://[::0:1]:9/x", "http://[::1]:9/x", "http://[::1]:9"),
        ("http://[::1]", "http://[::1]/", "http://[::1]:80"),
        ("http://u:p@h/x@y", "http://u:p@h/x@y", "http://h:80"),
        ("http://bücher.example/ü", "http://xn--bcher-kva.example/%C3%BC", None),
        ("http://my_service:080/", "http://my_service:80/", "http://my_service:80"),
    ],
)
def test_push_urls(url: str, normal: str, target: str | None) -> None:
    address = resolve(url, {})

    assert address == PushAddress(normal, ())
    assert address == resolve({"type": "http", "data": {"url": url}}, {})
    assert isinstance(address, PushAddress)
    assert address.target == (target or "http://xn--bcher-kva.example:80")


@pytest.mark.parametrize(
    "url",
    [
        "http:",
        "http:h/x",
        "http:///x",
        "http://:80/",
        "http://h:99999/",
        "http://h:0/",
        "http://h:x/",
        "http://h:٣/",
        "http://a b/",
        "http://h\r\nX: y/",
        "http://h/\x00",
        "http://h/%",
        "http://h/\ud800",
        "http://-h/",
        "http://a..b/",
        "http://999.1.1.1/",
        "http://1.2.3/",
        "http://[::1/",
        "http://[::1]x/",
        "http://[fe80::1%25eth0]/",
        "http://[]/",
        "http://" + "a" * 64 + "/",
        "http://" + "a." * 130 + "/",
        "http://xn--\x80/",
        "http://h/" + "x" * URL_LENGTH_LIMIT,
        "http://h/" + "ü" * (URL_LENGTH_LIMIT // 2),
    ],
)
def test_push_urls_that_cannot_be_used(url: str) -> None:
    assert reason(url)
    assert reason({"type": "http", "data": {"url": url}})


def test_headers_are_kept_in_one_order_and_connection_headers_left_out() -> None:
    headers = {"X-B": " b ", "Authorization": "Bearer t", "Content-Length": "5", "host": "evil"}
    receiver = {"type": "http", "data": {"url": "http://h", "headers": headers}}

    assert resolve(receiver, {}, is_configured=True) == (
        PushAddress("http://h/", (("Authorization", "Bearer t"), ("X-B", "b")))
    )


def test_clients_set_few_headers() -> None:
    headers = {
        "Authorization": "Bearer t",
        "Cookie": "a=b",
        "Metadata-Flavor": "Google",
        "User-Agent": "me",
        "Proxy-Authorization": "x",
        "Traceparent": "00-1-2-01",
        "tracestate": "a=b",
        "X-Shop": "north",
        "Xtra": "no",
    }
    receiver = {"type": "http", "data": {"url": "http://h", "headers": headers}}
    kept = (("Traceparent", "00-1-2-01"), ("tracestate", "a=b"), ("X-Shop", "north"))

    assert resolve(receiver, {}) == PushAddress("http://h/", kept)
    named = {"hook": PushAddress("http://h/", (("Authorization", "Bearer t"),))}
    assert resolve("hook", named) == named["hook"]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        "x",
        {"": "x"},
        {"a b": "x"},
        {"a:": "x"},
        {"a\r\nb": "x"},
        {"a": "x\r\nevil: 1"},
        {"a": "\x00"},
        {"a": "ü"},
        {"ü": "a"},
        {"a": None},
        {"a": 1},
        {"a": "x" * (HEADER_VALUE_LENGTH_LIMIT + 1)},
        {str(number): "" for number in range(HEADER_COUNT_LIMIT + 1)},
        {str(number): "x" * 8000 for number in range(3)},
    ],
)
def test_headers_that_could_harm_are_refused(headers: object) -> None:
    assert reason({"type": "http", "data": {"url": "http://h", "headers": headers}})


# --- anything -------------------------------------------------------------------------------------


@pytest.mark.parametrize("recv", [None, True, 0, 1.5, [], ["default"], {}, {"type": "sqs"}])
def test_other_values_are_undeliverable(recv: object) -> None:
    assert reason(recv)


def test_addresses_are_hashable_and_targets_of_kinds_differ() -> None:
    poll = PollAddress("h:80", None, "any")
    push = PushAddress("http://h/", (("a", "b"),))

    assert len({poll, push, PollAddress("h:80", None, "any")}) == 2
    assert poll.target == "poll://h:80"
    assert push.target == "http://h:80"


def test_a_long_value_is_shortened_in_the_reason() -> None:
    assert len(reason("x" * 8000)) < 300
    assert len(reason({"type": "y" * 8000})) < 300


POLL_DATA = st.fixed_dictionaries(
    {}, optional={"group": JSON_VALUES, "id": JSON_VALUES, "cast": JSON_VALUES}
)
HTTP_DATA = st.fixed_dictionaries(
    {},
    optional={
        "url": JSON_VALUES | st.text().map("http://h/".__add__) | st.text().map("http://".__add__),
        "headers": JSON_VALUES | st.dictionaries(st.text(max_size=5), st.text(), max_size=3),
    },
)
RECEIVERS = (
    JSON_VALUES
    | st.fixed_dictionaries({"type": st.just("poll"), "data": POLL_DATA | JSON_VALUES})
    | st.fixed_dictionaries({"type": st.just("http"), "data": HTTP_DATA | JSON_VALUES})
    | st.text().map("poll://".__add__)
    | st.text(alphabet="a.:/@[]%?#-0919xn é").map("http://".__add__)
)


def can_be_sent_to(recv: object) -> bool:
    """Whether a receiver has an address, which senders must accept; if not, there is a reason."""
    address = resolve(recv, {})

    if isinstance(address, Undeliverable):
        assert address.reason.isprintable()
        return False
    if isinstance(address, PollAddress):
        assert address.group
        assert address.cast in ("uni", "any")
    else:
        url = httpx.URL(address.url)
        assert url.raw_host  # `host` refuses names such as xn--n3h, which are in use
        # The client leaves out a port that goes without saying.
        assert str(url) == re.sub(
            r"^(http://[^/]*):80/|^(https://[^/]*):443/", r"\1\2/", address.url
        )
        request = httpx.Request("POST", address.url, headers=list(address.headers), json={})
        h11.Connection(h11.CLIENT).send(
            h11.Request(method="POST", target=url.raw_path, headers=request.headers.raw)
        )
    return True


@given(RECEIVERS)
def test_any_receiver_gives_an_address_that_senders_accept_or_a_reason(recv: object) -> None:
    can_be_sent_to(recv)


@given(st.text())
def test_route_takes_any_text(tag_value: str) -> None:
    recv = route(tag_value)
    assert recv == tag_value or recv is None or isinstance(recv, dict)
