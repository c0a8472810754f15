"""Ids and times of the function-task API."""

import pytest

from troth.http.functions.values import is_id, new_id, rfc3339, unix_seconds


def test_an_id_begins_with_the_time_and_goes_on_at_random() -> None:
    assert new_id(1_678_087_212_999, lambda count: b"\xab" * count) == "6405942c" + "ab" * 8
    assert new_id(0) != new_id(0)
    assert new_id(1_000) < new_id(2_000)
    assert is_id(new_id(2**40 * 1000))


@pytest.mark.parametrize(
    "text", ["", "6405942c", "6405942C" + "ab" * 8, "g" * 24, "a" * 25, "a" * 24 + "\n", "٠" * 24]
)
def test_what_is_no_id(text: str) -> None:
    assert not is_id(text)


def test_times_as_text() -> None:
    assert unix_seconds(1_678_087_212_999) == "1678087212"
    assert unix_seconds(None) == ""
    assert rfc3339(1_710_892_731_000) == "2024-03-19T23:58:51Z"
    assert rfc3339(1_710_892_731_999) == "2024-03-19T23:58:51Z"
    assert rfc3339(0) == "1970-01-01T00:00:00Z"
