"""Bodies: the quick way and the closer look take the same for good, and make the same of it."""

import base64
import copy
import json
import re
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import example as given_example
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from tests.helpers.seeds import seeds_count
from troth.http.documents.table import API_ENDPOINTS
from troth.http.promises.schemas import (
    AcquireLockBody,
    ClaimTaskBody,
    CompletePromiseBody,
    CreatePromiseAndTaskBody,
    CreatePromiseBody,
    CreateScheduleBody,
    HeartbeatBody,
    ImportBody,
    TaskBody,
    ValueBody,
)
from troth.http.wire.bodies import BodyDecoder
from troth.http.wire.errors import ApiError, FieldProblem
from troth.http.wire.fields import (
    BASE64_PATTERN,
    Integer,
    RequestLimits,
    canonical_base64,
    example,
    strict_body,
)

BODIES = sorted(
    {row.body for row in API_ENDPOINTS if row.body and strict_body(row.body, RequestLimits())},
    key=lambda body: body.__name__,
)
# Small, so that what is just too large is often met.
LIMITS = RequestLimits(
    id_limit_bytes=12,
    tags_limit_count=2,
    tag_limit_bytes=16,
    value_headers_limit_count=2,
    value_header_limit_bytes=16,
)
QUICK = {body: BodyDecoder(body, LIMITS) for body in BODIES}
CLOSE = {body: BodyDecoder(body, LIMITS, closely=True) for body in BODIES}

TEXTS = st.text(st.sampled_from('aZ0=/+ \n\r\t\0\x7f\x1f"\\é€😀\ud800'), max_size=14) | st.builds(
    lambda character, count: character * count, st.sampled_from("aé€😀"), st.integers(0, 18)
)
BASE64 = st.builds(
    lambda content, cut, end: base64.b64encode(content).decode()[cut:] + end,
    st.binary(max_size=6),
    st.sampled_from([0, 0, 0, 1, 2]),
    st.sampled_from(["", "", "", "=", "\n", "YR==", "-", "é"]),
)
NUMBERS = st.sampled_from(
    [0, 1, -1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**30, 5.0, 1e3, 0.5, 1e400]
)
WORDS = st.sampled_from(["RESOLVED", "resolved", "Rejected", "PENDING", "REJECTED_TIMEDOUT"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | BASE64 | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)

LIKE = {
    str: TEXTS | BASE64 | WORDS,
    int: NUMBERS,
    dict: st.dictionaries(TEXTS, TEXTS | st.none(), max_size=3),
}


@st.composite
def contents(draw: st.DrawFn, body: type[Struct]) -> bytes:
    """The bytes of a body that is good, or nearly."""
    shown = copy.deepcopy(example(body))
    for _ in range(draw(st.integers(0, 3))):
        _change(draw, shown)
    text = json.dumps(shown, ensure_ascii=draw(st.booleans()))
    content = text.encode(errors="surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(content)))
        content = content[:place] + draw(st.binary(max_size=2)) + content[place + 1 :]
    return content


def _change(draw: st.DrawFn, shown: dict[str, Any]) -> None:
    """Change one thing, somewhere inside."""
    key = draw(st.sampled_from([*shown, *shown, "Id", "more", "headers", "data"]))
    inner = shown.get(key)
    if isinstance(inner, list) and inner:
        inner = inner[0]
    if isinstance(inner, dict) and draw(st.booleans()):
        _change(draw, inner)
    elif draw(st.integers(0, 3)):
        shown[key] = draw(LIKE.get(type(inner), ANYTHING) | ANYTHING)
    else:
        shown.pop(key, None)


def outcome(decoder: BodyDecoder[Any], content: bytes) -> dict[str, Any] | tuple[FieldProblem, ...]:
    try:
        decoded = decoder.decode(content)
    except ApiError as error:
        return error.problems
    return {
        name: msgspec.to_builtins(getattr(decoded, name)) if name != "recv" else decoded.recv
        for name in decoded.__struct_fields__
    }


@pytest.mark.slow
@pytest.mark.seeds
@pytest.mark.parametrize("body", BODIES)
@given(data=st.data())
@settings(max_examples=seeds_count(100, 300))
def test_both_ways_come_to_the_same(body: type[Struct], data: st.DataObject) -> None:
    content = data.draw(contents(body))

    assert outcome(QUICK[body], content) == outcome(CLOSE[body], content)


@pytest.mark.parametrize("character", "aé€😀")
def test_both_ways_know_the_same_sizes(character: str) -> None:
    for count in range(20):
        text = character * count
        for shown in (
            {"id": text},
            {"id": "a", "tags": {text: ""}},
            {"id": "a", "tags": {"a": text}},
            {"id": "a", "tags": {text[:8]: text[8:]}},
            {"id": "a", "param": {"headers": {text[:8]: text[8:]}}},
        ):
            content = json.dumps(shown).encode()
            assert outcome(QUICK[CreatePromiseBody], content) == outcome(
                CLOSE[CreatePromiseBody], content
            )


@given(content=st.binary(max_size=30) | ANYTHING.map(lambda made: json.dumps(made).encode()))
@given_example(content=b"null")
@given_example(content=b"[" * 5000)
@given_example(content=b'{"id":"a","id":""}')
@given_example(content=b'{"id":"","id":"a"}')
@given_example(content=b'{"id":"a"} x')
@given_example(content=b'{"id":"a","x":"\xff"}')
def test_both_ways_come_to_the_same_for_anything(content: bytes) -> None:
    for body in (CreatePromiseBody, TaskBody):
        assert outcome(QUICK[body], content) == outcome(CLOSE[body], content)


@pytest.mark.parametrize(
    "body",
    [
        AcquireLockBody,
        ClaimTaskBody,
        CompletePromiseBody,
        CreatePromiseAndTaskBody,
        CreatePromiseBody,
        CreateScheduleBody,
        HeartbeatBody,
        ImportBody,
        TaskBody,
    ],
)
def test_the_bodies_of_busy_endpoints_are_decoded_quickly(body: type[Struct]) -> None:
    strict = strict_body(body, RequestLimits())

    assert strict is not None
    assert isinstance(msgspec.json.decode(json.dumps(example(body)), type=strict), body)


@dataclass(frozen=True, slots=True)
class Even(Integer):
    """Stricter than the marker it extends, which knows nothing of that."""

    def check(self, value: int | None, limits: RequestLimits) -> str | None:  # noqa: ARG002
        return "is odd" if (value or 0) % 2 else None


class EvenBody(Struct):
    number: Annotated[int | None, Even("Divisible by two.")] = None


def test_a_stricter_check_is_never_left_out() -> None:
    with pytest.raises(ApiError):
        BodyDecoder(EvenBody, RequestLimits()).decode(b'{"number": 3}')


@given(text=BASE64 | st.text(st.sampled_from("AQgw=\n"), max_size=9))
@given_example(text="abcd=")
def test_base64_is_what_the_documentation_says(text: str) -> None:
    try:
        canonical = canonical_base64(text)
    except ValueError:
        accepted = False
    else:
        accepted = True
        meant = base64.b64decode(text.replace("\n", ""), validate=True)
        assert canonical == base64.b64encode(meant).decode()

    assert accepted == (re.fullmatch(BASE64_PATTERN.removesuffix("$"), text) is not None)


@pytest.mark.parametrize("given", ["YR==", "Y\nQ==", "YQ==", "\r\nYQ=="])
def test_base64_leaves_in_one_spelling(given: str) -> None:
    content = json.dumps({"data": given}).encode()

    assert BodyDecoder(ValueBody, RequestLimits()).decode(content).data == "YQ=="


@pytest.mark.parametrize("body", [CreatePromiseBody, TaskBody])
def test_a_byte_order_mark_says_nothing(body: type[Struct]) -> None:
    plain = json.dumps(example(body)).encode()
    decoder = BodyDecoder(body, RequestLimits())

    assert outcome(decoder, b"\xef\xbb\xbf" + plain) == outcome(decoder, plain)
    with pytest.raises(ApiError):
        decoder.decode(b"\xef\xbb\xbf\xef\xbb\xbf" + plain)
    with pytest.raises(ApiError):
        decoder.decode(b"\xef\xbb\xbf")
