"""Cursors from anybody: one that this server made is read as it was, everything else is a 400."""

import base64
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from troth.core.codes import Code
from troth.core.limits import PAGE_LIMIT_COUNT
from troth.core.model import PromiseState
from troth.http.wire.cursors import Search, decode_cursor, encode_cursor, sign_payload
from troth.http.wire.errors import ApiError

SECRET = bytes(range(32))
SEARCH = Search("promises", "a*", (PromiseState.PENDING,), {"x": "1"}, 10, 77)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
SEARCHES = st.builds(
    Search,
    kind=st.sampled_from(("promises", "schedules")),
    pattern=TEXT,
    states=st.lists(st.sampled_from(list(PromiseState)), unique=True).map(tuple),
    tags=st.dictionaries(TEXT, TEXT, max_size=3),
    limit_count=st.integers(1, PAGE_LIMIT_COUNT),
    before_serial=st.none() | st.integers(0, 2**63 - 1),
)
FROM_THE_REFERENCE_SERVER = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJOZXh0Ijp7ImlkIjoiKiIsInN0YXRlcyI6WyJQRU5ESU5HIl0sInRh"
    "Z3MiOnt9LCJsaW1pdCI6MTAsInNvcnRJZCI6MTAwfX0.XKusWO-Jl4v7QVIwh5Pn3oIElBvtpf0VPOLJkXPvQLk"
)


def refused(cursor: str, kind: str = "promises", secret: bytes = SECRET) -> bool:
    """Whether a cursor is refused as it should be."""
    with pytest.raises(ApiError) as caught:
        decode_cursor(cursor, kind, secret)
    return caught.value.code is Code.INVALID


@given(SEARCHES)
def test_a_cursor_is_read_as_it_was_made(search: Search) -> None:
    assert decode_cursor(encode_cursor(search, SECRET), search.kind, SECRET) == search


@given(SEARCHES, st.data())
def test_no_letter_of_a_cursor_may_change(search: Search, data: st.DataObject) -> None:
    cursor = encode_cursor(search, SECRET)
    place = data.draw(st.integers(0, len(cursor) - 1))
    letter = data.draw(st.sampled_from(string.printable).filter(lambda one: one != cursor[place]))

    assert refused(cursor[:place] + letter + cursor[place + 1 :], search.kind)
    assert refused(cursor[:place], search.kind)
    assert refused(cursor + letter, search.kind)


@given(st.text(max_size=100))
@example("")
@example(".")
@example("..")
@example("\ud800")
@example("e30.e30")
@example("=.=")
@example("A" * 70_000)
@example(FROM_THE_REFERENCE_SERVER)
def test_any_other_text_is_refused(cursor: str) -> None:
    assert refused(cursor)


@given(st.binary(max_size=60), st.binary(min_size=16, max_size=16))
def test_a_guessed_signature_is_refused(payload: bytes, signature: bytes) -> None:
    words = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (payload, signature))

    assert refused(".".join(words))


@pytest.mark.parametrize(
    "payload",
    [
        b'["promises","*",["PENDING"],{},10]',
        b'["promises","*",["PENDING"],{},0,null]',
        b'["promises","*",["PAUSED"],{},10,null]',
        b'["promises","\xff",["PENDING"],{},10,null]',
        b"{}",
    ],
)
def test_a_cursor_that_another_version_has_signed_is_refused(payload: bytes) -> None:
    assert refused(sign_payload(payload, SECRET))


def test_a_cursor_of_another_server_or_another_search_is_refused() -> None:
    cursor = encode_cursor(SEARCH, SECRET)

    assert refused(cursor, "schedules")
    assert refused(cursor, secret=b"another" * 4)
