"""Properties of reading and writing: bad input is refused and nothing else, good input survives."""

# ruff: noqa: PT017 — whether an input is refused is up to the input.

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.model import PromiseState
from troth.http.api.router import Router
from troth.http.documents.table import API_ENDPOINTS
from troth.http.promises.answers import path_of
from troth.http.promises.schemas import CallbackBody, CreatePromiseBody, CreateScheduleBody
from troth.http.wire import decoding
from troth.http.wire.bodies import BodyDecoder
from troth.http.wire.cursors import Search, decode_cursor, encode_cursor
from troth.http.wire.errors import ApiError
from troth.http.wire.fields import RequestLimits, canonical_base64

LIMITS = RequestLimits()
ROUTER = Router(API_ENDPOINTS)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=10,
)
KEYS = st.sampled_from(["id", "timeout", "param", "tags", "recv", "data", "headers", "cron", "Id"])


@given(promise_id=TEXT)
def test_the_path_of_an_id_leads_back_to_it(promise_id: str) -> None:
    match = ROUTER.match("GET", f"/promises/{path_of(promise_id)}".encode())

    assert (match.endpoint.name, match.values) == ("readPromise", {"id": promise_id})


@given(task_id=TEXT, counter=st.integers(-(2**63), 2**63 - 1))
def test_the_link_of_a_task_leads_back_to_it(task_id: str, counter: int) -> None:
    match = ROUTER.match("GET", f"/tasks/claim/{path_of(task_id)}/{counter}".encode())

    assert match.endpoint.name == "claimTaskByLink"
    assert match.values == {"id": task_id, "counter": str(counter)}
    assert decoding.integer("path counter", match.values["counter"]) == counter


@given(raw_path=st.binary())
def test_any_path_is_matched_or_refused(raw_path: bytes) -> None:
    try:
        ROUTER.match("GET", b"/" + raw_path)
    except ApiError as error:
        assert error.code.status in (400, 404, 405)


@pytest.mark.slow
@pytest.mark.parametrize("body", [CreatePromiseBody, CallbackBody, CreateScheduleBody])
@given(
    content=st.binary()
    | JSON.map(json.dumps).map(str.encode)
    | st.dictionaries(KEYS, JSON).map(json.dumps).map(str.encode)
)
def test_any_body_is_decoded_or_refused(
    body: type[CreatePromiseBody | CallbackBody | CreateScheduleBody], content: bytes
) -> None:
    try:
        decoded = BodyDecoder(body, LIMITS).decode(content)
    except ApiError as error:
        assert error.code.status == 400
        assert error.problems
    else:
        assert decoded.id


@given(query=st.binary())
def test_any_query_is_read_or_refused(query: bytes) -> None:
    try:
        decoding.query_parameters(query)
    except ApiError as error:
        assert error.code.status == 400


@given(content=st.binary(), every=st.integers(1, 8))
def test_base64_with_line_breaks_is_kept_without_them(content: bytes, every: int) -> None:
    text = base64.b64encode(content).decode()
    broken = "\r\n".join(text[start : start + every] for start in range(0, len(text), every))

    assert canonical_base64(broken) == text


@given(
    pattern=TEXT,
    tags=st.dictionaries(TEXT, TEXT),
    limit_count=st.integers(1, 100),
    before_serial=st.integers(0, 2**63 - 1),
    states=st.lists(st.sampled_from(PromiseState)).map(tuple),
    place=st.integers(0, 10_000),
    letter=st.sampled_from("AZaz09-_.="),
)
def test_a_cursor_gives_its_search_back_and_any_other_is_refused(
    pattern: str,
    tags: dict[str, str],
    limit_count: int,
    before_serial: int,
    states: tuple[PromiseState, ...],
    place: int,
    letter: str,
) -> None:
    search = Search("promises", pattern, states, tags, limit_count, before_serial)
    cursor = encode_cursor(search, b"secret")
    place %= len(cursor)
    changed = cursor[:place] + letter + cursor[place + 1 :]

    assert decode_cursor(cursor, "promises", b"secret") == search
    with pytest.raises(ApiError):
        decode_cursor(cursor, "promises", b"another secret")
    if changed != cursor:
        with pytest.raises(ApiError):
            decode_cursor(changed, "promises", b"secret")


def test_a_task_id_may_be_as_long_as_the_head_of_a_request_that_a_setting_allows() -> None:
    """An id may be set to 64 KiB, and a resume task has two of them."""
    task_id = "x" * 130_000

    fence = decoding.fence_headers({b"task-id": task_id.encode(), b"task-counter": b"3"})

    assert fence is not None
    assert (fence.task_id, fence.counter) == (task_id, 3)
